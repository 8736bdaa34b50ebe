//! placeholder, replaced at merge
use bytes::{BufMut, Bytes, BytesMut};
/// A finished server text frame around what `write` makes.
pub fn text_frame_with(write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::new();
    out.put_bytes(0, 10);
    write(&mut out);
    let len = out.len() - 10;
    let start = if len < 126 {
        out[8] = 0x81;
        out[9] = len as u8;
        8
    } else if len < 65536 {
        out[6] = 0x81;
        out[7] = 126;
        out[8..10].copy_from_slice(&(len as u16).to_be_bytes());
        6
    } else {
        out[0] = 0x81;
        out[1] = 127;
        out[2..10].copy_from_slice(&(len as u64).to_be_bytes());
        0
    };
    out.freeze().slice(start..)
}
