//! What an attacker writes to a socket, byte by byte: requests of HTTP/1.1, and frames of HTTP/2 (RFC 9113,
//! section 4) that no library would send.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
};

/// The types of frames (RFC 9113, section 6).
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Flags.
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// The setting of the window of each stream.
pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// The largest window.
pub const WINDOW_MAX: u32 = (1 << 31) - 1;

/// The reason of a reset by a client that has lost interest.
pub const CANCEL: u32 = 8;

/// What a client begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The receive buffer of a client that does not read: the smallest one that the kernel gives.
const SMALL_BUFFER: u32 = 4096;

/// Connects from an address of loopback. With `is_small` the kernel takes little that the client does not
/// read.
pub async fn connect(from: Ipv4Addr, to: SocketAddr, is_small: bool) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if is_small {
        socket.set_recv_buffer_size(SMALL_BUFFER)?;
    }
    socket.bind(SocketAddr::from((from, 0)))?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The headers of a request to open a WebSocket that offers compression.
pub const UPGRADE: &str = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                           sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
                           sec-websocket-extensions: permessage-deflate\r\n";

/// Reads until `word` has come.
pub async fn read_to(stream: &mut TcpStream, word: &[u8]) -> io::Result<Vec<u8>> {
    let mut seen = Vec::new();
    while !seen.windows(word.len()).any(|window| window == word) {
        if stream.read_buf(&mut seen).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(seen)
}

/// Reads until the connection ends.
pub async fn discard(mut read: impl tokio::io::AsyncRead + Unpin) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    while read.read(&mut buffer).await? > 0 {}
    Ok(())
}

/// Reads one answer that has a `Content-Length` to its end, and returns its status.
pub async fn answer(stream: &mut TcpStream) -> io::Result<u16> {
    let seen = read_to(stream, b"\r\n\r\n").await?;
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let text = String::from_utf8_lossy(&seen);
    let head = text.split("\r\n\r\n").next().ok_or_else(bad)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(bad)?;
    let length = head.to_ascii_lowercase().lines().find_map(|line| {
        line.strip_prefix("content-length:").and_then(|length| length.trim().parse::<usize>().ok())
    });
    // The body is counted in bytes: `text` may have replaced some of them.
    let start = seen.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(bad)? + 4;
    let mut left = (length.unwrap_or(0) + start).saturating_sub(seen.len());
    let mut buffer = vec![0; 64 << 10];
    while left > 0 {
        let room = buffer.len().min(left);
        match stream.read(&mut buffer[..room]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => left -= read,
        }
    }
    Ok(status)
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Appends a text as HPACK has it: an integer with a prefix of seven bits (RFC 7541, section 5.1), the bytes.
fn put_text(bytes: &mut Vec<u8>, text: &str) {
    match text.len().checked_sub(127) {
        None => bytes.push(text.len() as u8),
        Some(mut rest) => {
            bytes.push(127);
            while rest >= 128 {
                bytes.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            bytes.push(rest as u8);
        }
    }
    bytes.extend(text.as_bytes());
}

/// A header block without compression: literals that are not indexed (RFC 7541, section 6.2.2).
pub fn block(lines: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in lines {
        bytes.push(0);
        put_text(&mut bytes, name);
        put_text(&mut bytes, value);
    }
    bytes
}

/// The end of a header block that names one long header `times` times, a byte each: the first one puts it
/// into the table (section 6.2.1), the others refer to it (section 6.1).
pub fn bomb(value: &str, times: usize) -> Vec<u8> {
    let mut bytes = vec![0x40];
    put_text(&mut bytes, "x");
    put_text(&mut bytes, value);
    // The newest entry comes after the 61 of the static table.
    bytes.resize(bytes.len() + times, 0x80 | 62);
    bytes
}

/// An HTTP/2 connection, on which nothing happens by itself.
pub struct Http2 {
    pub read: OwnedReadHalf,
    pub write: OwnedWriteHalf,
}

impl Http2 {
    /// Begins it, with a window for each of its streams.
    pub async fn begin(mut stream: TcpStream, window: u32) -> io::Result<Self> {
        let setting = [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &window.to_be_bytes()[..]].concat();
        stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &setting)].concat()).await?;
        let (read, write) = stream.into_split();
        Ok(Self { read, write })
    }

    /// Sends bytes again and again until the connection ends, and reads the answers meanwhile. `sent` is
    /// called after each time.
    pub async fn flood(self, bytes: impl FnMut() -> Vec<u8>, sent: impl Fn()) -> io::Result<()> {
        tokio::select! {
            ended = send_again(self.write, bytes, sent) => ended,
            ended = discard(self.read) => ended,
        }
    }
}

async fn send_again(
    mut write: OwnedWriteHalf,
    mut bytes: impl FnMut() -> Vec<u8>,
    sent: impl Fn(),
) -> io::Result<()> {
    loop {
        write.write_all(&bytes()).await?;
        sent();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_blocks_and_frames_are_written_as_the_standards_say() {
        assert_eq!(frame(HEADERS, END_STREAM, 3, b"ab"), b"\0\0\x02\x01\x01\0\0\0\x03ab");
        assert_eq!(block(&[("a", "b")]), b"\0\x01a\x01b");
        // 127 and 1,200 more: 1,200 is 9 times 128 and 48.
        assert_eq!(block(&[("a", &"v".repeat(1327))])[3..6], [127, 48 | 128, 9]);
        assert_eq!(bomb("v", 3), [0x40, 1, b'x', 1, b'v', 0xbe, 0xbe, 0xbe]);
    }
}
