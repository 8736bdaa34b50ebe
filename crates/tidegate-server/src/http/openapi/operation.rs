//! What each endpoint takes and answers, in words and codes: the part of the description that does not depend
//! on the configuration.
//!
//! A change of an endpoint's answers belongs here too: debug builds check every answer against these lists
//! (`super::describes`), and `tests/it/openapi` provokes each of them.

use tidegate_protocol::Code;

use crate::http::table::Endpoint;

/// The groups of operations.
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
            Tag::History => "Events out, page by page, and the present end of the log.",
            Tag::Description => "This document.",
            Tag::Browsers => "What browsers send by themselves before a page's request (CORS).",
        }
    }
}

/// A way to authenticate; any one of an operation's list is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// A publisher's API key.
    PublishKey,
    /// A reader's token in the header.
    ReaderToken,
    /// A reader's token in the address.
    UrlToken,
    /// A reader's token in a cookie, if `auth.cookie` names one.
    Cookie,
}

/// A parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parameter {
    Org,
    /// An org that is ignored.
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
    /// `Last-Event-ID` in the query, under the three names that polyfills of EventSource give it.
    QueryLastEventId,
    QueryLastEventIdSnake,
    QueryLastEventIdHeader,
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
    /// The same, each with its org.
    OrgEvents,
    OrgEventLines,
    OrgCloudEvent,
    OrgCloudEvents,
}

/// The content of an answer that is not a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    Nothing,
    Published,
    PublishedToOrgs,
    PartlyPublished,
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
            Content::Published
            | Content::PublishedToOrgs
            | Content::PartlyPublished
            | Content::Page
            | Content::CursorNow
            | Content::Description => Some("application/json"),
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
    AcceptEncoding,
}

/// An answer that is not a refusal.
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
    /// The code's own status, unless HTTP has a more exact one.
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
    /// Empty: no authentication.
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
        Endpoint::PublishToOrgs => &PUBLISH_TO_ORGS,
        Endpoint::History => &HISTORY,
        Endpoint::Cursor => &CURSOR,
        Endpoint::Stream => &STREAM,
        Endpoint::Description => &DESCRIPTION,
        Endpoint::Preflight => &PREFLIGHT,
    }
}

const NO_KEY: &str = "no API key, or not a valid one";
const NO_TOKEN: &str = "no token, or not a valid one";
const TOKEN_EXPIRED: &str = "the token has expired: get a new one, then retry";
const READ_FORBIDDEN: &str = "\
the token is for another org, or does not cover a service of `services`, or the page's origin may not connect, \
or not with a cookie";
const BAD_READ: &str = "\
a faulty name, or a faulty, repeated, out-of-range or unknown parameter, or a faulty or repeated header";
const BAD_HEADER: &str = "a faulty or repeated header";
const READ_OVERLOADED: &str = "\
the org's log cannot be opened now, or the gateway has its maximum of orgs, or the keys of the \
token's issuer are not available now";
const HISTORY_OVERLOADED: &str = "\
the answers to this user or org that wait to be taken hold as much memory as they may (`limit` says whose), or the \
org's log cannot be opened now, or the gateway has its maximum of orgs, or the keys of the token's issuer are not \
available now";
const READ_LOG_FULL: &str =
    "the log has no room, not even to note the first use of this org since the gateway started";
const TOO_MANY_BAD: &str = "this address sends bad tokens more often than `limits.failed_auths_per_second`";
const TOO_MUCH_READ: &str = "\
this address sends bad tokens more often than `limits.failed_auths_per_second`, or more of the log is looked through \
for this user than `limits.scan_bytes_per_second` allows, or the org reads more history than its quota allows; `limit` \
says which";
const LOG_BROKEN: &str = "the log cannot be read";

