// R3: what hello says, and that it never skips.

import { event, gap, hello, iso, ping, subject } from '../script.mjs';

const { add, vectors } = subject();
export default vectors;

const lost = ['error closed 3500', 'state reconnecting backoff 1 in 3500'];

add('hello above the cursor would skip events', ['R3'], { cursor: 'e1-5-t' }, (t) => {
  t.connect('get_token 1 initial', 'state disconnected auth 0').token(1, 'token-1', 1e9, 'open 2 ws token-1 e1-5-t', 'state disconnected opening 0')
    .opened('state disconnected hello 0')
    .frame(hello({ cursor: 'e1-6-t', head: 9 }), 'close 2 4000', 'error protocol 3500', 'state reconnecting backoff 1 in 3500')
    .tick('open 3 ws token-1 e1-5-t', 'state reconnecting opening 1');
}, { metrics: true });

add('a renewed hello above the cursor would skip events', ['R3', 'R6'], {}, (t) => {
  t.live().at(1000).frame(hello({ cursor: 'e1-6-t', head: 9 }), 'close 2 4000', 'error protocol 3500', 'state reconnecting backoff 1 in 3500');
});

add('hello.head is not a position', ['R3'], {}, (t) => {
  t.live({ head: 9 }).closed({}, ...lost).again({ g: 3, head: 12 });
});

add('hello below the cursor lowers nothing', ['R3'], { cursor: 'e1-5-t' }, (t) => {
  t.connect('get_token 1 initial', 'state disconnected auth 0').token(1, 'token-1', 1e9, 'open 2 ws token-1 e1-5-t', 'state disconnected opening 0')
    .opened('state disconnected hello 0')
    .frame(hello({ cursor: 'e1-3-t' }), 'hello c-1 5', 'send ping 1', 'state connected live 0')
    .frame(event(3, 5)).frame(event(5, 6), 'event 6 200', 'cursor e1-6-t');
});

add('a restart that lost nothing: hello brings the new epoch', ['R3', 'R10'], {}, (t) => {
  t.live().closed({}, ...lost)
    .again({ g: 3, cursor: 'e1-5-t', connection_id: 'c-2' })
    .closed({}, 'error closed 4000', 'state reconnecting backoff 2 in 4000')
    .tick('open 4 sse token-1 e1-5-t replaces=c-2', 'state reconnecting opening 2').opened('state reconnecting hello 2')
    .frame(hello({ cursor: 'e2-5-t', epoch: 'e2', head: 7, connection_id: 'c-3', resumed: true }), 'transport sse', 'hello c-3 7 resumed', 'cursor e2-5-t', 'state connected live 2')
    .frame(event(5, 6), 'event 6 replay', 'cursor e2-6-t');
});

add('a connection that ends between hello and its gap', ['R3'], { cursor: 'e0-9-t' }, (t) => {
  t.live({ epoch: 'e0', head: 3, resumed: false }).closed({}, ...lost)
    .again({ g: 3, cursor: 'e0-9-t', head: 3 })
    .frame(gap(9, 0, 'epoch'), 'gap 9..0 e1 epoch', 'cursor e1-0-t');
}, { metrics: true });

for (const [what, cursor] of [['no cursor', undefined], ['a cursor that is none', 'e1'], ['a seq with a leading zero', 'e1-05-t'], ['a number as cursor', 5]]) {
  add(`hello with ${what}`, ['R4'], {}, (t) => {
    t.connect('get_token 1 initial', 'state disconnected auth 0').token(1, 'token-1', 1e9, 'open 2 ws token-1 -', 'state disconnected opening 0')
      .frame(hello({ cursor }), 'close 2 4000', 'error protocol 3500', 'state reconnecting backoff 1 in 3500');
  });
}

add('hello without what it may leave out', ['R3'], {}, (t) => {
  t.connect('get_token 1 initial', 'state disconnected auth 0').token(1, 'token-1', 1e9, 'open 2 ws token-1 -', 'state disconnected opening 0')
    .frame({ type: 'hello', cursor: 'e1-5-t' }, 'hello  0', 'cursor e1-5-t', 'send ping 1', 'state connected live 0').is('live', 10000)
    .tick().is('live', 35000)
    .at(20000).frame(ping(5, 5), 'send pong', 'send ping 2').is('live', 48000);
});

add('what hello shows to the page', ['R3'], {}, (t) => {
  t.connect('get_token 1 initial', 'state disconnected auth 0').token(1, 'token-1', 1e9, 'open 2 ws token-1 -', 'state disconnected opening 0')
    .frame(hello({ sync: 'memory', services: ['a', 7, 'b'] }), 'hello c-1 5 memory', 'cursor e1-5-t', 'send ping 1', 'state connected live 0');
});

add('the interval of pings sets when silence is a fault', ['R3', 'silence'], { transports: ['sse'] }, (t) => {
  t.live({ ping_interval_ms: 1000 }).tick().is('live', 11300).tick('state connected probe 0').is('probe', 16300);
});

add('an interval of pings over an hour counts as an hour', ['bounds'], { transports: ['sse'] }, (t) => {
  t.live({ ping_interval_ms: 9e12, token_expires_in_ms: 1e10 }).tick().is('live', 3610300);
});

add('the dedup window of hello may be left out', ['R14'], {}, (t) => t.live({ dedup_window_ms: undefined }).at(1000).frame(event(5, 6, 1000), 'event 6 0', 'cursor e1-6-t'));
add('a clock that cannot be read', ['section 3.19'], {}, (t) => {
  t.live({ server_time: 'soon' }).at(1000).frame(event(5, 6, 1000), 'event 6', 'cursor e1-6-t')
    .frame({ type: 'pong', n: 1, timestamp: null }).frame(event(6, 7, 1000), 'event 7', 'cursor e1-7-t')
    .at(1300).frame(ping(7, 7), 'send pong', 'send ping 2')
    .at(1500).frame({ type: 'pong', n: 2, timestamp: iso(1400) }).frame(event(7, 8, 1490), 'event 8 10', 'cursor e1-8-t');
}, { metrics: true });
