//! Who may see what. All of it: nothing of the gateway stands behind these lines, and what they say,
//! every transport must do.

use std::collections::BTreeSet;

/// An event of an org's log; `users` where it is meant for some alone.
pub struct Event {
    pub seq: u64,
    pub service: &'static str,
    pub users: Option<Vec<&'static str>>,
}

/// What a token that is genuine and in time says; `*` among its services is all.
pub struct Grant {
    pub org: &'static str,
    pub user: &'static str,
    pub services: &'static [&'static str],
}

/// Where somebody asks to start.
pub enum Start {
    Head,
    Oldest,
    Tail(usize),
    Faulty,
    Cursor { of: &'static str, seq: u64, made_for: Option<Vec<&'static str>> },
}

/// What somebody asks for, with which token. `services`: those named in the address, if any are.
pub struct Try<'a> {
    pub grant: Option<&'a Grant>,
    pub org: &'static str,
    pub services: Option<Vec<&'static str>>,
    pub start: Start,
}

/// What must come of it: one of these codes, or these events behind these gaps, and no other.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    Refused(Vec<&'static str>),
    Sees { seqs: Vec<u64>, gaps: Vec<&'static str> },
}

/// The rule. `log` is that of the org asked for, in order, in its first life, and `head` its end.
pub fn verdict(tried: &Try<'_>, log: &[Event], head: u64) -> Verdict {
    let mut refused = Vec::new();
    let is_name = |name: &&str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let may = |service: &str, list: &[&str]| list.contains(&"*") || list.contains(&service);
    let (user, granted) = tried.grant.map_or(("", &[][..]), |grant| (grant.user, grant.services));
    let named = tried.services.as_ref().filter(|names| !matches!(names.as_slice(), [""] | ["*"]));
    // Only a genuine token opens anything, only its own org, and of that only the services it lists.
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
    // Asking for fewer services shows fewer; who is not among an event's users does not see it.
    let shown = named.map_or(granted, Vec::as_slice);
    let is_for = |event: &Event| event.users.as_ref().is_none_or(|users| users.contains(&user));
    let visible = log.iter().filter(|event| may(event.service, shown) && is_for(event));
    let visible: Vec<u64> = visible.map(|event| event.seq).collect();
    let set = |list: &[&'static str]| list.iter().copied().collect::<BTreeSet<_>>();
    let mut gaps = Vec::new();
    let behind = match &tried.start {
        Start::Head | Start::Tail(0) | Start::Faulty => head,
        Start::Oldest => 0,
        Start::Tail(count) => visible.iter().rev().nth(*count).copied().unwrap_or(0),
        Start::Cursor { of, seq, made_for } => {
            // A cursor is a place and no right: of another org it is of no place here, so all is behind it.
            if made_for.as_ref().is_some_and(|other| set(other) != set(shown)) {
                gaps.push("filter");
            }
            if *of != tried.org || *seq > head {
                gaps.push("epoch");
            }
            if *of == tried.org { head.min(*seq) } else { 0 }
        }
    };
    Verdict::Sees { seqs: visible.into_iter().filter(|seq| *seq > behind).collect(), gaps }
}
