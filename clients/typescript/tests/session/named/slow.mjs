// An application that is behind: the stream is closed, and resumes from what was handed over.

import { batch, entry, error, event, subject } from '../script.mjs';

const { add, vectors } = subject();
export default vectors;

const over = ['close 2 4000', 'error overflow', 'state reconnecting backoff 0'];

add('overflow closes, drained resumes', ['section 3.21'], {}, (t) => {
  t.live().at(1000).frame(batch(5, 7, entry(6, 1000), entry(7, 1000)), 'event 6 0', 'event 7 0', 'cursor e1-7-t')
    .step({ t: 'overflow' }, ...over).is('backoff', 61000)
    .step({ t: 'overflow' }).step({ t: 'frame', g: 2, text: JSON.stringify(event(7, 8)) })
    .at(5000).step({ t: 'wake', reason: 'visible' }).is('backoff', 61000)
    .at(9000).step({ t: 'drained' }, 'state reconnecting backoff 0 in 0').is('backoff', 9000)
    .again({ g: 3, attempt: 0, cursor: 'e1-7-t', head: 7 });
}, { metrics: true });

add('drained before a second has passed', ['section 3.21', 'section 3.3'], {}, (t) => {
  t.live().step({ t: 'overflow' }, ...over).is('backoff', null).at(400).step({ t: 'drained' }, 'state reconnecting backoff 0 in 700').is('backoff', 1100);
});

add('overflow during backoff', ['section 3.21'], {}, (t) => {
  t.live().closed({}, 'error closed 3500', 'state reconnecting backoff 1 in 3500').at(1000).step({ t: 'overflow' }, 'state reconnecting backoff 1').is('backoff', null)
    .at(60000).step({ t: 'drained' }, 'state reconnecting backoff 1 in 0').tick('open 3 ws token-1 e1-5-t replaces=c-1', 'state reconnecting opening 1');
}, { metrics: true });

add('drained does not undercut a hint', ['hints', 'section 3.21'], {}, (t) => {
  t.live().at(1000).frame(error('overloaded', { retry_in_ms: 20000 }), 'close 2 4000', 'error overloaded 22500', 'state reconnecting backoff 1 in 22500')
    .step({ t: 'overflow' }, 'state reconnecting backoff 1').at(2000).step({ t: 'drained' }, 'state reconnecting backoff 1 in 19000').is('backoff', 21000);
});

add('drained without overflow', ['section 3.21'], {}, (t) => {
  t.step({ t: 'drained' }).step({ t: 'overflow' });
  t.connect('get_token 1 initial', 'state disconnected auth 0').step({ t: 'drained' }).step({ t: 'overflow' }).step({ t: 'disconnect' }, 'cancel 1', 'state disconnected idle 0');
  t.connect('get_token 2 initial', 'state disconnected auth 0').token(2, 'token-1', null, 'open 3 ws token-1 -', 'state disconnected opening 0').step({ t: 'drained' }).step({ t: 'overflow' })
    .closed({}, 'error closed 3500', 'state reconnecting backoff 1 in 3500').step({ t: 'drained' }).is('backoff', 3500);
});

add('disconnect while the application is behind', ['section 3.21'], {}, (t) => {
  t.live().step({ t: 'overflow' }, ...over).step({ t: 'disconnect' }, 'state disconnected idle 0').step({ t: 'drained' }).is('idle', null)
    .connect('get_token 3 initial', 'state disconnected auth 0').token(3, 'token-2', null, 'open 4 ws token-2 e1-5-t replaces=c-1', 'state disconnected opening 0');
});
