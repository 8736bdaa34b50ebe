// What the React hooks promise, in happy-dom, over a gateway in memory. react.test.mjs runs it with React 19,
// react_18.test.mjs with React 18.

import assert from 'node:assert/strict';
import { afterEach, beforeEach, mock, test } from 'node:test';
import { Window } from 'happy-dom';
import { fakeTransport, manualClock, settled } from '@tidegate/client/testing';
import { createClient } from '@tidegate/client';

// React looks for a page when it is loaded.
const window = new Window({ url: 'https://app.test' });
for (const name of ['window', 'document', 'navigator']) {
  Object.defineProperty(globalThis, name, { value: name === 'window' ? window : window[name], configurable: true });
}
globalThis.IS_REACT_ACT_ENVIRONMENT = true;

const React = await import('react');
const { createRoot, hydrateRoot } = await import('react-dom/client');
const { renderToString } = await import('react-dom/server');
const hooks = await import('@tidegate/client/react');

const { act, createElement: h, StrictMode, Suspense, useState } = React;
const { TidegateProvider, useConnection, useConnectionState, useEvent, useEvents, useEventState, useGap, useHealth, useRealtime } = hooks;

const LINGER_MS = 1_000;

/** A client over a gateway in memory that counts what it opens, closes and subscribes. */
function setUp() {
  const clock = manualClock();
  const gateway = fakeTransport({ clock });
  const counts = { opened: 0, closed: 0, subscribed: 0, asked: 0 };
  const transport = {
    kind: 'ws',
    open: (...how) => {
      counts.opened += 1;
      const connection = gateway.open(...how);
      return { ...connection, close: (code) => { counts.closed += 1; connection.close(code); } };
    },
  };
  const made = createClient({
    url: 'https://gateway.test', org: 'acme', transports: [transport], lifecycle: null, clock, random: () => 0.5,
    getToken: () => { counts.asked += 1; return 'token-of-a-test-user'; },
  });
  const client = { ...made, on: (...how) => { counts.subscribed += 1; return made.on(...how); } };
  return { client, clock, gateway, counts };
}

/** Does it, and lets React and the client finish all that follows without a timer. */
const go = (does = () => {}) => act(async () => {
  await does();
  await settled();
});

async function until(look) {
  for (let tries = 0; !look(); tries += 1) {
    assert.ok(tries < 2_000, `waited in vain for ${look}`);
    await act(() => new Promise((resolve) => { setTimeout(resolve, 5); }));
  }
}

let roots = [];
let complaints = [];

function place() {
  const container = document.createElement('div');
  document.body.append(container);
  return container;
}

/** Renders into the page. `show` renders something else in its place. */
async function render(element) {
  const container = place();
  const root = createRoot(container);
  const view = {
    text: () => container.textContent,
    show: (other) => go(() => root.render(other)),
    unmount: () => go(() => root.unmount()),
  };
  roots.push(view);
  await view.show(element);
  return view;
}

const inside = (client, ...children) => h(TidegateProvider, { client }, ...children);
const paid = (...numbers) => numbers.map((n) => ({ event: 'invoice.paid', data: { n } }));
const range = (count) => Array.from({ length: count }, (_, index) => index + 1);

