//! `GET /openapi.json`: the description of the public listener (OpenAPI 3.1), made from the list of routes
//! that requests are dispatched by.
//!
//! [`operation`] describes what each endpoint takes and answers, [`schema`] describes the data; this file
//! combines them with the configured limits. The operators' listener is not in it: it has other users and
//! another address.

mod operation;
mod schema;

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde_json::{Map, Value, json};
use tidegate_core::slow::Policy;
use tidegate_protocol::{Code, CursorError};

use operation::{Answered, Body, Content, Header, Operation, Parameter, Refused, Scheme, Tag};
use schema::at;

use super::{
    Answer, full,
    table::{self, ROUTES, Route},
};
use crate::{
    config::{AuthSettings, Config, LimitSettings},
    node::Node,
};

/// Answers with the document.
pub fn answer<B>(node: &Node, request: &Request<B>) -> Response<Answer> {
    let (json, etag) = node.description.get(&node.config(), text);
    let is_known = super::knows(request, &etag);
    let mut response = Response::new(full(if is_known { Bytes::new() } else { json }));
    let headers = response.headers_mut();
    headers.insert(header::ETAG, etag);
    // Browsers keep the document but revalidate it, because the next configuration may have other limits.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        // Not application/openapi+json: browsers and older tools display or accept only this type.
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    response
}

/// The document as bytes, and its `ETag`.
fn text(config: &Config) -> (Bytes, HeaderValue) {
    let json = Bytes::from(document(config).to_string());
    let etag = format!("\"{}\"", &blake3::hash(&json).to_hex()[..16]);
    let etag = HeaderValue::try_from(etag).unwrap_or_else(|_| unreachable!("hex is a header value"));
    (json, etag)
}

/// Whether the document describes this answer. Refusals carry their code as an extension.
pub fn describes<B>(route: &Route, response: &Response<B>) -> bool {
    let operation = operation::of(route.endpoint);
    let status = response.status().as_u16();
    if let Some(code) = response.extensions().get::<Code>() {
        return operation.refusals.iter().any(|refused| refused.code == *code && refused.status == status);
    }
    let sent = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let sent = sent.map(|value| value.split(';').next().unwrap_or_default());
    operation.answers.iter().any(|answer| answer.status == status && answer.content.media_type() == sent)
}

/// The codes of the refusals of this route.
pub fn codes_of(route: &Route) -> impl Iterator<Item = Code> {
    operation::of(route.endpoint).refusals.iter().map(|refused| refused.code)
}

/// The document of a gateway with this configuration.
pub fn document(config: &Config) -> Value {
    let limits = &config.limits;
    let mut paths = Map::new();
    let mut codes: Vec<Code> = Vec::new();
    for route in &ROUTES {
        let operation = operation::of(route.endpoint);
        codes.extend(operation.refusals.iter().map(|refused| refused.code));
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_lowercase()] = describe(route, operation, &config.auth);
    }
    codes.sort_unstable();
    codes.dedup();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tidegate",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "A realtime event gateway: publish over HTTP, stream over WebSocket and SSE, resume without gaps.",
            "description": INTRODUCTION,
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "externalDocs": {
            "description": "The protocol: frames, continuity, resuming, delays.",
            "url": concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main/PROTOCOL.md"),
        },
        // The address that this document was read from.
        "servers": [{ "url": "/" }],
        "tags": Tag::ALL.map(|tag| json!({ "name": tag.name(), "description": tag.description() })),
        "paths": paths,
        "components": {
            "schemas": schema::all(limits, &codes),
            "parameters": parameters(limits),
            "headers": headers(),
            "securitySchemes": security_schemes(config),
        },
    })
}

const INTRODUCTION: &str = "\
Publish events of an org over HTTP; read them as a stream over WebSocket or server-sent events, from any \
position on, without gaps; read them back page by page.

**Refusals** have a `code` of one closed table and a sentence (`Problem`, RFC 9457). `limit` \
is the configuration key of the limit that was exceeded.

