// The client (clients/typescript) in real browsers, against a real gateway, through a proxy that breaks what a
// network breaks. After each scenario the page's ledger is compared with the gateway's history, and
// `__realtimeMetrics()` with what the proxy and the test did.
//
//   [ONLY=frozen] node tests/npm/client_browsers.mjs target/debug/tidegate [chromium] [firefox] [webkit]
//
// ONLY: run the scenarios that have this in their names.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';

import { ENGINES, launch } from './engines.mjs';
import { until } from './gateway.mjs';
import { Rig } from './client_rig.mjs';

const [program = 'target/debug/tidegate', ...names] = process.argv.slice(2);
const { ONLY = '' } = process.env;

// One after the other, each in a page that is in front. They get the rig and the engine.
const scenarios = {
  async 'events in order while they are published'(rig, engine) {
    const visit = await rig.visit(engine);
    await visit.live();
    for (let size = 1; size <= 40; size += 1) await rig.publish(size);
    const { health, sockets, reasons } = await visit.settle({ disconnects: 0, attempts: 0 });
    assert.deepEqual(reasons, ['initial']);
    assert.equal(sockets.length, 1);
    assert.match(sockets[0].extensions, /permessage-deflate/);
    assert.equal(health.extra.transport, 'ws');
    assert.equal(health.eventLatencyMs.length, 100);
    return visit;
  },

  async 'the network is cut, by a reset and in order'(rig, engine) {
    // Two connections in a row that live shorter than 5 s would make the client take SSE, here and below.
    const visit = await rig.visit(engine, { only: 'ws' });
    await visit.live();
    const flow = rig.flow();
    for (const [index, way] of ['rst', 'fin'].entries()) {
      await rig.publish(5);
      assert.equal(visit.proxy.cut(way), 1);
      await visit.live(index + 1);
      await rig.publish(5);
    }
    await flow.stop();
    // One delay was drawn after each cut, and no connection has lived for 10 s since then.
    const { sockets } = await visit.settle({ disconnects: 2, attempts: 2 });
    assert.equal(sockets.length, 3);
    assert.equal(visit.proxy.attempts('ws'), 3);
    return visit;
  },

  async 'the network refuses for a while'(rig, engine) {
    const visit = await rig.visit(engine);
    await visit.live();
    visit.proxy.mode = 'refuse';
    visit.proxy.cut('rst');
    await rig.publish(10);
    const { health } = await visit.when('the third attempt to be awaited', ({ status }) => status.phase === 'backoff' && status.attempt === 3);
    assert.equal(health.connectionState, 'reconnecting');
    assert.equal(health.totalDisconnects, 1);
    assert.equal(health.reconnectAttempts, 3);
    assert.ok(health.lastDisconnectedAt > health.lastConnectedAt);
    visit.proxy.mode = 'pass';
    await visit.settle({ disconnects: 1, attempts: 3 });
    return visit;
  },

  async 'a delayed network: events come in order, and their latency is known'(rig, engine) {
    const visit = await rig.visit(engine);
    await visit.live();
    visit.proxy.mode = 'delay';
    visit.proxy.cut('rst');
    await visit.live(1);
    for (let count = 0; count < 20; count += 1) await rig.publish(3);
    const { health, ledger } = await visit.settle({ disconnects: 1, attempts: 1 });
    assert.ok(visit.proxy.counts.delayed > 20);
    assert.ok(health.extra.rttMs >= 2 * visit.proxy.delayMs, `round trip ${health.extra.rttMs} ms`);
    // A way takes the delay; the clock of this reader is known to within half a round trip.
    const { latencyMs } = ledger.at(-1);
    assert.ok(latencyMs >= visit.proxy.delayMs - health.extra.clockErrorMs, `latency ${latencyMs} ms`);
    return visit;
  },

  async 'one byte at a time'(rig, engine) {
    const visit = await rig.visit(engine);
    await visit.live();
    visit.proxy.mode = 'trickle';
    visit.proxy.cut('fin');
    await visit.live(1); // the upgrade, too
    await rig.publish(7, (number) => ({ data: { number, note: randomBytes(3_000).toString('base64') } }));
    for (let count = 0; count < 5; count += 1) await rig.publish(1);
    await visit.settle({ disconnects: 1, attempts: 1 });
    assert.ok(visit.proxy.counts.singles > 20_000);
    return visit;
  },

  async 'a hidden page: half-open, and found so when it is shown'(rig, engine) {
    const visit = await rig.visit(engine);
    await visit.live();
    await visit.page.hide();
    await until('it to be hidden', () => visit.page.evaluate(() => document.visibilityState === 'hidden'));
    await rig.publish(10);
    await visit.settle({ disconnects: 0 }); // events come to a hidden page
    visit.proxy.mode = 'swallow';
    await rig.publish(10);
    visit.proxy.mode = 'pass'; // that connection stays dead
    await visit.page.show();
    // The page says so; nobody waits for the gateway's next ping.
    await until('a probe', () => visit.page.evaluate(async () => (await window.client.dump()).steps
      .some((step) => step.in.t === 'wake' && step.in.reason === 'visible' && step.phase === 'probe')));
    const { errors } = await visit.settle({ disconnects: 1, attempts: 1 });
    assert.ok(visit.proxy.counts.swallowed > 0);
    assert.deepEqual(errors.map(({ code, fatal }) => [code, fatal]), [['silence', false]]);
    return visit;
  },

  async 'a page that is frozen and thawed'(rig, engine) {
    const visit = await rig.visit(engine, { only: 'ws' });
    await visit.live();
    // For a moment. (Chromium ends a WebSocket that got something for a frozen page.)
    await visit.page.freeze();
    await rig.publish(50);
    await visit.page.thaw();
    await visit.settle();
    // The network goes meanwhile.
    await visit.page.freeze();
    visit.proxy.cut('rst');
    await rig.publish(50);
    await visit.page.thaw();
    await visit.settle();
    // For longer than the gateway waits for a pong.
    await visit.page.freeze();
    await rig.publish(50);
    await until('the gateway to give it up', () => visit.proxy.counts.dropped > 0);
    await visit.page.thaw();
    const { health } = await visit.settle();
    assert.ok(health.totalDisconnects >= 2);
    return visit;
  },

  async 'a page that is left and come back to'(rig, engine) {
    const visit = await rig.visit(engine);
    await visit.live();
    await rig.publish(10);
    await visit.settle({ disconnects: 0 });
    await visit.page.goto(`${rig.site}/elsewhere`);
    await until('its connection to end', () => visit.proxy.open.size === 0);
    await rig.publish(10);
    await visit.page.evaluate(() => { setTimeout(() => history.back(), 0); });
    await until('the page', () => visit.page.evaluate(() => typeof window.begin === 'function').catch(() => false));
    // It is a new one unless the browser has kept it.
    const isKept = await visit.page.evaluate(() => 'client' in window);
    console.log(`   ${engine.name} ${isKept ? 'took the page out of its back/forward cache' : 'loaded the page again'}`);
    if (isKept) await visit.settle({ disconnects: 1 });
    return isKept ? visit : (await visit.reload(), visit);
  },

  async 'a network that lets no WebSocket through: the events come over SSE, also after a reload'(rig, engine) {
    const visit = await rig.visit(engine, {}, (proxy) => { proxy.blocksUpgrades = true; });
    const flow = rig.flow();
    const { health } = await visit.live();
    assert.equal(health.extra.transport, 'sse');
    await flow.stop();
    const { sockets } = await visit.settle({ disconnects: 0 });
    assert.equal(sockets.length, 2, 'two were tried in vain');
    // The tab remembers it.
    await visit.reload();
    await visit.live();
    await rig.publish(3);
    visit.proxy.cut('fin');
    await rig.publish(3);
    assert.deepEqual((await visit.settle({ disconnects: 1, attempts: 1 })).sockets, []);
    return visit;
  },

  async 'React in StrictMode opens one socket, and closes it when nobody wants it any more'(rig, engine) {
    const visit = await rig.visit(engine, { react: true });
    await visit.live();
    await rig.publish(30);
    const { sockets, reasons } = await visit.settle({ disconnects: 0, attempts: 0 });
    assert.deepEqual(reasons, ['initial'], 'one token');
    assert.equal(sockets.length, 1);
    assert.equal(visit.proxy.attempts('ws'), 1);
    const panel = () => visit.page.evaluate(() => document.querySelector('#panel')?.textContent ?? '');
    await until('the panel', async () => (await panel()).startsWith('connected, '));
    const { seq, id } = (await rig.publish(1)).events[0];
    await until(`event ${seq} in the panel`, async () => (await panel()).includes(id));
    const { begun } = await visit.page.evaluate(() => window.unmount());
    assert.equal(begun, 2, 'StrictMode has mounted it twice');
    await visit.when('the socket to be closed', (report) => report.sockets[0].readyState === 3);
    await rig.publish(10);
    await visit.page.evaluate(() => window.mount());
    await visit.live();
    assert.equal((await visit.settle({ health: false })).sockets.length, 2);
    return visit;
  },

  async 'two tabs share a connection, also after the one that had it is closed'(rig, engine) {
    const pair = [await rig.visit(engine, { tabs: 'two tabs' }), await rig.visit(engine, { tabs: 'two tabs' })];
    for (const visit of pair) await visit.live();
    await rig.publish(30);
    for (const visit of pair) await visit.settle({ health: false });
    const open = () => pair.map(({ proxy }) => proxy.open.size);
    await until('one connection', () => open().reduce((sum, count) => sum + count) === 1);
    const [leader, other] = open()[0] === 1 ? pair : pair.toReversed();
    const flow = rig.flow();
    await leader.close();
    await other.page.show();
    await until('the other tab to have it', () => other.proxy.open.size === 1);
    await flow.stop();
    await other.settle({ health: false });
    return other;
  },

  async 'a token that is refused stops the client, with one clear error'(rig, engine) {
    const visit = await rig.visit(engine, { token: `${rig.gateway.token.slice(0, -8)}AAAAAAAA` });
    const { errors, health } = await visit.when('it to stop', ({ status }) => status.phase === 'stopped');
    assert.deepEqual(errors.map(({ code, fatal }) => [code, fatal]), [['unauthorized', true]]);
    assert.equal(health.connectionState, 'disconnected');
    assert.equal(health.totalDisconnects, 0);
    assert.equal(visit.proxy.attempts('ws') + visit.proxy.attempts('sse'), 1);
    return visit;
  },

  async 'a token that has expired three times in a row stops the client'(rig, engine) {
    const visit = await rig.visit(engine, { token: () => rig.gateway.expiring(-60) });
    const { errors, reasons } = await visit.when('it to stop', ({ status }) => status.phase === 'stopped');
    assert.deepEqual(errors.filter(({ fatal }) => fatal).map(({ code }) => code), ['auth']);
    assert.deepEqual(reasons, ['initial', 'expired', 'expired']);
    assert.equal(visit.proxy.attempts('ws'), 3);
    return visit;
  },

  async 'a token callback that fails, gives nothing, and then says that nobody is logged in'(rig, engine) {
    const answers = [500, '', () => rig.gateway.token];
    const visit = await rig.visit(engine, { token: (_, number) => { const given = answers[number - 1] ?? 401; return typeof given === 'function' ? given() : given; } });
    await visit.live();
    await rig.publish(3);
    const { errors, reasons } = await visit.settle({ disconnects: 0 });
    assert.deepEqual(errors.map(({ code, fatal }) => [code, fatal]), [['token', false], ['token', false]]);
    assert.deepEqual(reasons, ['initial', 'initial', 'initial']);
    assert.equal(visit.proxy.attempts('ws'), 1);
    return visit;
  },
};

