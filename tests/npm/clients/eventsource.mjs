// In Node, for tests/npm/clients.mjs; docs/clients.md has its text.
//
//   node tests/npm/clients/eventsource.mjs <address of the stream> <token>
// snippet: eventsource
import { EventSource } from 'eventsource';

export function follow(address, token, handle, cursor = '') {
  const source = new EventSource(`${address}?cursor=${cursor}`, {
    fetch: (url, init) => fetch(url, { ...init, headers: { ...init.headers, Authorization: `Bearer ${token}` } }),
  });
  source.onmessage = ({ data, lastEventId }) => {
    handle(JSON.parse(data));
    cursor = lastEventId || cursor;
  };
  source.onerror = ({ code }) => {
    // After a cut it comes back by itself; after a status that is not 200 it does not.
    const mayPass = code === 408 || code === 429 || code >= 500;
    if (source.readyState === EventSource.CLOSED && mayPass) setTimeout(follow, 3000, address, token, handle, cursor);
  };
}
// end

const [address, token] = process.argv.slice(2);
follow(address, token, (frame) => console.log(JSON.stringify(frame)));
