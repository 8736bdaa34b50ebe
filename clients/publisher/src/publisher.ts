// Drives the queue: one request at a time, timers, back-pressure, the end. `createPublisher` is what users call.

import { read, type Verdict, type Why } from './answer.js';
import type { Fault } from './fault.js';
import { uuidV7 } from './id.js';
import { type Entry, givenUp, Queue, type Settled } from './queue.js';
import { attempt, body } from './request.js';
import { type Settings, settings } from './settings.js';
import type { Outcome, Publisher, PublisherOptions, PublishEvent } from './types.js';

const CLOSE_MS = 10_000;
/** As many orgs as a gateway takes in one request by default. */
const ORGS = 100;
/** The longest that timers can wait. */
const TIMER_MS_MAX = 2 ** 31 - 1;

interface Pending<Events extends object> extends Entry {
  readonly event: PublishEvent<Events>;
  readonly outcome: Promise<Outcome>;
  readonly resolve: (outcome: Outcome) => void;
}

/**
 * Makes a publisher for one gateway. Use one for the whole process, and `close()` it before the process ends.
 * Throws a `TypeError` if an option is wrong.
 */
export function createPublisher<Events extends object = Record<string, unknown>>(
  options: PublisherOptions<Events>,
): Publisher<Events> {
  const driver = new Driver<Events>(options, settings(options));
  return {
    publish: (event) => driver.publish(event, true),
    tryPublish: (event) => driver.publish(event, false),
    ready: () => driver.ready(),
    flush: () => driver.flush(),
    close: (how) => driver.close(how?.timeoutMs ?? CLOSE_MS),
    get pending() {
      return driver.accepted;
    },
  };
}

const verdictOf = ({ why, isKnown, isFinal }: Fault): Verdict =>
  (isFinal ? { kind: 'refused', why } : { kind: 'again', why, isKnown, askedMs: 0, among: 'request' });

class Driver<Events extends object> {
  /** Events that are accepted and not settled, and the bytes of them. */
  accepted = 0;
  #acceptedBytes = 0;
  /** The same, and those that wait for room. */
  readonly #open = new Set<Pending<Events>>();
  #waiters: Pending<Events>[] = [];
  #readers: (() => void)[] = [];

  readonly #queue: Queue<Pending<Events>>;
  #isRunning = false;
  #wake: () => void = () => {};
  #request: AbortController | null = null;
  /** While there are any, events do not wait for others. */
  #flushes = 0;

  #closing: Promise<readonly Outcome[]> | null = null;
  /** Why nothing is sent any more. */
  #ended: Why | null = null;
  readonly #givenUp: Outcome[] = [];

