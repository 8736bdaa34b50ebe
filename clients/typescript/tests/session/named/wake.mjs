// Silence, sleep, hidden pages and late timers: what may be dead is asked, not killed.

import { event, ping, subject } from '../script.mjs';

const { add, vectors } = subject();
export default vectors;

const lost = ['error closed 3500', 'state reconnecting backoff 1 in 3500'];
const silent = ['close 2 4000', 'error silence 3500', 'state reconnecting backoff 1 in 3500'];
const probing = ['send ping 2', 'state connected probe 0'];

add('silence: a ping, then five seconds', ['silence', 'section 3.6', 'section 3.7'], {}, (t) => {
  t.live().tick().is('live', 35300).tick(...probing).is('probe', 40300).tick(...silent).is('backoff', 43800);
}, { metrics: true });

add('silence over an event stream', ['silence', 'section 3.6'], { transports: ['sse'] }, (t) => {
  t.live().tick().tick('state connected probe 0').is('probe', 40300).tick(...silent);
}, { metrics: true });

add('any frame ends a probe', ['section 2.7'], {}, (t) => {
  t.live().tick().tick(...probing).at(36000).frame(event(5, 6, 36000), 'event 6 0', 'cursor e1-6-t', 'state connected live 0').is('live', 71000);
});

for (const reason of ['visible', 'online', 'pageshow', 'resume', 'app']) {
  add(`probe after ${reason}`, ['section 3.6'], {}, (t) => {
    t.live().at(1000).step({ t: 'wake', reason }, ...probing).is('probe', 6000)
      .step({ t: 'wake', reason }).is('probe', 6000)
      .at(1050).pong(2, 'state connected live 0').is('live', 10300);
  }, { metrics: true });
}

add('offline asks, it does not hang up', ['section 3.6'], {}, (t) => {
  t.live().at(1000).step({ t: 'offline' }, ...probing).at(1001).step({ t: 'offline' }).at(1050).pong(2, 'state connected live 0');
});

add('a probe without an answer', ['section 3.6', 'section 3.7'], {}, (t) => t.live().at(1000).step({ t: 'offline' }, ...probing).tick(...silent).is('backoff', 9500), { metrics: true });

add('an event stream cannot ask', ['section 3.6'], { transports: ['sse'] }, (t) => {
  t.live().tick().at(25300).step({ t: 'wake', reason: 'visible' }).is('live', 35300)
    .at(25301).step({ t: 'wake', reason: 'visible' }, 'state connected probe 0').is('probe', 30301)
    .at(26000).frame(ping(5, 5), 'state connected live 0').is('live', 61000)
    .step({ t: 'offline' });
});

add('an old pong ends the probe but is no sample', ['section 3.19'], {}, (t) => {
  t.live().at(1000).step({ t: 'wake', reason: 'visible' }, ...probing).pong(1, 'state connected live 0')
    .at(1010).pong(2).at(2000).frame(event(5, 6, 2000), 'event 6 0', 'cursor e1-6-t');
});

add('a late timer is no proof of silence', ['section 3.5'], {}, (t) => {
  t.live().at(36000).step({ t: 'tick' }, ...probing).is('probe', 41000)
    .frame(event(5, 6, 30000), 'event 6 6000', 'cursor e1-6-t', 'state connected live 0').is('live', 71000);
}, { metrics: true });

add('two seconds late is not late', ['section 3.5'], {}, (t) => t.live().at(12300).step({ t: 'tick' }).is('live', 35300));

add('the timer of a probe that comes late gets five seconds more, once', ['section 3.5'], {}, (t) => {
  t.live().tick().at(11000).step({ t: 'wake', reason: 'visible' }, ...probing).is('probe', 16000)
    .at(19000).step({ t: 'tick' }).is('probe', 24000)
    .at(27000).step({ t: 'tick' }, ...silent);
}, { metrics: true });

add('a late timer of something else costs a probe nothing', ['section 3.5'], { transports: ['sse'] }, (t) => {
  t.live().at(1000).frame(event(5, 6, 1000), 'event 6 0', 'cursor e1-6-t')
    .at(10300).step({ t: 'tick' }).at(35000).frame({ type: 'news' }).at(64000).step({ t: 'tick' }, 'state connected probe 0').is('probe', 69000)
    .at(72000).step({ t: 'tick' }).is('probe', 77000).tick(...silent);
});

add('the timer of an attempt that comes late gets five seconds more, once', ['section 3.5'], { transports: ['ws'] }, (t) => {
  t.connect('get_token 1 initial', 'state disconnected auth 0').at(18000).step({ t: 'tick' }).is('auth', 23000)
    .token(1, 'token-1', 1e9, 'open 2 ws token-1 -', 'state disconnected opening 0').is('opening', 28000)
    .at(31000).step({ t: 'tick' }, 'close 2 4000', 'error timeout 3500', 'state reconnecting backoff 1 in 3500')
    .at(99000).step({ t: 'tick' }, 'open 3 ws token-1 -', 'state reconnecting opening 1')
    .at(112000).step({ t: 'tick' }).is('opening', 117000).tick('close 3 4000', 'error timeout 4000', 'state reconnecting backoff 2 in 4000');
});

