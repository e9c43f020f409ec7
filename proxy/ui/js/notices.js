// What came of what you did: read out, shown for a while.

import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { wordsOf } from "./http.js";

const SHOWN_MS = 8_000;
let show = () => {};
let number = 0;

/** Say something; `bad`: something went wrong. */
export function say(text, bad = false) {
  show({ text, bad, number: ++number });
}

/** Do something, and say where it fails. Returns what it returns, undefined where it failed. */
export async function attempt(what) {
  try {
    return await what();
  } catch (error) {
    say(wordsOf(error), true);
    return undefined;
  }
}

export function Notices() {
  const [said, setSaid] = useState([]);
  useEffect(() => {
    show = (notice) => {
      setSaid((before) => [...before.slice(-2), notice]);
      setTimeout(
        () => setSaid((before) => before.filter((one) => one.number !== notice.number)),
        SHOWN_MS,
      );
    };
  }, []);
  return html`<div class="notices" role="status" aria-live="polite">
    ${said.map((one) => html`<p key=${one.number} class=${one.bad ? "bad" : ""}>${one.text}</p>`)}
  </div>`;
}
