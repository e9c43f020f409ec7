// What is known, and what comes of each event of the stream. Pure.

export const EVENTS_KEPT = 200;

/** Nothing is known yet. `events` are newest first. */
export const NOTHING = Object.freeze({
  proxy: null,
  memory: { devices: {}, host: null },
  backends: {},
  requests: {},
  events: [],
  lastId: 0,
});

const TOPICS = new Set(["proxy", "memory", "backends", "requests"]);

/** A JSON merge patch (RFC 7396), put on a value; neither is changed. */
export function merged(value, patch) {
  if (patch === null || typeof patch !== "object" || Array.isArray(patch)) return patch;
  const known = value && typeof value === "object" && !Array.isArray(value) ? value : {};
  // A map: clients choose the ids of requests, and "__proto__" is none of an object's own to be set.
  const made = new Map(Object.entries(known));
  for (const [key, change] of Object.entries(patch)) {
    if (change === null) made.delete(key);
    else made.set(key, merged(made.get(key), change));
  }
  return Object.fromEntries(made);
}

/** What is known after one event; null where the stream has to be begun anew. */
export function after(known, kind, data) {
  if (kind === "state") {
    const other = known.proxy && known.proxy.instance !== data.proxy.instance;
    // Another process counts its events from one, so ours are of no use with it.
    return { ...known, ...data, ...(other ? { events: [], lastId: 0 } : {}) };
  }
  if (TOPICS.has(kind)) return { ...known, [kind]: merged(known[kind], data.patch) };
  // That it failed is told once, and without a number.
  if (kind === "not_moved" && data.error)
    return { ...known, events: [{ ...data, id: `${data.backend} ${data.at}` }, ...known.events].slice(0, EVENTS_KEPT) };
  if (kind === "lost" && data.id > known.lastId && known.lastId > 0) return null;
  if (data.id == null || data.id <= known.lastId) return known;
  if (kind === "lost") return { ...known, lastId: data.id };
  const events = [data, ...known.events].slice(0, EVENTS_KEPT);
  return { ...known, events, lastId: data.id };
}
