//! Attacks by reading, with tokens for all services of the attacker's org.

use std::{io, time::Duration};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::publishing::{HOLD, large};
use crate::neighbours::{
    attacker::Attacker,
    wire::{self, UPGRADE},
};

/// The time between two publishes of an attack by readers, over all orgs, so that its readers make the load.
const PACE: Duration = Duration::from_millis(250);

/// Requests that are sent on one socket without a look at their answers.
const PIPELINED: usize = 8;

pub async fn history_unread(me: &Attacker, number: usize) -> io::Result<()> {
    let mut stream = me.connect_small().await?;
    let request = me.get(number, "events?limit=1000", "");
    stream.write_all(request.repeat(PIPELINED).as_bytes()).await?;
    me.did(PIPELINED);
    tokio::time::sleep(HOLD).await;
    Ok(())
}

pub async fn history_read_slowly(me: &Attacker, number: usize) -> io::Result<()> {
    let mut stream = me.connect_small().await?;
    stream.write_all(me.get(number, "events?limit=1000", "").as_bytes()).await?;
    me.did(1);
    loop {
        stream.read_u8().await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub async fn scan(me: &Attacker, number: usize) -> io::Result<()> {
    let mut stream = me.connect().await?;
    let request = me.get(number, "events?limit=1&services=quiet", "");
    loop {
        stream.write_all(request.as_bytes()).await?;
        me.did(1);
        wire::answer(&mut stream).await?;
    }
}

pub async fn scan_tail(me: &Attacker, number: usize) -> io::Result<()> {
    let mut stream = me.connect().await?;
    let request = me.get(number, "stream?tail=1&services=quiet", "accept: text/event-stream\r\n");
    stream.write_all(request.as_bytes()).await?;
    wire::read_to(&mut stream, b"\r\n\r\n").await?;
    me.did(1);
    stream.set_zero_linger()
}

/// Reads a stream over WebSocket with compression until it ends.
async fn follow(me: &Attacker, number: usize, services: &str) -> io::Result<()> {
    let mut stream = me.connect().await?;
    let request = me.get(number, &format!("stream?services={services}"), UPGRADE);
    stream.write_all(request.as_bytes()).await?;
    wire::discard(stream).await
}

/// Publishes requests of `events` large events; all tasks but the first read with filters of their own.
pub async fn filters(me: &Attacker, number: usize, events: usize) -> io::Result<()> {
    if number > 0 {
        let others: String = (0..9).map(|other| format!(",f{number}-{other}")).collect();
        return follow(me, number, &format!("noise{others}")).await;
    }
    publish_steadily(me, &large(events)).await
}

/// The same with small events.
pub async fn compressors(me: &Attacker, number: usize) -> io::Result<()> {
    if number > 0 {
        return follow(me, number, &format!("noise,f{number}")).await;
    }
    publish_steadily(me, "{\"service\":\"noise\",\"event\":\"invoice.paid\",\"data\":\"paid\"}").await
}

async fn publish_steadily(me: &Attacker, body: &str) -> io::Result<()> {
    let mut stream = me.connect().await?;
    loop {
        me.publish(&mut stream, body.as_bytes(), "").await?;
        me.did(1);
        tokio::time::sleep(PACE * me.orgs).await;
    }
}

pub async fn replay(me: &Attacker, number: usize) -> io::Result<()> {
    let mut stream = me.connect().await?;
    let request = me.get(number, "stream?tail=1000", "accept: text/event-stream\r\n");
    stream.write_all(request.as_bytes()).await?;
    me.did(1);
    let mut part = vec![0; 32 << 10];
    let _ = stream.read_exact(&mut part).await;
    // All tasks together stay below `limits.handshakes_per_second`, which is another attack.
    tokio::time::sleep(PACE).await;
    stream.set_zero_linger()
}

pub async fn slow_reader(me: &Attacker, number: usize) -> io::Result<()> {
    if number == 0 {
        return publish_steadily(me, &large(4)).await;
    }
    let mut stream = me.connect_small().await?;
    let headers = if number.is_multiple_of(2) { UPGRADE } else { "accept: text/event-stream\r\n" };
    stream.write_all(me.get(number, "stream", headers).as_bytes()).await?;
    me.did(1);
    tokio::time::sleep(HOLD).await;
    Ok(())
}
