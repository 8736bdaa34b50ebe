// Gaps of slow readers, filled from history while live events are held back.

import { batch, entry, event, gap, hello, ping, subject } from '../script.mjs';

const { add, vectors } = subject();
export default vectors;

const live = { cursor: 'e1-50-t', head: 60 };
const slow = gap(50, 90, 'slow_consumer');
const told = (from = 50) => `gap ${from}..90 e1 slow_consumer`;
const page = (t, g, cursor, has_more, seqs, ...expected) => t.step({ t: 'page', g, text: JSON.stringify({ events: seqs.map((seq) => entry(seq)), cursor, has_more }) }, ...expected);
const begin = (t) => t.live(live).frame(slow, 'history 3 e1-50-t ..90');
const lost = ['error closed 3500', 'state reconnecting backoff 1 in 3500'];

add('one page', ['fill', 'R2'], { fill: true }, (t) => {
  page(begin(t), 3, 'e1-90-t', false, [60, 90], 'event 60 replay', 'event 90 replay', 'cursor e1-90-t')
    .frame(event(90, 91, 300), 'event 91 0', 'cursor e1-91-t').is('live', 10300);
}, { metrics: true });

add('two pages, and live events held back', ['fill', 'R2'], { fill: true }, (t) => {
  begin(t).at(400).frame(event(90, 91, 400)).at(500).frame(batch(91, 93, entry(92, 400), entry(93, 500)));
  page(t, 3, 'e1-75-t', true, [60, 70], 'event 60 replay', 'event 70 replay', 'cursor e1-75-t', 'history 4 e1-75-t ..90').at(600).frame(ping(93, 94), 'send pong');
  page(t, 4, 'e1-90-t', true, [80], 'event 80 replay', 'event 91 0', 'event 92 100', 'event 93 0', 'cursor e1-94-t').frame(event(94, 95, 600), 'event 95 0', 'cursor e1-95-t');
}, { metrics: true });

add('a page that goes beyond the gap', ['fill', 'R2'], { fill: true }, (t) => {
  begin(t).frame(event(90, 91, 300));
  page(t, 3, 'e1-95-t', true, [80, 90, 91, 95], 'event 80 replay', 'event 90 replay', 'event 91 0', 'cursor e1-91-t');
}, { metrics: true });

add('an empty page with more after it', ['fill'], { fill: true }, (t) => {
  page(begin(t), 3, 'e1-70-t', true, [], 'cursor e1-70-t', 'history 4 e1-70-t ..90');
  page(t, 4, 'e1-90-t', false, [], 'cursor e1-90-t');
}, { metrics: true });

add('history does not answer', ['fill'], { fill: true }, (t) => {
  begin(t).at(400).frame(event(90, 91, 400)).step({ t: 'page_failed', g: 3 }, told(), 'event 91 0', 'cursor e1-91-t');
}, { metrics: true });

add('history fails after a page', ['fill'], { fill: true }, (t) => {
  page(begin(t), 3, 'e1-75-t', true, [60], 'event 60 replay', 'cursor e1-75-t', 'history 4 e1-75-t ..90').step({ t: 'page_failed', g: 4 }, told(75), 'cursor e1-90-t');
}, { metrics: true });

add('history takes longer than 15 s', ['fill'], { fill: true }, (t) => {
  begin(t).tick().is('live', 15300).tick('cancel 3', told(), 'cursor e1-90-t').is('live', 35300);
}, { metrics: true });

add('a page whose timer comes late', ['fill', 'section 3.5'], { fill: true }, (t) => {
  begin(t).tick().at(18000).step({ t: 'tick' }, 'send ping 2', 'state connected probe 0').is('probe', 23000);
  page(t, 3, 'e1-90-t', false, [60], 'event 60 replay', 'cursor e1-90-t');
});

