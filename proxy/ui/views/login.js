import { html, useState } from "../vendor/htm-preact.js";

export function Login({ live, why }) {
  const [given, setGiven] = useState("");
  const send = (event) => {
    event.preventDefault();
    if (given.trim()) live.login(given.trim());
  };
  return html`<main class="login">
    <form onSubmit=${send}>
      <h1>moe-proxy</h1>
      <p>This proxy asks for an API key. It is kept until you close this tab.</p>
      <input hidden autocomplete="username" value="API key" />
      <label for="key">API key</label>
      <input id="key" type="password" autocomplete="current-password" autofocus
        value=${given} onInput=${(event) => setGiven(event.target.value)}
        aria-describedby="why" aria-invalid=${why ? "true" : null} />
      <p id="why" class="bad" role="alert">${why}</p>
      <button class="main" type="submit">Log in</button>
    </form>
  </main>`;
}
