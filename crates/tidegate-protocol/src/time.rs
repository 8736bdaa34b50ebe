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

/// Reads an instant as [`write_rfc3339`] writes it; `None` for any other text. A day that its month does not
/// have counts on into the next month.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    let form = b"0000-00-00T00:00:00.000Z";
    let bytes = text.as_bytes();
    let fits = |(byte, form): (&u8, &u8)| if *form == b'0' { byte.is_ascii_digit() } else { byte == form };
    if bytes.len() != form.len() || !bytes.iter().zip(form).all(fits) {
        return None;
    }
    let number = |range: std::ops::Range<usize>| {
        bytes[range].iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'))
    };
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    let (hour, minute, second) = (number(11..13), number(14..16), number(17..19));
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Days since 1970-01-01 (Hinnant, "chrono-compatible low-level date algorithms"): years begin in March.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days =
        era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60_000 + second * 1000 + number(20..23))
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

    #[test]
    fn timestamps_are_read_as_they_are_written() {
        for days in 0..60_000 {
            let millis = days * 86_400_000 + days * 1_009 % 86_400_000;
            let mut out = BytesMut::new();
            write_rfc3339(&mut out, millis);
            let text = std::str::from_utf8(&out).expect("text");
            assert_eq!(parse_rfc3339(text), i64::try_from(millis).ok(), "{text}");
        }
        assert_eq!(parse_rfc3339("1969-12-31T23:59:59.999Z"), Some(-1));
        assert_eq!(parse_rfc3339("2026-02-30T00:00:00.000Z"), parse_rfc3339("2026-03-02T00:00:00.000Z"));
        for bad in [
            "",
            "2026-11-24",
            "2026-11-24T09:30:00Z",
            "2026-11-24T09:30:00.007",
            "2026-11-24T09:30:00.007+00",
            "2026-13-24T09:30:00.007Z",
            "2026-11-24T24:30:00.007Z",
            "2026-11-24 09:30:00.007Z",
            "+026-11-24T09:30:00.007Z",
        ] {
            assert_eq!(parse_rfc3339(bad), None, "{bad}");
        }
    }
}
