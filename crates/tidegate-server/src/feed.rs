//! The dev feed: made-up events of an imaginary mail-order company, for `tidegate dev` and demos.
//!
//! There are six services. Most events belong to a story with an order (an order is placed, invoiced, paid,
//! packed, shipped, delivered; a ticket is opened, answered, closed). Stories run side by side, so that
//! filters, keys and gaps have something to show.
//!
//! Pure: seed and times come from the caller, and the same ones give the same events. It publishes nothing
//! itself. It is not the engine's `Feed`, which carries real events to a node.

mod company;

use std::time::Duration;

use bytes::BytesMut;
use serde_json::{Value, json};
use tidegate_protocol::{UnixMillis, time::write_rfc3339};

use self::company::{CARRIERS, CUSTOMERS, DEPOTS, GOODS, PEOPLE, SUBJECTS};

/// Most orders under way at once. At the limit, no order is placed until one has ended.
const ORDERS_MAX: usize = 40;
/// Most open tickets.
const TICKETS_MAX: usize = 16;
/// Most open leave requests and expenses.
const ASKS_MAX: usize = 8;

const DAY: UnixMillis = 86_400_000;

/// One event to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedEvent {
    /// The service.
    pub service: &'static str,
    /// What happened.
    pub event: &'static str,
    /// The key.
    pub key: String,
    /// The data, a JSON object.
    pub data: String,
}

