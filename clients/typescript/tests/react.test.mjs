// The hooks with React 19.

import { cases } from './react_cases.mjs';

await cases('19');
