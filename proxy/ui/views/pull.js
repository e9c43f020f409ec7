// Pulling a model, with progress; leaving the page or "Stop" ends it, and it goes on where it was.

import { html, useRef, useState } from "../vendor/htm-preact.js";
import { size } from "../js/format.js";
import { ask, wordsOf } from "../js/http.js";
import { nodes, several } from "../js/nodes.js";
import { say } from "../js/notices.js";
import { texts } from "../js/sse.js";
import { ChooseNode } from "./choose-node.js";

/** The sums of all parts so far. Pure. */
export function progress(parts, line) {
  if (!line.digest) return parts;
  return { ...parts, [line.digest]: { total: line.total ?? 0, completed: line.completed ?? 0 } };
}

export function Pull({ known }) {
  const [name, setName] = useState("");
  const [node, setNode] = useState(""); // empty: where there is most room
  const [pull, setPull] = useState(null); // { name, status, parts }
  const stop = useRef(null);
  const start = async (event) => {
    event.preventDefault();
    const wanted = name.trim();
    if (!wanted || pull) return;
    stop.current = new AbortController();
    setPull({ name: wanted, status: "asking for it", parts: {} });
    try {
      const { signal } = stop.current;
      const answer = await ask("POST", "/api/pull", { json: { model: wanted }, signal, node });
      let rest = "";
      for await (const text of texts(answer)) {
        const lines = (rest + text).split("\n");
        rest = lines.pop();
        for (const line of lines.map((one) => JSON.parse(one))) {
          if (line.error) throw new Error(line.error);
          setPull((now) => ({ ...now, status: line.status, parts: progress(now.parts, line) }));
        }
      }
      say(`${wanted} is here.`);
      setName("");
    } catch (error) {
      say(error.name === "AbortError" ? `${wanted}: stopped; it goes on where it was.` : wordsOf(error), error.name !== "AbortError");
    }
    setPull(null);
  };
  return html`<form class="pull" onSubmit=${start}>
    <label for="pull">Pull a model</label>
    <input id="pull" placeholder="qwen3:30b, or hf.co/ORG/REPO:Q4_K_M" spellcheck="false" autocomplete="off"
      autocapitalize="off" value=${name} onInput=${(event) => setName(event.target.value)} />
    ${several(known) &&
    html`<${ChooseNode} label="Where to pull it to" best="where there is most room" node=${node} set=${setNode}
      names=${nodes(known).filter((one) => one.state !== "silent").map((one) => one.name)} />`}
    <button type="submit" disabled=${!!pull}>Pull</button>
    ${pull && html`<${Bar} pull=${pull} stop=${() => stop.current.abort()} />`}
  </form>`;
}

function Bar({ pull, stop }) {
  const parts = Object.values(pull.parts);
  const total = parts.reduce((sum, part) => sum + part.total, 0);
  const completed = parts.reduce((sum, part) => sum + part.completed, 0);
  return html`<div class="pulling">
    <span role="status">${pull.name}: ${pull.status}</span>
    <progress max=${total || 1} value=${total ? completed : null} aria-label=${`Pulling ${pull.name}`}></progress>
    <span class="number">${total ? `${size(completed)} of ${size(total)}` : ""}</span>
    <button type="button" onClick=${stop}>Stop</button>
  </div>`;
}
