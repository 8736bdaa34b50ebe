// The one client of this page. It is made outside of React, so it lives as long as the page.
import { createClient } from '@tidegate/client';

export interface State { cursor: string; invoices: import('./events').Invoice[]; orders: import('./events').Order[] }

export async function loadState(): Promise<State> {
  const answer = await fetch('/api/state');
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error);
  return body;
}

export const connect = (cursor: string) => createClient({
  url: import.meta.env.VITE_TIDEGATE_URL ?? 'http://localhost:8080',
  org: 'dev',
  services: ['billing', 'fulfilment'],
  cursor,
  async getToken({ signal }) {
    const answer = await fetch('/api/token', { signal });
    if (!answer.ok) throw new Error(`no token: the back-end answered ${answer.status}`);
    return (await answer.json()).token;
  },
});