export async function cases(version) {
  beforeEach(() => {
    complaints = [];
    mock.method(console, 'error', (...words) => complaints.push(words.map(String).join(' ')));
  });

  afterEach(async () => {
    for (const view of roots) await view.unmount();
    roots = [];
    mock.restoreAll();
    document.body.replaceChildren();
    assert.deepEqual(complaints, [], 'React has nothing to complain about');
  });

  test(`this is React ${version}`, () => assert.ok(React.version.startsWith(`${version}.`)));

  function All() {
    const { state, attempt, retryAt } = useConnection();
    const last = useEvents('invoice.paid');
    const sum = useEventState('invoice.paid', (before, { data }) => before + data.n, 0);
    useEvent('*', () => {});
    useGap(() => {});
    return h('p', null, [state, useConnectionState(), attempt, retryAt, last.length, sum, useHealth() === null, useRealtime().org].join(' '));
  }
  const ON_SERVER = '<p>disconnected disconnected 0  0 0 true acme</p>';

  test('on a server nothing is opened, and the same is rendered each time', async () => {
    const { client, counts } = setUp();
    assert.equal(renderToString(h(StrictMode, null, inside(client, h(All)))), ON_SERVER);
    // Also if the client of the process is connected.
    client.connect();
    await settled();
    assert.equal(client.getStatus().state, 'connected');
    assert.equal(renderToString(inside(client, h(All))), ON_SERVER);
    client.dispose();
    assert.deepEqual(counts, { opened: 1, closed: 1, subscribed: 0, asked: 1 }, 'what `connect` did, and no more');
  });

  test('a page from a server is hydrated without a mismatch, and then connects', async () => {
    const { client, counts, gateway } = setUp();
    const container = place();
    container.innerHTML = ON_SERVER;
    const [paragraph] = container.children;
    const faults = [];
    let root;
    await go(() => { root = hydrateRoot(container, inside(client, h(All)), { onRecoverableError: (fault) => faults.push(fault) }); });
    roots.push({ unmount: () => go(() => root.unmount()) });
    assert.deepEqual(faults, []);
    assert.equal(container.children[0], paragraph, 'the same element');
    assert.match(container.textContent, /^connected connected 0 {2}0 0 false acme$/);
    await go(() => gateway.publish(...paid(2, 3)));
    await until(() => container.textContent.includes(' 2 5 '));
    assert.equal(counts.opened, 1);
  });

  test('StrictMode opens one connection and closes none', async () => {
    const { client, counts, gateway } = setUp();
    const calls = [];
    const Once = () => {
      useEvent('invoice.paid', ({ data }) => calls.push(data.n));
      return h('i', null, useEventState('invoice.paid', (before) => before + 1, 0));
    };
    const view = await render(h(StrictMode, null, inside(client, h(Once), h(All))));
    await go(() => gateway.publish(...paid(1, 2)));
    await until(() => view.text().startsWith('2connected'));
    assert.deepEqual(calls, [1, 2], 'each event once');
    assert.deepEqual([counts.opened, counts.closed, counts.asked], [1, 0, 1]);
  });

  test('an unmounted provider closes the connection, once, after a second', async () => {
    const { client, clock, counts } = setUp();
    const view = await render(h(StrictMode, null, inside(client, inside(client))));
    await view.unmount();
    await go(() => clock.advance(LINGER_MS - 1));
    assert.equal(counts.closed, 0);
    await go(() => clock.advance(1));
    assert.equal(counts.closed, 1);
    await go(() => clock.advance(60_000));
    assert.deepEqual([counts.opened, counts.closed], [1, 1]);
    assert.equal(client.getStatus().state, 'disconnected');
  });

  test('hot reload: a provider that is mounted again within a second finds the connection', async () => {
    const { client, clock, counts, gateway } = setUp();
    const view = await render(inside(client, h(All)));
    for (const key of range(3)) {
      await view.show(null);
      await go(() => clock.advance(LINGER_MS - 1));
      await view.show(h(TidegateProvider, { client, key }, h(All)));
    }
    await go(() => clock.advance(10_000));
    assert.deepEqual([counts.opened, counts.closed], [1, 0]);
    await go(() => gateway.publish(...paid(7)));
    await until(() => view.text().includes(' 1 7 '));
  });

  test('what Suspense hides goes on, and what it mounts later finds the connection', async () => {
    const { client, clock, counts, gateway } = setUp();
    let wake;
    let asleep = new Promise((resolve) => { wake = resolve; });
    let setRound;
    const Sleeper = ({ round }) => {
      if (asleep) throw asleep;
      return h('b', null, `round ${round}: `);
    };
    const Inner = () => {
      const [round, set] = useState(1);
      setRound = set;
      return h('div', null, h(Sleeper, { round }), useEvents('*').map(({ data }) => data.n).join());
    };
    const view = await render(h(StrictMode, null, h(Suspense, { fallback: 'loading' }, inside(client, h(Inner)))));
    const wakeUp = () => go(() => { asleep = null; wake(); });
    assert.match(view.text(), /loading/);
    assert.equal(counts.opened, 0, 'what is not mounted connects nothing');
    await wakeUp();
    assert.equal(view.text(), 'round 1: ');
    await go(() => gateway.publish(...paid(1)));
    await until(() => view.text() === 'round 1: 1');

    asleep = new Promise((resolve) => { wake = resolve; });
    await go(() => setRound(2));
    assert.match(view.text(), /loading/);
    await go(() => clock.advance(5 * LINGER_MS));
    await go(() => gateway.publish(...paid(2, 3)));
    await wakeUp();
    await until(() => view.text() === 'round 2: 1,2,3');
    assert.deepEqual([counts.opened, counts.closed], [1, 0]);
  });

  test('50 events in a short time are 50 calls of the handler and at most 2 renders', async () => {
    const frames = []; // what waits for a frame's time
    const { setTimeout: later } = globalThis;
    mock.method(globalThis, 'setTimeout', (does, ms, ...more) => (ms === 16 ? frames.push(does) : later(does, ms, ...more)));
    const { client, gateway } = setUp();
    const renders = { silent: 0, list: 0, sum: 0 };
    const calls = [];
    const Silent = () => {
      renders.silent += 1;
      useEvent('invoice.paid', ({ data }) => calls.push(data.n));
      return null;
    };
    const List = () => {
      renders.list += 1;
      return useEvents('invoice.paid', { limit: 100 }).map(({ data }) => data.n).join();
    };
    const Sum = () => {
      renders.sum += 1;
      return h('b', null, useEventState('invoice.paid', (before, { data }) => before + data.n, 0));
    };
    const view = await render(inside(client, h(Silent), h(List), h(Sum)));
    const before = { ...renders };
    for (const n of range(50)) {
      await go(() => gateway.publish(...paid(n)));
      if (n % 25 === 0) await go(() => { for (const does of frames.splice(0)) does(); });
    }
    assert.equal(view.text(), `${range(50).join()}1275`);
    assert.deepEqual(calls, range(50));
    assert.equal(renders.silent, before.silent, 'useEvent renders nothing');
    assert.ok(renders.list <= before.list + 2, `${renders.list - before.list} renders`);
    assert.ok(renders.sum <= before.sum + 2, `${renders.sum - before.sum} renders`);
  });

  test('a handler sees the newest props and state, and a new function subscribes nothing anew', async () => {
    const { client, counts, gateway } = setUp();
    const seen = [];
    const Reader = ({ mark }) => {
      const [last, setLast] = useState(0);
      useEvent('invoice.paid', ({ data }) => {
        seen.push(`${mark} after ${last}`);
        setLast(data.n);
      }, {});
      const marks = useEventState('invoice.paid', (before) => before + mark, '', { enabled: true });
      return h('p', null, `${last}${marks}${useEvents('*', { limit: 1 }).length}`);
    };
    const view = await render(inside(client, h(Reader, { mark: 'a' })));
    await go(() => gateway.publish(...paid(1)));
    await until(() => view.text() === '1a1');
    await view.show(inside(client, h(Reader, { mark: 'b' })));
    await go(() => gateway.publish(...paid(2)));
    await until(() => view.text() === '2ab1');
    for (const mark of 'cdefg') await view.show(inside(client, h(Reader, { mark })));
    assert.deepEqual(seen, ['a after 0', 'b after 1']);
    assert.equal(counts.subscribed, 3, 'one for each hook');
  });

  test('a handler that throws disturbs neither the stream nor the component', async () => {
    const { client, gateway } = setUp();
    const failed = [];
    client.onError(({ code, event }) => failed.push([code, event.data.n]));
    const Reader = () => {
      useEvent('invoice.paid', ({ data }) => { if (data.n === 1) throw new Error('no'); });
      return useEvents('invoice.paid').map(({ data }) => data.n).join();
    };
    const view = await render(inside(client, h(Reader)));
    await go(() => gateway.publish(...paid(1, 2)));
    await until(() => view.text() === '1,2');
    assert.deepEqual(failed, [['handler', 1]]);
  });

  test('`enabled: false` takes no events, and forgets none that came before; `service` takes only its own', async () => {
    const { client, gateway } = setUp();
    const calls = [];
    const Reader = ({ enabled }) => {
      useEvent('*', ({ data }) => calls.push(data.n), { enabled, service: 'billing' });
      return [useEvents('*', { enabled, service: 'billing' }), useEvents('invoice.paid', { enabled })].map((list) => list.map(({ data }) => data.n).join()).join(' ');
    };
    const show = (enabled) => inside(client, h(Reader, { enabled }));
    const publish = (n) => go(() => gateway.publish({ event: 'invoice.paid', service: n % 2 ? 'billing' : 'staff', data: { n } }));
    const view = await render(show(false));
    await publish(1);
    await view.show(show(true));
    await publish(2);
    await publish(3);
    await view.show(show(false)); // perhaps before what has come was rendered
    await publish(5);
    await until(() => view.text() === '3 2,3');
    await view.show(show(true));
    await publish(7);
    await until(() => view.text() === '3,7 2,3,7');
    assert.deepEqual(calls, [3, 7]);
  });

  test('useEvents keeps the last `limit` events', async () => {
    const { client, gateway } = setUp();
    const lists = new Set();
    const List = () => {
      const list = useEvents('invoice.paid', { limit: 3 });
      lists.add(list);
      return list.map(({ data }) => data.n).join();
    };
    const view = await render(inside(client, h(List)));
    await go(() => gateway.publish(...paid(...range(10))));
    await until(() => view.text() === '8,9,10');
    await go(() => gateway.publish(...paid(11)));
    await until(() => view.text() === '9,10,11');
    const { size } = lists;
    await view.show(inside(client, h(List)));
    assert.equal(lists.size, size, 'the same list until an event comes');
  });

  test('useEvents with a limit of 0 keeps none', async () => {
    const { client, gateway } = setUp();
    const Lists = () => `${useEvents('*', { limit: 0 }).length} of ${useEvents('*').length}`;
    const view = await render(inside(client, h(Lists)));
    await go(() => gateway.publish(...paid(1, 2)));
    await until(() => view.text() === '0 of 2');
  });

  test('with another name or another client, lists and states start anew', async () => {
    const one = setUp();
    const other = setUp();
    const Reader = ({ name }) => {
      const last = useEvents(name);
      return `${last.map(({ data }) => data.n).join()} ${useEventState(name, (sum, { data }) => sum + data.n, 0)}`;
    };
    const view = await render(inside(one.client, h(Reader, { name: 'invoice.paid' })));
    await go(() => one.gateway.publish(...paid(1, 2)));
    await until(() => view.text() === '1,2 3');
    await view.show(inside(one.client, h(Reader, { name: '*' })));
    assert.equal(view.text(), ' 0');
    await go(() => one.gateway.publish(...paid(3)));
    await until(() => view.text() === '3 3');
    await view.show(inside(other.client, h(Reader, { name: '*' })));
    assert.equal(view.text(), ' 0', 'the events of one user are not shown to the next');
    await go(() => other.clock.advance(0));
    await go(() => other.gateway.publish(...paid(9)));
    await until(() => view.text() === '9 9');
    await go(() => one.clock.advance(LINGER_MS));
    assert.deepEqual([one.counts.closed, other.counts.closed], [1, 0], 'the provider lets the first client go');
  });

  test('useEventState folds all events in their order, from its first value', async () => {
    const { client, gateway } = setUp();
    const Reader = () => useEventState('*', (before, { data }) => `${before}-${data.n}`, 'start');
    const view = await render(h(StrictMode, null, inside(client, h(Reader))));
    assert.equal(view.text(), 'start');
    for (const n of range(4)) await go(() => gateway.publish(...paid(n, n * 10)));
    await until(() => view.text() === 'start-1-10-2-20-3-30-4-40');
  });

  test('useGap tells which events will not come, in its place among events', async () => {
    const { client, clock, gateway } = setUp();
    const seen = [];
    const Reader = ({ mark }) => {
      useEvent('*', ({ seq }) => seen.push(seq));
      useGap(({ reason, from, to }) => seen.push(`${mark}: ${reason} ${from} to ${to}`));
      return null;
    };
    const view = await render(inside(client, h(Reader, { mark: 'old' })));
    await go(() => gateway.publish(...paid(1, 2)));
    await view.show(inside(client, h(Reader, { mark: 'new' })));
    await go(() => gateway.drop());
    await go(() => { gateway.publish(...paid(3, 4, 5)); gateway.forget(4); });
    await go(() => clock.advance(6_000));
    assert.deepEqual(seen, [1, 2, 'new: retention 2 to 4', 5]);
  });

  test('useHealth reads the figures at once and at each interval, until it is unmounted', async () => {
    const intervals = new Map();
    mock.method(globalThis, 'setInterval', (tick, ms) => intervals.set(tick, ms) && tick);
    mock.method(globalThis, 'clearInterval', (tick) => intervals.delete(tick));
    const { client, gateway } = setUp();
    const shown = [];
    const Reader = () => {
      const health = useHealth(2_000);
      shown.push(health?.eventsReceived ?? null);
      return null;
    };
    const view = await render(inside(client, h(Reader)));
    assert.deepEqual(shown, [null, 0]);
    await go(() => gateway.publish(...paid(1, 2)));
    assert.deepEqual(shown, [null, 0]);
    assert.deepEqual([...intervals.values()], [2_000]);
    await go(() => { for (const tick of intervals.keys()) tick(); });
    assert.deepEqual(shown, [null, 0, 2]);
    await view.unmount();
    assert.equal(intervals.size, 0);
  });

  test('useConnection has what a countdown needs; useConnectionState renders only if the state changes', async () => {
    const { client, clock, gateway } = setUp();
    const statuses = [];
    const states = [];
    const Status = () => { statuses.push(useConnection()); return null; };
    const State = () => { states.push(useConnectionState()); return null; };
    await render(inside(client, h(Status), h(State)));
    assert.equal(states.at(-1), 'connected');
    assert.equal(statuses.at(-1).retryAt, null);
    await go(() => { gateway.refuse({ close: 1006 }); gateway.drop(); });
    const attempts = new Set();
    for (let minutes = 0; attempts.size < 4; minutes += 1) {
      const { state, attempt, retryAt, error } = statuses.at(-1);
      assert.equal(state, 'reconnecting');
      assert.ok(minutes < 100 && error);
      if (retryAt !== null) {
        assert.ok(retryAt >= clock.wall(), 'when the next attempt begins');
        attempts.add(attempt);
      }
      await go(() => clock.advance(5_000));
    }
    await go(() => gateway.refuse(null));
    await go(() => clock.advance(120_000));
    const { state, retryAt, error, transport } = statuses.at(-1);
    assert.deepEqual({ state, retryAt, error, transport }, { state: 'connected', retryAt: null, error: null, transport: 'ws' });
    const changes = states.filter((each, index) => each !== states[index - 1]);
    assert.deepEqual(changes.slice(-3), ['connected', 'reconnecting', 'connected']);
    assert.deepEqual(states, changes, 'no render without a change');
    assert.ok(statuses.length > states.length);
  });

  test('a hook outside of a provider says so', () => {
    const Lost = () => useRealtime().org;
    assert.throws(() => renderToString(h(Lost)), { message: 'this component is not inside a <TidegateProvider client={...}>' });
  });
}
