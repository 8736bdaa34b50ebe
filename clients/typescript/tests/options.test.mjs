// A mistake in an option is a TypeError that names it, at once.
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { createClient } from '@tidegate/client';

const right = { url: 'https://gateway.test', org: 'acme', getToken: () => 'a-token' };

for (const [name, value] of [
  ['url', undefined], ['url', ''], ['url', 'ftp://gateway.test'], ['url', 'https://gateway.test/v1'], ['org', ''], ['org', 'a b'],
  ['getToken', 'a-token'], ['services', 'orders'], ['services', ['or/ders']], ['cursor', 'nonsense'], ['tail', -1], ['tail', 'ten'], ['tail', 5000],
  ['slow', 'fast'], ['maxQueue', 0], ['storage', 'a-key'], ['health', 2], ['transports', []], ['logger', () => {}],
]) {
  test(`${name}: ${typeof value === 'function' ? 'a function' : JSON.stringify(value)}`, () => {
    assert.throws(() => createClient({ ...right, [name]: value }), (error) => error instanceof TypeError && error.message.split(':')[0].split(', ').includes(name === 'services' && Array.isArray(value) ? 'services' : name));
  });
}

test('in a page, where an address may be relative, only text is one', () => {
  globalThis.location = { href: 'https://app.test/page' };
  try {
    createClient({ ...right, url: '/realtime' }).dispose();
    for (const url of [undefined, '', 5, {}]) assert.throws(() => createClient({ ...right, url }), TypeError, String(url));
  } finally {
    delete globalThis.location;
  }
});

test('what is right or left out is taken', () => {
  createClient(right).dispose();
  createClient({ ...right, services: [], tail: 0, slow: 'skip', maxQueue: 1, storage: null, health: 1, logger: console, cursor: null }).dispose();
});
