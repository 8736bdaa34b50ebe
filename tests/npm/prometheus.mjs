// What packaging/ has for Prometheus and Grafana, against gateways.
//
// - The text of /metrics passes `promtool check metrics`.
// - Each alert fires for what it is about, and no other one with it; on a busy gateway that refuses some
//   requests none fires. Rules look at minutes and hours, so `promtool test rules` plays them: a scenario scrapes
//   a real gateway before and after something happens, and what was counted in between then happens again in each
//   minute of two hours. The rules are those of the file, with their own ranges and `for:`.
// - A real Prometheus scrapes a busy gateway and loads the rules; each query of each panel returns data.
//
// Usage: node prometheus.mjs <path of the tidegate binary>
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import WS from 'ws';
import { Gateway, freePort, until } from './gateway.mjs';

const [program] = process.argv.slice(2);
const packaging = join(dirname(fileURLToPath(import.meta.url)), '../../packaging');
const rules = join(packaging, 'prometheus/rules.yml');
process.setMaxListeners(100); // each gateway has some
const dir = mkdtempSync(join(tmpdir(), 'tidegate-prometheus-'));
const children = [];
process.once('exit', () => {
  for (const child of children) child.kill('SIGKILL');
  rmSync(dir, { recursive: true, force: true });
});

const promtool = (...words) => execFileSync('promtool', words, { encoding: 'utf8', stdio: ['pipe', 'pipe', 'pipe'] });
const start = (...settings) => new Gateway(program, '--no-feed', ...settings.flatMap((setting) => ['--set', setting])).start();
const text = async (gateway) => (await fetch(`${gateway.admin_url}/metrics`)).text();
const metric = async (gateway, series) => Number((await text(gateway)).split('\n').find((line) => line.startsWith(`${series} `)).split(' ').at(-1));

/** A request for something of the org; `key` is a token or an API key. */
const ask = (gateway, end, key = gateway.token, init = {}) => fetch(`${gateway.url}/v1/orgs/${gateway.org}/${end}`, {
  ...init, headers: { authorization: `Bearer ${key}`, ...init.headers },
});
const post = (gateway, body, key = gateway.publish_key) => ask(gateway, 'events', key, {
  method: 'POST', headers: { 'content-type': 'application/json' }, body: typeof body === 'string' ? body : JSON.stringify(body),
});
const event = (data, more = {}) => ({ service: 'finance', event: 'e', data, ...more });

/** An event stream; `next` waits for a frame of this type. */
async function stream(gateway, query = '', token = gateway.token) {
  const answer = await ask(gateway, `stream${query}`, token, { headers: { accept: 'text/event-stream' } });
  assert.equal(answer.status, 200, await (answer.ok ? '' : answer.text()));
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  const next = async (type) => {
    for (;;) {
      const { done, value } = await reader.read();
      assert(!done, `the stream ended before a frame ${type}`);
      rest += value;
      const data = rest.split('\n').filter((line) => line.startsWith('data: '));
      rest = rest.slice(rest.lastIndexOf('\n') + 1);
      const frame = data.map((line) => JSON.parse(line.slice(6))).find((frame) => frame.type === type);
      if (frame) return frame;
    }
  };
  const hello = await next('hello');
  return { hello, next, close: () => reader.cancel() };
}

/** A WebSocket, with all that it was sent. */
async function socket(gateway, query = '', token = gateway.token) {
  const url = `${gateway.url.replace('http', 'ws')}/v1/orgs/${gateway.org}/stream${query}`;
  const ws = new WS(url, ['tidegate.v1', `tidegate.bearer.${token}`]);
  const frames = [];
  ws.on('message', (data) => { frames.push(JSON.parse(data)); if (frames.at(-1).type === 'ping') ws.send('{"type":"pong"}'); });
  ws.on('error', () => {});
  const closed = new Promise((resolve) => { ws.once('close', resolve); });
  await until('its first frame', () => frames.length > 0);
  return { frames, closed, send: (frame) => ws.send(JSON.stringify(frame)), close: () => ws.terminate() };
}

