// How a session begins, comes back and ends.

import { error, event, hello, subject } from '../script.mjs';

const { add, vectors } = subject();
export default vectors;

add('idle, auth, opening, hello, live', ['session', '2.7'], {}, (t) => {
  t.connect('get_token 1 initial', 'state disconnected auth 0').is('auth', 15000)
    .at(100).token(1, 'token-1', null, 'open 2 ws token-1 -', 'state disconnected opening 0').is('opening', 10100)
    .at(200).opened('state disconnected hello 0').is('hello', 10200)
    .at(300).frame(hello(), 'hello c-1 5', 'cursor e1-5-t', 'send ping 1', 'state connected live 0').is('live', 10300)
    .tick().is('live', 35300);
}, { metrics: true });

add('an event stream sends nothing', ['session'], { transports: ['sse'] }, (t) => {
  t.live()
    .at(1000).frame({ type: 'ping', prev: 5, seq: 5, timestamp: 'x' }).is('live', 10300)
    .tick().is('live', 36000);
});

add('the kept cursor is presented', ['R4', 'section 3.13'], { cursor: 'e1-5-t' }, (t) => t.live({ resumed: true }));
add('a cursor of a publish answer has no tag; hello gives one', ['R4'], { cursor: 'e1-5' }, (t) => t.live());
add('tail is asked for only without a cursor', ['R4'], { tail: 10 }, (t) => {
  t.live({ head: 15 })
    .closed({}, 'error closed 3500', 'state reconnecting backoff 1 in 3500')
    .again({ g: 3 });
});

add('the first attempt is disconnected until one has failed', ['health', 'section 5.3'], { transports: ['ws'] }, (t) => {
  t.connect('get_token 1 initial', 'state disconnected auth 0')
    .token(1, 'token-1', 1e9, 'open 2 ws token-1 -', 'state disconnected opening 0')
    .closed({}, 'error closed 3500', 'state reconnecting backoff 1 in 3500')
    .tick('open 3 ws token-1 -', 'state reconnecting opening 1')
    .opened('state reconnecting hello 1');
}, { metrics: true });

add('disconnect closes, and nothing is due', ['session'], {}, (t) => {
  t.live().at(5000).step({ t: 'disconnect' }, 'close 2 1000', 'state disconnected idle 0').is('idle', null)
    .frame(event(5, 6, 5000)).step({ t: 'tick' }).step({ t: 'wake', reason: 'online' }).is('idle', null);
}, { metrics: true });

add('disconnect while the callback is out', ['section 3.10'], {}, (t) => {
  t.connect('get_token 1 initial', 'state disconnected auth 0')
    .step({ t: 'disconnect' }, 'cancel 1', 'state disconnected idle 0').is('idle', null)
    .at(100).token(1, 'token-1', null).is('idle', null);
});

add('disconnect during backoff', ['session'], {}, (t) => {
  t.live().closed({}, 'error closed 3500', 'state reconnecting backoff 1 in 3500')
    .step({ t: 'disconnect' }, 'state disconnected idle 1').is('idle', null)
    .step({ t: 'disconnect' }).is('idle', null);
}, { metrics: true });

add('connect after disconnect asks for a new token and keeps the cursor', ['session'], {}, (t) => {
  t.live().at(1000).frame(event(5, 6, 1000), 'event 6 0', 'cursor e1-6-t')
    .at(2000).step({ t: 'disconnect' }, 'close 2 1000', 'state disconnected idle 0').is('idle', 61000)
    .at(3000).connect('get_token 3 initial', 'state disconnected auth 0')
    .token(3, 'token-2', null, 'open 4 ws token-2 e1-6-t replaces=c-1', 'state disconnected opening 0');
});

add('connect does not undercut what the gateway asked for', ['section 3.1'], {}, (t) => {
  t.live().at(1000).frame(error('overloaded', { retry_in_ms: 20000 }), 'close 2 4000', 'error overloaded 22500', 'state reconnecting backoff 1 in 22500')
    .at(2000).step({ t: 'disconnect' }, 'state disconnected idle 1')
    .at(3000).connect('state disconnected backoff 0 in 18000').is('backoff', 21000)
    .tick('get_token 3 initial', 'state disconnected auth 0');
});

add('connect is for sessions at rest', ['session'], {}, (t) => {
  t.connect('get_token 1 initial', 'state disconnected auth 0').connect()
    .token(1, 'token-1', null, 'open 2 ws token-1 -', 'state disconnected opening 0').connect()
    .opened('state disconnected hello 0').connect()
    .frame(hello(), 'hello c-1 5', 'cursor e1-5-t', 'send ping 1', 'state connected live 0').connect()
    .closed({}, 'error closed 3500', 'state reconnecting backoff 1 in 3500').connect().is('backoff', 3500);
});

add('nothing moves a session at rest', ['session'], {}, (t) => {
  for (const input of [
    { t: 'token', g: 1, token: 'x' }, { t: 'token_failed', g: 1, final: true, message: '' }, { t: 'opened', g: 1 }, { t: 'frame', g: 1, text: '{}' },
    { t: 'closed', g: 1 }, { t: 'wake', reason: 'visible' }, { t: 'offline' }, { t: 'suspend' }, { t: 'tick' }, { t: 'overflow' }, { t: 'drained' },
    { t: 'page', g: 1, text: '{}' }, { t: 'page_failed', g: 1 }, { t: 'disconnect' },
  ]) t.step(input).is('idle', null);
});
