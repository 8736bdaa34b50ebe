// @tidegate/client as `tidegate conformance` runs it (spec/README.md): one stream, one JSON line per event and gap.
//
//   tidegate conformance -- node tests/npm/conformance_client.mjs
//
// clients/typescript must be built (npm run build there).
import { WebSocket } from 'ws';

import { createClient, eventStream, webSocket } from '../../clients/typescript/dist/index.js';

const { TIDEGATE_URL, TIDEGATE_ORG, TIDEGATE_TOKEN, TIDEGATE_TOKEN_URL, TIDEGATE_TRANSPORT, TIDEGATE_CURSOR } = process.env;
const print = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

let token = TIDEGATE_TOKEN;
const client = createClient({
  url: TIDEGATE_URL,
  org: TIDEGATE_ORG,
  cursor: TIDEGATE_CURSOR,
  transports: [TIDEGATE_TRANSPORT === 'ws' ? webSocket(WebSocket) : eventStream()],
  async getToken({ signal }) {
    const first = token;
    token = undefined;
    return first ?? (await fetch(TIDEGATE_TOKEN_URL, { signal })).text();
  },
});
client.on('*', (event) => print({ type: 'event', seq: event.seq, service: event.service, id: event.id, data: event.data }));
client.onGap(({ from, to, reason }) => print({ type: 'gap', prev: from, seq: to, reason }));
client.onError((error) => {
  console.error(error.code, error.message);
  if (error.fatal) print({ type: 'end' });
});
client.connect();