**Everywhere**: an address that is not in this document is answered 404 `not_found`, another method 405 \
`method_not_allowed` with `Allow`; a request that cannot be read as HTTP is answered 400 without a body; one \
without exactly one valid `Host`, or with an ambiguous length, is answered 400 `bad_request`. Parameters that \
are not named here are ignored; each may occur once.

**Pages** of origins that `auth.origins` lists may read every answer (CORS), so answers vary by `Origin`; \
pages of other origins, except the gateway's own, get 403 `forbidden` under `/v1`.";

fn describe(route: &Route, operation: &Operation, auth: &AuthSettings) -> Value {
    let mut responses: BTreeMap<u16, Value> = BTreeMap::new();
    for answered in operation.answers {
        responses.insert(answered.status, success(route, answered));
    }
    let mut refusals: BTreeMap<u16, Vec<&Refused>> = BTreeMap::new();
    for refused in operation.refusals {
        // The description is public, so its preflight is never forbidden.
        if refused.code == Code::Forbidden && !table::is_guarded(route.path) {
            continue;
        }
        refusals.entry(refused.status).or_default().push(refused);
    }
    let refusals = refusals.into_iter().map(|(status, refused)| (status, refusal(route, status, &refused)));
    responses.extend(refusals);
    responses.insert(431, headers_too_large(route));
    let responses: Map<String, Value> =
        responses.into_iter().map(|(status, response)| (status.to_string(), response)).collect();
    let is_in_path = |parameter: &Parameter| match parameter {
        Parameter::Org | Parameter::AnyOrg => route.path.contains("{org}"),
        _ => true,
    };
    let is_taken = |scheme: &&Scheme| **scheme != Scheme::Cookie || auth.cookie.is_some();
    let security = operation.security.iter().filter(is_taken);
    let mut described = json!({
        "operationId": route.id,
        "tags": [operation.tag.name()],
        "summary": operation.summary,
        "description": operation.description,
        "security": security.map(|scheme| json!({ scheme_name(*scheme): [] })).collect::<Vec<_>>(),
        "parameters": operation.parameters.iter().filter(|parameter| is_in_path(parameter)).map(|parameter| {
            json!({ "$ref": format!("#/components/parameters/{parameter:?}") })
        }).collect::<Vec<_>>(),
        "responses": responses,
    });
    if !operation.bodies.is_empty() {
        let content: Map<String, Value> = operation.bodies.iter().map(|body| form(*body)).collect();
        described["requestBody"] = json!({ "required": true, "content": content });
    }
    described
}

