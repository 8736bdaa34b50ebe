//! Cursors in the JSON of vectors: outputs have their text, states their parts.

use serde::Serializer;

use crate::{Cursor, Epoch};

/// Writes a cursor as its text, for `serialize_with`.
pub(super) fn as_text<S: Serializer>(cursor: &Cursor, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(cursor)
}

/// Writes a cursor as its text, or null.
pub(super) fn as_optional_text<S: Serializer>(
    cursor: &Option<Cursor>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match cursor {
        Some(cursor) => serializer.collect_str(cursor),
        None => serializer.serialize_none(),
    }
}

/// Writes an epoch as its text.
pub(super) fn epoch_as_text<S: Serializer>(epoch: &Epoch, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(epoch)
}

/// A cursor as an object of its three parts, for `with`: `{"epoch":"a","seq":5,"tag":null}`.
pub(super) mod as_parts {
    use serde::{Deserialize as _, Deserializer, Serialize, Serializer};

    use crate::{Cursor, Epoch, FilterTag, Seq};

    #[derive(Serialize)]
    struct Written<'a> {
        epoch: &'a str,
        seq: Seq,
        tag: Option<&'a str>,
    }

    #[derive(serde::Deserialize)]
    struct Read {
        epoch: Epoch,
        seq: Seq,
        tag: Option<FilterTag>,
    }

    pub(crate) fn serialize<S: Serializer>(cursor: &Cursor, serializer: S) -> Result<S::Ok, S::Error> {
        let Cursor { epoch, seq, tag } = cursor;
        Written { epoch: epoch.as_str(), seq: *seq, tag: tag.as_ref().map(FilterTag::as_str) }
            .serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cursor, D::Error> {
        let Read { epoch, seq, tag } = Read::deserialize(deserializer)?;
        Ok(Cursor { epoch, seq, tag })
    }
}

/// [`as_parts`], or null.
pub(super) mod as_optional_parts {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::as_parts;
    use crate::Cursor;

    pub(crate) fn serialize<S: Serializer>(
        cursor: &Option<Cursor>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match cursor {
            Some(cursor) => as_parts::serialize(cursor, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Cursor>, D::Error> {
        #[derive(Deserialize)]
        struct Parts(#[serde(with = "as_parts")] Cursor);
        Ok(Option::<Parts>::deserialize(deserializer)?.map(|Parts(cursor)| cursor))
    }
}
