// In a page, for tests/npm/clients.mjs; docs/clients.md has its text.
// snippet: sse.js
import { SSE } from 'sse.js';

export function follow(address, token, handle) {
  const source = new SSE(address, { headers: { Authorization: `Bearer ${token}` }, autoReconnect: true });
  source.onmessage = ({ data }) => handle(JSON.parse(data));
  source.onerror = ({ responseCode }) => {
    // It would try again for ever.
    if (responseCode >= 400 && responseCode < 500 && responseCode !== 408 && responseCode !== 429) source.close();
  };
}
