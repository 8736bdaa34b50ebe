// The types of the React hooks, over declared events: react_types/hooks.tsx says what must be an error.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

test('a wrong name of an event and a wrong type of its data are errors of the compiler', () => {
  try {
    execFileSync(process.execPath, [createRequire(import.meta.url).resolve('typescript/bin/tsc'), '-p', fileURLToPath(new URL('react_types', import.meta.url))], { encoding: 'utf8' });
  } catch (error) {
    assert.fail(error.stdout);
  }
});
