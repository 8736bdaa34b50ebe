//! Decides by a media type whether data is JSON.

/// Whether data of this type is JSON: its subtype is `json` or ends in `+json`, whatever its
/// parameters (JSON event format, section 3.1.1).
pub(super) fn is_json(media: &str) -> bool {
    let essence = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let Some((kind, subtype)) = essence.split_once('/') else { return false };
    let is_token = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    };
    is_token(kind)
        && is_token(subtype)
        && (subtype == "json" || subtype.strip_suffix("+json").is_some_and(|prefix| !prefix.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_is_json() {
        for media in [
            "application/json",
            "APPLICATION/JSON",
            "application/json; charset=utf-8",
            "application/json;charset=\"utf-8\"",
            "text/json",
            "application/vnd.acme.paid+json",
            "image/svg+json ; a=b",
        ] {
            assert!(is_json(media), "{media}");
        }
        for media in [
            "",
            "json",
            "/json",
            "application/",
            "application/jsonx",
            "application/xjson",
            "application/+json",
            "application/x-ndjson",
            "application/json-seq",
            "text/plain",
            "application/json/json",
            "application /json",
            "text/plain; a=application/json",
            "application/json, text/plain",
        ] {
            assert!(!is_json(media), "{media}");
        }
    }
}
