// R2: how event, batch and ping move the cursor, and what a hole is.

import { batch, entry, event, hello, iso, ping, subject } from '../script.mjs';

const { add, vectors } = subject();
export default vectors;

add('event, batch and ping move the cursor', ['R2'], {}, (t) => {
  t.live().at(1000)
    .frame(event(5, 6, 1000), 'event 6 0', 'cursor e1-6-t')
    .frame(batch(6, 9, entry(7, 990), entry(9, 1000)), 'event 7 10', 'event 9 0', 'cursor e1-9-t')
    .frame(ping(9, 12), 'cursor e1-12-t', 'send pong')
    .frame(event(12, 13, 1000), 'event 13 0', 'cursor e1-13-t');
}, { metrics: true });

add('prev may lie below the cursor', ['R2', 'R1'], {}, (t) => {
  t.live().at(1000).frame(event(2, 9, 1000), 'event 9 0', 'cursor e1-9-t').frame(ping(0, 11), 'cursor e1-11-t', 'send pong');
});

add('a batch may end above its last event', ['R1', 'R2'], {}, (t) => {
  t.live().at(1000).frame(batch(5, 20, entry(7, 1000)), 'event 7 0', 'cursor e1-20-t').frame(event(20, 21, 1000), 'event 21 0', 'cursor e1-21-t');
});

for (const [type, frame] of [['event', event(7, 8)], ['batch', batch(6, 9, 8)], ['ping', ping(6, 6)], ['ping that would move', ping(7, 9)]]) {
  add(`a hole before a frame of type ${type}`, ['R2', 'section 3.14'], {}, (t) => {
    t.live().at(1000).frame(frame, 'close 2 4000', 'error hole 3500', 'state reconnecting backoff 1 in 3500').is('backoff', 4500)
      .again({ g: 3 })
      .frame(batch(5, 9, 6, 8), 'event 6 4600', 'event 8 4600', 'cursor e1-9-t');
  }, { metrics: true });
}

add('what is at or below the cursor was seen', ['R2', 'R5', 'section 3.18'], {}, (t) => {
  t.live().at(1000)
    .frame(event(5, 6, 1000), 'event 6 0', 'cursor e1-6-t')
    .frame(event(5, 6, 1000))
    .frame(batch(3, 6, 4, 6))
    .frame(batch(3, 8, 4, 6, entry(8, 1000)), 'event 8 0', 'cursor e1-8-t')
    .frame(ping(3, 5), 'send pong');
}, { metrics: true });

add('the position that counts is that of what was handed over', ['R2', 'section 3.12', 'section 3.13'], {}, (t) => {
  t.live().at(1000).frame(batch(5, 7, entry(6, 1000), entry(7, 1000)), 'event 6 0', 'event 7 0', 'cursor e1-7-t')
    .closed({}, 'error closed 3500', 'state reconnecting backoff 1 in 3500')
    .again({ g: 3, cursor: 'e1-7-t', head: 7 });
}, { metrics: true });

add('a resume without events keeps the cursor of hello', ['R3', 'section 3.12'], {}, (t) => {
  t.live().at(1000).closed({}, 'error closed 3500', 'state reconnecting backoff 1 in 3500')
    .again({ g: 3 })
    .after(100).closed({}, 'error closed 4000', 'state reconnecting backoff 2 in 4000')
    .again({ g: 4, attempt: 2, number: 3, transport: 'sse', isKept: false });
});

add('seqs up to 2^53 - 1', ['R2', 'parity'], { cursor: 'e1-9007199254740990-t' }, (t) => {
  t.live({ head: 9007199254740990, resumed: true }).at(1000)
    .frame(event(9007199254740990, 9007199254740991, 1000), 'event 9007199254740991 0', 'cursor e1-9007199254740991-t');
});

const BROKEN = ['close 2 4000', 'error protocol 3500', 'state reconnecting backoff 1 in 3500'];
for (const [what, text] of [
  ['is not JSON', '{"type":"event"'], ['is null', 'null'], ['is a list', '[]'], ['has no type', '{}'], ['has no prev', '{"type":"ping","seq":6}'],
  ['has a negative seq', '{"type":"ping","prev":0,"seq":-1}'], ['has a broken seq', '{"type":"ping","prev":0,"seq":6.5}'], ['has a seq as text', '{"type":"ping","prev":0,"seq":"6"}'],
  ['has a seq over 2^53 - 1', '{"type":"ping","prev":0,"seq":9007199254740992}'], ['has no events', '{"type":"batch","prev":5,"seq":6}'],
  ['is compressed, which nobody asked for', '{"type":"batch","compressed":true,"encoding":"gzip","data":"","prev":5,"seq":6}'],
  ['has no event in its events', '{"type":"batch","prev":5,"seq":6,"events":[null]}'],
  ['has events out of order', JSON.stringify(batch(5, 9, 8, 7))], ['has an event twice', JSON.stringify(batch(5, 9, 7, 7))], ['has an event above its seq', JSON.stringify(batch(5, 6, 7))],
]) add(`a frame that ${what}`, ['R2', 'protocol'], {}, (t) => t.live().at(1000).frame(text, ...BROKEN));

add('frames before hello', ['R3'], {}, (t) => {
  t.connect('get_token 1 initial', 'state disconnected auth 0').token(1, 'token-1', 1e9, 'open 2 ws token-1 -', 'state disconnected opening 0')
    .opened('state disconnected hello 0')
    .frame({ type: 'from_a_newer_gateway' })
    .frame(event(5, 6), 'close 2 4000', 'error protocol 3500', 'state reconnecting backoff 1 in 3500');
});

add('hello may come before the transport says that it is open', ['session'], {}, (t) => {
  t.connect('get_token 1 initial', 'state disconnected auth 0').token(1, 'token-1', null, 'open 2 ws token-1 -', 'state disconnected opening 0')
    .frame(hello({ server_time: iso(0) }), 'hello c-1 5', 'cursor e1-5-t', 'send ping 1', 'state connected live 0')
    .opened().is('live', 10000);
});

add('a frame of a newer gateway is a sign of life and no more', ['R2'], {}, (t) => {
  t.live().at(10300).tick().is('live', 35300)
    .at(20000).frame({ type: 'news', prev: 100, seq: 200 }).is('live', 55000)
    .frame({ type: 'toString' }).frame({ type: '__proto__' }).is('live', 55000);
});

add('status and pong do not move the cursor', ['R2'], {}, (t) => {
  t.live().at(1000).frame({ type: 'status', code: 'degraded', message: 'm', prev: 9, seq: 10 }, 'status degraded')
    .frame({ type: 'pong', n: 1, timestamp: iso(1000), prev: 9, seq: 10 })
    .frame(event(5, 6, 1000), 'event 6 0', 'cursor e1-6-t');
});
