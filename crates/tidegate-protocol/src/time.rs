//! Times and durations as the wire has them: milliseconds since the Unix epoch, and RFC 3339 in UTC.
//!
//! Nothing here reads a clock; the caller does.

use std::{fmt::Write as _, time::Duration};

use bytes::BytesMut;
use time::OffsetDateTime;

/// Milliseconds since the Unix epoch.
pub type UnixMillis = u64;

/// Writes `millis` as RFC 3339 in UTC with milliseconds (`2026-11-24T09:30:00.000Z`).
pub fn write_rfc3339(out: &mut BytesMut, millis: UnixMillis) {
    // RFC 3339 ends with the year 9999; a later time is written as its last instant.
    let nanos = i128::from(millis.min(253_402_300_799_999)) * 1_000_000;
    write_datetime(
        out,
        OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH),
    );
}

/// Writes an instant in UTC as RFC 3339 with milliseconds. Its year must be between 0 and 9999.
pub fn write_datetime(out: &mut BytesMut, at: OffsetDateTime) {
    // Writing to a `BytesMut` cannot fail.
    let _ = write!(
        out,
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.millisecond()
    );
}

/// A duration in whole milliseconds, saturating.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_rfc3339_with_milliseconds() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_795_512_600_007, "2026-11-24T09:30:00.007Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            let mut out = BytesMut::new();
            write_rfc3339(&mut out, millis);
            assert_eq!(out, text);
        }
    }
}
