// Each planted bug turns its vector red. A patch that no longer applies is an error: write it anew.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath, pathToFileURL } from 'node:url';

import { replay } from '../../dist/testing/replay.js';
import { files } from './named.mjs';
import { BUGS } from './planted.mjs';

const PACKAGE = fileURLToPath(new URL('../../', import.meta.url));
const place = mkdtempSync(join(tmpdir(), 'tidegate-planted-'));
after(() => rmSync(place, { recursive: true }));

const vectors = new Map(Object.values(files).flat().map((vector) => [vector.name, vector]));

for (const [i, { bug, in: file, of, to, red }] of BUGS.entries()) {
  test(bug, async () => {
    const copy = join(place, `${i}`);
    mkdirSync(copy);
    writeFileSync(join(copy, 'package.json'), '{"type":"module"}');
    for (const part of ['session', 'testing']) cpSync(join(PACKAGE, 'dist', part), join(copy, part), { recursive: true });
    const path = join(copy, 'session', `${file}.js`);
    const script = readFileSync(path, 'utf8');
    assert.equal(script.split(of).length, 2, `${file}.js has this not once: ${of}`);
    writeFileSync(path, script.replace(of, () => to));
    const planted = await import(pathToFileURL(join(copy, 'testing', 'replay.js')));
    const vector = vectors.get(red);
    assert.ok(vector, `no vector is named "${red}"`);
    assert.equal(replay(vector), null);
    assert.notEqual(planted.replay(vector), null, `"${red}" does not find it`);
  });
}

test('a missing cell of the table is an error of types', () => {
  const copy = join(place, 'types');
  cpSync(join(PACKAGE, 'src', 'session'), join(copy, 'session'), { recursive: true });
  const path = join(copy, 'session', 'session.ts');
  const script = readFileSync(path, 'utf8');
  const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc');
  writeFileSync(join(copy, 'tsconfig.json'), JSON.stringify({ compilerOptions: { noEmit: true, strict: true, target: 'es2022', module: 'nodenext', lib: ['es2022'], skipLibCheck: true, types: [] }, include: ['session'] }));
  const check = (patched) => {
    writeFileSync(path, patched);
    return spawnSync(process.execPath, [tsc, '-p', copy], { encoding: 'utf8' }).stdout;
  };
  for (const cell of [' drained: ignore,', '  hello: HELLO,\n']) {
    assert.equal(script.split(cell).length, 2, cell);
    assert.match(check(script.replace(cell, '')), /TS2741|TS2739/, cell);
  }
});
