// Reads events until it has so many, with whatever the runtime has: `<runtime> runtime_reader.mjs <url> <org> <token> <count> <ws|sse>`.
// Prints the transport when it is connected, then the numbers of the events.

import { createClient, eventStream, webSocket } from '../dist/index.js';

const [url, org, token, count, kind] = process.argv.slice(2);
const client = createClient({ url, org, getToken: () => token, transports: [kind === 'ws' ? webSocket() : eventStream()] });
client.onError(({ code, message }) => console.error(code, message));
client.onStatus(({ state, transport }) => {
  if (state === 'connected') console.log(transport);
});
const numbers = [];
for await (const { data } of client.events('*')) {
  numbers.push(data.number);
  if (numbers.length === Number(count)) break;
}
console.log(JSON.stringify(numbers));
// The iteration was all that kept it connected: the process ends by itself.
