// What the page shows. What a stream does is decided by the client (client.js); live.js keeps what it reports.
//
// Event data is text from publishers: it reaches the document only as text.

import { drawActivity, drawLatency } from './charts.js';
import { Live, parseCursor, parseExactly, formatCursor } from './live.js';
import { namesIn, panels } from './try.js';

const ROWS_MAX = 200;
const GAPS_MAX = 20;
const TAIL = 50;
const SECONDS = 120;

const GAP_WORDS = {
  retention: 'older than the gateway keeps',
  slow_consumer: 'skipped, this reader was too slow',
  epoch: 'the log began a new life, the old place is not in it',
  filter: 'the set of services changed, the past of new ones is not here',
};
const END_WORDS = {
  bad_request: 'The request was refused',
  unauthorized: 'The token was refused',
  forbidden: 'The token does not allow this',
  token_expired: 'The token has expired',
  revoked: 'The token was revoked',
  evicted: 'A newer connection of this user replaced this one',
  auth: 'The token is not good any more',
  closed: 'The connection was lost',
  timeout: 'The gateway does not answer',
  sse_buffered: 'Something on the way holds the stream back',
  hole: 'A frame did not arrive',
  silence: 'The gateway went silent',
  protocol: 'The gateway broke the protocol',
  refused: 'The request was refused',
  draining: 'The gateway is restarting',
  overloaded: 'The gateway is busy',
  slow_consumer: 'This reader was too slow',
  too_many_connections: 'Too many connections',
  rate_limited: 'Too many attempts',
};

const TOKEN_ENDS = new Set(['auth', 'unauthorized', 'forbidden', 'token_expired', 'revoked', 'bad_request']);
// Of these, the filter may be the cause, if there is one: without it the next answer tells.
const FILTER_ENDS = new Set(['forbidden', 'bad_request']);

// How much of the log is asked for the services that exist.
const LOOK_BACK = 1000;
const SERVICE = /^(?!\.)[A-Za-z0-9._-]{1,64}$/;

const $ = (id) => document.getElementById(id);
const make = (tag, name, text) => {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
};
const number = new Intl.NumberFormat('en');
const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false });
const say = (id, text) => { if ($(id).textContent !== text) $(id).textContent = text; };

// ---- Stored in this tab, so that a reload continues at the same cursor

const kept = (key) => sessionStorage.getItem(`tidegate.${key}`);
const keep = (key, value) => {
  try {
    if (value) sessionStorage.setItem(`tidegate.${key}`, value);
    else sessionStorage.removeItem(`tidegate.${key}`);
  } catch { /* no room: after a reload this tab starts at the tail, like a new one */ }
};
const place = () => `cursor/${session.org}/${session.services.join(',')}`;
// `*` is all of them, as on the wire.
const parseServices = (text) => {
  const names = namesIn(text).sort();
  return names.includes('*') ? [] : names;
};

let session = null; // org, token, services, transport
let stream = null; // a Live

// Browsers do not send the fragment; it must not stay in the address bar or the history either.
function takeFragment() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (!given.get('token')) return false;
  keep('token', given.get('token'));
  keep('org', given.get('org') ?? kept('org') ?? 'dev');
  keep('key', given.get('key'));
  history.replaceState(null, '', location.pathname + location.search);
  return true;
}

// `same`: the stream continues at its cursor, over another connection.
function open({ atTail = false, same = false, rows = same ? [...shown, ...queue] : [] } = {}) {
  const before = same ? stream : null;
  stream?.stop();
  stream = session = null;
  const [org, token] = [kept('org'), kept('token')];
  for (const id of ['board', 'leave', 'org', 'transport']) $(id).hidden = !token;
  $('enter').hidden = Boolean(token);
  if (!token) return;
  session = { org, token, services: parseServices(kept('services') ?? ''), transport: kept('transport') ?? 'ws', tail: TAIL };
  if (atTail) keep(place(), null);
  try {
    stream = new Live({ ...session, cursor: kept(place()) }, heard, before);
  } catch (error) {
    // An org that no address can have.
    return askForToken(error.message);
  }
  if (!same) {
    gaps.length = 0;
    gapsChanged = true;
    hiddenShown = 0;
  }
  lookFor(session);
  wipe();
  queue.push(...rows);
  $('org').textContent = org;
  $('services').value = session.services.join(', ');
  document.querySelector(`#transport [value=${session.transport}]`).checked = true;
  filterFault('');
  refreshPanels();
  stream.start();
}

function save() {
  if (stream?.cursor) keep(place(), formatCursor(stream.cursor));
}

