// Connections that are to last: begun again when they break, and not held while nobody sees the page,
// since browsers have few.

const FIRST_WAIT_MS = 500;
const MOST_WAIT_MS = 5_000;

/** Calls `open(stop, well)` again and again until `signal` ends it: once it returns, or throws what
 * `broke` is told. It has to end with `stop`, an AbortController, and may use that to begin again at
 * once; `well()` says that what it opened works. */
export async function stay(open, signal, broke) {
  let waitMs = FIRST_WAIT_MS;
  while (!signal.aborted) {
    if (document.hidden) {
      await once(document, "visibilitychange", signal);
      continue;
    }
    const stop = new AbortController();
    const end = () => stop.abort();
    const hide = () => document.hidden && stop.abort();
    document.addEventListener("visibilitychange", hide);
    signal.addEventListener("abort", end);
    let why = null;
    try {
      await open(stop, () => (waitMs = FIRST_WAIT_MS));
    } catch (error) {
      why = error;
    } finally {
      document.removeEventListener("visibilitychange", hide);
      signal.removeEventListener("abort", end);
    }
    if (stop.signal.aborted) continue;
    stop.abort(); // whatever of it is still open
    broke(why);
    await sleep(waitMs, signal);
    waitMs = Math.min(waitMs * 2, MOST_WAIT_MS);
  }
}

function sleep(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
    function done() {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    }
  });
}

function once(target, kind, signal) {
  return new Promise((resolve) => {
    target.addEventListener(kind, done);
    signal.addEventListener("abort", done);
    function done() {
      target.removeEventListener(kind, done);
      signal.removeEventListener("abort", done);
      resolve();
    }
  });
}
