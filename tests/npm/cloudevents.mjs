// CloudEvents of the official SDKs (npm and PyPI) and of PROTOCOL.md's curl lines, published in each mode.
// The log must have each of them with all attributes that its SDK sent.
//
//   node tests/npm/cloudevents.mjs target/debug/tidegate target/python/bin/python
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

import { CloudEvent, HTTP, Mode, V03, emitterFor, httpTransport } from 'cloudevents';

import { Gateway } from './gateway.mjs';

const [program = 'target/debug/tidegate', python = 'target/python/bin/python'] = process.argv.slice(2);

const gateway = await new Gateway(program, '--no-feed').start();
const address = `${gateway.url}/v1/orgs/${gateway.org}/events`;
const headers = { authorization: `Bearer ${gateway.publish_key}` };

/** An event of the log as the CloudEvent that it was, in the words of the SDKs. */
const told = ({ id, source, subject, time, service, key, event, data }) => JSON.parse(JSON.stringify(
  { id, source, type: event, subject, time, service, partitionkey: key, data },
));

/** What is in the log since `seen` events were. */
const since = async (seen) => (await gateway.history()).slice(seen);

const tests = {
  async 'npm: binary, structured, batch'() {
    const seen = (await gateway.history()).length;
    const sent = [];
    const make = (more) => {
      const event = new CloudEvent({
        id: `npm-${sent.length}`, source: '/npm/sdk', type: 'com.example.invoice.paid', service: 'finance',
        time: '2026-11-24T10:00:00.5+01:00', datacontenttype: 'application/json', traceparent: '00-1-2-03', ...more,
      });
      const { specversion, datacontenttype, dataschema, traceparent, ...kept } = event.toJSON();
      // An event without data comes out with data that is null.
      sent.push(JSON.parse(JSON.stringify({ ...kept, data: event.data ?? null })));
      return event;
    };
    for (const mode of [Mode.BINARY, Mode.STRUCTURED]) {
      const emit = emitterFor(httpTransport(address), { mode });
      for (const more of [
        { data: { amount: '1200.00', 'grüße': ['€', '😀', 1.5, null] }, subject: 'invoice 42 of "7"', partitionkey: 'k/1' },
        { data: [1, [2]] },
        { data: {}, datacontenttype: 'application/vnd.example+json; charset=utf-8', dataschema: 'https://example.com/schema' },
      ]) {
        const answer = await emit(make(more), { headers });
        assert.equal(answer.body, '');
        assert.match(answer.headers['tidegate-cursor'], new RegExp(`-${sent.length + seen}$`));
      }
    }
    // The SDK reads batches but writes none: join what it writes into an array.
    const batch = [make({ data: { n: 1 }, subject: '€' }), make({ subject: 'no data' })].map((event) => HTTP.structured(event).body);
    const answer = await fetch(address, {
      method: 'POST', headers: { ...headers, 'content-type': 'application/cloudevents-batch+json' }, body: `[${batch}]`,
    });
    assert.equal(answer.status, 202);
    assert.deepEqual((await since(seen)).map(told), sent);
  },

  async 'npm: what is refused'() {
    const seen = (await gateway.history()).length;
    const old = new CloudEvent({ specversion: V03, id: 'old', source: 'finance', type: 'paid', data: {} });
    const bytes = new CloudEvent({ id: 'bytes', source: 'finance', type: 'paid', data: new Uint8Array([1, 2]), datacontenttype: 'application/octet-stream' });
    for (const [event, mode, code, pointer] of [
      [old, Mode.BINARY, 'invalid', 'ce-specversion'],
      [old, Mode.STRUCTURED, 'invalid', '/specversion'],
      [bytes, Mode.BINARY, 'unsupported_media', 'content-type'],
      [bytes, Mode.STRUCTURED, 'unsupported_media', '/data_base64'],
    ]) {
      const answer = await emitterFor(httpTransport(address), { mode })(event, { headers });
      const problem = JSON.parse(answer.body);
      assert.deepEqual([problem.code, problem.errors[0].pointer], [code, pointer], answer.body);
    }
    assert.deepEqual(await since(seen), []);
  },

  async 'PyPI: binary, structured, batch, of both its interfaces'() {
    const seen = (await gateway.history()).length;
    const out = execFileSync(python, ['tests/python/publish_cloudevents.py', address], {
      env: { ...process.env, TIDEGATE_KEY: gateway.publish_key }, encoding: 'utf8',
    });
    const sent = out.trim().split('\n').map((line) => JSON.parse(line));
    assert.equal(sent.length, 10);
    assert.deepEqual((await since(seen)).map(told), sent);
  },

  async 'PROTOCOL.md: its curl lines'() {
    const text = readFileSync('PROTOCOL.md', 'utf8');
    const found = [...text.matchAll(/<!-- snippet: (cloudevents-\S+)\.sh -->\n```sh\n(.*?)\n```/gs)];
    assert.deepEqual(found.map(([, name]) => name), ['cloudevents-structured', 'cloudevents-batch', 'cloudevents-binary']);
    const seen = (await gateway.history()).length;
    const run = (snippet) => {
      const filled = snippet
        .replaceAll('http://localhost:8080', gateway.url)
        .replaceAll('/orgs/dev/', `/orgs/${gateway.org}/`)
        .replaceAll('$KEY', gateway.publish_key);
      const out = execFileSync('sh', ['-e', '-c', filled], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
      assert.match(out, /^HTTP\/1\.1 202 /, out);
      return /^tidegate-cursor: (\S+)/m.exec(out)?.[1];
    };
    const cursors = found.map(([,, snippet]) => run(snippet));
    assert.deepEqual(cursors.map((cursor) => Number(cursor.split('-')[1])), [seen + 1, seen + 3, seen + 4]);
    assert.deepEqual(found.map(([,, snippet]) => run(snippet)), cursors, 'again: the places of the first time');
    const type = 'com.example.invoice.paid';
    assert.deepEqual((await since(seen)).map(told), [
      { id: 'inv-42', source: '/billing', type, subject: 'invoice 42', service: 'finance', data: { amount: '1200.00' } },
      { id: 'inv-43', source: '/billing', type, service: 'finance', data: 1 },
      { id: 'inv-44', source: '/billing', type, service: 'finance', data: 2 },
      { id: 'inv-45', source: 'finance', type, subject: 'invoice 45', service: 'finance', data: { amount: '1200.00' } },
    ]);
  },
};

for (const [name, run] of Object.entries(tests)) {
  await run();
  console.log(`ok ${name}`);
}
process.exit(0);
