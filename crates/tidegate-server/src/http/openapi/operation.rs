//! What each endpoint takes and answers, in words and codes: the part of the description that stands
//! still. Bounds come from the configuration, when the document is made.
//!
//! Who changes what an endpoint answers, changes it here too: debug builds hold every answer against
//! these lists (`super::tells`), and `tests/it/openapi` provokes each of them.

use tidegate_protocol::Code;

use crate::http::table::Endpoint;

/// How the operations are grouped for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    Publish,
    Stream,
    History,
    Description,
    Browsers,
}

impl Tag {
    pub const ALL: [Tag; 5] = [Tag::Publish, Tag::Stream, Tag::History, Tag::Description, Tag::Browsers];

    pub const fn name(self) -> &'static str {
        match self {
            Tag::Publish => "Publish",
            Tag::Stream => "Stream",
            Tag::History => "History",
            Tag::Description => "Description",
            Tag::Browsers => "Browsers",
        }
    }

    pub const fn description(self) -> &'static str {
        match self {
            Tag::Publish => "Events in, by a backend that holds an API key.",
            Tag::Stream => "Events out, live and resumed, over WebSocket or server-sent events.",
            Tag::History => "Events out, page by page, and the place of now.",
            Tag::Description => "This document.",
            Tag::Browsers => "What browsers ask by themselves before a page's request (CORS).",
        }
    }
}

/// A way to say who one is; any one of an operation's list will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// A publisher's API key.
    PublishKey,
    /// A reader's token in the header.
    ReaderToken,
    /// A reader's token in the address.
    UrlToken,
    /// A reader's token in a cookie, where `auth.cookie` names one.
    Cookie,
}

/// A parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parameter {
    Org,
    /// An org that nobody looks at.
    AnyOrg,
    Services,
    After,
    Limit,
    Cursor,
    Tail,
    Slow,
    Deflate,
    Batch,
    Replaces,
    LastEventId,
    IdempotencyKey,
    Service,
    IfNoneMatch,
}

/// A form of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    Events,
    EventLines,
    CloudEvent,
    CloudEvents,
}

/// What an answer that is no refusal holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    Nothing,
    Published,
    Page,
    CursorNow,
    Frames,
    Description,
}

impl Content {
    /// Its content type, without parameters.
    pub const fn media_type(self) -> Option<&'static str> {
        match self {
            Content::Nothing => None,
            Content::Published | Content::Page | Content::CursorNow | Content::Description => {
                Some("application/json")
            }
            Content::Frames => Some("text/event-stream"),
        }
    }
}

/// A header of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    RetryAfter,
    Cursor,
    WwwAuthenticate,
    Etag,
    Allow,
    AllowMethods,
    AllowHeaders,
    WebSocketAccept,
    WebSocketProtocol,
    WebSocketVersion,
}

/// An answer that is no refusal.
#[derive(Debug)]
pub struct Answered {
    pub status: u16,
    pub content: Content,
    pub headers: &'static [Header],
    pub description: &'static str,
}

/// A refusal.
#[derive(Debug)]
pub struct Refused {
    pub code: Code,
    /// The code's own, but for what HTTP says more exactly.
    pub status: u16,
    pub when: &'static str,
}

const fn refused(code: Code, when: &'static str) -> Refused {
    Refused { code, status: code.status(), when }
}

/// One endpoint.
#[derive(Debug)]
pub struct Operation {
    pub tag: Tag,
    pub summary: &'static str,
    pub description: &'static str,
    /// Empty: anybody may.
    pub security: &'static [Scheme],
    pub parameters: &'static [Parameter],
    pub bodies: &'static [Body],
    pub answers: &'static [Answered],
    pub refusals: &'static [Refused],
}

/// What `endpoint` takes and answers.
pub fn of(endpoint: Endpoint) -> &'static Operation {
    match endpoint {
        Endpoint::Publish => &PUBLISH,
        Endpoint::History => &HISTORY,
        Endpoint::Cursor => &CURSOR,
        Endpoint::Stream => &STREAM,
        Endpoint::Description => &DESCRIPTION,
        Endpoint::Preflight => &PREFLIGHT,
    }
}

const NO_KEY: &str = "no API key, or not a valid one";
const NO_TOKEN: &str = "no token, or not a valid one";
const TOKEN_EXPIRED: &str = "the token ran out: get a new one, then ask again";
const READ_FORBIDDEN: &str = "\
the token is for another org, or does not cover a service of `services`, or pages of this origin may not \
connect, or not with a cookie";
const BAD_READ: &str = "\
a name that is none, or a faulty, repeated or out-of-range parameter, or a faulty or repeated header";
const BAD_HEADER: &str = "a faulty or repeated header";
const READ_OVERLOADED: &str = "\
the org's log cannot be opened now, or the gateway holds as many orgs as it may, or the keys of the \
token's issuer cannot be had now";
const TOO_MANY_BAD: &str = "this address brings bad tokens more often than `limits.failed_auths_per_second`";
const LOG_BROKEN: &str = "the log cannot be read";