fn success(route: &Route, answered: &Answered) -> Value {
    let Answered { content, headers, description, .. } = answered;
    let mut response = json!({ "description": description });
    for header in *headers {
        response["headers"][header_name(*header)] =
            json!({ "$ref": format!("#/components/headers/{header:?}") });
    }
    let Some(media_type) = content.media_type().filter(|_| route.method != Method::HEAD) else {
        return response;
    };
    let cursor = "0k3v9x1m2p4qz-1042";
    let follow = |from: &str| {
        json!({
            "operationId": "openStream",
            "description": "Follow the events after this cursor.",
            "parameters": { "path.org": "$request.path.org", "query.cursor": from },
        })
    };
    let read = |from: &str| {
        json!({
            "operationId": "readEvents",
            "description": "Read the events after this cursor.",
            "parameters": { "path.org": "$request.path.org", "query.after": from },
        })
    };
    let (body, links) = match content {
        Content::Nothing => return response,
        Content::Published => (
            json!({ "schema": at("Published"), "example": { "cursor": cursor, "events": [
                { "service": "finance", "id": "inv-7", "seq": 1041, "duplicate": false },
                { "service": "finance", "id": "inv-8", "seq": 1042, "duplicate": false },
            ] } }),
            json!({ "follow": follow("$response.body#/cursor"), "readBehind": read("$response.body#/cursor") }),
        ),
        Content::PublishedToOrgs => (
            json!({ "schema": at("PublishedToOrgs"), "example": {
                "orgs": [{ "org": "acme", "cursor": cursor }, { "org": "beta", "cursor": "4m0p1qz7x2c8t-17" }],
                "events": [
                    { "org": "acme", "service": "finance", "id": "inv-7", "seq": 1042, "duplicate": false },
                    { "org": "beta", "service": "finance", "id": "inv-8", "seq": 17, "duplicate": false },
                ],
            } }),
            Value::Null,
        ),
        Content::PartlyPublished => (
            json!({ "schema": at("PartlyPublished"), "example": {
                "orgs": [
                    { "org": "acme", "cursor": cursor },
                    { "org": "beta", "problem": {
                        "type": "about:blank", "title": "Too Many Requests", "status": 429, "code": "rate_limited",
                        "detail": "this API key publishes more than 20000 requests a second to this org",
                        "limit": "limits.publishes_per_second", "retry_in_ms": 40,
                    } },
                ],
                "events": [
                    { "org": "acme", "service": "finance", "id": "inv-7", "seq": 1042, "duplicate": false },
                    { "org": "beta", "service": "finance", "id": "inv-8", "code": "rate_limited" },
                ],
            } }),
            Value::Null,
        ),
        Content::Page => (
            json!({ "schema": at("Page"), "example": {
                "events": [{
                    "seq": 1042, "timestamp": "2026-11-24T09:30:00.000Z", "service": "finance",
                    "event": "invoice.paid", "id": "inv-8", "data": { "amount": 5 },
                }],
                "cursor": format!("{cursor}-y3sgfaip"),
                "has_more": false,
            } }),
            json!({ "follow": follow("$response.body#/cursor"), "next": read("$response.body#/cursor") }),
        ),
        Content::CursorNow => (
            json!({
                "schema": at("CursorNow"),
                "example": { "cursor": format!("{cursor}-y3sgfaip"), "head": 1042 },
            }),
            json!({ "follow": follow("$response.body#/cursor"), "readBehind": read("$response.body#/cursor") }),
        ),
        Content::Frames => (
            json!({
                // OpenAPI 3.1 cannot describe a stream; this is the schema of one event of it.
                "schema": at("ServerSentEvent"),
                "example": { "id": format!("{cursor}-y3sgfaip"), "data": PING },
            }),
            Value::Null,
        ),
        Content::Description => {
            (json!({ "schema": { "type": "object", "required": ["openapi", "info", "paths"] } }), Value::Null)
        }
    };
    response["content"] = json!({ media_type: body });
    if !links.is_null() {
        response["links"] = links;
    }
    response
}

const PING: &str =
    "{\"type\":\"ping\",\"prev\":1040,\"seq\":1042,\"timestamp\":\"2026-11-24T09:30:00.000Z\"}";

fn refusal(route: &Route, status: u16, refused: &[&Refused]) -> Value {
    let when: Vec<String> =
        refused.iter().map(|refused| format!("* `{}`: {}.", refused.code.name(), refused.when)).collect();
    let mut response = json!({ "description": when.join("\n") });
    if route.method != Method::HEAD {
        response["content"] =
            json!({ "application/problem+json": { "schema": schema::refusal(status, refused) } });
    }
    let header = match status {
        401 => Header::WwwAuthenticate,
        415 => Header::AcceptEncoding,
        426 => Header::WebSocketVersion,
        429 | 503 => Header::RetryAfter,
        _ => return response,
    };
    response["headers"][header_name(header)] = json!({ "$ref": format!("#/components/headers/{header:?}") });
    response
}

/// The only answer that differs between the two versions of HTTP.
fn headers_too_large(route: &Route) -> Value {
    let over_http2 = Refused {
        code: Code::TooLarge,
        status: 431,
        when: "more headers than `limits.headers`, or larger ones than `limits.header_bytes`; over HTTP/1.1 \
               without a body",
    };
    refusal(route, 431, &[&over_http2])
}

