// The same script under Node, Bun and Deno, against a server that breaks connections: their `fetch` words faults
// differently. A runtime that is not there is skipped. DENO names a Deno that is not in the path.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { answer, refuse, reset, resetInTheMiddle, ScriptedServer } from './scripted_server.mjs';

const path = (from) => fileURLToPath(new URL(from, import.meta.url));
const buns = ['x64', 'aarch64'].map((machine) => path(`../../../tests/npm/node_modules/@oven/bun-linux-${machine}/bin/bun`));
const RUNTIMES = {
  node: [process.execPath],
  bun: [buns.find((bun) => existsSync(bun)) ?? 'bun', 'run'],
  deno: [process.env.DENO ?? 'deno', 'run', '--allow-net', '--allow-env'],
};

/** Of a CA that the runtimes trust here, all but the last. */
const CERTIFICATES = ['good', 'expired', 'early', 'other_name', 'untrusted'];
const pem = (name) => path(`../../../spec/certificates/${name}.pem`);
const CA = { NODE_EXTRA_CA_CERTS: pem('ca'), DENO_CERT: pem('ca') };

/** An https server with this certificate that answers with 401. */
async function secure(t, name) {
  const server = createServer({ key: readFileSync(pem('key')), cert: readFileSync(pem(name)) }, (request, response) => {
    refuse(401, 'unauthorized')(response);
  });
  await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
  t.after(() => { server.closeAllConnections(); server.close(); });
  return `https://127.0.0.1:${server.address().port}`;
}

for (const [name, [program, ...words]] of Object.entries(RUNTIMES)) {
  const version = spawnSync(program, ['--version'], { encoding: 'utf8' }).stdout?.split('\n')[0];
  test(`${name} ${version ?? ''}`, { skip: version === undefined && 'it is not installed' }, async (t) => {
    const server = await new ScriptedServer().start(t);
    const closed = await new ScriptedServer().start(t);
    await closed.stop();
    server.next(reset, resetInTheMiddle, refuse(503, 'draining', {}, { 'retry-after': '0' }), answer(302, '', { location: '/elsewhere' }));
    const secured = await Promise.all(CERTIFICATES.map((certificate) => secure(t, certificate)));
    const plain = server.url.replace('http:', 'https:');
    const child = spawn(program, [...words, path('./runtime_script.mjs'), server.url, closed.url, plain, ...secured], {
      env: { ...process.env, ...CA }, stdio: ['ignore', 'pipe', 'inherit'],
    });
    let out = '';
    child.stdout.on('data', (chunk) => { out += chunk; });
    assert.equal(await new Promise((resolve) => { child.once('close', resolve); }), 0);
    assert.deepEqual(out.trim().split('\n'), [
      'unknown http_0 or http_302 after 4',
      'stored after 1', 'stored after 1',
      'refused unreachable',
      'unknown unreachable',
      'unknown aborted',
      'token 3',
      'refused unreachable, later perhaps',
      'refused unauthorized after 1',
      'refused certificate after 1: the certificate of URL has expired: renew it, or set the clock of this machine right',
      'refused certificate after 1: the certificate of URL is not valid yet: replace it, or set the clock of this machine right',
      'refused certificate after 1: the certificate of URL is for another name: give the name that it is for as the url, or get a certificate for this one',
      'refused certificate after 1: the certificate of URL comes from no CA that this process trusts: name the file of the CA in NODE_EXTRA_CA_CERTS (in Deno: DENO_CERT)',
    ]);
  });
}
