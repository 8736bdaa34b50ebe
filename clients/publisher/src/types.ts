// What users of the package see: events, options, outcomes.

/** Which event carries which data. Give your own to `createPublisher<MyEvents>()`; by default any name and any data. */
export type EventMap = Record<string, unknown>;

interface Event<Name extends string, Data> {
  service: string;
  event: Name;
  data: Data;
  /** Identifies it, within the org and service. Default: a UUIDv7, made before the first try. */
  id?: string | undefined;
  /** What it is about, such as `invoice-42`. */
  key?: string | undefined;
  /** Only these users see it. */
  users?: readonly string[] | undefined;
  /** When it happened; RFC 3339 if it is text. */
  time?: string | Date | undefined;
  /** Required if the publisher has no `org`. */
  org?: string | undefined;
}

/** An event, as the gateway takes it (PROTOCOL.md, "Publishing"). */
export type PublishEvent<Events extends object = EventMap> = {
  [Name in keyof Events & string]: Event<Name, Events[Name]>;
}[keyof Events & string];

/** One faulty field of an event. */
export interface FieldError {
  /** An RFC 6901 pointer into this event: `/service`, `/data/amount`. Empty: the event itself. */
  pointer: string;
  code: string;
  detail: string;
  /** The key of the gateway's configuration, if the field is over a limit. */
  limit?: string;
}

/** The gateway has it: stored by this publish, or by an earlier one of the same id. */
export interface Stored {
  status: 'stored' | 'duplicate';
  id: string;
  seq: number;
  /** The position of this event: a reader that starts there sees what follows it. */
  cursor: string;
  /** In how many requests the event was sent. */
  attempts: number;
}

/** It may be stored or not. To find out, publish it again with this `id`: it is stored once. */
export interface Unknown {
  status: 'unknown';
  id: string;
  /** What the last try ended with: a code of the gateway, or one of {@link OwnCode}. */
  code: string;
  detail: string;
  attempts: number;
}

/** It is not stored. */
export interface Refused {
  status: 'refused';
  id: string;
  /** A code of the gateway (PROTOCOL.md, "Codes"), `http_<status>` if something else answered, or an {@link OwnCode}. */
  code: string;
  /** One sentence. */
  detail: string;
  /** False: the same event would be refused again. True: the publisher has given up, later it may be stored. */
  retryable: boolean;
  /** The first faulty field, as a pointer into this event. */
  pointer?: string;
  /** All faulty fields of this event. */
  errors?: readonly FieldError[];
  /** The key of the gateway's configuration whose limit was reached. */
  limit?: string;
  attempts: number;
}

export type Outcome = Stored | Unknown | Refused;

/**
 * The codes that this package gives itself:
 * - `unreachable`: no answer came within `retryForMs` (no connection, or a broken one)
 * - `certificate`: the gateway's TLS certificate is not accepted, so nothing was sent. Final, as a wrong key is
 * - `expired`: it waited in the queue for `retryForMs`
 * - `queue_full`: `tryPublish` found no room
 * - `closed`, `aborted`: `close()` was called, the `signal` aborted
 * - `not_an_event`: the event is no object, or JSON cannot hold it (a BigInt, a circle, a function as `data`); see `detail`
 */
export type OwnCode = 'unreachable' | 'certificate' | 'expired' | 'queue_full' | 'closed' | 'aborted' | 'not_an_event';

/** Gets sentences for operators. They hold no key and no data of an event. */
export interface Logger {
  warn(message: string): void;
}

/** For tests. */
export interface Clock {
  /** Milliseconds that only rise. */
  now(): number;
  /** Milliseconds since 1970. */
  wall(): number;
  setTimeout(run: () => void, ms: number): unknown;
  clearTimeout(timer: unknown): void;
}

export interface PublisherOptions<Events extends object = EventMap> {
  /** The gateway's address, such as `https://events.example.com`. */
  url: string;
  /** An API key: `tgk_...`. */
  key: string;
  /** The org of all events. Without it each event names its own. */
  org?: string | undefined;
  /** Events in one request. Default 100. */
  maxBatch?: number | undefined;
  /** The size of a request's body. Default 512 KiB. An event that is longer is sent alone. */
  maxBatchBytes?: number | undefined;
  /** How long an event waits for others to share its request. Default 5 ms. */
  maxDelayMs?: number | undefined;
  /** Events that are not settled yet. Default 10,000. If there are so many, `publish` waits. */
  maxQueue?: number | undefined;
  /** The same in bytes of JSON. Default 64 MiB. */
  maxQueueBytes?: number | undefined;
  /**
   * How long after `publish` an event is still tried. Default 4 minutes. With `requestTimeoutMs` it must be less
   * than `dedupWindowMs`.
   */
  retryForMs?: number | undefined;
  /** How long one request may take. Default 30 s. */
  requestTimeoutMs?: number | undefined;
  /**
   * The gateway's `dedup.window`: how long it remembers the id of an event. Default 5 minutes, as in the gateway. A
   * retry after that could store the event a second time. Give a longer one only if the gateway has it.
   */
  dedupWindowMs?: number | undefined;
  /** Ends everything at once: what is not settled becomes `unknown` or `refused` with the code `aborted`. */
  signal?: AbortSignal | undefined;
  /** Called with each outcome, before the promise of `publish` settles. What it throws is logged. */
  onOutcome?: ((outcome: Outcome, event: PublishEvent<Events>) => void) | undefined;
  logger?: Logger | undefined;
  /** Default: the global `fetch`. */
  fetch?: typeof fetch | undefined;
  clock?: Clock | undefined;
  /** A number from 0 to 1, without 1. Default: `Math.random`. */
  random?: (() => number) | undefined;
}

export interface Publisher<Events extends object = EventMap> {
  /**
   * Sends an event. The promise never rejects. If the queue is full, the event first waits for room, behind those
   * that waited before it.
   */
  publish(event: PublishEvent<Events>): Promise<Outcome>;
  /** The same, but if the queue is full, the event is refused at once with `queue_full`. */
  tryPublish(event: PublishEvent<Events>): Promise<Outcome>;
  /** Resolves when the queue has room, or when the publisher is closed. For loops that do not await `publish`. */
  ready(): Promise<void>;
  /** Sends now what waits for others. Resolves when all events that were published before the call are settled. */
  flush(): Promise<void>;
  /**
   * Takes no more events and flushes. What is not settled after `timeoutMs` (default 10 s) is given up. Resolves to
   * the outcomes of the events that were given up, in the order in which they were published.
   */
  close(options?: { timeoutMs?: number }): Promise<readonly Outcome[]>;
  /** Events that are not settled yet, without those that wait for room. */
  readonly pending: number;
}
