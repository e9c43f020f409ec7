// The page's own modules without a browser: what is pure in them. Run by tests/ui/test_modules.py.
import assert from "node:assert/strict";
import { test } from "node:test";

const page = (name) => import(`${process.env.PAGE}/${name}`);
const { after, EVENTS_KEPT, merged, NOTHING } = await page("js/state.js");
const { parser } = await page("js/sse.js");
const { cards, cells, colours, marks, neighbours, parts } = await page("js/bars.js");
const { clock, ranges, rate, seconds, size } = await page("js/format.js");
const { cost, doing, sentence, shrunk, why } = await page("js/words.js");
const { path } = await page("js/http.js");
const { backendsOf, devicesOf, nodes, several, trouble } = await page("js/nodes.js");
const { Live } = await page("js/live.js");
const { stay } = await page("js/stay.js");
const { added, delta, marked, talks } = await page("views/chat.js");
const { grown } = await page("views/logs.js");
const { progress } = await page("views/pull.js");
const { consequences } = await page("views/policies.js");

const STATE = { proxy: { instance: "1" }, memory: {}, backends: { b1: { split: 3 } }, requests: {} };

test("a merge patch changes what it names, and takes out what it says is null", () => {
  const old = { a: { b: 1, c: [1, 2] }, d: 4 };
  assert.deepEqual(merged(old, { a: { b: null, c: [3] }, e: { f: 1 } }), { a: { c: [3] }, d: 4, e: { f: 1 } });
  assert.deepEqual(old, { a: { b: 1, c: [1, 2] }, d: 4 });
});

test("whatever a client calls its request, it is one of them", () => {
  const state = "writing";
  let known = after(NOTHING, "state", STATE);
  for (const id of ["__proto__", "constructor"]) {
    const patch = JSON.parse(`{"${id}": {"state": "${state}"}}`);
    known = after(known, "requests", { patch });
    assert.deepEqual(Object.entries(known.requests).at(-1), [id, { state }]);
  }
  known = after(known, "requests", { patch: JSON.parse('{"__proto__": null, "constructor": null}') });
  assert.deepEqual(Object.entries(known.requests), []);
});

test("events are kept newest first, up to a number, and each once", () => {
  let known = after(NOTHING, "state", STATE);
  for (let id = 1; id <= 1000; id++) known = after(known, "moved", { id, kind: "moved" });
  assert.equal(known.events.length, EVENTS_KEPT);
  assert.equal(known.events[0].id, 1000);
  assert.equal(after(known, "moved", { id: 1000, kind: "moved" }), known);
  assert.deepEqual(after(known, "backends", { patch: { b1: { split: 5 } } }).backends, { b1: { split: 5 } });
});

test("a move that failed is told, one that was overtaken is not", () => {
  const known = after(NOTHING, "state", STATE);
  const failed = { kind: "not_moved", backend: "b1", model: "m", at: "now", error: "it is silent" };
  const told = after(known, "not_moved", failed);
  assert.equal(sentence(told.events[0]), "m: not all that was to move did: it is silent");
  assert.equal(after(told, "moved", { id: 1, kind: "moved" }).events.length, 2);
  assert.equal(after(known, "not_moved", { ...failed, error: null }), known);
});

test("another process begins with nothing of the one before", () => {
  const known = after(after(NOTHING, "state", STATE), "moved", { id: 70, kind: "moved" });
  const same = after(known, "state", STATE);
  const other = after(known, "state", { ...STATE, proxy: { instance: "2" } });
  assert.deepEqual([same.lastId, same.events.length], [70, 1]);
  assert.deepEqual([other.lastId, other.events.length], [0, 0]);
});

test("lost events begin the stream anew, but for those that were lost before it began", () => {
  const known = after(NOTHING, "state", STATE);
  assert.notEqual(after(known, "lost", { id: 30, count: 30 }), null);
  const later = after(known, "moved", { id: 31, kind: "moved" });
  assert.equal(after(later, "lost", { id: 40, count: 8 }), null);
});

test("events come in whatever pieces", () => {
  const feed = parser();
  const text = ": hello\n\nid: 1\nevent: moved\ndata: {\"a\":1}\n\ndata: x\n\n";
  const found = [...text].flatMap((one) => feed(one));
  assert.deepEqual(found, [{ kind: "moved", data: '{"a":1}' }, { kind: "message", data: "x" }]);
});

