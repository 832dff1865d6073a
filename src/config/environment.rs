//! Reads one variable at a time, so that a fault names its variable, and remembers every fault.
use std::ffi::OsString;
use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Secret;
use super::settings::default_of;

/// The timers tick in milliseconds.
const SECONDS_MIN: f64 = 0.001;

/// A year: more is a slip of the finger, and far less than the timers can bear.
const SECONDS_MAX: f64 = 31_536_000.0;

/// A value is quoted up to here: enough to recognise it by, and still one line.
const SHOWN_CHARS_MAX: usize = 200;

/// One line about one variable: its name, its value unless that is a secret, and what is allowed.
#[derive(Debug)]
pub struct Fault {
    name: &'static str,
    value: Option<String>,
    problem: String,
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            // Debug's escapes keep a value with line ends in it on one line.
            Some(value) => write!(f, "{}={value:?} {}", self.name, self.problem),
            None => write!(f, "{} {}", self.name, self.problem),
        }
    }
}

/// Says that a fault was remembered: the value is lost, the other variables are still read.
pub(super) struct Remembered(());

/// What reading a variable comes to.
pub(super) type Read<T> = Result<T, Remembered>;

/// The variables, and what was wrong with those read so far.
pub(super) struct Environment<'a> {
    lookup: &'a dyn Fn(&str) -> Option<OsString>,
    faults: Vec<Fault>,
}

impl Environment<'_> {
    /// Runs `read` on what `lookup` knows: what it made, or all the faults it met.
    pub(super) fn read<T>(
        lookup: &dyn Fn(&str) -> Option<OsString>,
        read: impl FnOnce(&mut Environment) -> Read<T>,
    ) -> Result<T, Vec<Fault>> {
        let mut env = Environment {
            lookup,
            faults: Vec::new(),
        };
        match read(&mut env) {
            Ok(value) if env.faults.is_empty() => Ok(value),
            _ => Err(env.faults),
        }
    }

    /// Remembers a fault and shows the value: never for a secret.
    pub(super) fn fault(&mut self, name: &'static str, value: &str, problem: String) -> Remembered {
        let mut shown: String = value.chars().take(SHOWN_CHARS_MAX).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        self.remember(name, Some(shown), problem)
    }

    /// Remembers a fault without the value.
    pub(super) fn fault_unseen(&mut self, name: &'static str, problem: &str) -> Remembered {
        self.remember(name, None, problem.to_owned())
    }

    fn remember(
        &mut self,
        name: &'static str,
        value: Option<String>,
        problem: String,
    ) -> Remembered {
        self.faults.push(Fault {
            name,
            value,
            problem,
        });
        Remembered(())
    }

    /// The value to the byte: white space is kept, and empty is not unset.
    pub(super) fn verbatim(&mut self, name: &'static str) -> Read<Option<String>> {
        let value = (self.lookup)(name).map(OsString::into_string);
        value
            .transpose()
            .map_err(|_| self.fault_unseen(name, "is not valid UTF-8 (its value is not shown)"))
    }

    /// The value without white space around it; empty is unset.
    pub(super) fn text(&mut self, name: &'static str) -> Read<Option<String>> {
        let value = self.verbatim(name)?;
        let trimmed = value.as_deref().map(str::trim);
        Ok(trimmed.filter(|text| !text.is_empty()).map(str::to_owned))
    }

    /// As `text`; unset is what the table says.
    pub(super) fn text_or_default(&mut self, name: &'static str) -> Read<String> {
        Ok(self
            .text(name)?
            .unwrap_or_else(|| default_of(name).to_owned()))
    }

    /// A whole number; unset is what the table says.
    pub(super) fn number<T>(&mut self, name: &'static str, range: RangeInclusive<T>) -> Read<T>
    where
        T: DeserializeOwned + PartialOrd + Display,
    {
        let text = self.text_or_default(name)?;
        self.parse_number(name, &text, range)
    }

    /// A whole number, if set.
    pub(super) fn optional_number<T>(
        &mut self,
        name: &'static str,
        range: RangeInclusive<T>,
    ) -> Read<Option<T>>
    where
        T: DeserializeOwned + PartialOrd + Display,
    {
        let text = self.text(name)?;
        text.map(|text| self.parse_number(name, &text, range))
            .transpose()
    }

    /// A duration above zero; unset is what the table says.
    pub(super) fn seconds(&mut self, name: &'static str) -> Read<Duration> {
        let text = self.text_or_default(name)?;
        parse_seconds(&text)
            .filter(|limit| !limit.is_zero())
            .ok_or_else(|| {
                let problem =
                    format!("is not a number of seconds from {SECONDS_MIN} to {SECONDS_MAX}");
                self.fault(name, &text, problem)
            })
    }

    /// A duration where zero has a meaning; unset is what the table says.
    pub(super) fn seconds_or_zero(&mut self, name: &'static str) -> Read<Duration> {
        let text = self.text_or_default(name)?;
        self.parse_seconds_or_zero(name, &text)
    }

    /// A duration where zero has a meaning, if set.
    pub(super) fn optional_seconds_or_zero(
        &mut self,
        name: &'static str,
    ) -> Read<Option<Duration>> {
        let text = self.text(name)?;
        text.map(|text| self.parse_seconds_or_zero(name, &text))
            .transpose()
    }

    /// One of a few words, in any case; `allowed` lists them for the fault.
    pub(super) fn keyword<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
        allowed: &str,
    ) -> Read<T> {
        let text = self.text_or_default(name)?;
        parse(&text.to_ascii_uppercase())
            .ok_or_else(|| self.fault(name, &text, format!("is not {allowed}")))
    }

    /// Yes or no, in the words that people use for it.
    pub(super) fn switch(&mut self, name: &'static str) -> Read<bool> {
        let text = self.text_or_default(name)?;
        match &*text.to_ascii_lowercase() {
            "on" | "true" | "yes" | "1" => Ok(true),
            "off" | "false" | "no" | "0" => Ok(false),
            _ => Err(self.fault(name, &text, "is neither on nor off".to_owned())),
        }
    }

    /// A value that is never shown, and that can stand in a field's value.
    ///
    /// White space around it goes: a line end is easily pasted with a key.
    pub(super) fn secret(&mut self, name: &'static str) -> Read<Option<Secret>> {
        match self.text(name)? {
            Some(text) if text.contains(char::is_control) => Err(self.fault_unseen(
                name,
                "holds a control character, such as a line end (its value is not shown); \
                 it goes into a header field, where none is allowed",
            )),
            text => Ok(text.map(Secret::new)),
        }
    }

    fn parse_number<T>(
        &mut self,
        name: &'static str,
        text: &str,
        range: RangeInclusive<T>,
    ) -> Read<T>
    where
        T: DeserializeOwned + PartialOrd + Display,
    {
        parse(text)
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                let problem = format!(
                    "is not a whole number from {} to {}",
                    range.start(),
                    range.end()
                );
                self.fault(name, text, problem)
            })
    }

    fn parse_seconds_or_zero(&mut self, name: &'static str, text: &str) -> Read<Duration> {
        parse_seconds(text).ok_or_else(|| {
            let problem =
                format!("is neither 0 nor a number of seconds from {SECONDS_MIN} to {SECONDS_MAX}");
            self.fault(name, text, problem)
        })
    }
}

