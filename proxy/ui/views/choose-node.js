// On which machine of a fleet something is to be done.

import { html } from "../vendor/htm-preact.js";

export function ChooseNode({ label, best, names, node, set }) {
  return html`<select aria-label=${label} value=${node} onChange=${(event) => set(event.target.value)}>
    <option value="">${best}</option>
    ${names.map((name) => html`<option key=${name} value=${name}>on ${name}</option>`)}
  </select>`;
}
