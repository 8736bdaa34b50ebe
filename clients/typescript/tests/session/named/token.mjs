// The application's token callback: it may reject, hang, or give nothing, and never wedges the client.

import { error, hello, subject } from '../script.mjs';

const { add, vectors } = subject();
export default vectors;

const begin = (t) => t.connect('get_token 1 initial', 'state disconnected auth 0');
const lost = ['error closed 3500', 'state reconnecting backoff 1 in 3500'];

add('the callback rejects', ['section 3.10'], {}, (t) => {
  begin(t).at(50).step({ t: 'token_failed', g: 1, final: false, message: 'x' }, 'error token 3500', 'state reconnecting backoff 1 in 3500').is('backoff', 3550)
    .tick('get_token 2 initial', 'state reconnecting auth 1')
    .step({ t: 'token_failed', g: 2, final: false, message: 'x' }, 'error token 4000', 'state reconnecting backoff 2 in 4000')
    .tick('get_token 3 initial', 'state reconnecting auth 2').token(3, 'token-1', null, 'open 4 ws token-1 -', 'state reconnecting opening 2');
}, { metrics: true });

add('the callback says that nobody is logged in', ['section 3.10', 'final'], {}, (t) => {
  begin(t).step({ t: 'token_failed', g: 1, final: true, message: 'x' }, 'error auth fatal', 'state disconnected stopped 0').is('stopped', null);
});

add('the callback hangs', ['section 3.10'], {}, (t) => {
  begin(t).is('auth', 15000).tick('cancel 1', 'error token 3500', 'state reconnecting backoff 1 in 3500').is('backoff', 18500)
    .tick('get_token 2 initial', 'state reconnecting auth 1').is('auth', 33500);
});

add('the callback gives an empty token', ['section 3.10'], {}, (t) => {
  begin(t).token(1, '', null, 'error token 3500', 'state reconnecting backoff 1 in 3500').tick('get_token 2 initial', 'state reconnecting auth 1');
});

for (const life of [0, -1000]) {
  add(`the callback gives a token that lives for ${life} ms`, ['section 3.10'], {}, (t) => {
    begin(t).token(1, 'token-1', life, 'error token 3500', 'state reconnecting backoff 1 in 3500').tick('get_token 2 initial', 'state reconnecting auth 1');
  });
}

add('one callback at a time', ['section 3.11', 'single flight'], { transports: ['ws'] }, (t) => {
  t.live({ token_expires_in_ms: 10000 }).at(8300).step({ t: 'tick' }, 'get_token 3 refresh').is('live', 10300)
    .at(9000).closed({}, ...lost).is('backoff', 12500)
    .tick('state reconnecting auth 1').is('auth', 23300)
    .at(13000).token(3, 'token-2', null, 'open 4 ws token-2 e1-5-t replaces=c-1', 'state reconnecting opening 1');
});

add('a callback that outlives its connection and fails', ['section 3.11', 'single flight'], { transports: ['ws'] }, (t) => {
  t.live({ token_expires_in_ms: 10000 }).at(8300).step({ t: 'tick' }, 'get_token 3 refresh')
    .at(9000).closed({}, ...lost)
    .at(9500).step({ t: 'token_failed', g: 3, final: false, message: 'x' }, 'error token')
    .at(12500).step({ t: 'tick' }, 'get_token 4 expired', 'state reconnecting auth 1');
});

add('a callback that answers during backoff', ['single flight'], { transports: ['ws'] }, (t) => {
  t.live({ token_expires_in_ms: 10000 }).at(8300).step({ t: 'tick' }, 'get_token 3 refresh')
    .at(9000).closed({}, ...lost).at(9500).token(3, 'token-2', null).is('backoff', 12500)
    .tick('open 4 ws token-2 e1-5-t replaces=c-1', 'state reconnecting opening 1');
});

add('a token serves again as long as hello said', ['section 3.9'], { transports: ['ws'] }, (t) => {
  t.live({ token_expires_in_ms: 4000 }).at(400).closed({}, 'error closed 3500', 'state reconnecting backoff 1 in 3500')
    .tick('open 3 ws token-1 e1-5-t replaces=c-1', 'state reconnecting opening 1')
    .closed({}, 'error closed 4000', 'state reconnecting backoff 2 in 4000')
    .tick('get_token 4 expired', 'state reconnecting auth 2');
});

add('a token of unknown life serves for a minute', ['section 3.9'], { transports: ['ws'] }, (t) => {
  begin(t).token(1, 'token-1', null, 'open 2 ws token-1 -', 'state disconnected opening 0');
  [3500, 4000, 5500, 10000, 30000].forEach((wait, i) => {
    t.closed({}, `error closed ${wait}`, `state reconnecting backoff ${i + 1} in ${wait}`).tick(`open ${i + 3} ws token-1 -`, `state reconnecting opening ${i + 1}`);
  });
  t.at(60000).closed({}, 'error closed 60000', 'state reconnecting backoff 6 in 60000').tick('get_token 8 expired', 'state reconnecting auth 6');
});

