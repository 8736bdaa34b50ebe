// The same events on the wire of a Tidegate gateway and of Centrifugo, for the benchmarks of the two clients.

const START = Date.parse('2026-01-01T00:00:00.000Z');
const data = (n) => ({ invoice: `INV-${n}`, customer: 'Harbour Hotel', amount: '1200.00', status: 'paid' });

export const tidegate = {
  hello: JSON.stringify({
    type: 'hello', connection_id: 'a-1', protocol: 1, org: 'dev', services: ['*'], filter: 't', epoch: 'e', cursor: 'e-0-t', head: 0,
    dedup_window_ms: 300_000, resumed: false, ping_interval_ms: 25_000, token_expires_in_ms: 3_600_000, server_time: new Date(START).toISOString(),
  }),
  /** The events of seqs `from` to `to` in one frame. */
  frame(from, to) {
    const event = (seq) => ({ seq, timestamp: new Date(START + seq).toISOString(), service: 'billing', event: 'invoice.paid', id: `inv-${seq}`, data: data(seq) });
    return from === to
      ? JSON.stringify({ type: 'event', org: 'dev', prev: from - 1, ...event(from) })
      : JSON.stringify({ type: 'batch', org: 'dev', prev: from - 1, seq: to, timestamp: new Date(START + to).toISOString(), events: Array.from({ length: to - from + 1 }, (_, n) => event(from + n)) });
  },
};

export const centrifugo = {
  /** What it answers to a command of the client. */
  reply(text) {
    return text.split('\n').map((line) => JSON.parse(line)).flatMap((command) => {
      if (command.connect) return [{ id: command.id, connect: { client: 'c', version: '6', ping: 25, pong: true } }];
      if (command.subscribe) return [{ id: command.id, subscribe: { recoverable: true, positioned: true, epoch: 'e', offset: 0 } }];
      return [];
    }).map((reply) => JSON.stringify(reply)).join('\n');
  },
  /** The same events, several in one message as Centrifugo sends them: one push a line. */
  frame(from, to) {
    const push = (seq) => JSON.stringify({ push: { channel: 'dev', pub: { offset: seq, data: { service: 'billing', event: 'invoice.paid', id: `inv-${seq}`, timestamp: new Date(START + seq).toISOString(), data: data(seq) } } } });
    return Array.from({ length: to - from + 1 }, (_, n) => push(from + n)).join('\n');
  },
};