static PUBLISH: Operation = Operation {
    tag: Tag::Publish,
    summary: "Publish events",
    description: "\
Appends one event, an array of them, or one a line, to the org's log: all or none.

An answer of 200 says that the events are kept; no reader has seen them earlier. The order within a \
request is kept. An event with an `id` is stored once: sent again within the dedup window it is answered \
with its first place and `duplicate: true`. After 503, 504 or a broken connection, sending the same ids \
again is safe; events without ids get theirs from `Idempotency-Key`, or from the gateway.

Unknown members are ignored, but for misspellings of `users`.

CloudEvents 1.0 are taken too, and answered 202 without a body: structured and in batches as below, and in \
binary mode, with `data` in the body and each attribute in a header `ce-<attribute>`. Two are the same where \
service, `source` and `id` are. Their `service` stands in the event, or in the address, or is the `source` \
where that is the name of one.",
    security: &[Scheme::PublishKey],
    parameters: &[Parameter::Org, Parameter::IdempotencyKey, Parameter::Service],
    bodies: &[Body::Events, Body::EventLines, Body::CloudEvent, Body::CloudEvents],
    answers: &[
        Answered {
            status: 200,
            content: Content::Published,
            headers: &[],
            description: "Kept. One entry an event, in the order of the request.",
        },
        Answered {
            status: 202,
            content: Content::Nothing,
            headers: &[Header::Cursor],
            description: "CloudEvents were kept. No body, since routers would take one for an event to deliver.",
        },
    ],
    refusals: &[
        refused(
            Code::BadRequest,
            "the body is not JSON or ended early, a faulty or repeated header, or a name that is none",
        ),
        refused(Code::Unauthorized, NO_KEY),
        refused(
            Code::Forbidden,
            "the key is for another org, or does not cover the service of an event, or pages of this origin may \
             not connect",
        ),
        refused(Code::RequestTimeout, "the body took longer than `limits.request_timeout`"),
        refused(Code::IdConflict, "an id came before with other content"),
        refused(
            Code::TooLarge,
            "the body, an event, or the number of events; `limit` names the configuration key",
        ),
        refused(Code::UnsupportedMedia, "another content type, or a CloudEvent with data that is not JSON"),
        refused(Code::Invalid, "faulty fields, all of them in `errors`"),
        refused(Code::RateLimited, "the key publishes more often than `limits.publishes_per_second`"),
        refused(Code::Overloaded, "no room now; `limit` says for what"),
        refused(
            Code::DedupFull,
            "the dedup window, or the org's part of it, holds as many ids as it may; `limit` says which",
        ),
        refused(Code::LogHalted, "the log takes no writes until an operator restarts the gateway"),
        refused(Code::Draining, "the gateway is going away"),
        refused(
            Code::Unknown,
            "whether the events were stored is not known, and `limit` says whether the time was up; `ids` lists \
             their ids, to send again",
        ),
    ],
};

static HISTORY: Operation = Operation {
    tag: Tag::History,
    summary: "Read a page of events",
    description: "\
Events that this reader may see, oldest first, behind `after`, or from the oldest that is kept.

Ask again with the page's `cursor` while `has_more`; a page may be empty and still have more behind it. \
`gap` stands on a page where something between `after` and its first event is gone.",
    security: &[Scheme::ReaderToken, Scheme::Cookie],
    parameters: &[Parameter::Org, Parameter::After, Parameter::Limit, Parameter::Services],
    bodies: &[],
    answers: &[Answered { status: 200, content: Content::Page, headers: &[], description: "A page." }],
    refusals: &[
        refused(Code::BadRequest, BAD_READ),
        refused(Code::Unauthorized, NO_TOKEN),
        refused(Code::TokenExpired, TOKEN_EXPIRED),
        refused(Code::Forbidden, READ_FORBIDDEN),
        refused(Code::RateLimited, TOO_MANY_BAD),
        refused(Code::Internal, LOG_BROKEN),
        refused(Code::Overloaded, READ_OVERLOADED),
    ],
};

static CURSOR: Operation = Operation {
    tag: Tag::History,
    summary: "Take the place of now",
    description: "\
The end of the log as a cursor. A page that shows state and then follows it takes this first, then reads \
the state, then streams from this cursor: nothing falls in between.",
    security: &[Scheme::ReaderToken, Scheme::Cookie],
    parameters: &[Parameter::Org, Parameter::Services],
    bodies: &[],
    answers: &[Answered {
        status: 200,
        content: Content::CursorNow,
        headers: &[],
        description: "The place, tagged for these services.",
    }],
    refusals: &[
        refused(Code::BadRequest, BAD_READ),
        refused(Code::Unauthorized, NO_TOKEN),
        refused(Code::TokenExpired, TOKEN_EXPIRED),
        refused(Code::Forbidden, READ_FORBIDDEN),
        refused(Code::RateLimited, TOO_MANY_BAD),
        refused(Code::Overloaded, READ_OVERLOADED),
    ],
};

