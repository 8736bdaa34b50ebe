// The named test vectors, by subject. `WRITE_VECTORS=1 node --test tests/session` writes them to spec/vectors.

const SUBJECTS = ['connect', 'continuity', 'hello', 'gap', 'dedup', 'backoff', 'errors', 'late', 'token', 'wake', 'transport', 'slow', 'fill', 'health'];

export const files = {};
for (const subject of SUBJECTS) files[subject] = (await import(`./named/${subject}.mjs`)).default;
