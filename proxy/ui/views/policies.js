// The policy files in an editor that says, while you type, what is wrong and what would come of it.

import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { clock, count } from "../js/format.js";
import { ask, getJson, path, Refused, wordsOf } from "../js/http.js";
import { attempt, say } from "../js/notices.js";

const PAUSE_MS = 300;
const FATES = {
  moves: "its experts move",
  restarts: "is loaded anew beside the old one",
  stays: "stays as it is",
};

/** What saving would do, in lines of words. Pure. */
export function consequences(effects) {
  if (!effects) return [];
  if (!effects.changes) return ["Nothing changes."];
  const found = effects.backends.map(({ model, fate, keys }) => {
    const live = fate === "stays" && keys.length ? "goes on, and takes this over" : FATES[fate];
    return `${model}: ${live}${keys.length ? ` (${keys.join(", ")})` : ""}`;
  });
  const more = [
    [effects.models, (names) => `for the next load of ${names}`],
    [effects.defaults, (names) => `defaults of all models: ${names}`],
    [effects.keys, (names) => `changed: ${names}`],
    [effects.next_start, (names) => `waits for the next start of the proxy: ${names}`],
    [effects.nodes ?? [], (names) => `changed for other nodes: ${names}`],
  ];
  for (const [names, words] of more) if (names.length) found.push(words(names.join(", ")));
  return found;
}

export function Policies({ known }) {
  const { files, generation, problems, waiting_for_restart: waiting } = known.proxy.policies;
  // Somebody may have saved what is refused: that is no new generation.
  const version = JSON.stringify([generation, problems]);
  const [chosen, setFile] = useState("");
  const file = files.includes(chosen) ? chosen : (files[0] ?? "");
  const opened = useRef(new Set()); // what is not saved in one stays there
  opened.current.add(file);
  return html`<section class="policies" aria-labelledby="policies">
    <h2 id="policies">Policies <small>generation ${generation}</small></h2>
    ${waiting.length > 0 &&
    html`<p class="warning">These keys wait for the next start of the proxy: ${waiting.join(", ")}</p>`}
    ${files.length === 0 &&
    html`<p class="quiet">There is no policy file in use: the proxy runs with its defaults. Write one into
      <code>~/.config/moe-proxy</code> or <code>policies/</code> and it is here.</p>`}
    ${files.length > 1 &&
    html`<div class="line"><label for="file">File</label>
      <select id="file" value=${file} onChange=${(event) => setFile(event.target.value)}>
        ${files.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}
      </select></div>`}
    ${files.filter((name) => name === file || opened.current.has(name)).map(
      (name) => html`<div key=${name} hidden=${name !== file}>
        <${Editor} file=${name} version=${version} shown=${name === file} /></div>`,
    )}
  </section>`;
}