/** Runs `act` while strace does something to the gateway's system calls. */
async function traced(gateway, inject, act) {
  const strace = spawn('strace', ['-f', '-p', String(gateway.pid), '-e', 'trace=fsync,fdatasync', '-e', `inject=fsync,fdatasync:${inject}`, '-o', '/dev/null'], { stdio: ['ignore', 'ignore', 'pipe'] });
  children.push(strace);
  let said = '';
  strace.stderr.on('data', (chunk) => { said += chunk; });
  await until(`strace to be attached: ${said}`, () => said.includes('attached'));
  const done = await act();
  strace.kill('SIGTERM');
  return done;
}

/** `tidegate serve`, which rereads its configuration on SIGHUP. */
async function serve(config) {
  const home = mkdtempSync(join(dir, 'serve-'));
  const file = join(home, 'tidegate.toml');
  const write = (more) => writeFileSync(file, `[log]\nengine = "memory"\ndir = "${home}"\n[logs]\nformat = "json"\n[listen]\npublic = "127.0.0.1:0"\nadmin = "127.0.0.1:0"\n${more}\n`);
  write(config);
  const child = spawn(program, ['serve', '--config', file], { stdio: ['ignore', 'ignore', 'pipe'] });
  children.push(child);
  const lines = createInterface(child.stderr);
  const admin = await new Promise((resolve, reject) => {
    child.once('exit', () => reject(new Error(`serve ended: ${config}`)));
    lines.on('line', (line) => { const { admin } = JSON.parse(line); if (admin) resolve(admin); });
  });
  return { admin_url: `http://${admin}`, write, reread: () => child.kill('SIGHUP'), close: () => child.kill('SIGKILL') };
}

/** A gateway with an issuer whose keys it has; `status` of `issuer` is what a fetch is answered with. */
async function withIssuer(auth = '') {
  const key = { ...generateKeyPairSync('ed25519').publicKey.export({ format: 'jwk' }), kid: 'k' };
  const issuer = { status: 200 };
  const server = createServer((_, answer) => answer.writeHead(issuer.status).end(JSON.stringify({ keys: [key] })));
  await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
  server.unref();
  const jwks = `http://127.0.0.1:${server.address().port}/jwks`;
  const gateway = await serve(`[auth]\n${auth}\n[[auth.issuers]]\nissuer = "https://id.example"\nalgorithms = ["EdDSA"]\norgs = ["acme"]\njwks = "${jwks}"\n`);
  await until('the keys', async () => (await metric(gateway, 'tidegate_jwks_keys')) === 1);
  return { gateway, issuer };
}

// Scenarios: the alerts that must fire, and the text of /metrics before and after. If a scenario `isOnce`, it does not
// happen again after its first minute. `series` has further series, with a value for each minute.

/** Scrapes around `act`. */
async function around(gateway, alerts, act) {
  const before = await text(gateway);
  await act();
  return { alerts, before, after: await text(gateway) };
}

const CALM = 10; // minutes before it happens
const MINUTES = 130; // and then, in each of them, it happens again
const minutes = Array.from({ length: CALM + MINUTES + 1 }, (_, minute) => minute);

