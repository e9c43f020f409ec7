// Keeps what is known up to date: follows the proxy's events, and begins again when that breaks.

import { getJson, key, Refused, wordsOf } from "./http.js";
import { follow } from "./sse.js";
import { after, NOTHING } from "./state.js";
import { stay } from "./stay.js";

/** `phase` is "connecting", "login", "live" or "lost"; `why` says why it is not live; `turn` counts the
 * connections, for what hangs on another one. */
export class Live {
  constructor() {
    this.view = { phase: "connecting", why: "", known: NOTHING, models: [], turn: 0 };
    this.listeners = new Set();
    this.paint = 0;
    this.again = null;
    this.models_seen = null;
  }

  /** Tells `listener` what is known now, and at each change: the first one may be long past. */
  subscribe(listener) {
    this.listeners.add(listener);
    listener(this.view);
    return () => this.listeners.delete(listener);
  }

  set(change) {
    this.view = { ...this.view, ...change };
    // However many events come: one painting a frame.
    this.paint ||= requestAnimationFrame(() => {
      this.paint = 0;
      for (const listener of this.listeners) listener(this.view);
    });
  }

  /** Asks for a key where one is needed and none was given, and follows then. */
  async start() {
    if (!key.get()) {
      const needed = getJson("needs-key").then((answer) => answer.needs_key, () => false);
      if (await needed) await this.ask("");
    }
    await this.run();
  }

  /** Returns once a key was given. */
  ask(why) {
    this.set({ phase: "login", why, known: NOTHING, models: [] });
    return new Promise((resolve) => (this.again = resolve));
  }

  /** Follows until the page is gone. */
  run() {
    const open = async (stop, well) => {
      const url = `/admin/events?state&after=${this.view.known.lastId}`;
      try {
        await follow(url, (kind, data) => (well(), this.take(kind, data, stop)), stop.signal);
      } catch (error) {
        if (!(error instanceof Refused && error.status === 401)) throw error;
        const was = key.get();
        key.set("");
        await this.ask(was ? error.message : "");
        stop.abort();
      }
    };
    return stay(open, new AbortController().signal, (error) =>
      this.set({ phase: "lost", why: error ? wordsOf(error) : "the stream of events ended." }),
    );
  }

  take(kind, data, stop) {
    const known = after(this.view.known, kind, data);
    if (known === null) return stop.abort();
    const restarted = kind === "state" && this.view.known.lastId > 0 && known.lastId === 0;
    const begun = { phase: "live", why: "", turn: this.view.turn + 1 };
    this.set({ known, ...(kind === "state" ? begun : {}) });
    if (kind === "state" && !this.marked) this.marked = performance.mark("state-shown");
    // Its events are counted anew: asked from the first one on.
    if (restarted) return stop.abort();
    const seen = `${known.proxy?.instance} ${known.proxy?.models_seen} ${known.proxy?.policies.generation}`;
    if (known.proxy && seen !== this.models_seen) {
      this.models_seen = seen;
      this.loadModels();
    }
  }

  async loadModels() {
    try {
      const { data } = await getJson("/v1/models");
      this.set({ models: data });
    } catch {
      this.models_seen = null; // the next event asks again
    }
  }

  /** A key was given. */
  login(given) {
    key.set(given);
    this.set({ phase: "connecting", why: "" });
    this.again?.();
  }

  logout() {
    key.set("");
    location.reload();
  }
}
