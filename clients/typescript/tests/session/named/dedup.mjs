// R14: after a gap of reason `epoch`, an event may come again under another seq.

import { batch, entry, event, gap, hello, subject, Script, WALL } from '../script.mjs';

const { add, vectors } = subject();
export default vectors;

const toEpoch = ['gap 6..0 e2 epoch', 'cursor e2-0-t'];

add('the same event under another seq after a lossy change of epoch', ['R14'], {}, (t) => {
  t.live().at(1000).frame(event(5, 6, 900), 'event 6 100', 'cursor e1-6-t')
    .frame(gap(6, 0, 'epoch', { epoch: 'e2' }), ...toEpoch)
    .frame(event(0, 7, 950, { id: 'i6' }), 'cursor e2-7-t')
    .frame(event(7, 8, 950), 'event 8 50', 'cursor e2-8-t');
}, { metrics: true });

add('within one chain of epochs the cursor alone decides', ['R14', 'section 3.18'], {}, (t) => {
  t.live().at(1000).frame(event(5, 6, 900), 'event 6 100', 'cursor e1-6-t')
    .frame(event(6, 7, 950, { id: 'i6' }), 'event 7 50', 'cursor e1-7-t')
    .frame(gap(7, 9, 'retention'), 'gap 7..9 e1 retention', 'cursor e1-9-t')
    .frame(event(9, 10, 950, { id: 'i6' }), 'event 10 50', 'cursor e1-10-t')
    .frame(gap(10, 10, 'filter'), 'gap 10..10 e1 filter', 'cursor e1-10-t')
    .frame(event(10, 11, 950, { id: 'i6' }), 'event 11 50', 'cursor e1-11-t');
}, { metrics: true });

add('a change of epoch without a gap is no reason to look at ids', ['R14'], {}, (t) => {
  t.live().at(1000).frame(event(5, 6, 900), 'event 6 100', 'cursor e1-6-t')
    .frame(hello({ cursor: 'e2-6-t', head: 6 }), 'hello c-1 6 renewed', 'cursor e2-6-t')
    .frame(event(6, 7, 950, { id: 'i6' }), 'event 7 50', 'cursor e2-7-t');
}, { metrics: true });

add('service, source and id tell events apart', ['R14'], {}, (t) => {
  t.live().at(1000).frame(event(5, 6, 900, { source: '/a' }), 'event 6 100', 'cursor e1-6-t')
    .frame(gap(6, 0, 'epoch', { epoch: 'e2' }), ...toEpoch)
    .frame(batch(0, 9, entry(6, 950, { id: 'i6' }), entry(7, 950, { id: 'i6', source: '/b' }), entry(8, 950, { id: 'i6', source: '/a', service: 'x' }), entry(9, 950, { id: 'i6', source: '/a' })),
      'event 6 50', 'event 7 50', 'event 8 50', 'cursor e2-9-t');
}, { metrics: true });

add('an event is remembered by its timestamp, so one of a later window is another', ['R14'], {}, (t) => {
  t.live({ head: 99 }).at(1000).frame(event(5, 6, -400000), 'event 6 replay', 'cursor e1-6-t')
    .frame(gap(6, 0, 'epoch', { epoch: 'e2' }), ...toEpoch)
    .frame(event(0, 6, -100001, { id: 'i6' }), 'cursor e2-6-t')
    .frame(event(6, 7, -100000, { id: 'i6' }), 'event 7 replay', 'cursor e2-7-t')
    .frame(event(7, 8, -99999, { id: 'i6' }), 'cursor e2-8-t');
}, { metrics: true });

add('the window of the log, if it is shorter than five minutes', ['R14'], {}, (t) => {
  t.live({ head: 99, dedup_window_ms: 60000 }).at(1000).frame(event(5, 6, -100000), 'event 6 replay', 'cursor e1-6-t')
    .frame(gap(6, 0, 'epoch', { epoch: 'e2' }), ...toEpoch)
    .frame(event(0, 6, -40001, { id: 'i6' }), 'cursor e2-6-t')
    .frame(event(6, 7, -40000, { id: 'i6' }), 'event 7 replay', 'cursor e2-7-t');
});

