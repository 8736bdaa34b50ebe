// Compiled, never run: what the types allow and what they refuse.
import { createPublisher, type Outcome, type PublishEvent } from '@tidegate/publisher';
import { mintToken } from '@tidegate/publisher/token';

interface Events {
  'invoice.paid': { amount: string };
  'shift.started': { user: string };
}

const publisher = createPublisher<Events>({
  url: 'http://localhost:8080',
  key: 'tgk_1_2',
  onOutcome: (outcome, event) => console.log(outcome.status, event.event === 'invoice.paid' ? event.data.amount : event.data.user),
});

const outcome: Promise<Outcome> = publisher.publish({ service: 'finance', event: 'invoice.paid', data: { amount: '1200.00' }, org: 'acme' });
// @ts-expect-error The data of another event.
void publisher.publish({ service: 'finance', event: 'invoice.paid', data: { user: 'alice' } });
// @ts-expect-error A name that is no event.
void publisher.publish({ service: 'finance', event: 'invoice.payed', data: { amount: '1' } });
// @ts-expect-error A misspelt field.
void publisher.publish({ service: 'finance', event: 'invoice.paid', data: { amount: '1' }, user: ['alice'] });
// @ts-expect-error The service is missing.
void publisher.publish({ event: 'invoice.paid', data: { amount: '1' } });

void outcome.then((settled) => {
  if (settled.status === 'stored' || settled.status === 'duplicate') return `${settled.seq} ${settled.cursor}`;
  if (settled.status === 'refused') return `${settled.code} ${settled.pointer ?? ''} ${settled.retryable}`;
  // @ts-expect-error Nobody knows its seq.
  return settled.seq;
});

// Without types of one's own any event goes.
const any = createPublisher({ url: 'http://localhost:8080', key: 'tgk_1_2', org: 'acme' });
const event: PublishEvent = { service: 's', event: 'whatever', data: [1, null], time: new Date() };
void any.tryPublish(event);
void any.close({ timeoutMs: 1000 }).then((left) => left.map(({ id }) => id));

const token: Promise<string> = mintToken({ secret: 's', org: 'acme', user: 'alice', services: ['*'], expiresInS: 600 });
// @ts-expect-error expiresInS is missing.
void mintToken({ secret: 's', org: 'acme', user: 'alice', services: ['*'] });
export { token };
