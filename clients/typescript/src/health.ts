// The health of a client, and where a page shows it.

import type { Session } from './session/session.js';
import type { ConnectionState, Phase } from './session/types.js';
import type { TransportKind } from './transport.js';

/** The health of a client. Times are milliseconds since 1970. */
export interface Health {
  readonly connectionState: ConnectionState;
  readonly lastConnectedAt: number | null;
  readonly lastDisconnectedAt: number | null;
  readonly totalDisconnects: number;
  /** Since the connection was last stable, that is, live for 10 s. */
  readonly reconnectAttempts: number;
  readonly eventsReceived: number;
  /** From the gateway to here, of the last 100 live events; corrected for the difference of the clocks. */
  readonly eventLatencyMs: readonly number[];
  readonly duplicatesDetected: number;
  readonly lastEventAt: number | null;
  readonly extra: HealthExtra;
}

/** Beyond the nine. */
export interface HealthExtra {
  readonly org: string;
  readonly phase: Phase;
  readonly transport: TransportKind | null;
  readonly retryAt: number | null;
  /** The shortest round trip of the last eight. */
  readonly rttMs: number | null;
  /** The gateway's clock minus this one, and how far that may be wrong. */
  readonly clockOffsetMs: number | null;
  readonly clockErrorMs: number | null;
  /** Percentiles of `eventLatencyMs`. */
  readonly p50: number | null;
  readonly p95: number | null;
  /** Events that wait for handlers. */
  readonly queue: number;
  /** Events that came again after a resume, and events that came again under another position after a gap of reason `epoch`. */
  readonly overlaps: number;
  readonly repeats: number;
  /** Frames that were found missing; the client resumed before them. */
  readonly holes: number;
  readonly gaps: number;
  readonly lastClose: { readonly code: string; readonly message: string; readonly at: number } | null;
  readonly version: string;
}

export const VERSION = '0.1.0';

/** What only the driver knows. */
export type Around = Pick<HealthExtra, 'org' | 'transport' | 'retryAt' | 'queue' | 'lastClose'>;

export function health(session: Session, around: Around): Health {
  const s = session.state;
  const clock = session.clock();
  const sorted = [...s.latencies].sort((a, b) => a - b);
  const percentile = (share: number) => sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? null;
  return {
    connectionState: session.connectionState(),
    lastConnectedAt: s.connected_wall,
    lastDisconnectedAt: s.disconnected_wall,
    totalDisconnects: s.disconnects,
    reconnectAttempts: s.attempt,
    eventsReceived: s.events,
    eventLatencyMs: [...s.latencies],
    duplicatesDetected: s.overlaps + s.repeats,
    lastEventAt: s.event_wall,
    extra: {
      ...around,
      phase: s.phase,
      rttMs: clock?.rtt ?? null,
      // The session compares with the monotonic clock.
      clockOffsetMs: clock ? clock.offset + s.last_now - s.last_wall : null,
      clockErrorMs: clock && clock.rtt / 2,
      p50: percentile(0.5), p95: percentile(0.95),
      overlaps: s.overlaps, repeats: s.repeats, holes: s.holes, gaps: s.gaps,
      version: VERSION,
    },
  };
}

/** What stands in the page: a function that gives the health of the first client, with that of all in `clients`. */
interface Shown {
  (): Health | undefined;
  readonly clients: Health[];
  readonly sources: Set<() => Health>;
}

/** Shows a client's health under a name of the window; returns how to take it away. */
export function show(key: string, source: () => Health): () => void {
  const page = (globalThis as unknown as { window?: Record<string, unknown> }).window;
  if (!page) return () => {};
  let shown = page[key] as Shown | undefined;
  if (!shown?.sources) {
    const sources = new Set<() => Health>();
    const first = () => [...sources][0]?.();
    Object.defineProperty(first, 'clients', { get: () => [...sources].map((ask) => ask()) });
    page[key] = shown = Object.assign(first, { sources }) as unknown as Shown;
  }
  const { sources } = shown;
  sources.add(source);
  return () => {
    sources.delete(source);
    if (sources.size === 0 && page[key] === shown) delete page[key];
  };
}
