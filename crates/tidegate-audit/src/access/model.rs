//! The model of access: who may see what. It is complete and uses nothing of the gateway; every transport
//! must behave as it says.

use std::collections::BTreeSet;

/// An event of an org's log. If it is targeted, `users` are those who may see it.
pub struct Event {
    pub seq: u64,
    pub service: &'static str,
    pub users: Option<Vec<&'static str>>,
}

/// The content of a valid token; `*` among its services means all services.
pub struct Grant {
    pub org: &'static str,
    pub user: &'static str,
    pub services: &'static [&'static str],
}

/// The requested start.
pub enum Start {
    Head,
    Oldest,
    Tail(usize),
    Faulty,
    Cursor { of: &'static str, seq: u64, made_for: Option<Vec<&'static str>> },
}

/// A request with a token. `services` are those named in the query, if any.
pub struct Try<'a> {
    pub grant: Option<&'a Grant>,
    pub org: &'static str,
    pub services: Option<Vec<&'static str>>,
    pub start: Start,
}

/// The required result: a refusal with one of these codes, or exactly these events after these gaps.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    Refused(Vec<&'static str>),
    Sees { seqs: Vec<u64>, gaps: Vec<&'static str> },
}

/// The rule. `log` is the log of the requested org in order, in its first epoch, and `head` is its end.
pub fn verdict(tried: &Try<'_>, log: &[Event], head: u64) -> Verdict {
    let mut refused = Vec::new();
    let is_name = |name: &&str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let may = |service: &str, list: &[&str]| list.contains(&"*") || list.contains(&service);
    let (user, granted) = tried.grant.map_or(("", &[][..]), |grant| (grant.user, grant.services));
    let named = tried.services.as_ref().filter(|names| !matches!(names.as_slice(), [""] | ["*"]));
    // A valid token is required; it opens only its own org, and of that only the services that it lists.
    if tried.grant.is_none() {
        refused.push("unauthorized");
    }
    if tried.grant.is_some_and(|grant| grant.org != tried.org) {
        refused.push("forbidden");
    }
    if named.is_some_and(|names| !names.iter().all(|name| may(name, granted))) {
        refused.push("forbidden");
    }
    let is_faulty = matches!(tried.start, Start::Faulty) || !is_name(&tried.org);
    if is_faulty || named.is_some_and(|names| !names.iter().all(is_name)) {
        refused.push("bad_request");
    }
    if !refused.is_empty() {
        return Verdict::Refused(refused);
    }
    // A request for fewer services shows fewer; a user who is not among an event's users does not see it.
    let shown = named.map_or(granted, Vec::as_slice);
    let is_for = |event: &Event| event.users.as_ref().is_none_or(|users| users.contains(&user));
    let visible = log.iter().filter(|event| may(event.service, shown) && is_for(event));
    let visible: Vec<u64> = visible.map(|event| event.seq).collect();
    let set = |list: &[&'static str]| list.iter().copied().collect::<BTreeSet<_>>();
    let mut gaps = Vec::new();
    let after = match &tried.start {
        Start::Head | Start::Tail(0) | Start::Faulty => head,
        Start::Oldest => 0,
        Start::Tail(count) => visible.iter().rev().nth(*count).copied().unwrap_or(0),
        Start::Cursor { of, seq, made_for } => {
            // A cursor is a position, not a permission. A cursor of another org has no position in this log,
            // so the stream starts at the beginning.
            if made_for.as_ref().is_some_and(|other| set(other) != set(shown)) {
                gaps.push("filter");
            }
            if *of != tried.org || *seq > head {
                gaps.push("epoch");
            }
            if *of == tried.org { head.min(*seq) } else { 0 }
        }
    };
    Verdict::Sees { seqs: visible.into_iter().filter(|seq| *seq > after).collect(), gaps }
}
