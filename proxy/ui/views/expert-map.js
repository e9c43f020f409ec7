// Where the experts of each layer are: one cell a layer. Those that move are seen to.

import { html } from "../vendor/htm-preact.js";
import { cells, colours } from "../js/bars.js";
import { count, ranges } from "../js/format.js";
import { movable } from "../js/words.js";

export function ExpertMap({ backend, devices }) {
  const found = cells(backend);
  const places = colours(devices);
  const colour = (place) => places.get(place) ?? 5;
  if (backend.engine !== "hosted")
    return html`<p class="quiet">Where its experts are, its own program decides.</p>`;
  if (!found.some((cell) => cell.place !== null))
    return html`<p class="quiet">This model has no experts that could move, and its policy has no${" "}
      <code>dense_cpu_layers</code>.</p>`;
  const what = movable(backend);
  const moving = found.filter((cell) => cell.to !== null);
  return html`<figure class="map">
    <div class="cells" role="img" aria-label=${described(found, what)}>
      ${found.map(
        (cell) => html`<span key=${cell.index} title=${titled(cell, what)}
          class="cell ${cell.place === null ? "none" : `c${colour(cell.place)}`}
            ${cell.to === null ? "" : `moving to${colour(cell.to)}`}"
          data-layer=${cell.index} data-place=${cell.place}>${cell.index}</span>`,
      )}
    </div>
    <figcaption>
      ${[...grouped(found)].map(
        ([place, layers]) => html`<span key=${place}><i class="c${colour(place)}"></i>
          ${place} <b>${count(layers.length, "layer")}</b></span>`,
      )}
      <span class="status" role="status">${moving.length > 0 ? `${count(moving.length, "layer")} moving` : ""}</span>
    </figcaption>
  </figure>`;
}

function grouped(found) {
  const groups = new Map();
  for (const { place, index } of found)
    if (place !== null) groups.set(place, [...(groups.get(place) ?? []), index]);
  return groups;
}

const described = (found, what) =>
  `Where the ${what} are: ${[...grouped(found)]
    .map(([place, layers]) => `layers ${ranges(layers)} on ${place}`)
    .join("; ")}`;

function titled(cell, what) {
  if (cell.place === null) return `layer ${cell.index}: no ${what}`;
  const moves = cell.to === null ? "" : `, moving to ${cell.to}`;
  return `layer ${cell.index}: ${what} on ${cell.place}${moves}`;
}