// Beside all of these, until they are over, in a page that others hide.
const throughout = {
  async 'deflate over the whole time: shared, private, excluded and incompressible events between each other'(rig, engine, isOver) {
    const visit = await rig.visit(engine);
    await visit.live();
    rig.throughout = visit;
    const kinds = [
      () => ({}), () => ({}),
      (number) => ({ users: ['dev', 'another'], data: { number, only: 'for two' } }),
      (number) => ({ users: ['another'], data: { number, only: 'for another one' } }),
      (number) => ({ service: 'sealed', data: { number, secret: 'is never compressed' } }),
      (number) => ({ data: { number, noise: randomBytes(1 + ((number * 331) % 6_000)).toString('base64') } }),
    ];
    const flow = rig.flow((number) => kinds[number % kinds.length](number), 15);
    await isOver;
    await flow.stop();
    const { sockets, ledger } = await visit.settle({ disconnects: 2 }); // by the kills
    for (const { extensions } of sockets.filter(({ extensions }) => extensions)) assert.match(extensions, /permessage-deflate/);
    for (const kind of ['only', 'secret', 'noise']) assert.ok(ledger.some(({ data }) => kind in data), `some with ${kind}`);
    assert.ok(!ledger.some(({ data }) => data.only === 'for another one'));
    return visit;
  },
};