function askForToken(why) {
  save();
  stream?.stop();
  keep('token', null);
  $('enter-form').org.value = kept('org') ?? '';
  $('enter-why').hidden = !why;
  $('enter-why').textContent = why;
  open();
  $('enter-form').token.focus();
}

// ---- Effects of the stream

const queue = []; // rows that wait for the next animation frame, oldest first
let waiting = 0; // events that came since Pause; the queue holds only the last of them
let hiddenShown = 0; // of `stream.hidden`, how many have a row
const shown = []; // the rows in the list, oldest first
const gaps = []; // the last ones, oldest first
let gapsChanged = true;
const perSecond = new Array(SECONDS).fill(0); // events, newest last
const marks = new Array(SECONDS).fill(''); // 'gap', 'hole' or 'away'
let paused = false;
let announced = '';

function heard(effect) {
  if (!session || !stream) return;
  if (effect.do === 'event') {
    perSecond[SECONDS - 1] += 1;
    if (paused) waiting += 1;
    if (!seen.has(effect.event.service)) sawService(effect.event.service);
    hid(effect.hidden, effect.event.seq - 1);
  }
  if (effect.do === 'gap') {
    gaps.push({ ...effect, at: Date.now() });
    if (gaps.length > GAPS_MAX) gaps.shift();
    gapsChanged = true;
  }
  if (effect.do === 'gap' || effect.do === 'hole') marks[SECONDS - 1] = effect.do;
  if (effect.do !== 'changed') enqueue(effect);
  else if (stream) hid(stream.hidden - hiddenShown, stream.cursor?.seq); // after the last event
  schedule();
}

// With a filter, what is hidden are mostly events of other services, which nobody misses.
function hid(count, to) {
  hiddenShown += count;
  if (count && !session.services.length) enqueue({ do: 'hidden', count, from: to - count, to, all: stream.hello.services[0] === '*' });
}

function enqueue(row) {
  queue.push({ ...row, at: Date.now() });
  if (queue.length > ROWS_MAX) queue.splice(0, queue.length - ROWS_MAX);
}

// ---- Which services exist: those of the events that were seen, here or in the log

const seen = new Set();
let unknown = []; // names of the filter of which no event was found

function sawService(name) {
  seen.add(name);
  unknown = unknown.filter((other) => other !== name);
  $('seen-services').replaceChildren(...[...seen].sort().map((service) => Object.assign(make('option'), { value: service })));
}

// A name that nobody has published to is accepted by the gateway; more often it is misspelt.
async function lookFor(asked) {
  unknown = [];
  if (asked.services.every((name) => seen.has(name))) return;
  const path = `/v1/orgs/${encodeURIComponent(asked.org)}`;
  const ask = async (address) => {
    const answer = await fetch(address, { headers: { authorization: `Bearer ${asked.token}` } });
    return answer.ok ? answer.json() : null;
  };
  try {
    const at = await ask(`${path}/cursor`);
    const cursor = parseCursor(at?.cursor);
    if (!cursor) return;
    const after = cursor.seq > LOOK_BACK ? `&after=${formatCursor({ ...cursor, seq: cursor.seq - LOOK_BACK })}` : '';
    const page = await ask(`${path}/events?limit=${LOOK_BACK}${after}`);
    if (!page || session !== asked) return;
    for (const { service } of page.events) if (!seen.has(service)) sawService(service);
    unknown = asked.services.filter((name) => !seen.has(name));
    schedule();
  } catch { /* the stream says that the gateway cannot be reached */ }
}

let scheduled = false;
function schedule() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    if (session) render();
  });
}

// ---- Drawing

function render() {
  renderState();
  renderFigures();
  renderGaps();
  if (!paused) renderRows();
  renderUnknown();
  say('pause', paused ? 'Resume' : 'Pause');
  $('waiting').hidden = !paused;
  say('waiting', waitingWords());
}

function waitingWords() {
  if (!waiting) return 'Paused. No event waits yet.';
  const left = waiting > ROWS_MAX ? ` (the last ${ROWS_MAX})` : '';
  return `Paused. ${number.format(waiting)} event${waiting === 1 ? ' waits' : 's wait'}: show ${waiting === 1 ? 'it' : 'them'}${left}`;
}

function renderUnknown() {
  const notice = $('unknown');
  const key = unknown.join();
  notice.hidden = !unknown.length;
  if (notice.dataset.names === `${key}/${seen.size}`) return;
  notice.dataset.names = `${key}/${seen.size}`;
  const names = unknown.map((name) => `“${name}”`).join(', ');
  notice.replaceChildren(`No event of ${names} is in the last ${number.format(LOOK_BACK)} of this org. `);
  if (!seen.size) return void notice.append('There is no event that this token may see.');
  notice.append('Services with events: ');
  for (const service of [...seen].sort().slice(0, 20)) {
    const button = make('button', `chip hue-${hueOf(service)}`, service);
    button.type = 'button';
    button.title = `Show ${service} instead`;
    button.addEventListener('click', () => filterBy([...session.services.filter((name) => seen.has(name)), service]));
    notice.append(button, ' ');
  }
}

