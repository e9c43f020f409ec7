// Numbers and times as people read them. Pure.

const GIB = 2 ** 30;
const MIB = 2 ** 20;

/** Bytes in GiB; what is less than one, in MiB. Unknown is unknown. */
export function size(bytes) {
  if (bytes == null) return "unknown";
  if (Math.abs(bytes) < GIB) return `${Math.round(bytes / MIB)} MiB`;
  return `${(bytes / GIB).toFixed(bytes < 100 * GIB ? 1 : 0)} GiB`;
}

/** A length of time. */
export function seconds(s) {
  if (s == null) return "unknown";
  if (s < 0.0095) return `${(s * 1000).toFixed(1)} ms`;
  if (s < 0.95) return `${Math.round(s * 1000)} ms`;
  if (s < 9.95) return `${s.toFixed(1)} s`;
  if (s < 90) return `${Math.round(s)} s`;
  if (s < 90 * 60) return `${Math.round(s / 60)} min`;
  return `${(s / 3600).toFixed(1)} h`;
}

/** How long ago something was; `now` and `at` are times as Date has them, or texts. */
export function since(at, now) {
  return Math.max(0, (new Date(now) - new Date(at)) / 1000);
}

/** The time of day, and the day where that is another one. */
export function clock(at, now) {
  const then = new Date(at);
  const time = then.toLocaleTimeString([], { hour12: false });
  return then.toDateString() === new Date(now).toDateString()
    ? time
    : `${then.toLocaleDateString()} ${time}`;
}

/** Tokens per second. */
export function rate(value) {
  if (value == null) return "unknown";
  return value < 10 ? value.toFixed(1) : String(Math.round(value));
}

export function count(n, word, words = `${word}s`) {
  return `${n} ${n === 1 ? word : words}`;
}

/** Numbers as ranges: [0, 1, 2, 5] is "0-2, 5". */
export function ranges(numbers) {
  const found = [];
  for (const n of numbers) {
    const last = found.at(-1);
    if (last && last[1] === n - 1) last[1] = n;
    else found.push([n, n]);
  }
  return found.map(([a, b]) => (a === b ? `${a}` : `${a}-${b}`)).join(", ");
}
