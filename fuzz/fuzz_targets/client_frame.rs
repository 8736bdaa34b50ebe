//! Any text from a client is a frame, or is refused with a code that ends the stream, and a sentence. An
//! accepted frame has the values of the JSON.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_core::{Framing, frame};
use tidegate_protocol::{
    Code,
    frame::{ClientFrame, HealthReport, read_client_frame},
};

fuzz_target!(|text: &str| {
    match read_client_frame(text) {
        Ok(taken) => {
            // `Value` refuses numbers that no double holds. They may stand in unknown fields.
            let Ok(value) = serde_json::from_str::<serde_json::Value>(text) else { return };
            // If members repeat, the parsers may take different ones; it must be one of them.
            let object = value.as_object().expect("an object");
            match taken {
                ClientFrame::Auth { token } => {
                    assert!(object["token"] == token.as_str() || text.matches("token").count() > 1 || text.contains('\\'));
                }
                ClientFrame::Pong => assert!(object["type"] == "pong"),
                ClientFrame::Ping { n } => {
                    assert!(object["type"] == "ping" && n < 1 << 53);
                    assert!(object["n"] == n);
                }
                ClientFrame::Health(report) => {
                    assert!(object["type"] == "health");
                    assert!(report.latencies_ms.len() <= HealthReport::LATENCIES_MAX);
                    assert!(report.latencies_ms.iter().all(|latency| *latency <= HealthReport::LATENCY_MS_MAX));
                    for (name, count) in [
                        ("disconnects", report.disconnects),
                        ("duplicates", report.duplicates),
                        ("holes", report.holes),
                        ("gaps", report.gaps),
                    ] {
                        assert!(count <= HealthReport::COUNT_MAX);
                        let sent = object.get(name).filter(|value| !value.is_null());
                        assert!(report.is_clamped || sent.map_or(count == 0, |sent| *sent == count));
                    }
                }
            }
        }
        Err(refusal) => {
            assert_eq!(refusal.code, Code::BadFrame);
            assert!(refusal.message.contains(' '));
            // Whatever it quotes, the `error` frame is one JSON object, and one SSE event.
            let told = frame::error(Framing::Sse, &refusal);
            let told = std::str::from_utf8(&told).expect("UTF-8");
            // The code is final, so a native EventSource is kept from coming back.
            let told = told.strip_prefix("retry: 2147483647\n").expect("a retry line");
            let data = told.strip_prefix("data: ").and_then(|rest| rest.strip_suffix("\n\n")).expect("one event");
            assert!(!data.contains(['\n', '\r']));
            let value: serde_json::Value = serde_json::from_str(data).expect("JSON");
            assert_eq!(value["message"], refusal.message.as_str());
        }
    }
});
