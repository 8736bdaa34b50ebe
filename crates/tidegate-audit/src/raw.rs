//! JSON as text: members and elements as written, and text without white space between tokens. Used to
//! compare input with output: a parser would lose differences such as `1.0` and `1`. Expects valid JSON.

/// `text` without the white space between its tokens.
pub fn compact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut quoted, mut escaped) = (false, false);
    for char in text.chars() {
        if quoted {
            quoted = escaped || char != '"';
            escaped = char == '\\' && !escaped;
        } else if matches!(char, ' ' | '\t' | '\n' | '\r') {
            continue;
        } else {
            quoted = char == '"';
        }
        out.push(char);
    }
    out
}

/// The length of the value at the start of `text`.
fn value_end(text: &str) -> usize {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        if quoted {
            quoted = escaped || byte != b'"';
            escaped = byte == b'\\' && !escaped;
            continue;
        }
        match byte {
            b'"' => quoted = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return at,
            b'}' | b']' => depth -= 1,
            b',' | b':' if depth == 0 => return at,
            _ => {}
        }
    }
    text.len()
}

/// The values in an array or an object, without separators. In an object, names and values alternate.
fn parts(text: &str) -> Vec<&str> {
    let inner = text.trim();
    let mut rest = inner.get(1..inner.len().saturating_sub(1)).unwrap_or_default();
    let mut parts = Vec::new();
    while !rest.trim().is_empty() {
        let end = value_end(rest);
        parts.push(rest[..end].trim());
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    parts
}

/// The elements of an array.
pub fn elements(text: &str) -> Vec<&str> {
    parts(text)
}

/// The value of the last member `name` of an object.
pub fn member<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let quoted = format!("\"{name}\"");
    parts(text).chunks_exact(2).rev().find(|pair| pair[0] == quoted).map(|pair| pair[1])
}

/// The value of a member, if it is a string. Escapes are not decoded.
pub fn word<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    member(text, name)?.strip_prefix('"')?.strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_taken_apart_as_it_stands() {
        let text = r#" { "a" : [ 1.0 , {"b":"x, ] } \" \\"}, "y" ] , "c":{ } ,"a" : 2e5, "d":"" } "#;
        assert_eq!(member(text, "a"), Some("2e5"));
        assert_eq!(member(text, "c"), Some("{ }"));
        assert_eq!(word(text, "d"), Some(""));
        assert_eq!(member(text, "b"), None);
        assert_eq!(
            elements(r#"[ 1.0 , {"b":"x, ] } \" \\"}, "y" ]"#),
            ["1.0", r#"{"b":"x, ] } \" \\"}"#, "\"y\""]
        );
        assert_eq!(elements(" [ ] "), Vec::<&str>::new());
        assert_eq!(compact(text), r#"{"a":[1.0,{"b":"x, ] } \" \\"},"y"],"c":{},"a":2e5,"d":""}"#);
    }
}
