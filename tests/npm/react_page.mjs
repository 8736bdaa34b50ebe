// Follows docs/react.md as a newcomer would: an app as Vite's template react-ts makes it, the page's files and
// commands in it as they are, then Chromium. Only ports are replaced, and the packages come from `npm pack`
// in place of the registry.
//
//   node tests/npm/react_page.mjs target/debug/tidegate
//
// Needs both packages of clients/ built, and examples/dashboard installed, whose React and Vite it takes.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

import { launch } from './browser.mjs';
import { freePort, Gateway, until } from './gateway.mjs';

const [program = 'target/debug/tidegate'] = process.argv.slice(2);
const root = fileURLToPath(new URL('../..', import.meta.url));
const text = readFileSync(join(root, 'docs/react.md'), 'utf8');

const blocks = [...text.matchAll(/(?:^<!-- (file|run): (\S+) -->\n)?^```(\w+)\n(.*?)\n^```$/gms)].map(([, kind, name, , body]) => ({ kind, name, body }));
assert.ok(blocks.every(({ kind }) => kind), 'each block has a mark, or nothing would run it');
const files = blocks.filter(({ kind }) => kind === 'file');
const commands = Object.fromEntries(blocks.filter(({ kind }) => kind === 'run').map(({ name, body }) => [name, body]));
assert.deepEqual(files.map(({ name }) => name), ['server.mjs', 'vite.config.ts', 'src/realtime.ts', 'src/App.tsx', 'src/HealthPanel.tsx', 'src/GapBanner.tsx']);
assert.deepEqual(Object.keys(commands), ['app', 'gateway', 'server', 'page', 'publish']);

const scratch = mkdtempSync(join(tmpdir(), 'tidegate-test-'));
process.once('exit', () => rmSync(scratch, { recursive: true, force: true }));
const app = join(scratch, 'my-app');

// `app`: what its three lines make.
assert.equal(commands.app, 'npm create --yes vite@latest my-app -- --template react-ts --no-interactive\ncd my-app\nnpm install @tidegate/client @tidegate/publisher');
const put = (name, body) => { mkdirSync(dirname(join(app, name)), { recursive: true }); writeFileSync(join(app, name), body); };
const ports = { 3000: freePort(), 5173: freePort() };
put('package.json', JSON.stringify({ name: 'my-app', private: true, type: 'module', scripts: { dev: `vite --port ${ports[5173]} --strictPort` } }));
put('index.html', '<!doctype html><html lang="en"><head><link rel="icon" href="data:,"><title>my-app</title></head><body><div id="root"></div><script type="module" src="/src/main.tsx"></script></body></html>');
put('src/main.tsx', `import { StrictMode } from 'react'
import { createRoot } from 'react-dom/client'
import App from './App.tsx'

createRoot(document.getElementById('root')!).render(
  <StrictMode>
    <App />
  </StrictMode>,
)
`);
put('tsconfig.json', JSON.stringify({
  compilerOptions: {
    target: 'es2023', lib: ['ES2023', 'DOM', 'DOM.Iterable'], module: 'esnext', types: ['vite/client'], skipLibCheck: true, moduleResolution: 'bundler', allowImportingTsExtensions: true,
    verbatimModuleSyntax: true, moduleDetection: 'force', noEmit: true, jsx: 'react-jsx', strict: true, noUnusedLocals: true, noUnusedParameters: true, erasableSyntaxOnly: true, noFallthroughCasesInSwitch: true,
  },
  include: ['src', 'vite.config.ts'],
}));
const installed = join(root, 'examples/dashboard/node_modules');
for (const name of readdirSync(installed).filter((each) => each === '.bin' || !/^(\.|@tidegate$)/.test(each))) {
  mkdirSync(join(app, 'node_modules'), { recursive: true });
  symlinkSync(join(installed, name), join(app, 'node_modules', name));
}
for (const [name, source] of [['client', 'typescript'], ['publisher', 'publisher']]) {
  const [{ filename }] = JSON.parse(execFileSync('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', scratch], { cwd: join(root, 'clients', source), encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }));
  const to = join(app, 'node_modules/@tidegate', name);
  mkdirSync(to, { recursive: true });
  execFileSync('tar', ['-xzf', join(scratch, filename), '-C', to, '--strip-components=1']);
}

