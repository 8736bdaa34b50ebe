//! A stream's org is watched from before its log is opened until the stream has gone (R10).

use crate::{client::stream::Frames as _, gateway::eventually, held_node::HeldNode};

#[test]
fn r10_an_org_is_watched_before_its_log_is_opened_and_until_the_stream_ends() {
    let node = HeldNode::start();
    let mut stream = node.ws("");
    stream.next("hello");
    assert_eq!(node.calls(), ["watch acme", "open acme"]);
    let mut second = node.sse("");
    second.next("hello");
    assert_eq!(node.calls()[2..], ["watch acme", "open acme"]);
    drop((stream, second));
    eventually("both to have gone", || (node.calls().len() == 6).then_some(()));
    assert_eq!(node.calls()[4..], ["unwatch acme", "unwatch acme"]);
}

#[test]
fn r10_a_stream_that_is_refused_watches_nothing_afterwards() {
    let node = HeldNode::with(&[("limits.connections_per_user", "1")]);
    let mut first = node.ws("");
    first.next("hello");
    let mut refused = node.ws("");
    assert_eq!(refused.next("error")["code"], "too_many_connections");
    eventually("the refused stream to be done with", || {
        (node.calls()[2..] == ["watch acme", "open acme", "unwatch acme"]).then_some(())
    });
}
