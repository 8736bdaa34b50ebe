use std::net::Ipv4Addr;

use tidegate_protocol::{Filter, UnixMillis};

use super::*;
use crate::{config::Config, transport::Transport};

const WIDE: ConnectionLimits = ConnectionLimits {
    total: 1 << 20,
    per_org: 1 << 20,
    per_user: 1 << 20,
    user_policy: UserPolicy::RejectNew,
    per_address: 1 << 20,
    handshakes_per_second: 1 << 30,
};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const NOW: UnixMillis = 1_795_512_600_000;

fn admission(limits: ConnectionLimits) -> Arc<Admission> {
    let config = Config::for_tests(&[]).expect("a configuration");
    Admission::new(limits, Arc::new(Quotas::new(&config)), Epoch::from_random(7))
}

fn org(name: &str) -> OrgId {
    OrgId::parse(name).expect("a name")
}

fn user(name: &str) -> UserId {
    UserId::parse(name).expect("a user")
}

/// An admitted connection and its slot.
struct In {
    slot: Slot,
    connection: Arc<Connection>,
}

fn enter_as(
    admission: &Arc<Admission>,
    (org_name, user_name): (&str, &str),
    replaces: Option<&ConnectionId>,
) -> Result<In, Refusal> {
    let (org, user) = (org(org_name), user(user_name));
    let mut slot = admission.admit(HERE)?;
    let arrival = Arrival {
        org: &org,
        user: &user,
        filter: &Filter::all(),
        expires_at: NOW + 1000,
        transport: Transport::WebSocket,
        now: NOW,
        replaces,
    };
    let connection = slot.enter(&arrival)?;
    Ok(In { slot, connection })
}

fn enter(admission: &Arc<Admission>, user: &str) -> Result<In, Refusal> {
    enter_as(admission, ("acme", user), None)
}

fn held(admission: &Admission) -> (usize, usize) {
    let slots = admission.slots_held();
    (slots.orgs, slots.users)
}

fn is_evicted(connection: &Connection) -> bool {
    connection.ending().is_some_and(|refusal| refusal.code == Code::Evicted)
}

#[test]
fn each_bound_refuses_by_its_name_and_gives_slots_back() {
    for (limits, name) in [
        (ConnectionLimits { total: 2, ..WIDE }, "limits.connections"),
        (ConnectionLimits { per_address: 2, ..WIDE }, "limits.connections_per_address"),
        (ConnectionLimits { per_org: 2, ..WIDE }, "limits.connections_per_org"),
        (ConnectionLimits { per_user: 2, ..WIDE }, "limits.connections_per_user"),
        (ConnectionLimits { handshakes_per_second: 2, ..WIDE }, "limits.handshakes_per_second"),
    ] {
        let admission = admission(limits);
        let slots = (enter(&admission, "u").expect("first"), enter(&admission, "u").expect("second"));
        let refusal = enter(&admission, "u").map(|_| ()).expect_err(name);
        assert_eq!(refusal.limit, Some(name));
        assert!(refusal.retry_in_ms.is_some_and(|millis| millis > 0), "{refusal:?}");
        drop(slots);
        assert!(admission.is_idle(), "{name}");
        assert_eq!(admission.slots_held(), SlotsHeld::default(), "{name}");
        if name != "limits.handshakes_per_second" {
            assert!(enter(&admission, "u").is_ok(), "{name}");
        }
    }
}

#[test]
fn who_is_refused_for_another_bound_takes_nothing_of_the_rate() {
    let elsewhere = "192.0.2.1".parse().expect("an address");
    let one_each = ConnectionLimits { per_address: 1, handshakes_per_second: 2, ..WIDE };
    let one_in_all = ConnectionLimits { total: 1, handshakes_per_second: 2, ..WIDE };
    for (limits, limit) in [(one_each, "limits.connections_per_address"), (one_in_all, "limits.connections")]
    {
        let admission = admission(limits);
        let held = admission.admit(HERE).expect("room");
        for _ in 0..100 {
            assert_eq!(admission.admit(HERE).expect_err("over it").limit, Some(limit));
        }
        drop(held);
        admission.admit(elsewhere).expect("the rate is left to others");
    }
}

#[test]
fn who_comes_too_fast_holds_no_place() {
    let admission = admission(ConnectionLimits { handshakes_per_second: 1, ..WIDE });
    drop(admission.admit(HERE).expect("within the rate"));
    let refusal = (0..1000).find_map(|_| admission.admit(HERE).err()).expect("over the rate");
    assert_eq!(refusal.limit, Some("limits.handshakes_per_second"));
    assert!(admission.is_idle(), "{:?}", admission.slots_held());
}

