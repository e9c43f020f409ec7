// What a device's memory is used for, as parts of a bar. Pure.

import { movable } from "./words.js";

const KINDS = [
  ["kv", "KV cache"],
  ["weights", "dense weights"],
  ["compute", "compute"],
  ["cache", "expert cache"],
];

/** Devices by the memory that they share: {names, device}, once each card. Where it is read says
 * which card that is. */
export function cards(devices) {
  const found = new Map();
  for (const device of Object.values(devices).sort((a, b) => a.name.localeCompare(b.name))) {
    const card = device.source?.includes(":") ? device.source : device.name;
    if (found.has(card)) found.get(card).names.push(device.name);
    else found.set(card, { names: [device.name], device });
  }
  return [...found.values()];
}

/** The parts of a card's bar from left to right: {kind, label, bytes}. `free` is what is neither
 * ours, nor others', nor the reserve; `rest` what the card does not have any more though nobody
 * said that he took it. null where its size is not known. */
export function parts({ names, device }, backends) {
  const total = device.total_bytes;
  if (total == null) return null;
  const all = Object.values(backends);
  const held = (b, kind) => names.reduce((sum, name) => sum + (b.bytes?.[name]?.[kind] ?? 0), 0);
  const found = KINDS.map(([kind, label]) => ({
    kind,
    label,
    bytes: all.reduce((sum, b) => sum + held(b, kind), 0),
  }));
  for (const b of all)
    found.push({ kind: "experts", label: `${movable(b)} of ${b.model}`, bytes: held(b, "experts") });
  found.push({ kind: "others", label: "other programs", bytes: device.others_bytes ?? 0 });
  const told = found.reduce((sum, part) => sum + part.bytes, 0);
  const rest = total - told - (device.free_bytes ?? total);
  if (rest > total / 100) found.push({ kind: "rest", label: "driver and the like", bytes: rest });
  const left = Math.max(total - told - Math.max(rest, 0), 0);
  const reserve = Math.min(device.reserve_bytes ?? 0, left);
  found.push({ kind: "free", label: "free", bytes: left - reserve });
  found.push({ kind: "reserve", label: "reserve", bytes: reserve });
  return found.filter((part) => part.bytes > 0);
}

/** Marks on the bar, as shares of its length: the limit of what is ours, from the left, and how
 * much has to be free, from the right. */
export function marks(device) {
  const total = device.total_bytes;
  if (!total) return [];
  const found = [];
  if (device.limit_bytes != null && device.limit_bytes < total)
    found.push({ kind: "limit", at: device.limit_bytes / total, bytes: device.limit_bytes });
  if (device.low_bytes)
    found.push({ kind: "low", at: 1 - Math.min(device.low_bytes / total, 1), bytes: device.low_bytes });
  return found;
}

/** A number for each place where experts can be, for its colour: the CPU is 0, devices count from
 * 1 in the order of their names. */
export function colours(devices) {
  return new Map(["CPU", ...Object.keys(devices).sort()].map((name, at) => [name, at % 6]));
}

const CACHE = "expert cache";

/** The cells of a backend's map, one for each layer of the model: {index, place, to}; `place` is
 * null for a layer without experts, and no device for one whose experts a cache has. */
export function cells(backend) {
  const layers = new Map((backend.layers ?? []).map((layer) => [layer.index, layer]));
  const cached = new Set(backend.cached_layers ?? []);
  return Array.from({ length: backend.block_count ?? 0 }, (_, index) => {
    const layer = layers.get(index);
    return { index, place: layer?.experts ?? (cached.has(index) ? CACHE : null), to: layer?.to ?? null };
  });
}

/** Which splits are worth a look beside the one that is: its neighbours, both ends of what is
 * possible, what "auto" would choose, and what was measured. */
export function neighbours(table, current, count = 9) {
  const rows = table?.splits ?? [];
  const most = rows.length - 1;
  const least = table?.least ?? 0;
  const wanted = [current, table?.auto, least, most, current - 1, current + 1];
  wanted.push(current - 2, current + 2, current - 4, current + 4);
  wanted.push(...rows.filter((row) => row.source === "bench").map((row) => row.moe_cpu_layers));
  const inside = wanted.filter((n) => n != null && n >= least && n <= most);
  return [...new Set(inside)].slice(0, count).sort((a, b) => a - b).map((n) => rows[n]);
}
