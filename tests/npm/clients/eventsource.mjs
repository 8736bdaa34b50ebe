// In Node, for tests/npm/clients.mjs; docs/clients.md has its text.
//
//   node tests/npm/clients/eventsource.mjs <address of the stream> <address of a token>
// snippet: eventsource
import { EventSource } from 'eventsource';

export function follow(address, getToken, handle, cursor = '') {
  const source = new EventSource(`${address}?cursor=${cursor}`, {
    // It calls this for each attempt.
    fetch: async (url, init) => fetch(url, { ...init, headers: { ...init.headers, Authorization: `Bearer ${await getToken()}` } }),
  });
  source.onmessage = ({ data, lastEventId }) => {
    handle(JSON.parse(data));
    cursor = lastEventId || cursor;
  };
  source.onerror = ({ code }) => {
    // After a cut it comes back by itself; after a status that is not 200 it does not.
    const mayPass = code === 408 || code === 429 || code >= 500;
    if (source.readyState === EventSource.CLOSED && mayPass) setTimeout(follow, 3000, address, getToken, handle, cursor);
  };
}
// end

const [address, tokens] = process.argv.slice(2);
const getToken = async () => (await fetch(tokens)).text();
follow(address, getToken, (frame) => console.log(JSON.stringify(frame)));
