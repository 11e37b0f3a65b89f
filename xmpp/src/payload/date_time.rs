//! Dates and times as XMPP writes them (XEP-0082 §3.2, a profile of ISO 8601), from and to Unix milliseconds.
//!
//! Called by [`super::delay`], archives and entity time. The calendar is the proleptic Gregorian one; time zones other than
//! UTC are read, never written. Deliberately absent: leap seconds (a second of 60 is the first of the next minute), years
//! outside 1 to 9999, and the clock itself.

/// 9999-12-31T23:59:59.999Z: what a later time is written as.
pub const UNIX_MS_MAX: u64 = 253_402_300_799_999;

const MS_PER_DAY: u64 = 86_400_000;

/// `CCYY-MM-DDThh:mm:ss.sssZ`, always 24 characters.
#[must_use]
pub fn format(unix_ms: u64) -> String {
    let unix_ms = unix_ms.min(UNIX_MS_MAX);
    let (year, month, day) = civil_of(unix_ms / MS_PER_DAY);
    let ms = unix_ms % MS_PER_DAY;
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000)
}

/// Unix milliseconds, negative before 1970. `None` for anything that is no date-time: no zone, a month 13, a year 10000.
/// Digits beyond the millisecond are cut off.
#[must_use]
pub fn parse(text: &str) -> Option<i64> {
    let text = text.trim();
    if !text.is_ascii() || text.len() > 64 {
        return None;
    }
    let (date, time) = text.split_once('T')?;
    let zone_at = time.find(['Z', '+', '-'])?;
    let (time, zone) = time.split_at(zone_at);

    let [year, month, day] = fields(date, '-', [4, 2, 2])?;
    if !(1..=9999).contains(&year)
        || !(1..=12).contains(&month)
        || !(1..=days_in(year, month)).contains(&day)
    {
        return None;
    }
    let (time, fraction) =
        time.split_once('.').map_or((time, "0"), |(time, fraction)| (time, fraction));
    let [hour, minute, second] = fields(time, ':', [2, 2, 2])?;
    if hour > 23 || minute > 59 || second > 60 || fraction.is_empty() || !is_digits(fraction) {
        return None;
    }
    // ".5" is 500 ms: pad to three digits, cut the rest.
    let ms: i64 = fraction
        .bytes()
        .chain(*b"00")
        .take(3)
        .fold(0, |ms, digit| ms * 10 + i64::from(digit - b'0'));
    let offset_minutes = match (zone.split_at(1), zone) {
        (_, "Z") => 0,
        ((sign, hours_minutes), _) => {
            let [hours, minutes] = fields(hours_minutes, ':', [2, 2])?;
            if hours > 14 || minutes > 59 {
                return None;
            }
            let offset = hours * 60 + minutes;
            if sign == "-" { -offset } else { offset }
        }
    };
    let minutes = (days_of(year, month, day) * 24 + hour) * 60 + minute - offset_minutes;
    Some((minutes * 60 + second) * 1000 + ms)
}

/// Exactly N fields of exactly these numbers of digits.
fn fields<const N: usize>(text: &str, separator: char, widths: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; N];
    for (number, width) in numbers.iter_mut().zip(widths) {
        let part = parts.next().filter(|part| part.len() == width && is_digits(part))?;
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Year, month, day of a day counted from 1970-01-01. Years are counted from March, in eras of 400, so that the leap
/// day is the last of its year.
fn civil_of(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // since 0000-03-01
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// The inverse, for years from 1.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc_with_milliseconds() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (1_735_689_600_001, "2025-01-01T00:00:00.001Z"),
            (UNIX_MS_MAX, "9999-12-31T23:59:59.999Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ];
        for (ms, text) in cases {
            assert_eq!(format(ms), text);
            assert_eq!(parse(text), Some(ms.min(UNIX_MS_MAX) as i64));
        }
    }

    #[test]
    fn every_day_is_read_back_as_it_was_written() {
        for day in (0..2_932_896).step_by(97) {
            let ms = day * MS_PER_DAY + 12_345_678;
            assert_eq!(parse(&format(ms)), Some(ms as i64), "day {day}");
        }
    }

    #[test]
    fn zones_and_fractions_are_understood() {
        let cases = [
            ("1969-07-21T02:56:15Z", -14_159_025_000),
            ("1969-07-20T21:56:15-05:00", -14_159_025_000),
            ("1970-01-01T01:00:00+01:00", 0),
            ("1970-01-01T00:00:00.5Z", 500),
            ("1970-01-01T00:00:00.123456789Z", 123),
            (" 1970-01-01T00:00:00Z\n", 0),
            ("1970-01-01T00:00:60Z", 60_000), // a leap second
            ("0001-01-01T00:00:00Z", -62_135_596_800_000),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_time_is_refused() {
        for text in [
            "",
            "T",
            "now",
            "1970-01-01",
            "1970-01-01T00:00:00",
            "1970-01-01 00:00:00Z",
            "19700101T00:00:00",
            "0000-01-01T00:00:00Z",
            "10000-01-01T00:00:00Z",
            "-0001-01-01T00:00:00Z",
            "+1970-01-01T00:00:00Z",
            "1970-13-01T00:00:00Z",
            "1970-00-01T00:00:00Z",
            "1970-02-29T00:00:00Z",
            "1970-04-31T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:60:00Z",
            "1970-01-01T00:00:61Z",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T00:00:00.xZ",
            "1970-01-01T00:00:00Zx",
            "1970-01-01T00:00:00+25:00",
            "1970-01-01T00:00:00+1:00",
            "1970-01-01T00:00:00+",
            "1970-01-01T0:00:00Z",
            "１970-01-01T00:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
        assert_eq!(parse(&format!("1970-01-01T00:00:00.{}Z", "1".repeat(1000))), None);
    }
}
