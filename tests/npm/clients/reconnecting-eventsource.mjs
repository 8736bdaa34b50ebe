// In a page, for tests/npm/clients.mjs; docs/clients.md has its text.
// snippet: reconnecting-eventsource
import ReconnectingEventSource from 'reconnecting-eventsource';

export async function follow(address, getToken, handle) {
  let cursor = '';
  let token = await getToken();
  const place = () => `${address}?cursor=${cursor}&access_token=${token}`;
  const source = new ReconnectingEventSource(place());
  // While it is away, its next attempt gets a new token.
  const renewal = setInterval(async () => {
    if (source.readyState !== source.CONNECTING) return;
    token = await getToken();
    source.url = place();
  }, 2000);
  // It remembers the ids of a listener, but not those of `onmessage`.
  source.addEventListener('message', ({ data, lastEventId }) => {
    const frame = JSON.parse(data);
    handle(frame);
    cursor = lastEventId || cursor;
    source.url = place();
    if (frame.type !== 'error' || !['unauthorized', 'forbidden', 'revoked', 'evicted'].includes(frame.code)) return;
    clearInterval(renewal);
    source.close();
  });
}