add('a token whose life the callback knows', ['section 3.9'], { transports: ['ws'] }, (t) => {
  begin(t).token(1, 'token-1', 3500, 'open 2 ws token-1 -', 'state disconnected opening 0').closed({}, ...lost).tick('get_token 3 expired', 'state reconnecting auth 1');
});

add('a token refused three times in a row', ['section 3.11', 'token_expired'], {}, (t) => {
  const refused = error('token_expired');
  begin(t).token(1, 'token-1', null, 'open 2 ws token-1 -', 'state disconnected opening 0').opened('state disconnected hello 0')
    .frame(refused, 'close 2 4000', 'error token_expired 0', 'get_token 3 expired', 'state reconnecting auth 0')
    .token(3, 'token-2', null, 'open 4 ws token-2 -', 'state reconnecting opening 0')
    .closed({ close: 4001, code: 'token_expired' }, 'error token_expired 3500', 'state reconnecting backoff 1 in 3500')
    .tick('get_token 5 expired', 'state reconnecting auth 1').token(5, 'token-3', null, 'open 6 ws token-3 -', 'state reconnecting opening 1')
    .frame(refused, 'close 6 1000', 'error auth fatal', 'state disconnected stopped 1').is('stopped', null);
}, { metrics: true });

add('a close code says that the token has expired', ['token_expired'], {}, (t) => {
  t.live().at(1000).closed({ close: 4001 }, 'error token_expired 0', 'get_token 3 expired', 'state reconnecting auth 0');
}, { metrics: true });

add('401 with the code token_expired is not final', ['token_expired', 'section 3.28'], { transports: ['sse'] }, (t) => {
  begin(t).token(1, 'token-1', null, 'open 2 sse token-1 -', 'state disconnected opening 0')
    .closed({ status: 401, code: 'token_expired' }, 'error token_expired 0', 'get_token 3 expired', 'state reconnecting auth 0')
    .token(3, 'token-2', null, 'open 4 sse token-2 -', 'state reconnecting opening 0')
    .closed({ status: 401, code: 'unauthorized' }, 'error unauthorized fatal', 'state disconnected stopped 0');
});

add('token_expired after 10 s live counts anew', ['token_expired', 'section 3.11'], {}, (t) => {
  t.live();
  [0, 1, 2, 3].forEach((i) => {
    t.after(10000).step({ t: 'tick' }).frame(error('token_expired'), `close ${2 * i + 2} 4000`, 'error token_expired 0', `get_token ${2 * i + 3} expired`, 'state reconnecting auth 0')
      .token(2 * i + 3, `token-${i + 2}`, null, `open ${2 * i + 4} ws token-${i + 2} e1-5-t replaces=c-${i + 1}`, 'state reconnecting opening 0')
      .frame(hello({ connection_id: `c-${i + 2}` }), `hello c-${i + 2} 5`, `send ping ${i + 2}`, 'state connected live 0');
  });
}, { metrics: true });

add('token_expired with a hint waits', ['token_expired', 'hints'], {}, (t) => {
  t.live().random(0).frame(error('token_expired', { retry_in_ms: 9000 }), 'close 2 4000', 'error token_expired 9000', 'state reconnecting backoff 1 in 9000')
    .tick('get_token 3 expired', 'state reconnecting auth 1');
});

add('renewed in place at four fifths of its life', ['section 3.11', 'renewal'], {}, (t) => {
  t.live({ token_expires_in_ms: 10000 }).is('live', 8300).tick('get_token 3 refresh').is('live', 10300)
    .at(8400).token(3, 'token-2', null, 'send auth token-2')
    .at(8500).frame(hello({ token_expires_in_ms: 20000, head: 6 }), 'hello c-1 6 renewed').is('live', 10300).tick()
    .at(20000).frame({ type: 'news' }).is('live', 24500).tick('get_token 4 refresh');
}, { metrics: true });

add('a renewal that changes the services changes the tag', ['R6', 'renewal'], {}, (t) => {
  t.live({ token_expires_in_ms: 10000 }).tick('get_token 3 refresh').token(3, 'token-2', null, 'send auth token-2')
    .frame(hello({ cursor: 'e1-5-u', filter: 'u', services: ['a'] }), 'hello c-1 5 renewed', 'cursor e1-5-u');
});

add('renewal over an event stream is another stream, not a disconnect', ['section 3.11', 'renewal'], { transports: ['sse'] }, (t) => {
  t.live({ token_expires_in_ms: 10000 }).tick('get_token 3 refresh')
    .at(8400).token(3, 'token-2', null, 'close 2 1000', 'open 4 sse token-2 e1-5-t replaces=c-1', 'state connected opening 0')
    .at(8500).opened('state connected hello 0')
    .at(8600).frame(hello({ connection_id: 'c-2', resumed: true }), 'hello c-2 5 resumed', 'state connected live 0');
}, { metrics: true });

add('renewal over an event stream that fails is a disconnect', ['section 3.11', 'renewal', 'health'], { transports: ['sse'] }, (t) => {
  t.live({ token_expires_in_ms: 10000 }).tick('get_token 3 refresh')
    .token(3, 'token-2', null, 'close 2 1000', 'open 4 sse token-2 e1-5-t replaces=c-1', 'state connected opening 0')
    .closed({}, ...lost);
}, { metrics: true });