function phaseWords() {
  const seconds = Math.max(0, Math.ceil((stream.retryAt - Date.now()) / 1000));
  switch (stream.phase) {
    case 'live': return ['Live', stream.hello.sync ? `The log syncs as ${stream.hello.sync}` : 'Every event up to the head is here'];
    case 'catching_up': return ['Catching up', `${number.format(Math.max(0, stream.hello.head - stream.cursor.seq))} seqs behind the head`];
    case 'waiting': return [`Reconnecting in ${seconds} s`, `${endWords()} · attempt ${stream.attempt}`];
    case 'connecting': return ['Connecting', stream.attempt ? `Attempt ${stream.attempt}` : 'Opening the stream'];
    default: return ['Closed', closedWords()];
  }
}

function closedWords() {
  if (!stream.reason) return 'The stream was closed here';
  const { code, message } = stream.reason;
  return `${refusesFilter() ? `The filter “${session.services.join(', ')}” was refused: ${message}` : endWords()} · ${code}`;
}

function endWords() {
  const { code, message } = stream.reason ?? {};
  const words = END_WORDS[code] ?? code ?? '';
  return message ? `${words}: ${message}` : words;
}

const refusesFilter = () => stream.phase === 'closed' && session.services.length > 0 && FILTER_ENDS.has(stream.reason?.code);
const needsToken = () => stream.phase === 'closed' && !refusesFilter() && TOKEN_ENDS.has(stream.reason?.code);

function renderState() {
  const [phase, why] = phaseWords();
  const { hello, cursor } = stream;
  $('state').dataset.phase = stream.phase;
  say('phase', phase);
  say('why', why);
  // Announced once per change: a countdown read aloud every second helps nobody.
  if (announced !== stream.phase) {
    announced = stream.phase;
    say('announce', stream.phase === 'waiting' ? `Connection lost, reconnecting. ${endWords()}` : `${phase}. ${why}`);
  }
  document.title = `${phase === 'Live' ? '' : `${phase} · `}${session.org} · Tidegate`;
  $('retry').hidden = stream.phase !== 'waiting' && stream.phase !== 'closed';
  say('retry', refusesFilter() ? 'Show all services' : needsToken() ? 'New token' : 'Try now');
  const behind = stream.phase === 'catching_up';
  $('progress').hidden = !behind;
  if (behind) $('progress').value = (cursor.seq - stream.origin) / Math.max(1, hello.head - stream.origin);
  say('cursor', cursor ? formatCursor(cursor) : '–');
  say('head', hello ? number.format(Math.max(hello.head, cursor.seq)) : '–');
  say('granted', hello ? (hello.services[0] === '*' ? 'all' : hello.services.join(', ') || 'none') : '–');
  say('connection', hello ? hello.connection_id : '–');
}

function renderFigures() {
  const { eventsReceived, eventLatencyMs: latencies, duplicatesDetected, totalDisconnects, extra } = stream.metrics();
  const counts = { gaps: extra.gaps, holes: extra.holes, duplicates: duplicatesDetected, disconnects: totalDisconnects };
  say('received', number.format(eventsReceived));
  say('hidden', number.format(stream.hidden));
  $('hidden-figure').hidden = !stream.hidden;
  say('hidden-word', session.services.length ? 'filtered out' : 'hidden');
  for (const name of ['gaps', 'holes', 'duplicates', 'disconnects']) {
    say(name, number.format(counts[name]));
    $(name).classList.toggle('some', counts[name] > 0 && name !== 'duplicates');
  }
  say('verdict', gaps.length ? 'gaps declared below' : counts.holes ? 'holes found and refilled' : 'nothing missed');
  const sorted = latencies.toSorted((a, b) => a - b);
  const at = (share) => (sorted.length ? millis(sorted[Math.ceil(share * sorted.length) - 1]) : '–');
  say('p50', at(0.5));
  say('p99', at(0.99));
  drawLatency(latencies);
}

const millis = (ms) => (ms < 1 ? '<1 ms' : ms < 10_000 ? `${number.format(Math.round(ms))} ms` : `${number.format(Math.round(ms / 1000))} s`);

