// What happened, in words. Pure.

import { count, seconds, size } from "./format.js";

const WHY = {
  request: "a request asked for it",
  operator: "you set it",
  policy: "the policies changed",
  pressure: "other programs needed the memory",
  use: "a busier model needed the memory",
  free: "there was room",
  load: "it was just loaded",
  settle: "what a request asked for is over",
};

/** Why experts moved. */
export function why(move) {
  if (move.why === "room") return `to make room for ${move.for ?? "a newcomer"}`;
  return WHY[move.why] ?? move.why;
}

/** One move in a few words: what it did and what it cost. */
export function cost(move) {
  const parts = [count(move.layers, "layer")];
  if (move.bytes != null) parts.push(size(move.bytes));
  // What goes to the CPU is there already.
  parts.push(move.staged_s < 0.0005 ? "nothing copied" : `copied in ${seconds(move.staged_s)}`);
  parts.push(`pause ${seconds(move.gate_s)}`);
  if (move.short_of_memory) parts.push(`no more room on ${move.short_of_memory}`);
  return parts.join(", ");
}

const GONE = {
  keep_alive: "nobody asked for it any more",
  unload: "you unloaded it",
  replaced: "it is loaded anew with other options",
  drain: "the proxy is ending",
  room: "another model needs the room",
  rpc: "another model needs its RPC server",
};

/** What is gone on purpose was told of before, with the reason. */
function gone(event) {
  if (event.was === "stopping" || event.why === "stopped") return `${event.model} is unloaded`;
  return `${event.model} is gone: ${GONE[event.why] ?? lastLine(event.why)}`;
}

const OTHERS = {
  backend_starting: (e) => `${e.model} is loading`,
  backend_ready: (e) => `${e.model} is loaded`,
  backend_draining: (e) => `${e.model} unloads once its answers are done: ${GONE[e.why] ?? e.why}`,
  // "drained" follows the line before this.
  backend_stopping: (e) =>
    e.why === "drained" ? null : `${e.model} is unloading: ${GONE[e.why] ?? e.why}`,
  backend_gone: gone,
  backend_reloading: (e) => `${e.backend} is loaded anew for ${e.keys.join(", ") || "a policy"}`,
  policies_changed: (e) => `The policies changed: ${changed(e)}`,
  policies_refused: (e) =>
    `The policies have ${count(e.problems.length, "mistake")}; the old ones stay`,
  policies_wait_for_restart: (e) =>
    e.keys.length ? `These keys wait for the next start: ${e.keys.join(", ")}` : null,
  room_missing: (e) => `${e.model} waits for memory${e.unloads ? `; ${e.unloads} makes way` : ""}`,
  not_moved: (e) => `${e.model}: not all that was to move did: ${e.error}`,
  cache_shrinks: (e) => `${e.model} is loaded anew with a smaller expert cache, for want of memory`,
  host_memory_short: (e) => `${e.model}: ${e.message}`,
  host_pressure: (e) => `Main memory: ${e.message}`,
  host_pressure_over: () => "Main memory is enough again",
  serving: (e) => `The proxy has started, with ${count(e.models, "model")}`,
  files_read_again: () => "All files were read again",
  lost: (e) => `${count(e.count, "event")} are not kept any more`,
};

function changed(event) {
  const models = Object.keys(event.models);
  const parts = [...event.keys, ...models, ...(event.defaults.length ? ["defaults"] : [])];
  for (const node of event.nodes ?? []) parts.push(`what is for node ${node}`);
  return parts.join(", ") || "nothing that counts";
}

const lastLine = (text) => String(text ?? "").trim().split("\n").at(-1);

/** An event that is no move, in a sentence; null for what is of no interest here. */
export function sentence(event) {
  return OTHERS[event.kind]?.(event) ?? null;
}

/** What a request is at, or waits for. */
export function doing(request) {
  if (request.state === "reading") return "reads the prompt";
  if (request.state === "writing") return request.tokens == null ? "is being answered" : "writes";
  if (request.waits_for === "turn") return `waits for its turn, number ${request.position}`;
  if (request.waits_for === "load") return "waits until the model is loaded";
  if (request.waits_for === "move") return "waits for its split";
  return "waits for memory";
}

/** What of a model moves: of one without experts, its feed-forward weights. */
export const movable = (backend) => (backend.dense ? "feed-forward weights" : "experts");

/** For whom or what a backend has fewer experts on devices than it had, if that is so: its last
 * moves tell. */
export function shrunk(backend) {
  const moves = backend.migrations ?? [];
  const at = moves.findLastIndex((move) => ["pressure", "room", "use"].includes(move.why));
  if (at < 0 || moves[at].to <= moves[at].from) return null;
  if (backend.moe_cpu_layers == null || backend.moe_cpu_layers <= moves[at].from) return null;
  if (moves.slice(at + 1).some((move) => ["operator", "request", "policy"].includes(move.why)))
    return null;
  if (moves[at].why === "room") return `shrunk for ${moves[at].for ?? "a newcomer"}`;
  return moves[at].why === "use" ? "shrunk for a busier model" : "shrunk for other programs";
}