test("a bar adds up to the whole device", () => {
  const device = { name: "D", total_bytes: 1000, others_bytes: 300, reserve_bytes: 100, low_bytes: 50, limit_bytes: 600 };
  const backends = {
    b1: { id: "b1", model: "m", bytes: { D: { kv: 50, weights: 30, compute: 20, experts: 200 } } },
    b2: { id: "b2", model: "n", bytes: { D: { kv: 50, experts: 100 }, CPU: { weights: 9 } } },
  };
  const card = { names: ["D"], device };
  const found = parts(card, backends);
  assert.deepEqual(found.map(({ kind, bytes }) => [kind, bytes]), [
    ["kv", 100], ["weights", 30], ["compute", 20], ["experts", 200], ["experts", 100],
    ["others", 300], ["free", 150], ["reserve", 100],
  ]);
  assert.equal(found.reduce((sum, part) => sum + part.bytes, 0), 1000);
  assert.deepEqual(marks(device).map(({ kind, at }) => [kind, at]), [["limit", 0.6], ["low", 0.95]]);
  assert.equal(parts({ ...card, device: { ...device, total_bytes: null } }, backends), null);
  const short = parts({ ...card, device: { ...device, free_bytes: 150 } }, backends);
  assert.deepEqual(short.slice(-3).map(({ kind, bytes }) => [kind, bytes]), [["rest", 100], ["free", 50], ["reserve", 100]]);
});

test("what is on one card is shown once", () => {
  const of = (name, source) => ({ name, source, total_bytes: 100, others_bytes: 10, free_bytes: 40 });
  const devices = { B: of("B", "nvml:0"), A: of("A", "nvml:0"), C: of("C", "ggml") };
  const found = cards(devices);
  assert.deepEqual(found.map(({ names }) => names), [["A", "B"], ["C"]]);
  const backends = { b1: { model: "m", bytes: { A: { experts: 20 } } }, b2: { model: "n", bytes: { B: { experts: 30 } } } };
  assert.deepEqual(parts(found[0], backends).map(({ bytes }) => bytes), [20, 30, 10, 40]);
});

test("a cell for each layer, also for those without experts", () => {
  const layers = [{ index: 1, experts: "CPU", to: "D" }, { index: 2, experts: "D" }];
  assert.deepEqual(cells({ block_count: 3, layers }), [
    { index: 0, place: null, to: null }, { index: 1, place: "CPU", to: "D" }, { index: 2, place: "D", to: null },
  ]);
  const cached = cells({ block_count: 3, layers, cached_layers: [0] });
  assert.deepEqual(cached[0], { index: 0, place: "expert cache", to: null });
  assert.deepEqual([...colours({ B: 0, A: 0 })], [["CPU", 0], ["A", 1], ["B", 2]]);
});

test("the neighbours of a split are within what is possible", () => {
  const splits = Array.from({ length: 49 }, (_, n) => ({ moe_cpu_layers: n, source: n === 30 ? "bench" : null }));
  const found = neighbours({ least: 10, auto: 12, splits }, 11).map((row) => row.moe_cpu_layers);
  assert.deepEqual(found, [10, 11, 12, 13, 15, 30, 48]);
  assert.deepEqual(neighbours(null, 3), []);
});

test("numbers as people read them", () => {
  assert.equal(size(12 * 2 ** 30), "12.0 GiB");
  assert.equal(size(100 * 2 ** 20), "100 MiB");
  assert.equal(size(null), "unknown");
  assert.deepEqual([0.0007, 0.35, 1.62, 45, 600, 7200].map(seconds), ["0.7 ms", "350 ms", "1.6 s", "45 s", "10 min", "2.0 h"]);
  assert.deepEqual([3.21, 45.6, null].map(rate), ["3.2", "46", "unknown"]);
  assert.equal(ranges([0, 1, 2, 5, 7, 8]), "0-2, 5, 7-8");
  assert.match(clock("2026-01-02T03:04:05Z", "2026-01-02T03:04:06Z"), /^\d\d:04:05$/);
});