function renderRows() {
  const list = $('rows');
  const fresh = document.createDocumentFragment();
  waiting = 0;
  for (const row of queue.splice(0)) {
    const last = shown.at(-1);
    if (row.do === 'hidden' && last?.do === 'hidden') {
      Object.assign(last, { ...row, from: last.from, count: last.count + row.count });
      (fresh.firstElementChild ?? list.firstElementChild).replaceWith(drawRow(last));
      continue;
    }
    shown.push(row);
    fresh.prepend(drawRow(row));
  }
  list.prepend(fresh);
  while (shown.length > ROWS_MAX) {
    shown.shift();
    list.lastElementChild.remove();
  }
  $('empty').hidden = shown.length > 0;
  say('empty', stream.cursor ? `Nothing new after ${formatCursor(stream.cursor)} yet.` : 'Waiting for the first event.');
}

// Also while the rows are paused: the figures name the gaps "below".
function renderGaps() {
  const told = $('gap-list');
  $('gap-card').hidden = gaps.length === 0;
  if (gapsChanged) {
    gapsChanged = false;
    told.replaceChildren(...gaps.toReversed().map((gap) => {
      const item = make('li');
      item.append(make('span', 'mono range', range(gap)), make('span', 'reason', gap.reason), make('span', 'words', gapWords(gap)), timeOf(gap.at));
      return item;
    }));
  }
}

const range = ({ reason, from, to, epoch }) =>
  reason === 'epoch' ? `${from} → ${epoch.slice(0, 6)}…-${to}` : reason === 'filter' ? `at ${to}` : span(from, to);
const span = (from, to) => (to - from > 1 ? `${from + 1} – ${to}` : `${to}`); // the range (from, to]
const gapWords = ({ reason, count }) =>
  `${count === null ? '' : `${number.format(count)} event${count === 1 ? '' : 's'}: `}${GAP_WORDS[reason] ?? 'not here'}`;

function timeOf(when) {
  const date = new Date(when);
  const node = make('time', 'mono', Number.isNaN(date.valueOf()) ? '' : `${clock.format(date)}.${String(date.getMilliseconds()).padStart(3, '0')}`);
  node.title = String(when);
  return node;
}

function drawRow(row) {
  const item = make('li', row.live ? 'event fresh' : row.do);
  if (row.do === 'event') item.append(drawEvent(row));
  else {
    const [title, words] = {
      gap: () => [`Gap ${range(row)}`, gapWords(row)],
      hole: () => [`Hole after ${row.from}`, 'a frame followed something that never came; resuming from before it'],
      resumed: () => [`Resumed at ${row.from}`, row.head > row.from ? `${number.format(row.head - row.from)} place${row.head - row.from === 1 ? '' : 's'} to catch up` : 'nothing happened meanwhile'],
      hidden: () => [`${number.format(row.count)} hidden`, `#${span(row.from, row.to)}: ${row.all ? 'for other users' : 'for other users, or of services that the token does not cover'}`],
      fault: () => ['Protocol fault', row.message],
      status: () => [row.code, row.message ?? ''],
    }[row.do]();
    item.append(make('strong', '', title), make('span', 'words', words), timeOf(row.at));
  }
  return item;
}

function drawEvent({ event, live }) {
  const details = make('details');
  const summary = make('summary');
  const chip = make('span', `chip hue-${hueOf(event.service)}`, event.service);
  const data = JSON.stringify(event.data) ?? '';
  // Ids made from the time differ at their end.
  const id = make('span', 'id mono', event.id.length > 16 ? `…${event.id.slice(-14)}` : event.id);
  id.title = event.id;
  const parts = [make('span', 'name', event.event), make('span', 'peek mono', data.slice(0, 200)), id, make('span', 'seq mono', `#${event.seq}`)];
  summary.append(chip, ...parts, timeOf(event.timestamp));
  if (!live) summary.lastElementChild.append(make('span', 'sr', ', replayed'));
  details.append(summary);
  details.classList.toggle('replayed', !live);
  // Two hundred JSON trees that nobody opened would be most of this page's memory.
  details.addEventListener('toggle', () => details.childElementCount === 1 && details.append(drawBody(event)));
  return details;
}

function drawBody(event) {
  const body = make('div', 'body');
  const facts = make('dl');
  for (const name of ['id', 'key', 'seq', 'timestamp', 'time', 'source', 'subject', 'targeted']) {
    if (event[name] === undefined) continue;
    const pair = make('div');
    pair.append(make('dt', '', name), make('dd', 'mono', String(event[name])));
    facts.append(pair);
  }
  body.append(facts, make('pre', 'mono', JSON.stringify(event.data, null, 2)));
  return body;
}

