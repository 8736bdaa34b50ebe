//! The schemas of the description: names, events, answers, refusals and frames.
//!
//! Grammars and codes come from the protocol crate. `tests/it/openapi` checks that the shapes are what is
//! sent: it validates every kind of answer and frame against them, and finds undescribed members too.

use serde_json::{Map, Value, json};
use tidegate_protocol::{
    Code, Cursor, Epoch, EventId, EventName, FilterTag, GapReason, Key, OrgId, SEQ_MAX, ServiceName, Source,
    StatusCode, Subject, UserId,
    frame::{HealthReport, PROTOCOL_VERSION},
};

use super::operation::Refused;
use crate::{admission::ConnectionId, config::LimitSettings};

/// A reference to a schema.
pub fn at(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// Every schema, by its name.
pub fn all(limits: &LimitSettings, codes: &[Code]) -> Value {
    let mut all = Map::new();
    for part in
        [names(), events(limits), cloud_events(limits), answers(), refusals(codes), frames(), client_frames()]
    {
        if let Value::Object(part) = part {
            all.extend(part);
        }
    }
    Value::Object(all)
}

fn name(what: &str, rule: &str, pattern: &str, example: &str) -> Value {
    json!({
        "type": "string",
        "description": format!("{what}: {rule}."),
        "pattern": pattern,
        "examples": [example],
    })
}

fn names() -> Value {
    json!({
        "Org": name("A tenant", OrgId::RULE, OrgId::PATTERN, "dev"),
        "Service": name(
            "The part of the tenant's backend that an event belongs to",
            ServiceName::RULE,
            ServiceName::PATTERN,
            "finance",
        ),
        "EventName": name("What happened", EventName::RULE, EventName::PATTERN, "invoice.paid"),
        "EventId": name(
            "Identifies an event to its publisher; unique per org and service",
            EventId::RULE,
            EventId::PATTERN,
            "inv-7",
        ),
        "Key": name("What an event is about", Key::RULE, Key::PATTERN, "invoice-7"),
        "User": name("A subscriber, as its token names it", UserId::RULE, UserId::PATTERN, "ann"),
        "Source": name("Where a CloudEvent comes from", Source::RULE, Source::PATTERN, "/billing"),
        "Subject": name("What a CloudEvent is about, within its source", Subject::RULE, Subject::PATTERN, "invoice 42"),
        "Seq": {
            "type": "integer",
            "description": "A position in a log. Rises; need not be dense.",
            "minimum": 0,
            "maximum": SEQ_MAX,
            "examples": [1042],
        },
        "Epoch": {
            "type": "string",
            "description": "One incarnation of a log: every start of the gateway begins a new one.",
            "pattern": Epoch::PATTERN,
            "examples": ["0k3v9x1m2p4qz"],
        },
        "FilterTag": {
            "type": "string",
            "description": "A short hash of the services that a cursor accounts for.",
            "pattern": FilterTag::PATTERN,
            "examples": ["y3sgfaip"],
        },
        "Cursor": {
            "type": "string",
            "description": "A position: `<epoch>-<seq>`, or `<epoch>-<seq>-<tag>`. Store it as it is.",
            "pattern": Cursor::PATTERN,
            "examples": ["0k3v9x1m2p4qz-1042"],
        },
        "ConnectionId": {
            "type": "string",
            "description": "The id of a connection, from its `hello`. Store it as it is.",
            "pattern": ConnectionId::PATTERN,
            "examples": ["0k3v9x1m2p4qz-7"],
        },
        "Timestamp": {
            "type": "string",
            "description": "RFC 3339, in UTC with milliseconds.",
            "format": "date-time",
            "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$",
            "examples": ["2026-11-24T09:30:00.000Z"],
        },
        "Milliseconds": { "type": "integer", "minimum": 0 },
        "Services": {
            "description": "The shown services; `[\"*\"]` for all.",
            "anyOf": [
                { "const": ["*"] },
                { "type": "array", "minItems": 1, "items": at("Service") },
            ],
        },
    })
}

/// The members of an event that are the same on its way in and out.
fn content() -> Map<String, Value> {
    let data = json!({ "description": "Any JSON value, kept token for token." });
    Map::from_iter([
        ("service".to_owned(), at("Service")),
        ("event".to_owned(), at("EventName")),
        ("id".to_owned(), at("EventId")),
        ("key".to_owned(), at("Key")),
        ("data".to_owned(), data),
    ])
}

/// A stored event, with the members `more` first.
fn stored(more: &[(&str, Value)]) -> Value {
    let mut properties = content();
    let mut required: Vec<&str> = more.iter().map(|(name, _)| *name).collect();
    properties.extend(more.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())));
    for (name, schema) in
        [("seq", at("Seq")), ("timestamp", described("Timestamp", "When the gateway accepted it."))]
    {
        properties.insert(name.to_owned(), schema);
    }
    properties
        .insert("time".to_owned(), described("Timestamp", "When it happened, according to the publisher."));
    properties
        .insert("source".to_owned(), described("Source", "Present if it was published as a CloudEvent."));
    properties.insert("subject".to_owned(), at("Subject"));
    let targeted = json!({ "const": true, "description": "Present if only some users see it." });
    properties.insert("targeted".to_owned(), targeted);
    required.extend(["seq", "timestamp", "service", "event", "id", "data"]);
    json!({ "type": "object", "properties": properties, "required": required })
}