assert.equal(commands.gateway, 'tidegate dev');
const gateway = await new Gateway(program).start();
symlinkSync(gateway.dir, join(app, '.tidegate-dev'));
mkdirSync(join(scratch, 'bin'));
symlinkSync(resolve(program), join(scratch, 'bin/tidegate'));

function filled(body) {
  return body.replaceAll('http://localhost:8080', gateway.url).replaceAll('localhost:3000', `localhost:${ports[3000]}`).replaceAll('listen(3000,', `listen(${ports[3000]},`);
}
for (const { name, body } of files) put(name, `${filled(body)}\n`);

const env = { ...process.env, PATH: `${join(scratch, 'bin')}:${process.env.PATH}` };
function run(name) {
  const shell = spawn('sh', ['-e', '-c', filled(commands[name])], { cwd: app, env, stdio: ['ignore', 'pipe', 'inherit'], detached: true });
  shell.out = '';
  shell.stdout.on('data', (chunk) => { shell.out += chunk; });
  // The whole process group: the shell and what it started.
  process.once('exit', () => { try { process.kill(-shell.pid, 'SIGKILL'); } catch { /* it has ended */ } });
  return shell;
}

execFileSync(process.execPath, ['node_modules/typescript/bin/tsc', '-p', '.'], { cwd: app, stdio: 'inherit' });
run('server');
await until('the backend', async () => (await fetch(`http://localhost:${ports[3000]}/api/token`).catch(() => null))?.ok);
run('page');
// The shell prints the command, and so the port, before Vite listens.
await until('Vite', async () => (await fetch(`http://localhost:${ports[5173]}`).catch(() => null))?.ok);

const browser = await launch();
const tab = await browser.newPage();
const errors = [];
tab.on('pageerror', (error) => errors.push(String(error)));
await tab.goto(`http://localhost:${ports[5173]}`);
const heading = () => tab.textContent('h1').catch(() => '');
const orders = () => tab.$$eval('li', (all) => all.map((item) => item.textContent));
const panel = () => tab.textContent('dl').catch(() => '');
const health = () => tab.evaluate(() => window.__realtimeMetrics());

await until('orders', async () => (await heading()) === 'Orders (connected)' && (await orders()).length >= 3);
await until('the panel', async () => /Latency, median\d+ ms/.test(await panel()));
console.log('ok: events and a health panel');

await gateway.kill();
await until('a page that reconnects', async () => (await heading()) === 'Orders (reconnecting)');
await gateway.restart();
await until('a page that is back', async () => (await heading()) === 'Orders (connected)');
const published = run('publish');
await until('an answer', () => published.exitCode !== null);
assert.equal(published.exitCode, 0, 'tidegate publish');
await until('the own event', async () => (await orders()).includes('MINE-1: 9.50 EUR'));
await until('the panel', async () => /Disconnects1/.test(await panel()));
const { totalDisconnects, duplicatesDetected, extra } = await health();
assert.deepEqual({ totalDisconnects, duplicatesDetected, holes: extra.holes, gaps: extra.gaps }, { totalDisconnects: 1, duplicatesDetected: 0, holes: 0, gaps: 0 });
console.log('ok: it resumes');

// The log is lost: all of the gateway's directory but its keys.
await gateway.kill();
for (const name of readdirSync(gateway.dir)) if (!['dev.toml', 'keys.toml'].includes(name)) rmSync(join(gateway.dir, name), { recursive: true });
await gateway.restart();
await until('the banner', async () => /Some events will not come \(epoch\)/.test(await tab.textContent('[role=alert]').catch(() => '')));
await tab.click('[role=alert] button');
await until('the page to be new', async () => !(await tab.isVisible('[role=alert]')) && (await heading()) === 'Orders (connected)' && (await orders()).length > 0);
console.log('ok: the gap');

assert.deepEqual(errors, [], 'no error in the page');
await browser.close();
process.exit();
