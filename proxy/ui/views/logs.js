// What the workers say, as it comes.

import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { ask, path, wordsOf } from "../js/http.js";
import { texts } from "../js/sse.js";
import { stay } from "../js/stay.js";

const KEPT = 1000;
const NONE = { lines: [], rest: "" };

/** Lines with more text behind them: whole lines, and the beginning of the next one. Pure. */
export function grown({ lines, rest }, text) {
  const parts = (rest + text).split("\n");
  const next = parts.pop();
  return { lines: [...lines, ...parts].slice(-KEPT), rest: next };
}

export function Logs({ view }) {
  const backends = Object.values(view.known.backends);
  const [model, setModel] = useState("");
  // What one said that is gone is kept.
  const names = [...new Set([...backends.map((b) => b.model), ...(model ? [model] : [])])];
  const [wanted, setWanted] = useState("");
  const [follow, setFollow] = useState(true);
  const [why, setWhy] = useState("");
  const { lines } = useLines(model, view.turn, setWhy);
  const box = useRef(null);
  useEffect(() => {
    if (follow && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [lines, follow]);
  const shown = wanted ? lines.filter((line) => line.toLowerCase().includes(wanted.toLowerCase())) : lines;
  return html`<section class="logs" aria-labelledby="logs">
    <h2 id="logs">Logs of the workers</h2>
    <div class="line">
      <label for="log-model">Of</label>
      <select id="log-model" value=${model} onChange=${(event) => setModel(event.target.value)}>
        <option value="">all models</option>
        ${names.map((name) => html`<option key=${name} value=${name}>
          ${name}${named(backends.filter((b) => b.model === name))}</option>`)}
      </select>
      <label for="log-text">with</label>
      <input id="log-text" type="search" placeholder="any text" value=${wanted} onInput=${(event) => setWanted(event.target.value)} />
      <label><input type="checkbox" checked=${follow} onChange=${(event) => setFollow(event.target.checked)} /> newest in view</label>
    </div>
    ${why && html`<p class="bad" role="alert">${why}</p>`}
    <pre class="lines" ref=${box} tabindex="0" role="log" aria-live="off" aria-label="Lines">${shown.join("\n") || "Nothing was said yet."}</pre>
  </section>`;
}

const named = (backends) => (backends.length ? ` (${backends.map((b) => b.id).join(", ")})` : "");

/** The lines of one model, or of all, while this is seen. Each connection begins with what is kept; a
 * dead one is noticed where the stream of events is, whose next `turn` begins this one anew too. */
function useLines(model, turn, setWhy) {
  const [kept, setKept] = useState(NONE);
  useEffect(() => setKept(NONE), [model]);
  useEffect(() => {
    const end = new AbortController();
    const open = async (stop, well) => {
      const from = model ? path("logs", "stream", model) : "/logs/stream";
      const answer = await ask("GET", from, { signal: stop.signal });
      let found = NONE;
      setKept(found);
      setWhy("");
      for await (const text of texts(answer)) {
        well();
        found = grown(found, text);
        setKept(found);
      }
    };
    stay(open, end.signal, (error) => {
      const why = error ? wordsOf(error) : "The stream ended.";
      setWhy(`${why} It is tried again; what you see is from before.`);
    });
    return () => end.abort();
  }, [model, turn]);
  return kept;
}
