// The times and limits of the driver; ./session/limits has those of the session, and says why they stand alone.

/** How long a client stays connected after the last `retain` is released. */
export const LINGER_MS = 1_000;

// The stored cursor.
export const PERSIST_MS = 1_000;
export const PERSIST_AGAIN_MS = 10_000;
export const RESTORE_MS = 5_000;

/** The longest time that `setTimeout` takes. */
export const TIMER_MAX_MS = 0x7fff_ffff;

// The queue of events.
export const SLICE_MS = 8; // half a frame at 60 Hz
export const COMPACT = 1_000;
