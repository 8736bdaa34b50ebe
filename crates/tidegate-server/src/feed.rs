//! The dev feed: made-up events of an imaginary mail-order company, for `tidegate dev` and demos.
//!
//! There are six services. Most events belong to a story with an order (an order is placed, invoiced, paid,
//! packed, shipped, delivered; a ticket is opened, answered, closed). Stories run side by side, so that
//! filters, keys and gaps have something to show.
//!
//! Pure: seed and times come from the caller, and the same ones give the same events. It publishes nothing
//! itself. It is not the engine's `DevFeed`, which carries real events to a node.

mod company;
mod dice;
mod orders;
mod tickets;

use std::time::Duration;

use bytes::BytesMut;
use serde_json::{Value, json};
use tidegate_protocol::{UnixMillis, time::write_rfc3339};

use self::{
    company::{DEPOTS, GOODS, PEOPLE},
    dice::Dice,
    orders::{ORDERS_MAX, Order},
    tickets::{TICKETS_MAX, Ticket},
};

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

/// A request that nobody has answered yet.
#[derive(Debug, Clone)]
enum Ask {
    Leave { number: u64, person: (&'static str, &'static str, &'static str), days: u64 },
    Expense { number: u64, person: (&'static str, &'static str, &'static str), cents: u64 },
}

/// The state of the company, as far as its events need it.
#[derive(Debug, Clone)]
pub struct DevFeed {
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

impl DevFeed {
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
        let happened = if self.on_shift[who] { "shift.started" } else { "shift.ended" };
        let data = json!({ "employee": id, "name": name, "team": team, "on_shift": on_shift });
        event("staff", happened, id.to_owned(), data)
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
