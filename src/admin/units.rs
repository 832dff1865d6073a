//! Numbers, times and other people's text, as they are shown to people.
use std::time::{Duration, SystemTime};

use maud::{Markup, html};
use time::OffsetDateTime;

/// Between groups of digits, and between a number and its unit: narrow, and no line ends there.
const THIN: char = '\u{202f}';

/// `1 234`.
pub(super) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 * THIN.len_utf8());
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(THIN);
        }
        text.push(digit);
    }
    text
}

/// `1.2 MB`, and exactly on demand.
pub(super) fn bytes(value: u64) -> Markup {
    let mut scaled = value as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"].into_iter();
    let mut unit = units.next();
    // What rounds to four digits is one of the next unit.
    while scaled >= 999.5 {
        scaled /= 1e3;
        unit = units.next();
    }
    let unit = unit.expect("2^64 is 18 EB");
    let decimals = usize::from(value >= 1000 && scaled < 9.95);
    html! {
        span title=(format!("{} bytes", number(value))) { (format!("{scaled:.decimals$}{THIN}{unit}")) }
    }
}

/// `320 ms`, `30.3 s`, `2 min 5 s`, `2 h 5 min`, `3 d 4 h`.
pub(super) fn duration(value: Duration) -> String {
    let seconds = value.as_secs();
    let two = |large: u64, unit: &str, small: u64, smaller: &str| match small {
        0 => format!("{large}{THIN}{unit}"),
        _ => format!("{large}{THIN}{unit} {small}{THIN}{smaller}"),
    };
    match value.as_secs_f64() {
        0.0 => format!("0{THIN}s"),
        few if few < 0.01 => format!("{}{THIN}ms", (few * 1e4).round() / 10.0),
        few if few < 0.9995 => format!("{:.0}{THIN}ms", few * 1e3),
        few if few < 59.95 => format!("{}{THIN}s", (few * 10.0).round() / 10.0),
        _ if seconds < 3600 => two(seconds.max(60) / 60, "min", seconds.max(60) % 60, "s"),
        _ if seconds < 86_400 => two(seconds / 3600, "h", seconds / 60 % 60, "min"),
        _ => two(seconds / 86_400, "d", seconds / 3600 % 24, "h"),
    }
}

/// How long ago something was, in whole seconds, and when on demand.
pub(super) fn since(moment: SystemTime) -> Markup {
    let date = OffsetDateTime::from(moment);
    let day = date.date();
    let (hour, minute, second) = date.to_hms();
    let clock = format!("{hour:02}:{minute:02}:{second:02}");
    // A clock that was set back makes moments of the future.
    let ago = moment.elapsed().unwrap_or_default();
    html! {
        time datetime=(format!("{day}T{clock}Z")) title=(format!("{day} {clock} UTC")) {
            (duration(Duration::from_secs(ago.as_secs())))
        }
    }
}

/// `12 %` of `all`.
pub(super) fn share(part: u64, all: u64) -> String {
    let percent = 100.0 * part as f64 / all.max(1) as f64;
    match percent {
        0.0 => String::new(),
        little if little < 0.1 => format!("<{THIN}0.1{THIN}%"),
        little if little < 9.95 => format!("{little:.1}{THIN}%"),
        much => format!("{much:.0}{THIN}%"),
    }
}

/// A bar of `part` beside others of up to `all`.
pub(super) fn bar(class: &str, part: u64, all: u64) -> Markup {
    let width = 100.0 * part as f64 / all.max(1) as f64;
    html! {
        svg class=(format!("bar {class}")) viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true" {
            rect width=(format!("{width:.2}")) height="1" {}
        }
    }
}

/// Text by somebody else: what is not seen, or turns round what follows, is written as its number.
/// Cut after `chars_max` characters.
pub(super) fn foreign(text: &str, chars_max: usize) -> Markup {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars().take(chars_max) {
        match char {
            '"' | '\'' | '\\' => shown.push(char), // escaped by `escape_debug` for no reason of ours
            _ => shown.extend(char.escape_debug()),
        }
    }
    if text.chars().nth(chars_max).is_some() {
        shown.push('…');
    }
    html! { bdi { (shown) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (value, shown) in [
            (0, "0"),
            (999, "999"),
            (1000, "1\u{202f}000"),
            (1_234_567, "1\u{202f}234\u{202f}567"),
            (u64::MAX, "18 446 744 073 709 551 615"),
        ] {
            assert_eq!(number(value), shown.replace(' ', "\u{202f}"));
        }
    }

    #[test]
    fn bytes_have_a_unit_that_leaves_three_digits() {
        for (value, shown) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (9_949, "9.9 kB"),
            (9_950, "10 kB"),
            (999_499, "999 kB"),
            (999_500, "1.0 MB"),
            (1_234_567, "1.2 MB"),
            (u64::MAX, "18 EB"),
        ] {
            let shown = format!(">{}<", shown.replace(' ', "\u{202f}"));
            assert!(bytes(value).into_string().contains(&shown), "{value}");
        }
    }

    #[test]
    fn durations_have_two_units_at_most() {
        for (millis, shown) in [
            (0.0, "0 s"),
            (0.34, "0.3 ms"),
            (9.96, "10 ms"),
            (320.0, "320 ms"),
            (999.6, "1 s"),
            (30_340.0, "30.3 s"),
            (59_940.0, "59.9 s"),
            (59_990.0, "1 min"),
            (60_000.0, "1 min"),
            (125_900.0, "2 min 5 s"),
            (7_500_000.0, "2 h 5 min"),
            (86_400_000.0, "1 d"),
            (273_600_000.0, "3 d 4 h"),
        ] {
            let took = duration(Duration::from_secs_f64(millis / 1e3));
            assert_eq!(took.replace(THIN, " "), shown, "{millis}");
        }
    }

    #[test]
    fn a_moment_is_told_by_its_age_and_its_date() {
        let moment = SystemTime::now() - Duration::from_millis(7_500_900);
        let shown = since(moment).into_string();
        assert!(shown.contains(">2\u{202f}h 5\u{202f}min<"), "{shown}");
        let shown = since(SystemTime::UNIX_EPOCH + Duration::from_secs(951_782_400)).into_string();
        assert!(shown.contains("\"2000-02-29T00:00:00Z\""), "{shown}");
    }

    #[test]
    fn what_cannot_be_seen_is_written_as_its_number() {
        let shown = |text| foreign(text, 8).into_string();
        assert_eq!(shown("/é\"\\<"), "<bdi>/é&quot;\\&lt;</bdi>");
        assert_eq!(shown("\u{202e}\0\n"), "<bdi>\\u{202e}\\0\\n</bdi>");
        assert_eq!(shown("123456789"), "<bdi>12345678…</bdi>");
    }
}
