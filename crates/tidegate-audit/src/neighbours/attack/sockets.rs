//! Attacks by sockets and by heads of requests.

use std::{io, net::SocketAddr, time::Duration};

use tokio::io::AsyncWriteExt as _;

use super::publishing::COME_BACK;
use crate::neighbours::{
    attacker::Attacker,
    wire::{self, UPGRADE},
};

/// The time between two bytes of a head.
const PAUSE: Duration = Duration::from_millis(100);

pub async fn silent(me: &Attacker, to: SocketAddr) -> io::Result<()> {
    let stream = wire::connect(me.account.from, to, false).await?;
    me.did(1);
    let _ = wire::discard(stream).await;
    tokio::time::sleep(COME_BACK).await;
    Ok(())
}

pub async fn slow_head(me: &Attacker, number: usize) -> io::Result<()> {
    let mut stream = me.connect().await?;
    me.did(1);
    for byte in me.get(number, "events", "").bytes() {
        if stream.write_all(&[byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

pub async fn connect_and_reset(me: &Attacker) -> io::Result<()> {
    let stream = me.connect().await?;
    me.did(1);
    stream.set_zero_linger()
}

pub async fn stream_and_close(me: &Attacker, number: usize) -> io::Result<()> {
    let mut stream = me.connect().await?;
    stream.write_all(me.get(number, "stream", UPGRADE).as_bytes()).await?;
    wire::read_to(&mut stream, b"\r\n\r\n").await?;
    me.did(1);
    stream.set_zero_linger()
}

/// Requests up to the limits of number and size, and one in eight over them, which ends its connection.
pub async fn headers(me: &Attacker, number: usize) -> io::Result<()> {
    let mut stream = me.connect().await?;
    let line = |at: usize| format!("x-{at:04}: {}\r\n", "v".repeat(200));
    let within: String = (0..58).map(line).collect();
    let over: String = (0..2000).map(line).collect();
    for turn in 0..8 {
        let request = me.get(number, "cursor", if turn < 7 { &within } else { &over });
        stream.write_all(request.as_bytes()).await?;
        wire::answer(&mut stream).await?;
        me.did(1);
    }
    Ok(())
}

pub async fn bad_tokens(me: &Attacker, number: usize) -> io::Result<()> {
    let mut stream = me.connect().await?;
    // The same token with another signature.
    let token = me.token(number);
    let forged = format!("{}.{}", token.rsplit_once('.').map_or(token, |(claims, _)| claims), "A".repeat(43));
    let request = me.get(number, "events", "").replace(token, &forged);
    loop {
        stream.write_all(request.as_bytes()).await?;
        wire::answer(&mut stream).await?;
        me.did(1);
    }
}