add('the callback of a page that was frozen', ['section 3.5', 'section 3.10'], {}, (t) => {
  t.connect('get_token 1 initial', 'state disconnected auth 0').at(60000).step({ t: 'tick' }).is('auth', 65000)
    .tick('cancel 1', 'error token 3500', 'state reconnecting backoff 1 in 3500');
});

add('a hidden page, whose timers come once a minute', ['section 3.4', 'section 3.5'], {}, (t) => {
  t.live().at(1000).frame(event(5, 6, 1000), 'event 6 0', 'cursor e1-6-t');
  // The gateway pings each 25 s, and the page answers at once: messages are not throttled.
  const answered = (at, n) => t.at(at).frame(ping(6, 6), 'send pong', `send ping ${n}`).after(20).pong(n);
  const asked = (at, n) => t.at(at).step({ t: 'tick' }, `send ping ${n}`, 'state connected probe 0').after(20).pong(n, 'state connected live 0');
  answered(25000, 2);
  answered(50000, 3);
  asked(60000, 4);
  answered(75000, 5);
  answered(100000, 6);
  asked(120000, 7);
  answered(125000, 8);
  t.at(150000).frame(ping(6, 6), 'send pong').at(175000).frame(ping(6, 7), 'cursor e1-7-t', 'send pong')
    .at(180000).step({ t: 'tick' }).is('live', 210000);
}, { metrics: true });

add('sleep: the token is uncertain, the clock unknown, the connection asked', ['section 3.8', 'section 3.9', 'section 3.19'], {}, (t) => {
  t.live().sleep(3600000).tick('send ping 2', 'get_token 3 refresh', 'state connected probe 0').is('probe', 15300)
    .at(10350).frame(event(5, 6, 3610350), 'event 6', 'cursor e1-6-t', 'state connected live 0')
    .at(10400).token(3, 'token-2', null, 'send auth token-2')
    .at(10500).pong(2).frame(event(6, 7, 3610400), 'event 7 100', 'cursor e1-7-t');
}, { metrics: true });

add('two seconds more on the wall clock are no sleep', ['section 3.8'], {}, (t) => t.live().sleep(2000).tick().is('live', 35300));
add('a little more is a sleep', ['section 3.8'], {}, (t) => t.live().sleep(2001).tick(...probing).is('probe', 15300).at(10400).pong(2, 'state connected live 0').is('live', 45400));
add('a wall clock that is set back is no sleep', ['section 3.8'], {}, (t) => t.live().sleep(-3600000).tick().is('live', 35300));

add('sleep and an event stream', ['section 3.8'], { transports: ['sse'] }, (t) => {
  t.live().sleep(10000).tick().is('live', 25300)
    .at(11000).sleep(3600000).step({ t: 'wake', reason: 'visible' }, 'state connected probe 0').is('probe', 11000)
    .tick('get_token 3 refresh').is('probe', 16000)
    .tick(...silent).at(17000).token(3, 'token-2', null).is('backoff', 19500);
}, { metrics: true });

add('sleep during backoff', ['section 3.8', 'section 3.9'], { transports: ['ws'] }, (t) => {
  t.live().closed({}, ...lost).sleep(60000).at(1500).step({ t: 'tick' }, 'get_token 3 expired', 'state reconnecting auth 0');
});

add('sleep while a probe is out', ['section 3.8'], {}, (t) => {
  t.live().at(9000).step({ t: 'offline' }, ...probing).tick().sleep(60000).at(14000).step({ t: 'tick' }).is('probe', 19000);
});

add('waking up does not disturb an attempt', ['section 3.3'], {}, (t) => {
  const wake = () => t.step({ t: 'wake', reason: 'online' }).step({ t: 'offline' });
  t.connect('get_token 1 initial', 'state disconnected auth 0'); wake();
  t.token(1, 'token-1', null, 'open 2 ws token-1 -', 'state disconnected opening 0'); wake();
  t.opened('state disconnected hello 0'); wake();
  t.is('hello', 10000);
});

add('a page that goes to sleep lets go, and comes back at once', ['section 3.30'], {}, (t) => {
  t.live().at(5000).step({ t: 'suspend' }, 'close 2 1000', 'state reconnecting backoff 0 in 0').is('backoff', 5000)
    .step({ t: 'suspend' })
    .at(90000).step({ t: 'wake', reason: 'pageshow' })
    .step({ t: 'tick' }, 'open 3 ws token-1 e1-5-t replaces=c-1', 'state reconnecting opening 0');
}, { metrics: true });

add('a page goes to sleep while it connects', ['section 3.30'], {}, (t) => {
  t.connect('get_token 1 initial', 'state disconnected auth 0').step({ t: 'suspend' }, 'state reconnecting backoff 0 in 0')
    .tick('state reconnecting auth 0')
    .at(100).token(1, 'token-1', null, 'open 2 ws token-1 -', 'state reconnecting opening 0')
    .at(200).step({ t: 'suspend' }, 'close 2 1000', 'state reconnecting backoff 0 in 900').is('backoff', 1100)
    .tick('open 3 ws token-1 -', 'state reconnecting opening 0').opened('state reconnecting hello 0')
    .at(1500).step({ t: 'suspend' }, 'close 3 1000', 'state reconnecting backoff 0 in 600').is('backoff', 2100);
}, { metrics: true });

add('a page that is suspended for good asks nothing at rest', ['section 3.30'], {}, (t) => t.step({ t: 'suspend' }).is('idle', null));
