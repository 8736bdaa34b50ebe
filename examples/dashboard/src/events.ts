// What the back-end publishes. The client's handlers are typed by this.

export interface Invoice { invoice: string; order: string; customer: string; cents: number; status: 'open' | 'paid'; at: string }
export interface Order { order: string; customer: string; goods: string; status: 'placed' | 'paid' | 'shipped'; at: string }

declare module '@tidegate/client' {
  interface Register {
    events: {
      'invoice.issued': Invoice;
      'invoice.paid': { invoice: string; order: string; cents: number; method: string };
      'order.placed': Order;
      'order.shipped': { order: string; carrier: string };
    };
  }
}
