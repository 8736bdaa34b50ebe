//! Any text is a cursor, and then the only text of that cursor, or none.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_protocol::{Cursor, SEQ_MAX};

fuzz_target!(|text: &str| {
    if let Ok(cursor) = text.parse::<Cursor>() {
        assert_eq!(cursor.to_string(), text);
        assert!(cursor.seq <= SEQ_MAX);
        assert!(text.len() <= 32 + 1 + 16 + 1 + 16);
        // It stands in headers, addresses, JSON and `id:` lines without a need to be escaped.
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'));
    }
});
