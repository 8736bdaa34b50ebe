//! An event to publish.

use serde::Serialize;
use serde_json::value::RawValue;

/// An event to publish, as the gateway takes it (PROTOCOL.md, "Publishing"). The gateway checks its fields: a
/// faulty one is refused with its pointer.
#[derive(Debug, Clone)]
pub struct NewEvent {
    pub(super) org: Option<String>,
    pub(super) service: String,
    event: String,
    pub(super) id: Option<String>,
    key: Option<String>,
    users: Option<Vec<String>>,
    time: Option<String>,
    /// The sentence of JSON if it cannot hold the data.
    data: Result<Box<RawValue>, String>,
}

impl NewEvent {
    /// An event of `service` that is named `event`. `data` becomes JSON here and now; a float
    /// that is NaN or infinite becomes `null`.
    pub fn new(service: impl Into<String>, event: impl Into<String>, data: impl Serialize) -> Self {
        Self {
            org: None,
            service: service.into(),
            event: event.into(),
            id: None,
            key: None,
            users: None,
            time: None,
            data: serde_json::value::to_raw_value(&data).map_err(|error| error.to_string()),
        }
    }

    /// Its org, if the publisher has none.
    #[must_use]
    pub fn org(mut self, org: impl Into<String>) -> Self {
        self.org = Some(org.into());
        self
    }

    /// Identifies it, within org and service. Default: a UUIDv7, made before the first try.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// What it is about, such as `invoice-42`.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Only these users see it.
    #[must_use]
    pub fn users<U: Into<String>>(mut self, users: impl IntoIterator<Item = U>) -> Self {
        self.users = Some(users.into_iter().map(Into::into).collect());
        self
    }

    /// When it happened, in the form of RFC 3339.
    #[must_use]
    pub fn time(mut self, time: impl Into<String>) -> Self {
        self.time = Some(time.into());
        self
    }

    /// The event as JSON, with this id.
    pub(super) fn encode(&self, id: &str) -> Result<Vec<u8>, String> {
        #[derive(Serialize)]
        struct Body<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            org: Option<&'a str>,
            service: &'a str,
            event: &'a str,
            id: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            key: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            users: Option<&'a [String]>,
            #[serde(skip_serializing_if = "Option::is_none")]
            time: Option<&'a str>,
            data: &'a RawValue,
        }
        let body = Body {
            org: self.org.as_deref(),
            service: &self.service,
            event: &self.event,
            id,
            key: self.key.as_deref(),
            users: self.users.as_deref(),
            time: self.time.as_deref(),
            data: self.data.as_ref().map_err(Clone::clone)?,
        };
        serde_json::to_vec(&body).map_err(|error| error.to_string())
    }
}
