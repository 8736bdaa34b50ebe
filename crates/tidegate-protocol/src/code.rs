//! The closed table of codes: wire name, WebSocket close code, HTTP status, retry or not, and meaning.
//!
//! Every refusal of a gateway has one of these codes (PROTOCOL.md, "Codes"). Clients in other languages
//! take the table from `spec/codes.json`, which is generated from here (`tests/codes.rs`).

/// Whether a request or stream that ended with a code is worth another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// The same request may succeed later.
    Yes,
    /// It may succeed with a new token.
    Renew,
    /// It is final: the same request fails again.
    No,
}

impl Retry {
    /// The word in `spec/codes.json`.
    pub const fn name(self) -> &'static str {
        match self {
            Retry::Yes => "yes",
            Retry::Renew => "renew",
            Retry::No => "no",
        }
    }
}

/// The reason for a refusal or for the end of a stream, the same on every transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// An invariant of the gateway broke; it ended this one connection or request.
    Internal,
    /// The node is shutting down.
    Draining,
    /// The node has no capacity for this now.
    Overloaded,
    /// The token expired; renew it, then reconnect.
    TokenExpired,
    /// The reader took no bytes for the write timeout, or fell too far behind the log.
    SlowConsumer,
    /// No pong within the ping timeout.
    PingTimeout,
    /// One of the connection limits is reached.
    TooManyConnections,
    /// Too many requests or handshakes.
    RateLimited,
    /// No `auth` frame within the time for the first frame.
    AuthTimeout,
    /// Credentials missing or not valid.
    Unauthorized,
    /// Valid credentials that do not cover this.
    Forbidden,
    /// A frame, header or parameter that breaks the protocol.
    BadFrame,
    /// An operator revoked the credentials.
    Revoked,
    /// Another connection of the same user replaced this one.
    Evicted,
    /// A protocol version or option that this node does not support.
    Unsupported,
    /// Over a size limit.
    TooLarge,
    /// The request is not one that the endpoint accepts (not JSON, a faulty parameter).
    BadRequest,
    /// No such address.
    NotFound,
    /// The address does not support this method.
    MethodNotAllowed,
    /// The id was used for other content within the dedup window.
    IdConflict,
    /// A request with the same `Idempotency-Key` is being answered.
    InProgress,
    /// The `Idempotency-Key` was used for another request within the dedup window.
    RequestConflict,
    /// A content type that the endpoint does not accept.
    UnsupportedMedia,
    /// The request took too long to arrive.
    RequestTimeout,
    /// JSON, but with faulty fields.
    Invalid,
    /// The dedup window holds as many ids as it may.
    DedupFull,
    /// The log has no room for more events; it takes them again by itself when there is room.
    LogFull,
    /// The log accepts no writes until the node is restarted.
    LogHalted,
    /// Whether the events were stored is not known.
    Unknown,
}

