// One connection for all tabs of a user: the tab that holds a lock leads, and hands the gateway's frames to the
// others. Each tab keeps its own session and cursor, and checks each frame as if it came from the gateway. So
// whatever happens between tabs, nothing is lost in silence: a tab that misses a frame resumes.

import { formatCursor, parseCursor } from './session/session.js';
import type { Cursor } from './session/types.js';
import { eventStream } from './sse.js';
import type { Connection, OpenRequest, Transport, TransportEnd, TransportKind, TransportSink } from './transport.js';
import { webSocket } from './websocket.js';

/** How tabs share. */
export interface TabsOptions {
  /** What they share: tabs of this origin with the same name have one connection. It must name the user, the org and the services. */
  name: string;
  /** The ways to the gateway; by default those of `createClient`. */
  transports?: readonly Transport[];
  /** By default those of the browser. */
  locks?: Pick<LockManager, 'request'>;
  /** For tests: whether the page is hidden. */
  isHidden?: () => boolean;
  /** For tests: makes the channel between tabs. */
  channel?: (name: string) => BroadcastChannel;
}

type Message =
  /** A tab wants to follow from that cursor. */
  | { t: 'join'; from: string; cursor: string | null }
  /** It may: what it has to hear first, and how the leader is connected. */
  | { t: 'welcome'; to: string; texts: string[]; kind: TransportKind }
  /** It is too far behind for the leader. Or: the leader is not connected yet. */
  | { t: 'behind' | 'wait'; to: string }
  /** A frame, for all or for one. */
  | { t: 'frame'; to: string | null; text: string }
  /** A ping of a follower. */
  | { t: 'ping'; from: string; n: number }
  /** How long the leader's token is good for, as it has just heard, and how it is connected. */
  | { t: 'life'; ms: number; kind: TransportKind }
  /** The leader's connection ended. */
  | { t: 'end'; end: TransportEnd }
  /** The leader is hidden; a tab that is seen wants to lead; the leader agrees. */
  | { t: 'hidden' }
  | { t: 'want'; from: string }
  | { t: 'take'; to: string };

interface Link {
  request: OpenRequest;
  /** How the real connection is made, as far as is known: that of the leader shows what works. */
  kind: TransportKind;
  since: number;
  sink: TransportSink;
  /** The real connection, if this tab has one. */
  inner: Connection | null;
  /** The session has its hello. */
  isAttached: boolean;
  /** The real connection has had its hello. */
  isGreeted: boolean;
  /** It is not shared. */
  isDirect: boolean;
  /** Ends the wait for the lock. */
  stopWaiting: AbortController;
  timer: ReturnType<typeof setTimeout> | undefined;
}
interface Frame { type?: string; prev?: number; seq?: number; epoch?: string; filter?: string; cursor?: string; n?: number; token?: string; token_expires_in_ms?: number; server_time?: string; offset?: number | undefined }

const ANSWER_MS = 3_000;
const ASK_MS = 1_000;
const RELEASE_MS = 500;
const RING_FRAMES = 500;
const RING_CHARS = 2_000_000;
const LIFE_MS = 60_000; // of a token, if nobody says
const LIFE_MIN_MS = 5_000;
const PINGS_FROM = 2 ** 40; // numbers of pings that the leader sends for followers

/**
 * Transports for `createClient` that tabs share. Where the browser has no Web Locks or no BroadcastChannel, each tab
 * has its own connection, also if they are forbidden there. A tab that starts with `tail`, or comes back from so long ago that the leader no longer
 * has what it missed, has its own connection, too.
 */
