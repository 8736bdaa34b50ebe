// What is thrown: said in words, or ignored.

export const words = (thrown: unknown): string => (thrown instanceof Error ? thrown.message : String(thrown));

/** What `act` returns, or null if it throws. */
export function quietly<T>(act: () => T): T | null {
  try {
    return act();
  } catch {
    return null;
  }
}