impl Code {
    /// Every code, in table order.
    pub const ALL: [Code; 29] = [
        Code::Internal,
        Code::Draining,
        Code::Overloaded,
        Code::TokenExpired,
        Code::SlowConsumer,
        Code::PingTimeout,
        Code::TooManyConnections,
        Code::RateLimited,
        Code::AuthTimeout,
        Code::Unauthorized,
        Code::Forbidden,
        Code::BadFrame,
        Code::Revoked,
        Code::Evicted,
        Code::Unsupported,
        Code::TooLarge,
        Code::BadRequest,
        Code::NotFound,
        Code::MethodNotAllowed,
        Code::IdConflict,
        Code::InProgress,
        Code::RequestConflict,
        Code::UnsupportedMedia,
        Code::RequestTimeout,
        Code::Invalid,
        Code::DedupFull,
        Code::LogFull,
        Code::LogHalted,
        Code::Unknown,
    ];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Code::Internal => "internal",
            Code::Draining => "draining",
            Code::Overloaded => "overloaded",
            Code::TokenExpired => "token_expired",
            Code::SlowConsumer => "slow_consumer",
            Code::PingTimeout => "ping_timeout",
            Code::TooManyConnections => "too_many_connections",
            Code::RateLimited => "rate_limited",
            Code::AuthTimeout => "auth_timeout",
            Code::Unauthorized => "unauthorized",
            Code::Forbidden => "forbidden",
            Code::BadFrame => "bad_frame",
            Code::Revoked => "revoked",
            Code::Evicted => "evicted",
            Code::Unsupported => "unsupported",
            Code::TooLarge => "too_large",
            Code::BadRequest => "bad_request",
            Code::NotFound => "not_found",
            Code::MethodNotAllowed => "method_not_allowed",
            Code::IdConflict => "id_conflict",
            Code::InProgress => "in_progress",
            Code::RequestConflict => "request_conflict",
            Code::UnsupportedMedia => "unsupported_media",
            Code::RequestTimeout => "request_timeout",
            Code::Invalid => "invalid",
            Code::DedupFull => "dedup_full",
            Code::LogFull => "log_full",
            Code::LogHalted => "log_halted",
            Code::Unknown => "unknown",
        }
    }

    /// The WebSocket close code (RFC 6455 7.4): 1xxx are registered, 4000 to 4499 are worth another try,
    /// 4500 to 4999 are final. `None` for codes that only HTTP answers have.
    pub const fn close(self) -> Option<u16> {
        Some(match self {
            Code::Internal => 1011,
            Code::Draining => 1012,
            Code::Overloaded => 1013,
            Code::TokenExpired => 4001,
            Code::SlowConsumer => 4002,
            Code::PingTimeout => 4003,
            Code::TooManyConnections => 4004,
            Code::RateLimited => 4005,
            Code::AuthTimeout => 4006,
            Code::Unauthorized => 4551,
            Code::Forbidden => 4552,
            Code::BadFrame | Code::BadRequest => 4553,
            Code::Revoked => 4554,
            Code::Evicted => 4555,
            Code::Unsupported => 4556,
            Code::TooLarge => 1009,
            Code::NotFound
            | Code::MethodNotAllowed
            | Code::IdConflict
            | Code::InProgress
            | Code::RequestConflict
            | Code::UnsupportedMedia
            | Code::RequestTimeout
            | Code::Invalid
            | Code::DedupFull
            | Code::LogFull
            | Code::LogHalted
            | Code::Unknown => return None,
        })
    }

    /// The HTTP status (RFC 9110) that refuses a request, or an SSE stream before its first frame.
    pub const fn status(self) -> u16 {
        match self {
            Code::Internal => 500,
            Code::Draining
            | Code::Overloaded
            | Code::DedupFull
            | Code::LogFull
            | Code::LogHalted
            | Code::SlowConsumer => 503,
            Code::TokenExpired | Code::Unauthorized | Code::AuthTimeout | Code::Revoked => 401,
            Code::PingTimeout | Code::RequestTimeout => 408,
            Code::TooManyConnections | Code::RateLimited => 429,
            Code::Forbidden | Code::Evicted => 403,
            Code::BadFrame | Code::BadRequest | Code::Unsupported => 400,
            Code::NotFound => 404,
            Code::MethodNotAllowed => 405,
            Code::IdConflict | Code::InProgress => 409,
            Code::TooLarge => 413,
            Code::UnsupportedMedia => 415,
            Code::Invalid | Code::RequestConflict => 422,
            Code::Unknown => 504,
        }
    }

    /// Whether another try is worth it.
    pub const fn retry(self) -> Retry {
        match self {
            Code::Internal
            | Code::Draining
            | Code::Overloaded
            | Code::SlowConsumer
            | Code::PingTimeout
            | Code::TooManyConnections
            | Code::RateLimited
            | Code::AuthTimeout
            | Code::InProgress
            | Code::RequestTimeout
            | Code::DedupFull
            | Code::LogFull
            | Code::LogHalted
            | Code::Unknown => Retry::Yes,
            Code::TokenExpired => Retry::Renew,
            Code::Unauthorized
            | Code::Forbidden
            | Code::BadFrame
            | Code::Revoked
            | Code::Evicted
            | Code::Unsupported
            | Code::TooLarge
            | Code::BadRequest
            | Code::NotFound
            | Code::MethodNotAllowed
            | Code::IdConflict
            | Code::RequestConflict
            | Code::UnsupportedMedia
            | Code::Invalid => Retry::No,
        }
    }

    /// Whether the same request, with a new token if need be, may succeed later. A final code is not
    /// worth another try.
    pub const fn is_retryable(self) -> bool {
        !matches!(self.retry(), Retry::No)
    }

    /// The meaning in one sentence, for authors of clients.
    pub const fn meaning(self) -> &'static str {
        match self {
            Code::Internal => "The gateway has a fault; it ended this one connection or request.",
            Code::Draining => "The gateway is going away.",
            Code::Overloaded => {
                "The gateway has no room now (`limit` names the bound), or cannot get the keys of the token's \
                 issuer."
            }
            Code::TokenExpired => "The token has expired; renew it before the next try.",
            Code::SlowConsumer => {
                "The reader took no byte for the write timeout, or fell behind and did not gain over all \
                 warnings."
            }
            Code::PingTimeout => "No `pong` came within the ping timeout.",
            Code::TooManyConnections => {
                "The user, the org or the address has as many connections as it may; `limit` says which."
            }
            Code::RateLimited => "Too many frames, handshakes or requests came in a second.",
            Code::AuthTimeout => "No `auth` frame came in time.",
            Code::Unauthorized => "The credentials are missing or not valid.",
            Code::Forbidden => {
                "The credentials are valid, but not for this org, service or origin, or their issuer may not \
                 speak for the org."
            }
            Code::BadFrame => "A frame breaks the protocol.",
            Code::Revoked => "An operator has taken the credentials back.",
            Code::Evicted => "Another connection of this user has taken the slot of this one.",
            Code::Unsupported => "The gateway does not speak this subprotocol, version or option.",
            Code::TooLarge => "The frame, body or header is over a size limit.",
            Code::BadRequest => "A parameter or header is faulty, or the body is not JSON.",
            Code::NotFound => "There is nothing at this address.",
            Code::MethodNotAllowed => "The address does not take this method.",
            Code::IdConflict => "The id was used for other content within the dedup window.",
            Code::InProgress => "A request with the same `Idempotency-Key` is still being answered.",
            Code::RequestConflict => {
                "The `Idempotency-Key` was used for another request within the dedup window."
            }
            Code::UnsupportedMedia => "The address does not take this content type.",
            Code::RequestTimeout => "The body did not arrive in time.",
            Code::Invalid => "The body is JSON, but some of its fields are faulty; `errors` lists them.",
            Code::DedupFull => "The dedup window holds as many ids as it may.",
            Code::LogFull => {
                "The log has no room for more events, for now: its disk is nearly full, or it takes as much as it may."
            }
            Code::LogHalted => "The log takes no writes until an operator restarts the gateway.",
            Code::Unknown => {
                "Whether the events were stored is not known; sending them again with the same ids is safe."
            }
        }
    }

    /// The code of a WebSocket close code; of two, the first of the table.
    pub fn from_close(close: u16) -> Option<Code> {
        Self::ALL.into_iter().find(|code| code.close() == Some(close))
    }

    /// The code with this wire name.
    pub fn from_name(name: &str) -> Option<Code> {
        Code::ALL.into_iter().find(|code| code.name() == name)
    }
}

