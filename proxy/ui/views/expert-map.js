// Where the experts of each layer are: one cell a layer. Those that move are seen to.

import { html } from "../vendor/htm-preact.js";
import { cells, colours } from "../js/bars.js";
import { count, ranges } from "../js/format.js";

export function ExpertMap({ backend, devices }) {
  const found = cells(backend);
  const places = colours(devices);
  const colour = (place) => places.get(place) ?? 5;
  if (!found.some((cell) => cell.place !== null))
    return html`<p class="quiet">This model has no experts that could move.</p>`;
  const moving = found.filter((cell) => cell.to !== null);
  return html`<figure class="map">
    <div class="cells" role="img" aria-label=${described(found)}>
      ${found.map(
        (cell) => html`<span key=${cell.index} title=${titled(cell)}
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

const described = (found) =>
  `Where the experts are: ${[...grouped(found)]
    .map(([place, layers]) => `layers ${ranges(layers)} on ${place}`)
    .join("; ")}`;

function titled(cell) {
  if (cell.place === null) return `layer ${cell.index}: no experts`;
  const moves = cell.to === null ? "" : `, moving to ${cell.to}`;
  return `layer ${cell.index}: experts on ${cell.place}${moves}`;
}