fn form(body: Body) -> (String, Value) {
    let one =
        json!({ "service": "finance", "event": "invoice.paid", "id": "inv-7", "data": { "amount": 5 } });
    let targeted = json!({
        "service": "staff", "event": "shift.changed", "id": "shift-3", "key": "rota-48",
        "users": ["ann", "bob"], "time": "2026-11-24T10:30:00+01:00", "data": ["early", "late"],
    });
    let with_org = |mut event: Value, org: &str| {
        event["org"] = org.into();
        event
    };
    match body {
        Body::OrgEvents => (
            "application/json".to_owned(),
            json!({
                "schema": at("NewOrgEvents"),
                "examples": {
                    "one": { "summary": "One event", "value": with_org(one.clone(), "dev") },
                    "several": {
                        "summary": "A batch; it may name several orgs",
                        "value": [with_org(one, "dev"), with_org(targeted, "dev")],
                    },
                },
            }),
        ),
        Body::OrgEventLines => (
            "application/x-ndjson".to_owned(),
            json!({
                "schema": at("NewOrgEventLines"),
                "examples": { "lines": { "summary": "Two lines", "value": format!(
                    "{}\n{}\n", with_org(one, "dev"), with_org(targeted, "dev"),
                ) } },
            }),
        ),
        Body::OrgCloudEvent => (
            "application/cloudevents+json".to_owned(),
            json!({
                "schema": at("OrgCloudEvent"),
                "examples": { "structured": {
                    "summary": "One event with its attributes", "value": with_org(cloud_event("inv-42"), "dev"),
                } },
            }),
        ),
        Body::OrgCloudEvents => (
            "application/cloudevents-batch+json".to_owned(),
            json!({
                "schema": at("OrgCloudEvents"),
                "examples": { "batch": {
                    "summary": "A batch",
                    "value": [with_org(cloud_event("inv-43"), "dev"), with_org(cloud_event("inv-44"), "dev")],
                } },
            }),
        ),
        Body::Events => (
            "application/json".to_owned(),
            json!({
                "schema": at("NewEvents"),
                "examples": {
                    "one": { "summary": "One event", "value": one },
                    "several": { "summary": "A batch; only two users see the second event", "value": [one, targeted] },
                },
            }),
        ),
        Body::EventLines => (
            "application/x-ndjson".to_owned(),
            json!({
                "schema": at("NewEventLines"),
                "examples": { "lines": { "summary": "Two lines", "value": format!("{one}\n{targeted}\n") } },
            }),
        ),
        Body::CloudEvent => (
            "application/cloudevents+json".to_owned(),
            json!({
                "schema": at("CloudEvent"),
                "examples": { "structured": { "summary": "One event with its attributes", "value": cloud_event("inv-42") } },
            }),
        ),
        Body::CloudEvents => (
            "application/cloudevents-batch+json".to_owned(),
            json!({
                "schema": at("CloudEvents"),
                "examples": { "batch": {
                    "summary": "A batch", "value": [cloud_event("inv-43"), cloud_event("inv-44")],
                } },
            }),
        ),
    }
}

fn cloud_event(id: &str) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "/billing", "type": "com.example.invoice.paid",
        "service": "finance", "subject": "invoice 42", "data": { "amount": "1200.00" },
    })
}

fn parameter(location: &str, name: &str, description: &str, schema: Value, example: Value) -> Value {
    let mut parameter = json!({ "in": location, "name": name, "description": description, "schema": schema });
    if !example.is_null() {
        parameter["example"] = example;
    }
    if location == "path" {
        parameter["required"] = true.into();
    }
    parameter
}

