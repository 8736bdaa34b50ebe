// The same page (client_page.js) as a React application in StrictMode, which mounts everything twice in
// development. client_rig.mjs bundles it.
import { createElement, StrictMode, useEffect } from 'react';
import { createRoot } from 'react-dom/client';

import { TidegateProvider, useConnectionState, useEventState, useEvents } from '@tidegate/client/react';

const effects = { begun: 0, ended: 0 };

function Panel() {
  useEffect(() => {
    effects.begun += 1;
    return () => { effects.ended += 1; };
  }, []);
  const state = useConnectionState();
  const last = useEvents('invoice.paid', { limit: 5 });
  const count = useEventState('invoice.paid', (before) => before + 1, 0);
  return createElement('p', { id: 'panel' }, `${state}, ${count} events, last: ${last.map(({ id }) => id).join(' ')}`);
}

/** Shows the client; returns how to take it out of the page, which returns what became of effects. */
export function mount(client) {
  const root = createRoot(document.body.appendChild(document.createElement('div')));
  root.render(createElement(StrictMode, null, createElement(TidegateProvider, { client }, createElement(Panel))));
  return () => {
    root.unmount();
    return effects;
  };
}
