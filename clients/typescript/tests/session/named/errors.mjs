// How a stream ends, and whether a client comes back (PROTOCOL.md, "Codes").

import { error, event, subject } from '../script.mjs';

const { add, vectors } = subject();
export default vectors;

const asked = (t, transport = 'ws') => t.connect('get_token 1 initial', 'state disconnected auth 0').token(1, 'token-1', 1e9, `open 2 ${transport} token-1 -`, 'state disconnected opening 0');
const rest = (t) => t.is('stopped', null).step({ t: 'wake', reason: 'online' }).step({ t: 'tick' }).frame(event(5, 6)).closed({}).is('stopped', null);

for (const code of ['unauthorized', 'forbidden', 'bad_frame', 'revoked', 'evicted', 'unsupported', 'too_large', 'bad_request']) {
  add(`${code} is final`, ['codes', 'final'], {}, (t) => {
    rest(t.live().at(1000).frame(error(code, { retry_in_ms: 1000 }), 'close 2 1000', `error ${code} fatal`, 'state disconnected stopped 0'));
  }, { metrics: true });
}

add('a final code before hello', ['codes', 'final'], {}, (t) => {
  rest(asked(t).opened('state disconnected hello 0').frame(error('unauthorized'), 'close 2 1000', 'error unauthorized fatal', 'state disconnected stopped 0'));
});

add('a final code over an event stream', ['codes', 'final'], { transports: ['sse'] }, (t) => {
  rest(t.live().frame(error('evicted'), 'close 2 1000', 'error evicted fatal', 'state disconnected stopped 0'));
});

for (const code of ['internal', 'draining', 'overloaded', 'slow_consumer', 'ping_timeout', 'too_many_connections', 'rate_limited', 'auth_timeout', 'of_a_newer_gateway', 'toString', '']) {
  add(`${code || 'an error without a code'} is tried again`, ['codes'], {}, (t) => {
    t.live().at(1000).frame(error(code), 'close 2 4000', `error ${code} 3500`, 'state reconnecting backoff 1 in 3500').is('backoff', 4500).again({ g: 3 });
  }, { metrics: true });
}

for (const close of [4500, 4551, 4552, 4553, 4554, 4555, 4556, 4999, 1009]) {
  add(`close code ${close} without an error frame is final`, ['codes', 'final'], {}, (t) => {
    rest(t.live().at(1000).closed({ close }, 'error refused fatal', 'state disconnected stopped 0'));
  });
}

add('a close code with its reason', ['codes'], {}, (t) => {
  t.live().at(1000).closed({ close: 4002, code: 'slow_consumer' }, 'error slow_consumer 3500', 'state reconnecting backoff 1 in 3500')
    .again({ g: 3 }).closed({ close: 4555, code: 'evicted' }, 'error evicted fatal', 'state disconnected stopped 1');
});

for (const close of [4000, 4002, 4499]) {
  add(`close code ${close} is tried again`, ['codes'], {}, (t) => t.live().at(1000).closed({ close }, 'error refused 3500', 'state reconnecting backoff 1 in 3500'));
}
for (const close of [1000, 1001, 1005, 1006, 1008, 1011, 3000]) {
  add(`close code ${close} without a word of the gateway`, ['codes'], {}, (t) => t.live().at(1000).closed({ close }, 'error closed 3500', 'state reconnecting backoff 1 in 3500'));
}

for (const status of [200, 204, 301, 400, 401, 403, 404, 405, 426]) {
  add(`an event stream that is answered ${status} is final`, ['codes', 'final', 'section 3.28'], { transports: ['sse'] }, (t) => {
    rest(asked(t, 'sse').closed({ status }, 'error refused fatal', 'state disconnected stopped 0'));
  });
}
for (const status of [408, 429, 500, 502, 503, 504]) {
  add(`an event stream that is answered ${status} is tried again`, ['codes', 'section 3.28'], { transports: ['sse'] }, (t) => {
    asked(t, 'sse').closed({ status }, 'error refused 3500', 'state reconnecting backoff 1 in 3500');
  });
}

// After a hello: the gateway is there, so an answer without its code is that of a proxy.
const lost = (t) => t.live().at(1000).closed({}, 'error closed 3500', 'state reconnecting backoff 1 in 3500').tick('open 3 sse token-1 e1-5-t replaces=c-1', 'state reconnecting opening 1');

for (const status of [200, 302, 400, 401, 403, 404, 410]) {
  add(`an event stream that is answered ${status} without a code after a hello is tried again`, ['codes'], { transports: ['sse'] }, (t) => {
    lost(t).closed({ status }, 'error refused 4000', 'state reconnecting backoff 2 in 4000').again({ g: 4, attempt: 2, transport: 'sse' });
  });
}