static PUBLISH: Operation = Operation {
    tag: Tag::Publish,
    summary: "Publish events",
    description: "\
Appends one event, an array of events, or one event per line, to the org's log: all or none.

An answer of 200 means that the events are stored; no reader has seen them before. Events of one request \
keep their order. An event with an `id` is stored once: sent again within the dedup window it is answered \
with its first seq and `duplicate: true`. After 503, 504 or a broken connection, sending the same ids \
again is safe; events without ids get ids from `Idempotency-Key`, or from the gateway. The key stands for \
the whole request: with other events it is refused.

The body may be compressed (`Content-Encoding: gzip` or `deflate`); the limits count what it inflates to.

Members that are not described here are refused: ignoring a misspelt `users` would show everybody what was \
meant for one. `org` may be there if it is the org of the address. Extensions of CloudEvents are ignored, unless their name is probably meant as `users`.

CloudEvents 1.0 are accepted too, and answered 202 without a body: structured and in batches as below, and in \
binary mode, with `data` in the body and each attribute in a header `ce-<attribute>`. Two are the same if \
service, `source` and `id` are. Their `service` is in the event, or in the address, or is the `source` \
if that is the name of a service.",
    security: &[Scheme::PublishKey],
    parameters: &[Parameter::Org, Parameter::IdempotencyKey, Parameter::Service],
    bodies: &[Body::Events, Body::EventLines, Body::CloudEvent, Body::CloudEvents],
    answers: &[
        Answered {
            status: 200,
            content: Content::Published,
            headers: &[],
            description: "Stored. One entry per event, in the order of the request.",
        },
        Answered {
            status: 202,
            content: Content::Nothing,
            headers: &[Header::Cursor],
            description: "CloudEvents were stored. No body, because routers would take one for an event to deliver.",
        },
    ],
    refusals: &[
        refused(
            Code::BadRequest,
            "the body is not JSON or ended early, its compressed data is damaged, a faulty or repeated header, or a faulty name",
        ),
        refused(Code::Unauthorized, NO_KEY),
        refused(
            Code::Forbidden,
            "the key does not cover the org, or the service of an event, or the page's origin may not connect",
        ),
        refused(Code::RequestTimeout, "the body took longer than `limits.request_timeout`"),
        refused(Code::IdConflict, "an id was used before with other content"),
        refused(Code::InProgress, "a request with the same `Idempotency-Key` is still being answered"),
        refused(
            Code::TooLarge,
            "the body, an event, or the number of events is over a limit; `limit` names the configuration key",
        ),
        refused(
            Code::UnsupportedMedia,
            "any other content type, a `Content-Encoding` that is not taken (with `Accept-Encoding`), or a \
             CloudEvent with data that is not JSON",
        ),
        refused(Code::Invalid, "faulty fields, all of them in `errors`"),
        refused(Code::RequestConflict, "the `Idempotency-Key` was used before for a request with other events"),
        refused(
            Code::RateLimited,
            "the key publishes to this org more often than `limits.publishes_per_second`, or the org publishes more \
             events or bytes than its quotas allow; `limit` says which",
        ),
        refused(Code::Overloaded, "no room now; `limit` says for what"),
        refused(
            Code::DedupFull,
            "the dedup window, or the org's part of it, holds its maximum of ids; `limit` says which",
        ),
        refused(Code::LogFull, "the log has no room for more events, for now"),
        refused(Code::LogHalted, "the log accepts no writes until an operator restarts the gateway"),
        refused(Code::Draining, "the gateway is shutting down"),
        refused(
            Code::Unknown,
            "it is not known whether the events were stored; `limit` is set if the time was up; `ids` lists \
             their ids, to send again",
        ),
    ],
};

