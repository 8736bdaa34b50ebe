// Options whose names are misspelt.

/** Why `options` cannot be read: it is no object, or one of its names is none of `known`. Null if it can. */
export function faultOfNames(options: unknown, known: readonly string[]): string | null {
  if (typeof options !== 'object' || options === null) return `give the options as an object: { ${known.slice(0, 2).join(', ')}, ... }`;
  const strange = Object.keys(options).find((name) => !known.includes(name));
  if (strange === undefined) return null;
  const meant = closest(strange, known);
  return `${JSON.stringify(strange)} is no option; ${meant === null ? `the options are ${known.join(', ')}` : `did you mean ${meant}?`}`;
}

/** The name that was probably meant, if one is close enough. */
function closest(wrong: string, known: readonly string[]): string | null {
  let [best, least] = [null as string | null, Infinity];
  for (const name of known) {
    const edits = distance(wrong.toLowerCase(), name.toLowerCase());
    if (edits < least && edits <= 1 + Math.max(name.length, wrong.length) / 4) [best, least] = [name, edits];
  }
  return best;
}

/** The letters to insert, remove or replace (Levenshtein 1965). */
function distance(one: string, other: string): number {
  let row = Array.from({ length: other.length + 1 }, (_, at) => at);
  for (const [i, letter] of [...one].entries()) {
    const next = [i + 1];
    for (let j = 0; j < other.length; j += 1) {
      next.push(Math.min((row[j + 1] ?? 0) + 1, (next[j] ?? 0) + 1, (row[j] ?? 0) + (letter === other[j] ? 0 : 1)));
    }
    row = next;
  }
  return row.at(-1) ?? 0;
}
