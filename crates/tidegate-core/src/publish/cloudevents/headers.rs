//! An event in binary mode: its attributes are headers that begin with `ce-`, and `data` is the body.

use std::borrow::Cow;

use serde_json::value::RawValue;
use tidegate_protocol::OrgId;

use super::{
    super::{
        PublishError,
        fields::{Faults, is_meant_as_users},
    },
    Attributes, Given, Target, media, unsupported,
};
use crate::NewEvent;

/// The headers of a request that concern its event.
#[derive(Debug, Default)]
pub struct Headers<'a> {
    /// `Content-Type`; without one the body is read as JSON.
    pub content_type: Option<&'a str>,
    /// The headers that begin with `ce-`: the name in lower case without that prefix, and the raw value.
    pub attributes: Vec<(&'a str, &'a [u8])>,
}

impl Attributes for Headers<'_> {
    fn get(&self, name: &'static str) -> Given<'_> {
        let Some((_, value)) = self.attributes.iter().find(|(known, _)| *known == name) else {
            return Given::Unset;
        };
        match decode(value) {
            Ok(text) => Given::Text(text),
            Err(why) => {
                let detail =
                    format!("ce-{name} {why}; or use structured mode, where values need no encoding");
                Given::Faulty { code: "format", detail }
            }
        }
    }

    fn pointer(&self, name: &str) -> String {
        // The whole body is data.
        if name == "data" { String::new() } else { format!("ce-{name}") }
    }
}

impl Headers<'_> {
    /// Makes an event of the headers and the body.
    pub(super) fn check(
        &self,
        target: &Target<'_>,
        body: &str,
        faults: &mut Faults,
    ) -> Result<Option<(OrgId, NewEvent)>, PublishError> {
        if self.content_type.is_some_and(|media| !media::is_json(media)) {
            let detail = "Content-Type is not that of JSON: only application/json and types that end in +json \
                          are accepted as the data of a CloudEvent";
            return Err(unsupported("content-type".into(), detail.into()));
        }
        for (index, (name, _)) in self.attributes.iter().enumerate() {
            if self.attributes[..index].iter().any(|(earlier, _)| earlier == name) {
                let detail = format!("ce-{name} occurs more than once; send it once, or use structured mode");
                faults.add(self.pointer(name), "repeated", detail);
            }
            if *name == "datacontenttype" {
                let detail = "the type of data is Content-Type in binary mode, so ce-datacontenttype is not allowed; leave \
                     it out, or use structured mode";
                faults.add(self.pointer(name), "unknown_field", detail.into());
            }
            if *name != "users" && is_meant_as_users(name) {
                faults.meant_as_users(self.pointer(name), &format!("ce-{name}"));
            }
        }
        let data = match body {
            // An event may have no data, although an empty text is not JSON.
            "" => "null",
            body => serde_json::from_str::<&RawValue>(body)
                .map_err(|error| PublishError::NotJson(error.to_string()))?
                .get(),
        };
        Ok(super::check(target, self, data, faults))
    }
}

/// The text of a header's value (HTTP protocol binding, section 3.1.3.2): without double quotes, which older
/// senders use, then percent-decoded once. The error says what is wrong with it.
fn decode(value: &[u8]) -> Result<Cow<'_, str>, &'static str> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|b| matches!(b, b' '..=b'~')));
    let text = text.ok_or("must be printable ASCII, with everything else percent-encoded as UTF-8")?;
    let text = match text.strip_prefix('"') {
        Some(quoted) => {
            Cow::Owned(unquote(quoted).ok_or("begins with a double quote and does not end with one")?)
        }
        None => Cow::Borrowed(text),
    };
    if !text.contains('%') {
        return Ok(text);
    }
    let is_encoded = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|b| b.is_ascii_hexdigit());
    if !text.split('%').skip(1).all(is_encoded) {
        return Err(
            "has a percent sign without two hexadecimal digits after it; write %25 for a percent sign",
        );
    }
    let decoded = percent_encoding::percent_decode_str(&text).decode_utf8();
    Ok(Cow::Owned(decoded.map_err(|_| "is not UTF-8 once it is percent-decoded")?.into_owned()))
}

/// The text before the closing quote, which must come last, without the backslashes of its escapes.
fn unquote(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    loop {
        match rest.next()? {
            '"' => return rest.next().is_none().then_some(plain),
            '\\' => plain.push(rest.next()?),
            other => plain.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_unquoted_and_decoded_once() {
        for (value, text) in [
            ("", ""),
            ("plain", "plain"),
            ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
            ("Euro%20%e2%82%ac", "Euro €"),
            ("%61", "a"),
            ("%2525", "%25"),
            ("a b", "a b"),
            ("a\"b", "a\"b"),
            ("\"a b\"", "a b"),
            (r#""a \"b\" \\c""#, r#"a "b" \c"#),
            ("\"%20\"", " "),
            ("\"\"", ""),
            ("%22a%22", "\"a\""),
        ] {
            assert_eq!(decode(value.as_bytes()).as_deref(), Ok(text), "{value}");
        }
        for value in [
            &b"%C0%A0"[..],
            b"%ff",
            b"%E2%82",
            b"100%",
            b"%4",
            b"%zz",
            b"%%20",
            b"% 20",
            b"\"a",
            b"\"",
            b"\"a\"b",
            b"\"a\\\"",
            b"\xe4",
            "ä".as_bytes(),
            b"a\tb",
            b"\x7f",
        ] {
            assert!(decode(value).is_err(), "{}", value.escape_ascii());
        }
    }
}
