// Time, as the client takes it. A test gives another one (./testing, `manualClock`).

/** A clock and a timer. */
export interface Clock {
  /** Monotonic milliseconds. */
  now(): number;
  /** Milliseconds since 1970. */
  wall(): number;
  /** Calls `fn` once, after `ms`; returns how to call it off. */
  after(ms: number, fn: () => void): () => void;
}

/** The platform's clock. With `keepAlive` false, its timer does not keep a process of Node running. */
export function systemClock(keepAlive = true): Clock {
  return {
    now: () => performance.now(),
    wall: () => Date.now(),
    after: (ms, fn) => {
      const timer: unknown = setTimeout(fn, ms);
      if (!keepAlive) (timer as { unref?: () => void }).unref?.();
      return () => clearTimeout(timer as number);
    },
  };
}

/** Lets the page draw and the sockets speak, and then comes back. */
export function nextTurn(): Promise<void> {
  const { setImmediate, document } = globalThis as { setImmediate?: (fn: () => void) => void; document?: Document };
  return new Promise((resolve) => {
    if (setImmediate) setImmediate(resolve);
    else if (document?.hidden) {
      // Timers of hidden pages come once a second. In a page that is seen, messages (and `scheduler.yield`) come
      // before the drawing and starve it.
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => {
        port1.close();
        resolve();
      };
      port2.postMessage(null);
    } else setTimeout(resolve, 0);
  });
}
