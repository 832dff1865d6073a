//! The log: lines on stdout, written by a thread of its own. A blocked stdout never blocks a core:
//! lines that do not fit the queue are dropped and counted.
//!
//! No value of a field, wherever it comes from, ends its line or commands a terminal: what is not
//! printable is escaped in either format.
mod json;
mod text;
mod units;

use std::env;
use std::io::{IsTerminal, stdout};
use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;

use self::json::Json;
use self::text::Text;
use crate::config::{LogFormat, LogLevel};

/// Lines that wait for a slow stdout.
const LINES_MAX: usize = 10_000;
/// What most lines fit into.
const LINE_BYTES_USUAL: usize = 512;

/// Touched only where a line is lost.
static LOST: OnceLock<ErrorCounter> = OnceLock::new();

/// Starts the log for the whole process. Keep the guard to the end of `main`: dropping it writes the
/// last lines.
pub fn start(level: LogLevel, format: LogFormat) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES_MAX)
        .finish(stdout());
    let _ = LOST.set(writer.error_counter()); // a process has one log
    let lines = tracing_subscriber::fmt()
        .with_max_level(filter(level))
        .with_writer(writer);
    match format {
        LogFormat::Text => {
            let colour = is_coloured();
            lines.event_format(Text { colour }).init();
        }
        LogFormat::Json => lines.event_format(Json).init(),
    }
    guard
}

/// Lines that there was no room for since the start: stdout is read too slowly.
pub fn lines_lost() -> u64 {
    LOST.get().map_or(0, |lost| lost.dropped_lines() as u64)
}

/// On a terminal, unless it is asked for otherwise (<https://no-color.org>).
fn is_coloured() -> bool {
    stdout().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Trace => LevelFilter::TRACE,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Off => LevelFilter::OFF,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Display;
    use std::io::{self, Write};
    use std::sync::mpsc::{self, Sender};

    use tracing::{info, subscriber, warn};

    use super::*;

    struct Sink(Sender<Vec<u8>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written for the events of `tell`, in text and in JSON.
    fn written(tell: impl Fn()) -> [String; 2] {
        [LogFormat::Text, LogFormat::Json].map(|format| {
            let (sender, receiver) = mpsc::channel();
            let lines = tracing_subscriber::fmt().with_writer(move || Sink(sender.clone()));
            match format {
                LogFormat::Text => {
                    let lines = lines.event_format(Text { colour: false }).finish();
                    subscriber::with_default(lines, &tell);
                }
                LogFormat::Json => {
                    subscriber::with_default(lines.event_format(Json).finish(), &tell);
                }
            }
            String::from_utf8(receiver.try_iter().flatten().collect()).unwrap()
        })
    }

    /// Ends a line, or a quotation, for somebody; or commands a terminal.
    const HOSTILE: &str =
        "a\r\nb\tc\x1b[31md\u{85}e\u{9b}31mf\u{2028}g\u{202e}h\u{feff}i\0j\x7f \"k=l\\";

    fn exchange(any: &dyn Display) {
        info!(
            id = %any, method = %any, path = %any, status = 200, attempts = 2,
            request_bytes = 1, response_bytes = 2, header_ms = f64::NAN, total_ms = f64::INFINITY,
            outcome = any.to_string(), detail = %any, other = %any, "exchange"
        );
    }

    #[test]
    fn a_line_is_one_line_whatever_is_in_it() {
        let hostile: &dyn Display = &HOSTILE;
        for text in written(|| {
            exchange(hostile);
            warn!(cause = %hostile, text = HOSTILE, ?HOSTILE, "{hostile}");
        }) {
            assert!(text.ends_with('\n'));
            assert_eq!(text.matches('\n').count(), 2, "{text:?}");
            let is_plain = |byte| matches!(byte, b' '..=b'~' | b'\n');
            assert!(text.bytes().all(is_plain), "{text:?}");
        }
    }

    #[test]
    fn an_object_says_what_was_told() {
        let [_, json] = written(|| exchange(&HOSTILE));
        let object: serde_json::Value = serde_json::from_str(&json).unwrap();
        for name in ["id", "method", "path", "outcome", "detail", "other"] {
            assert_eq!(object[name], HOSTILE, "{name}");
        }
        assert!(object["total_ms"].is_null(), "JSON has no infinity");
        assert_eq!(object["request_bytes"], 1);
    }

    #[test]
    fn a_value_ends_where_its_quotation_does() {
        let [text, _] =
            written(|| warn!(a = "b c=d", e = "", f = 1.5, g = true, h = "i=j", "it's so"));
        let (_, told) = text.split_once("Z ").unwrap();
        assert_eq!(
            told,
            "WARN  it's so  a=\"b c=d\" e=\"\" f=1.5 g=true h=i=j\n"
        );
    }

    #[test]
    fn what_the_line_of_an_exchange_has_no_place_for_is_told_all_the_same() {
        let [text, _] = written(|| info!(outcome = "rescued", id = "1f", more = 3, "exchange"));
        assert!(text.ends_with("  id=1f  more=3\n"), "{text}");
    }
}
