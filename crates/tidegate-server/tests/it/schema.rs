//! Checks values against the schemas of a description: the part of JSON Schema (2020-12) that it uses, but
//! stricter in one point: an object may have no member that its schema does not name.
//!
//! Not a library, because those enable features of `serde_json` that the gateway under test does not have.
//! `tests/python/openapi.py` shows that the document is valid for other tools.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::Value;

/// The document with the schemas.
#[derive(Clone, Copy)]
pub struct Schemas<'d>(pub &'d Value);

impl<'d> Schemas<'d> {
    /// The target of a `$ref`; anything else is returned unchanged.
    pub fn resolve(self, value: &'d Value) -> &'d Value {
        value.get("$ref").map_or(value, |place| self.place(place))
    }

    fn place(self, place: &Value) -> &'d Value {
        let pointer =
            place.as_str().and_then(|place| place.strip_prefix('#')).expect("a place in the document");
        self.0.pointer(pointer).unwrap_or_else(|| panic!("{place} is nowhere"))
    }

    /// Whether `value` matches `schema`, or why not.
    pub fn check(self, schema: &'d Value, value: &Value) -> Result<(), String> {
        self.assert(schema, value)?;
        let Value::Object(members) = value else { return Ok(()) };
        let named = self.named(schema, value);
        // An object that names no members may have any: `data` is the publisher's.
        match members.keys().find(|name| !named.is_empty() && !named.contains(name.as_str())) {
            Some(other) => Err(format!("{other} is not described: {value}")),
            None => Ok(()),
        }
    }

    fn assert(self, schema: &'d Value, value: &Value) -> Result<(), String> {
        let keywords = schema.as_object().unwrap_or_else(|| panic!("no schema: {schema}"));
        for (keyword, wanted) in keywords {
            if keyword == "additionalProperties" {
                assert_eq!(wanted.as_bool(), Some(false), "another schema is not looked at here: teach it");
                let known = |name: &String| schema["properties"].get(name).is_some();
                match value.as_object().and_then(|members| members.keys().find(|name| !known(name))) {
                    Some(other) => return Err(format!("{other} is not allowed: {value}")),
                    None => continue,
                }
            }
            self.keyword(keyword, wanted, value).map_err(|reason| {
                if reason.is_empty() { format!("{value} does not have {keyword} {wanted}") } else { reason }
            })?;
        }
        Ok(())
    }

    /// Checks one keyword; the reason may be empty.
    fn keyword(self, keyword: &str, wanted: &'d Value, value: &Value) -> Result<(), String> {
        let each = || wanted.as_array().expect("schemas").iter();
        let count = || wanted.as_u64().expect("a count") as usize;
        let most = || wanted.as_f64().expect("a number");
        let is_good = match (keyword, value) {
            ("description" | "examples" | "format" | "default" | "contentMediaType" | "discriminator", _) => {
                true
            }
            ("$ref", _) => return self.assert(self.place(wanted), value),
            ("allOf", _) => return each().try_for_each(|schema| self.assert(schema, value)),
            ("anyOf", _) => each().any(|schema| self.check(schema, value).is_ok()),
            ("oneOf", _) => each().filter(|schema| self.check(schema, value).is_ok()).count() == 1,
            ("not", _) => self.assert(wanted, value).is_err(),
            ("const", _) => value == wanted,
            ("enum", _) => each().any(|one| one == value),
            ("type", _) => match wanted.as_str().expect("a type") {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "null" => value.is_null(),
                "integer" => value.is_u64() || value.is_i64(),
                other => panic!("a type that nothing has: {other}"),
            },
            ("pattern", Value::String(text)) => {
                Regex::new(wanted.as_str().expect("a pattern")).expect("a pattern").is_match(text)
            }
            ("minLength", Value::String(text)) => text.len() >= count(),
            ("contentSchema", Value::String(text)) => {
                return self.check(wanted, &serde_json::from_str(text).map_err(|error| error.to_string())?);
            }
            ("minimum", Value::Number(number)) => number.as_f64() >= Some(most()),
            ("maximum", Value::Number(number)) => number.as_f64() <= Some(most()),
            ("minItems", Value::Array(items)) => items.len() >= count(),
            ("maxItems", Value::Array(items)) => items.len() <= count(),
            ("items", Value::Array(items)) => {
                return items.iter().try_for_each(|item| self.check(wanted, item));
            }
            ("required", Value::Object(members)) => {
                each().all(|name| members.contains_key(name.as_str().expect("a name")))
            }
            ("properties", Value::Object(members)) => {
                let properties = wanted.as_object().expect("schemas");
                let both = properties.iter().filter_map(|(name, schema)| Some((schema, members.get(name)?)));
                return both.into_iter().try_for_each(|(schema, member)| self.check(schema, member));
            }
            ("propertyNames", Value::Object(members)) => {
                members.keys().all(|name| self.assert(wanted, &name.as_str().into()).is_ok())
            }
            // For another type than the value's: does not apply.
            (
                "pattern" | "minLength" | "contentSchema" | "minimum" | "maximum" | "minItems" | "maxItems"
                | "items" | "required" | "properties" | "propertyNames",
                _,
            ) => true,
            (other, _) => panic!("{other} is not looked at here: teach it"),
        };
        if is_good { Ok(()) } else { Err(String::new()) }
    }

    /// The members of `value` that `schema` names.
    fn named(self, schema: &'d Value, value: &Value) -> BTreeSet<&'d str> {
        let mut named = BTreeSet::new();
        if let Some(properties) = schema["properties"].as_object() {
            named.extend(properties.keys().map(String::as_str));
        }
        if let Some(place) = schema.get("$ref") {
            named.extend(self.named(self.place(place), value));
        }
        for keyword in ["allOf", "anyOf", "oneOf"] {
            let parts = schema[keyword].as_array().into_iter().flatten();
            for part in parts.filter(|part| self.assert(part, value).is_ok()) {
                named.extend(self.named(part, value));
            }
        }
        named
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_as_its_schema_says_or_not() {
        let document = json!({ "word": { "type": "string", "pattern": "^[a-z]+$" } });
        let schema = json!({
            "type": "object",
            "required": ["a"],
            "properties": { "a": { "$ref": "#/word" }, "n": { "type": "integer", "maximum": 3 }, "any": {} },
            "propertyNames": { "not": { "const": "no" } },
        });
        let schemas = Schemas(&document);
        let good = |value: Value| schemas.check(&schema, &value).is_ok();
        assert!(good(json!({ "a": "x", "n": 3, "any": { "b": 1 } })));
        for bad in [
            json!(7),
            json!({}),
            json!({ "a": "X" }),
            json!({ "a": 1 }),
            json!({ "a": "x", "n": 4 }),
            json!({ "a": "x", "more": 1 }),
            json!({ "a": "x", "no": 1 }),
        ] {
            assert!(!good(bad.clone()), "{bad}");
        }
        let closed = json!({ "properties": { "a": {} }, "additionalProperties": false });
        assert!(schemas.check(&closed, &json!({ "a": 1 })).is_ok());
        assert!(schemas.check(&closed, &json!({ "A": 1 })).is_err());
        let one = json!({ "oneOf": [{ "const": 1 }, { "type": "integer" }] });
        assert!(schemas.check(&one, &json!(2)).is_ok() && schemas.check(&one, &json!(1)).is_err());
        let text = json!({ "contentSchema": { "$ref": "#/word" } });
        assert!(schemas.check(&text, &json!("\"x\"")).is_ok() && schemas.check(&text, &json!("7")).is_err());
    }
}