/// Splitmix64 (Steele, Lea and Flood 2014): small, seedable, good enough for stories.
#[derive(Debug, Clone)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `low..=high`. The bias of the remainder does not matter at these sizes.
    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.roll() % (high - low + 1)
    }

    fn index(&mut self, len: usize) -> usize {
        (self.roll() % len.max(1) as u64) as usize
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.index(of.len())]
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.roll() % 100 < chance
    }
}

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
struct Order {
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

#[derive(Debug, Clone, Copy)]
enum TicketStep {
    Assign,
    Answer { left: u64 },
    Close,
    Rate,
}

#[derive(Debug, Clone)]
struct Ticket {
    number: u64,
    customer: (&'static str, &'static str, &'static str),
    subject: &'static str,
    agent: (&'static str, &'static str, &'static str),
    step: TicketStep,
}

/// A request that nobody has answered yet.
#[derive(Debug, Clone)]
enum Ask {
    Leave { number: u64, person: (&'static str, &'static str, &'static str), days: u64 },
    Expense { number: u64, person: (&'static str, &'static str, &'static str), cents: u64 },
}

/// The state of the company, as far as its events need it.
#[derive(Debug, Clone)]
pub struct Feed {
    dice: Dice,
    /// Separate dice, so that pacing does not change the stories.
    pace: Dice,
    burst_left: u64,
    orders: Vec<Order>,
    tickets: Vec<Ticket>,
    asks: Vec<Ask>,
    on_shift: [bool; PEOPLE.len()],
    stock: [u64; GOODS.len()],
    /// Reported as low and not refilled yet.
    low: [bool; GOODS.len()],
    last_number: u64,
}

impl Feed {
    /// A company at the start of its day. The same seed gives the same day.
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let pace = Dice(dice.roll());
        let last_number = 4_000 + dice.between(0, 3_000);
        Self {
            dice,
            pace,
            burst_left: 0,
            orders: Vec::new(),
            tickets: Vec::new(),
            asks: Vec::new(),
            on_shift: [false; PEOPLE.len()],
            stock: GOODS.map(|(_, _, _, full)| full / 2),
            low: [false; GOODS.len()],
            last_number,
        }
    }

    /// The next event, at time `now`.
    pub fn next(&mut self, now: UnixMillis) -> FeedEvent {
        // A low stock is reported before anything else happens.
        if let Some(good) = (0..GOODS.len()).find(|&g| !self.low[g] && self.stock[g] * 5 < GOODS[g].3) {
            return self.run_low(good);
        }
        match self.dice.between(0, 99) {
            0..=54 if !self.orders.is_empty() => self.advance_order(now),
            0..=67 if self.orders.len() < ORDERS_MAX => self.place_order(now),
            0..=81 if !self.tickets.is_empty() => self.advance_ticket(),
            0..=86 if self.tickets.len() < TICKETS_MAX => self.open_ticket(),
            0..=91 if self.low.contains(&true) => self.refill(),
            0..=95 => self.change_shift(),
            _ => self.ask_or_answer(now),
        }
    }

    /// The delay before the next event: about three events a second, with lulls and rushes.
    pub fn next_delay(&mut self) -> Duration {
        if self.burst_left > 0 {
            self.burst_left -= 1;
            return Duration::from_millis(self.pace.between(2, 60));
        }
        if self.pace.percent(8) {
            self.burst_left = self.pace.between(6, 20);
        }
        Duration::from_millis(self.pace.between(80, 1_200))
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn place_order(&mut self, now: UnixMillis) -> FeedEvent {
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
        let told = event(
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
        told
    }

    fn advance_order(&mut self, now: UnixMillis) -> FeedEvent {
        let which = self.dice.index(self.orders.len());
        let order = self.orders[which].clone();
        let (key, invoice, parcel) = (order.key(), order.invoice(), order.parcel());
        let (told, next) = match order.step {
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
        told
    }

    fn open_ticket(&mut self) -> FeedEvent {
        let ticket = Ticket {
            number: self.number(),
            customer: self.dice.pick(&CUSTOMERS),
            subject: self.dice.pick(&SUBJECTS),
            agent: self.agent(),
            step: TicketStep::Assign,
        };
        let told = event(
            "support",
            "ticket.opened",
            format!("T-{}", ticket.number),
            json!({
                "ticket": format!("T-{}", ticket.number),
                "customer": customer(ticket.customer),
                "subject": ticket.subject,
                "priority": self.dice.pick(&["low", "normal", "normal", "high"]),
            }),
        );
        self.tickets.push(ticket);
        told
    }

    fn advance_ticket(&mut self) -> FeedEvent {
        let which = self.dice.index(self.tickets.len());
        let ticket = self.tickets[which].clone();
        let key = format!("T-{}", ticket.number);
        let (name, mut data, next) = match ticket.step {
            TicketStep::Assign => (
                "ticket.assigned",
                json!({ "agent": ticket.agent.1 }),
                Some(TicketStep::Answer { left: self.dice.between(1, 3) }),
            ),
            TicketStep::Answer { left } => (
                "ticket.answered",
                json!({ "agent": ticket.agent.1, "subject": ticket.subject, "waited_minutes": self.dice.between(2, 95) }),
                Some(if left > 1 { TicketStep::Answer { left: left - 1 } } else { TicketStep::Close }),
            ),
            TicketStep::Close => (
                "ticket.closed",
                json!({ "agent": ticket.agent.1, "resolution": self.dice.pick(&["solved", "solved", "replaced", "refunded"]) }),
                self.dice.percent(40).then_some(TicketStep::Rate),
            ),
            TicketStep::Rate => (
                "ticket.rated",
                json!({ "stars": self.dice.between(2, 5), "customer": ticket.customer.1 }),
                None,
            ),
        };
        data["ticket"] = json!(key);
        match next {
            Some(step) => self.tickets[which].step = step,
            None => drop(self.tickets.swap_remove(which)),
        }
        event("support", name, key, data)
    }

    fn run_low(&mut self, good: usize) -> FeedEvent {
        self.low[good] = true;
        let (sku, name, _, full) = GOODS[good];
        let data = json!({ "sku": sku, "name": name, "left": self.stock[good], "reorder_at": full / 5 });
        event("inventory", "stock.low", sku.to_owned(), data)
    }

    fn refill(&mut self) -> FeedEvent {
        let good = self.low.iter().position(|low| *low).unwrap_or_default();
        self.low[good] = false;
        let (sku, name, _, full) = GOODS[good];
        let came = full - self.stock[good];
        self.stock[good] = full;
        let data = json!({ "sku": sku, "name": name, "received": came, "left": full, "depot": self.dice.pick(&DEPOTS) });
        event("inventory", "stock.received", sku.to_owned(), data)
    }

    fn change_shift(&mut self) -> FeedEvent {
        let who = self.dice.index(PEOPLE.len());
        let (id, name, team) = PEOPLE[who];
        self.on_shift[who] = !self.on_shift[who];
        let on_shift = self.on_shift.iter().filter(|on| **on).count();
        let told = if self.on_shift[who] { "shift.started" } else { "shift.ended" };
        let data = json!({ "employee": id, "name": name, "team": team, "on_shift": on_shift });
        event("staff", told, id.to_owned(), data)
    }

    fn ask_or_answer(&mut self, now: UnixMillis) -> FeedEvent {
        if !self.asks.is_empty() && (self.asks.len() >= ASKS_MAX || self.dice.percent(50)) {
            let approved_by = self.dice.pick(&PEOPLE).1;
            return match self.asks.swap_remove(0) {
                Ask::Leave { number, person, days } => event(
                    "staff",
                    "leave.approved",
                    format!("L-{number}"),
                    json!({ "leave": format!("L-{number}"), "name": person.1, "days": days, "approved_by": approved_by }),
                ),
                Ask::Expense { number, person, cents } => event(
                    "finance",
                    "expense.approved",
                    format!("X-{number}"),
                    json!({ "expense": format!("X-{number}"), "name": person.1, "amount": money(cents), "approved_by": approved_by }),
                ),
            };
        }
        let (number, person) = (self.number(), self.dice.pick(&PEOPLE));
        if self.dice.percent(50) {
            let days = self.dice.between(1, 10);
            self.asks.push(Ask::Leave { number, person, days });
            let from = at(now + self.dice.between(7, 60) * DAY);
            let data = json!({ "leave": format!("L-{number}"), "employee": person.0, "name": person.1, "days": days, "from": from });
            event("staff", "leave.requested", format!("L-{number}"), data)
        } else {
            let cents = self.dice.between(850, 24_000);
            self.asks.push(Ask::Expense { number, person, cents });
            let what = self.dice.pick(&["train", "hotel", "tools", "lunch", "safety_gear"]);
            let data = json!({ "expense": format!("X-{number}"), "name": person.1, "amount": money(cents), "category": what });
            event("finance", "expense.filed", format!("X-{number}"), data)
        }
    }

    fn agent(&mut self) -> (&'static str, &'static str, &'static str) {
        let agents = PEOPLE.map(|person| (person.2 == "support").then_some(person));
        let agents: Vec<_> = agents.into_iter().flatten().collect();
        self.dice.pick(&agents)
    }
}

fn event(service: &'static str, event: &'static str, key: String, data: Value) -> FeedEvent {
    FeedEvent { service, event, key, data: data.to_string() }
}

fn customer((id, name, country): (&str, &str, &str)) -> Value {
    json!({ "id": id, "name": name, "country": country })
}

fn money(cents: u64) -> Value {
    json!({ "value": format!("{}.{:02}", cents / 100, cents % 100), "currency": "EUR" })
}

fn at(millis: UnixMillis) -> String {
    let mut text = BytesMut::new();
    write_rfc3339(&mut text, millis);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests;
