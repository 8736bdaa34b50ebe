//! Attacks by publishing, with a key that covers the attacker's org alone.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    sync::{LazyLock, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use anyhow::ensure;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, tcp::WriteHalf},
};

use crate::neighbours::{attacker::Attacker, wire};

/// How long an attacker waits on a connection that it keeps open: longer than an attack.
pub const HOLD: Duration = Duration::from_secs(120);

/// The bytes of `data` in a large event, near `limits.event_bytes`.
const LARGE: usize = 250_000;

/// How many of them fit into a request.
const LARGE_IN_REQUEST: usize = 15;

/// Announced lengths of bodies that do not come, just below `limits.request_bytes`.
const ANNOUNCED: usize = 4_000_000;

/// How long a publisher that was refused waits.
pub const COME_BACK: Duration = Duration::from_millis(500);

/// A bit of a body at a time: with 400 tasks, 11 KB/s.
const DRIBBLE: (usize, Duration) = (2, Duration::from_millis(72));

/// Text that compresses badly, as long as a large event: what is compressed costs the most.
static NOISE: LazyLock<String> = LazyLock::new(|| {
    let mut state = 1_u64;
    let mut next = || {
        // A linear congruential generator (Knuth's MMIX); its high bits are used.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'0' + ((state >> 58) as u8))
    };
    // Without the backslash, which would need an escape.
    (0..LARGE).map(|_| next()).map(|char| if char == '\\' { 'x' } else { char }).collect()
});

/// A request of `count` large events.
pub fn large(count: usize) -> String {
    let event = format!("{{\"service\":\"noise\",\"event\":\"e\",\"data\":\"{}\"}}", *NOISE);
    format!("[{}]", vec![event; count].join(","))
}

static LARGE_REQUEST: LazyLock<String> = LazyLock::new(|| large(LARGE_IN_REQUEST));

/// A number that no other event of the process has.
fn fresh() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A request of a thousand small events, with ids or without.
fn thousand(has_ids: bool) -> String {
    let mut body = String::from("[");
    for number in 0..1000 {
        let separator = if number == 0 { "" } else { "," };
        let id =
            if has_ids { format!("\"id\":\"{}-{}\",", std::process::id(), fresh()) } else { String::new() };
        let _ = write!(
            body,
            "{separator}{{{id}\"service\":\"noise\",\"event\":\"invoice.paid\",\
             \"data\":{{\"number\":{number},\"text\":\"{}\"}}}}",
            &NOISE[number * 64..][..64]
        );
    }
    body.push(']');
    body
}

/// Publishes `requests` requests of large events.
pub async fn fill(me: &Attacker, requests: usize) -> anyhow::Result<()> {
    publish_all(me, &LARGE_REQUEST, requests).await
}

/// Publishes `requests` requests of a thousand small events.
pub async fn fill_small(me: &Attacker, requests: usize) -> anyhow::Result<()> {
    publish_all(me, &thousand(false), requests).await
}

async fn publish_all(me: &Attacker, body: &str, requests: usize) -> anyhow::Result<()> {
    let mut stream = me.connect().await?;
    for _ in 0..requests {
        let status = me.publish(&mut stream, body.as_bytes(), "").await?;
        ensure!(status == 200, "a publish was answered {status}");
    }
    Ok(())
}

/// Publishes on one connection until it ends.
async fn again(me: &Attacker, headers: &str, mut body: impl FnMut() -> Vec<u8>) -> io::Result<()> {
    let mut stream = me.connect().await?;
    loop {
        me.publish(&mut stream, &body(), headers).await?;
        me.did(1);
    }
}

pub async fn large_requests(me: &Attacker) -> io::Result<()> {
    again(me, "", || LARGE_REQUEST.as_bytes().to_vec()).await
}

pub async fn bulk(me: &Attacker, has_ids: bool) -> io::Result<()> {
    again(me, "", || thousand(has_ids).into_bytes()).await
}

/// Holds a request until the gateway ends it, and waits before the next one.
async fn hold(mut stream: TcpStream) -> io::Result<()> {
    let _ = tokio::time::timeout(HOLD, wire::answer(&mut stream)).await;
    tokio::time::sleep(COME_BACK).await;
    Ok(())
}

pub async fn body_that_never_comes(me: &Attacker) -> io::Result<()> {
    let mut stream = me.connect().await?;
    stream.write_all(me.post(ANNOUNCED, "").as_bytes()).await?;
    stream.write_all(b"[").await?;
    me.did(1);
    hold(stream).await
}

pub async fn body_that_dribbles(me: &Attacker) -> io::Result<()> {
    let mut stream = me.connect().await?;
    stream.write_all(me.post(ANNOUNCED, "").as_bytes()).await?;
    me.did(1);
    let (mut read, write) = stream.split();
    tokio::select! {
        _ = dribble(write) => {}
        // A refusal, or the end.
        _ = read.read_u8() => {}
    }
    tokio::time::sleep(COME_BACK).await;
    Ok(())
}

async fn dribble(mut write: WriteHalf<'_>) -> io::Result<()> {
    loop {
        write.write_all(&[b' '; DRIBBLE.0]).await?;
        tokio::time::sleep(DRIBBLE.1).await;
    }
}

pub async fn body_without_its_end(me: &Attacker) -> io::Result<()> {
    let mut stream = me.connect().await?;
    let body = &LARGE_REQUEST.as_bytes()[..LARGE_REQUEST.len() - 1];
    stream.write_all(me.post(LARGE_REQUEST.len(), "").as_bytes()).await?;
    stream.write_all(body).await?;
    me.did(1);
    hold(stream).await
}

pub async fn zip_bomb(me: &Attacker) -> io::Result<()> {
    static BOMB: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        for _ in 0..64 {
            // Writing to memory does not fail.
            let _ = bomb.write_all(&vec![b' '; 1 << 20]);
        }
        bomb.finish().unwrap_or_default()
    });
    again(me, "content-encoding: gzip\r\n", || BOMB.clone()).await
}

/// An object of `count` keys.
fn keys(count: usize) -> String {
    let mut object = String::from("{");
    for number in 0..count {
        let _ = write!(object, "{}\"{number:05x}\":0", if number == 0 { "" } else { "," });
    }
    object.push('}');
    object
}

pub async fn json_of_many_keys(me: &Attacker, number: usize) -> io::Result<()> {
    let event = |keys: &str| format!("{{\"service\":\"noise\",\"event\":\"e\",\"data\":{keys}}}");
    let body = match number % 2 {
        0 => event(&keys(400_000)),
        _ => format!("[{}]", vec![event(&keys(20_000)); 15].join(",")),
    };
    again(me, "", || body.clone().into_bytes()).await
}

pub async fn json_without_end(me: &Attacker) -> io::Result<()> {
    let nested = format!("[{{\"service\":\"noise\",\"event\":\"e\",\"data\":{}", "[".repeat(2_000_000));
    again(me, "", || nested.clone().into_bytes()).await
}

pub async fn json_of_unknown_fields(me: &Attacker) -> io::Result<()> {
    let mut event = String::from("{\"service\":\"noise\",\"event\":\"e\",\"data\":0");
    for number in 0..200_000 {
        let _ = write!(event, ",\"use{number:05x}s\":0");
    }
    event.push('}');
    again(me, "", || event.clone().into_bytes()).await
}
