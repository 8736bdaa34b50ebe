// When the next attempt comes (PROTOCOL.md, "Ending and coming back").

import { error, event, subject } from '../script.mjs';

const { add, vectors } = subject();
export default vectors;

const lost = ['error closed 3500', 'state reconnecting backoff 1 in 3500'];

/** Each attempt of this client fails at once. */
const WAITS = {
  0: [1000, 1000, 1000, 5000, 25000, 55000, 115000, 235000, 295000, 295000, 295000],
  0.5: [3500, 4000, 5500, 10000, 30000, 60000, 120000, 240000, 300000, 300000, 300000],
  0.999999: [6000, 7000, 10000, 15000, 35000, 65000, 125000, 245000, 305000, 305000, 305000],
};
for (const [random, waits] of Object.entries(WAITS)) {
  add(`every delay with a draw of ${random}`, ['delays', 'section 3.1'], { transports: ['ws'] }, (t) => {
    t.connect('get_token 1 initial', 'state disconnected auth 0').token(1, 'token-1', 1e9, 'open 2 ws token-1 -', 'state disconnected opening 0');
    waits.forEach((wait, i) => {
      t.random(Number(random)).closed({}, `error closed ${wait}`, `state reconnecting backoff ${i + 1} in ${wait}`).is('backoff', String(wait))
        .tick(`open ${i + 3} ws token-1 -`, `state reconnecting opening ${i + 1}`).is('opening', '10000');
    });
  });
}

add('a window, not a clamp', ['delays', 'section 3.1'], { transports: ['ws'] }, (t) => {
  // Of the window from 1 to 6 s, a tenth; a clamp of -4 to 6 s to 1 s would give the same 1000 ms to half of all clients.
  t.connect('get_token 1 initial', 'state disconnected auth 0').token(1, 'token-1', 1e9, 'open 2 ws token-1 -', 'state disconnected opening 0')
    .random(0.1).closed({}, 'error closed 1500', 'state reconnecting backoff 1 in 1500').tick('open 3 ws token-1 -', 'state reconnecting opening 1')
    .random(0.3).closed({}, 'error closed 2800', 'state reconnecting backoff 2 in 2800').tick('open 4 ws token-1 -', 'state reconnecting opening 2')
    .random(0.4).closed({}, 'error closed 4600', 'state reconnecting backoff 3 in 4600');
});

add('the delays start over after 10 s', ['delays', 'section 3.2'], { transports: ['ws'] }, (t) => {
  t.live().closed({}, ...lost).again({ g: 3 }).is('live', 13900)
    .tick('state connected live 0')
    .after(1).closed({}, 'error closed 3500', 'state reconnecting backoff 1 in 3500');
}, { metrics: true });

add('10 s count also if the tick has not come yet', ['delays'], { transports: ['ws'] }, (t) => {
  t.live().closed({}, ...lost).again({ g: 3 }).after(10000).closed({}, 'error closed 3500', 'state reconnecting backoff 1 in 3500');
});

add('9.999 s are not enough', ['delays', 'section 3.2'], { transports: ['ws'] }, (t) => {
  t.live().closed({}, ...lost).again({ g: 3 }).after(9999).closed({}, 'error closed 4000', 'state reconnecting backoff 2 in 4000');
});

add('a gateway that accepts and closes is not tried each second', ['delays', 'section 3.2'], { transports: ['ws'] }, (t) => {
  t.live().closed({}, ...lost);
  [4000, 5500, 10000, 30000].forEach((wait, i) => {
    t.again({ g: i + 3, attempt: i + 1, number: i + 2 }).after(1000).closed({}, `error closed ${wait}`, `state reconnecting backoff ${i + 2} in ${wait}`);
  });
}, { metrics: true });

add('the counter is not reset when a connection opens', ['delays', 'section 3.2'], { transports: ['ws'] }, (t) => {
  t.connect('get_token 1 initial', 'state disconnected auth 0').token(1, 'token-1', 1e9, 'open 2 ws token-1 -', 'state disconnected opening 0')
    .opened('state disconnected hello 0').closed({}, ...lost)
    .tick('open 3 ws token-1 -', 'state reconnecting opening 1').opened('state reconnecting hello 1')
    .closed({}, 'error closed 4000', 'state reconnecting backoff 2 in 4000');
});

for (const [random, wait] of [[0, 20000], [0.5, 22500], [0.999999, 25000]]) {
  add(`retry_in_ms is not undercut with a draw of ${random}`, ['hints'], {}, (t) => {
    t.live().random(random).frame(error('overloaded', { retry_in_ms: 20000 }), 'close 2 4000', `error overloaded ${wait}`, `state reconnecting backoff 1 in ${wait}`)
      .is('backoff', 300 + wait);
  });
}

add('a hint below the delay of the table changes nothing', ['hints'], {}, (t) => {
  t.live().random(0).frame(error('rate_limited', { retry_in_ms: 500 }), 'close 2 4000', 'error rate_limited 1000', 'state reconnecting backoff 1 in 1000');
});

add('a hint within the window raises its low end', ['hints'], {}, (t) => {
  t.live().random(0).frame(error('overloaded', { retry_in_ms: 3000 }), 'close 2 4000', 'error overloaded 3000', 'state reconnecting backoff 1 in 3000')
    .again({ g: 3 }).random(0.999999).frame(error('overloaded', { retry_in_ms: 3000 }), 'close 3 4000', 'error overloaded 8000', 'state reconnecting backoff 2 in 8000');
});