for (const [status, code] of [[401, 'revoked'], [403, 'forbidden'], [404, 'not_found'], [418, 'of_a_newer_gateway']]) {
  add(`an event stream that is answered ${status} with the code ${code} after a hello is final`, ['codes', 'final'], { transports: ['sse'] }, (t) => {
    rest(lost(t).closed({ status, code }, `error ${code} fatal`, 'state disconnected stopped 1'));
  });
}

add('an event stream that is answered 204 after a hello is final', ['codes', 'final'], { transports: ['sse'] }, (t) => {
  rest(lost(t).closed({ status: 204 }, 'error refused fatal', 'state disconnected stopped 1'));
});

add('a proxy that is being changed: two WebSockets fail, the event stream is answered 404', ['codes', 'transports'], {}, (t) => {
  t.live().at(1000).closed({ close: 1006 }, 'error closed 3500', 'state reconnecting backoff 1 in 3500')
    .tick('open 3 ws token-1 e1-5-t replaces=c-1', 'state reconnecting opening 1').closed({ status: 404 }, 'error closed 4000', 'state reconnecting backoff 2 in 4000')
    .tick('open 4 ws token-1 e1-5-t replaces=c-1', 'state reconnecting opening 2').closed({ status: 404 }, 'error closed 0', 'open 5 sse token-1 e1-5-t replaces=c-1')
    .closed({ status: 404 }, 'error refused 5500', 'state reconnecting backoff 3 in 5500').again({ g: 6, attempt: 3 });
});

add('an answer without a code after a hello, disconnect and connect is tried again', ['codes'], { transports: ['sse'] }, (t) => {
  t.live().at(1000).step({ t: 'disconnect' }, 'close 2 1000', 'state disconnected idle 0')
    .connect('get_token 3 initial', 'state disconnected auth 0').token(3, 'token-2', 1e9, 'open 4 sse token-2 e1-5-t replaces=c-1', 'state disconnected opening 0')
    .closed({ status: 404 }, 'error refused 3500', 'state reconnecting backoff 1 in 3500');
});

add('a cursor of an earlier session is no hello', ['codes', 'final'], { transports: ['sse'], cursor: 'e1-5-t' }, (t) => {
  rest(t.connect('get_token 1 initial', 'state disconnected auth 0').token(1, 'token-1', 1e9, 'open 2 sse token-1 e1-5-t', 'state disconnected opening 0')
    .closed({ status: 404 }, 'error refused fatal', 'state disconnected stopped 0'));
});

add('the code of a problem names it, its status decides', ['codes'], { transports: ['sse'] }, (t) => {
  asked(t, 'sse').closed({ status: 503, code: 'overloaded', retry_in_ms: 7000 }, 'error overloaded 9500', 'state reconnecting backoff 1 in 9500')
    .tick('open 3 sse token-1 -', 'state reconnecting opening 1')
    .closed({ status: 404, code: 'not_found' }, 'error not_found fatal', 'state disconnected stopped 1');
});

add('the status of a WebSocket that is refused counts for nothing', ['codes', 'transports'], { transports: ['ws'] }, (t) => {
  asked(t).closed({ status: 403 }, 'error closed 3500', 'state reconnecting backoff 1 in 3500');
});

add('a WebSocket that is refused by the gateway with a code', ['codes'], {}, (t) => {
  rest(asked(t).closed({ status: 404, code: 'unsupported', close: 4556 }, 'error unsupported fatal', 'state disconnected stopped 0'));
});

add('connect after a final code', ['codes'], {}, (t) => {
  t.live().at(1000).frame(event(5, 6, 1000), 'event 6 0', 'cursor e1-6-t')
    .frame(error('revoked'), 'close 2 1000', 'error revoked fatal', 'state disconnected stopped 0')
    .at(90000).connect('get_token 3 initial', 'state disconnected auth 0')
    .token(3, 'token-2', null, 'open 4 ws token-2 e1-6-t replaces=c-1', 'state disconnected opening 0');
});

add('disconnect after a final code', ['codes'], {}, (t) => {
  t.live().frame(error('revoked'), 'close 2 1000', 'error revoked fatal', 'state disconnected stopped 0').step({ t: 'disconnect' }, 'state disconnected idle 0').is('idle', null);
}, { metrics: true });

add('a final code while the callback is out', ['codes', 'section 3.10'], {}, (t) => {
  t.live({ token_expires_in_ms: 10000 }).at(8300).step({ t: 'tick' }, 'get_token 3 refresh')
    .frame(error('revoked'), 'close 2 1000', 'cancel 3', 'error revoked fatal', 'state disconnected stopped 0')
    .token(3, 'token-2', null).is('stopped', null);
});
