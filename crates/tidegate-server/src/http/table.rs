//! The routes of the public listener: what answers which method at which path.
//!
//! This is the only list of them. `http::answer` finds its handler here, and `http::openapi` makes the
//! document from it, so every served address is described and every described one is served. The page of
//! `tidegate dev` is not here: it is not part of the API.

use http::Method;

/// What answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `http::publish`, to the org of the address.
    Publish,
    /// `http::publish`, to the orgs that the events name.
    PublishToOrgs,
    /// `http::history`, a page of events.
    History,
    /// `http::history`, the cursor at the head.
    Cursor,
    /// `http::stream`.
    Stream,
    /// `http::openapi`.
    Description,
    /// `http::origins`, the CORS preflight.
    Preflight,
}

/// One method at one path.
#[derive(Debug)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path; `{org}` stands for one segment.
    pub path: &'static str,
    /// What answers.
    pub endpoint: Endpoint,
    /// Its unique name in the description.
    pub id: &'static str,
}

const EVENTS: &str = "/v1/orgs/{org}/events";
const EVENTS_OF_ORGS: &str = "/v1/events";
const CURSOR: &str = "/v1/orgs/{org}/cursor";
const STREAM: &str = "/v1/orgs/{org}/stream";
const DESCRIPTION: &str = "/openapi.json";

const fn route(method: Method, path: &'static str, endpoint: Endpoint, id: &'static str) -> Route {
    Route { method, path, endpoint, id }
}

/// All routes, in the order of `Allow`.
pub static ROUTES: [Route; 12] = [
    route(Method::GET, EVENTS, Endpoint::History, "readEvents"),
    route(Method::POST, EVENTS, Endpoint::Publish, "publishEvents"),
    route(Method::OPTIONS, EVENTS, Endpoint::Preflight, "preflightEvents"),
    route(Method::POST, EVENTS_OF_ORGS, Endpoint::PublishToOrgs, "publishToOrgs"),
    route(Method::OPTIONS, EVENTS_OF_ORGS, Endpoint::Preflight, "preflightPublish"),
    route(Method::GET, CURSOR, Endpoint::Cursor, "readCursor"),
    route(Method::OPTIONS, CURSOR, Endpoint::Preflight, "preflightCursor"),
    route(Method::GET, STREAM, Endpoint::Stream, "openStream"),
    route(Method::OPTIONS, STREAM, Endpoint::Preflight, "preflightStream"),
    route(Method::GET, DESCRIPTION, Endpoint::Description, "describe"),
    route(Method::HEAD, DESCRIPTION, Endpoint::Description, "describeHead"),
    route(Method::OPTIONS, DESCRIPTION, Endpoint::Preflight, "preflightDescription"),
];

/// Whether requests from pages of other origins are refused at this path. The description is public.
pub fn is_guarded(path: &str) -> bool {
    path.starts_with("/v1/")
}

/// What a path leads to.
#[derive(Debug, Clone, Copy)]
pub enum Found<'p> {
    /// This route answers. The text is the org's segment of the path, if the path has one.
    Route(&'static Route, &'p str),
    /// The path exists, but not with this method.
    OtherMethod(&'static str),
    /// The path does not exist.
    Nothing,
}

/// Finds the route for `method` at `path`.
pub fn find<'p>(method: &Method, path: &'p str) -> Found<'p> {
    let mut other = None;
    for route in &ROUTES {
        if let Some(org) = org_in(route.path, path) {
            if route.method == *method {
                return Found::Route(route, org);
            }
            other = Some(route.path);
        }
    }
    other.map_or(Found::Nothing, Found::OtherMethod)
}

/// The methods of a path in the list, for `Allow`.
pub fn allowed(path: &str) -> String {
    let methods: Vec<&str> =
        ROUTES.iter().filter(|route| route.path == path).map(|route| route.method.as_str()).collect();
    methods.join(", ")
}

/// The segment of `path` that stands for `{org}`, empty if the template has none; `None` if they do not
/// match. The handler parses the segment.
fn org_in<'p>(template: &str, path: &'p str) -> Option<&'p str> {
    let Some((before, after)) = template.split_once("{org}") else {
        return (template == path).then_some("");
    };
    path.strip_prefix(before)?.strip_suffix(after).filter(|org| !org.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_one_answer() {
        for (method, path, id) in [
            (Method::GET, "/v1/orgs/a/events", "readEvents"),
            (Method::POST, "/v1/orgs//events", "publishEvents"),
            (Method::GET, "/v1/orgs/events/events", "readEvents"),
            (Method::POST, "/v1/events", "publishToOrgs"),
            (Method::OPTIONS, "/v1/orgs/%20/stream", "preflightStream"),
            (Method::HEAD, "/openapi.json", "describeHead"),
        ] {
            let Found::Route(route, _) = find(&method, path) else { panic!("{method} {path}") };
            assert_eq!(route.id, id);
        }
        assert!(matches!(find(&Method::GET, "/v1/orgs/acme/cursor"), Found::Route(_, "acme")));
        assert!(matches!(find(&Method::PUT, "/v1/orgs/a/events"), Found::OtherMethod(EVENTS)));
        assert_eq!(allowed(EVENTS), "GET, POST, OPTIONS");
        for path in [
            "",
            "*",
            "/",
            "/v1/orgs/events",
            "/v1/orgs/a/events/",
            "/v1/orgs/a/b/events",
            "/v1/orgs/a",
            "/openapi.json/",
            "//openapi.json",
            "/V1/orgs/a/events",
        ] {
            assert!(matches!(find(&Method::GET, path), Found::Nothing), "{path}");
        }
        for (index, one) in ROUTES.iter().enumerate() {
            for other in &ROUTES[index + 1..] {
                assert_ne!(one.id, other.id);
                assert!((&one.method, one.path) != (&other.method, other.path), "{}", one.id);
            }
        }
    }
}
