//! The page that the gateway serves at `/`: a live client of one org's stream. It is written by hand,
//! but for `client.js`, which is built from clients/typescript; all is compiled in, so `tidegate dev` needs no
//! file beside the binary.
//!
//! It is no file server: [`asset`] knows a few names, everything else is `None`. The router adds [`HEADERS`].
//! The page's own tests are in `assets/tests`.

use std::sync::LazyLock;

/// The page may run its own script and style and connect to this gateway, nothing else. No inline script or
/// style is allowed, so an event's data could not become one even if it reached the markup.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The headers of every asset, beside its own content type and etag. With `no-cache` browsers keep a copy but
/// revalidate it, so a new binary's page is never mixed with an old one's script.
pub const HEADERS: [(&str, &str); 5] = [
    ("content-security-policy", CONTENT_SECURITY_POLICY),
    ("cache-control", "no-cache"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
];

/// One file of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asset {
    /// The value of `content-type`.
    pub content_type: &'static str,
    /// The body.
    pub bytes: &'static [u8],
    /// The value of `etag`, with quotes. A request whose `if-none-match` has it is answered 304.
    pub etag: &'static str,
}

/// The file at this request path, if the page has one.
pub fn asset(path: &str) -> Option<Asset> {
    let path = if path == "/" { "/index.html" } else { path };
    ASSETS.iter().find(|(name, _)| *name == path).map(|(_, asset)| *asset)
}

static ASSETS: LazyLock<[(&str, Asset); 9]> = LazyLock::new(|| {
    [
        ("/index.html", keep("text/html; charset=utf-8", include_bytes!("../assets/index.html"))),
        ("/app.js", keep("text/javascript; charset=utf-8", include_bytes!("../assets/app.js"))),
        ("/charts.js", keep("text/javascript; charset=utf-8", include_bytes!("../assets/charts.js"))),
        ("/client.js", keep("text/javascript; charset=utf-8", include_bytes!("../assets/client.js"))),
        ("/live.js", keep("text/javascript; charset=utf-8", include_bytes!("../assets/live.js"))),
        ("/snippets.js", keep("text/javascript; charset=utf-8", include_bytes!("../assets/snippets.js"))),
        ("/try.js", keep("text/javascript; charset=utf-8", include_bytes!("../assets/try.js"))),
        ("/style.css", keep("text/css; charset=utf-8", include_bytes!("../assets/style.css"))),
        ("/favicon.svg", keep("image/svg+xml", include_bytes!("../assets/favicon.svg"))),
    ]
});

fn keep(content_type: &'static str, bytes: &'static [u8]) -> Asset {
    let hash = blake3::hash(bytes).to_hex();
    // Leaked once per file and process, so that an answer can borrow it like the bytes.
    let etag = Box::leak(format!("\"{}\"", &hash[..16]).into_boxed_str());
    Asset { content_type, bytes, etag }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &str) -> &'static str {
        std::str::from_utf8(asset(path).expect(path).bytes).expect(path)
    }

    #[test]
    fn the_page_is_whole_and_everything_else_is_not_here() {
        let page = text("/");
        for (attribute, end) in [("src=\"", '"'), ("href=\"", '"')] {
            for (_, rest) in page.match_indices(attribute).map(|(at, _)| page.split_at(at + attribute.len()))
            {
                let name = rest.split(end).next().expect("a value");
                assert!(name.starts_with('#') || asset(&format!("/{name}")).is_some(), "{name}");
            }
        }
        assert_eq!(asset("/"), asset("/index.html"));
        for path in ["", "/index", "/tests/live.test.mjs", "/../Cargo.toml", "/v1", "//", "/app.js/"] {
            assert_eq!(asset(path), None, "{path}");
        }
    }

    #[test]
    fn the_policy_would_not_block_the_page_itself() {
        let page = text("/");
        assert!(!page.contains("<style") && !page.contains(" style=") && !page.contains("javascript:"));
        assert_eq!(page.matches("<script").count(), page.matches("<script type=\"module\" src=").count());
        for (at, _) in page.match_indices(" on") {
            let word = page[at + 1..].split(|c: char| !c.is_ascii_alphabetic()).next().expect("a word");
            assert!(!page[at + 1 + word.len()..].starts_with('='), "an inline handler: {word}");
        }
    }

    #[test]
    fn the_page_asks_nobody_else_and_writes_no_markup_from_data() {
        for (path, _) in ASSETS.iter() {
            let text = text(path);
            for other in text.match_indices("://").map(|(at, _)| &text[at..]) {
                assert!(
                    // The second is an example in a sentence about a faulty address.
                    ["://www.w3.org/2000/svg", "://events.example.com (a variable"]
                        .iter()
                        .any(|known| other.starts_with(known)),
                    "{path}: {}",
                    &other[..30.min(other.len())]
                );
            }
            for sink in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
                assert!(!text.contains(sink), "{path}: {sink}");
            }
        }
    }

    #[test]
    fn etags_are_quoted_and_tell_the_files_apart() {
        let mut etags: Vec<_> = ASSETS.iter().map(|(_, asset)| asset.etag).collect();
        assert!(etags.iter().all(|etag| etag.len() == 18 && etag.starts_with('"') && etag.ends_with('"')));
        etags.sort_unstable();
        etags.dedup();
        assert_eq!(etags.len(), ASSETS.len());
    }
}
