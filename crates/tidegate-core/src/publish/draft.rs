//! An event as it is in a body: its members, with their values unparsed.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    PublishError, PublishLimits,
    fields::{FAULTS_MAX, Faults, NAME_MAX, Text, escaped},
    too_many,
};
use crate::json;

/// The known members of one form of event.
pub(super) trait Members<'a>: Default {
    /// The names of all of them.
    const NAMES: &'static [&'static str];

    /// The slot for the value of a member, and its name; `None` for an unknown one.
    fn slot(&mut self, name: &str) -> Option<(&mut Option<&'a RawValue>, &'static str)>;

    /// Whether an unknown member of this name is refused; others are ignored.
    fn refuses(name: &str) -> bool;
}

/// An event, or the value in its place.
pub(super) struct Draft<'a, M> {
    /// `None` for a value that is not an object.
    pub(super) members: Option<M>,
    repeated: Option<&'static str>,
    /// The names of unknown members that are refused, at most as many as an answer reports.
    unknown: Vec<Cow<'a, str>>,
    /// The names and values of members that are ignored although strict readers would refuse the body for
    /// them, at most as many as an answer reports; without a name, the name itself is the reason.
    unfit: Vec<(Option<Cow<'a, str>>, &'a str)>,
}

impl<'a, M: Members<'a>> Draft<'a, M> {
    /// Reports repeated and unknown members.
    pub(super) fn report(&self, at: &str, faults: &mut Faults) {
        if let Some(name) = self.repeated {
            faults.add(format!("{at}/{name}"), "repeated", format!("{name} occurs more than once"));
        }
        for (index, name) in self.unknown.iter().enumerate() {
            if faults.is_full() {
                break;
            }
            if !self.unknown[..index].contains(name) {
                faults.unknown(at, name, M::NAMES);
            }
        }
        for (name, value) in &self.unfit {
            match name {
                None => faults.lone_surrogate(at.to_owned()),
                Some(name) if name.len() <= NAME_MAX => {
                    faults.unfit(value, &format!("{at}/{}", escaped(name)), None);
                }
                Some(_) => faults.unfit(value, at, None),
            }
        }
    }
}

impl<'de: 'a, 'a, M: Members<'a>> Deserialize<'de> for Draft<'a, M>
where
    M: 'a,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A value of any kind: one that is not an object is a faulty field, not a syntax error.
        let raw = <&'a RawValue>::deserialize(deserializer)?;
        if !raw.get().starts_with('{') {
            return Ok(Self { members: None, repeated: None, unknown: Vec::new(), unfit: Vec::new() });
        }
        serde_json::Deserializer::from_str(raw.get())
            .deserialize_map(Object(PhantomData))
            .map_err(serde::de::Error::custom)
    }
}

struct Object<M>(PhantomData<M>);

impl<'a, M: Members<'a>> Visitor<'a> for Object<M> {
    type Value = Draft<'a, M>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Draft<'a, M>, A::Error> {
        let mut members = M::default();
        let (mut repeated, mut unknown, mut unfit) = (None, Vec::new(), Vec::new());
        while let Some(name) = map.next_key::<&'a RawValue>()? {
            let value: &'a RawValue = map.next_value()?;
            let Ok(name) = serde_json::from_str::<Text<'a>>(name.get()) else {
                if unfit.len() < FAULTS_MAX {
                    unfit.push((None, ""));
                }
                continue;
            };
            let name = name.0;
            let Some((slot, name)) = members.slot(&name) else {
                if M::refuses(&name) {
                    if unknown.len() < FAULTS_MAX {
                        unknown.push(name);
                    }
                } else if unfit.len() < FAULTS_MAX && json::is_unfit(value.get()) {
                    unfit.push((Some(name), value.get()));
                }
                continue;
            };
            if slot.replace(value).is_some() {
                repeated = Some(name);
            }
        }
        Ok(Draft { members: Some(members), repeated, unknown, unfit })
    }
}

/// Reads an array of events, until it has more than `limits` allow.
pub(super) fn read_array<'a, M: Members<'a> + 'a>(
    text: &'a str,
    limits: &PublishLimits,
) -> Result<Vec<Draft<'a, M>>, PublishError> {
    let mut drafts = Vec::new();
    let mut reader = serde_json::Deserializer::from_str(text);
    let visitor = List { drafts: &mut drafts, max: limits.events };
    let whole = (&mut reader).deserialize_seq(visitor).map_err(not_json)?;
    reader.end().map_err(not_json)?;
    if whole { Ok(drafts) } else { Err(too_many(limits)) }
}

/// Reads one event.
pub(super) fn read_one<'a, M: Members<'a> + 'a>(text: &'a str) -> Result<Draft<'a, M>, PublishError> {
    serde_json::from_str(text).map_err(not_json)
}

fn not_json(error: serde_json::Error) -> PublishError {
    PublishError::NotJson(error.to_string())
}

struct List<'v, 'a, M> {
    drafts: &'v mut Vec<Draft<'a, M>>,
    max: usize,
}

impl<'a, M: Members<'a> + 'a> Visitor<'a> for List<'_, 'a, M> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<bool, A::Error> {
        while let Some(draft) = seq.next_element()? {
            if self.drafts.len() == self.max {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(false);
            }
            self.drafts.push(draft);
        }
        Ok(true)
    }
}