fn described(name: &str, description: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}"), "description": description })
}

fn events(limits: &LimitSettings) -> Value {
    let mut properties = content();
    let users = json!({
        "type": "array",
        "description": "Only these users see it; nobody sees the list.",
        "minItems": 1,
        "maxItems": limits.users_per_event,
        "items": at("User"),
    });
    properties.insert("users".to_owned(), users);
    let time = json!({
        "type": "string",
        "format": "date-time",
        "description": "When it happened, RFC 3339; converted to UTC milliseconds.",
        "examples": ["2026-11-24T10:30:00+01:00"],
    });
    properties.insert("time".to_owned(), time);
    let data = format!(
        "Any JSON value, kept token for token. At most {} levels deep; the stored event has at most {} bytes.",
        limits.json_depth,
        limits.event_bytes.bytes()
    );
    properties.insert("data".to_owned(), json!({ "description": data }));
    let mut of_orgs = properties.clone();
    of_orgs.insert("org".to_owned(), described("Org", "Whose event it is."));
    json!({
        "NewEvent": {
            "type": "object",
            "description": "An event to publish. Other members are refused: ignoring a misspelt `users` would show \
                            everybody what was meant for one.",
            "properties": properties,
            "required": ["service", "event", "data"],
            "additionalProperties": false,
            "examples": [{ "service": "finance", "event": "invoice.paid", "data": { "amount": 5 } }],
        },
        "NewEvents": one_or_several("NewEvent", limits),
        "NewEventLines": lines_of("NewEvent", limits),
        "NewOrgEvent": {
            "type": "object",
            "description": "An event to publish that names its org. Other members are refused.",
            "properties": of_orgs,
            "required": ["org", "service", "event", "data"],
            "additionalProperties": false,
            "examples": [{ "org": "dev", "service": "finance", "event": "invoice.paid", "data": { "amount": 5 } }],
        },
        "NewOrgEvents": one_or_several("NewOrgEvent", limits),
        "NewOrgEventLines": lines_of("NewOrgEvent", limits),
    })
}

fn one_or_several(event: &str, limits: &LimitSettings) -> Value {
    json!({
        "description": "One event, or an array of them.",
        "anyOf": [
            at(event),
            { "type": "array", "minItems": 1, "maxItems": limits.events_per_batch, "items": at(event) },
        ],
    })
}

fn lines_of(event: &str, limits: &LimitSettings) -> Value {
    json!({
        "type": "string",
        "description": format!(
            "One `{event}` per line, as JSON; empty lines are ignored. At most {} events.",
            limits.events_per_batch
        ),
        "contentMediaType": "application/x-ndjson",
    })
}

