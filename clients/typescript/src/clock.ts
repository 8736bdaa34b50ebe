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

interface Scheduler { yield?: () => Promise<void> }

/** Lets the page do other things, and comes back as soon as it can. */
export function nextTurn(): Promise<void> {
  const { scheduler, setImmediate } = globalThis as { scheduler?: Scheduler; setImmediate?: (fn: () => void) => void };
  if (scheduler?.yield) return scheduler.yield();
  return new Promise((resolve) => {
    if (setImmediate) setImmediate(resolve);
    else if (typeof MessageChannel === 'function') {
      // Not delayed in hidden pages, as timers are.
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => {
        port1.close();
        resolve();
      };
      port2.postMessage(null);
    } else setTimeout(resolve, 0);
  });
}
