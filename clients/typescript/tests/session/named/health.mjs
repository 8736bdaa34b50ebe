// The gateway's clock, the latency of events, and what is reported.

import { batch, entry, error, event, gap, hello, iso, ping, subject } from '../script.mjs';

const { add, vectors } = subject();
export default vectors;

add('a health frame each 30 s', ['health'], { health: true }, (t) => {
  t.live().at(1000).frame(batch(5, 7, entry(6, 990), entry(7, 1000)), 'event 6 10', 'event 7 0', 'cursor e1-7-t')
    .frame(event(6, 7, 1000)).frame(gap(7, 9, 'retention'), 'gap 7..9 e1 retention', 'cursor e1-9-t')
    .at(10300).step({ t: 'tick' }).is('live', 30300).tick('send health [[10,0],0,1,0,1]').is('live', 36000)
    .at(35000).frame({ type: 'news' }).at(60300).frame({ type: 'news' }).step({ t: 'tick' }, 'send health [[],0,0,0,0]');
}, { metrics: true });

add('a health frame tells of the connection before', ['health'], { health: true, transports: ['ws'] }, (t) => {
  t.live().at(1000).frame(event(7, 8), 'close 2 4000', 'error hole 3500', 'state reconnecting backoff 1 in 3500').is('backoff', 4500)
    .again({ g: 3 }).tick('state connected live 0').tick('send health [[],1,0,1,0]').is('live', 39600);
}, { metrics: true });

add('at most one health frame in 30 s', ['health'], { health: true, transports: ['ws'] }, (t) => {
  t.live().at(10300).step({ t: 'tick' }).at(30000).frame({ type: 'news' }).tick('send health [[],0,0,0,0]')
    .at(31000).closed({}, 'error closed 3500', 'state reconnecting backoff 1 in 3500')
    .again({ g: 3 }).tick('state connected live 0').is('live', 64600).at(64000).frame({ type: 'news' }).tick('send health [[],1,0,0,0]');
});

add('no health frames unless asked for', ['health'], {}, (t) => {
  t.live().tick().is('live', 35300);
});

add('no health frames over an event stream', ['health'], { health: true, transports: ['sse'] }, (t) => {
  t.live().tick().is('live', 35300).at(35000).frame({ type: 'news' }).is('live', 70000);
});

add('latency: of the sample with the shortest round trip', ['section 3.19'], {}, (t) => {
  // hello: 200 ms, clocks alike. Then 20 ms, the gateway 50 ms ahead; then 100 ms, which counts for less.
  t.live().at(320).frame({ type: 'pong', n: 1, timestamp: iso(360) })
    .at(1000).frame(event(5, 6, 1030), 'event 6 20', 'cursor e1-6-t')
    .at(1300).frame(ping(6, 6), 'send pong', 'send ping 2').at(1400).frame({ type: 'pong', n: 2, timestamp: iso(5000) })
    .at(2000).frame(event(6, 7, 2030), 'event 7 20', 'cursor e1-7-t');
}, { metrics: true });

add('an odd round trip is halved downwards', ['section 3.19', 'parity'], {}, (t) => {
  t.live().at(305).frame({ type: 'pong', n: 1, timestamp: iso(400) }).at(1000).frame(event(5, 6, 1000), 'event 6 98', 'cursor e1-6-t');
});

add('latency is never negative', ['section 3.19'], {}, (t) => t.live().at(1000).frame(event(5, 6, 60000), 'event 6 0', 'cursor e1-6-t'), { metrics: true });

add('a clock that was set by more than an hour makes no latency', ['section 3.19'], { health: true }, (t) => {
  t.live().at(1000).frame(event(5, 6, 1000 - 3_600_000), 'event 6 3600000', 'cursor e1-6-t')
    .frame(event(6, 7, 1000 - 3_600_001), 'event 7', 'cursor e1-7-t').frame(event(7, 8, 1000 + 7_200_000), 'event 8', 'cursor e1-8-t')
    .at(10300).step({ t: 'tick' }).tick('send health [[3600000],0,0,0,0]');
}, { metrics: true });

