// WebSocket first; an event stream where WebSocket does not pass. A gateway that is down moves nobody.

import { error, hello, iso, subject } from '../script.mjs';

const { add, vectors } = subject();
export default vectors;

const asked = (t, by = 'ws') => t.connect('get_token 1 initial', 'state disconnected auth 0').token(1, 'token-1', 1e9, `open 2 ${by} token-1 -`, 'state disconnected opening 0');
const lost = ['error closed 3500', 'state reconnecting backoff 1 in 3500'];

add('a WebSocket that fails twice before hello', ['transports'], {}, (t) => {
  asked(t).closed({ close: 1006 }, ...lost).tick('open 3 ws token-1 -', 'state reconnecting opening 1')
    .closed({ close: 1006 }, 'error closed 0', 'open 4 sse token-1 -').is('opening', 13500)
    .opened('state reconnecting hello 1')
    .frame(hello({ server_time: iso(3500) }), 'transport sse', 'hello c-1 5', 'cursor e1-5-t', 'state connected live 1')
    .at(20000).closed({}, 'error closed 3500', 'state reconnecting backoff 1 in 3500')
    .again({ g: 5, transport: 'sse' });
}, { metrics: true });

add('a WebSocket that fails once', ['transports'], {}, (t) => {
  asked(t).closed({ close: 1006 }, ...lost).tick('open 3 ws token-1 -', 'state reconnecting opening 1').opened('state reconnecting hello 1')
    .frame(hello({ server_time: iso(3500) }), 'hello c-1 5', 'cursor e1-5-t', 'send ping 1', 'state connected live 1')
    .at(20000).closed({}, 'error closed 3500', 'state reconnecting backoff 1 in 3500').tick('open 4 ws token-1 e1-5-t replaces=c-1', 'state reconnecting opening 1')
    .closed({}, 'error closed 4000', 'state reconnecting backoff 2 in 4000');
});

add('a gateway that is down', ['transports'], {}, (t) => {
  asked(t).closed({}, ...lost).tick('open 3 ws token-1 -', 'state reconnecting opening 1')
    .closed({}, 'error closed 0', 'open 4 sse token-1 -')
    .closed({}, 'error closed 4000', 'state reconnecting backoff 2 in 4000')
    .tick('open 5 ws token-1 -', 'state reconnecting opening 2')
    .closed({}, 'error closed 0', 'open 6 sse token-1 -')
    .closed({ status: 502 }, 'error refused 5500', 'state reconnecting backoff 3 in 5500')
    .tick('open 7 ws token-1 -', 'state reconnecting opening 3')
    .frame(hello({ server_time: iso(t.now) }), 'hello c-1 5', 'cursor e1-5-t', 'send ping 1', 'state connected live 3');
}, { metrics: true });

add('timeouts before hello count as failures', ['transports'], {}, (t) => {
  asked(t).tick('close 2 4000', 'error timeout 3500', 'state reconnecting backoff 1 in 3500').is('backoff', 13500)
    .tick('open 3 ws token-1 -', 'state reconnecting opening 1').opened('state reconnecting hello 1').is('hello', 23500)
    .tick('close 3 4000', 'error timeout 0', 'open 4 sse token-1 -', 'state reconnecting opening 1').is('opening', 33500);
});

add('a word of the gateway is no failure of the transport', ['transports'], {}, (t) => {
  const overloaded = error('overloaded');
  asked(t).closed({}, ...lost).tick('open 3 ws token-1 -', 'state reconnecting opening 1')
    .frame(overloaded, 'close 3 4000', 'error overloaded 4000', 'state reconnecting backoff 2 in 4000')
    .tick('open 4 ws token-1 -', 'state reconnecting opening 2')
    .closed({}, 'error closed 5500', 'state reconnecting backoff 3 in 5500')
    .tick('open 5 ws token-1 -', 'state reconnecting opening 3')
    .closed({ close: 1013, code: 'overloaded' }, 'error overloaded 10000', 'state reconnecting backoff 4 in 10000')
    .tick('open 6 ws token-1 -', 'state reconnecting opening 4')
    .closed({}, 'error closed 30000', 'state reconnecting backoff 5 in 30000');
});

add('a hint comes before the other transport', ['transports', 'hints'], {}, (t) => {
  asked(t).closed({ retry_in_ms: 8000 }, 'error closed 10500', 'state reconnecting backoff 1 in 10500').tick('open 3 ws token-1 -', 'state reconnecting opening 1')
    .closed({ retry_in_ms: 8000 }, 'error closed 10500', 'state reconnecting backoff 2 in 10500').tick('open 4 ws token-1 -', 'state reconnecting opening 2')
    .closed({}, 'error closed 0', 'open 5 sse token-1 -');
});

add('a WebSocket that lives twice under 5 s', ['transports'], {}, (t) => {
  t.live().at(2000).closed({}, ...lost).again({ g: 3 })
    .after(4999).closed({}, 'error closed 4000', 'state reconnecting backoff 2 in 4000')
    .again({ g: 4, attempt: 2, number: 3, transport: 'sse', isKept: false });
}, { metrics: true });

