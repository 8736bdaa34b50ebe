//! The query parameters of a request.

use std::{collections::BTreeSet, ops::RangeInclusive};

use http::Request;
use tidegate_core::closest::did_you_mean;
use tidegate_protocol::{Code, Refusal, ServiceName};

use crate::{
    config::{ConfigKey, config_key},
    refusals::LimitedBy as _,
};

/// The longest name of a parameter that is repeated in refusals. Refusals are logged, and a token that stands
/// where a name belongs is longer.
const NAME_SHOWN_MAX: usize = 24;

/// The name of an unknown parameter, if it can be repeated: it is short, and has no character that could be
/// taken for a part of the log.
fn shown(name: &str) -> Option<&str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=NAME_SHOWN_MAX).contains(&name.len()).then_some(name).filter(|name| name.bytes().all(is_plain))
}

/// The parameters of a query (`application/x-www-form-urlencoded`).
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// The parameters of a request.
    pub fn of<B>(request: &Request<B>) -> Self {
        let query = request.uri().query().unwrap_or_default();
        Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    /// Refuses parameters other than these, and names the one of these that is probably meant.
    pub fn only(&self, names: &[&str]) -> Result<(), Refusal> {
        match self.0.iter().find(|(key, _)| !names.contains(&key.as_str())) {
            None => Ok(()),
            Some((key, _)) => {
                let nearest = match did_you_mean(key, names.iter().copied()) {
                    hint if !hint.is_empty() => hint,
                    _ if names.len() == 1 => format!("; {} is", names[0]),
                    _ => format!("; {} are", names.join(", ")),
                };
                let message = match shown(key) {
                    Some(name) => format!("{name} is not a parameter here{nearest}"),
                    None => format!("a parameter here is unknown; its name is not repeated{nearest}"),
                };
                Err(Refusal::new(Code::BadRequest, message))
            }
        }
    }

    /// The only value of `name`, if it is there.
    pub fn one(&self, name: &str) -> Result<Option<&str>, Refusal> {
        let mut values = self.0.iter().filter(|(key, _)| key == name);
        let value = values.next();
        if values.next().is_some() {
            return Err(Refusal::new(
                Code::BadRequest,
                format!("{name} appears more than once in the query"),
            ));
        }
        Ok(value.map(|(_, value)| value.as_str()))
    }

    /// The only value of `name`, as a number in `range`. `limit` is the key of the upper bound, if it has
    /// one.
    pub fn number(
        &self,
        name: &str,
        range: RangeInclusive<usize>,
        limit: Option<ConfigKey>,
    ) -> Result<Option<usize>, Refusal> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse::<usize>() {
            Ok(number) if is_plain && range.contains(&number) => Ok(Some(number)),
            parsed => {
                let (least, most) = range.into_inner();
                let message = format!("{name} must be a whole number from {least} to {most}");
                let refusal = Refusal::new(Code::BadRequest, message);
                let is_over = is_plain && parsed.is_ok_and(|number| number > most);
                Err(refusal.limited_by(limit.filter(|_| is_over)))
            }
        }
    }

    /// `services=`. `None` if it is absent, empty or `*`: all that the grant allows.
    pub fn services(&self, max: usize) -> Result<Option<BTreeSet<ServiceName>>, Refusal> {
        let text = match self.one("services")? {
            None | Some("" | "*") => return Ok(None),
            Some(text) => text,
        };
        let names: Vec<&str> = text.split(',').collect();
        if names.len() > max {
            let key = config_key!(limits.services_per_filter);
            let message = format!("services names {} services, {key} allows {max}", names.len());
            return Err(Refusal::new(Code::BadRequest, message).limited_by(key));
        }
        let parse = |name: &str| {
            ServiceName::parse(name)
                .map_err(|error| Refusal::new(Code::BadRequest, format!("services: {error}")))
        };
        names.into_iter().map(parse).collect::<Result<_, _>>().map(Some)
    }
}