const sum = (alerts) => alerts.sort();
const scenarios = {
  async 'the log halts'() {
    const gateway = await start();
    const scenario = await around(gateway, ['TidegateLogHalted'], () => traced(gateway, 'error=EIO', async () => {
      await post(gateway, event(1));
      await until('the log to halt', async () => (await metric(gateway, 'tidegate_log_state{state="halted"}')) === 1);
    }));
    await gateway.kill();
    return scenario;
  },
  // The same disk, before and after it has filled up: a gateway that may take all of it, and one that may not.
  async 'the disk has less left than log.min_free'() {
    const gateway = await start();
    const before = await text(gateway);
    await gateway.kill();
    const full = await start('log.min_free=1000000GiB');
    assert.equal((await post(full, event(1))).status, 503);
    const after = await text(full);
    await full.kill();
    return { alerts: ['TidegateLogFull', 'TidegateDiskNearlyFull'], before, after };
  },
  async 'the disk is nearly full'() {
    const gateway = await start();
    const before = await text(gateway);
    const free = await metric(gateway, 'tidegate_log_free_bytes');
    await gateway.kill();
    const tight = await start(`log.min_free=${Math.round(free / 2)}B`);
    await tight.publish(event(1));
    const after = await text(tight);
    await tight.kill();
    return { alerts: ['TidegateDiskNearlyFull'], before, after };
  },
  async 'log.max_bytes holds a few minutes of events'() {
    const gateway = await start();
    const before = await text(gateway);
    await gateway.kill();
    const after = before.replace(/^(tidegate_log_bytes\{what="files"\}) .*$/m, `$1 ${15 * 2 ** 30}`).replace(/^(tidegate_log_oldest_event_age_seconds) .*$/m, '$1 400');
    return { alerts: ['TidegateLogTooSmall'], before, after };
  },
  async 'the clock was set back by a day'() {
    const gateway = await start();
    const before = await text(gateway);
    await gateway.kill();
    return { alerts: ['TidegateClockAhead'], before, after: before.replace('log_clock_ahead_seconds 0', 'log_clock_ahead_seconds 86400') };
  },
  async 'a file of the log is damaged'() {
    const gateway = await start();
    for (const data of ['before', 'damage-me', 'after']) await gateway.publish(event(data));
    const scenario = await around(gateway, ['TidegateLogDamaged', 'TidegateEventsLost'], async () => {
      await gateway.kill();
      execFileSync('sh', ['-c', `grep -rl damage-me '${gateway.dir}' --include='*.seg' | xargs sed -i s/damage-me/damage-it/`]);
      await gateway.restart();
    });
    await gateway.kill();
    return scenario;
  },
  async 'the disk is slow'() {
    const gateway = await start();
    const reader = await socket(gateway);
    const alerts = ['TidegateDiskSlow', 'TidegatePublishesSlow', 'TidegateDeliverySlow'];
    const scenario = await around(gateway, alerts, () => traced(gateway, 'delay_exit=1500000', async () => {
      await post(gateway, event(1));
      await until('the event', () => reader.frames.some(({ type }) => type === 'event'));
    }));
    reader.close();
    await gateway.kill();
    return scenario;
  },
  async 'there are as many connections as there may be'() {
    const gateway = await start('limits.connections_per_user=1', 'limits.connections_per_org=1', 'limits.connections=1');
    const scenario = await around(gateway, ['TidegateFull', 'TidegateConnectionsNearlyUsedUp'], async () => {
      await socket(gateway);
      assert.equal((await ask(gateway, 'stream')).status, 503);
    });
    await gateway.kill();
    return scenario;
  },
  async 'publishers have a key that is gone'() {
    const gateway = await start();
    const scenario = await around(gateway, ['TidegateCredentialsRefused'], async () => {
      for (let n = 0; n < 30; n += 1) assert.equal((await post(gateway, event(1), `${gateway.publish_key}x`)).status, 401);
    });
    await gateway.kill();
    return scenario;
  },
  async 'readers have tokens by another secret, over event streams'() {
    const gateway = await start();
    const scenario = await around(gateway, ['TidegateTokensRefused'], async () => {
      for (let n = 0; n < 30; n += 1) assert.equal((await ask(gateway, 'stream', `${gateway.token.slice(0, -4)}AAAA`)).status, 401);
    });
    await gateway.kill();
    return scenario;
  },
  async 'one client tries a bad token again and again, and nobody else opens a stream'() {
    const gateway = await start();
    const reader = await socket(gateway);
    const scenario = await around(gateway, [], async () => {
      assert.equal((await ask(gateway, 'stream', `${gateway.token.slice(0, -4)}AAAA`)).status, 401);
      assert.equal(await (await socket(gateway, '', `${gateway.token.slice(0, -4)}AAAA`)).closed, 4551);
    });
    reader.close();
    await gateway.kill();
    return scenario;
  },
  async 'readers have tokens by another secret'() {
    const gateway = await start();
    const scenario = await around(gateway, ['TidegateTokensRefused'], async () => {
      for (let n = 0; n < 30; n += 1) {
        const reader = await socket(gateway, '', `${gateway.token.slice(0, -4)}AAAA`);
        assert.equal(await reader.closed, 4551);
      }
    });
    await gateway.kill();
    return scenario;
  },
  async 'a gateway that does not sync each event is killed'() {
    const gateway = await start('log.sync=interval');
    const scenario = await around(gateway, ['TidegateEventsLost'], async () => {
      await gateway.publish(event(1));
      await gateway.kill();
      await gateway.restart();
    });
    await gateway.kill();
    return scenario;
  },
  async 'a reader brings cursors that are not of this log'() {
    const gateway = await start();
    const { cursor } = await gateway.publish(event(1));
    const scenario = await around(gateway, [], async () => {
      for (const other of ['aaaaaaaaaaaaa-5', `${cursor.split('-')[0]}-99999`]) {
        const reader = await stream(gateway, `?cursor=${other}`);
        assert.equal((await reader.next('gap')).reason, 'epoch');
        await reader.close();
      }
    });
    await gateway.kill();
    return scenario;
  },
  async 'a log in memory begins anew'() {
    const gateway = await start('log.engine=memory');
    const { cursor } = await gateway.publish(event(1));
    await gateway.kill();
    await gateway.restart();
    const scenario = await around(gateway, [], async () => {
      const reader = await stream(gateway, `?cursor=${cursor}`);
      assert.equal((await reader.next('gap')).reason, 'epoch');
      await reader.close();
    });
    await gateway.kill();
    return scenario;
  },
  async 'readers come back after their events were removed'() {
    const gateway = await start('log.engine=memory', 'limits.request_bytes=1MiB', 'tail.max_bytes=2MiB', 'tail.org_max_bytes=2MiB');
    // Of a service without events: a view of each event would find no room in a full tail, which is another alert.
    const { cursor } = await (await ask(gateway, 'cursor?services=quiet')).json();
    const scenario = await around(gateway, ['TidegateRetentionTooShort', 'TidegateTailNearlyUsedUp'], async () => {
      for (let n = 0; n < 60; n += 1) await gateway.publish(event('x'.repeat(100_000)));
      const reader = await stream(gateway, `?services=quiet&cursor=${cursor}`);
      assert.equal((await reader.next('gap')).reason, 'retention');
      await reader.close();
    });
    await gateway.kill();
    return scenario;
  },
  async 'a reader takes nothing'() {
    const gateway = await start('log.engine=memory', 'limits.write_timeout=200ms');
    const { port, hostname } = new URL(gateway.url);
    const stalled = connect(Number(port), hostname);
    stalled.on('error', () => {});
    stalled.write(`GET /v1/orgs/${gateway.org}/stream HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${gateway.token}\r\n`
      + 'connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n');
    stalled.pause();
    await until('the stream', async () => (await metric(gateway, 'tidegate_connections{transport="websocket"}')) === 1);
    const scenario = await around(gateway, ['TidegateSlowReaders'], () => until('its end', async () => {
      await gateway.publish(event('x'.repeat(200_000)));
      return (await metric(gateway, 'tidegate_closes_total{code="slow_consumer"}')) === 1;
    }));
    stalled.destroy();
    await gateway.kill();
    return scenario;
  },
  async 'SIGHUP reads a faulty configuration'() {
    const secret = '[[auth.keys]]\nsecret = "a secret of thirty-two bytes...."\n';
    const gateway = await serve(secret);
    const scenario = await around(gateway, ['TidegateConfigurationRefused'], async () => {
      gateway.write(`${secret}[limits]\nconnections = "many"\n`);
      gateway.reread();
      await until('the reread', async () => (await metric(gateway, 'tidegate_config_rereads_total{outcome="refused"}')) === 1);
    });
    gateway.close();
    return { ...scenario, isOnce: true }; // and is never corrected
  },
  async 'SIGHUP reads a faulty configuration, and then its correction'() {
    const secret = '[[auth.keys]]\nsecret = "a secret of thirty-two bytes...."\n';
    const gateway = await serve(secret);
    const scenario = await around(gateway, [], async () => {
      for (const [more, outcome] of [['[limits]\nconnections = "many"\n', 'refused'], ['', 'taken']]) {
        gateway.write(`${secret}${more}`);
        gateway.reread();
        await until('the reread', async () => (await metric(gateway, `tidegate_config_rereads_total{outcome="${outcome}"}`)) === 1);
      }
    });
    gateway.close();
    return scenario;
  },
  async 'an issuer is away'() {
    const { gateway, issuer } = await withIssuer();
    const scenario = await around(gateway, ['TidegateIssuerUnreachable'], async () => {
      issuer.status = 500;
      gateway.reread(); // which fetches again
      await until('a failure', async () => (await metric(gateway, 'tidegate_jwks_issuers_failing')) === 1);
    });
    gateway.close();
    return scenario;
  },
  async 'an issuer fails now and then'() {
    const { gateway, issuer } = await withIssuer();
    const scenario = await around(gateway, [], async () => {
      issuer.status = 500;
      gateway.reread();
      await until('a failure', async () => (await metric(gateway, 'tidegate_jwks_issuers_failing')) === 1);
      issuer.status = 200;
      await until('the next try', async () => (await metric(gateway, 'tidegate_jwks_issuers_failing')) === 0);
    });
    gateway.close();
    return scenario;
  },
  async 'an issuer is away for longer than its keys are valid'() {
    const { gateway, issuer } = await withIssuer('jwks_refresh = "1s"\njwks_stale_if_error = "2s"');
    const scenario = await around(gateway, ['TidegateIssuerUnreachable', 'TidegateIssuerWithoutKeys'], async () => {
      issuer.status = 500;
      await until('the keys to be dropped', async () => (await metric(gateway, 'tidegate_jwks_issuers_without_keys')) === 1);
    });
    gateway.close();
    return scenario;
  },
  async 'open files are nearly used up'() {
    const gateway = await start();
    const scenario = await around(gateway, ['TidegateFilesNearlyUsedUp'], async () => {
      const open = await metric(gateway, 'process_open_fds');
      execFileSync('prlimit', ['--pid', String(gateway.pid), `--nofile=${open + 4}`]);
    });
    await gateway.kill();
    return scenario;
  },
  async 'there are as many streams and publishes as there may be'() {
    const gateway = await start();
    const before = (await text(gateway)).replace(/^(process_max_fds) .*$/m, `$1 ${50_000 + 4_096 + 2_048}`); // what the gateway asks for
    const idle = await metric(gateway, 'process_open_fds');
    await gateway.kill();
    const streams = Number(before.match(/^tidegate_limit\{limit="limits.connections"\} (\d+)$/m)[1]);
    assert.equal(streams, 50_000);
    const after = before.replace(/^(process_open_fds) .*$/m, `$1 ${idle + streams + 4_096}`).replace('connection_slots{scope="streams"} 0', `connection_slots{scope="streams"} ${streams}`);
    return { alerts: ['TidegateConnectionsNearlyUsedUp'], before, after };
  },
  async 'there are more filters than compressors'() {
    const gateway = await start('compression.max_contexts=1', 'limits.connections_per_user=100');
    const readers = [await socket(gateway, '?services=finance'), await socket(gateway, '?services=finance,other')];
    const scenario = await around(gateway, ['TidegateCompressorsUsedUp'], () => until('a frame without context', async () => {
      await gateway.publish(event('a text that is long enough to be compressed '.repeat(5)));
      return (await metric(gateway, 'tidegate_compressors_missed_total')) > 0;
    }));
    for (const reader of readers) reader.close();
    await gateway.kill();
    return scenario;
  },
  async 'an org has more filters than a batch keeps views'() {
    const gateway = await start('limits.connections_per_user=1000', 'compression.enabled=false');
    const readers = [];
    for (let n = 0; n < 260; n += 1) readers.push(await stream(gateway, `?services=finance,other-${n}`));
    const scenario = await around(gateway, ['TidegateFiltersUsedUp'], async () => {
      await gateway.publish(event(1));
      await until('the pass', async () => (await metric(gateway, 'tidegate_views_unkept_total')) > 0);
    });
    await Promise.all(readers.map((reader) => reader.close()));
    await gateway.kill();
    return scenario;
  },
  async 'an org is near a quota of its own'() {
    const gateway = await start('orgs={dev={connections=5}}');
    const readers = [];
    const scenario = await around(gateway, ['TidegateOrgNearQuota'], async () => {
      while (readers.length < 5) readers.push(await socket(gateway));
    });
    for (const reader of readers) reader.close();
    await gateway.kill();
    // The series is not there before.
    const { before, after, ...rest } = scenario;
    const isOfOrg = (line) => line.startsWith('tidegate_org_quota_used_ratio{');
    const [line] = after.split('\n').filter(isOfOrg);
    const at = line.lastIndexOf(' ');
    const series = { [line.slice(0, at)]: minutes.map((minute) => (minute < CALM ? '_' : Number(line.slice(at + 1)))) };
    return { ...rest, before, after: after.split('\n').filter((line) => !isOfOrg(line)).join('\n'), series };
  },
  async 'publishers only repeat what is stored'() {
    const gateway = await start();
    await gateway.publish(event(1, { id: 'again' }));
    const scenario = await around(gateway, [], async () => {
      for (let n = 0; n < 20; n += 1) assert((await gateway.publish(event(1, { id: 'again' }))).events[0].duplicate);
    });
    await gateway.kill();
    return scenario;
  },
  // Three that no client can bring about: a test in crates/tidegate-server/tests/it sees the first two counted
  // (`codes`, `bounds`), and the last is Prometheus' own.
  async 'the gateway has a fault'() {
    const gateway = await start();
    const before = await text(gateway);
    await gateway.kill();
    return { alerts: ['TidegateFault'], before, after: before.replace('closes_total{code="internal"} 0', 'closes_total{code="internal"} 1') };
  },
  async 'readers come back faster than they are served'() {
    const gateway = await start();
    const before = await text(gateway);
    await gateway.kill();
    return { alerts: ['TidegateReplaysNearlyUsedUp'], before, after: before.replace('replays_waiting 0', 'replays_waiting 8001') };
  },
  async 'the gateway is down'() {
    return { alerts: ['TidegateDown'], before: 'up 1', after: 'up 0' };
  },
  async 'the gateway crashes, and every third scrape finds nobody'() {
    const isUp = minutes.map((minute) => minute < CALM || minute % 3 !== 0);
    const starts = minutes.map((minute) => (isUp[minute] ? Math.max(0, Math.floor((minute - CALM) / 3) + 1) : '_'));
    return { alerts: ['TidegateCrashLoop'], before: '', after: '', series: { up: isUp.map(Number), process_start_time_seconds: starts } };
  },
  async 'the gateway is restarted twice'() {
    const starts = minutes.map((minute) => Math.min(2, Math.max(0, minute - CALM)));
    return { alerts: [], before: '', after: '', series: { up: minutes.map(() => 1), process_start_time_seconds: starts } };
  },
};