/// Zero or what lies between the bounds; NaN lies nowhere.
fn parse_seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = parse(text)?;
    if seconds == 0.0 {
        return Some(Duration::ZERO);
    }
    if !(SECONDS_MIN..=SECONDS_MAX).contains(&seconds) {
        return None;
    }
    Duration::try_from_secs_f64(seconds).ok()
}

/// serde-env with a single variable of a single letter: given the whole environment it takes
/// `A_B` for a part of `A`, panics on a value that is not UTF-8, and names no variable.
fn parse<T: DeserializeOwned>(text: &str) -> Option<T> {
    #[derive(Deserialize)]
    struct One<T> {
        v: T,
    }
    serde_env::from_iter::<_, _, One<T>>([("V", text)])
        .ok()
        .map(|one| one.v)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_of_seconds_panics() {
        for text in [
            "nan", "NaN", "-nan", "inf", "-inf", "infinity", "1e400", "-1e400", "-1", "-0.001",
            "1e-400x", "0.0001", "1e-300", "31536001", "1e18", "1e308", "", " ", "abc", "1,5",
            "1s", "0x10", "1_000", "1e", "٣",
        ] {
            assert!(parse_seconds(text).is_none(), "{text}");
        }
    }

    #[test]
    fn seconds_have_decimals_and_a_range() {
        for (text, millis) in [
            ("0", 0),
            ("-0", 0),
            ("0.0", 0),
            ("0.001", 1),
            (".25", 250),
            ("0.25", 250),
            ("5.", 5_000),
            ("1e3", 1_000_000),
            ("31536000", 31_536_000_000),
        ] {
            assert_eq!(
                parse_seconds(text),
                Some(Duration::from_millis(millis)),
                "{text}"
            );
        }
    }

    #[test]
    fn a_fault_stays_on_one_line_and_short() {
        let value = format!("a\nb{}", "x".repeat(10_000));
        let lookup = |_: &str| Some(OsString::from(&value));
        let Err(faults) = Environment::read(&lookup, |env| env.number("WORKERS", 1..=9_u16)) else {
            panic!("read as a number");
        };
        let line = faults[0].to_string();
        assert!(line.starts_with("WORKERS=\"a\\nbx"), "{line}");
        assert!(
            line.ends_with("is not a whole number from 1 to 9"),
            "{line}"
        );
        assert!(!line.contains('\n') && line.len() < 300, "{line}");
    }
}
