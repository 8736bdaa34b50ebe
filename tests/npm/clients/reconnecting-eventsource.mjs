// In a page, for tests/npm/clients.mjs; docs/clients.md has its text.
// snippet: reconnecting-eventsource
import ReconnectingEventSource from 'reconnecting-eventsource';

export function follow(address, token, handle) {
  const source = new ReconnectingEventSource(`${address}?access_token=${token}`);
  // It remembers the ids of a listener, but not those of `onmessage`.
  source.addEventListener('message', ({ data }) => {
    const frame = JSON.parse(data);
    if (frame.type === 'error' && ['unauthorized', 'forbidden', 'revoked', 'evicted'].includes(frame.code)) source.close();
    handle(frame);
  });
}
