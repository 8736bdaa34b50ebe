// The reader of event streams, byte by byte.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sseParser } from '../dist/sse-parser.js';

const STREAMS = [
  ['one event', 'data: {"a":1}\n\n', ['{"a":1}']],
  ['carriage returns', 'data: a\r\rdata: b\r\r', ['a', 'b']],
  ['both line ends', 'data: a\r\n\r\ndata: b\r\n\r\n', ['a', 'b']],
  ['mixed line ends', 'data: a\r\n\ndata: b\n\r\ndata: c\r\n\r', ['a', 'b', 'c']],
  ['several data lines are joined', 'data: {"a":\ndata: 1}\nid: e-1\n\n', ['{"a":\n1}']],
  ['only one space is dropped', 'data:  a\n\ndata:b\n\n', [' a', 'b']],
  ['comments and other fields', ': hello\nretry: 2000\nid: 7\nevent: x\ndata: a\n: more\n\n', ['a']],
  ['no data, no event', 'id: 7\n\n: only a comment\n\n', []],
  ['empty data', 'data\n\ndata:\n\n', ['', '']],
  ['a field that begins as data does', 'dataset: a\ndata: b\n\n', ['b']],
  ['an event that is not finished', 'data: a\n\ndata: b\n', ['a']],
];

for (const [name, text, expected] of STREAMS) {
  test(`${name}, in pieces of every size`, () => {
    for (let size = 1; size <= text.length; size += 1) {
      const seen = [];
      const take = sseParser((data) => seen.push(data));
      for (let from = 0; from < text.length; from += size) take(text.slice(from, from + size));
      assert.deepEqual(seen, expected, `pieces of ${size}`);
    }
  });
}

test('a line that comes in a thousand pieces costs no more than its length', () => {
  const seen = [];
  const take = sseParser((data) => seen.push(data));
  take('data: ');
  for (let piece = 0; piece < 1000; piece += 1) take('x'.repeat(100));
  take('\n\n');
  assert.equal(seen[0].length, 100_000);
});

test('an event without end is refused', () => {
  const take = sseParser(() => {});
  take('data: ');
  assert.throws(() => { for (let piece = 0; piece < 20; piece += 1) take('x'.repeat(1024 * 1024)); }, /too long/);
});