const HUES = 10;
const hues = new Map();
// A service keeps its colour between visits; two share one only when all are taken.
function hueOf(service) {
  if (!hues.has(service)) {
    let hue = 0;
    for (const char of service) hue = (hue * 17 + char.codePointAt(0)) >>> 0;
    const taken = new Set(hues.values());
    for (let step = 0; step < HUES && taken.has(hue % HUES); step += 1) hue += 1;
    hues.set(service, hue % HUES);
  }
  return hues.get(service);
}

function wipe() {
  queue.length = shown.length = waiting = 0;
  $('rows').replaceChildren();
  $('empty').hidden = false;
}

function eachSecond() {
  if (!session || document.hidden) return;
  const recent = perSecond.slice(-6, -1);
  say('rate', `${(recent.reduce((a, b) => a + b, 0) / recent.length).toFixed(1)} per second`);
  drawActivity(perSecond, marks);
  schedule(); // the countdown
}

// ---- Controls

$('enter-form').addEventListener('submit', (press) => {
  press.preventDefault();
  const { org, token } = press.target;
  if (org.value.trim() !== kept('org')) keep('key', null);
  keep('org', org.value.trim());
  keep('token', token.value.trim());
  token.value = '';
  open();
});
$('filter').addEventListener('submit', (press) => {
  press.preventDefault();
  const names = parseServices($('services').value);
  const bad = names.find((name) => !SERVICE.test(name));
  if (bad === undefined) return filterBy(names);
  filterFault(`“${bad}” cannot be a service: 1 to 64 of A-Z a-z 0-9 . _ - and no dot at the start.`);
  $('services').focus();
});
$('services').addEventListener('input', () => filterFault(''));
$('waiting').addEventListener('click', () => $('pause').click());
$('transport').addEventListener('change', ({ target }) => {
  save();
  keep('transport', target.value);
  // The other transport continues at the same cursor: no event is shown twice or left out.
  if (session) open({ same: true });
});
$('pause').addEventListener('click', ({ currentTarget }) => {
  paused = !paused;
  currentTarget.setAttribute('aria-pressed', String(paused));
  schedule();
});
$('clear').addEventListener('click', () => { wipe(); schedule(); });
$('reset').addEventListener('click', () => open({ atTail: true }));
$('leave').addEventListener('click', () => askForToken(''));
$('retry').addEventListener('click', () => {
  if (refusesFilter()) filterBy([]);
  else if (needsToken()) askForToken(endWords());
  else stream.retry();
});
$('cursor').addEventListener('click', ({ currentTarget }) => {
  navigator.clipboard?.writeText(currentTarget.textContent).then(() => say('announce', 'Cursor copied'), () => {});
});
$('theme').addEventListener('click', () => {
  const dark = matchMedia('(prefers-color-scheme: dark)').matches;
  const theme = (document.documentElement.dataset.theme ?? (dark ? 'dark' : 'light')) === 'dark' ? 'light' : 'dark';
  document.documentElement.dataset.theme = theme;
  localStorage.setItem('tidegate.theme', theme);
  drawActivity(perSecond, marks);
  schedule();
});

function filterBy(names) {
  save();
  keep('services', names.join(','));
  open({ atTail: true });
}

// The stream goes on with the filter that it has.
function filterFault(text) {
  $('filter-fault').hidden = !text;
  say('filter-fault', text);
  $('services').setAttribute('aria-invalid', String(Boolean(text)));
}

addEventListener('hashchange', () => {
  const before = session?.org;
  save();
  if (takeFragment()) open({ same: before === kept('org') });
});
addEventListener('resize', () => { if (session) drawActivity(perSecond, marks); schedule(); });
// The client closes the socket of a page that the browser freezes for the back button, and comes back with it.
addEventListener('pagehide', () => {
  save();
  keep('rows', JSON.stringify([...shown, ...queue].slice(-TAIL)));
});

setInterval(() => {
  perSecond.shift();
  perSecond.push(0);
  marks.shift();
  marks.push(stream?.hello && !['live', 'catching_up'].includes(stream.phase) ? 'away' : '');
  save();
  eachSecond();
}, 1000);

const refreshPanels = panels({
  session: () => session,
  key: () => kept('key'),
  keepKey: (key) => keep('key', key),
  announce: (text) => say('announce', text),
});

window.__realtimeMetrics = () => stream?.metrics();

const theme = localStorage.getItem('tidegate.theme');
if (theme) document.documentElement.dataset.theme = theme;
const handed = takeFragment();
let rows = [];
try { rows = handed ? [] : parseExactly(kept('rows') ?? '[]'); } catch { /* the list starts empty */ }
open({ rows });