test("why something moved, and what it cost", () => {
  const move = { why: "room", for: "b", from: 2, to: 9, layers: 7, bytes: 2 ** 20, staged_s: 0, gate_s: 0.001 };
  assert.equal(why(move), "to make room for b");
  assert.equal(why({ why: "operator" }), "you set it");
  assert.equal(cost(move), "7 layers, 1 MiB, nothing copied, pause 1.0 ms");
  const told = (kind, why, was) => sentence({ kind, model: "m", why, was });
  assert.equal(told("backend_draining", "unload"), "m unloads once its answers are done: you unloaded it");
  assert.equal(told("backend_stopping", "drained"), null);
  assert.equal(told("backend_stopping", "keep_alive"), "m is unloading: nobody asked for it any more");
  assert.equal(told("backend_gone", "stopped", "stopping"), "m is unloaded");
  assert.equal(told("backend_gone", "it ended\nby signal 9", "ready"), "m is gone: by signal 9");
  assert.equal(sentence({ kind: "never heard of" }), null);
});

test("for whom a model has shrunk, until it has grown again or somebody chose", () => {
  const room = { why: "room", for: "b", from: 2, to: 9 };
  const of = (n, ...migrations) => shrunk({ moe_cpu_layers: n, migrations });
  assert.equal(of(9, room), "shrunk for b");
  assert.equal(of(5, room, { why: "free", from: 9, to: 5 }), "shrunk for b");
  assert.equal(of(2, room, { why: "free", from: 9, to: 2 }), null);
  assert.equal(of(9, room, { why: "operator", from: 9, to: 9 }), null);
  assert.equal(of(9, { ...room, why: "pressure" }), "shrunk for other programs");
  assert.equal(of(9), null);
});

test("what a request is at", () => {
  assert.equal(doing({ state: "reading" }), "reads the prompt");
  assert.equal(doing({ state: "waiting", waits_for: "turn", position: 3 }), "waits for its turn, number 3");
});

test("paths keep their slashes and lose their meaning", () => {
  assert.equal(path("admin", "models", "org/x:4l?#", "load"), "/admin/models/org/x%3A4l%3F%23/load");
});

test("an answer grows, and has one mark for a move", () => {
  const text = added(added([], { kind: "text", text: "a" }), { kind: "text", text: "b" });
  assert.deepEqual(text, [{ kind: "text", text: "ab" }]);
  const begun = marked(text, 3, 5, null);
  const gone = marked(added(begun, { kind: "text", text: "c" }), 5, 9, true);
  assert.deepEqual(gone, [...text, { kind: "split", from: 3, to: 9 }, { kind: "text", text: "c" }]);
  assert.deepEqual(delta('{"choices":[{"delta":{"content":"x"}}]}'), { text: "x", thought: "" });
  assert.throws(() => delta('{"error":{"message":"gone"}}'), /gone/);
});

test("a chat is with those that talk, or may", () => {
  assert.ok(talks({ capabilities: ["completion", "tools"], meta: { mode: "generation" } }));
  assert.ok(talks({ capabilities: [], meta: { mode: "generation" } }));
  assert.ok(talks({}));
  assert.ok(!talks({ capabilities: ["embedding"], meta: { mode: "generation" } }));
  assert.ok(!talks({ capabilities: ["completion"], meta: { mode: "rerank" } }));
});

test("who begins to listen late is told what is so", () => {
  globalThis.requestAnimationFrame = (paint) => paint();
  const live = new Live();
  live.set({ phase: "login" });
  const seen = [];
  const end = live.subscribe((view) => seen.push(view.phase));
  live.set({ phase: "live" });
  end();
  live.set({ phase: "lost" });
  assert.deepEqual(seen, ["login", "live"]);
  delete globalThis.requestAnimationFrame;
});

test("a connection that breaks is begun again, and is not held while nobody looks", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  globalThis.document = Object.assign(new EventTarget(), { hidden: false });
  const look = (hidden) => {
    document.hidden = hidden;
    document.dispatchEvent(new Event("visibilitychange"));
  };
  const turn = () => new Promise((resolve) => setImmediate(resolve));
  const waited = async (ms) => (await turn(), t.mock.timers.tick(ms), turn());
  const end = new AbortController();
  const broke = [];
  let opened = 0;
  let done = null;
  const open = (stop, well) => {
    opened += 1;
    return new Promise((resolve, reject) => {
      done = { resolve, reject, well };
      stop.signal.addEventListener("abort", () => reject(stop.signal.reason));
    });
  };
  const staying = stay(open, end.signal, (error) => broke.push(error?.message ?? null));

  done.reject(new Error("gone"));
  await waited(499);
  assert.deepEqual([opened, broke], [1, ["gone"]]);
  await waited(1);
  done.resolve(); // the second wait is longer
  await waited(999);
  assert.deepEqual([opened, broke], [2, ["gone", null]]);
  await waited(1);
  done.well();
  done.resolve();
  await waited(500);
  assert.equal(opened, 4);
  look(true);
  await waited(60_000);
  assert.deepEqual([opened, broke.length], [4, 3]);
  look(false);
  await turn();
  assert.equal(opened, 5);
  end.abort();
  await staying;
  assert.equal(broke.length, 3);
  delete globalThis.document;
});

