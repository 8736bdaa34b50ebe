//! Values that are one of a few words, or words with a grammar of their own.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;

use tidegate_core::slow::Policy;

use super::value::{BadValue, Raw, Setting, Value, mismatch, quoted};

macro_rules! choice {
    ($(#[$doc:meta])* $Choice:ident { $( $(#[$variant_doc:meta])* $Variant:ident = $word:literal, )* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $Choice { $( $(#[$variant_doc])* $Variant, )* }

        impl $Choice {
            /// The word in the file.
            pub const fn word(self) -> &'static str {
                match self { $( Self::$Variant => $word, )* }
            }
        }

        impl Setting for $Choice {
            fn kind() -> String {
                one_of(&[$($word),*])
            }

            fn read(raw: &Raw) -> Result<Self, BadValue> {
                match &raw.value {
                    $( Value::Text(word) if word == $word => Ok(Self::$Variant), )*
                    _ => Err(mismatch::<Self>(raw)),
                }
            }

            fn show(&self) -> String {
                quoted(self.word())
            }
        }
    };
}

fn one_of(words: &[&str]) -> String {
    match words {
        [only] => quoted(only),
        [most @ .., last] => {
            format!("{} or {}", most.iter().map(|w| quoted(w)).collect::<Vec<_>>().join(", "), quoted(last))
        }
        [] => String::new(),
    }
}

choice! {
    /// Which engine keeps the logs.
    LogEngine {
        /// In RAM, while the process lives.
        Memory = "memory",
        /// Embedded and durable.
        Disk = "disk",
    }
}
choice! {
    /// When an acknowledged publish is on disk.
    LogSync {
        /// Before the answer.
        Always = "always",
        /// Within an interval.
        Interval = "interval",
    }
}
choice! {
    /// How log lines look.
    LogFormat {
        /// For a terminal.
        Human = "human",
        /// One JSON object a line.
        Json = "json",
    }
}
choice! {
    /// The least weighty log lines that are written.
    LogLevel {
        /// What broke.
        Error = "error",
        /// What wakes someone.
        Warn = "warn",
        /// Changes of state.
        Info = "info",
        /// Per connection and request.
        Debug = "debug",
        /// Per event.
        Trace = "trace",
    }
}
choice! {
    /// What happens to a connection over the bound of its user.
    UserPolicy {
        /// It is refused.
        RejectNew = "reject_new",
        /// It is let in, and the user's oldest one is ended.
        EvictOldest = "evict_oldest",
    }
}
choice! {
    /// How a subscriber's token is signed. Pinned per key, never taken from the token.
    JwtAlgorithm {
        /// HMAC with SHA-256, by a secret.
        Hs256 = "HS256",
        /// RSA PKCS#1 v1.5 with SHA-256.
        Rs256 = "RS256",
        /// ECDSA on P-256 with SHA-256.
        Es256 = "ES256",
        /// Ed25519.
        EdDsa = "EdDSA",
    }
}

choice! {
    /// When events that wait are sent.
    BatchMode {
        /// As often as keeps sending under its share of a worker's time.
        Paced = "paced",
        /// The whole window after the first one.
        Fixed = "fixed",
        /// At once.
        Immediate = "immediate",
    }
}

/// A part of the whole, above 0 and at most 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share(f64);

impl Share {
    /// The number.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl Setting for Share {
    fn kind() -> String {
        "a number from 0.05 to 1, such as 0.5".to_owned()
    }

    fn read(raw: &Raw) -> Result<Self, BadValue> {
        let number = match &raw.value {
            Value::Integer(1) => 1.0,
            // Floats come as they were written.
            Value::Other(text) => text.parse::<f64>().map_err(|_| mismatch::<Self>(raw))?,
            _ => return Err(mismatch::<Self>(raw)),
        };
        if (0.05..=1.0).contains(&number) { Ok(Self(number)) } else { Err(mismatch::<Self>(raw)) }
    }

    fn show(&self) -> String {
        format!("{:?}", self.0)
    }
}