fn parameters(limits: &LimitSettings) -> Value {
    let services = format!(
        "Show these services only, separated by commas, at most {}. Absent, empty or `*`: all that the token allows.",
        limits.services_per_filter
    );
    let services_schema = json!({ "type": "string", "pattern": services_pattern(limits) });
    let cursor = json!({ "anyOf": [{ "const": "" }, at("Cursor")] });
    let whole = |least: usize, most: usize| json!({ "type": "integer", "minimum": least, "maximum": most });
    let mut limit = whole(1, limits.page_events);
    limit["default"] = 100.min(limits.page_events).into();
    let tail = format!(
        "Start with the last events that this reader may see; the search goes back at most {} events, and {} of them in all. A cursor wins over it.",
        limits.tail_search_events, limits.scan_bytes
    );
    let last_event_id = "Like the header `Last-Event-ID`, which wins over it; wins over `cursor`. Sent by EventSource polyfills \
         that set no header. Of `lastEventId`, `last_event_id` and `Last-Event-ID` the first in this order that has a value counts.";
    json!({
        "Org": parameter("path", "org", "The org.", at("Org"), "dev".into()),
        "AnyOrg": parameter("path", "org", "The org; ignored.", json!({ "type": "string" }), "dev".into()),
        "Services": parameter("query", "services", &services, services_schema, "finance,staff".into()),
        "After": parameter(
            "query", "after", "Read the events after this cursor; absent: from the oldest event.",
            at("Cursor"), "0k3v9x1m2p4qz-1042".into(),
        ),
        "Limit": parameter("query", "limit", "How many events at most.", limit, 100.min(limits.page_events).into()),
        "Cursor": parameter(
            "query", "cursor", &format!("Continue after this cursor; empty counts as absent. {CursorError}."),
            cursor.clone(), "0k3v9x1m2p4qz-1042".into(),
        ),
        "Tail": parameter("query", "tail", &tail, whole(0, limits.tail_events), 10.min(limits.tail_events).into()),
        "Slow": parameter(
            "query", "slow", "What happens to a reader that does not keep up.",
            json!({ "type": "string", "enum": Policy::ALL.map(Policy::name) }), Value::Null,
        ),
        "Deflate": parameter(
            "query", "deflate", "`0` for a stream without compression, even if the client offers it.",
            json!({ "type": "string", "enum": ["0", "1"] }), Value::Null,
        ),
        "Batch": parameter(
            "query", "batch",
            "`gzip` for long batches compressed inside their JSON (`CompressedBatch`), instead of a compression \
             of the whole stream.",
            json!({ "type": "string", "enum": ["gzip"] }), Value::Null,
        ),
        "Replaces": parameter(
            "query", "replaces",
            "The `connection_id` of this user's connection that this one replaces; empty counts as absent, and \
             an unknown one is ignored.",
            json!({ "anyOf": [{ "const": "" }, at("ConnectionId")] }), Value::Null,
        ),
        "LastEventId": parameter(
            "header", "Last-Event-ID", "Like `cursor`, and wins over it; EventSource sends it by itself.",
            cursor.clone(), Value::Null,
        ),
        "QueryLastEventId": parameter("query", "lastEventId", last_event_id, cursor.clone(), Value::Null),
        "QueryLastEventIdSnake": parameter("query", "last_event_id", last_event_id, cursor.clone(), Value::Null),
        "QueryLastEventIdHeader": parameter("query", "Last-Event-ID", last_event_id, cursor, Value::Null),
        "IdempotencyKey": parameter(
            "header", "Idempotency-Key",
            "Stands for the whole request within the dedup window, so that it can be sent again: with the same \
             events it is answered as the first time, with others it is 422. Events without an id get the ids \
             `<key>-<index>`. It may be quoted, as a string of a structured field (RFC 9651).",
            json!({
                "type": "string",
                "pattern": r#"^([!#-~][!-~]{0,119}|"([!#-\[\]-~]|\\["\\]){1,120}")$"#,
            }),
            "order-7".into(),
        ),
        "Service": parameter(
            "query", "service", "The service of CloudEvents that do not name one.", at("Service"), Value::Null,
        ),
        "IfNoneMatch": parameter(
            "header", "If-None-Match", "The `ETag` of the copy that the client has.",
            json!({ "type": "string" }), Value::Null,
        ),
    })
}