fn cloud_events(limits: &LimitSettings) -> Value {
    let absent = |schema: Value| json!({ "anyOf": [{ "type": "null" }, schema] });
    let user = UserId::PATTERN.trim_start_matches('^').trim_end_matches('$');
    let users = format!("^{user}(,{user}){{0,{}}}$", limits.users_per_event.saturating_sub(1));
    let time = json!({ "type": "string", "format": "date-time" });
    let token = "[A-Za-z0-9!#$%&'*+.^_`|~-]+";
    let media = format!(r"^{token}/({token}\+)?[Jj][Ss][Oo][Nn](;.*)?$");
    json!({
        "CloudEvent": {
            "type": "object",
            "description": "A CloudEvent 1.0 in the JSON event format. An attribute that is null counts as absent. \
                            Other extensions are ignored, except those whose name is probably meant as `users`: at \
                            most two edits away from it, or a word such as `recipients`.",
            "required": ["specversion", "id", "source", "type"],
            "properties": {
                "specversion": { "const": "1.0" },
                "id": at("EventId"),
                "source": at("Source"),
                "type": described("EventName", "The event's name."),
                "service": { "anyOf": [{ "type": "null" }, at("Service")], "description":
                    "The service; if it is absent, that of the address, else `source` if that is the name of a service." },
                "subject": absent(at("Subject")),
                "time": absent(time),
                "partitionkey": { "anyOf": [{ "type": "null" }, at("Key")], "description": "The event's `key`." },
                "users": {
                    "type": "string",
                    "pattern": users,
                    "description": "Only these users see it; separated by commas.",
                },
                "datacontenttype": absent(json!({ "type": "string", "pattern": media })),
                "data": { "description": "Any JSON value, kept token for token; null if it is absent." },
                "data_base64": { "type": "null" },
            },
            "propertyNames": not_meant_as_users(),
        },
        "CloudEvents": {
            "type": "array", "minItems": 1, "maxItems": limits.events_per_batch, "items": at("CloudEvent"),
        },
        "OrgCloudEvent": {
            "description": "A CloudEvent that names its org, in an extension.",
            "allOf": [at("CloudEvent")],
            "required": ["org"],
            "properties": { "org": at("Org") },
        },
        "OrgCloudEvents": {
            "type": "array", "minItems": 1, "maxItems": limits.events_per_batch, "items": at("OrgCloudEvent"),
        },
    })
}

/// Ignoring a misspelling would show an event for one user to everybody. The pattern has the usual ones, and the
/// description says which others are refused.
fn not_meant_as_users() -> Value {
    let meant = "^([Uu][Ss][Ee][Rr][_-]?([Ii][Dd])?[Ss]?|[Rr][Ee][Cc][Ii][Pp][Ii][Ee][Nn][Tt][Ss]?|[Tt][Oo]\
                 |[Tt][Aa][Rr][Gg][Ee][Tt][Ss]?|[Aa][Uu][Dd][Ii][Ee][Nn][Cc][Ee])$";
    json!({ "anyOf": [{ "const": "users" }, { "not": { "pattern": meant } }] })
}