add('replays have no latency', ['section 3.20'], {}, (t) => {
  t.live({ head: 8 }).at(1000).frame(batch(5, 9, entry(6, -9e5), entry(8, -9e5), entry(9, 990)), 'event 6 replay', 'event 8 replay', 'event 9 10', 'cursor e1-9-t');
}, { metrics: true });

add('a pong that answers another ping', ['section 3.19'], {}, (t) => {
  t.live().at(310).frame({ type: 'pong', n: 2, timestamp: iso(99999) }).frame({ type: 'pong', n: '1', timestamp: iso(99999) }).frame({ type: 'pong', timestamp: iso(99999) })
    .at(1000).frame(event(5, 6, 990), 'event 6 10', 'cursor e1-6-t');
});

add('a ping answered twice', ['section 3.19'], {}, (t) => {
  t.live().at(310).pong(1).at(311).frame({ type: 'pong', n: 1, timestamp: iso(99999) }).at(1000).frame(event(5, 6, 990), 'event 6 10', 'cursor e1-6-t');
});

add('samples at each ping until there are eight, then at each tenth', ['section 3.19'], {}, (t) => {
  t.live().at(310).pong(1).at(10300).step({ t: 'tick' });
  for (let i = 1; i <= 20; i++) {
    const isAsked = i <= 6 || i % 10 === 0;
    const n = Math.min(i, 6) + 1 + (i >= 10) + (i >= 20);
    t.at(10300 + i * 25000).frame(ping(5, 5), 'send pong', ...(isAsked ? [`send ping ${n}`] : []));
    if (isAsked) t.after(10).pong(n);
  }
}, { metrics: true });

add('a burst of pings of the gateway is no reason for a burst of ours', ['section 3.19', 'bounds'], {}, (t) => {
  t.live();
  for (let seq = 6; seq < 40; seq++) t.frame(ping(seq - 1, seq), `cursor e1-${seq}-t`, 'send pong');
  t.at(1299).frame(ping(39, 40), 'cursor e1-40-t', 'send pong')
    .at(1300).frame(ping(40, 41), 'cursor e1-41-t', 'send pong', 'send ping 2').frame(ping(41, 42), 'cursor e1-42-t', 'send pong')
    .at(1400).pong(2).at(2400).frame(ping(42, 43), 'cursor e1-43-t', 'send pong', 'send ping 3');
});

add('the clock is learned anew for each connection', ['section 3.19'], { transports: ['ws'] }, (t) => {
  t.live().at(310).pong(1).closed({}, 'error closed 3500', 'state reconnecting backoff 1 in 3500')
    .tick('open 3 ws token-1 e1-5-t replaces=c-1', 'state reconnecting opening 1').at(3830)
    .frame(hello({ connection_id: 'c-2', server_time: iso(4000) }), 'hello c-2 5', 'send ping 2', 'state connected live 1')
    .at(4000).frame(event(5, 6, 4100), 'event 6 80', 'cursor e1-6-t');
});

add('the last hundred latencies', ['health'], { health: true }, (t) => {
  t.live().at(1000).frame(batch(5, 106, ...Array.from({ length: 101 }, (_, i) => entry(6 + i, 1000 - i))), ...Array.from({ length: 101 }, (_, i) => `event ${6 + i} ${i}`), 'cursor e1-106-t')
    .at(10300).step({ t: 'tick' }).tick(`send health [[${Array.from({ length: 100 }, (_, i) => i + 1)}],0,0,0,0]`);
}, { metrics: true });

add('what applications see', ['health'], {}, (t) => {
  t.live().at(1000).frame(batch(3, 7, 4, entry(6, 980), entry(7, 1000)), 'event 6 20', 'event 7 0', 'cursor e1-7-t')
    .at(2000).frame(error('overloaded'), 'close 2 4000', 'error overloaded 3500', 'state reconnecting backoff 1 in 3500')
    .again({ g: 3, cursor: 'e1-7-t', head: 7 }).frame(gap(7, 0, 'epoch', { epoch: 'e2' }), 'gap 7..0 e2 epoch', 'cursor e2-0-t')
    .frame(event(0, 1, 1000, { id: 'i7' }), 'cursor e2-1-t')
    .at(9000).closed({ close: 1006 }, 'error closed 4000', 'state reconnecting backoff 2 in 4000');
}, { metrics: true });
