// What runtimes.test.mjs runs under each runtime: prints what became of some events.
import { createPublisher } from '../dist/index.js';
import { mintToken } from '../dist/token.js';

const [url, closed, plain, good, ...flawed] = process.argv.slice(2);
const event = { service: 'finance', event: 'invoice.paid', data: { amount: '1' } };
const options = { url, key: 'tgk_1_2', org: 'acme' };

const publisher = createPublisher(options);
const redirected = await publisher.publish(event);
console.log(redirected.status, redirected.code.replace(/^http_(0|302)$/, 'http_0 or http_302'), 'after', redirected.attempts);
for (const { status, attempts } of await Promise.all([publisher.publish(event), publisher.publish(event)])) console.log(status, 'after', attempts);
await publisher.close();

const alone = createPublisher({ ...options, url: closed, retryForMs: 300 });
const refused = await alone.publish(event);
console.log(refused.status, refused.code);

const hung = createPublisher({ ...options, retryForMs: 100, requestTimeoutMs: 200, fetch: (_, { signal }) => fetch(`${url}/hang`, { signal }) });
const late = await hung.publish(event);
console.log(late.status, late.code);

const controller = new AbortController();
const cut = createPublisher({ ...options, signal: controller.signal, fetch: (...request) => { controller.abort(); return fetch(...request); } });
const aborted = await cut.publish(event);
console.log(aborted.status, aborted.code);

const token = await mintToken({ secret: 's'.repeat(32), org: 'acme', user: 'alice', services: ['*'], expiresInS: 60 });
console.log('token', token.split('.').length);

// A gateway that speaks no TLS, although the url says so.
const unsafe = createPublisher({ ...options, url: plain, retryForMs: 300 });
const unspoken = await unsafe.publish(event);
console.log(unspoken.status, unspoken.code + (unspoken.retryable ? ', later perhaps' : ''));

// One whose certificate is accepted, and those whose are not: refused at the first try.
const secure = await createPublisher({ ...options, url: good }).publish(event);
console.log(secure.status, secure.code, 'after', secure.attempts);
for (const address of flawed) {
  const { status, code, attempts, detail } = await createPublisher({ ...options, url: address }).publish(event);
  console.log(`${status} ${code} after ${attempts}: ${detail.replace(address, 'URL')}`);
}