/// What a `status` frame reports; the stream goes on (PROTOCOL.md, "Frames").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StatusCode {
    /// The log takes no writes until it has recovered or the node is restarted.
    LogHalted,
    /// The log has no room: no new events come until there is some.
    LogFull,
    /// The log works with difficulty: events may be late.
    Degraded,
    /// The log works again.
    Recovered,
    /// The reader falls behind.
    SlowConsumer,
    /// A token could not be verified now; the stream goes on with the one before.
    Overloaded,
}

impl StatusCode {
    /// Every one of them, in the order of the table.
    pub const ALL: [StatusCode; 6] = [
        StatusCode::LogHalted,
        StatusCode::LogFull,
        StatusCode::Degraded,
        StatusCode::Recovered,
        StatusCode::SlowConsumer,
        StatusCode::Overloaded,
    ];

    /// The name on the wire. A [`Code`] that is reported while the stream goes on keeps its name.
    pub const fn name(self) -> &'static str {
        match self {
            StatusCode::LogHalted => Code::LogHalted.name(),
            StatusCode::LogFull => Code::LogFull.name(),
            StatusCode::Degraded => "degraded",
            StatusCode::Recovered => "recovered",
            StatusCode::SlowConsumer => Code::SlowConsumer.name(),
            StatusCode::Overloaded => Code::Overloaded.name(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_codes_say_whether_to_come_back() {
        for code in Code::ALL {
            assert_eq!(Code::from_name(code.name()), Some(code));
            match code.close() {
                Some(4000..=4499) => assert!(code.is_retryable(), "{code:?}"),
                Some(4500..=4999) => assert!(!code.is_retryable(), "{code:?}"),
                _ => {}
            }
        }
    }
}
