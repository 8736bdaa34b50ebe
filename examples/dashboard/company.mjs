// The imaginary company: its invoices and orders, and what happens to them. Each change is an event.

const CUSTOMERS = ['Harbour Hotel', 'Lindqvist & Daughters', 'Atelier Moreau', 'Brennan Boatyard', 'Nordlys Kajakk', 'Priya Raman', 'Kanaal Café', 'Sofía Herrera'];
const GOODS = [['Kelp noodles', 1450], ['Sea salt, smoked', 900], ['Dulse flakes', 1225], ['Nori sheets', 780], ['Samphire, fresh', 640]];
const CARRIERS = ['Tideline', 'Parcel North', 'Cargo Vélo'];
const KEPT = 60;

const pick = (list) => list[Math.floor(Math.random() * list.length)];

export class Company {
  invoices = new Map(); // number -> { invoice, customer, cents, status, at }
  orders = new Map(); // number -> { order, customer, goods, status, at }
  #number = 1000 + Math.floor(Date.now() / 1000) % 100_000;

  /** What is there now, newest first. */
  state() {
    const newest = (map) => [...map.values()].reverse();
    return { invoices: newest(this.invoices), orders: newest(this.orders) };
  }

  /** Something happens: an order with its invoice, a payment or a shipment. Returns its events. */
  next() {
    const open = [...this.invoices.values()].filter(({ status }) => status === 'open');
    const packed = [...this.orders.values()].filter(({ status }) => status === 'paid');
    if (packed.length > 0 && Math.random() < 0.3) return this.ship(packed[0].order);
    if (open.length > 3 && Math.random() < 0.5) return this.pay(pick(open).invoice);
    return this.order();
  }

  order() {
    const number = (this.#number += 1);
    const [goods, price] = pick(GOODS);
    const quantity = 1 + Math.floor(Math.random() * 12);
    const customer = pick(CUSTOMERS);
    const at = new Date().toISOString();
    const order = { order: `ORD-${number}`, customer, goods: `${quantity} × ${goods}`, status: 'placed', at };
    const invoice = { invoice: `INV-${number}`, order: order.order, customer, cents: quantity * price, status: 'open', at };
    this.#keep(this.orders, order.order, order);
    this.#keep(this.invoices, invoice.invoice, invoice);
    return [
      { service: 'fulfilment', event: 'order.placed', key: order.order, data: { ...order } },
      { service: 'billing', event: 'invoice.issued', key: invoice.invoice, data: { ...invoice } },
    ];
  }

  /** Null if there is no such open invoice. */
  pay(number) {
    const invoice = this.invoices.get(number);
    if (invoice?.status !== 'open') return null;
    invoice.status = 'paid';
    const order = this.orders.get(invoice.order);
    if (order) order.status = 'paid';
    const method = pick(['card', 'SEPA', 'iDEAL']);
    return [{ service: 'billing', event: 'invoice.paid', key: number, data: { invoice: number, order: invoice.order, cents: invoice.cents, method } }];
  }

  ship(number) {
    const order = this.orders.get(number);
    order.status = 'shipped';
    return [{ service: 'fulfilment', event: 'order.shipped', key: number, data: { order: number, carrier: pick(CARRIERS) } }];
  }

  #keep(map, key, value) {
    map.set(key, value);
    if (map.size > KEPT) map.delete(map.keys().next().value);
  }
}
