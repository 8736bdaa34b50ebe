//! Prints events and gaps on standard output, as text or as JSON lines. For `tail`.

use std::io::{self, Write as _};

use serde_json::value::RawValue;
use tidegate_client::{Cursor, Delivery, Gap};

use super::{Failure, remote::printable, shown};

/// Writes events to standard output.
pub(super) struct Printer {
    /// Whether to print JSON lines.
    pub(super) json: bool,
    /// How many more events to print.
    pub(super) left: Option<u64>,
    /// The org, for events of batches, which come without it.
    pub(super) org: String,
}

impl Printer {
    /// Prints what came. Returns the position after the last event that was asked for, once it is printed.
    pub(super) fn print(&mut self, items: &[Delivery]) -> Result<Option<Cursor>, Failure> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        let mut last = None;
        for item in items {
            let line = match item {
                Delivery::Event(event) if self.json => json_line(event.json(), &self.org),
                Delivery::Event(event) => human_line(event.json()),
                Delivery::Gap(gap) if self.json => json_gap(gap),
                Delivery::Gap(gap) => human_gap(gap),
            };
            writeln!(out, "{}", shown(&line)).map_err(Failure::output)?;
            if let (Delivery::Event(event), Some(left)) = (item, &mut self.left) {
                *left -= 1;
                if *left == 0 {
                    last = Some(event.cursor.clone());
                    break;
                }
            }
        }
        out.flush().map_err(Failure::output)?;
        Ok(last)
    }
}

/// A gap is not an event, but must be visible at its position between them. It has the fields of its frame.
fn json_gap(gap: &Gap) -> String {
    let Gap { prev, seq, epoch, reason, services, cursor, .. } = gap;
    let filter = cursor.tag.as_ref().map(|tag| format!(",\"filter\":\"{tag}\"")).unwrap_or_default();
    let reason = serde_json::json!(reason);
    let services = services.as_ref().map(|names| format!(",\"services\":{}", serde_json::json!(names)));
    let services = services.unwrap_or_default();
    format!(
        "{{\"type\":\"gap\",\"prev\":{prev},\"seq\":{seq},\"epoch\":\"{epoch}\"{filter},\"reason\":{reason}{services}}}"
    )
}

fn human_gap(gap: &Gap) -> String {
    let Gap { prev, seq, .. } = gap;
    let reason = printable(&gap.reason);
    // Seqs of two epochs cannot be compared, so no range is named.
    let what = match reason.as_str() {
        "epoch" => {
            format!("the log is a new one; events after {prev} may be missing; continuing after {seq}")
        }
        "filter" => format!("the services changed; events of the new ones up to {seq} are not shown"),
        _ => format!("events after {prev} up to {seq} are no longer available"),
    };
    format!("-- gap ({reason}): {what} --")
}

/// The fields of an event in their order, with their values token for token.
type Fields<'a> = Vec<(String, &'a RawValue)>;

fn fields(event: &RawValue) -> Fields<'_> {
    use serde::de::{Deserializer as _, MapAccess, Visitor};
    struct Ordered;
    impl<'de> Visitor<'de> for Ordered {
        type Value = Fields<'de>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an event")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
            let mut fields = Vec::new();
            while let Some(field) = map.next_entry()? {
                fields.push(field);
            }
            Ok(fields)
        }
    }
    serde_json::Deserializer::from_str(event.get()).deserialize_map(Ordered).unwrap_or_default()
}

/// The same shape for every event, whether it came alone or in a batch.
fn json_line(event: &RawValue, org: &str) -> String {
    let mut line = format!("{{\"type\":\"event\",\"org\":{}", serde_json::json!(org));
    for (name, value) in fields(event) {
        if !matches!(name.as_str(), "type" | "org" | "prev") {
            line += &format!(",{}:{}", serde_json::json!(name), one_line(value));
        }
    }
    line.push('}');
    line
}

fn human_line(event: &RawValue) -> String {
    let fields = fields(event);
    let raw =
        |wanted: &str| fields.iter().find(|(name, _)| name == wanted).map_or("", |(_, value)| value.get());
    let text = |wanted: &str| serde_json::from_str::<String>(raw(wanted)).unwrap_or_default();
    let line = format!(
        "{}  {:>8}  {}  {}  {}  {}",
        text("timestamp"),
        raw("seq"),
        text("service"),
        text("event"),
        text("id"),
        raw("data"),
    );
    printable(&line.replace(['\n', '\r'], " "))
}

/// A value without line breaks. A long frame over SSE has some, between its tokens.
fn one_line(value: &RawValue) -> String {
    value.get().replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_print_the_same_alone_and_from_a_batch_token_for_token() {
        let alone = r#"{"type":"event","org":"o","prev":4,"seq":5,"service":"s","event":"e","id":"i","timestamp":"t","data":{"a":1.0,"a":1e5}}"#;
        let inside =
            r#"{"seq":5,"service":"s","event":"e","id":"i","timestamp":"t","data":{"a":1.0,"a":1e5}}"#;
        let expected = r#"{"type":"event","org":"o","seq":5,"service":"s","event":"e","id":"i","timestamp":"t","data":{"a":1.0,"a":1e5}}"#;
        for event in [alone, inside] {
            let raw: &RawValue = serde_json::from_str(event).expect("JSON");
            assert_eq!(json_line(raw, "o"), expected);
            assert_eq!(human_line(raw), "t         5  s  e  i  {\"a\":1.0,\"a\":1e5}");
        }
    }

    #[test]
    fn what_steers_a_terminal_is_not_printed() {
        let event = "{\"seq\":5,\"data\":\"a\u{9b}2J\u{202e}b\u{2028}c\u{7f}\\u001b\"}";
        let raw: &RawValue = serde_json::from_str(event).expect("JSON");
        let line = json_line(raw, "o");
        assert!(shown(&line).ends_with(r#""data":"a\u009b2J\u202eb\u2028c\u007f\u001b"}"#), "{line}");
        let same = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        assert_eq!(same(&shown(&line)), same(&line));
        assert!(human_line(raw).ends_with("\"a\u{fffd}2J\u{fffd}b\u{fffd}c\u{fffd}\\u001b\""));
    }

    #[test]
    fn an_event_of_several_data_lines_prints_on_one_line() {
        let event = "{\"seq\":5,\n\"service\":\"s\",\"event\":\"e\",\"id\":\"i\",\"timestamp\":\"t\",\"data\":[1,\n2]}";
        let raw: &RawValue = serde_json::from_str(event).expect("JSON");
        assert!(json_line(raw, "o").ends_with(",\"data\":[1, 2]}"));
        assert_eq!(human_line(raw), "t         5  s  e  i  [1, 2]");
    }
}
