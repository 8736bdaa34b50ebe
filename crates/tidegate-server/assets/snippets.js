// Code to copy from the page: how to publish what is in its form, and how to open the stream that it shows.
// Text in, text out. `origin` is this gateway's, such as that of the page itself.

/** One word of a POSIX shell. */
export const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** A string of JavaScript. Inside a page's script `</script>` would end it, so `<` is escaped. */
const literal = (text) => `'${JSON.stringify(text).slice(1, -1).replaceAll("'", "\\'").replaceAll('\\"', '"').replaceAll('<', '\\u003c')}'`;

const streamOf = (origin, { org, services }) =>
  `${origin}/v1/orgs/${org}/stream?${services.length ? `services=${services.join(',')}&` : ''}`;

/** Publishes `body`, which is JSON. */
export function curlPublish({ origin, org, key, body }) {
  return [
    `curl ${quote(`${origin}/v1/orgs/${org}/events`)} \\`,
    `  -H ${quote(`Authorization: Bearer ${key}`)} -H 'Content-Type: application/json' \\`,
    `  -d ${quote(body)}`,
  ].join('\n');
}

/** Follows the stream in a terminal. */
export function curlStream({ origin, token, ...target }) {
  return [
    `curl -N ${quote(`${streamOf(origin, target)}tail=10`)} \\`,
    `  -H ${quote(`Authorization: Bearer ${token}`)} -H 'Accept: text/event-stream'`,
  ].join('\n');
}

/** Where a script gets its token. The one of this page is enough until it expires. */
const tokenOf = (token) => `const getToken = async () => ${literal(token)}; // a new one from your back-end at each call: this one expires`;

/** A module with the client library: tokens, delays, resume and health are its work. */
export function client({ origin, token, org, services }) {
  return [
    "import { createClient } from '@tidegate/client';",
    '',
    tokenOf(token),
    'const client = createClient({',
    `  url: ${literal(origin)}, org: ${literal(org)}, tail: 10, getToken,`,
    ...(services.length ? [`  services: [${services.map(literal).join(', ')}],`] : []),
    '});',
    `client.on('*', (event) => console.log(event.event, event.data));`,
    `client.onGap((gap) => console.warn('gone:', gap));`,
    'client.connect();',
  ].join('\n');
}

/** A page's script over WebSocket. It keeps its cursor, and comes back for what it missed. */
export function webSocket({ origin, token, ...target }) {
  return [
    tokenOf(token),
    'let cursor = null; // [epoch, seq, tag]',
    '',
    'async function connect(pause = 1000) {',
    `  const start = cursor ? 'cursor=' + cursor.join('-') : 'tail=10';`,
    `  const socket = new WebSocket(${literal(streamOf(origin.replace(/^http/, 'ws'), target))} + start,`,
    "    ['tidegate.v1', 'tidegate.bearer.' + await getToken()]);",
    '  socket.onmessage = ({ data }) => {',
    '    const frame = JSON.parse(data);',
    `    if (frame.type === 'hello') cursor = frame.cursor.split('-');`,
    `    if (frame.type === 'gap') { console.warn('gone:', frame); cursor = [frame.epoch, frame.seq, frame.filter]; }`,
    `    if (frame.type === 'error') { console.error(frame.code, frame.message); pause = frame.retry_in_ms ?? pause; }`,
    `    if (frame.type === 'ping') socket.send('{"type":"pong"}');`,
    `    if (!['event', 'batch', 'ping'].includes(frame.type)) return;`,
    '    if (frame.prev > cursor[1]) return socket.close(); // something is missing: come back for it',
    `    for (const event of frame.events ?? (frame.type === 'event' ? [frame] : [])) if (event.seq > cursor[1]) console.log(event.event, event.data);`,
    '    cursor[1] = frame.seq;',
    '  };',
    '  socket.onclose = ({ code }) => { if (code < 4500) again(pause); };',
    '}',
    'const again = (pause) => setTimeout(() => connect().catch(() => again(1000)), pause + Math.random() * 4000);',
    'connect().catch(() => again(1000));',
  ].join('\n');
}

/** A page's script with EventSource, which keeps the cursor by itself. A new one with a new token is given it. */
export function eventSource({ origin, token, ...target }) {
  return [
    tokenOf(token),
    `let start = 'tail=10', pause = 60_000;`,
    '',
    'async function follow() {',
    `  const source = new EventSource(${literal(streamOf(origin, target))} + start + '&access_token=' + await getToken());`,
    '  source.onmessage = ({ data, lastEventId }) => {',
    '    const frame = JSON.parse(data);',
    `    if (frame.type === 'hello') pause = 1000 + Math.random() * 4000;`,
    `    if (frame.type === 'error') console.error(frame.code, frame.message);`,
    `    if (frame.type === 'gap') console.warn('gone:', frame);`,
    `    for (const event of frame.events ?? (frame.type === 'event' ? [frame] : [])) console.log(event.event, event.data);`,
    '    if (lastEventId) start = `cursor=${lastEventId}`; // for the next EventSource',
    '  };',
    `  source.onerror = () => { if (source.readyState === EventSource.CLOSED) again('The token has expired, or the stream was refused.'); };`,
    '}',
    'const again = (why) => { console.error(why); setTimeout(() => follow().catch(again), pause); pause = 60_000; };',
    'follow().catch(again);',
  ].join('\n');
}