// Those that wait for long, all at once, while the scenarios run.
const meanwhile = {
  async 'a token renewed in place'(rig, engine) {
    let end;
    const visit = await rig.visit(engine, { token: (reason) => {
      if (reason !== 'initial') return rig.gateway.token;
      end = Date.now() + 8_000;
      return rig.gateway.expiring(8);
    } });
    await visit.live();
    await visit.when('the renewal', ({ reasons }) => reasons.includes('refresh'));
    await until('the end of the first token', () => Date.now() > end + 500);
    await rig.publish(3);
    const { reasons, errors, sockets } = await visit.settle({ disconnects: 0 });
    assert.equal(sockets.length, 1);
    assert.deepEqual(reasons, ['initial', 'refresh']);
    assert.deepEqual(errors, []);
    return visit;
  },

  async 'a token callback that hangs is given up and asked again'(rig, engine) {
    const visit = await rig.visit(engine, { token: (_, number) => (number === 1 ? new Promise(() => {}) : rig.gateway.token) });
    const { errors, aborted, reasons } = await visit.live();
    assert.deepEqual(errors.map(({ code, fatal }) => [code, fatal])[0], ['token', false]);
    assert.equal(aborted, 1, 'its signal was aborted');
    assert.equal(visit.tokens.aborted, 1, 'the request of the page ended');
    assert.deepEqual(reasons, ['initial', 'initial']);
    return visit;
  },

  async 'a gateway that falls silent is found out without any sign from the page'(rig, engine) {
    const visit = await rig.visit(engine);
    await visit.live();
    visit.proxy.mode = 'swallow';
    await visit.when('the silence', ({ errors }) => errors.some(({ code }) => code === 'silence'));
    visit.proxy.mode = 'pass';
    await visit.live(1);
    await rig.publish(3);
    await visit.settle({ disconnects: 1 });
    return visit;
  },
};