#[test]
fn limits_that_are_set_hold_for_those_who_come_later() {
    let admission = admission(WIDE);
    let kept: Vec<In> = (0..3).map(|_| enter(&admission, "u").expect("room")).collect();
    admission.set_limits(ConnectionLimits { per_user: 2, ..WIDE });
    let refusal = enter(&admission, "u").map(|_| ()).expect_err("fewer than there are");
    assert_eq!(refusal.limit, Some("limits.connections_per_user"));
    assert!(kept.iter().all(|of| of.connection.ending().is_none()), "who is in stays");
    admission.set_limits(ConnectionLimits { per_user: 2, user_policy: UserPolicy::EvictOldest, ..WIDE });
    let _newest = enter(&admission, "u").expect("in the place of others");
    let evicted: Vec<bool> = kept.iter().map(|of| is_evicted(&of.connection)).collect();
    assert_eq!(evicted, [true, true, false], "as many as it takes, the oldest first");
    assert_eq!(held(&admission), (2, 2));
    drop(kept);
    assert_eq!(held(&admission), (1, 1));
}

#[test]
fn r20_the_oldest_makes_way_for_the_newest_and_nobody_elses_does() {
    let limits = ConnectionLimits { per_user: 2, per_org: 4, user_policy: UserPolicy::EvictOldest, ..WIDE };
    let admission = admission(limits);
    let other = enter(&admission, "v").expect("room");
    let elsewhere = enter_as(&admission, ("other", "u"), None).expect("room");
    let (first, second) = (enter(&admission, "u").expect("room"), enter(&admission, "u").expect("room"));
    let third = enter(&admission, "u").expect("in the place of the first");
    assert!(is_evicted(&first.connection));
    for stays in [&other, &elsewhere, &second, &third] {
        assert!(stays.connection.ending().is_none());
    }
    assert_eq!(
        admission.slots_held(),
        SlotsHeld { streams: 5, addresses: 1, orgs: 4, users: 4, registered: 5 }
    );
    // Closed late, it gives nothing back for a second time.
    drop(first);
    assert_eq!(held(&admission), (4, 4));
    let full = enter_as(&admission, ("acme", "w"), None).expect("a fourth");
    let refusal = enter(&admission, "x").map(|_| ()).expect_err("the org is full");
    assert_eq!(refusal.limit, Some("limits.connections_per_org"));
    assert!(second.connection.ending().is_none(), "nobody goes for one that is refused");
    // One that makes its own room in a full org is let in.
    let fourth = enter(&admission, "u").expect("in the place of the second");
    assert!(is_evicted(&second.connection));
    drop((other, elsewhere, second, third, full, fourth));
    assert!(admission.is_idle());
}

#[test]
fn r20_the_connection_that_is_named_makes_way_whatever_the_policy() {
    let admission = admission(ConnectionLimits { per_user: 1, per_org: 2, ..WIDE });
    let old = enter(&admission, "u").expect("room");
    let id = admission.id_of(&old.connection);
    let stranger = enter(&admission, "v").expect("room");
    // Unknown, another user's, another org's, of another start: as if none had been named.
    let unknown = ConnectionId { number: 99, ..id.clone() };
    let elsewhere = ConnectionId { start: Epoch::from_random(8), ..id.clone() };
    for named in [&unknown, &elsewhere, &admission.id_of(&stranger.connection)] {
        let refusal = enter_as(&admission, ("acme", "u"), Some(named)).map(|_| ()).expect_err("no room");
        assert_eq!(refusal.limit, Some("limits.connections_per_user"));
    }
    drop(stranger);
    let stranger = enter_as(&admission, ("acme", "v"), Some(&id)).expect("the place of v");
    let other_org = enter_as(&admission, ("other", "u"), Some(&id)).expect("room there");
    assert!(old.connection.ending().is_none() && stranger.connection.ending().is_none());

    let new = enter_as(&admission, ("acme", "u"), Some(&id)).expect("in its place");
    assert!(is_evicted(&old.connection));
    assert_eq!(held(&admission), (3, 3));
    // Named again while it is still closing: it frees nothing any more.
    let refusal = enter_as(&admission, ("acme", "u"), Some(&id)).map(|_| ()).expect_err("no room");
    assert_eq!(refusal.limit, Some("limits.connections_per_user"));
    drop((old, new, stranger, other_org));
    assert!(admission.is_idle());
}

#[test]
fn r20_one_that_was_asked_to_leave_is_not_counted() {
    let admission = admission(ConnectionLimits { per_user: 1, per_org: 1, ..WIDE });
    let leaving = enter(&admission, "u").expect("room");
    leaving.slot.release();
    leaving.slot.release();
    let back = enter(&admission, "u").expect("its place");
    assert_eq!(held(&admission), (1, 1));
    drop(leaving);
    assert_eq!(held(&admission), (1, 1));
    drop(back);
    assert!(admission.is_idle());
}