export function tabs({ name, transports = [webSocket(), eventStream()], locks = globalThis.navigator?.locks, isHidden = () => document.hidden, channel: open = (key) => new BroadcastChannel(key) }: TabsOptions): readonly Transport[] {
  if (!locks || typeof BroadcastChannel !== 'function') return transports;
  const key = `tidegate:${name}`;
  const own = Math.random().toString(36).slice(2);
  let channel: BroadcastChannel | null = null;
  let link: Link | null = null; // one at a time: a client has one connection
  let letGo: (() => void) | null = null; // of the lock, if this tab leads
  // What this tab knows of the stream.
  let hello: Frame | null = null;
  let position: Cursor | null = null;
  let ring: { seq: number; text: string }[] = [];
  let ringStart = 0;
  let ringChars = 0;
  const former = new Map<string, number>(); // epochs before this one, each with the seq up to which it is known to go on in the next
  const pings = new Map<number, { to: string; n: number }>();
  let pingsSent = PINGS_FROM;
  let token = { text: '', since: 0 }; // that of this tab, and when it was new

  const page = typeof document === 'object' ? document : null;
  const post = (message: Message) => channel?.postMessage(message);

  function follows(frame: Frame, text: string) {
    const { type, seq, epoch, filter, cursor } = frame;
    const start = type === 'hello' ? parseCursor(cursor) : null;
    if (start) {
      if (!position) return restart(start);
      // Another epoch without a gap goes on where the former one is (PROTOCOL.md, "Cursors and resuming").
      if (position.epoch !== start.epoch) former.set(position.epoch, position.seq);
      position = { ...start, seq: position.seq };
    } else if (type === 'gap' && epoch !== undefined && seq !== undefined) {
      restart({ epoch, seq, tag: filter ?? null });
    } else if ((type === 'event' || type === 'batch' || type === 'ping') && seq !== undefined && position && seq > position.seq) {
      position = { ...position, seq };
      ring.push({ seq, text });
      ringChars += text.length;
      while (ring.length > RING_FRAMES || ringChars > RING_CHARS) {
        const old = ring.shift()!;
        ringStart = old.seq;
        ringChars -= old.text.length;
      }
    }
  }

  function restart(at: Cursor) {
    position = at;
    ring = [];
    ringStart = at.seq;
    ringChars = 0;
    former.clear();
  }

  // --- As the leader.

  // Leads as soon as it has the lock, until it lets go or another tab takes it.
  function compete(led: Link, options: LockOptions) {
    let own: (() => void) | null = null;
    locks!.request(key, options, (lock) => {
      if (led !== link) return undefined;
      if (!lock) return void follow(led);
      return new Promise<void>((resolve) => {
        own = letGo = () => {
          letGo = null;
          resolve();
        };
        connect(led);
      });
    }).catch((thrown: unknown) => {
      if (led !== link || options.signal?.aborted) return;
      // Not allowed here, as in a sandboxed frame.
      if (!own && (thrown as Error | null)?.name !== 'AbortError') return direct(led);
      // Taken by another tab: follow that one. (Or no longer wanted.)
      if (!own || own !== letGo) return;
      letGo = null;
      led.inner?.close(1000);
      led.inner = null;
      compete(led, { signal: led.stopWaiting.signal });
    });
  }

  // Opens the real connection. A tab that followed until now goes on where it is: its session takes the hello as
  // one that renews.
  function connect(led: Link) {
    const url = new URL(led.request.url);
    if (led.isAttached && position) url.searchParams.set('cursor', formatCursor(position));
    clearTimeout(led.timer);
    const wasAttached = led.isAttached;
    led.isGreeted = false;
    const since = Date.now();
    const transport = transports.find(({ kind }) => kind === led.kind) ?? transports[0]!;
    led.kind = transport.kind;
    led.inner = transport.open({ ...led.request, url: url.href }, {
      opened: () => {
        if (!wasAttached && led === link) led.sink.opened();
      },
      frame: (text) => {
        if (led !== link) return;
        const frame = read(text);
        follows(frame, text);
        led.isAttached = true;
        const { type, n } = frame;
        if (type === 'hello') {
          // The gateway's clock minus that of this machine, for tabs that cannot ask it; as a session learns it from a hello.
          frame.offset = led.isGreeted ? hello!.offset : led.kind === 'sse' ? Date.parse(frame.server_time!) - (since + Date.now()) / 2 : undefined;
          hello = frame;
          if (wasAttached) led.sink.switched?.(led.kind);
          led.isGreeted = true;
          if (!led.isDirect) post({ t: 'life', ms: frame.token_expires_in_ms ?? LIFE_MS, kind: led.kind });
        }
        const asked = type === 'pong' && pings.get(n!);
        if (asked) {
          pings.delete(n!);
          return post({ t: 'frame', to: asked.to, text: JSON.stringify({ ...frame, n: asked.n }) });
        }
        // The others have a token and a moment of their own for each of these.
        if (led.isGreeted && !led.isDirect && type !== 'hello' && type !== 'goaway' && type !== 'pong') post({ t: 'frame', to: null, text });
        led.sink.frame(text);
      },
      closed: (end) => {
        if (led !== link) return;
        // If it never was up, only this tab's token may be to blame.
        if (led.isGreeted && !led.isDirect) post({ t: 'end', end });
        leave(led);
        led.sink.closed(end);
      },
    });
  }

  function welcome(from: string, text: string | null) {
    if (!link?.inner || !link.isGreeted || !position) return post({ t: 'wait', to: from });
    const cursor = text === null ? position : parseCursor(text);
    const isKnown = cursor && (cursor.epoch === position.epoch || cursor.seq <= former.get(cursor.epoch)!) && cursor.seq >= ringStart && (cursor.tag === null || cursor.tag === position.tag);
    if (!isKnown) return post({ t: 'behind', to: from });
    // No connection id, as the connection is not that tab's.
    const { connection_id: _id, ...rest } = hello as Record<string, unknown>;
    const theirs = { ...rest, cursor: formatCursor({ ...position, seq: cursor.seq }), epoch: position.epoch, head: position.seq, resumed: text !== null };
    post({ t: 'welcome', to: from, kind: link.kind, texts: [JSON.stringify(theirs), ...ring.filter(({ seq }) => seq > cursor.seq).map((each) => each.text)] });
  }

  // --- As a follower.

  function follow(follower: Link) {
    if (parameter(follower.request, 'tail')) return direct(follower);
    ask(follower);
    compete(follower, { signal: follower.stopWaiting.signal });
  }

  function ask(follower: Link) {
    post({ t: 'join', from: own, cursor: parameter(follower.request, 'cursor') });
    // A leader that is frozen holds the lock and answers nobody.
    follower.timer = setTimeout(() => take(follower, true), ANSWER_MS);
  }

  function take(follower: Link, isSilent: boolean) {
    if (follower !== link || letGo || follower.isDirect || (isSilent && follower.isAttached)) return;
    follower.stopWaiting.abort();
    follower.stopWaiting = new AbortController();
    compete(follower, { steal: true });
  }

  function direct(follower: Link) {
    follower.isDirect = true;
    follower.stopWaiting.abort();
    connect(follower);
  }

  // The gateway has not seen the token of this tab. It is taken to last as long as the leader's, and is renewed, so
  // that it is good when this tab leads.
  function withLife(frame: Frame) {
    const life = frame.token_expires_in_ms ?? LIFE_MS;
    const now = Date.now();
    return JSON.stringify({
      ...frame, token_expires_in_ms: Math.max(life - (now - token.since), Math.min(life, LIFE_MIN_MS)),
      server_time: new Date(frame.offset! + (link!.since + now) / 2), // a session takes it as the time in the middle since it opened
    });
  }

  function renew(follower: Link, text: string) {
    token = { text, since: Date.now() };
    follower.request = { ...follower.request, token: text };
    if (hello && position) follower.sink.frame(withLife({ ...hello, cursor: formatCursor(position) }));
  }

  function hear({ data }: { data: Message }) {
    const isLeader = letGo !== null;
    if (data.t === 'join' && isLeader) return welcome(data.from, data.cursor);
    if (data.t === 'want' && isLeader && isHidden()) return post({ t: 'take', to: data.from });
    if (data.t === 'ping' && isLeader && link?.inner) {
      // An event stream takes no ping. That it is not silent, the leader knows, and the gateway's time about.
      if (link.kind === 'sse') return link.isGreeted ? post({ t: 'frame', to: data.from, text: JSON.stringify({ type: 'pong', n: data.n, timestamp: new Date(Date.now() + hello!.offset!) }) }) : undefined;
      pings.set((pingsSent += 1), { to: data.from, n: data.n });
      if (pings.size > 100) pings.delete(pings.keys().next().value!);
      return link.inner.send(JSON.stringify({ type: 'ping', n: pingsSent }));
    }
    if (!link || isLeader || link.isDirect) return;
    if (((data as { to?: string | null }).to ?? own) !== own) return;
    const { sink } = link;
    if (data.t === 'take') take(link, false);
    else if (link.isAttached) {
      if (data.t === 'hidden') seen();
      else if (data.t === 'frame') heardFrame(data.text);
      else if (data.t === 'life') {
        hello!.token_expires_in_ms = data.ms;
        link.kind = data.kind;
      } else if (data.t === 'end') {
        leave(link);
        sink.closed({ ...data.end, message: 'the connection of the leading tab ended' });
      }
    } else if (data.t === 'wait') {
      clearTimeout(link.timer);
      link.timer = setTimeout(ask, ASK_MS, link);
    } else if (data.t === 'behind') direct(link);
    else if (data.t === 'welcome') {
      clearTimeout(link.timer);
      link.isAttached = true;
      link.kind = data.kind;
      sink.opened();
      hello = read(data.texts[0]!);
      heardFrame(withLife(hello));
      for (const text of data.texts.slice(1)) heardFrame(text);
      seen();
    }
  }

  // The page was shown or hidden, or the leader was: a tab that is seen leads, as hidden ones are slowed down.
  function seen() {
    if (!link?.isAttached || link.isDirect) return;
    if (letGo && isHidden()) post({ t: 'hidden' });
    else if (!letGo && !isHidden()) post({ t: 'want', from: own });
  }

  function heardFrame(text: string) {
    follows(read(text), text);
    link?.sink.frame(text);
  }

  // --- A connection of this tab's client.

  function leave(left: Link) {
    if (left !== link) return;
    link = null;
    clearTimeout(left.timer);
    left.stopWaiting.abort();
    left.inner = null;
    // Not at once: the client may open another at once, and others must first hear that it ended.
    setTimeout(() => {
      if (link) return;
      letGo?.();
      channel?.close();
      channel = null;
      page?.removeEventListener('visibilitychange', seen);
    }, RELEASE_MS);
  }

  const begin = (kind: TransportKind, request: OpenRequest, sink: TransportSink): Connection => {
    if (!channel) {
      try {
        channel = open(key);
        channel.onmessage = hear;
        page?.addEventListener('visibilitychange', seen);
      } catch {
        // Not allowed here: a connection of its own, below.
      }
    }
    if (request.token !== token.text) token = { text: request.token, since: Date.now() };
    const started: Link = { request, kind, since: Date.now(), sink, inner: null, isAttached: false, isGreeted: false, isDirect: false, stopWaiting: new AbortController(), timer: undefined };
    link = started;
    const after = parseCursor(parameter(request, 'cursor'));
    if (!after) position = null;
    else if (after.epoch !== position?.epoch || after.seq !== position.seq) restart(after);
    if (!channel) direct(started);
    else if (letGo) connect(started);
    else compete(started, { ifAvailable: true });
    return {
      send: (text) => {
        if (started !== link) return;
        if (started.inner) return started.inner.send(text);
        const frame = read(text);
        if (frame.type === 'ping') post({ t: 'ping', from: own, n: frame.n! });
        if (frame.type === 'auth' && started.isAttached) renew(started, frame.token!);
      },
      close: (code) => {
        const { inner } = started;
        leave(started);
        inner?.close(code);
      },
    };
  };

  return transports.map(({ kind }) => ({ kind, open: (request, sink) => begin(kind, request, sink) }));
}

const parameter = ({ url }: OpenRequest, name: string) => new URL(url).searchParams.get(name);

function read(text: string): Frame {
  try {
    return JSON.parse(text) as Frame;
  } catch {
    return {};
  }
}

