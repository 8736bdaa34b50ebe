import { useEffect, useState } from 'react';
import type { Gap } from '@tidegate/client';
import { useConnection, useConnectionState, useEventState, useEvents, useGap, useHealth, useRealtime } from '@tidegate/client/react';

import { apply, type Board } from './board';
import type { State } from './realtime';

const money = (cents: number) => (cents / 100).toLocaleString('en', { style: 'currency', currency: 'EUR' });
const time = (text: string) => new Date(text).toLocaleTimeString('en', { hour12: false });

export function App({ start }: { start: State }) {
  const board = useEventState<'*', Board>('*', apply, {
    invoices: start.invoices, orders: start.orders,
    paidCents: start.invoices.reduce((sum, { cents, status }) => sum + (status === 'paid' ? cents : 0), 0),
  });
  const open = board.invoices.filter(({ status }) => status === 'open');
  return (
    <main>
      <header>
        <h1>Kelp &amp; Co.</h1>
        <ConnectionBadge />
      </header>
      <GapBanner />
      <section className="figures" aria-label="Today">
        <Figure label="Paid" value={money(board.paidCents)} />
        <Figure label="Open invoices" value={String(open.length)} />
        <Figure label="Outstanding" value={money(open.reduce((sum, { cents }) => sum + cents, 0))} />
        <Figure label="To ship" value={String(board.orders.filter(({ status }) => status === 'paid').length)} />
      </section>
      <div className="columns">
        <section className="card">
          <h2>Invoices</h2>
          <table>
            <thead><tr><th>Invoice</th><th>Customer</th><th className="amount">Amount</th><th><span className="sr">Status</span></th></tr></thead>
            <tbody>
              {board.invoices.slice(0, 12).map(({ invoice, customer, cents, status }) => (
                <tr key={invoice} className={status}>
                  <td>{invoice}</td><td>{customer}</td><td className="amount">{money(cents)}</td>
                  <td className="status">{status === 'open' ? <PayButton invoice={invoice} /> : <span className="tag">paid</span>}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </section>
        <section className="card">
          <h2>Orders</h2>
          <ul className="orders">
            {board.orders.slice(0, 10).map(({ order, customer, goods, status }) => (
              <li key={order}>
                <span className={`dot ${status}`} aria-hidden="true" />
                <span><strong>{goods}</strong><small>{order} · {customer}</small></span>
                <span className="tag">{status}</span>
              </li>
            ))}
          </ul>
        </section>
        <div className="side">
          <HealthPanel />
          <Happened />
        </div>
      </div>
    </main>
  );
}

function Figure({ label, value }: { label: string; value: string }) {
  return <div className="card figure"><span>{label}</span><strong>{value}</strong></div>;
}

function PayButton({ invoice }: { invoice: string }) {
  const [asked, setAsked] = useState(false);
  const pay = () => {
    setAsked(true); // the row changes when the event comes
    fetch(`/api/pay?invoice=${invoice}`, { method: 'POST' }).catch(() => setAsked(false));
  };
  return <button type="button" onClick={pay} disabled={asked} aria-label={`Mark ${invoice} as paid`}>Mark paid</button>;
}

function ConnectionBadge() {
  const { state, phase, retryAt, error } = useConnection();
  const client = useRealtime();
  const [, count] = useState(0);
  // Only while there is a countdown to show.
  useEffect(() => {
    if (retryAt === null) return undefined;
    const timer = setInterval(() => count((n) => n + 1), 1000);
    return () => clearInterval(timer);
  }, [retryAt]);
  const seconds = retryAt === null ? 0 : Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
  return (
    <div className={`badge ${state}`} role="status">
      <span className="light" aria-hidden="true" />
      {state === 'connected' ? 'Live' : state === 'reconnecting' ? (seconds > 0 ? `Reconnecting in ${seconds} s` : 'Reconnecting') : error?.fatal ? `Stopped: ${error.message}` : phase === 'idle' ? 'Not connected' : 'Connecting'}
      {state === 'reconnecting' && <button type="button" onClick={() => client.reconnect()}>Now</button>}
    </div>
  );
}

function GapBanner() {
  const [gap, setGap] = useState<Gap | null>(null);
  useGap(setGap);
  if (!gap) return null;
  return (
    <div className="gap" role="alert">
      <span>{gap.reason === 'epoch' ? 'The gateway has a new log' : `Events ${gap.from + 1} to ${gap.to} will not come`} ({gap.reason}), so this page may be out of date.</span>
      <button type="button" onClick={() => location.reload()}>Load again</button>
    </div>
  );
}

function HealthPanel() {
  const health = useHealth();
  const state = useConnectionState();
  const client = useRealtime();
  const latencies = health?.eventLatencyMs ?? [];
  const ms = (value: number | null | undefined) => (value == null ? '–' : `${Math.round(value)} ms`);
  return (
    <section className="card health">
      <h2>Stream</h2>
      <Sparkline values={latencies} />
      <dl>
        <div><dt>Latency, median</dt><dd>{ms(health?.extra.p50)}</dd></div>
        <div><dt>95th percentile</dt><dd>{ms(health?.extra.p95)}</dd></div>
        <div><dt>Events</dt><dd>{health?.eventsReceived ?? 0}</dd></div>
        <div><dt>Disconnects</dt><dd>{health?.totalDisconnects ?? 0}</dd></div>
        <div><dt>Duplicates dropped</dt><dd>{health?.duplicatesDetected ?? 0}</dd></div>
        <div><dt>Transport</dt><dd>{health?.extra.transport ?? '–'}</dd></div>
      </dl>
      <div className="actions">
        {state === 'disconnected'
          ? <button type="button" onClick={() => client.connect()}>Connect</button>
          : <button type="button" onClick={() => client.disconnect()}>Disconnect</button>}
        <button type="button" onClick={() => fetch('/api/rush', { method: 'POST' })}>Rush of 100</button>
      </div>
    </section>
  );
}

function Sparkline({ values }: { values: readonly number[] }) {
  const top = Math.max(10, ...values);
  const points = values.map((value, index) => `${(index / Math.max(1, values.length - 1)) * 200},${38 - (value / top) * 36}`).join(' ');
  return (
    <svg className="spark" viewBox="0 0 200 40" preserveAspectRatio="none" role="img" aria-label={`Latency of the last ${values.length} events, at most ${Math.round(top)} ms`}>
      <polyline points={points} />
    </svg>
  );
}

function Happened() {
  const events = useEvents('*', { limit: 8 });
  return (
    <section className="card">
      <h2>Latest events</h2>
      <ol className="events">
        {events.toReversed().map((event) => (
          <li key={event.seq}><time>{time(event.timestamp)}</time> <code>{event.event}</code> <span>{event.key}</span></li>
        ))}
        {events.length === 0 && <li className="none">Nothing has happened since the page was loaded.</li>}
      </ol>
    </section>
  );
}