#[test]
fn the_registry_lists_in_the_order_of_arrival_and_ends_by_name() {
    let admission = admission(WIDE);
    let ins: Vec<In> =
        (0..5).map(|n| enter(&admission, if n % 2 == 0 { "u" } else { "v" }).expect("room")).collect();
    let numbers = |whose: Whose<'_>, after: Option<&ConnectionId>, max| {
        let found = admission.list(&org("acme"), whose, after, max);
        found.iter().map(|of| of.number).collect::<Vec<_>>()
    };
    assert_eq!(numbers(Whose::All, None, 2), [0, 1]);
    assert_eq!(numbers(Whose::All, Some(&admission.id_of(&ins[1].connection)), 9), [2, 3, 4]);
    let of_u = user("u");
    assert_eq!(numbers(Whose::User(&of_u), None, 9), [0, 2, 4]);
    assert_eq!(admission.list(&org("other"), Whose::All, None, 9).len(), 0);
    let id = admission.id_of(&ins[2].connection);
    assert!(admission.find(&org("other"), &id).is_none());
    let found = admission.find(&org("acme"), &id).expect("it is there");
    let revoked = || Refusal::new(Code::Revoked, "an operator said so");
    assert!(admission.end(&found, revoked()) && !admission.end(&found, revoked()));
    assert!(admission.find(&org("acme"), &id).is_none(), "it is on its way");
    assert_eq!(numbers(Whose::All, None, 9), [0, 1, 3, 4]);
    assert_eq!(held(&admission), (4, 4));
    drop(ins);
    assert!(admission.is_idle());
}

#[test]
fn an_ipv6_client_is_its_network() {
    for (address, counted) in [
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::", "2001:db8:1:2::"),
        ("203.0.113.5", "203.0.113.5"),
        ("::ffff:203.0.113.5", "203.0.113.5"),
    ] {
        assert_eq!(counted_as(address.parse().expect(address)), counted.parse::<IpAddr>().expect(counted));
    }
    let admission = admission(ConnectionLimits { per_address: 1, ..WIDE });
    let held = admission.admit("2001:db8::1".parse().expect("an address")).expect("room");
    admission.admit("2001:db8::2".parse().expect("an address")).expect_err("the same client");
    admission.admit("2001:db8:0:1::2".parse().expect("an address")).expect("another");
    drop(held);
    assert!(admission.is_idle());
}

/// Random operations on connections.
#[test]
fn counts_agree_with_what_is_held_whatever_the_order() {
    let limits = ConnectionLimits { per_user: 3, per_org: 6, user_policy: UserPolicy::EvictOldest, ..WIDE };
    let admission = admission(limits);
    // A congruential generator (Knuth): the same run each time.
    let mut state = 7_u64;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut ins: Vec<In> = Vec::new();
    let (mut evicted, mut refused) = (0, 0);
    for _ in 0..100_000 {
        let who = (["acme", "other"][draw(2)], ["u", "v", "w"][draw(3)]);
        match draw(5) {
            0 | 1 => {
                let named = (!ins.is_empty()).then(|| admission.id_of(&ins[draw(ins.len())].connection));
                match enter_as(&admission, who, named.as_ref().filter(|_| draw(2) == 0)) {
                    Ok(entered) => ins.push(entered),
                    Err(_) => refused += 1,
                }
            }
            _ if ins.is_empty() => {}
            2 => ins[draw(ins.len())].slot.release(),
            3 => {
                let connection = ins[draw(ins.len())].connection.clone();
                admission.end(&connection, Refusal::new(Code::Revoked, "an operator said so"));
            }
            _ => drop(ins.swap_remove(draw(ins.len()))),
        }
        evicted += ins.iter().filter(|of| is_evicted(&of.connection)).count();
        let slots = admission.slots_held();
        assert_eq!((slots.streams, slots.registered), (ins.len(), ins.len()));
        assert_eq!(slots.orgs, slots.users);
        assert!(slots.orgs <= 12 && slots.orgs <= ins.len());
        let live = |of: &&In| of.connection.ending().is_none();
        assert!(slots.orgs <= ins.iter().filter(live).count(), "who is ending holds no slot");
    }
    assert!(evicted > 100 && refused > 100, "{evicted} {refused}");
    drop(ins);
    assert!(admission.is_idle());
    assert_eq!(admission.slots_held(), SlotsHeld::default());
}

#[test]
fn threads_that_enter_and_leave_at_once_leave_nothing_behind() {
    let limits = ConnectionLimits { per_user: 3, user_policy: UserPolicy::EvictOldest, ..WIDE };
    let admission = admission(limits);
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let admission = &admission;
            scope.spawn(move || {
                let mut last = None;
                for turn in 0..25_000_u32 {
                    let address = IpAddr::V4(Ipv4Addr::from_bits(turn % 1000));
                    drop(admission.admit(address).expect("room"));
                    let name = format!("u{}", (turn + thread) % 7);
                    let entered = enter_as(admission, ("acme", &name), last.as_ref()).expect("room");
                    last = Some(admission.id_of(&entered.connection));
                    if turn % 3 == 0 {
                        entered.slot.release();
                    }
                }
            });
        }
    });
    assert!(admission.is_idle());
}