impl Setting for Policy {
    fn kind() -> String {
        one_of(&Policy::ALL.map(Policy::name))
    }

    fn read(raw: &Raw) -> Result<Self, BadValue> {
        match &raw.value {
            Value::Text(word) => Policy::from_name(word).ok_or_else(|| mismatch::<Self>(raw)),
            _ => Err(mismatch::<Self>(raw)),
        }
    }

    fn show(&self) -> String {
        quoted(self.name())
    }
}

/// How many threads own readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// One per core.
    Auto,
    /// So many.
    Count(usize),
}

impl Workers {
    /// The number, if the machine has `cores`.
    pub fn count(self, cores: usize) -> usize {
        match self {
            Workers::Auto => cores.max(1),
            Workers::Count(count) => count,
        }
    }
}

impl Setting for Workers {
    fn kind() -> String {
        "\"auto\" or a whole number from 1 to 1024".to_owned()
    }

    fn read(raw: &Raw) -> Result<Self, BadValue> {
        match &raw.value {
            Value::Text(word) if word == "auto" => Ok(Self::Auto),
            _ => match usize::read(raw) {
                Ok(count) if count <= 1024 => Ok(Self::Count(count)),
                _ => Err(mismatch::<Self>(raw)),
            },
        }
    }

    fn show(&self) -> String {
        match self {
            Workers::Auto => quoted("auto"),
            Workers::Count(count) => count.to_string(),
        }
    }
}

/// The name of a claim in a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimName(String);

impl ClaimName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClaimName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Setting for ClaimName {
    fn kind() -> String {
        "the name of a claim, 1 to 128 printable ASCII characters".to_owned()
    }

    fn read(raw: &Raw) -> Result<Self, BadValue> {
        match &raw.value {
            Value::Text(text)
                if (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) =>
            {
                Ok(Self(text.clone()))
            }
            _ => Err(mismatch::<Self>(raw)),
        }
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}

/// The name of a cookie (RFC 6265, a token of RFC 9110).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CookieName(String);

impl CookieName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Setting for CookieName {
    fn kind() -> String {
        "the name of a cookie, 1 to 128 of A-Z a-z 0-9 and !#$%&'*+-.^_`|~".to_owned()
    }

    fn read(raw: &Raw) -> Result<Self, BadValue> {
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        match &raw.value {
            Value::Text(text) if (1..=128).contains(&text.len()) && text.bytes().all(is_token) => {
                Ok(Self(text.clone()))
            }
            _ => Err(mismatch::<Self>(raw)),
        }
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}

/// Addresses that have their first bits in common (RFC 4632).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(IpNet);

impl Network {
    /// Whether `address` is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// Whether `networks` together have every address of IPv4 or of IPv6.
    pub fn are_all(networks: &[Self]) -> bool {
        let networks: Vec<IpNet> = networks.iter().map(|network| network.0).collect();
        IpNet::aggregate(&networks).iter().any(|network| network.prefix_len() == 0)
    }
}

fn network(text: &str) -> Option<IpNet> {
    let net = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse().ok()?,
    };
    // Bits after the prefix are a mistake. No peer has an IPv4 address mapped into IPv6: those are converted.
    let is_plain = net == net.trunc() && net.addr().to_canonical() == net.addr();
    is_plain.then_some(net)
}

impl Setting for Network {
    fn kind() -> String {
        "an address or a network such as \"10.0.0.7\", \"10.0.0.0/8\" or \"fd00::/8\", without bits \
         after the prefix"
            .to_owned()
    }

    fn read(raw: &Raw) -> Result<Self, BadValue> {
        match &raw.value {
            Value::Text(text) => network(text).map(Self).ok_or_else(|| mismatch::<Self>(raw)),
            _ => Err(mismatch::<Self>(raw)),
        }
    }

