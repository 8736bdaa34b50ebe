//! Reads the two JSON objects of a token strictly: a repeated name is refused, because two readers of the
//! same token could see different values.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::Value;

const TWICE: &str = "names a field twice";

/// An object in which each name occurs once.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Object(BTreeMap<String, Value>);

impl Object {
    /// Parses an object, or says why it is none.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(json).map_err(|error| match error.classify() {
            serde_json::error::Category::Data if error.to_string().starts_with(TWICE) => TWICE.to_owned(),
            // Our own words: the parser's error quotes the input.
            serde_json::error::Category::Data => "is not an object".to_owned(),
            _ => "is not JSON".to_owned(),
        })
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    pub(super) fn into_json(self) -> Value {
        Value::Object(self.0.into_iter().collect())
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut fields = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if fields.insert(name, value).is_some() {
                        return Err(A::Error::custom(TWICE));
                    }
                }
                Ok(Object(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// Above this a JavaScript number, and a number in many JSON parsers, is no longer exact.
const LAST_SECOND: u64 = 1 << 53;

/// A NumericDate (RFC 7519, 2): seconds since 1970, rounded down to whole ones.
pub(super) fn numeric_date(value: &Value) -> Option<u64> {
    let Value::Number(number) = value else {
        return None;
    };
    let seconds = match (number.as_u64(), number.as_f64()) {
        (Some(whole), _) => whole,
        // In range, so the cast only cuts the fraction.
        (None, Some(float)) if (0.0..LAST_SECOND as f64).contains(&float) => float as u64,
        _ => return None,
    };
    (seconds < LAST_SECOND).then_some(seconds)
}
