// What waits for handlers. It is handed over one after the other, in slices, so that a page keeps answering.

import { nextTurn, type Clock } from './clock.js';
import { COMPACT, SLICE_MS } from './limits.js';

export interface Queue<T> {
  /** How many wait, with the one that is being handled. */
  size(): number;
  /** The last one of them. */
  last(): T | undefined;
  push(item: T): void;
  /** Begins to hand over, if that is not under way. */
  drain(): void;
  clear(): void;
}

/** `handle` returns a promise only if the next item has to wait for it; `empty` is called when nothing is left. */
export function queue<T>(clock: Clock, handle: (item: T) => Promise<unknown> | undefined, handled: (item: T) => void, empty: () => void): Queue<T> {
  let items: T[] = [];
  let head = 0;
  let isBusy = false;

  const goOn = () => {
    isBusy = false;
    drain();
  };

  function done() {
    const item = items[head];
    if (item === undefined) return; // cleared meanwhile
    head += 1;
    if (head === items.length || head > COMPACT) {
      items = items.slice(head);
      head = 0;
    }
    handled(item);
  }

  function drain() {
    if (isBusy) return;
    isBusy = true;
    const until = clock.now() + SLICE_MS;
    for (let item = items[head]; item !== undefined; item = items[head]) {
      const wait = handle(item);
      if (wait) return void wait.then(done).then(goOn);
      done();
      if (clock.now() >= until) return void nextTurn().then(goOn);
    }
    isBusy = false;
    empty();
  }

  return {
    size: () => items.length - head,
    last: () => items.at(-1),
    push: (item) => void items.push(item),
    drain,
    clear: () => {
      items = [];
      head = 0;
    },
  };
}
