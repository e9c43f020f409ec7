// How many layers' experts are on the CPU: set while answers stream, with what other splits give.

import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { neighbours } from "../js/bars.js";
import { rate, size } from "../js/format.js";
import { ask, getJson, path } from "../js/http.js";
import { attempt } from "../js/notices.js";
import { movable } from "../js/words.js";

const REFRESH_MS = 5_000;
const SOON_MS = 300;

export function SplitSlider({ backend }) {
  const { id, moe_cpu_layers: current, asked, block_count: most } = backend;
  const table = useTable(id, current);
  const [chosen, setChosen] = useState(null); // while you hold it
  const pending = useRef(0);
  const resting = useRef(0);
  if (!(backend.layers ?? []).length || current == null) return null;
  const what = movable(backend);
  if (!backend.live_moves)
    return html`<p class="quiet">Its ${what} cannot move live: ${backend.why_no_moves}.</p>`;
  const set = async (value) => {
    clearTimeout(resting.current);
    const mine = ++pending.current;
    const json = { moe_cpu_layers: value };
    await attempt(() => ask("PUT", path("admin", "backends", id, "split"), { json }));
    if (mine === pending.current) setChosen(null);
  };
  // Keys change it step by step: only where they come to rest is asked for, and what is asked for
  // last gets there last.
  const later = (value) => {
    setChosen(value);
    clearTimeout(resting.current);
    resting.current = setTimeout(() => set(value), SOON_MS);
  };
  const auto = asked === "auto";
  const least = Math.min(table?.least ?? 0, current);
  const shown = chosen ?? current;
  const row = table?.splits[shown];
  return html`<div class="split">
    <div class="slide">
      <label for=${`split-${id}`}>${what.replace(/^./, (first) => first.toUpperCase())} on the CPU</label>
      <output for=${`split-${id}`}><b>${shown}</b> of ${most} layers</output>
      <button class="auto" aria-pressed=${String(auto)} onClick=${() => set(auto ? current : "auto")}
        title=${`As many ${what} on devices as fit; memory is given and taken back by itself`}>Auto</button>
    </div>
    <input id=${`split-${id}`} type="range" min=${least} max=${most} step="1" value=${shown}
      aria-valuetext=${`${shown} of ${most} layers on the CPU`}
      onInput=${(event) => setChosen(Number(event.target.value))}
      onChange=${(event) => later(Number(event.target.value))} />
    <div class="ends">
      <span>${least > 0 ? `${least}: less does not fit` : "0: all on devices"}</span>
      <span class="told">${row ? told(row, what) : ""}</span>
      <span>${most}: all on the CPU</span>
    </div>
    <${Neighbours} table=${table} current=${current} set=${set} auto=${auto} what=${what} model=${backend.model} />
  </div>`;
}

/** What other splits give, asked anew when the split is another one, and now and then. */
function useTable(id, current) {
  const [table, setTable] = useState(null);
  useEffect(() => {
    const end = new AbortController();
    const load = () =>
      document.hidden ||
      getJson(path("admin", "backends", id, "splits"), { signal: end.signal }).then(setTable, () => {});
    // While experts move, each layer is another number: it is asked for once that rests.
    const first = setTimeout(load, SOON_MS);
    const timer = setInterval(load, REFRESH_MS);
    return () => {
      clearTimeout(first);
      clearInterval(timer);
      end.abort();
    };
  }, [id, current]);
  return table;
}

const SOURCES = {
  bench: "measured by bench",
  traffic: "measured in use",
  estimate: "estimate",
  bound: "at most; estimate",
};

function told(row, what) {
  const speed = row.tokens_per_second;
  const speeds = speed == null ? "" : `, ${rate(speed)} tokens/s (${SOURCES[row.source]})`;
  return `${size(row.device_experts_bytes)} of ${what} on devices${speeds}`;
}

function Neighbours({ table, current, set, auto, what, model }) {
  const rows = neighbours(table, current);
  if (rows.length < 2) return null;
  return html`<details class="neighbours">
    <summary>What other splits give</summary>
    <div class="scroll" role="group" aria-label="Other splits" tabindex="0"><table>
      <thead><tr><th scope="col">on the CPU</th><th scope="col">${what} on devices</th>
        <th scope="col">tokens/s</th><th scope="col"><span class="hidden">choose</span></th></tr></thead>
      <tbody>${rows.map(
        (row) => html`<tr key=${row.moe_cpu_layers} aria-current=${row.moe_cpu_layers === current ? "true" : null}>
          <th scope="row">${row.moe_cpu_layers}${row.moe_cpu_layers === table.auto ? html` <small>auto</small>` : ""}</th>
          <td>${size(row.device_experts_bytes)}</td>
          <td>${row.tokens_per_second == null ? "not known" : rate(row.tokens_per_second)}
            <small> ${SOURCES[row.source] ?? ""}</small></td>
          <td>${row.moe_cpu_layers === current
            ? html`<small>now${auto ? ", by auto" : ""}</small>`
            : html`<button aria-label=${`Use ${row.moe_cpu_layers} layers on the CPU`}
                onClick=${() => set(row.moe_cpu_layers)}>Use</button>`}</td>
        </tr>`,
      )}</tbody>
    </table></div>
    ${rows.some((row) => ["estimate", "bound"].includes(row.source)) &&
    html`<p class="quiet">Estimates are ${table.estimate.why}.</p>`}
    ${table.estimate.basis !== "line" &&
    html`<p class="quiet">${table.estimate.basis ? "" : `No estimate: ${table.estimate.why}. `}To measure, use a split
      for a while, or run${" "}<code>moe-proxy bench ${model}</code>.</p>`}
  </details>`;
}
