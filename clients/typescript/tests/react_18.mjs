// Imported first, it makes React 18 of what is imported as React afterwards.

import Module, { createRequire, register } from 'node:module';

const require = createRequire(import.meta.url);
const OLD = new Map([['react', 'react-18'], ['react-dom', 'react-dom-18']]);

function old(name) {
  const [, first, rest] = /^([^/]+)(.*)$/.exec(name) ?? [];
  return OLD.has(first) ? require.resolve(OLD.get(first) + rest) : null;
}

// For `require`, which React DOM uses itself.
const resolve = Module._resolveFilename;
Module._resolveFilename = (name, ...more) => old(name) ?? resolve(name, ...more);

// For `import`. The hook runs in a thread of its own, so it gets the addresses as text.
const names = ['react', 'react-dom', 'react-dom/client', 'react-dom/server'];
const addresses = Object.fromEntries(names.map((name) => [name, new URL(`file://${old(name)}`).href]));
register(`data:text/javascript,${encodeURIComponent(`
  const addresses = ${JSON.stringify(addresses)};
  export const resolve = (name, context, next) => (Object.hasOwn(addresses, name) ? { url: addresses[name], shortCircuit: true } : next(name, context));
`)}`);