add('renewal over an event stream that is held back', ['renewal', 'transports'], { transports: ['sse', 'ws'] }, (t) => {
  t.live({ token_expires_in_ms: 10000 }).tick('get_token 3 refresh')
    .token(3, 'token-2', null, 'close 2 1000', 'open 4 sse token-2 e1-5-t replaces=c-1', 'state connected opening 0').opened('state connected hello 0')
    .tick('close 4 4000', 'error sse_buffered 3500', 'state reconnecting backoff 1 in 3500')
    .tick('open 5 sse token-2 e1-5-t replaces=c-1', 'state reconnecting opening 1')
    .closed({}, 'error closed 0', 'open 6 ws token-2 e1-5-t replaces=c-1').is('opening', '10000');
}, { metrics: true });

add('a renewal that fails is tried again', ['section 3.11', 'renewal'], {}, (t) => {
  // 100 s of life: due after 80 s, then after a quarter of the 20 s left, but at least after 5 s.
  t.live({ token_expires_in_ms: 100000 }).tick();
  for (const at of [30000, 55000, 80000]) t.at(at).frame({ type: 'news' });
  t.at(80300).step({ t: 'tick' }, 'get_token 3 refresh')
    .step({ t: 'token_failed', g: 3, final: false, message: 'x' }, 'error token').is('live', 85300)
    .tick('get_token 4 refresh').token(4, '', null, 'error token').is('live', 90300)
    .tick('get_token 5 refresh').token(5, 'token-2', null, 'send auth token-2')
    .frame(hello(), 'hello c-1 5 renewed');
}, { metrics: true });

add('a long-lived token is asked for again each minute', ['renewal'], {}, (t) => {
  t.live({ token_expires_in_ms: 1000000 }).tick();
  for (let at = 30000; at <= 800000; at += 30000) t.at(at).frame({ type: 'news' });
  t.at(800300).step({ t: 'tick' }, 'get_token 3 refresh').step({ t: 'token_failed', g: 3, final: false, message: 'x' }, 'error token')
    .at(815000).frame({ type: 'news' }).is('live', 850000)
    .at(849000).frame({ type: 'news' }).is('live', 850300).tick('get_token 4 refresh');
});

add('a renewal that hangs', ['section 3.10', 'renewal'], {}, (t) => {
  t.live({ token_expires_in_ms: 10000 }).tick('get_token 3 refresh').at(10300).step({ t: 'tick' })
    .tick('cancel 3', 'error token').is('live', 28300);
});

add('the gateway cannot check the new token now', ['renewal'], {}, (t) => {
  t.live({ token_expires_in_ms: 10000 }).tick('get_token 3 refresh').token(3, 'token-2', 40000, 'send auth token-2').at(8400)
    .frame({ type: 'status', code: 'overloaded', message: 'm' }, 'status overloaded').at(10300).step({ t: 'tick' }).is('live', 18375)
    .tick('get_token 4 refresh');
});

add('the token expires while the callback is out', ['section 3.11', 'single flight'], {}, (t) => {
  t.live({ token_expires_in_ms: 10000 }).tick('get_token 3 refresh')
    .at(10300).frame(error('token_expired'), 'close 2 4000', 'error token_expired 0', 'state reconnecting auth 0').is('auth', 23300)
    .token(3, 'token-2', null, 'open 4 ws token-2 e1-5-t replaces=c-1', 'state reconnecting opening 0');
}, { metrics: true });

add('a token of one millisecond does not spin', ['renewal', 'bounds'], {}, (t) => {
  t.live({ token_expires_in_ms: 1 }).is('live', 1300).tick('get_token 3 refresh').token(3, 'token-2', null, 'send auth token-2')
    .frame(hello({ token_expires_in_ms: 0 }), 'hello c-1 5 renewed').is('live', 2300);
});

add('nobody is logged in any more', ['section 3.10', 'final'], {}, (t) => {
  t.live({ token_expires_in_ms: 10000 }).tick('get_token 3 refresh')
    .step({ t: 'token_failed', g: 3, final: true, message: 'x' }, 'close 2 1000', 'error auth fatal', 'state disconnected stopped 0').is('stopped', null);
}, { metrics: true });

add('a refused renewal ends the stream', ['renewal', 'final'], {}, (t) => {
  t.live({ token_expires_in_ms: 10000 }).tick('get_token 3 refresh').token(3, 'token-2', null, 'send auth token-2')
    .frame(error('forbidden'), 'close 2 1000', 'error forbidden fatal', 'state disconnected stopped 0');
});

add('a sleep makes a token uncertain', ['section 3.9'], { transports: ['ws'] }, (t) => {
  t.live().at(1000).closed({}, ...lost).sleep(60000).at(1001).step({ t: 'wake', reason: 'visible' }, 'state reconnecting backoff 0 in 99')
    .tick('get_token 3 expired', 'state reconnecting auth 0');
});
