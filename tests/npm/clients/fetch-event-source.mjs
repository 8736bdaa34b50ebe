// In a page, for tests/npm/clients.mjs; docs/clients.md has its text.
// snippet: fetch-event-source
import { fetchEventSource } from '@microsoft/fetch-event-source';

class Final extends Error {}

export function follow(address, getToken, handle) {
  return fetchEventSource(address, {
    // It calls this for each attempt, with the id that it remembers.
    fetch: async (url, init) => fetch(url, { ...init, headers: { ...init.headers, Authorization: `Bearer ${await getToken()}` } }),
    async onopen(answer) {
      const { status } = answer;
      if (status >= 400 && status < 500 && status !== 408 && status !== 429) throw new Final(`refused: ${status}`);
      if (!answer.ok) throw new Error(`refused: ${status}`);
    },
    onmessage(message) { handle(JSON.parse(message.data)); },
    onclose() { throw new Error('ended'); }, // or it would stop at a clean end of the stream
    onerror(error) { if (error instanceof Final) throw error; }, // any other error: again, with the last id
  });
}
