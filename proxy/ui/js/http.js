// Requests to the proxy that served this page, with the key that was given.

const KEY = "moe-proxy-key";

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** An answer that is an error; its message is the proxy's own. */
export class Refused extends Error {
  constructor(status, message, body) {
    super(message);
    this.status = status;
    this.body = body;
  }
}

/** The answer to a request. Throws Refused, and TypeError where nobody answers. `json` or `text` is
 * the body; `tag` is of what it is to replace, `node` is the one of a fleet that is to be asked. */
export async function ask(method, path, { json, text, signal, tag, node } = {}) {
  const headers = tag ? { "If-Match": tag } : {};
  if (node) headers["X-Moe-Proxy-Node"] = node;
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  if (json !== undefined) headers["Content-Type"] = "application/json";
  const body = json === undefined ? text : JSON.stringify(json);
  const answer = await fetch(path, { method, headers, body, signal, cache: "no-store" });
  if (answer.ok) return answer;
  const said = await answer.text();
  let parsed = null;
  try {
    parsed = JSON.parse(said);
  } catch {
    // No JSON: it is told as it is.
  }
  const error = parsed?.error;
  const message = error?.message ?? error ?? (said.slice(0, 300) || answer.statusText);
  throw new Refused(answer.status, String(message), parsed);
}

export async function getJson(path, options) {
  return (await ask("GET", path, options)).json();
}

/** What went wrong, for people. */
export function wordsOf(error) {
  if (error instanceof Refused) return error.message;
  return error instanceof TypeError ? "The proxy does not answer." : String(error.message ?? error);
}

/** A path of parts that may have slashes and more in them. */
export function path(...parts) {
  return `/${parts.map((part) => part.split("/").map(encodeURIComponent).join("/")).join("/")}`;
}
