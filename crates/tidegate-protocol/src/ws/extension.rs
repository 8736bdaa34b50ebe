//! permessage-deflate (RFC 7692): a client's offer and the server's answer.
//!
//! What the server sends is compressed by `tidegate_core::deflate`. What the client sends is inflated by
//! [`super::MessageReader`], each message by itself: the answer always asks for `client_no_context_takeover`, so
//! that an idle connection holds no window.

use super::HeaderLine;

const NAME: &str = "permessage-deflate";

/// The parameters of a negotiated permessage-deflate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deflate {
    /// Whether the client wants every message compressed by itself (`server_no_context_takeover`,
    /// RFC 7692 7.1.1.1).
    pub alone: bool,
    /// Whether the client asked for the window of 15 bits that is used anyway; the answer then repeats it.
    names_window: bool,
}

impl Deflate {
    /// The first acceptable offer (RFC 7692 7.1); `None` if there is none. An offer is declined for
    /// parameters that are unknown, invalid or repeated, and for a window of less than 15 bits, because
    /// all connections share the compressed frames.
    pub fn choose(headers: &[HeaderLine<'_>]) -> Option<Self> {
        headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-extensions"))
            .filter_map(|(_, value)| std::str::from_utf8(value).ok())
            .flat_map(|value| split(value, ','))
            .find_map(Self::of_offer)
    }

    fn of_offer(offer: &str) -> Option<Self> {
        let mut parts = split(offer, ';');
        if !parts.next()?.trim().eq_ignore_ascii_case(NAME) {
            return None;
        }
        let mut seen: [bool; 4] = [false; 4];
        for part in parts {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name.trim(), Some(unquoted(value.trim()))),
                None => (part.trim(), None),
            };
            let at = match (name.to_ascii_lowercase().as_str(), value) {
                ("server_no_context_takeover", None) => 0,
                ("client_no_context_takeover", None) => 1,
                ("server_max_window_bits", Some("15")) => 2,
                // A client's window may be any size: an inflater of 15 bits reads all of them.
                ("client_max_window_bits", None) => 3,
                ("client_max_window_bits", Some("8" | "9" | "10" | "11" | "12" | "13" | "14" | "15")) => 3,
                _ => return None,
            };
            if std::mem::replace(&mut seen[at], true) {
                return None;
            }
        }
        Some(Self { alone: seen[0], names_window: seen[2] })
    }

    /// The value of `Sec-WebSocket-Extensions` in the answer (RFC 6455 9.1).
    pub const fn answer(self) -> &'static str {
        match (self.alone, self.names_window) {
            (false, false) => "permessage-deflate; client_no_context_takeover",
            (true, false) => "permessage-deflate; client_no_context_takeover; server_no_context_takeover",
            (false, true) => "permessage-deflate; client_no_context_takeover; server_max_window_bits=15",
            (true, true) => {
                "permessage-deflate; client_no_context_takeover; server_no_context_takeover; \
                 server_max_window_bits=15"
            }
        }
    }
}

/// The parts between separators outside of quotes (RFC 9110 5.6.4).
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut is_quoted = false;
        let mut is_escaped = false;
        for (at, letter) in text.char_indices() {
            match letter {
                _ if is_escaped => is_escaped = false,
                '\\' if is_quoted => is_escaped = true,
                '"' => is_quoted = !is_quoted,
                _ if letter == separator && !is_quoted => {
                    rest = Some(&text[at + separator.len_utf8()..]);
                    return Some(&text[..at]);
                }
                _ => {}
            }
        }
        rest = None;
        Some(text)
    })
}

/// A value without its quotes. No known value needs escapes.
fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(lines: &[&str]) -> Option<&'static str> {
        let lines: Vec<HeaderLine<'_>> =
            lines.iter().map(|line| ("Sec-WebSocket-Extensions", line.as_bytes())).collect();
        Deflate::choose(&lines).map(Deflate::answer)
    }

    #[test]
    fn the_first_offer_that_can_be_taken_is() {
        const PLAIN: Option<&str> = Some("permessage-deflate; client_no_context_takeover");
        const ALONE: Option<&str> =
            Some("permessage-deflate; client_no_context_takeover; server_no_context_takeover");
        for (lines, agreed) in [
            (&["permessage-deflate; client_max_window_bits"][..], PLAIN),
            (&["permessage-deflate"], PLAIN),
            (&["Permessage-Deflate ; Client_No_Context_Takeover"], PLAIN),
            (&["permessage-deflate; client_max_window_bits=\"10\""], PLAIN),
            (&["permessage-deflate; server_no_context_takeover"], ALONE),
            (&["x-webkit-deflate-frame", "permessage-deflate"], PLAIN),
            (&["x; a=\",permessage-deflate; b\", permessage-deflate"], PLAIN),
            (&["permessage-deflate; server_max_window_bits=10, permessage-deflate"], PLAIN),
            (
                &["permessage-deflate; server_max_window_bits=15"],
                Some("permessage-deflate; client_no_context_takeover; server_max_window_bits=15"),
            ),
            (&["permessage-deflate; server_max_window_bits=10"], None),
            (&["permessage-deflate; server_max_window_bits"], None),
            (&["permessage-deflate; client_max_window_bits=7"], None),
            (&["permessage-deflate; client_max_window_bits=016"], None),
            (&["permessage-deflate; client_max_window_bits=16"], None),
            (&["permessage-deflate; client_no_context_takeover=1"], None),
            (&["permessage-deflate; client_max_window_bits; client_max_window_bits=9"], None),
            (&["permessage-deflate; unknown"], None),
            (&["permessage-deflate;"], None),
            (&["permessage-deflate-2"], None),
            (&["", ",", ";"], None),
            (&["permessage-deflate; a=\"unended"], None),
            (&[], None),
        ] {
            assert_eq!(answer(lines), agreed, "{lines:?}");
        }
    }
}
