//! JSON as tokens (RFC 8259): removes the white space between them and keeps every token as it was sent.
//!
//! `1.0`, `1e5`, repeated members and 20-digit numbers stay as they are, because nothing is parsed into a
//! value and printed again. Called once for each event, when it is published. Strings and numbers that strict
//! readers refuse (I-JSON, RFC 7493) are found here too.

use bytes::{BufMut, BytesMut};

/// Why a JSON value is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// It is nested deeper than allowed.
    TooDeep,
    /// A string has a surrogate without its other half (RFC 7493, section 2.1).
    LoneSurrogate,
    /// A number is too large for a double (RFC 7493, section 2.2).
    TooLarge,
}

/// The longest pointer that [`find_unfit`] reports, in bytes.
const POINTER_MAX: usize = 1024;

/// How many levels of a pointer are remembered. Each takes at least two bytes of it.
const STEPS_MAX: usize = POINTER_MAX / 2;

/// Appends `json`, which must be valid JSON, without the white space between its tokens. `depth_max` is how
/// many arrays and objects may be nested.
///
/// The caller has checked that it is JSON; other bytes are copied, with undefined white space.
///
/// # Errors
/// [`Unfit`] for the first reason not to take it; `out` then has a part of it.
pub fn write_compact(out: &mut BytesMut, json: &str, depth_max: usize) -> Result<(), Unfit> {
    let bytes = json.as_bytes();
    let mut depth = 0_usize;
    // Everything between two white spaces is copied at once: compact input takes a single copy.
    let mut run = 0;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' | b'-' | b'0'..=b'9' => {
                at = fit_end(json, at)?;
                continue;
            }
            b'{' | b'[' => {
                depth += 1;
                if depth > depth_max {
                    return Err(Unfit::TooDeep);
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

/// The end of the string that begins at `at` with a quote, and whether all its escapes are characters.
fn string_end(bytes: &[u8], mut at: usize) -> (usize, bool) {
    let mut is_text = true;
    at += 1;
    while at < bytes.len() && bytes[at] != b'"' {
        if bytes[at] != b'\\' {
            at += 1;
            continue;
        }
        at += match escaped_unit(bytes, at) {
            // A pair of surrogates is one character (RFC 8259, section 7).
            Some(0xd800..=0xdbff) if matches!(escaped_unit(bytes, at + 6), Some(0xdc00..=0xdfff)) => 12,
            Some(0xd800..=0xdfff) => {
                is_text = false;
                6
            }
            _ => 2,
        };
    }
    ((at + 1).min(bytes.len()), is_text)
}

/// The UTF-16 code unit of the escape `\uXXXX` at `at`; `None` if there is something else.
fn escaped_unit(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn number_end(bytes: &[u8], at: usize) -> usize {
    let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    at + bytes[at..].iter().take_while(|byte| is_part(byte)).count()
}

/// Whether a double can hold the number, at least nearly.
fn is_finite(number: &str) -> bool {
    // The largest double has 309 digits before the point.
    if number.len() < 309 && !number.bytes().any(|byte| matches!(byte, b'e' | b'E')) {
        return true;
    }
    number.parse::<f64>().is_ok_and(f64::is_finite)
}

/// The end of the string or number that begins at `at`.
fn fit_end(json: &str, at: usize) -> Result<usize, Unfit> {
    let bytes = json.as_bytes();
    if bytes[at] == b'"' {
        let (end, is_text) = string_end(bytes, at);
        return if is_text { Ok(end) } else { Err(Unfit::LoneSurrogate) };
    }
    let end = number_end(bytes, at);
    if is_finite(&json[at..end]) { Ok(end) } else { Err(Unfit::TooLarge) }
}

/// Whether a JSON value has a string or a number that is [`Unfit`], at any depth.
pub fn is_unfit(json: &str) -> bool {
    let bytes = json.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' | b'-' | b'0'..=b'9' => match fit_end(json, at) {
                Ok(end) => at = end,
                Err(_) => return true,
            },
            _ => at += 1,
        }
    }
    false
}

/// A level of the value that [`find_unfit`] is in.
enum Step {
    /// The index of an array's item.
    Item(usize),
    /// The name of an object's member as a part of a pointer; `None` if it has none that can be written.
    Member(Option<String>),
}

/// Calls `found` for each string and number that is not fit, with its JSON pointer (RFC 6901) after `at`, until
/// it returns false. `json` must be valid JSON. A pointer that cannot be written, or is longer than 1,024 bytes,
/// ends earlier, at a value around the faulty one. For a faulty name it is the pointer of its object.
pub fn find_unfit(json: &str, at: &str, mut found: impl FnMut(String, Unfit) -> bool) {
    let bytes = json.as_bytes();
    let mut steps: Vec<Step> = Vec::new();
    // Levels that are too deep for a pointer.
    let mut below = 0_usize;
    let mut is_name = false;
    let mut position = 0;
    while position < bytes.len() {
        let byte = bytes[position];
        match byte {
            b'"' => {
                let (end, is_text) = string_end(bytes, position);
                if is_name && below == 0 {
                    is_name = false;
                    let name = serde_json::from_str::<String>(&json[position..end]).ok();
                    let name = name.map(|name| name.replace('~', "~0").replace('/', "~1"));
                    if let Some(step) = steps.last_mut() {
                        *step = Step::Member(name);
                    }
                }
                if !is_text && !found(pointer(at, &steps), Unfit::LoneSurrogate) {
                    return;
                }
                position = end;
                continue;
            }
            b'-' | b'0'..=b'9' => {
                let end = number_end(bytes, position);
                if !is_finite(&json[position..end]) && !found(pointer(at, &steps), Unfit::TooLarge) {
                    return;
                }
                position = end;
                continue;
            }
            b'{' | b'[' if steps.len() == STEPS_MAX => below += 1,
            b'{' | b'[' => {
                is_name = byte == b'{';
                steps.push(if is_name { Step::Member(None) } else { Step::Item(0) });
            }
            b'}' | b']' if below > 0 => below -= 1,
            b'}' | b']' => {
                steps.pop();
                is_name = false;
            }
            b',' if below == 0 => match steps.last_mut() {
                Some(Step::Item(index)) => *index += 1,
                Some(step @ Step::Member(_)) => {
                    *step = Step::Member(None);
                    is_name = true;
                }
                None => {}
            },
            _ => {}
        }
        position += 1;
    }
}

