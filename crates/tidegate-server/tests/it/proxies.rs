//! How the client behind a proxy is determined.

use crate::{
    client::{http::Request, sse::Sse, stream::Frames as _, ws::Ws},
    gateway::{Gateway, eventually},
};

fn ws(gateway: &Gateway, forwarded: &[&str]) -> Ws {
    let bearer = format!("Bearer {}", gateway.token);
    let mut headers = vec![("authorization", bearer.as_str())];
    // One line each.
    headers.extend(forwarded.iter().map(|line| ("x-forwarded-for", *line)));
    let request = headers.iter().fold(
        crate::client::ws::handshake(gateway.public, &gateway.path("stream")),
        |request, (name, value)| request.adding(name, value),
    );
    Ws::switch(request.begin())
}

fn sse(gateway: &Gateway, forwarded: &str) -> Request {
    gateway.getting("stream").with("accept", "text/event-stream").with("x-forwarded-for", forwarded)
}

#[test]
fn clients_behind_a_trusted_proxy_are_counted_by_the_address_that_it_names() {
    let gateway =
        Gateway::with(&["limits.connections_per_address=1", "listen.trusted_proxies=[\"127.0.0.0/8\"]"]);
    let mut held = Vec::new();
    for lines in [
        &["203.0.113.1"][..],
        &["203.0.113.2, 127.0.0.9"],
        &["203.0.113.1", "203.0.113.3:4711"],
        &["2001:db8::1"],
        &["[2001:db8:0:1::1]:443"],
        // No client is named: the proxy itself counts.
        &[],
    ] {
        let mut stream = ws(&gateway, lines);
        stream.next("hello");
        held.push(stream);
    }
    for lines in [
        &["203.0.113.1"][..],
        &["::ffff:203.0.113.1"],
        // The client's own entry is further left.
        &["198.51.100.7, 203.0.113.2"],
        &["198.51.100.7", "203.0.113.3"],
        // Another address of the same client.
        &["2001:db8::2"],
        &["nonsense"],
    ] {
        let (error, close) = ws(&gateway, lines).refusal();
        assert_eq!(
            (error["limit"].as_str(), close),
            (Some("limits.connections_per_address"), 4004),
            "{lines:?}"
        );
    }
    let refused = sse(&gateway, "203.0.113.2").send();
    assert_eq!((refused.status, refused.refusal().as_str()), (429, "too_many_connections"));
    Sse::open(sse(&gateway, "203.0.113.20")).next("hello");

    let path = gateway.path("connections");
    let listed = Request::new(gateway.admin, "GET", &path).send().json();
    let addresses: Vec<_> =
        listed["connections"].as_array().expect("a list").iter().map(|of| of["address"].clone()).collect();
    for address in
        ["203.0.113.1", "203.0.113.2", "203.0.113.3", "2001:db8::1", "2001:db8:0:1::1", "127.0.0.1"]
    {
        assert!(addresses.iter().any(|of| of == address), "{address} is not in {addresses:?}");
    }
    let closed = Request::new(gateway.admin, "DELETE", &format!("{path}?all=true")).send();
    assert_eq!(closed.status, 200, "{closed:?}");
    eventually("the end in the log", || gateway.log().contains("address=203.0.113.2").then_some(()));
    drop(held);
    eventually("no address counted", || {
        (gateway.metric("tidegate_connection_slots{scope=\"addresses\"}") == 0.0).then_some(())
    });
}

#[test]
fn nobody_else_is_believed_and_an_operator_is_told_once() {
    let gateway = Gateway::with(&["limits.connections_per_address=1"]);
    let mut held = ws(&gateway, &["203.0.113.1"]);
    held.next("hello");
    for forwarded in ["203.0.113.2", "203.0.113.3"] {
        assert_eq!(ws(&gateway, &[forwarded]).refusal().0["limit"], "limits.connections_per_address");
    }
    assert_eq!(gateway.log().matches("listen.trusted_proxies").count(), 1, "{}", gateway.log());

    let told = Gateway::with(&["listen.trusted_proxies=[\"192.0.2.0/24\"]"]);
    ws(&told, &["203.0.113.1"]).next("hello");
    assert_eq!(told.log().matches("listen.trusted_proxies").count(), 0, "{}", told.log());
}
