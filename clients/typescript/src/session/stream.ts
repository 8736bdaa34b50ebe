// The frames of a stream, and how each moves the cursor (PROTOCOL.md, "Continuity"; rules R2 and R3).

import { broken, ended, hintOf, hole } from './attempt.js';
import { ask, askAtPing, latency, listen, planHealth, ponged, sample } from './clock.js';
import { FINAL_CODES } from './codes.js';
import { formatCursor, isWhole, parseCursor, textOf, textsOf, wholeOr } from './cursor.js';
import { askPage, fillFailed, isInOrder, moved, take } from './delivery.js';
import { DEDUP_MS, PING_INTERVAL_MAX_MS, PING_INTERVAL_MS, REFRESH_MIN_MS, STABLE_MS, UNCONFIRMED_MS } from './limits.js';
import { config, count, countDuplicate, emit, now, random, s, send, wall, type Frame } from './step.js';
import { refreshLater } from './token.js';

// `hello.cursor` is where this connection begins to account for events. Above the cursor, something would be lost
// in silence.
function hello(frame: Frame): void {
  const { timers, cursor } = s;
  const start = parseCursor(frame.cursor);
  if (!start || start.seq > (cursor ?? start).seq) return broken('hello.cursor');
  const renewed = s.hello_at !== null;
  const life = wholeOr(frame.token_expires_in_ms, UNCONFIRMED_MS);
  s.cursor = { ...start, seq: (cursor ?? start).seq };
  s.phase = 'live';
  s.connection_id = textOf(frame.connection_id) || null;
  s.head = wholeOr(frame.head, 0);
  s.ping_interval_ms = Math.min(wholeOr(frame.ping_interval_ms, PING_INTERVAL_MS), PING_INTERVAL_MAX_MS);
  s.dedup_window_ms = wholeOr(frame.dedup_window_ms, DEDUP_MS);
  s.token_until = now + life;
  timers.refresh = now + Math.max(REFRESH_MIN_MS, Math.floor((life * 4) / 5));
  if (s.transport !== s.kept) emit({ t: 'transport', transport: s.transport });
  s.home = s.kept = s.transport;
  if (renewed) s.refusals = 0;
  else {
    if (!s.moving) s.connected_wall = wall;
    s.hello_at = now;
    s.moving = false;
    s.before_hello = s.pings_heard = 0;
    s.not_before = timers.phase = null;
    timers.stable = now + STABLE_MS;
    s.samples = [];
    sample(s.open_at!, frame.server_time);
  }
  listen();
  emit({
    t: 'hello', connection_id: textOf(frame.connection_id), services: textsOf(frame.services) ?? [], head: s.head, resumed: frame.resumed === true,
    renewed, sync: textOf(frame.sync) || null, cursor: frame.cursor as string,
  });
  if (!cursor || formatCursor(s.cursor) !== formatCursor(cursor)) moved();
  if (!renewed && s.transport === 'ws') {
    ask();
    if (config.health) planHealth();
  }
}

// `event`, `batch` and `ping` speak for (prev, seq].
function advance({ prev, seq }: Frame, events: unknown): void {
  const cursor = s.cursor!;
  if (!isWhole(prev) || !isWhole(seq) || !isInOrder(events, -1, seq)) return broken('prev, seq or events');
  if (prev > cursor.seq) return hole();
  for (const event of events) {
    const replay = event.seq <= s.head;
    if (event.seq <= cursor.seq) countDuplicate('overlaps');
    else take({ event, replay, latency_ms: replay ? null : latency(event.timestamp) });
  }
  if (seq <= cursor.seq) return;
  s.cursor = { ...cursor, seq };
  moved();
}

// A ping is an empty batch that wants an answer.
function ping(frame: Frame): void {
  advance(frame, []);
  if (s.connection === null || s.transport !== 'ws') return; // it showed a hole; or an event stream, which takes no answer
  send({ type: 'pong' });
  askAtPing();
}

// A gap is handled before any comparison of its seq: one of reason `epoch` may lower the cursor.
function gap({ prev, seq, epoch, filter, reason, services }: Frame): void {
  const before = s.cursor!;
  const place = isWhole(seq) && parseCursor(`${textOf(epoch)}-${seq}`);
  if (!isWhole(prev) || !place) return broken('gap');
  if (prev > before.seq) return hole();
  const isEpoch = reason === 'epoch';
  const isNews = isEpoch || reason === 'filter' || place.seq > before.seq;
  s.cursor = { ...place, seq: isEpoch ? place.seq : Math.max(place.seq, before.seq), tag: parseCursor(`0-0-${textOf(filter)}`)?.tag ?? null };
  if (isEpoch) s.dedup_until = now + DEDUP_MS;
  if (isNews && reason === 'slow_consumer' && config.fill && !s.fill) {
    s.fill = { g: 0, after: before, to: place.seq, reason, held: [], cursor: s.cursor };
    return askPage();
  }
  if (isNews) {
    // While an earlier gap is being filled: give that up, so that all is told in order.
    if (s.fill) fillFailed();
    count('gaps');
    emit({ t: 'gap', prev, seq: place.seq, epoch: place.epoch, reason: textOf(reason), services: textsOf(services) });
  }
  moved();
}

const status = ({ code, message }: Frame): void => emit({ t: 'status', code: textOf(code), message: textOf(message) });

/** What is done with each type of frame. Others are of a newer gateway. */
export const FRAMES: Record<string, (frame: Frame) => void> = {
  hello, ping, gap,
  pong: ponged,
  event: (frame) => advance(frame, [frame]),
  batch: (frame) => advance(frame, frame.events),
  error: ({ code, message, retry_in_ms }) => ended(textOf(code), textOf(message), hintOf(retry_in_ms), FINAL_CODES.includes(textOf(code))),
  goaway(frame) {
    // It leaves at a moment within the time that the gateway gives.
    s.timers.leave = now + Math.floor(random * hintOf(frame.retry_in_ms));
    status(frame);
  },
  status(frame) {
    status(frame);
    if (frame.code === 'overloaded') refreshLater(); // the gateway could not check the new token
  },
};

/** Frames that may come before `hello`. */
export const EARLY = ['hello', 'error', 'goaway'];
