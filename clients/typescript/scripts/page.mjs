// Builds the client for the page of `tidegate dev`: crates/tidegate-server/assets/client.js, which is committed,
// because the gateway is compiled with it.
//
//   npm run page              writes it
//   npm run page -- --check   fails if it is stale
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { build } from 'esbuild';

const root = join(import.meta.dirname, '..');
const file = join(root, '../../crates/tidegate-server/assets/client.js');
const entry = `
  export { AuthError, createClient, eventStream, webSocket } from './src/index.ts';
  export { formatCursor, parseCursor } from './src/session/session.ts';
`;
const { outputFiles } = await build({
  stdin: { contents: entry, resolveDir: root }, bundle: true, minify: true, format: 'esm', target: 'es2022', write: false, charset: 'utf8',
  banner: { js: '// Built from clients/typescript (npm run page). Do not edit.' },
});
const [{ text }] = outputFiles;
if (!process.argv.includes('--check')) writeFileSync(file, text);
else if (readFileSync(file, 'utf8') !== text) {
  console.error('crates/tidegate-server/assets/client.js is not what clients/typescript builds: run `npm run page` there');
  process.exit(1);
}