add('a page that is left twice soon after hello keeps nothing', ['transports'], { transport: 'sse' }, (t) => {
  // Its own end of the page looks like a cut. Only a transport that had its hello is kept.
  t.live().at(2000).closed({}, ...lost).again({ g: 3, transport: 'sse' }).after(1000).closed({}, 'error closed 4000', 'state reconnecting backoff 2 in 4000')
    .tick('open 4 ws token-1 e1-5-t replaces=c-2', 'state reconnecting opening 2').closed({}, 'error closed 5500', 'state reconnecting backoff 3 in 5500')
    .tick('open 5 ws token-1 e1-5-t replaces=c-2', 'state reconnecting opening 3').closed({}, 'error closed 0', 'open 6 sse token-1 e1-5-t replaces=c-2')
    .frame(hello({ server_time: iso(t.now) }), 'hello c-1 5', 'state connected live 3')
    .at(40000).closed({}, 'error closed 3500', 'state reconnecting backoff 1 in 3500').again({ g: 7, transport: 'sse' });
});

add('a longer life in between', ['transports'], {}, (t) => {
  t.live().at(2000).closed({}, ...lost).again({ g: 3 })
    .after(5000).closed({}, 'error closed 4000', 'state reconnecting backoff 2 in 4000')
    .again({ g: 4, attempt: 2, number: 3 }).after(1000).closed({}, 'error closed 5500', 'state reconnecting backoff 3 in 5500');
});

add('short lives that the gateway ends', ['transports'], {}, (t) => {
  t.live().frame(error('overloaded'), 'close 2 4000', 'error overloaded 3500', 'state reconnecting backoff 1 in 3500')
    .again({ g: 3 }).frame(error('overloaded'), 'close 3 4000', 'error overloaded 4000', 'state reconnecting backoff 2 in 4000')
    .again({ g: 4, attempt: 2, number: 3 });
});

add('an event stream whose hello does not come', ['transports', 'section 3.26'], { transports: ['sse'] }, (t) => {
  asked(t, 'sse').opened('state disconnected hello 0').tick('close 2 4000', 'error sse_buffered 3500', 'state reconnecting backoff 1 in 3500')
    .tick('open 3 sse token-1 -', 'state reconnecting opening 1').tick('close 3 4000', 'error timeout 4000', 'state reconnecting backoff 2 in 4000');
});

add('an event stream that is held back twice', ['transports', 'section 3.26'], { transport: 'sse' }, (t) => {
  asked(t, 'sse').opened('state disconnected hello 0').tick('close 2 4000', 'error sse_buffered 3500', 'state reconnecting backoff 1 in 3500')
    .tick('open 3 sse token-1 -', 'state reconnecting opening 1').opened('state reconnecting hello 1')
    .tick('close 3 4000', 'error sse_buffered 0', 'open 4 ws token-1 -', 'state reconnecting opening 1')
    .opened('state reconnecting hello 1').after(100)
    .frame(hello({ server_time: iso(t.now) }), 'transport ws', 'hello c-1 5', 'cursor e1-5-t', 'send ping 1', 'state connected live 1');
});

add('WebSocket does not pass, and the event stream is held back', ['transports', 'section 3.26'], {}, (t) => {
  asked(t).closed({}, ...lost).tick('open 3 ws token-1 -', 'state reconnecting opening 1').closed({}, 'error closed 0', 'open 4 sse token-1 -')
    .opened('state reconnecting hello 1').tick('close 4 4000', 'error sse_buffered 4000', 'state reconnecting backoff 2 in 4000')
    .tick('open 5 ws token-1 -', 'state reconnecting opening 2');
}, { metrics: true });

add('what this tab found out is used after a reload', ['transports'], { transport: 'sse' }, (t) => {
  t.live().at(2000).closed({}, ...lost).again({ g: 3, transport: 'sse' })
    .after(1000).closed({}, 'error closed 4000', 'state reconnecting backoff 2 in 4000')
    .again({ g: 4, attempt: 2, number: 3, isKept: false });
});

add('a client of one transport stays with it', ['transports'], { transports: ['ws'] }, (t) => {
  asked(t).closed({}, ...lost).tick('open 3 ws token-1 -', 'state reconnecting opening 1')
    .closed({}, 'error closed 4000', 'state reconnecting backoff 2 in 4000').tick('open 4 ws token-1 -', 'state reconnecting opening 2')
    .closed({}, 'error closed 5500', 'state reconnecting backoff 3 in 5500');
});

add('connect forgets failures', ['transports'], {}, (t) => {
  asked(t).closed({}, ...lost).step({ t: 'disconnect' }, 'state disconnected idle 1')
    .at(5000).connect('get_token 3 initial', 'state disconnected auth 0').token(3, 'token-2', null, 'open 4 ws token-2 -', 'state disconnected opening 0')
    .closed({}, 'error closed 3500', 'state reconnecting backoff 1 in 3500');
});

add('a shared connection that is another tab\'s event stream and then this one\'s', ['transports'], {}, (t) => {
  t.live().quiet(20000).step({ t: 'switched', g: t.g + 1, transport: 'sse' }).step({ t: 'switched', g: t.g, transport: 'sse' })
    .frame(hello({ server_time: iso(20000) }), 'transport sse', 'hello c-1 5 renewed').is('live', 55000)
    .at(21000).step({ t: 'wake', reason: 'visible' }).is('live', 55000)
    .at(22000).closed({}, 'error closed 3500', 'state reconnecting backoff 1 in 3500').step({ t: 'switched', g: t.g, transport: 'ws' })
    .tick('open 3 sse token-1 e1-5-t replaces=c-1', 'state reconnecting opening 1');
}, { metrics: true });
