// Compiled by react_types.test.mjs and never run: with declared events, a wrong name and a wrong type of data are
// errors of the compiler, in each hook. A line after @ts-expect-error that compiles is one too.
import { createClient, type StreamEvent } from '@tidegate/client';
import { TidegateProvider, useConnection, useConnectionState, useEvent, useEvents, useEventState, useGap, useHealth, useRealtime } from '@tidegate/client/react';

declare module '@tidegate/client' {
  interface Register {
    events: {
      'invoice.paid': { cents: number };
      'order.shipped': { carrier: string };
    };
  }
}

const client = createClient({ url: 'https://gateway.test', org: 'acme', getToken: () => 'a-token' });

export function Hooks() {
  useEvent('invoice.paid', ({ data }) => console.log(data.cents.toFixed(2)));
  useEvent('invoice.paid', async ({ data }) => data.cents, { service: 'billing', enabled: false });
  // @ts-expect-error: no such event
  useEvent('invoice.payed', () => {});
  // @ts-expect-error: no such field
  useEvent('invoice.paid', ({ data }) => console.log(data.carrier));
  // @ts-expect-error: a number is not a text
  useEvent('invoice.paid', ({ data }) => data.cents.padStart(3));
  useEvent('*', (event) => {
    if (event.event === 'order.shipped') console.log(event.data.carrier.padStart(3));
    else console.log(event.data.cents.toFixed(2));
    // @ts-expect-error: not all events have it
    console.log(event.data.carrier);
  });

  const paid: readonly StreamEvent<'invoice.paid'>[] = useEvents('invoice.paid', { limit: 5 });
  // @ts-expect-error: other events
  const shipped: readonly StreamEvent<'order.shipped'>[] = useEvents('invoice.paid');
  // @ts-expect-error: no such event
  useEvents('invoice.payed');
  const all = useEvents('*').map(({ event }): 'invoice.paid' | 'order.shipped' => event);

  const sum: number = useEventState('invoice.paid', (cents, { data }) => cents + data.cents, 0);
  // @ts-expect-error: the reducer makes a text of a number
  useEventState('invoice.paid', (cents: number, { data }) => `${cents + data.cents}`, 0);
  // @ts-expect-error: no such field
  useEventState('order.shipped', (cents, { data }) => cents + data.cents, 0);

  useGap(({ reason, from, to }) => console.log(reason.length, to - from));
  const { state, attempt, retryAt, error } = useConnection();
  const same: typeof state = useConnectionState();
  const latency: number | undefined = useHealth(500)?.eventLatencyMs[0];
  const org: string = useRealtime().org;
  return <p title={error?.code}>{[state, same, attempt, retryAt, paid.length, shipped.length, all.length, sum, latency, org]}</p>;
}

export const app = <TidegateProvider client={client}><Hooks /></TidegateProvider>;
// @ts-expect-error: a provider needs a client
export const empty = <TidegateProvider><Hooks /></TidegateProvider>;
