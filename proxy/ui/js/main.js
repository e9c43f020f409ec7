// The page as a whole: who sees what, and which part of it.

import { html, render, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { key } from "./http.js";
import { Live } from "./live.js";
import { nodes, several, trouble } from "./nodes.js";
import { Notices } from "./notices.js";
import { Chat } from "../views/chat.js";
import { Devices } from "../views/devices.js";
import { Login } from "../views/login.js";
import { Logs } from "../views/logs.js";
import { Models } from "../views/models.js";
import { Moves } from "../views/moves.js";
import { Policies } from "../views/policies.js";
import { Requests } from "../views/requests.js";

const live = new Live();
const PARTS = { "": "Overview", logs: "Logs", policies: "Policies" };
const partOf = () => (location.hash.slice(1) in PARTS ? location.hash.slice(1) : "");

function App() {
  const [view, setView] = useState(live.view);
  const [part, setPart] = useState(partOf());
  const [now, setNow] = useState(Date.now());
  const visited = useRef(new Set()); // what was seen goes on: a chat, a pull, a text that is not saved
  useEffect(() => live.subscribe(setView), []);
  useEffect(() => {
    const turn = () => setPart(partOf());
    const tick = setInterval(() => document.hidden || setNow(Date.now()), 1000);
    addEventListener("hashchange", turn);
    return () => {
      clearInterval(tick);
      removeEventListener("hashchange", turn);
    };
  }, []);
  if (view.phase === "login") return html`<${Login} live=${live} why=${view.why} />`;
  const { known } = view;
  visited.current.add(part);
  return html`
    <${Head} view=${view} part=${part} />
    <${Warnings} view=${view} />
    <main id="main" tabindex="-1">
      <h1 class="hidden">${PARTS[part]}</h1>
      ${known.proxy === null
        ? html`<p class="first">${view.phase === "lost" ? "" : "One moment …"}</p>`
        : html`${visited.current.has("") &&
            html`<div class="overview" hidden=${part !== ""}>
              <${Devices} known=${known} now=${now} />
              <${Models} view=${view} now=${now} />
              <div class="beside">
                <${Chat} view=${view} />
                <${Requests} known=${known} now=${now} />
                <${Moves} known=${known} now=${now} />
              </div>
            </div>`}
            ${part === "logs" && html`<${Logs} view=${view} />`}
            ${visited.current.has("policies") &&
            html`<div hidden=${part !== "policies"}><${Policies} known=${known} /></div>`}`}
    </main>
    <${Notices} />
  `;
}

function Head({ view, part }) {
  const words = { live: "live", lost: "not connected", connecting: "connecting" };
  return html`<header>
    <a class="skip" href="#main" onClick=${skip}>Skip to the content</a>
    <a class="name" href="#">moe-proxy</a>
    <nav aria-label="Parts of the page">
      ${Object.entries(PARTS).map(
        ([name, title]) =>
          html`<a href=${`#${name}`} aria-current=${part === name ? "page" : null}>${title}</a>`,
      )}
    </nav>
    <span class="phase ${view.phase}" role="status">${words[view.phase]}</span>
    <span class="version">${view.known.proxy?.version}</span>
    ${key.get() && html`<button class="plain" onClick=${() => live.logout()}>Log out</button>`}
  </header>`;
}

function skip(event) {
  event.preventDefault(); // the part after # is which page this is
  document.getElementById("main").focus();
}

function Warnings({ view }) {
  const { proxy, memory } = view.known;
  const many = several(view.known);
  const on = (one) => (many ? one.node : "");
  const found = [];
  if (view.phase === "lost")
    found.push(`Not connected: ${view.why} It is tried again; what you see is from before.`);
  if (proxy?.draining) found.push("The proxy is ending: it takes no more requests.");
  const problems = proxy?.policies.problems ?? [];
  if (problems.length) {
    const [{ file, line, key: name, message }] = problems;
    const place = [file, line].filter(Boolean).join(":");
    const more = problems.length > 1 ? ` (and ${problems.length - 1} more)` : "";
    const what = [on(problems[0]), place, name, message].filter(Boolean).join(": ");
    found.push(html`${what}${more}. The old policies stay. <a href="#policies">Mend it</a>`);
  }
  for (const each of proxy?.degraded ?? [])
    found.push([on(each), each.loop, each.error].filter(Boolean).join(": "));
  found.push(...nodes(view.known).map(trouble).filter(Boolean));
  if (memory.host?.problem) found.push(`Main memory: ${memory.host.problem}`);
  return html`<div class="warnings" role="alert">
    ${found.map((text) => html`<p class="warning">${text}</p>`)}
  </div>`;
}

document.getElementById("app").textContent = "";
live.start();
render(html`<${App} />`, document.getElementById("app"));