static STREAM: Operation = Operation {
    tag: Tag::Stream,
    summary: "Open a stream",
    description: "\
One address for two transports with the same frames (`ServerFrame`).

**Server-sent events** for a request that accepts `text/event-stream`. Each frame is one event: `id:` \
where it has a cursor, and one `data:` line; there is no `event:` line. A native EventSource comes back by \
itself, with `Last-Event-ID`. To a stream that is authorised by `access_token`, or by a cookie where the \
gateway takes one, a refusal that may be retried is 200 and one `error` frame, for EventSource gives up on any \
other status; an expired `access_token` is refused by 401, since no retry changes it.

**WebSocket** for an upgrade (RFC 6455, version 13). Each frame is one text message. A token comes in \
`Authorization`, as the subprotocol `tidegate.bearer.<jwt>` beside `tidegate.v1`, or in a first frame \
(`ClientFrame`). Well-formed upgrades are always accepted: a refusal comes as an `error` frame and a close \
code, since browsers cannot see why an upgrade failed.

A stream begins with `hello` and goes on from `Last-Event-ID`, else from `cursor`, else with the last \
`tail` events, else at the head. Every frame that moves a reader's place has `prev` and `seq`; what is \
missing is declared by a `gap`. Ended streams are to be resumed from the last place, after the delays that \
the protocol names.",
    security: &[Scheme::ReaderToken, Scheme::UrlToken, Scheme::Cookie],
    parameters: &[
        Parameter::Org,
        Parameter::Services,
        Parameter::Cursor,
        Parameter::Tail,
        Parameter::Slow,
        Parameter::Deflate,
        Parameter::Batch,
        Parameter::Replaces,
        Parameter::LastEventId,
    ],
    bodies: &[],
    answers: &[
        Answered {
            status: 101,
            content: Content::Nothing,
            headers: &[Header::WebSocketAccept, Header::WebSocketProtocol],
            description: "The connection speaks WebSocket from here on.",
        },
        Answered {
            status: 200,
            content: Content::Frames,
            headers: &[],
            description: "A stream of server-sent events, without an end of its own.",
        },
    ],
    refusals: &[
        refused(
            Code::BadRequest,
            "a name that is none, a faulty, repeated or out-of-range parameter or header, or a malformed upgrade",
        ),
        refused(Code::Unsupported, "a policy of `slow`, or a version of HTTP, that is not spoken here"),
        refused(Code::Unauthorized, NO_TOKEN),
        refused(Code::TokenExpired, TOKEN_EXPIRED),
        refused(
            Code::Forbidden,
            "the token does not cover what is asked for, or pages of this origin may not connect, or not with a \
             cookie",
        ),
        Refused { code: Code::Unsupported, status: 426, when: "a WebSocket version other than 13" },
        refused(
            Code::TooManyConnections,
            "the user, the org or the address has as many connections as it may; `limit` says which",
        ),
        refused(Code::RateLimited, "more new connections a second than `limits.handshakes_per_second`"),
        refused(Code::Internal, LOG_BROKEN),
        refused(
            Code::Overloaded,
            "the gateway has as many connections or orgs as it may, or as many readers wait for what they missed \
             as may, or the org's log cannot be opened now, or the keys of the token's issuer cannot be had now",
        ),
        refused(Code::Draining, "the gateway is going away"),
    ],
};

static DESCRIPTION: Operation = Operation {
    tag: Tag::Description,
    summary: "Read this document",
    description: "The description of this gateway, with its bounds as they are configured now.",
    security: &[],
    parameters: &[Parameter::IfNoneMatch],
    bodies: &[],
    answers: &[
        Answered {
            status: 200,
            content: Content::Description,
            headers: &[Header::Etag],
            description: "An OpenAPI document.",
        },
        Answered {
            status: 304,
            content: Content::Nothing,
            headers: &[Header::Etag],
            description: "It is still the one that `If-None-Match` names.",
        },
    ],
    refusals: &[refused(Code::BadRequest, BAD_HEADER)],
};

static PREFLIGHT: Operation = Operation {
    tag: Tag::Browsers,
    summary: "Ask whether a page may send a request",
    description: "\
Browsers send it, with `Origin`, before a request with headers of its own. Pages may that are served from \
the gateway's own host, or from an origin that `auth.origins` lists; the latter find \
`Access-Control-Allow-Origin` in every answer.",
    security: &[],
    // The request itself is refused for a faulty org, with a word that the page can read.
    parameters: &[Parameter::AnyOrg],
    bodies: &[],
    answers: &[Answered {
        status: 204,
        content: Content::Nothing,
        headers: &[Header::Allow, Header::AllowMethods, Header::AllowHeaders],
        description: "It may.",
    }],
    refusals: &[
        refused(Code::BadRequest, BAD_HEADER),
        refused(Code::Forbidden, "pages of this origin may not connect; `auth.origins` lists those that may"),
    ],
};