function Editor({ file, version, shown }) {
  const [saved, setSaved] = useState(null); // as the file says
  const [theirs, setTheirs] = useState(false); // it was saved elsewhere, while you wrote
  const [text, setText] = useState("");
  const [checked, setChecked] = useState(null); // { text, problems, notes, effects }
  const [why, setWhy] = useState("");
  const [saving, setSaving] = useState(false);
  const tag = useRef(null); // of the text that you have seen last
  const area = useRef(null);
  const gutter = useRef(null);
  const changed = saved !== null && text !== saved;
  const at = path("admin", "policies", nameOf(file));

  const load = () =>
    ask("GET", at).then(
      async (answer) => {
        const now = await answer.text();
        tag.current = answer.headers.get("ETag");
        setWhy("");
        if (changed && !saving && now !== saved && now !== text) setTheirs(true);
        setText((mine) => (saved === null || mine === saved ? now : mine));
        setSaved(now);
      },
      (error) => setWhy(wordsOf(error)),
    );
  useEffect(() => void load(), [version]);
  useEffect(() => {
    if (!changed) return undefined;
    const warn = (event) => event.preventDefault();
    addEventListener("beforeunload", warn);
    return () => removeEventListener("beforeunload", warn);
  }, [changed]);
  useEffect(() => {
    if (saved === null) return undefined;
    const end = new AbortController();
    const timer = setTimeout(
      () =>
        ask("POST", `${at}/check`, { text, signal: end.signal })
          .then((answer) => answer.json())
          .then((found) => (setWhy(""), setChecked({ text, ...found })))
          .catch((error) => end.signal.aborted || setWhy(wordsOf(error))),
      PAUSE_MS,
    );
    return () => {
      clearTimeout(timer);
      end.abort();
    };
  }, [text, saved, version]);

  const save = async () => {
    setSaving(true);
    try {
      const answer = await ask("PUT", at, { text, tag: tag.current });
      tag.current = answer.headers.get("ETag");
      setSaved(text);
      setTheirs(false);
      say("Saved. It takes effect at once.");
    } catch (error) {
      if (error instanceof Refused && error.body?.problems)
        setChecked({ text, problems: error.body.problems, notes: [], effects: null });
      else say(wordsOf(error), true);
      if (error.status === 412) await load();
    }
    setSaving(false);
  };
  const go = (line) => {
    const lines = text.split("\n");
    const start = lines.slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0);
    area.current.focus();
    area.current.setSelectionRange(start, start + (lines[line - 1]?.length ?? 0));
  };
  const current = checked?.text === text;
  const problems = checked?.problems ?? [];
  const bad = new Set(problems.filter((p) => sameFile(p.file, file)).map((p) => p.line));
  if (why && saved === null) return html`<p class="bad" role="alert">${why}</p>`;
  return html`<div class="editor">
      <div class="gutter" aria-hidden="true" ref=${gutter}><ol>${text.split("\n").map(
        (_, at) => html`<li key=${at} class=${bad.has(at + 1) ? "at" : ""}>${at + 1}</li>`,
      )}</ol></div>
      <textarea ref=${area} aria-label=${`Text of ${file}`} aria-describedby="problems" spellcheck="false" wrap="off"
        autocapitalize="off" autocomplete="off" aria-invalid=${problems.length ? "true" : null} value=${text}
        disabled=${saved === null /* what is written before the file is here would be lost with its coming */}
        onInput=${(event) => setText(event.target.value)}
        onScroll=${(event) => (gutter.current.scrollTop = event.target.scrollTop)}></textarea>
    </div>
    <div id=${shown ? "problems" : null} class="outcome" aria-live="polite">
      ${why && html`<p class="bad">It could not be checked: ${why}</p>`}
      ${theirs && changed && html`<p class="warning">This file was saved by somebody else meanwhile. What you
        wrote is still here; saving it replaces theirs, "Undo all" shows theirs.</p>`}
      ${problems.map((problem) => html`<p class="bad">
        ${problem.line && sameFile(problem.file, file)
          ? html`<button class="plain" onClick=${() => go(problem.line)}>Line ${problem.line}</button>`
          : problem.file}${" "}
        ${problem.key && html`<code>${problem.key}</code>`} ${problem.message}</p>`)}
      ${(checked?.notes ?? []).map((note) => html`<p class="warning">${note}</p>`)}
      ${changed && problems.length === 0 && checked &&
      html`<h3>Saving does this</h3><ul>${consequences(checked.effects).map((line) => html`<li>${line}</li>`)}</ul>`}
    </div>
    <div class="line">
      <button class="main" disabled=${!changed || !current || problems.length > 0 || saving} onClick=${save}>Save</button>
      <button disabled=${!changed} onClick=${() => (setTheirs(false), setText(saved))}>Undo all</button>
      <${Versions} at=${at} version=${version} shown=${shown} take=${setText} />
      <span class="quiet" role="status">${problems.length
        ? `${count(problems.length, "mistake")}: the file stays as it is`
        : changed ? "not saved" : ""}</span>
    </div>`;
}

// Files in use have different names: all are of one folder.
const nameOf = (file) => file.split("/").at(-1);
const sameFile = (one, other) => nameOf(one) === nameOf(other);

function Versions({ at, version, shown, take }) {
  const [versions, setVersions] = useState([]);
  useEffect(() => {
    getJson(`${at}/versions`).then((answer) => setVersions(answer.versions), () => {});
  }, [at, version]);
  if (versions.length === 0) return null;
  const choose = async (event) => {
    const id = event.target.value;
    event.target.value = "";
    if (id) await attempt(async () => take(await (await ask("GET", `${at}/versions/${id}`)).text()));
  };
  const name = shown ? "versions" : null;
  return html`<label for=${name}>Go back to</label>
    <select id=${name} onChange=${choose}>
      <option value="">as it was until …</option>
      ${versions.map((v) => html`<option key=${v.id} value=${v.id}>${clock(v.at, Date.now())}</option>`)}
    </select>`;
}