fn answers() -> Value {
    let gap = json!({
        "type": "object",
        "description": "No event of (`prev`, `seq`] comes; the page continues after `seq` in `epoch`.",
        "required": ["prev", "seq", "epoch", "reason"],
        "properties": { "prev": at("Seq"), "seq": at("Seq"), "epoch": at("Epoch"), "reason": gap_reason() },
    });
    json!({
        "Event": stored(&[]),
        "Published": {
            "type": "object",
            "required": ["cursor", "events"],
            "properties": {
                "cursor": described("Cursor", "The highest position among them. A stream from here shows later events."),
                "events": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["service", "id", "seq", "duplicate"],
                        "properties": {
                            "service": at("Service"),
                            "id": described("EventId", "Given, or assigned by the gateway."),
                            "seq": at("Seq"),
                            "duplicate": { "type": "boolean", "description": "It was published before, with this seq." },
                        },
                    },
                },
            },
        },
        "PublishedToOrgs": {
            "type": "object",
            "required": ["orgs", "events"],
            "properties": {
                "orgs": { "type": "array", "minItems": 1, "items": at("StoredOrg") },
                "events": { "type": "array", "minItems": 1, "items": at("StoredEvent") },
            },
        },
        "PartlyPublished": {
            "type": "object",
            "required": ["orgs", "events"],
            "properties": {
                "orgs": {
                    "type": "array", "minItems": 2,
                    "items": { "anyOf": [at("StoredOrg"), at("RefusedOrg")] },
                },
                "events": {
                    "type": "array", "minItems": 2,
                    "items": { "anyOf": [at("StoredEvent"), at("RefusedEvent")] },
                },
            },
        },
        "StoredOrg": {
            "type": "object",
            "description": "The events of this org are stored.",
            "required": ["org", "cursor"],
            "properties": {
                "org": at("Org"),
                "cursor": described("Cursor", "The highest position among them. A stream from here shows later events."),
            },
        },
        "RefusedOrg": {
            "type": "object",
            "description": "The events of this org are refused.",
            "required": ["org", "problem"],
            "properties": { "org": at("Org"), "problem": at("Problem") },
        },
        "StoredEvent": {
            "type": "object",
            "required": ["org", "service", "id", "seq", "duplicate"],
            "properties": {
                "org": at("Org"),
                "service": at("Service"),
                "id": described("EventId", "Given, or assigned by the gateway."),
                "seq": at("Seq"),
                "duplicate": { "type": "boolean", "description": "It was published before, with this seq." },
            },
        },
        "RefusedEvent": {
            "type": "object",
            "required": ["org", "service", "id", "code"],
            "properties": {
                "org": at("Org"),
                "service": at("Service"),
                "id": described("EventId", "Send it again with this id."),
                "code": { "type": "string", "description": "The code of the problem of its org." },
            },
        },
        "Page": {
            "type": "object",
            "required": ["events", "cursor", "has_more"],
            "properties": {
                "events": { "type": "array", "items": at("Event") },
                "cursor": described("Cursor", "`after` of the next page."),
                "has_more": { "type": "boolean" },
                "gap": gap,
            },
        },
        "CursorNow": {
            "type": "object",
            "required": ["cursor", "head"],
            "properties": { "cursor": at("Cursor"), "head": described("Seq", "The end of the log.") },
        },
    })
}

fn status_code() -> Value {
    json!({ "type": "string", "enum": StatusCode::ALL.map(StatusCode::name) })
}

fn gap_reason() -> Value {
    json!({ "type": "string", "enum": GapReason::ALL.map(GapReason::name) })
}

fn refusals(codes: &[Code]) -> Value {
    let names: Vec<&str> = codes.iter().map(|code| code.name()).collect();
    json!({
        "Problem": {
            "type": "object",
            "description": "A refusal: problem details (RFC 9457) with a code of the protocol's one table.",
            "required": ["type", "title", "status", "code", "detail"],
            "properties": {
                "type": { "const": "about:blank" },
                "title": { "type": "string" },
                "status": { "type": "integer", "minimum": 400, "maximum": 599 },
                "code": { "type": "string", "enum": names },
                "detail": { "type": "string", "description": "One sentence for people." },
                "limit": { "type": "string", "description": "The configuration key of the limit that was exceeded." },
                "retry_in_ms": described("Milliseconds", "Do not retry before this time has passed."),
                "errors": {
                    "type": "array",
                    "minItems": 1,
                    "items": at("FieldError"),
                    "description": "The faulty fields.",
                },
                "ids": { "type": "array", "minItems": 1, "items": at("EventId") },
                "orgs": {
                    "type": "array",
                    "minItems": 2,
                    "items": at("RefusedOrg"),
                    "description": "If the events of several orgs are refused: the problem of each.",
                },
            },
        },
        "FieldError": {
            "type": "object",
            "required": ["pointer", "code", "detail"],
            "properties": {
                "pointer": {
                    "type": "string",
                    "description": "The field's position in the body (RFC 6901), or the name of its header.",
                    "examples": ["/0/service"],
                },
                "code": {
                    "type": "string",
                    "enum": ["required", "type", "format", "empty", "too_many", "repeated", "unknown_field", "mismatch", "depth", "media"],
                },
                "detail": { "type": "string" },
                "limit": { "type": "string", "description": "The configuration key of the limit that the field exceeds." },
            },
        },
    })
}

