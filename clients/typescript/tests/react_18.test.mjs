// The hooks with React 18.

import './react_18.mjs';

const { cases } = await import('./react_cases.mjs');
await cases('18');