static PUBLISH_TO_ORGS: Operation = Operation {
    tag: Tag::Publish,
    summary: "Publish events to several orgs",
    description: "\
Takes the same events as `publishEvents`, each with its `org`, for an API key that covers these orgs.

**All or none, for each org.** The whole request is checked before anything is stored: if a field is faulty, or \
the key does not cover an org or a service, everything is refused. After that, each org's events are stored or \
refused on their own. 200 means that all are stored. 207 means that some are: `orgs` has the cursor or the \
problem of each org, and `events` says what became of each event. If all are refused with one code, the \
answer is that refusal, and `orgs` has the problem of each. Sending the whole request again is safe if its \
events have ids, or the request an `Idempotency-Key`: what is stored is answered with `duplicate: true`.

CloudEvents name their org in the extension `org`, in binary mode in the header `ce-org`. If all are of one org, \
the answer is 202 without a body; otherwise it is the one for plain events.",
    security: &[Scheme::PublishKey],
    parameters: &[Parameter::IdempotencyKey, Parameter::Service],
    bodies: &[Body::OrgEvents, Body::OrgEventLines, Body::OrgCloudEvent, Body::OrgCloudEvents],
    answers: &[
        Answered {
            status: 200,
            content: Content::PublishedToOrgs,
            headers: &[],
            description: "All are stored. `orgs` has one entry per org, in the order in which they first appear, and \
                          `events` one per event, in the order of the request.",
        },
        Answered {
            status: 202,
            content: Content::Nothing,
            headers: &[Header::Cursor],
            description: "CloudEvents of one org were stored. No body, because routers would take one for an event to deliver.",
        },
        Answered {
            status: 207,
            content: Content::PartlyPublished,
            headers: &[],
            description: "The events of at least one org are refused: an org with `cursor` is stored, one with \
                          `problem` is not. If all are refused, it is for different reasons.",
        },
    ],
    refusals: &[
        refused(
            Code::BadRequest,
            "the body is not JSON or ended early, a faulty or repeated header, or a faulty name",
        ),
        refused(Code::Unauthorized, NO_KEY),
        refused(
            Code::Forbidden,
            "the key does not cover the org or the service of an event, or the page's origin may not connect",
        ),
        refused(Code::RequestTimeout, "the body took longer than `limits.request_timeout`"),
        refused(Code::IdConflict, "an id was used before in its org with other content"),
        refused(Code::InProgress, "a request with the same `Idempotency-Key` is still being answered"),
        refused(
            Code::TooLarge,
            "the body, an event, or the number of events or of orgs is over a limit; `limit` names the \
             configuration key",
        ),
        refused(
            Code::UnsupportedMedia,
            "any other content type, a `Content-Encoding` that is not taken (with `Accept-Encoding`), or a \
             CloudEvent with data that is not JSON",
        ),
        refused(Code::Invalid, "faulty fields, all of them in `errors`"),
        refused(Code::RequestConflict, "the `Idempotency-Key` was used before for a request with other events"),
        refused(
            Code::RateLimited,
            "the key publishes to each of the orgs more often than `limits.publishes_per_second`, or all of them \
             publish more events or bytes than their quotas allow",
        ),
        refused(Code::Overloaded, "no room now; `limit` says for what"),
        refused(
            Code::DedupFull,
            "the dedup window, or the org's part of it, holds its maximum of ids; `limit` says which",
        ),
        refused(Code::LogFull, "the log has no room for more events, for now"),
        refused(Code::LogHalted, "the log accepts no writes until an operator restarts the gateway"),
        refused(Code::Draining, "the gateway is shutting down"),
        refused(
            Code::Unknown,
            "it is not known whether the events were stored; `limit` is set if the time was up; `ids` lists \
             their ids, to send again",
        ),
    ],
};

static HISTORY: Operation = Operation {
    tag: Tag::History,
    summary: "Read a page of events",
    description: "\
Events that this reader may see, oldest first, after `after`, or from the oldest that is stored.

Ask again with the page's `cursor` while `has_more`; a page may hold fewer events than `limit`, or none, and still \
have more after it: it ends also when so much of the log was looked through (`limits.scan_bytes`, \
`limits.tail_search_events`). A page has `gap` if something between `after` and its first event is missing.

A long page is made while the client takes it. If it cannot be made to its end, the connection is cut, or over HTTP/2 \
the stream is reset: what came is not a page.",
    security: &[Scheme::ReaderToken, Scheme::Cookie],
    parameters: &[Parameter::Org, Parameter::After, Parameter::Limit, Parameter::Services],
    bodies: &[],
    answers: &[Answered { status: 200, content: Content::Page, headers: &[], description: "A page." }],
    refusals: &[
        refused(Code::BadRequest, BAD_READ),
        refused(Code::Unauthorized, NO_TOKEN),
        refused(Code::TokenExpired, TOKEN_EXPIRED),
        refused(Code::Forbidden, READ_FORBIDDEN),
        refused(Code::RateLimited, TOO_MUCH_READ),
        refused(Code::Internal, LOG_BROKEN),
        refused(Code::Overloaded, HISTORY_OVERLOADED),
        refused(Code::LogFull, READ_LOG_FULL),
    ],
};

static CURSOR: Operation = Operation {
    tag: Tag::History,
    summary: "Take a cursor at the present end",
    description: "\
The end of the log as a cursor. A page that shows state and then follows it takes this first, then reads \
the state, then streams from this cursor, and so misses nothing in between.",
    security: &[Scheme::ReaderToken, Scheme::Cookie],
    parameters: &[Parameter::Org, Parameter::Services],
    bodies: &[],
    answers: &[Answered {
        status: 200,
        content: Content::CursorNow,
        headers: &[],
        description: "The cursor, tagged for these services.",
    }],
    refusals: &[
        refused(Code::BadRequest, BAD_READ),
        refused(Code::Unauthorized, NO_TOKEN),
        refused(Code::TokenExpired, TOKEN_EXPIRED),
        refused(Code::Forbidden, READ_FORBIDDEN),
        refused(Code::RateLimited, TOO_MANY_BAD),
        refused(Code::Overloaded, READ_OVERLOADED),
        refused(Code::LogFull, READ_LOG_FULL),
    ],
};