/** Everything that an ordinary gateway meets, good and bad, again and again. */
async function busy(gateway, rounds, number) {
  const repeated = event(0, { id: 'again' });
  for (let n = 0; n < rounds; n += 1) {
    const id = `busy-${number}-${n}`;
    const statuses = [];
    for (const body of [event(n), Array.from({ length: 20 }, (_, of) => event(of)), event(n, { id }), event(n, { id }), repeated]) {
      statuses.push((await post(gateway, body)).status);
    }
    for (const body of [event(n + 1, { id }), '{', '{}', event('x'.repeat(300_000)), ' '.repeat(5_000_000)]) statuses.push((await post(gateway, body)).status);
    statuses.push((await post(gateway, event(1), `${gateway.publish_key}x`)).status);
    statuses.push((await ask(gateway, 'events', gateway.publish_key, { method: 'POST', headers: { 'content-type': 'text/plain' }, body: 'x' })).status);
    for (const end of ['events', 'cursor', 'events?limit=x', 'nowhere', 'stream?nonsense=1']) statuses.push((await ask(gateway, end)).status);
    statuses.push((await ask(gateway, 'cursor', `${gateway.token}x`)).status);
    statuses.push((await fetch(`${gateway.url}/openapi.json`)).status, (await fetch(`${gateway.url}/`)).status);
    statuses.push((await fetch(`${gateway.url}/v1/orgs/${gateway.org}/events`, { method: 'OPTIONS' })).status);
    assert.deepEqual(statuses, [200, 200, 200, 200, 200, 409, 400, 422, 413, 413, 401, 415, 200, 200, 400, 404, 400, 401, 200, 200, 204]);
    const [refused, good] = [await socket(gateway, '?tail=x'), await socket(gateway, '?tail=5')];
    assert.equal(await refused.closed, 4553);
    for (const latencies_ms of [[3, 20, 150], [3]]) good.send({ type: 'health', latencies_ms, disconnects: 1, duplicates: 1, holes: 1, gaps: 1 });
    good.send({ type: 'ping', n: number });
    await until('the answer to a ping after the reports', () => good.frames.some(({ type, n }) => type === 'pong' && n === number));
    const other = await stream(gateway, `?cursor=${(await (await ask(gateway, 'cursor')).json()).cursor}&services=finance`);
    assert.equal((await other.next('gap')).reason, 'filter');
    good.close();
    await other.close();
  }
}

