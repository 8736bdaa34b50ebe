//! The story of a support ticket: opened, answered, closed, perhaps rated.

use serde_json::json;

use super::{
    DevFeed, FeedEvent,
    company::{CUSTOMERS, PEOPLE, SUBJECTS},
    customer, event,
};

/// Most open tickets.
pub(super) const TICKETS_MAX: usize = 16;

#[derive(Debug, Clone, Copy)]
enum TicketStep {
    Assign,
    Answer { left: u64 },
    Close,
    Rate,
}

#[derive(Debug, Clone)]
pub(super) struct Ticket {
    number: u64,
    customer: (&'static str, &'static str, &'static str),
    subject: &'static str,
    agent: (&'static str, &'static str, &'static str),
    step: TicketStep,
}

impl DevFeed {
    pub(super) fn open_ticket(&mut self) -> FeedEvent {
        let ticket = Ticket {
            number: self.number(),
            customer: self.dice.pick(&CUSTOMERS),
            subject: self.dice.pick(&SUBJECTS),
            agent: self.agent(),
            step: TicketStep::Assign,
        };
        let opened = event(
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
        opened
    }

    pub(super) fn advance_ticket(&mut self) -> FeedEvent {
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

    fn agent(&mut self) -> (&'static str, &'static str, &'static str) {
        let agents = PEOPLE.map(|person| (person.2 == "support").then_some(person));
        let agents: Vec<_> = agents.into_iter().flatten().collect();
        self.dice.pick(&agents)
    }
}