/// Empty, `*`, or names separated by commas.
fn services_pattern(limits: &LimitSettings) -> String {
    let name = tidegate_protocol::ServiceName::PATTERN.trim_start_matches('^').trim_end_matches('$');
    format!(r"^(\*?|{name}(,{name}){{0,{}}})$", limits.services_per_filter.saturating_sub(1))
}

const fn header_name(header: Header) -> &'static str {
    match header {
        Header::RetryAfter => "Retry-After",
        Header::Cursor => "Tidegate-Cursor",
        Header::WwwAuthenticate => "WWW-Authenticate",
        Header::Etag => "ETag",
        Header::Allow => "Allow",
        Header::AllowMethods => "Access-Control-Allow-Methods",
        Header::AllowHeaders => "Access-Control-Allow-Headers",
        Header::WebSocketAccept => "Sec-WebSocket-Accept",
        Header::WebSocketProtocol => "Sec-WebSocket-Protocol",
        Header::WebSocketVersion => "Sec-WebSocket-Version",
        Header::AcceptEncoding => "Accept-Encoding",
    }
}

fn headers() -> Value {
    let text = |description: &str| json!({ "description": description, "required": true, "schema": { "type": "string", "minLength": 1 } });
    json!({
        "RetryAfter": {
            "description": "In how many seconds a retry may succeed.",
            "required": true,
            "schema": { "type": "integer", "minimum": 1 },
        },
        "Cursor": {
            "description": "The highest position among the events. A stream from here shows later events.",
            "required": true,
            "schema": at("Cursor"),
        },
        "WwwAuthenticate": {
            "description": "How to authenticate (RFC 6750).",
            "required": true,
            "schema": { "type": "string", "pattern": "^Bearer" },
        },
        "Etag": text("The version of this document, for `If-None-Match`."),
        "Allow": text("The methods of this path."),
        "AllowMethods": text("The methods that a page may use."),
        "AllowHeaders": text("The headers that a page may set."),
        "WebSocketAccept": text("The answer to `Sec-WebSocket-Key` (RFC 6455)."),
        "WebSocketProtocol": {
            "description": "Present if subprotocols were offered.",
            "schema": { "const": "tidegate.v1" },
        },
        "AcceptEncoding": {
            "description": "The codings of a body that are taken; present if the body's coding was refused.",
            "schema": { "const": "gzip, deflate" },
        },
        "WebSocketVersion": {
            "description": "The supported version.",
            "required": true,
            "schema": { "const": 13 },
        },
    })
}

const fn scheme_name(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::PublishKey => "publishKey",
        Scheme::ReaderToken => "readerToken",
        Scheme::UrlToken => "urlToken",
        Scheme::Cookie => "cookie",
    }
}

fn security_schemes(config: &Config) -> Value {
    let token = format!("At most {} bytes.", config.limits.token_bytes.bytes());
    let mut schemes = json!({
        (scheme_name(Scheme::PublishKey)): {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "tgk_<id>_<secret>",
            "description": "A publisher's API key, bound to orgs and to services; `tidegate key create` makes one.",
        },
        (scheme_name(Scheme::ReaderToken)): {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": format!("A reader's token (RFC 7519), with the claims of an org, a user, services, and a time. {token}"),
        },
        (scheme_name(Scheme::UrlToken)): {
            "type": "apiKey",
            "in": "query",
            "name": "access_token",
            "description": "The same token, for the browser's EventSource, which cannot set headers. A header wins over it.",
        },
    });
    if let Some(name) = &config.auth.cookie {
        schemes[scheme_name(Scheme::Cookie)] = json!({
            "type": "apiKey",
            "in": "cookie",
            "name": name.as_str(),
            "description": "The same token, for pages of the gateway's own origin and of origins that `auth.origins` lists. A header wins over it, and so does `access_token`.",
        });
    }
    schemes
}
