// Every example of README.md is compiled strictly, then run over a gateway in memory.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build } from 'esbuild';
import { createElement } from 'react';
import { renderToString } from 'react-dom/server';
import * as real from '../dist/index.js';
import { fakeTransport, settled } from '../dist/testing.js';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const dir = join(root, 'tests', 'readme-examples');
const blocks = [...readFileSync(join(root, 'README.md'), 'utf8').matchAll(/^```(\w+)\n([\s\S]*?)^```$/gm)].map(([, language, code], index) => ({ language, code, name: `example${index + 1}` }));

before(() => {
  rmSync(dir, { recursive: true, force: true });
  mkdirSync(dir, { recursive: true });
  for (const { language, code, name } of blocks) writeFileSync(join(dir, `${name}.${language}`), `${code}\nexport {};\n`);
  // What the examples take from elsewhere and this package does not install.
  writeFileSync(join(dir, 'elsewhere.d.ts'), `
    declare module 'react-native' {
      export const AppState: { addEventListener(name: 'change', act: (state: 'active' | 'background' | 'inactive') => void): { remove(): void } };
    }
    declare module 'ws' {
      import type { WebSocketConstructor } from '@tidegate/client';
      const WebSocket: WebSocketConstructor;
      export default WebSocket;
    }
  `);
  // The types that the second example registers are kept to.
  writeFileSync(join(dir, 'kept.ts'), `
    import { createClient, type EventsOf, type StreamEvent } from '@tidegate/client';
    const client = createClient({ url: 'https://gateway.test', org: 'acme', getToken: () => 't' });
    client.on('invoice.paid', ({ data }) => data.amount.padStart(3));
    // @ts-expect-error: no such event
    client.on('invoice.payed', () => {});
    // @ts-expect-error: no such field
    client.on('invoice.paid', ({ data }) => data.amuont);
    // @ts-expect-error: a number has no padStart
    client.on('order.shipped', ({ data }) => data.order.padStart(3));
    client.on('*', (event) => (event.event === 'order.shipped' ? event.data.order.toFixed() : event.data.amount.padStart(3)));
    export const one: StreamEvent<'invoice.paid'>['data']['amount'] = 'text';
    export const any = (event: EventsOf<'*'>): 'invoice.paid' | 'order.shipped' => event.event;
    for await (const { data } of client.events('order.shipped')) data.order.toFixed();
  `);
  const base = JSON.parse(readFileSync(join(root, 'tsconfig.json'), 'utf8')).compilerOptions;
  writeFileSync(join(dir, 'tsconfig.json'), JSON.stringify({
    compilerOptions: { ...base, noEmit: true, declaration: false, rootDir: '..', noUnusedLocals: false, types: ['node'], skipLibCheck: true },
    include: ['.'],
  }));
});
after(() => rmSync(dir, { recursive: true, force: true }));

test('all examples are compiled', () => {
  assert.ok(blocks.length >= 11);
  assert.ok(blocks.every(({ language }) => language === 'ts' || language === 'tsx'), 'blocks in other languages would not be tested');
  try {
    execFileSync(process.execPath, [createRequire(import.meta.url).resolve('typescript/bin/tsc'), '-p', dir], { encoding: 'utf8' });
  } catch (error) {
    assert.fail(error.stdout);
  }
});

const APP = `
export * from '${join(root, 'dist/index.js')}';
export const createClient = (options) => globalThis.exampleClient(options);
`;

for (const { language, code, name } of blocks) {
  const first = code.split('\n').find((line) => line && !line.startsWith('import')) ?? '';
  test(`${name} runs: ${first}`, async () => {
    const gateways = [];
    const clients = [];
    globalThis.exampleClient = (options) => {
      const gateway = options.transports?.find((transport) => 'publish' in transport) ?? fakeTransport();
      const client = real.createClient({ ...options, transports: [gateway] });
      gateways.push(gateway);
      clients.push(client);
      return client;
    };
    const asked = [];
    const { fetch } = globalThis;
    globalThis.fetch = async (url) => {
      asked.push(String(url));
      return Response.json({ token: 'a-token' });
    };
    const { timeout } = AbortSignal;
    AbortSignal.timeout = () => timeout(50);
    try {
      await build({
        entryPoints: [join(dir, `${name}.${language}`)], outfile: join(dir, `${name}.mjs`), bundle: true, format: 'esm', platform: 'node', jsx: 'automatic', logLevel: 'silent',
        external: ['react', 'react/*', 'swr', '@tanstack/*', 'zod', 'node:*'],
        plugins: [{
          name: 'the client over a gateway in memory',
          setup({ onResolve, onLoad }) {
            onResolve({ filter: /^@tidegate\/client$/ }, () => ({ path: 'client', namespace: 'example' }));
            onResolve({ filter: /^(ws|react-native)$/ }, ({ path }) => ({ path, namespace: 'example' }));
            onLoad({ filter: /^client$/, namespace: 'example' }, () => ({ contents: APP, resolveDir: root }));
            onLoad({ filter: /^ws$/, namespace: 'example' }, () => ({ contents: 'export default class {}' }));
            onLoad({ filter: /^react-native$/, namespace: 'example' }, () => ({ contents: 'export const AppState = { addEventListener: () => ({ remove() {} }) };' }));
          },
        }],
      });
      const module = await import(pathToFileURL(join(dir, `${name}.mjs`)));
      // What an example made must work: connected, it gets an event.
      for (const client of clients.filter(({ cursor }) => cursor === null)) client.connect();
      await settled();
      for (const [index, client] of clients.entries()) {
        if (code.includes('dispose()')) continue;
        assert.equal(client.getStatus().state, 'connected');
        const seen = [];
        client.on('*', (event) => seen.push(event));
        gateways[index].publish({ event: 'invoice.paid', data: { amount: '12.00' } });
        await settled();
        assert.equal(seen.length, 1);
      }
      if (code.includes("fetch('/api/token'")) assert.match(asked[0], /^\/api\/token/);
      const Component = module.default ?? module.Realtime;
      if (Component) assert.equal(typeof renderToString(createElement(Component)), 'string');
    } finally {
      for (const client of clients) client.dispose();
      Object.assign(globalThis, { fetch });
      AbortSignal.timeout = timeout;
    }
  });
}
