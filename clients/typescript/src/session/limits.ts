// The times and limits of a session. They stand in a file that imports nothing: bundlers then write the numbers
// where they are used.

// Attempts (./attempt).
export const JITTER_MS = 5_000;
export const DELAY_MIN_MS = 1_000;
export const HINT_MAX_MS = 86_400_000; // more than a day is taken for a mistake
export const OPEN_MS = 10_000;
export const HELLO_MS = 10_000;
export const STABLE_MS = 10_000;
export const SHORT_MS = 5_000; // what cuts a transport on the way does it soon

/** Close codes of this client: it needs no more; something went wrong. */
export const CLOSE_DONE = 1000;
export const CLOSE_FAULT = 4000;

// Tokens (./token).
export const TOKEN_MS = 15_000;
export const REFRESH_MIN_MS = 1_000;
export const REFRESH_AGAIN_MIN_MS = 5_000;
export const REFRESH_AGAIN_MAX_MS = 60_000;
export const REFUSALS_MAX = 3;
/** How long a token is taken for good if nobody says. */
export const UNCONFIRMED_MS = 60_000;

// Frames and pings (./stream, ./clock).
export const PING_INTERVAL_MS = 25_000;
export const PING_INTERVAL_MAX_MS = 3_600_000;
export const SILENCE_MS = 10_000; // beyond a ping interval
export const PROBE_MS = 5_000;
export const PING_MIN_MS = 1_000;
export const SAMPLES_MAX = 8;
export const JUMP_MS = 2_000; // the machine slept, or a timer came late
export const REPORT_MS = 30_000;
export const COUNT_MAX = 1_000_000;
export const LATENCY_MAX_MS = 3_600_000; // the bound of a report

// Deliveries and pages of history (./delivery).
export const DEDUP_MS = 300_000;
export const GENERATION_MS = 60_000;
export const GENERATION_KEYS = 2_000;
export const KEYS_MAX = 10_000;
export const PAGE_MS = 15_000;
export const HELD_MAX = 5_000;
export const LATENCIES_MAX = 100;