// How promtool is given what was scraped.

function samples(exposition) {
  const kinds = new Map();
  const found = new Map();
  for (const line of exposition.split('\n')) {
    const [, kind] = line.match(/^# TYPE (\S+ \S+)$/) ?? [];
    if (kind) kinds.set(...kind.split(' '));
    if (!line || line.startsWith('#')) continue;
    const at = line.lastIndexOf(' ');
    const series = line.slice(0, at);
    const name = series.split('{')[0];
    const family = kinds.get(name.replace(/_(bucket|sum|count)$/, '')) ?? kinds.get(name);
    found.set(series, { value: line.slice(at + 1), isCounter: family === 'counter' || family === 'histogram' });
  }
  return found;
}

const labelled = (series) => (series.includes('{') ? series.replace('{', '{job="tidegate",instance="a",') : `${series}{job="tidegate",instance="a"}`);

function unitTest(name, { alerts, before, after, isOnce = false, series: more = {} }) {
  const [then, now] = [samples(before), samples(after)];
  // These are there only while an org is near a quota.
  for (const [these, those] of [[then, now], [now, then]]) {
    for (const series of these.keys()) if (series.startsWith('tidegate_org_quota_') && !those.has(series)) these.delete(series);
  }
  assert.deepEqual([...then.keys()].sort(), [...now.keys()].sort(), `${name}: the series differ`);
  const input = [...then].map(([series, { value, isCounter }]) => {
    const last = now.get(series).value;
    const step = isCounter ? Number(last) - Number(value) : 0;
    const first = isCounter ? Number(value) + step : Number(last);
    return { series: labelled(series), values: `${Number(value)}+0x${CALM - 1} ${first}${step < 0 ? '-' : '+'}${isOnce ? 0 : Math.abs(step)}x${MINUTES}` };
  });
  for (const [series, values] of Object.entries(more)) input.push({ series: labelled(series), values: values.join(' ') });
  const firing = (at, names) => ({
    expr: 'group by (alertname) (ALERTS{alertstate="firing"})',
    eval_time: `${at}m`,
    exp_samples: names.map((alert) => ({ labels: `{alertname="${alert}"}`, value: 1 })),
  });
  // As soon as all have waited long enough, and still at the end.
  const tests = [firing(CALM - 1, []), firing(CALM + 40, sum(alerts)), firing(CALM + MINUTES - 5, sum(alerts))];
  return { name, interval: '1m', input_series: input, promql_expr_test: tests };
}

async function eachRule() {
  const wanted = [...readFileSync(rules, 'utf8').matchAll(/- alert: (\w+)/g)].map(([, name]) => name);
  const tests = [];
  const provoked = new Set();
  for (const [name, provoke] of Object.entries(scenarios)) {
    const scenario = await provoke();
    scenario.alerts.forEach((alert) => provoked.add(alert));
    tests.push(unitTest(name, scenario));
  }
  assert.deepEqual(wanted.filter((alert) => !provoked.has(alert)), [], 'no scenario provokes these alerts');
  const gateway = await start('limits.connections_per_user=100');
  const readers = [await socket(gateway), await stream(gateway), await socket(gateway, '?deflate=0')];
  await busy(gateway, 2, 0);
  tests.push(unitTest('a busy gateway that refuses some', await around(gateway, [], () => busy(gateway, 5, 1))));
  writeFileSync(join(dir, 'metrics'), await text(gateway));
  readers.forEach((reader) => reader.close());
  await gateway.kill();
  const file = join(dir, 'rules_test.yml');
  // JSON is YAML.
  writeFileSync(file, JSON.stringify({ rule_files: [rules], evaluation_interval: '1m', tests }));
  try {
    promtool('test', 'rules', file);
  } catch (error) {
    throw new Error(`${error.stdout}${error.stderr}`);
  }
  const linted = execFileSync('promtool', ['check', 'metrics'], { input: readFileSync(join(dir, 'metrics')), encoding: 'utf8', stdio: ['pipe', 'pipe', 'pipe'] });
  assert.equal(linted, '');
  console.log(`${wanted.length} alerts, ${tests.length} scenarios: each fires only for what it is about, and none on a busy gateway that refuses some requests`);
}

// The dashboard.

async function dashboard() {
  const gateway = await start('limits.connections_per_user=100', 'metrics.health_orgs=["dev"]');
  const port = freePort();
  const config = join(dir, 'prometheus.yml');
  writeFileSync(config, JSON.stringify({
    global: { scrape_interval: '1s', evaluation_interval: '1s' },
    rule_files: [rules],
    scrape_configs: [{ job_name: 'tidegate', static_configs: [{ targets: [new URL(gateway.admin_url).host] }] }],
  }));
  const prometheus = spawn('prometheus', [`--config.file=${config}`, `--storage.tsdb.path=${join(dir, 'tsdb')}`, `--web.listen-address=127.0.0.1:${port}`], { stdio: ['ignore', 'ignore', 'pipe'] });
  children.push(prometheus);
  let said = '';
  prometheus.stderr.on('data', (chunk) => { said = (said + chunk).slice(-3000); });
  const api = async (path) => {
    const answer = await fetch(`http://127.0.0.1:${port}/api/v1/${path}`).catch(() => null);
    return answer?.ok ? (await answer.json()).data : null;
  };
  const targets = () => api('targets').then((data) => data?.activeTargets.every(({ health }) => health === 'up') && data.activeTargets.length === 1);
  await until('Prometheus to scrape', targets).catch((error) => { throw new Error(`${error.message}: ${said}`); });

  const readers = [await socket(gateway), await stream(gateway), await socket(gateway, '?deflate=0')];
  let isOver = false;
  const load = (async () => { for (let round = 0; !isOver; round += 1) await busy(gateway, 1, round); })();
  const { panels, templating } = JSON.parse(readFileSync(join(packaging, 'grafana/tidegate.json'), 'utf8'));
  assert.deepEqual(templating.list.map(({ name }) => name), ['datasource', 'job', 'instance']);
  const queries = panels.flatMap(({ title, targets = [] }) => targets.map(({ expr }) => [title, expr]));
  const filled = (query) => query.replaceAll('$job', 'tidegate').replaceAll('$instance', '.*').replaceAll('$__rate_interval', '5s');
  // Those that are zero as long as nothing is wrong.
  const mayBeZero = /replays_waiting|slow_warnings|events_omitted|replay_page_bytes|compressors|views_unkept|readers_parked/;
  for (const [title, query] of queries) {
    assert(!filled(query).includes('$'), `${title}: ${query}`);
    await until(`data for the panel "${title}": ${query}`, async () => {
      const data = await api(`query?query=${encodeURIComponent(filled(query))}`);
      const values = (data?.result ?? []).map(({ value }) => Number(value[1]));
      return values.length > 0 && values.every((value) => !Number.isNaN(value)) && (mayBeZero.test(query) || values.some((value) => value > 0));
    }, 30_000);
  }
  const { groups } = await api('rules');
  const states = groups.flatMap(({ rules: of }) => of.map(({ name, health, state }) => `${name} ${health} ${state}`));
  isOver = true;
  await load;
  assert.deepEqual(states.filter((state) => !state.endsWith(' ok inactive')), []);
  readers.forEach((reader) => reader.close());
  prometheus.kill('SIGTERM');
  console.log(`${queries.length} queries of ${panels.filter(({ targets }) => targets).length} panels return data from a busy gateway, and its ${states.length} alerts are quiet`);
}

promtool('check', 'rules', rules);
await eachRule();
await dashboard();
process.exit();