    fn show(&self) -> String {
        quoted(&self.0.to_string())
    }
}

/// The origin of a web page or of an app's pages, as browsers send it: `scheme://host[:port]`, no path. The port
/// may be `*` if the host is a name of loopback: development servers choose their port. Or one of two words for
/// pages that have no origin of their own ([`Origin::is_anybody`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

/// The schemes of the pages that apps and extensions serve to themselves.
const APP_SCHEMES: [&str; 7] =
    ["capacitor", "ionic", "tauri", "app", "chrome-extension", "moz-extension", "vscode-webview"];

/// What browsers send for pages that have no origin of their own: `null` for sandboxed frames, `data:` addresses
/// and most local files, `file://` for the local files of some apps.
const ANYBODY: [&str; 2] = ["null", "file://"];

/// What the entries with `*` for a port may begin with. No other host may have one: anybody can open a port on
/// a machine that is shared.
const LOOPBACK_PORTS: [&str; 6] = [
    "http://localhost:",
    "http://127.0.0.1:",
    "http://[::1]:",
    "https://localhost:",
    "https://127.0.0.1:",
    "https://[::1]:",
];

impl Origin {
    /// Whether a page whose browser sends this `Origin` header is one of them. Compared byte for byte, because
    /// browsers write an origin in only one way.
    pub fn admits(&self, sent: &[u8]) -> bool {
        let Some(loopback) = self.0.strip_suffix(":*") else { return sent == self.0.as_bytes() };
        match sent.strip_prefix(loopback.as_bytes()) {
            Some([]) => true,
            Some([b':', port @ ..]) => std::str::from_utf8(port).is_ok_and(is_port),
            _ => false,
        }
    }

    /// Whether pages of anybody may send it, so that it says nothing about who made the page.
    pub fn is_anybody(&self) -> bool {
        ANYBODY.contains(&self.0.as_str())
    }

    /// Every page of this machine, whatever its port.
    pub fn any_of_loopback() -> Vec<Self> {
        LOOPBACK_PORTS.map(|start| Self(format!("{start}*"))).to_vec()
    }

    /// The entry, as it is configured.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_any_of_loopback(text: &str) -> bool {
    text.strip_suffix('*').is_some_and(|start| LOOPBACK_PORTS.contains(&start))
}

/// Whether this is a port as browsers write it.
fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port.to_string() == text)
}

/// Whether `text` is an origin as `auth.origins` takes it, and the origin of one site or app.
pub fn is_origin(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    let default_port = match scheme {
        "http" => Some(":80"),
        "https" => Some(":443"),
        _ if APP_SCHEMES.contains(&scheme) => None,
        _ => return false,
    };
    let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, after)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            (address, after.strip_prefix(':'))
        }
        None => match rest.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        },
    };
    // Browsers write the hosts of http and https in lower case, and leave those of other schemes as they are.
    let is_letter = |b: u8| b.is_ascii_lowercase() || (default_port.is_none() && b.is_ascii_uppercase());
    let host_ok = !host.is_empty()
        && host.bytes().all(|b| is_letter(b) || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_' | b':'));
    let port_ok = port.is_none_or(is_port);
    // Browsers leave the scheme's own port out, so an entry with it would never match.
    host_ok && port_ok && default_port.is_none_or(|port| !rest.ends_with(port))
}

impl Setting for Origin {
    fn kind() -> String {
        "an origin as browsers send it such as \"https://app.example.com\" or \"http://localhost:3000\": \
         lower case, without path, wildcard or the scheme's own port; or, for development, with any port of \
         localhost, 127.0.0.1 or [::1], such as \"http://localhost:*\"; or an app's, such as \
         \"capacitor://localhost\"; or \"null\" or \"file://\", which stand for pages of anybody"
            .to_owned()
    }

    fn read(raw: &Raw) -> Result<Self, BadValue> {
        match &raw.value {
            Value::Text(text)
                if is_origin(text) || is_any_of_loopback(text) || ANYBODY.contains(&text.as_str()) =>
            {
                Ok(Self(text.clone()))
            }
            _ => Err(mismatch::<Self>(raw)),
        }
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}
