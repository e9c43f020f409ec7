// The machines of a fleet, and what each of them has. On a single machine there are none, and nothing
// has a `node`. Pure.

/** Each node: {name, state, since, version, host}, by name; empty on a single machine. */
export function nodes(known) {
  const told = Object.entries(known.proxy?.nodes ?? {});
  const found = told.map(([name, node]) => ({ ...node, name, host: known.memory.hosts?.[name] ?? null }));
  return found.sort((a, b) => a.name.localeCompare(b.name));
}

/** Whether it has to be said where something is. */
export const several = (known) => Object.keys(known.proxy?.nodes ?? {}).length > 1;

/** The devices of one node, by the names that its backends call them. */
export function devicesOf(known, node) {
  const its = Object.values(known.memory.devices).filter((device) => device.node === node);
  return Object.fromEntries(its.map((device) => [device.name, device]));
}

/** The backends of one node. */
export const backendsOf = (known, node) =>
  Object.fromEntries(Object.entries(known.backends).filter(([, backend]) => backend.node === node));

/** What there is to say of a node that is not simply there; null where nothing is. */
export function trouble({ name, state }) {
  if (state === "silent") return `${name} does not answer: what was loaded there is asked of other nodes.`;
  if (state === "draining") return `${name} is drained: it takes nothing new.`;
  return null;
}
