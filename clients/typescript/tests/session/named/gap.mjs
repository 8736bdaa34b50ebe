// R2: gaps of each reason. A gap is taken before any comparison of its seq.

import { batch, event, gap, ping, subject } from '../script.mjs';

const { add, vectors } = subject();
export default vectors;

const lost = ['error closed 3500', 'state reconnecting backoff 1 in 3500'];
const live = { cursor: 'e1-50-t', head: 60 };

add('retention', ['R2', 'R9'], {}, (t) => {
  t.live(live).frame(gap(50, 55, 'retention'), 'gap 50..55 e1 retention', 'cursor e1-55-t')
    .frame(event(55, 56), 'event 56 replay', 'cursor e1-56-t');
}, { metrics: true });

add('epoch, lower: the log counts anew', ['R2'], {}, (t) => {
  t.live(live).frame(gap(50, 0, 'epoch', { epoch: 'e2' }), 'gap 50..0 e2 epoch', 'cursor e2-0-t')
    .frame(batch(0, 2, 1, 2), 'event 1 replay', 'event 2 replay', 'cursor e2-2-t')
    .closed({}, ...lost).again({ g: 3, cursor: 'e2-2-t', head: 2 });
}, { metrics: true });

add('epoch, higher', ['R2'], {}, (t) => {
  t.live(live).frame(gap(50, 70, 'epoch', { epoch: 'e2' }), 'gap 50..70 e2 epoch', 'cursor e2-70-t').frame(event(70, 71), 'event 71 300', 'cursor e2-71-t');
});

add('epoch, where it is: acknowledged events were lost here', ['R2'], {}, (t) => {
  t.live(live).frame(gap(50, 50, 'epoch', { epoch: 'e2' }), 'gap 50..50 e2 epoch', 'cursor e2-50-t');
});

add('filter: nothing is skipped of what was shown before', ['R4'], {}, (t) => {
  t.live(live).frame(gap(50, 50, 'filter', { filter: 'u', services: ['a', 'b'] }), 'gap 50..50 e1 filter a,b', 'cursor e1-50-u')
    .closed({}, ...lost).again({ g: 3, cursor: 'e1-50-u', head: 60 });
}, { metrics: true });

add('slow_consumer, not filled', ['R17'], {}, (t) => {
  t.live(live).frame(gap(50, 90, 'slow_consumer'), 'gap 50..90 e1 slow_consumer', 'cursor e1-90-t');
}, { metrics: true });

add('a reason of a newer gateway', ['R2'], {}, (t) => {
  t.live(live).frame(gap(50, 90, 'frost'), 'gap 50..90 e1 frost', 'cursor e1-90-t');
});

for (const reason of ['retention', 'epoch', 'filter', 'slow_consumer']) {
  add(`a hole before a gap of reason ${reason}`, ['R2'], {}, (t) => {
    t.live(live).frame(gap(51, 55, reason, { epoch: 'e2' }), 'close 2 4000', 'error hole 3500', 'state reconnecting backoff 1 in 3500')
      .again({ g: 3, cursor: 'e1-50-t', head: 60 })
      .frame(gap(50, 55, reason, { epoch: 'e2' }), `gap 50..55 e2 ${reason}`, 'cursor e2-55-t');
  }, { metrics: true });
}

add('only a gap of reason epoch lowers the cursor', ['R2'], {}, (t) => {
  t.live(live).frame(gap(20, 30, 'retention', { filter: 'u' }), 'cursor e1-50-u')
    .frame(gap(20, 50, 'slow_consumer'), 'cursor e1-50-t')
    .frame(event(50, 51), 'event 51 replay', 'cursor e1-51-t');
}, { metrics: true });

add('several gaps one after the other', ['R2', 'R9'], {}, (t) => {
  t.live(live)
    .frame(gap(50, 50, 'filter', { filter: 'u', services: ['a'] }), 'gap 50..50 e1 filter a', 'cursor e1-50-u')
    .frame(gap(50, 55, 'retention', { filter: 'u' }), 'gap 50..55 e1 retention', 'cursor e1-55-u')
    .frame(gap(55, 3, 'epoch', { epoch: 'e2', filter: 'u' }), 'gap 55..3 e2 epoch', 'cursor e2-3-u')
    .frame(ping(3, 9), 'cursor e2-9-u', 'send pong');
}, { metrics: true });

add('events between a gap and the connection\'s end are not seen again', ['R2'], {}, (t) => {
  t.live(live).frame(gap(50, 55, 'retention'), 'gap 50..55 e1 retention', 'cursor e1-55-t')
    .frame(event(55, 57), 'event 57 replay', 'cursor e1-57-t')
    .closed({}, ...lost).again({ g: 3, cursor: 'e1-57-t', head: 60 }).frame(batch(55, 58, 57, 58), 'event 58 replay', 'cursor e1-58-t');
}, { metrics: true });

for (const [what, more] of [['no prev', { prev: undefined }], ['no seq', { seq: undefined }], ['a seq as text', { seq: '55' }], ['no epoch', { epoch: undefined }], ['an epoch that is none', { epoch: 'E-1' }]]) {
  add(`a gap with ${what}`, ['protocol'], {}, (t) => {
    t.live(live).frame(gap(50, 55, 'retention', more), 'close 2 4000', 'error protocol 3500', 'state reconnecting backoff 1 in 3500');
  });
}

add('a gap without a tag, or with none that is one', ['R4', 'parity'], {}, (t) => {
  t.live(live).frame(gap(50, 55, 'retention', { filter: undefined }), 'gap 50..55 e1 retention', 'cursor e1-55')
    .frame(gap(55, 56, 'retention', { filter: 'T!' }), 'gap 55..56 e1 retention', 'cursor e1-56');
});