test("lines of a log, and parts of a pull", () => {
  let kept = { lines: [], rest: "" };
  for (const piece of ["one\ntw", "o\nthr"]) kept = grown(kept, piece);
  assert.deepEqual(kept, { lines: ["one", "two"], rest: "thr" });
  assert.equal(grown({ lines: Array(5000).fill("x"), rest: "" }, "y\n").lines.length, 1000);
  assert.deepEqual(progress({}, { status: "pulling", digest: "d", total: 9 }), { d: { total: 9, completed: 0 } });
});

test("what saving would do", () => {
  const nothing = { changes: true, backends: [], models: [], defaults: [], keys: [], next_start: [] };
  assert.deepEqual(consequences({ ...nothing, changes: false }), ["Nothing changes."]);
  const backends = [
    { model: "a", fate: "moves", keys: ["moe_cpu_layers"] },
    { model: "b", fate: "restarts", keys: ["ctx"] },
    { model: "c", fate: "stays", keys: [] },
    { model: "d", fate: "stays", keys: ["params"] },
  ];
  assert.deepEqual(consequences({ ...nothing, backends, next_start: ["server.port"] }), [
    "a: its experts move (moe_cpu_layers)", "b: is loaded anew beside the old one (ctx)",
    "c: stays as it is", "d: goes on, and takes this over (params)",
    "waits for the next start of the proxy: server.port",
  ]);
  assert.deepEqual(consequences({ ...nothing, nodes: ["attic"] }), ["changed for other nodes: attic"]);
});

const FLEET = {
  proxy: { nodes: { cellar: { state: "silent" }, attic: { state: "ready", since: "now" } } },
  memory: {
    devices: {
      "attic.CUDA0": { name: "CUDA0", node: "attic", source: "nvml:1" },
      "cellar.CUDA0": { name: "CUDA0", node: "cellar", source: "nvml:1" },
    },
    hosts: { attic: { total_bytes: 9 } },
  },
  backends: { "attic.b1": { id: "attic.b1", node: "attic" }, "cellar.b1": { id: "cellar.b1", node: "cellar" } },
};
const ALONE = { proxy: {}, memory: { devices: { CUDA0: { name: "CUDA0" } }, host: {} }, backends: { b1: { id: "b1" } } };

test("each node has its own devices and backends, whatever they are called elsewhere", () => {
  assert.deepEqual(devicesOf(FLEET, "attic"), { CUDA0: FLEET.memory.devices["attic.CUDA0"] });
  assert.deepEqual(backendsOf(FLEET, "cellar"), { "cellar.b1": FLEET.backends["cellar.b1"] });
  assert.deepEqual(cards(devicesOf(FLEET, "attic")).map((card) => card.names), [["CUDA0"]]);
  assert.deepEqual(nodes(FLEET), [
    { name: "attic", state: "ready", since: "now", host: { total_bytes: 9 } },
    { name: "cellar", state: "silent", host: null },
  ]);
  assert.equal(several(FLEET), true);
});

test("a single machine has no nodes, and all that there is", () => {
  assert.deepEqual(nodes(ALONE), []);
  assert.equal(several(ALONE), false);
  assert.equal(several({ proxy: null }), false);
  assert.equal(several({ proxy: { nodes: { attic: {} } } }), false);
  assert.deepEqual(devicesOf(ALONE, undefined), ALONE.memory.devices);
  assert.deepEqual(backendsOf(ALONE, undefined), ALONE.backends);
});

test("a node that is not simply there is told of", () => {
  assert.deepEqual(nodes(FLEET).map(trouble).filter(Boolean).length, 1);
  assert.match(trouble({ name: "attic", state: "draining" }), /^attic is drained/);
  assert.equal(trouble({ name: "attic", state: "ready" }), null);
});
