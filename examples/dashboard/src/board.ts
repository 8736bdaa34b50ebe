// What the page shows, and what each event changes in it. An event that is applied twice changes nothing.
import type { StreamEvent } from '@tidegate/client';

import type { Invoice, Order } from './events';

export interface Board { invoices: Invoice[]; orders: Order[]; paidCents: number }

const ROWS_MAX = 60;

const put = <T extends object>(list: T[], is: (item: T) => boolean, fresh: T) =>
  list.some(is) ? list : [fresh, ...list].slice(0, ROWS_MAX);
const change = <T extends object>(list: T[], is: (item: T) => boolean, fields: Partial<T>) =>
  list.map((item) => (is(item) ? { ...item, ...fields } : item));

export function apply(board: Board, { event, data }: StreamEvent): Board {
  switch (event) {
    case 'invoice.issued':
      return { ...board, invoices: put(board.invoices, ({ invoice }) => invoice === data.invoice, data) };
    case 'order.placed':
      return { ...board, orders: put(board.orders, ({ order }) => order === data.order, data) };
    case 'invoice.paid': {
      const isPaid = board.invoices.some(({ invoice, status }) => invoice === data.invoice && status === 'paid');
      return {
        invoices: change(board.invoices, ({ invoice }) => invoice === data.invoice, { status: 'paid' }),
        orders: change(board.orders, ({ order, status }) => order === data.order && status === 'placed', { status: 'paid' }),
        paidCents: board.paidCents + (isPaid ? 0 : data.cents),
      };
    }
    case 'order.shipped':
      return { ...board, orders: change(board.orders, ({ order }) => order === data.order, { status: 'shipped' }) };
    default:
      return board;
  }
}
