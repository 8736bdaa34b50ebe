//! JSON as tokens (RFC 8259): removes the white space between them and keeps every token as it was sent.
//!
//! `1.0`, `1e5`, repeated members and 20-digit numbers stay as they are, because nothing is parsed into a
//! value and printed again. Called once for each event, when it is published.

use bytes::{BufMut, BytesMut};

/// The value is nested deeper than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooDeep;

/// Appends `json`, which must be valid JSON, without the white space between its tokens. `depth_max` is how
/// many arrays and objects may be nested.
///
/// The caller has checked that it is JSON; other bytes are copied, with undefined white space.
///
/// # Errors
/// [`TooDeep`] if it is nested deeper; `out` then has a part of it.
pub fn write_compact(out: &mut BytesMut, json: &str, depth_max: usize) -> Result<(), TooDeep> {
    let bytes = json.as_bytes();
    let mut depth = 0_usize;
    // Everything between two white spaces is copied at once: compact input takes a single copy.
    let mut run = 0;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
            }
            b'{' | b'[' => {
                depth += 1;
                if depth > depth_max {
                    return Err(TooDeep);
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b' ' | b'\t' | b'\n' | b'\r' => {
                out.put_slice(&bytes[run..at]);
                run = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    out.put_slice(&bytes[run.min(bytes.len())..]);
    Ok(())
}

/// Appends `text` as a JSON string (RFC 8259, section 7), with no more escapes than are required.
pub fn write_string(out: &mut BytesMut, text: &str) {
    out.put_u8(b'"');
    let bytes = text.as_bytes();
    let mut run = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if !matches!(byte, b'"' | b'\\' | 0..=0x1f) {
            continue;
        }
        out.put_slice(&bytes[run..at]);
        run = at + 1;
        match byte {
            b'"' => out.put_slice(b"\\\""),
            b'\\' => out.put_slice(b"\\\\"),
            control => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.put_slice(b"\\u00");
                out.put_u8(HEX[usize::from(control >> 4)]);
                out.put_u8(HEX[usize::from(control & 15)]);
            }
        }
    }
    out.put_slice(&bytes[run..]);
    out.put_u8(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn compact(json: &str) -> Result<String, TooDeep> {
        let mut out = BytesMut::new();
        write_compact(&mut out, json, 4)?;
        Ok(String::from_utf8(out.to_vec()).expect("UTF-8"))
    }

    #[test]
    fn tokens_are_kept_and_only_white_space_goes() {
        for (sent, kept) in [
            (" 1.0 ", "1.0"),
            ("1e5", "1e5"),
            ("12345678901234567890123", "12345678901234567890123"),
            ("{ \"a\" : 1 , \"a\" : 2 }", "{\"a\":1,\"a\":2}"),
            ("[ \" a \\\" b \", \"\\\\\" , \"\\ud800\" ]", "[\" a \\\" b \",\"\\\\\",\"\\ud800\"]"),
            ("\t[\r\n]\n", "[]"),
        ] {
            assert_eq!(compact(sent).as_deref(), Ok(kept));
        }
    }

    #[test]
    fn depth_is_bounded() {
        assert!(compact("[[[[1]]]]").is_ok());
        assert_eq!(compact("[[[[[1]]]]]"), Err(TooDeep));
        assert!(compact("[[],[],[],[],[],\"[[[[[[\"]").is_ok());
    }

    proptest! {
        #[test]
        fn strings_read_back_as_written(text: String) {
            let mut out = BytesMut::new();
            write_string(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).expect("JSON"), text);
        }

        #[test]
        fn compacting_is_idempotent_and_never_panics(text: String) {
            let mut out = BytesMut::new();
            if write_compact(&mut out, &text, 64).is_ok() && serde_json::from_str::<serde_json::Value>(&text).is_ok() {
                let once = String::from_utf8(out.to_vec()).expect("UTF-8");
                prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&once).expect("JSON"),
                    serde_json::from_str::<serde_json::Value>(&text).expect("JSON"));
            }
        }
    }
}