for (const [what, text] of [
  ['is not JSON', '{'], ['is null', 'null'], ['is a list', '[]'], ['has no cursor', '{"events":[],"has_more":false}'], ['has no events', '{"cursor":"e1-90-t","has_more":false}'],
  ['has a gap of its own', JSON.stringify({ events: [entry(60)], cursor: 'e1-90-t', has_more: false, gap: { prev: 50, seq: 55, epoch: 'e1', reason: 'retention' } })],
  ['has events out of order', JSON.stringify({ events: [entry(70), entry(60)], cursor: 'e1-90-t', has_more: false })],
  ['has an event from before', JSON.stringify({ events: [entry(50)], cursor: 'e1-90-t', has_more: false })],
  ['has an event above its cursor', JSON.stringify({ events: [entry(80)], cursor: 'e1-70-t', has_more: true })],
  ['does not go on', JSON.stringify({ events: [], cursor: 'e1-50-t', has_more: true })],
  ['is the last and ends below the gap', JSON.stringify({ events: [entry(60)], cursor: 'e1-89-t', has_more: false })],
]) add(`a page that ${what}`, ['fill'], { fill: true }, (t) => begin(t).step({ t: 'page', g: 3, text }, told(), 'cursor e1-90-t'), { metrics: true });

add('the connection is lost meanwhile', ['fill', 'R2'], { fill: true }, (t) => {
  begin(t).at(400).frame(event(90, 91, 400));
  page(t, 3, 'e1-75-t', true, [60], 'event 60 replay', 'cursor e1-75-t', 'history 4 e1-75-t ..90').closed({}, 'cancel 4', ...lost)
    .again({ g: 5, cursor: 'e1-75-t', head: 91 }).frame(batch(75, 91, 80, 91), 'event 80 replay', 'event 91 replay', 'cursor e1-91-t');
}, { metrics: true });

add('the application falls behind meanwhile', ['fill', 'section 3.21'], { fill: true }, (t) => {
  begin(t).step({ t: 'overflow' }, 'close 2 4000', 'cancel 3', 'error overflow', 'state reconnecting backoff 0')
    .at(2000).step({ t: 'drained' }, 'state reconnecting backoff 0 in 0').again({ g: 4, attempt: 0, cursor: 'e1-50-t', head: 90 });
});

add('disconnect meanwhile', ['fill'], { fill: true }, (t) => {
  begin(t).step({ t: 'disconnect' }, 'close 2 1000', 'cancel 3', 'state disconnected idle 0').is('idle', null)
    .connect('get_token 4 initial', 'state disconnected auth 0').token(4, 'token-2', null, 'open 5 ws token-2 e1-50-t replaces=c-1', 'state disconnected opening 0');
});

for (const reason of ['retention', 'slow_consumer', 'filter']) {
  add(`a gap of reason ${reason} meanwhile`, ['fill', 'R2'], { fill: true }, (t) => {
    begin(t).at(400).frame(event(90, 91, 400))
      .frame(gap(91, 99, reason), 'cancel 3', told(), 'event 91 0', 'cursor e1-91-t', `gap 91..99 e1 ${reason}`, 'cursor e1-99-t');
  }, { metrics: true });
}

add('a lossy change of epoch meanwhile', ['fill', 'R2', 'R14'], { fill: true }, (t) => {
  begin(t).at(400).frame(event(90, 91, 400))
    .frame(gap(91, 0, 'epoch', { epoch: 'e2' }), 'cancel 3', told(), 'event 91 0', 'cursor e1-91-t', 'gap 91..0 e2 epoch', 'cursor e2-0-t')
    .frame(event(0, 1, 400, { id: 'i91' }), 'cursor e2-1-t');
}, { metrics: true });

add('a hole meanwhile', ['fill', 'R2'], { fill: true }, (t) => {
  begin(t).frame(event(95, 96), 'close 2 4000', 'cancel 3', 'error hole 3500', 'state reconnecting backoff 1 in 3500').again({ g: 4, cursor: 'e1-50-t', head: 96 });
}, { metrics: true });

add('a renewal meanwhile', ['fill', 'R6'], { fill: true }, (t) => {
  begin(t).frame(hello({ cursor: 'e1-90-u', head: 60 }), 'hello c-1 60 renewed').at(400).frame(event(90, 91, 400));
  page(t, 3, 'e1-90-u', false, [60], 'event 60 replay', 'event 91 0', 'cursor e1-91-u');
});

add('what has been removed cannot be filled', ['fill', 'R9'], { fill: true }, (t) => {
  t.live(live).frame(gap(50, 55, 'retention'), 'gap 50..55 e1 retention', 'cursor e1-55-t').frame(gap(55, 55, 'filter'), 'gap 55..55 e1 filter', 'cursor e1-55-t');
}, { metrics: true });

add('a gap from below the cursor is filled from the cursor', ['fill', 'R2'], { fill: true }, (t) => {
  t.live(live).frame(gap(40, 90, 'slow_consumer'), 'history 3 e1-50-t ..90');
});
