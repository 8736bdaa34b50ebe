//! Any `Sec-WebSocket-Extensions` of a client, a line of the input each: agreed upon or declined, without a
//! panic; and an answer is one that would be agreed upon, and says the same again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_protocol::ws::extension::Deflate;

const NAME: &str = "Sec-WebSocket-Extensions";

fuzz_target!(|input: &[u8]| {
    let headers: Vec<(&str, &[u8])> = input.split(|byte| *byte == b'\n').map(|line| (NAME, line)).collect();
    let Some(agreed) = Deflate::choose(&headers) else {
        return;
    };
    let answer = agreed.answer();
    assert!(answer.starts_with("permessage-deflate"));
    assert!(answer.contains("client_no_context_takeover"));
    assert_eq!(answer.contains("server_no_context_takeover"), agreed.alone);
    assert_eq!(Deflate::choose(&[(NAME, answer.as_bytes())]), Some(agreed));
});
