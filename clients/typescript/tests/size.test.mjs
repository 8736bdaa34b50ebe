// What the client adds to a page: minified by esbuild, compressed by gzip -9. Lower the limits when the code gets smaller.

import assert from 'node:assert/strict';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

// `dump.js` is loaded when a dump is asked for; React is there already.
async function size(contents, ...external) {
  const { outputFiles } = await build({
    stdin: { contents, resolveDir: root }, bundle: true, minify: true, format: 'esm', target: 'es2022', write: false, external: ['./dump.js', 'react', ...external],
  });
  return gzipSync(outputFiles[0].contents, { level: 9 }).length;
}

for (const [name, most, contents, ...external] of [
  ['the client with both transports', 12_100, "export { createClient } from './dist/index.js'"],
  ['one connection for all tabs, beside it', 2_550, "export * from './dist/tabs.js'", './session/session.js', './sse.js', './websocket.js'],
  ['the React hooks beside it', 1_000, "export * from './dist/react.js'", './index.js'],
]) {
  test(`${name}: at most ${most} bytes`, async (suite) => {
    const bytes = await size(contents, ...external);
    suite.diagnostic(`${name}: ${bytes} bytes`);
    assert.ok(bytes <= most, `${bytes} bytes`);
  });
}

test('what a page does not use, it does not load', async () => {
  const all = await size("export * from './dist/index.js'");
  assert.ok(await size("export { createClient } from './dist/index.js'") < all);
  assert.ok(await size("export { AuthError } from './dist/index.js'") < 300);
});
