import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';
import { TidegateProvider } from '@tidegate/client/react';

import { App } from './App';
import './events';
import { connect, loadState } from './realtime';
import './style.css';

const root = createRoot(document.getElementById('root')!);

// Cursor and state first, then the stream from that cursor: nothing that happens in between is missing.
async function start() {
  try {
    const state = await loadState();
    const client = connect(state.cursor);
    root.render(
      <StrictMode>
        <TidegateProvider client={client}>
          <App start={state} />
        </TidegateProvider>
      </StrictMode>,
    );
  } catch (error) {
    root.render(<p className="failed">The dashboard cannot load: {String((error as Error).message)}. It tries again in 3 s.</p>);
    setTimeout(start, 3000);
  }
}
start();
