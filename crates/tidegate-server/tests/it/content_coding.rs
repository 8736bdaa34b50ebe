//! Compressed publish bodies: `Content-Encoding` (RFC 9110, section 8.4).

use std::io::Write as _;

use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};

use crate::{
    client::{http::Answer, http2::Http2},
    gateway::Gateway,
};

const EVENT: &str = r#"{"service":"s","event":"e","data":"some text, some text, some text"}"#;

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).and_then(|()| encoder.finish()).expect("never fails")
}

fn zlib(plain: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).and_then(|()| encoder.finish()).expect("never fails")
}

fn publish(gateway: &Gateway, coding: &str, body: impl AsRef<[u8]>) -> Answer {
    gateway.publishing().with("content-encoding", coding).body(body).send()
}

#[test]
fn gzip_and_deflate_bodies_are_taken_in_every_form() {
    let gateway = Gateway::start();
    for (coding, body) in [
        ("gzip", gzip(EVENT.as_bytes())),
        ("x-gzip", gzip(EVENT.as_bytes())),
        ("GZIP", gzip(EVENT.as_bytes())),
        ("deflate", zlib(EVENT.as_bytes())),
        ("identity", EVENT.into()),
        ("identity, gzip", gzip(EVENT.as_bytes())),
        ("gzip", [gzip(&EVENT.as_bytes()[..20]), gzip(&EVENT.as_bytes()[20..])].concat()),
    ] {
        let answer = publish(&gateway, coding, body);
        assert_eq!(answer.status, 200, "{coding}: {answer:?}");
    }
    let lines = gateway.publishing().with("content-type", "application/x-ndjson");
    let lines = lines.with("content-encoding", "gzip").body(gzip(format!("{EVENT}\n{EVENT}\n").as_bytes()));
    assert_eq!(lines.send().json()["events"][1]["seq"], 9);
    let cloud_event = r#"{"specversion":"1.0","id":"a","source":"s","type":"t","data":1}"#;
    let structured = gateway.publishing().with("content-type", "application/cloudevents+json");
    let structured = structured.with("content-encoding", "deflate").body(zlib(cloud_event.as_bytes()));
    assert_eq!(structured.send().status, 202);
    let binary = gateway.publishing().with("ce-specversion", "1.0").with("ce-id", "b").with("ce-source", "s");
    let binary = binary.with("ce-type", "t").with("content-encoding", "gzip").body(gzip(b"[1,2]"));
    assert_eq!(binary.send().status, 202);
    let over_http2 = gateway.publishing().with("content-encoding", "gzip").body(gzip(EVENT.as_bytes()));
    assert_eq!(Http2::connect(gateway.public).send(&over_http2).status, 200);

    let page = gateway.getting("events").send().json();
    let events = page["events"].as_array().expect("events");
    assert_eq!(events.len(), 12);
    assert_eq!(events[0]["data"], "some text, some text, some text");
    assert_eq!(events[10]["data"], serde_json::json!([1, 2]));
}

#[test]
fn other_codings_are_415_and_are_told_which_ones_are_taken() {
    let gateway = Gateway::start();
    for coding in ["br", "zstd", "compress", "gzip, gzip", "deflate, gzip", "gzip;q=1", "aws-chunked"] {
        let answer = publish(&gateway, coding, EVENT);
        assert_eq!((answer.status, answer.refusal().as_str()), (415, "unsupported_media"), "{coding}");
        assert_eq!(answer.header("accept-encoding"), Some("gzip, deflate"), "{coding}");
    }
    let twice = gateway.publishing().adding("content-encoding", "gzip").adding("content-encoding", "gzip");
    assert_eq!(twice.body(gzip(&gzip(EVENT.as_bytes()))).send().status, 415);
    // RFC 9110, section 12.5.3: a 415 for another reason must not have it.
    let of_type = gateway.publishing().with("content-type", "text/plain").body(EVENT).send();
    assert_eq!((of_type.status, of_type.header("accept-encoding")), (415, None));
}

#[test]
fn a_damaged_body_is_refused_with_a_sentence() {
    let gateway = Gateway::start();
    let whole = gzip(EVENT.as_bytes());
    let mut broken = whole.clone();
    let middle = whole.len() / 2;
    broken[middle] ^= 0xff;
    for (coding, body, says) in [
        ("gzip", &whole[..middle], "ends early"),
        ("gzip", b"", "ends early"),
        ("deflate", &zlib(EVENT.as_bytes())[..10], "ends early"),
        ("gzip", &broken, "damaged"),
        ("gzip", EVENT.as_bytes(), "not gzip"),
        ("deflate", EVENT.as_bytes(), "not deflate (the zlib format"),
        ("deflate", &whole, "not deflate"),
        ("gzip", &[&whole[..], b"{}"].concat(), "other bytes after"),
    ] {
        let answer = publish(&gateway, coding, body);
        assert_eq!((answer.status, answer.refusal().as_str()), (400, "bad_request"), "{says}");
        let detail = answer.json()["detail"].as_str().expect("a detail").to_owned();
        assert!(detail.contains(says), "{detail}");
    }
    assert_eq!(gateway.getting("cursor").send().json()["head"], 0);
}

#[test]
fn p6_limits_count_what_a_body_inflates_to() {
    let gateway = Gateway::with(&["limits.request_bytes=1MiB", "limits.event_bytes=1MiB"]);
    let padded = |bytes: usize| format!("{EVENT}{}", " ".repeat(bytes - EVENT.len()));
    let max = 1 << 20;
    assert_eq!(publish(&gateway, "gzip", gzip(padded(max).as_bytes())).status, 200);
    let bomb = vec![b' '; 256 << 20];
    for (coding, body) in [
        ("gzip", gzip(padded(max + 1).as_bytes())),
        ("deflate", zlib(padded(max + 1).as_bytes())),
        ("gzip", gzip(&bomb)),
        ("deflate", zlib(&bomb)),
    ] {
        assert!(body.len() < max, "only what it inflates to is too large");
        let answer = publish(&gateway, coding, &body);
        assert_eq!((answer.status, answer.refusal().as_str()), (413, "too_large"), "{}", body.len());
        assert_eq!(answer.json()["limit"], "limits.request_bytes");
    }
    assert_eq!(gateway.metric("tidegate_refusals_total{limit=\"limits.request_bytes\"}"), 4.0);
    assert_eq!(gateway.getting("cursor").send().json()["head"], 1);
}
