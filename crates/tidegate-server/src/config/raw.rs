//! A TOML value with its location in the text that it came from; it does not borrow from that text.

use std::ops::Range;

use toml::{Spanned, de::DeValue};

/// A value as one of the sources gave it.
#[derive(Debug, Clone, PartialEq)]
pub struct Raw {
    /// Where it stands in its source, in bytes.
    pub span: Range<usize>,
    /// What it is.
    pub value: Value,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Text.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// True or false.
    Boolean(bool),
    /// A float, a date, a number past 64 bits: as written.
    Other(String),
    /// A list.
    List(Vec<Raw>),
    /// Fields with the locations of their names.
    Table(Vec<(String, Range<usize>, Raw)>),
}

impl Raw {
    /// Text that was typed without quotes.
    pub fn text(text: &str) -> Self {
        Self { span: 0..text.len(), value: Value::Text(text.to_owned()) }
    }

    /// Parses one TOML value.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        DeValue::parse(text).map(|value| Self::from(&value))
    }
}

impl From<&Spanned<DeValue<'_>>> for Raw {
    fn from(raw: &Spanned<DeValue<'_>>) -> Self {
        let value = match raw.get_ref() {
            DeValue::String(text) => Value::Text(text.clone().into_owned()),
            DeValue::Boolean(truth) => Value::Boolean(*truth),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(integer) => Value::Integer(integer),
                Err(_) => Value::Other(number.to_string()),
            },
            DeValue::Float(number) => Value::Other(number.to_string()),
            DeValue::Datetime(time) => Value::Other(time.to_string()),
            DeValue::Array(items) => Value::List(items.iter().map(Raw::from).collect()),
            DeValue::Table(fields) => Value::Table(
                fields
                    .iter()
                    .map(|(name, value)| (name.get_ref().clone().into_owned(), name.span(), Raw::from(value)))
                    .collect(),
            ),
        };
        Self { span: raw.span(), value }
    }
}