static STREAM: Operation = Operation {
    tag: Tag::Stream,
    summary: "Open a stream",
    description: "\
One address for two transports with the same frames (`ServerFrame`).

**Server-sent events** for a request that accepts `text/event-stream`. Each frame is one event: its JSON \
in one `data:` line (a long event: in several), then `id:` if it has a cursor; there is no `event:` line. A native EventSource reconnects by \
itself, with `Last-Event-ID`; polyfills that cannot set it send `lastEventId` in the query. If a stream is authorised by `access_token`, or by a cookie, a refusal that may \
be retried is 200 and one `error` frame, because EventSource gives up on any other status; an expired \
`access_token` is refused with 401, because no retry changes it.

**WebSocket** for an upgrade (RFC 6455, version 13). Each frame is one text message. A token comes in \
`Authorization`, as the subprotocol `tidegate.bearer.<jwt>` beside `tidegate.v1`, or in a first frame \
(`ClientFrame`). Well-formed upgrades are always accepted: a refusal comes as an `error` frame and a close \
code, because browsers cannot see why an upgrade failed.

A stream begins with `hello` and continues after `Last-Event-ID` (the header, else the query), else after `cursor`, else with the last \
`tail` events, else at the head. Every frame that moves a reader's cursor has `prev` and `seq`; missing events \
are declared by a `gap`. Resume an ended stream from the last cursor, after the delays that the protocol \
defines.",
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
        Parameter::QueryLastEventId,
        Parameter::QueryLastEventIdSnake,
        Parameter::QueryLastEventIdHeader,
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
            description: "A stream of server-sent events that does not end by itself.",
        },
    ],
    refusals: &[
        refused(
            Code::BadRequest,
            "a faulty name, a faulty, repeated, out-of-range or unknown parameter, a faulty header, or a malformed \
             upgrade",
        ),
        refused(Code::Unsupported, "a policy of `slow`, or a version of HTTP, that is not supported"),
        refused(Code::Unauthorized, NO_TOKEN),
        refused(Code::TokenExpired, TOKEN_EXPIRED),
        refused(
            Code::Forbidden,
            "the token does not cover the request, or the page's origin may not connect, or not with a cookie",
        ),
        Refused { code: Code::Unsupported, status: 426, when: "a WebSocket version other than 13" },
        refused(
            Code::TooManyConnections,
            "the user, the org or the address has its maximum of connections; `limit` says which",
        ),
        refused(
            Code::RateLimited,
            "more new connections per second than `limits.handshakes_per_second`, or with `tail` more of the log is \
             looked through for this user than `limits.scan_bytes_per_second` allows",
        ),
        refused(Code::Internal, LOG_BROKEN),
        refused(
            Code::Overloaded,
            "the gateway has its maximum of connections or orgs, or the org its maximum of different sets of \
             services, or too many readers are waiting for their replay, or what is in flight for this user or org holds as much \
             memory as it may, or the org's log cannot be opened now, or the keys of the token's issuer are not available now",
        ),
        refused(Code::Draining, "the gateway is shutting down"),
    ],
};

static DESCRIPTION: Operation = Operation {
    tag: Tag::Description,
    summary: "Read this document",
    description: "The description of this gateway, with the limits that are configured now.",
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
            description: "It is still the version that `If-None-Match` names.",
        },
    ],
    refusals: &[refused(Code::BadRequest, BAD_HEADER)],
};

static PREFLIGHT: Operation = Operation {
    tag: Tag::Browsers,
    summary: "Ask whether a page may send a request",
    description: "\
Browsers send it, with `Origin`, before a request that sets its own headers. It is allowed to pages from the \
gateway's own host, and from an origin that `auth.origins` lists; the latter get \
`Access-Control-Allow-Origin` in every answer.",
    security: &[],
    // The request itself is refused if the org is faulty, with an error that the page can read.
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
        refused(Code::Forbidden, "the page's origin may not connect; `auth.origins` lists those that may"),
    ],
};
