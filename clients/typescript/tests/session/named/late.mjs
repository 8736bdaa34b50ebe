// Answers that come late carry the generation of what asked for them, and count for nothing.

import { error, event, gap, subject } from '../script.mjs';

const { add, vectors } = subject();
export default vectors;

const old = (t, g) => t.step({ t: 'opened', g }).step({ t: 'frame', g, text: JSON.stringify(event(5, 6)) }).step({ t: 'frame', g, text: 'x' })
  .step({ t: 'frame', g, text: JSON.stringify(error('evicted')) }).step({ t: 'closed', g }).step({ t: 'closed', g, close: 4555, code: 'evicted' });

add('an old connection during backoff', ['late', 'section 0.4c', 'section 3.7'], {}, (t) => {
  t.live().at(1000).frame(event(7, 8), 'close 2 4000', 'error hole 3500', 'state reconnecting backoff 1 in 3500');
  old(t, 2).is('backoff', 4500);
}, { metrics: true });

add('an old connection while the next one opens', ['late', 'section 0.4c'], {}, (t) => {
  t.live().at(1000).frame(event(7, 8), 'close 2 4000', 'error hole 3500', 'state reconnecting backoff 1 in 3500')
    .tick('open 3 ws token-1 e1-5-t replaces=c-1', 'state reconnecting opening 1');
  old(t, 2).is('opening', 14500);
  t.step({ t: 'opened', g: 3 }, 'state reconnecting hello 1');
  old(t, 2).is('hello', 14500);
}, { metrics: true });

add('an old connection beside the next one, which is live', ['late', 'section 0.4c'], {}, (t) => {
  t.live().at(1000).frame(event(7, 8), 'close 2 4000', 'error hole 3500', 'state reconnecting backoff 1 in 3500').again({ g: 3 });
  old(t, 2).is('live', 14600);
  t.frame(event(5, 6, 4600), 'event 6 0', 'cursor e1-6-t');
}, { metrics: true });

add('a generation that was never given out', ['late'], {}, (t) => old(t.live(), 99).step({ t: 'token', g: 99, token: 'x' }).step({ t: 'page', g: 0, text: '{}' }).is('live', 10300));

add('an old answer of the callback', ['late', 'section 3.10'], {}, (t) => {
  t.connect('get_token 1 initial', 'state disconnected auth 0')
    .tick('cancel 1', 'error token 3500', 'state reconnecting backoff 1 in 3500')
    .at(16000).token(1, 'token-1', null).is('backoff', 18500)
    .tick('get_token 2 initial', 'state reconnecting auth 1')
    .step({ t: 'token_failed', g: 1, final: true, message: 'x' }).token(1, 'token-1', null).is('auth', 33500)
    .token(2, 'token-2', null, 'open 3 ws token-2 -', 'state reconnecting opening 1')
    .token(2, 'token-3', null).is('opening', 28500);
});

add('an old page of history', ['late'], { fill: true }, (t) => {
  const page = JSON.stringify({ events: [], cursor: 'e1-9-t', has_more: false });
  t.live({ head: 9 }).frame(gap(5, 9, 'slow_consumer'), 'history 3 e1-5-t ..9')
    .closed({}, 'cancel 3', 'error closed 3500', 'state reconnecting backoff 1 in 3500')
    .step({ t: 'page', g: 3, text: page }).step({ t: 'page_failed', g: 3 })
    .again({ g: 4, head: 9 }).step({ t: 'page', g: 3, text: page })
    .frame(gap(5, 9, 'slow_consumer'), 'history 5 e1-5-t ..9').step({ t: 'page', g: 3, text: page }).step({ t: 'page_failed', g: 3 })
    .step({ t: 'page', g: 5, text: page }, 'cursor e1-9-t').step({ t: 'page', g: 5, text: page }).step({ t: 'page_failed', g: 5 });
}, { metrics: true });
