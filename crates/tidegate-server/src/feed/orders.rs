//! The story of an order: placed, invoiced, paid, packed, shipped, delivered.

use serde_json::json;
use tidegate_protocol::UnixMillis;

use super::{
    DAY, DevFeed, FeedEvent, at,
    company::{CARRIERS, CUSTOMERS, DEPOTS, GOODS, PEOPLE},
    customer, event, money,
};

/// Most orders under way at once. At the limit, no order is placed until one has ended.
pub(super) const ORDERS_MAX: usize = 40;

/// The next step of an order.
#[derive(Debug, Clone, Copy)]
enum OrderStep {
    Invoice,
    Payment { tries: u64 },
    Paid,
    Reserve,
    Pack,
    Ship,
    Shipped,
    Scan { left: u64 },
    Delivered,
    Refund,
}

#[derive(Debug, Clone)]
pub(super) struct Order {
    number: u64,
    customer: (&'static str, &'static str, &'static str),
    good: usize,
    quantity: u64,
    cents: u64,
    carrier: &'static str,
    step: OrderStep,
}

impl Order {
    fn key(&self) -> String {
        format!("ORD-{}", self.number)
    }

    fn invoice(&self) -> String {
        format!("INV-{}", 20_000 + self.number)
    }

    fn parcel(&self) -> String {
        format!("PX{:09}", self.number * 7_919 % 1_000_000_000)
    }
}

impl DevFeed {
    pub(super) fn place_order(&mut self, now: UnixMillis) -> FeedEvent {
        let good = self.dice.index(GOODS.len());
        let (sku, name, price, full) = GOODS[good];
        let quantity = self.dice.between(1, (full / 12).clamp(1, 6));
        let order = Order {
            number: self.number(),
            customer: self.dice.pick(&CUSTOMERS),
            good,
            quantity,
            cents: price * quantity,
            carrier: self.dice.pick(&CARRIERS),
            step: OrderStep::Invoice,
        };
        let placed = event(
            "orders",
            "order.placed",
            order.key(),
            json!({
                "order": order.key(),
                "customer": customer(order.customer),
                "lines": [{ "sku": sku, "name": name, "quantity": quantity, "price": money(price) }],
                "total": money(order.cents),
                "channel": self.dice.pick(&["web", "web", "phone", "shop"]),
                "placed_at": at(now),
            }),
        );
        self.orders.push(order);
        placed
    }

    pub(super) fn advance_order(&mut self, now: UnixMillis) -> FeedEvent {
        let which = self.dice.index(self.orders.len());
        let order = self.orders[which].clone();
        let (key, invoice, parcel) = (order.key(), order.invoice(), order.parcel());
        let (happened, next) = match order.step {
            OrderStep::Invoice if self.dice.percent(5) => (
                event(
                    "orders",
                    "order.cancelled",
                    key.clone(),
                    json!({ "order": key, "reason": "customer_request" }),
                ),
                None,
            ),
            OrderStep::Invoice => (
                event(
                    "finance",
                    "invoice.issued",
                    invoice.clone(),
                    json!({ "invoice": invoice, "order": key, "amount": money(order.cents), "due_at": at(now + 14 * DAY) }),
                ),
                Some(OrderStep::Payment { tries: 1 }),
            ),
            OrderStep::Payment { tries } if tries < 3 && self.dice.percent(12) => (
                event(
                    "finance",
                    "payment.failed",
                    invoice.clone(),
                    json!({
                        "invoice": invoice,
                        "attempt": tries,
                        "reason": self.dice.pick(&["card_declined", "insufficient_funds", "bank_timeout"]),
                    }),
                ),
                Some(OrderStep::Payment { tries: tries + 1 }),
            ),
            OrderStep::Payment { tries } => (
                event(
                    "finance",
                    "payment.received",
                    invoice.clone(),
                    json!({
                        "invoice": invoice,
                        "amount": money(order.cents),
                        "attempt": tries,
                        "method": self.dice.pick(&["card", "sepa", "ideal", "wallet"]),
                    }),
                ),
                Some(OrderStep::Paid),
            ),
            OrderStep::Paid => (
                event("orders", "order.paid", key.clone(), json!({ "order": key, "invoice": invoice })),
                Some(OrderStep::Reserve),
            ),
            OrderStep::Reserve => {
                let left = &mut self.stock[order.good];
                *left = left.saturating_sub(order.quantity);
                let sku = GOODS[order.good].0;
                (
                    event(
                        "inventory",
                        "stock.reserved",
                        sku.to_owned(),
                        json!({ "sku": sku, "quantity": order.quantity, "left": *left, "order": key }),
                    ),
                    Some(OrderStep::Pack),
                )
            }
            OrderStep::Pack => (
                event(
                    "orders",
                    "order.packed",
                    key.clone(),
                    json!({ "order": key, "packed_by": self.dice.pick(&PEOPLE).1, "weight_g": self.dice.between(180, 4_800) }),
                ),
                Some(OrderStep::Ship),
            ),
            OrderStep::Ship => (
                event(
                    "shipping",
                    "shipment.created",
                    parcel.clone(),
                    json!({
                        "parcel": parcel,
                        "order": key,
                        "carrier": order.carrier,
                        "destination": order.customer.2,
                        "expected_at": at(now + self.dice.between(1, 5) * DAY),
                    }),
                ),
                Some(OrderStep::Shipped),
            ),
            OrderStep::Shipped => (
                event(
                    "orders",
                    "order.shipped",
                    key.clone(),
                    json!({ "order": key, "parcel": parcel, "carrier": order.carrier }),
                ),
                Some(OrderStep::Scan { left: self.dice.between(0, 3) }),
            ),
            OrderStep::Scan { left } if left > 0 => (
                event(
                    "shipping",
                    "parcel.scanned",
                    parcel.clone(),
                    json!({ "parcel": parcel, "depot": self.dice.pick(&DEPOTS), "scanned_at": at(now) }),
                ),
                Some(OrderStep::Scan { left: left - 1 }),
            ),
            OrderStep::Scan { .. } => (
                event(
                    "shipping",
                    "parcel.delivered",
                    parcel.clone(),
                    json!({
                        "parcel": parcel,
                        "signed_by": order.customer.1,
                        "left_at": self.dice.pick(&["door", "neighbour", "parcel_box", "reception"]),
                    }),
                ),
                Some(OrderStep::Delivered),
            ),
            OrderStep::Delivered => (
                event(
                    "orders",
                    "order.delivered",
                    key.clone(),
                    json!({ "order": key, "delivered_at": at(now) }),
                ),
                self.dice.percent(6).then_some(OrderStep::Refund),
            ),
            OrderStep::Refund => (
                event(
                    "finance",
                    "refund.issued",
                    invoice.clone(),
                    json!({ "invoice": invoice, "order": key, "amount": money(order.cents), "reason": "returned" }),
                ),
                None,
            ),
        };
        match next {
            Some(step) => self.orders[which].step = step,
            None => drop(self.orders.swap_remove(which)),
        }
        happened
    }
}
