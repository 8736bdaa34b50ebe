// What handlers get, and how an application names the types of its events.

/**
 * The types of your events. Declare them once:
 *
 * ```ts
 * declare module '@tidegate/client' {
 *   interface Register { events: { 'invoice.paid': { amount: string } } }
 * }
 * ```
 *
 * Without it every name is allowed, and `data` is `unknown`.
 */
export interface Register {}

/** The registered events: name to type of `data`. */
export type Events = Register extends { events: infer E } ? E : Record<string, unknown>;

/** The name of an event. */
export type EventName = keyof Events & string;

/** What all events have. */
export interface EventFields {
  readonly org: string;
  readonly service: string;
  /** Identifies the event to its publisher; unique for each org, service and source. */
  readonly id: string;
  /** Its position in the org's log. */
  readonly seq: number;
  /** When the gateway accepted it (RFC 3339). */
  readonly timestamp: string;
  /** What it is about. */
  readonly key?: string;
  /** When it happened, by the publisher (RFC 3339). */
  readonly time?: string;
  /** Of a CloudEvent. */
  readonly source?: string;
  /** Of a CloudEvent. */
  readonly subject?: string;
  /** Only some users see it. */
  readonly targeted?: boolean;
  /** It was published before this connection began. */
  readonly replay: boolean;
  /** How long it took from the gateway to this client, in milliseconds; null for a replay, before the clocks are compared, and if it were above an hour (a clock was set). */
  readonly latencyMs: number | null;
}

/** An event, as handlers get it. */
export type StreamEvent<N extends EventName = EventName> = {
  [K in N]: EventFields & { readonly event: K; readonly data: Events[K] };
}[N];

/** The events of a name; those of all names for `*`. */
export type EventsOf<N extends EventName | '*'> = N extends EventName ? StreamEvent<N> : StreamEvent;

/** An event whose type does not matter. */
export interface AnyEvent extends EventFields {
  readonly event: string;
  readonly data: unknown;
}

/** The events after `from`, up to and including `to`, will not come. What the application shows may be out of date, so it should load its state again. */
export interface Gap {
  readonly org: string;
  /**
   * `retention`: they were removed from the log. `epoch`: the log was lost or replaced. `filter`: other services
   * are shown from here on. `slow_consumer`: this client was too slow, and its policy is to skip.
   */
  readonly reason: 'retention' | 'epoch' | 'filter' | 'slow_consumer' | (string & {});
  /** The last position before the gap. */
  readonly from: number;
  /** The position after which the stream goes on; may be lower than `from` if the reason is `epoch`. */
  readonly to: number;
  readonly epoch: string;
  /** For `filter`: the services that are shown from here on. */
  readonly services: readonly string[] | null;
}