/// The body of the refusals of one status.
pub fn refusal(status: u16, refused: &[&Refused]) -> Value {
    let codes: Vec<&str> = refused.iter().map(|refused| refused.code.name()).collect();
    let required: &[&str] = match refused {
        [Refused { code: Code::Invalid, .. }] => &["errors"],
        [Refused { code: Code::Unknown, .. }] => &["ids"],
        [Refused { code: Code::TooLarge, .. }] => &["limit"],
        _ => &[],
    };
    json!({
        "allOf": [at("Problem")],
        "properties": { "status": { "const": status }, "code": { "enum": codes } },
        "required": required,
    })
}

/// A frame of a type: its other required members, and those that may be absent.
fn frame(kind: &str, description: &str, required: &[(&str, Value)], optional: &[(&str, Value)]) -> Value {
    let mut properties = Map::from_iter([("type".to_owned(), json!({ "const": kind }))]);
    let members = required.iter().chain(optional);
    properties.extend(members.map(|(name, schema)| ((*name).to_owned(), schema.clone())));
    let required: Vec<&str> = std::iter::once("type").chain(required.iter().map(|(name, _)| *name)).collect();
    json!({ "type": "object", "description": description, "properties": properties, "required": required })
}

fn frames() -> Value {
    let text = || json!({ "type": "string" });
    let code = |fits: fn(&Code) -> bool| {
        let names: Vec<&str> = Code::ALL.iter().filter(|code| fits(code)).map(|code| code.name()).collect();
        json!({ "type": "string", "enum": names })
    };
    let entries = json!({ "type": "array", "minItems": 1, "items": at("Event") });
    let mut event = stored(&[("type", json!({ "const": "event" })), ("org", at("Org")), ("prev", at("Seq"))]);
    event["description"] = "One event.".into();
    let kinds = ["Hello", "Event", "Batch", "Gap", "Ping", "Pong", "Status", "Goaway", "Error"];
    let mapping: Map<String, Value> = kinds
        .iter()
        .map(|kind| (kind.to_lowercase(), format!("#/components/schemas/{kind}Frame").into()))
        .collect();
    let kinds: Vec<Value> = kinds.iter().map(|kind| at(&format!("{kind}Frame"))).collect();
    json!({
        "ServerFrame": {
            "description": "A frame from the gateway. Readers ignore fields and types that they do not know.",
            "oneOf": kinds,
            "discriminator": { "propertyName": "type", "mapping": mapping },
        },
        "ServerSentEvent": {
            "type": "object",
            "description": "One event of a `text/event-stream`, by its fields (WHATWG HTML, section 9.2).",
            "required": ["data"],
            "properties": {
                "retry": at("Milliseconds"),
                "id": at("Cursor"),
                "data": {
                    "type": "string",
                    "contentMediaType": "application/json",
                    "contentSchema": at("ServerFrame"),
                },
            },
        },
        "HelloFrame": frame(
            "hello",
            "The first frame.",
            &[
                ("connection_id", at("ConnectionId")),
                ("protocol", json!({ "const": PROTOCOL_VERSION })),
                ("org", at("Org")),
                ("services", at("Services")),
                ("filter", at("FilterTag")),
                ("epoch", at("Epoch")),
                ("cursor", described("Cursor", "Where this stream starts.")),
                ("head", described("Seq", "Events up to it are replay, events after it are live.")),
                ("dedup_window_ms", at("Milliseconds")),
                ("ping_interval_ms", at("Milliseconds")),
                ("resumed", json!({ "type": "boolean", "description": "The stream continues from the presented cursor without a gap there." })),
                ("token_expires_in_ms", at("Milliseconds")),
                ("server_time", at("Timestamp")),
            ],
            &[("sync", json!({
                "type": "string",
                "enum": ["interval", "memory"],
                "description": "Present if events are acknowledged before they are synced to disk.",
            }))],
        ),
        "EventFrame": event,
        "BatchFrame": { "oneOf": [at("Batch"), at("CompressedBatch")] },
        "Batch": frame(
            "batch",
            "Several events, in order. `seq` may be higher than that of the last.",
            &[("org", at("Org")), ("prev", at("Seq")), ("seq", at("Seq")), ("timestamp", at("Timestamp")), ("events", entries)],
            &[
                ("omitted", json!({ "type": "integer", "minimum": 1, "description": "How many events were left out for a slow reader, because later ones here supersede them." })),
                ("reason", json!({ "const": "conflated" })),
            ],
        ),
        "CompressedBatch": frame(
            "batch",
            "A batch of one or more events, on streams with `batch=gzip`: `data` is the `Batch`, gzipped (RFC 1952), in base64.",
            &[
                ("compressed", json!({ "const": true })),
                ("encoding", json!({ "const": "gzip" })),
                ("data", json!({ "type": "string", "pattern": "^[A-Za-z0-9+/]+={0,2}$" })),
                ("prev", at("Seq")),
                ("seq", at("Seq")),
                ("timestamp", at("Timestamp")),
                ("count", json!({ "type": "integer", "minimum": 1, "description": "The number of its events." })),
            ],
            &[],
        ),
        "GapFrame": frame(
            "gap",
            "The events in (`prev`, `seq`] will not come.",
            &[
                ("prev", at("Seq")),
                ("seq", at("Seq")),
                ("epoch", at("Epoch")),
                ("filter", at("FilterTag")),
                ("reason", gap_reason()),
            ],
            &[("services", at("Services"))],
        ),
        "PingFrame": frame(
            "ping",
            "All that this reader may see in (`prev`, `seq`] has been sent.",
            &[("prev", at("Seq")), ("seq", at("Seq")), ("timestamp", at("Timestamp"))],
            &[],
        ),
        "PongFrame": frame(
            "pong",
            "The answer to a reader's ping, over WebSocket.",
            &[("n", ping_number()), ("timestamp", at("Timestamp"))],
            &[],
        ),
        "StatusFrame": frame(
            "status",
            "The gateway reports its state or this reader's. The stream continues.",
            &[("code", status_code()), ("message", text())],
            &[],
        ),
        "GoawayFrame": frame(
            "goaway",
            "Leave within this time, and reconnect.",
            &[("code", code(|code| code.close().is_some())), ("retry_in_ms", at("Milliseconds"))],
            &[],
        ),
        "ErrorFrame": frame(
            "error",
            "The last frame.",
            &[("code", code(|code| code.close().is_some())), ("message", text())],
            &[("limit", text()), ("retry_in_ms", at("Milliseconds"))],
        ),
    })
}

