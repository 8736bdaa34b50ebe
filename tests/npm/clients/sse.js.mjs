// In a page, for tests/npm/clients.mjs; docs/clients.md has its text.
// snippet: sse.js
import { SSE } from 'sse.js';

export async function follow(address, getToken, handle) {
  const bearer = async () => `Bearer ${await getToken()}`;
  const source = new SSE(address, { headers: { Authorization: await bearer() }, autoReconnect: true });
  source.onmessage = ({ data }) => handle(JSON.parse(data));
  source.onreadystatechange = async ({ readyState }) => {
    // For its next attempt, which comes some seconds later.
    if (readyState === SSE.CLOSED) source.headers.Authorization = await bearer();
  };
  source.onerror = ({ responseCode, data }) => {
    // It would try again for ever.
    const mayPass = responseCode === 408 || responseCode === 429 || `${data}`.includes('token_expired');
    if (responseCode >= 400 && responseCode < 500 && !mayPass) source.close();
  };
}