fn pointer(at: &str, steps: &[Step]) -> String {
    let mut pointer = at.to_owned();
    for step in steps {
        let part = match step {
            Step::Item(index) => index.to_string(),
            Step::Member(Some(name)) => name.clone(),
            Step::Member(None) => break,
        };
        if pointer.len() + 1 + part.len() > POINTER_MAX {
            break;
        }
        pointer.push('/');
        pointer.push_str(&part);
    }
    pointer
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

    fn compact(json: &str) -> Result<String, Unfit> {
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
            (
                "[ \" a \\\" b \", \"\\\\\" , \"\\uD83D\\ude00\" ]",
                "[\" a \\\" b \",\"\\\\\",\"\\uD83D\\ude00\"]",
            ),
            ("[ \"\\\\ud800\" , \"\\uffff\" ]", "[\"\\\\ud800\",\"\\uffff\"]"),
            ("\t[\r\n]\n", "[]"),
        ] {
            assert_eq!(compact(sent).as_deref(), Ok(kept));
        }
    }

    #[test]
    fn depth_is_bounded() {
        assert!(compact("[[[[1]]]]").is_ok());
        assert_eq!(compact("[[[[[1]]]]]"), Err(Unfit::TooDeep));
        assert!(compact("[[],[],[],[],[],\"[[[[[[\"]").is_ok());
    }

    fn unfit(json: &str) -> Vec<(String, Unfit)> {
        let mut all = Vec::new();
        find_unfit(json, "/data", |pointer, why| {
            all.push((pointer, why));
            all.len() < 3
        });
        assert_eq!(is_unfit(json), !all.is_empty(), "{json:.80}");
        all
    }

    #[test]
    fn halves_of_surrogate_pairs_are_found_where_they_are() {
        for (json, pointer) in [
            (r#""\ud800""#, "/data"),
            (r#""\uDC00""#, "/data"),
            (r#""\udc00\ud800""#, "/data"),
            (r#""\ud83d \ude00""#, "/data"),
            (r#""\ud83d\ud83d\ude00""#, "/data"),
            (r#""\ud83d\\ude00""#, "/data"),
            (r#""\ud83d\n""#, "/data"),
            (r#"[ 1 , "," , { "}" : [ ] , "a" : [ { } , "\ud800" ] } ]"#, "/data/2/a/1"),
            (r#"{"a/b~c":{"\u00e9":"\udfff"}}"#, "/data/a~1b~0c/\u{e9}"),
            (r#"{"a":1,"\ud800":2}"#, "/data"),
            (r#"{"a":{"\ud800":[1]}}"#, "/data/a"),
        ] {
            assert_eq!(unfit(json), [(pointer.to_owned(), Unfit::LoneSurrogate)], "{json}");
            assert_eq!(compact(json), Err(Unfit::LoneSurrogate), "{json}");
        }
        for json in
            [r#""\ud83d\ude00""#, r#""\uD83D\uDE00x""#, r#""\\ud800""#, r#"{"\ud83d\ude00":"\u0000"}"#]
        {
            assert_eq!(unfit(json), [], "{json}");
        }
    }

    #[test]
    fn numbers_that_no_double_holds_are_found_where_they_are() {
        let digits = "9".repeat(400);
        for (json, pointer) in [
            ("1e400", "/data"),
            ("-1E+400", "/data"),
            ("1e309", "/data"),
            ("[1e308,-1.8e308]", "/data/1"),
            ("{\"a\":[0,{\"b\":1e999999999999999999999}]}", "/data/a/1/b"),
            (digits.as_str(), "/data"),
        ] {
            assert_eq!(unfit(json), [(pointer.to_owned(), Unfit::TooLarge)], "{json}");
            assert_eq!(compact(json), Err(Unfit::TooLarge), "{json}");
        }
        let small = format!("0.{}1", "0".repeat(400));
        for json in [
            "12345678901234567890",
            "1e308",
            "1.7976931348623157e308",
            "1e-400",
            "0e999999",
            "-0",
            "\"1e400\"",
            &small,
            &format!("{}e-200", "9".repeat(400)),
        ] {
            assert_eq!(unfit(json), [], "{json}");
            assert_eq!(compact(json).as_deref(), Ok(json));
        }
    }

    #[test]
    fn the_pointers_of_an_answer_stay_short() {
        assert_eq!(unfit("[1e400,1e400,1e400,1e400]").len(), 3, "until the caller has enough");
        let (name, many) = ("x".repeat(2000), 100_000);
        let long = format!("{{\"a\":{{\"{name}\":1e400}}}}");
        assert_eq!(unfit(&long), [("/data/a".to_owned(), Unfit::TooLarge)]);
        let deep = format!("{}1e400,{{\"a\":[]}}{},1e400]", "[".repeat(many), "]".repeat(many - 1));
        let found = unfit(&deep);
        assert_eq!(found[0].0.len(), 1023);
        assert_eq!(found[1].0, "/data/1", "and it finds its way back");
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
