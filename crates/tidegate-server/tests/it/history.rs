//! Pages of history, and the cursor at the head.

use serde_json::json;

use crate::{
    client::stream::{Follower, Frames as _},
    gateway::Gateway,
};

#[test]
fn pages_lead_from_the_oldest_to_the_head_and_into_the_stream() {
    let gateway = Gateway::start();
    for number in 1..=25 {
        gateway.say(if number % 5 == 0 { "rare" } else { "often" }, &number.to_string());
    }
    let mut query = "events?limit=10".to_owned();
    let (mut seen, mut pages) = (Vec::new(), 0);
    let cursor = loop {
        let page = gateway.getting(&query).send().json();
        seen.extend(page["events"].as_array().expect("events").iter().map(|event| event["seq"].as_u64()));
        assert!(page.get("gap").is_none());
        pages += 1;
        let cursor = page["cursor"].as_str().expect("a cursor").to_owned();
        if page["has_more"] == false {
            break cursor;
        }
        query = format!("events?limit=10&after={cursor}");
    };
    assert_eq!((seen, pages), ((1..=25).map(Some).collect(), 3));
    gateway.say("often", "26");
    let mut stream = gateway.ws(&format!("?cursor={cursor}"));
    assert_eq!(stream.next("hello")["resumed"], true);
    assert_eq!(stream.events(&mut Follower::at(&cursor), 1)[0]["data"], 26);
}

#[test]
fn r9_a_page_says_how_far_it_has_looked_also_when_it_is_empty() {
    let gateway = Gateway::start();
    for number in 1..=9 {
        gateway.say("seen", &number.to_string());
    }
    let page = gateway.getting("events?services=hidden").send().json();
    assert_eq!((&page["events"], &page["has_more"]), (&json!([]), &json!(false)));
    assert!(page["cursor"].as_str().expect("a cursor").contains("-9-"), "the seq scanned to: {page}");
    let now = gateway.getting("cursor?services=hidden").send().json();
    assert_eq!((&now["cursor"], &now["head"]), (&page["cursor"], &json!(9)));
}

#[test]
fn a_page_declares_the_gap_of_its_cursor() {
    let gateway = Gateway::start();
    gateway.say("s", "1");
    let page = gateway.getting("events?after=0unknown-5").send().json();
    let epoch = page["cursor"].as_str().expect("a cursor").split('-').next();
    assert_eq!(page["gap"], json!({"prev": 5, "seq": 0, "epoch": epoch, "reason": "epoch"}));
    assert_eq!(page["events"].as_array().expect("events").len(), 1, "the log was born empty: {page}");
    let tagged = page["cursor"].as_str().expect("a cursor").to_owned();
    let other = gateway.getting(&format!("events?services=s&after={tagged}")).send().json();
    assert_eq!(other["gap"]["reason"], "filter");
}

#[test]
fn history_asks_for_the_same_rights_as_a_stream() {
    let gateway = Gateway::start();
    gateway.say("secret", "1");
    let narrow = format!("Bearer {}", gateway.token_of("u", &["open"]));
    for endpoint in ["events", "cursor"] {
        let none = gateway.getting(endpoint).without("authorization").send();
        assert_eq!((none.status, none.header("www-authenticate")), (401, Some("Bearer")));
        let asked =
            gateway.getting(&format!("{endpoint}?services=secret")).with("authorization", &narrow).send();
        assert_eq!((asked.status, asked.refusal().as_str()), (403, "forbidden"));
        let key = gateway.getting(endpoint).with("authorization", &format!("Bearer {}", gateway.key)).send();
        assert_eq!(key.status, 401, "an API key reads nothing");
        let other = gateway.getting("").to(&format!("/v1/orgs/other/{endpoint}")).send();
        assert_eq!((other.status, other.refusal().as_str()), (403, "forbidden"));
    }
    let page = gateway.getting("events").with("authorization", &narrow).send().json();
    assert_eq!(page["events"], json!([]));
}