add('a hint that is none', ['hints', 'parity'], { transports: ['ws'] }, (t) => {
  t.live();
  [-5, 1.5, '9000', null].forEach((retry_in_ms, i) => {
    const wait = [3500, 4000, 5500, 10000][i];
    t.frame(error('overloaded', { retry_in_ms }), `close ${i + 2} 4000`, `error overloaded ${wait}`, `state reconnecting backoff ${i + 1} in ${wait}`)
      .again({ g: i + 3, attempt: i + 1, number: i + 2 });
  });
});

for (const status of [429, 503]) {
  add(`Retry-After with ${status}`, ['hints'], { transports: ['sse'] }, (t) => {
    t.connect('get_token 1 initial', 'state disconnected auth 0').token(1, 'token-1', 1e9, 'open 2 sse token-1 -', 'state disconnected opening 0')
      .random(0).closed({ status, retry_in_ms: 90000 }, 'error refused 90000', 'state reconnecting backoff 1 in 90000');
  });
}

add('a hint of an hour is followed, one of more than a day counts as a day', ['hints', 'bounds'], { transports: ['sse'] }, (t) => {
  t.connect('get_token 1 initial', 'state disconnected auth 0').token(1, 'token-1', 1e9, 'open 2 sse token-1 -', 'state disconnected opening 0')
    .random(0).closed({ status: 503, retry_in_ms: 3600001 }, 'error refused 3600001', 'state reconnecting backoff 1 in 3600001')
    .tick('open 3 sse token-1 -', 'state reconnecting opening 1')
    .random(0).closed({ status: 503, retry_in_ms: 1e12 }, 'error refused 86400000', 'state reconnecting backoff 2 in 86400000');
});

add('waking up does not undercut a hint', ['hints', 'section 3.3'], {}, (t) => {
  t.live().at(1000).frame(error('overloaded', { retry_in_ms: 20000 }), 'close 2 4000', 'error overloaded 22500', 'state reconnecting backoff 1 in 22500')
    .at(5000).step({ t: 'wake', reason: 'visible' }, 'state reconnecting backoff 0 in 16000').is('backoff', 21000)
    .at(6000).random(0.5).step({ t: 'wake', reason: 'online' }).is('backoff', 21000);
});

add('a hint ends with a hello', ['hints'], {}, (t) => {
  t.live().frame(error('overloaded', { retry_in_ms: 20000 }), 'close 2 4000', 'error overloaded 22500', 'state reconnecting backoff 1 in 22500')
    .again({ g: 3 }).after(100).closed({}, 'error closed 4000', 'state reconnecting backoff 2 in 4000')
    .after(950).step({ t: 'wake', reason: 'app' }, 'state reconnecting backoff 0 in 0');
});

add('waking up tries at once, but not within 1 s of the last attempt', ['section 3.3', 'section 3.8'], {}, (t) => {
  t.live().closed({}, ...lost).at(400).step({ t: 'wake', reason: 'visible' }, 'state reconnecting backoff 0 in 700').is('backoff', 1100)
    .tick('open 3 ws token-1 e1-5-t replaces=c-1', 'state reconnecting opening 0')
    .closed({}, 'error closed 3500', 'state reconnecting backoff 1 in 3500')
    .after(2000).step({ t: 'wake', reason: 'pageshow' }, 'state reconnecting backoff 0 in 0').is('backoff', 3100);
});

for (const [random, spread] of [[0, 0], [0.5, 500], [0.999999, 999]]) {
  add(`the network is back for a whole office, with a draw of ${random}`, ['section 3.3'], {}, (t) => {
    t.live().closed({}, ...lost).at(2000).random(random).step({ t: 'wake', reason: 'online' }, `state reconnecting backoff 0 in ${spread}`).is('backoff', 2000 + spread);
  });
}

add('waking up never makes it later', ['section 3.3'], {}, (t) => {
  t.live().closed({}, ...lost).at(3700).random(0.5).step({ t: 'wake', reason: 'online' }, 'state reconnecting backoff 0 in 100').is('backoff', 3800);
});

for (const [random, leave] of [[0, 0], [0.5, 5000], [0.999999, 9999]]) {
  add(`goaway: it leaves within the time given, with a draw of ${random}`, ['goaway', 'section 3.1'], {}, (t) => {
    t.live().at(400).random(random).frame({ type: 'goaway', code: 'draining', retry_in_ms: 10000 }, 'status draining').is('live', Math.min(400 + leave, 10300));
    if (leave > 0) t.at(400).frame(event(5, 6, 400), 'event 6 0', 'cursor e1-6-t');
    if (leave > 9900) t.tick(); // the delays start over
    t.tick('close 2 4000', 'error draining 3500', 'state reconnecting backoff 1 in 3500').is('backoff', 400 + leave + 3500);
  }, { metrics: true });
}

add('goaway before hello', ['goaway'], {}, (t) => {
  t.connect('get_token 1 initial', 'state disconnected auth 0').token(1, 'token-1', 1e9, 'open 2 ws token-1 -', 'state disconnected opening 0')
    .opened('state disconnected hello 0')
    .random(0.5).frame({ type: 'goaway', code: 'draining', retry_in_ms: 2000 }, 'status draining').is('hello', 1000)
    .tick('close 2 4000', 'error draining 3500', 'state reconnecting backoff 1 in 3500');
});

add('goaway, and the gateway closes before this client leaves', ['goaway'], {}, (t) => {
  t.live().random(0.999999).frame({ type: 'goaway', code: 'draining', retry_in_ms: 5000 }, 'status draining').is('live', 5299)
    .at(2000).closed({ close: 1012, code: 'draining' }, 'error draining 3500', 'state reconnecting backoff 1 in 3500').is('backoff', 5500);
}, { metrics: true });