add('five minutes after the gap the cursor alone decides again', ['R14'], {}, (t) => {
  t.live().at(1000).frame(event(5, 6, 1000), 'event 6 0', 'cursor e1-6-t')
    .frame(gap(6, 0, 'epoch', { epoch: 'e2' }), ...toEpoch);
  t.quiet(300999)
    .frame(event(0, 6, 300000, { id: 'i6' }), 'cursor e2-6-t')
    .at(301000).frame(event(6, 7, 300000, { id: 'i6' }), 'event 7 1000', 'cursor e2-7-t');
}, { metrics: true });

add('keys are forgotten after five to six minutes', ['R14', 'section 3.17'], { transports: ['sse'] }, (t) => {
  t.live().at(1000).frame(event(5, 6, 1000), 'event 6 0', 'cursor e1-6-t')
    .quiet(62000).frame(event(6, 7, 62000), 'event 7 0', 'cursor e1-7-t');
  // The first minute's keys began at 1 s, the second's at 62 s; sweeps come at 61 s and each minute after.
  t.quiet(310000).frame(gap(7, 0, 'epoch', { epoch: 'e2' }), 'gap 7..0 e2 epoch', 'cursor e2-0-t')
    .frame(event(0, 6, 299999, { id: 'i6' }), 'cursor e2-6-t');
  t.quiet(361000).frame(batch(6, 8, entry(7, 300000, { id: 'i6' }), entry(8, 300000, { id: 'i7' })), 'event 7 61000', 'cursor e2-8-t');
}, { metrics: true });

add('nothing remembered, nothing swept', ['section 3.17'], { transports: ['sse'] }, (t) => {
  t.live().at(1000).frame(event(5, 6, 1000), 'event 6 0', 'cursor e1-6-t').step({ t: 'disconnect' }, 'close 2 1000', 'state disconnected idle 0').is('idle', 61000);
  for (let at = 61000; at < 361000; at += 60000) t.tick().is('idle', at + 60000);
  t.tick().is('idle', null);
});

add('an event without a time of its own is not remembered', ['R14', 'parity'], {}, (t) => {
  t.live().at(1000).frame(event(5, 6, 900, { timestamp: 'yesterday' }), 'event 6', 'cursor e1-6-t')
    .frame(gap(6, 0, 'epoch', { epoch: 'e2' }), ...toEpoch)
    .frame(event(0, 7, 900, { timestamp: 'yesterday', id: 'i6' }), 'event 7', 'cursor e2-7-t');
});

// At most 10,000 keys: with the 10,001st the oldest generation goes, here one of two keys.
const keys = (from, n) => Object.fromEntries(Array.from({ length: n }, (_, i) => [`s\0\0${(from + i).toString(36)}`, WALL]));
const full = () => {
  const script = new Script('', [], {});
  script.live();
  const state = JSON.parse(JSON.stringify(script.session.state));
  state.remembered = [{ born: 300, keys: { 's\0\0I1': WALL, 's\0\0I2': WALL } }, ...[0, 1, 2, 3].map((i) => ({ born: 300, keys: keys(i * 2000, 2000) })), { born: 300, keys: keys(8000, 1997) }];
  state.timers.sweep = 60300;
  return state;
};
add('at most 10,000 keys, the oldest go first', ['R14', 'section 3.17', 'bounds'], { state: full() }, (t) => {
  t.at(1000);
  t.g = 2;
  t.frame(batch(5, 6, entry(6, 0, { id: '!' })), 'event 6 1000', 'cursor e1-6-t')
    .frame(gap(6, 6, 'epoch', { epoch: 'e2' }), 'gap 6..6 e2 epoch', 'cursor e2-6-t')
    .frame(event(6, 7, 0, { id: 'I1' }), 'cursor e2-7-t')
    .frame(event(7, 8, 0, { id: '!!' }), 'event 8 1000', 'cursor e2-8-t')
    .frame(event(8, 9, 0, { id: 'I1' }), 'event 9 1000', 'cursor e2-9-t')
    .frame(event(9, 10, 0, { id: '0' }), 'cursor e2-10-t');
});
