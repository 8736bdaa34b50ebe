// For acts whose failure changes nothing.

/** What `act` returns, or null if it throws. */
export function quietly<T>(act: () => T): T | null {
  try {
    return act();
  } catch {
    return null;
  }
}