// Before all others, because it says how well the page went on meanwhile.
const first = {
  async 'a storm of 5,000 events'(rig, engine) {
    const workMs = 0.3;
    const visit = await rig.visit(engine, { workMs, counts: true });
    await visit.live();
    const before = await visit.report();
    const began = Date.now();
    await Promise.all(Array.from({ length: 5 }, () => rig.publish(1000)));
    const { frames, longTasks, mostInATurn, health } = await visit.settle({ disconnects: 0 });
    const drawn = frames - before.frames;
    const long = longTasks.length - before.longTasks.length;
    console.log(`   5,000 events, 1.5 s of work in handlers: handled in ${Date.now() - began} ms, ${drawn} frames drawn, at most ${mostInATurn} events between two tasks of the page`
      + `${engine.longTasks ? `, ${long} tasks over 50 ms (${longTasks.slice(before.longTasks.length).join(' ')})` : ''}, p95 of latency ${health.extra.p95} ms`);
    assert.ok(drawn > 0, 'the page went on drawing');
    assert.ok(mostInATurn * workMs < 50, 'no 50 ms of work at once');
    return visit;
  },
};

// After all others, so that these know how often they lost their connection.
const last = {
  async 'the gateway is killed and started, twice'(rig, engine) {
    const visit = await rig.visit(engine);
    await visit.live();
    const flow = rig.flow();
    for (let kill = 1; kill <= 2; kill += 1) {
      await rig.publish(5);
      // Whoever stays for the whole time counts each kill, so it must be back from the one before.
      await rig.throughout?.live(kill - 1);
      await rig.gateway.kill();
      const before = visit.proxy.counts.accepted;
      // It is down for an attempt of the client: the proxy resets what has no other end.
      await until('an attempt', () => visit.proxy.counts.accepted > before);
      await rig.gateway.restart();
      await visit.live(kill);
    }
    await flow.stop();
    const { states } = await visit.settle({ disconnects: 2 });
    assert.deepEqual(states, ['disconnected', 'connected', 'reconnecting', 'connected', 'reconnecting', 'connected']);
    return visit;
  },
};

for (const name of names.length > 0 ? names : Object.keys(ENGINES)) {
  const began = Date.now();
  const clock = () => `${((Date.now() - began) / 1000).toFixed(1)} s`;
  const rig = await Rig.start(program);
  const engine = await launch(name);
  console.log(`${name} ${engine.version}`);
  const done = async (title, run) => {
    const from = Date.now();
    try {
      const visit = await run();
      assert.deepEqual((await visit.report()).faults, []);
      await visit.close();
    } catch (error) {
      console.error(`failed ${name}: ${title}`);
      throw error;
    }
    console.log(`ok ${name}: ${title} (${((Date.now() - from) / 1000).toFixed(1)} s)`);
  };
  const wanted = (all) => Object.entries(all).filter(([title]) => title.includes(ONLY));
  const inTurn = async (all) => {
    for (const [title, run] of wanted(all)) {
      if (title.includes('frozen') && !engine.freezes) console.log(`left out: ${name}: ${title}: this engine has no way to freeze a page`);
      else await done(title, () => run(rig, engine));
    }
  };
  await inTurn(first);
  let over;
  const isOver = new Promise((resolve) => { over = resolve; });
  const aside = (all) => wanted(all).map(([title, run]) => done(title, () => run(rig, engine, isOver)));
  const whole = aside(throughout);
  const rest = Promise.all([inTurn(scenarios), ...aside(meanwhile)]).then(() => inTurn(last)).then(over);
  await Promise.all([rest, ...whole]);
  await engine.close();
  rig.close();
  await rig.gateway.kill();
  console.log(`all of ${name} in ${clock()}`);
}
process.exit(0);