/// A whole number from 0 to `most`.
fn up_to(most: u32) -> Value {
    json!({ "type": "integer", "minimum": 0, "maximum": most })
}

/// `n` of a client's `ping` and of its answer.
fn ping_number() -> Value {
    json!({ "type": "integer", "minimum": 0, "maximum": SEQ_MAX })
}

fn client_frames() -> Value {
    let token = json!({ "type": "string" });
    json!({
        "ClientFrame": {
            "description": "A frame from a reader, over WebSocket.",
            "oneOf": [at("AuthFrame"), at("ClientPongFrame"), at("ClientPingFrame"), at("HealthFrame")],
        },
        "AuthFrame": frame(
            "auth",
            "As the first frame: authenticates. Later: renews the grant in place.",
            &[("token", token)],
            &[],
        ),
        "ClientPongFrame": frame("pong", "The answer to every ping.", &[], &[]),
        "ClientPingFrame": frame("ping", "Asks for a pong with the same `n`.", &[("n", ping_number())], &[]),
        "HealthFrame": frame(
            "health",
            "What the reader has seen since its last report. Not answered; at most one in 25 s counts. Numbers over a bound count as the bound.",
            &[],
            &[
                ("latencies_ms", json!({ "type": "array", "maxItems": HealthReport::LATENCIES_MAX, "items": up_to(HealthReport::LATENCY_MS_MAX) })),
                ("disconnects", up_to(HealthReport::COUNT_MAX)),
                ("duplicates", up_to(HealthReport::COUNT_MAX)),
                ("holes", up_to(HealthReport::COUNT_MAX)),
                ("gaps", up_to(HealthReport::COUNT_MAX)),
            ],
        ),
    })
}