  constructor(
    private readonly options: PublisherOptions<Events>,
    private readonly settings: Settings,
  ) {
    const { maxBatch, maxBatchBytes, maxDelayMs } = settings;
    this.#queue = new Queue({ events: maxBatch, bytes: maxBatchBytes, orgs: ORGS, delayMs: maxDelayMs });
    if (options.signal?.aborted) this.#abort();
    else options.signal?.addEventListener('abort', this.#abort, { once: true });
  }

  readonly #abort = () => this.#end({ code: 'aborted', detail: 'the signal was aborted' });

  publish(event: PublishEvent<Events>, mayWait: boolean): Promise<Outcome> {
    const entry = this.#entry(event);
    this.#open.add(entry);
    const refusal = this.#refusal(entry, mayWait);
    if (refusal) this.#settle([[entry, refusal]]);
    else if (this.#hasRoom()) this.#accept(entry);
    else this.#waiters.push(entry);
    return entry.outcome;
  }

  #entry(event: PublishEvent<Events>): Pending<Events> {
    let resolve = (_: Outcome) => {};
    const outcome = new Promise<Outcome>((settle) => { resolve = settle; });
    const given: { id?: unknown; org?: unknown; service?: unknown; data?: unknown } = typeof event === 'object' && event !== null ? event : {};
    const id = given.id === undefined ? uuidV7(this.settings.clock.wall()) : String(given.id);
    const entry = {
      id, event, outcome, resolve,
      org: this.settings.org === null ? String(given.org) : null,
      service: String(given.service),
      at: 0, deadline: 0, attempts: 0, isInDoubt: false, last: null, group: null,
    };
    try {
      if (given !== event || Array.isArray(event)) throw new TypeError('an event is an object');
      const kind = 'data' in given ? typeof given.data : 'object';
      if (['undefined', 'function', 'symbol'].includes(kind)) {
        throw new TypeError(`data is ${kind === 'undefined' ? kind : `a ${kind}`}, which JSON cannot hold; give null if there is none`);
      }
      const bytes = new TextEncoder().encode(JSON.stringify({ ...event, id: given.id === undefined ? id : given.id }));
      return { ...entry, bytes };
    } catch (error) {
      const detail = error instanceof Error ? error.message : String(error);
      return { ...entry, bytes: new Uint8Array(), last: { code: 'not_an_event', detail } };
    }
  }

  /** Why the event does not even go into the queue. */
  #refusal(entry: Pending<Events>, mayWait: boolean): Outcome | null {
    if (this.#ended) return givenUp(entry, this.#ended);
    if (this.#closing) return givenUp(entry, { code: 'closed', detail: 'the publisher is closed' });
    if (entry.last) return { status: 'refused', id: entry.id, ...entry.last, retryable: false, attempts: 0 };
    if (mayWait || this.#hasRoom()) return null;
    const detail = `${this.accepted} events wait already, and maxQueue allows ${this.settings.maxQueue}`;
    return givenUp(entry, { code: 'queue_full', detail });
  }

  #hasRoom(): boolean {
    return this.#waiters.length === 0 && this.#isBelow(this.accepted, this.#acceptedBytes);
  }

  #isBelow(events: number, bytes: number): boolean {
    return events < this.settings.maxQueue && bytes < this.settings.maxQueueBytes;
  }

  #accept(entry: Pending<Events>) {
    entry.at = this.settings.clock.now();
    entry.deadline = entry.at + this.settings.retryForMs;
    this.accepted += 1;
    this.#acceptedBytes += entry.bytes.length;
    this.#queue.add(entry);
    if (!this.#isRunning) void this.#run();
    else if (this.#queue.isFull(entry.at)) this.#wake();
  }

  /** Sends batches until none is left. */
  async #run() {
    this.#isRunning = true;
    // What was published in the same turn of the event loop shares a request, even without a delay.
    await Promise.resolve();
    try {
      while (this.#queue.size > 0) await this.#step();
    } catch (error) {
      // Something that was injected has thrown: a clock, say.
      this.#end({ code: 'aborted', detail: `the publisher has failed: ${String(error)}` });
      for (const entry of this.#open) entry.isInDoubt ||= entry.attempts > 0;
      this.#giveUpAll();
    }
    this.#isRunning = false;
  }

  /** Waits until something is due, or sends one batch. */
  async #step() {
    const { clock } = this.settings;
    if (this.#ended) return this.#giveUpAll();
    const now = clock.now();
    const late = this.#queue.expire(now);
    if (late.length > 0) return this.#settle(late);
    const due = this.#queue.deadline(now, this.#flushes > 0) ?? now;
    if (due > now) return this.#sleep(due - now);
    await this.#send(this.#queue.take(now));
  }

  async #send(batch: Pending<Events>[]) {
    const { clock, requestTimeoutMs, random } = this.settings;
    const request = new AbortController();
    this.#request = request;
    const late = clock.setTimeout(() => request.abort(`it took longer than ${requestTimeoutMs} ms`), requestTimeoutMs);
    const tried = await attempt(this.settings.fetch, this.settings.address, this.settings.key, body(batch), request.signal);
    clock.clearTimeout(late);
    this.#request = null;
    const verdicts = tried.kind === 'answer'
      ? read(tried.answer, batch, clock.wall())
      : batch.map(() => verdictOf(tried.fault));
    const settled = this.#queue.settle(batch, verdicts, clock.now(), random);
    this.#log(batch.length - settled.length, settled, verdicts);
    this.#settle(settled);
  }

  #sleep(ms: number): Promise<void> {
    const { clock } = this.settings;
    return new Promise((resolve) => {
      const timer = clock.setTimeout(() => this.#wake(), Math.min(Math.ceil(ms), TIMER_MS_MAX));
      this.#wake = () => {
        this.#wake = () => {};
        clock.clearTimeout(timer);
        resolve();
      };
    });
  }

  #settle(settled: readonly Settled<Pending<Events>>[]) {
    for (const [entry, outcome] of settled) {
      this.#open.delete(entry);
      if (entry.deadline > 0) {
        this.accepted -= 1;
        this.#acceptedBytes -= entry.bytes.length;
      }
      try {
        this.options.onOutcome?.(outcome, entry.event);
      } catch (error) {
        this.#warn(`onOutcome threw: ${String(error)}`);
      }
      entry.resolve(outcome);
    }
    this.#admit();
  }

