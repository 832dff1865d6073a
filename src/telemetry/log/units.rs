//! Durations and sizes as people read them, in at most six characters up to 99 minutes and 999 TB.
use std::fmt::Write;

/// `0.3ms`, `812ms`, `31.25s`, `10m30s`, `1h40m`.
pub(super) fn push_span(out: &mut String, millis: f64) {
    let tenths = (millis * 10.0).round().min(1e18) as u64; // infinity has no unit
    let seconds = (tenths + 5_000) / 10_000;
    let minutes = (seconds + 30) / 60;
    let _ = match tenths {
        ..100 => write!(out, "{}.{}ms", tenths / 10, tenths % 10),
        100..9_995 => write!(out, "{}ms", (tenths + 5) / 10),
        9_995..999_950 => {
            let hundredths = (tenths + 50) / 100;
            write!(out, "{}.{:02}s", hundredths / 100, hundredths % 100)
        }
        _ if seconds < 6_000 => write!(out, "{}m{:02}s", seconds / 60, seconds % 60),
        _ => write!(out, "{}h{:02}m", minutes / 60, minutes % 60),
    };
}

/// `0B`, `999B`, `1.2kB`, `41.8kB`, `418kB`, `32.0MB`: a kB is 1000 bytes.
pub(super) fn push_bytes(out: &mut String, bytes: u64) {
    if bytes < 1000 {
        let _ = write!(out, "{bytes}B");
        return;
    }
    let units = ["kB", "MB", "GB", "TB", "PB", "EB"];
    let mut thousands = bytes as f64;
    for unit in units {
        thousands /= 1000.0;
        let tenths = (thousands * 10.0).round() as u64;
        let _ = match thousands {
            ..99.95 => write!(out, "{}.{}{unit}", tenths / 10, tenths % 10),
            ..999.5 => write!(out, "{}{unit}", thousands.round() as u64),
            _ => continue,
        };
        return;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(millis: f64) -> String {
        let mut out = String::new();
        push_span(&mut out, millis);
        out
    }

    fn bytes(bytes: u64) -> String {
        let mut out = String::new();
        push_bytes(&mut out, bytes);
        out
    }

    #[test]
    fn a_duration_has_the_unit_that_people_would_choose() {
        for (millis, text) in [
            (0.0, "0.0ms"),
            (0.3, "0.3ms"),
            (9.9, "9.9ms"),
            (10.0, "10ms"),
            (999.4, "999ms"),
            (999.5, "1.00s"),
            (30_310.2, "30.31s"),
            (99_994.9, "99.99s"),
            (99_995.0, "1m40s"),
            (630_000.0, "10m30s"),
            (5_999_400.0, "99m59s"),
            (5_999_500.0, "1h40m"),
            (86_400_000.0, "24h00m"),
        ] {
            assert_eq!(span(millis), text, "{millis}");
        }
    }

    #[test]
    fn a_size_has_the_unit_that_people_would_choose() {
        for (count, text) in [
            (0, "0B"),
            (999, "999B"),
            (1_000, "1.0kB"),
            (41_822, "41.8kB"),
            (99_949, "99.9kB"),
            (99_950, "100kB"),
            (999_499, "999kB"),
            (999_500, "1.0MB"),
            (33_554_432, "33.6MB"),
            (4_294_967_296, "4.3GB"),
            (u64::MAX, "18.4EB"),
        ] {
            assert_eq!(bytes(count), text, "{count}");
        }
    }
}
