// The page of client_browsers.mjs: an application that keeps a ledger of all that its client tells it. It is
// served as it is, beside the built client.
import { AuthError, createClient, webSocket } from '/client/index.js';

/** What happened, in order. `ledger` has events and gaps, `sockets` each WebSocket that was ever made. */
const seen = window.seen = { ledger: [], errors: [], states: [], reasons: [], sockets: [], faults: [], aborted: 0, longTasks: [], frames: 0, mostInATurn: 0 };

addEventListener('error', ({ message }) => seen.faults.push(message));
addEventListener('unhandledrejection', ({ reason }) => seen.faults.push(`unhandled: ${reason}`));
if (window.PerformanceObserver?.supportedEntryTypes?.includes('longtask')) {
  new PerformanceObserver((list) => { for (const { duration } of list.getEntries()) seen.longTasks.push(Math.round(duration)); }).observe({ type: 'longtask' });
}

class WatchedSocket extends WebSocket {
  constructor(...words) {
    super(...words);
    seen.sockets.push(this);
  }
}

const params = new URLSearchParams(location.search);

async function getToken({ reason, signal }) {
  seen.reasons.push(reason);
  signal.addEventListener('abort', () => { seen.aborted += 1; });
  const answer = await fetch(`/token/${params.get('visit')}?reason=${reason}`, { signal });
  if (answer.status === 401) throw new AuthError('nobody is logged in');
  if (!answer.ok) throw new Error(`the token endpoint answered ${answer.status}`);
  return answer.text();
}

/** Work of the application for each event. */
function work(ms) {
  const until = performance.now() + ms;
  while (performance.now() < until);
}

function countFrames() {
  seen.frames += 1;
  requestAnimationFrame(countFrames);
}

// The page's own tasks, between which events are counted.
let sinceTurn = 0;
function countTurns() {
  seen.mostInATurn = Math.max(seen.mostInATurn, sinceTurn);
  sinceTurn = 0;
  setTimeout(countTurns, 0);
}

/**
 * `workMs`: how long the application works on each event. `counts`: frames and turns are counted. `only`: no other transport
 * than WebSocket. `react`: it is React that connects.
 */
window.begin = async ({ workMs = 0, counts = false, only = null, react = false, ...options }) => {
  if (counts) {
    requestAnimationFrame(countFrames);
    countTurns();
  }
  if (only === 'ws') options.transports = [webSocket(WatchedSocket)];
  // The shortest delays that the protocol allows.
  const client = window.client = createClient({ random: () => 0, webSocket: WatchedSocket, getToken, ...options });
  client.on('*', ({ seq, service, event, id, data, latencyMs }) => {
    work(workMs);
    sinceTurn += 1;
    seen.ledger.push({ seq, service, event, id, data, latencyMs, at: Date.now() });
  });
  client.onGap((gap) => seen.ledger.push({ gap }));
  client.onError(({ code, fatal, message }) => seen.errors.push({ code, fatal, message }));
  client.onStatus(({ state }) => { if (seen.states.at(-1) !== state) seen.states.push(state); });
  if (!react) return client.connect();
  const { mount } = await import('/client_page_react.js');
  window.mount = () => { window.unmount = mount(client); };
  window.mount();
};

/** All at one moment: the health, and what it must agree with. */
window.report = (from) => ({
  health: window.__realtimeMetrics?.(),
  status: { ...window.client.getStatus(), error: undefined },
  now: Date.now(),
  handled: seen.ledger.length,
  ...seen,
  ledger: seen.ledger.slice(from),
  sockets: seen.sockets.map(({ extensions, readyState }) => ({ extensions, readyState })),
});
