// What a token holds, and the mistakes that are refused. That a gateway takes it: gateway.test.mjs.
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { test } from 'node:test';

import { mintToken } from '../dist/token.js';

const SECRET = 'a secret of thirty-two bytes: äöü';
const good = { secret: SECRET, org: 'acme', user: 'alice', services: ['finance', 'staff'], expiresInS: 600, now: () => 1_764_000_000_999 };

test('a token is a JWT with HS256, and its exp is in seconds', async () => {
  const [head, claims, signature, ...more] = (await mintToken({ ...good, kid: 'k1', iss: 'shop', aud: 'events' })).split('.');
  assert.deepEqual(more, []);
  const read = (part) => JSON.parse(Buffer.from(part, 'base64url'));
  assert.deepEqual(read(head), { alg: 'HS256', typ: 'JWT', kid: 'k1' });
  assert.deepEqual(read(claims), {
    sub: 'alice', org: 'acme', services: ['finance', 'staff'], iat: 1_764_000_000, exp: 1_764_000_600, iss: 'shop', aud: 'events',
  });
  assert.equal(signature, createHmac('sha256', SECRET).update(`${head}.${claims}`).digest('base64url'));
  const bytes = await mintToken({ ...good, secret: new TextEncoder().encode(SECRET), services: ['*'] });
  assert.deepEqual(Object.keys(read(bytes.split('.')[1])), ['sub', 'org', 'services', 'iat', 'exp'], 'what is not given is left out');
});

const wrong = [
  [{ secret: undefined }, /secret must be text or bytes; is the environment variable/],
  [{ secret: 'short' }, /secret has 5 bytes; the gateway asks for 32 or more/],
  [{ secret: `${SECRET}\n` }, /secret ends with a line break/],
  [{ org: '' }, /org must be/],
  [{ org: undefined }, /org must be/],
  [{ org: '.acme' }, /org must be/],
  [{ user: 'alice,bob' }, /user must be .* without space or comma/],
  [{ user: 7 }, /user must be/],
  [{ services: [] }, /services must be a list of at least one name/],
  [{ services: '*' }, /services must be a list/],
  [{ services: ['*', 'finance'] }, /services must be \['\*'\] alone/],
  [{ services: ['fin ance'] }, /services has "fin ance"/],
  [{ expiresInS: '10m' }, /expiresInS must be a whole number of seconds/],
  [{ expiresInS: 0 }, /at least 1/],
  [{ expiresInS: 0.5 }, /whole number/],
  [{ expiresInS: 3_600_000 }, /longer than 30 days, which the gateway refuses; is it in milliseconds\?/],
  [{ expiresInS: 1_764_000_600 }, /it is a duration, not a point in time/],
  [{ expiresInS: 600_000 }, /expiresInS is 600000 s, 167 hours; are these milliseconds\? Then give 600\..* at most 2592000 \(30 days\)/],
  [{ expiresInS: new Date(1_764_000_600_000) }, /expiresInS is a date; it is a number of seconds from now, at most 2592000/],
  [{ expiresIn: 600 }, /"expiresIn" is no option; did you mean expiresInS\?/],
  [{ audience: 'events' }, /"audience" is no option; the options are secret, org, /],
  [{ kid: 'k'.repeat(129) }, /kid must be text of at most 128 bytes/],
  [{ iss: '' }, /iss must be text, or be left out/],
  [{ aud: ['events'] }, /aud must be text/],
];

for (const [options, sentence] of wrong) {
  test(`refused: ${JSON.stringify(options)}`, async () => {
    await assert.rejects(mintToken({ ...good, ...options }), (error) => {
      assert.ok(error instanceof TypeError);
      assert.match(error.message, /^mintToken: /);
      assert.match(error.message, sentence);
      assert.ok(!error.message.includes(SECRET), 'no secret in the sentence');
      return true;
    });
  });
}

test('no options at all', async () => {
  await assert.rejects(mintToken(), { message: 'mintToken: give the options as an object: { secret, org, ... }' });
});