  /** Gives the room that there is to those that wait for it. */
  #admit() {
    let [taken, bytes] = [0, this.#acceptedBytes];
    for (; taken < this.#waiters.length && this.#isBelow(this.accepted + taken, bytes); taken += 1) {
      bytes += this.#waiters[taken]?.bytes.length ?? 0;
    }
    for (const entry of this.#waiters.splice(0, taken)) this.#accept(entry);
    if (!this.#closing && !this.#ended && !this.#hasRoom()) return;
    const readers = this.#readers;
    this.#readers = [];
    for (const resume of readers) resume();
  }

  ready(): Promise<void> {
    if (this.#closing || this.#ended || this.#hasRoom()) return Promise.resolve();
    return new Promise((resolve) => { this.#readers.push(resolve); });
  }

  async flush() {
    this.#flushes += 1;
    this.#wake();
    await Promise.all([...this.#open].map((entry) => entry.outcome));
    this.#flushes -= 1;
  }

  close(timeoutMs: number): Promise<readonly Outcome[]> {
    this.#closing ??= this.#close(timeoutMs);
    return this.#closing;
  }

  async #close(timeoutMs: number): Promise<readonly Outcome[]> {
    const { clock } = this.settings;
    const late = clock.setTimeout(() => {
      this.#end({ code: 'closed', detail: `the publisher was closed, and ${timeoutMs} ms later it was not stored` });
    }, timeoutMs);
    // After this turn, so that `#closing` is set when those who wait for room are let go.
    await Promise.resolve();
    this.#admit();
    await this.flush();
    clock.clearTimeout(late);
    this.options.signal?.removeEventListener('abort', this.#abort);
    return this.#givenUp;
  }

  /** From here on nothing is sent. */
  #end(why: Why) {
    this.#ended ??= why;
    this.#request?.abort(why.detail);
    this.#wake();
    if (!this.#isRunning) this.#admit();
  }

  #giveUpAll() {
    const why = this.#ended;
    if (!why) return;
    this.#waiters = [];
    this.#queue.clear();
    const left = [...this.#open].map((entry): Settled<Pending<Events>> => [entry, givenUp(entry, why)]);
    this.#givenUp.push(...left.map(([, outcome]) => outcome));
    this.#settle(left);
  }

  #log(again: number, settled: readonly Settled<Pending<Events>>[], verdicts: readonly { kind: string; why?: Why }[]) {
    if (!this.options.logger || this.#ended) return;
    const why = verdicts.find(({ kind }) => kind === 'again' || kind === 'split')?.why;
    if (why) this.#warn(`${again} of ${verdicts.length} events are sent again: ${why.code}: ${why.detail}`);
    const refused = settled.flatMap(([, outcome]) => (outcome.status === 'refused' ? outcome : []));
    const [first] = refused;
    if (first) this.#warn(`${refused.length} of ${verdicts.length} events are refused: ${first.code}: ${first.detail}`);
  }

  #warn(message: string) {
    try {
      this.options.logger?.warn(message);
    } catch {
      // A logger that throws is no reason to stop.
    }
  }
}
