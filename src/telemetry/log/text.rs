//! Log lines for people: columns that stay where they are, units that need no counting, colour only
//! for what should catch the eye.
//!
//! ```text
//! 2026-03-01T12:00:30.310Z WARN  attempt failed  id=57006370beb8a838 method=POST attempt=1 …
//! 2026-03-01T12:00:38.410Z INFO  rescued     200 POST /v1/responses  head 30.31s  total 38.41s …
//! ```
use std::fmt::{self, Debug, Write};
use std::ops::Range;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::LINE_BYTES_USUAL;
use super::units::{push_bytes, push_span};

const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const NO_COLOUR: &str = "\x1b[0m";

const LEVEL_WIDTH: usize = 5;
const OUTCOME_WIDTH: usize = 11;
const METHOD_WIDTH: usize = 4;
/// `/v1/responses`. A longer path moves the rest of its line.
const PATH_WIDTH: usize = 13;
const AMOUNT_WIDTH: usize = 6;

/// `LOG_FORMAT=text`.
pub(super) struct Text {
    /// For a terminal.
    pub(super) colour: bool,
}

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::with_capacity(LINE_BYTES_USUAL);
        SystemTime.format_time(&mut Writer::new(&mut line))?;
        line.truncate("2026-03-01T12:00:30.310".len());
        line.push_str("Z ");
        let meta = event.metadata();
        self.push_column(
            &mut line,
            meta.level().as_str(),
            LEVEL_WIDTH,
            of_level(*meta.level()),
        );
        // Only the line of an exchange has an outcome.
        if meta.fields().field("outcome").is_some() {
            let mut exchange = Exchange::default();
            event.record(&mut exchange);
            self.push_exchange(&mut line, &exchange);
        } else {
            let mut told = Told::default();
            event.record(&mut told);
            line.push_str(&told.message);
            line.push_str(&told.pairs);
        }
        line.push('\n');
        writer.write_str(&line)
    }
}

impl Text {
    fn push_column(&self, line: &mut String, word: &str, width: usize, colour: Option<&str>) {
        match colour.filter(|_| self.colour) {
            None => line.push_str(word),
            Some(colour) => line.extend([colour, word, NO_COLOUR]),
        }
        pad(line, word.len(), width);
        line.push(' ');
    }

    fn push_exchange(&self, line: &mut String, exchange: &Exchange) {
        let word = |range: &Range<usize>| &exchange.words[range.clone()];
        let outcome = match word(&exchange.outcome) {
            "client_left" => "client left",
            outcome => outcome,
        };
        self.push_column(line, outcome, OUTCOME_WIDTH, of_outcome(outcome));
        match exchange.status {
            Some(status) => push_number(line, status),
            None => line.push_str("  -"),
        }
        line.push(' ');
        self.push_column(line, word(&exchange.method), METHOD_WIDTH, None);
        let path = word(&exchange.path);
        line.push_str(path);
        pad(line, path.len(), PATH_WIDTH);
        push_amount(line, "head", |line| match exchange.header_ms {
            Some(millis) => push_span(line, millis),
            None => line.push('-'),
        });
        push_amount(line, "total", |line| push_span(line, exchange.total_ms));
        push_amount(line, "up", |line| push_bytes(line, exchange.request_bytes));
        push_amount(line, "down", |line| {
            push_bytes(line, exchange.response_bytes)
        });
        if exchange.attempts != 1 {
            line.push_str("  attempts ");
            push_number(line, exchange.attempts);
        }
        line.extend(["  id=", word(&exchange.id)]);
        line.push_str(&exchange.others.pairs);
        let detail = word(&exchange.detail);
        if !detail.is_empty() {
            line.extend(["  ", detail]);
        }
    }
}

/// What went well is not coloured.
fn of_level(level: Level) -> Option<&'static str> {
    match level {
        Level::ERROR => Some(RED),
        Level::WARN => Some(YELLOW),
        _ => None,
    }
}

fn of_outcome(outcome: &str) -> Option<&'static str> {
    match outcome {
        "rescued" => Some(GREEN),
        "exhausted" | "aborted" => Some(RED),
        "refused" => Some(YELLOW),
        _ => None,
    }
}

/// Spaces behind something of `length` in a column of `width`.
fn pad(line: &mut String, length: usize, width: usize) {
    line.extend((length..width).map(|_| ' '));
}

fn push_number(line: &mut String, number: u64) {
    let _ = write!(line, "{number}");
}

/// A name and an amount, the latter at the right of its column.
fn push_amount(line: &mut String, name: &str, push: impl Fn(&mut String)) {
    line.extend(["  ", name, " "]);
    let start = line.len();
    push(line);
    for _ in line.len() - start..AMOUNT_WIDTH {
        line.insert(start, ' ');
    }
}

/// What the line of an exchange is made of, in whatever order it comes.
#[derive(Default)]
struct Exchange {
    /// Where the ranges lie.
    words: String,
    outcome: Range<usize>,
    method: Range<usize>,
    path: Range<usize>,
    id: Range<usize>,
    detail: Range<usize>,
    status: Option<u64>,
    attempts: u64,
    request_bytes: u64,
    response_bytes: u64,
    header_ms: Option<f64>,
    total_ms: f64,
    others: Told,
}

impl Visit for Exchange {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "status" => self.status = Some(value),
            "attempts" => self.attempts = value,
            "request_bytes" => self.request_bytes = value,
            "response_bytes" => self.response_bytes = value,
            _ => self.others.record_u64(field, value),
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        match field.name() {
            "header_ms" => self.header_ms = Some(value),
            "total_ms" => self.total_ms = value,
            _ => self.others.record_f64(field, value),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let (range, push): (_, fn(&mut String, &dyn Debug)) = match field.name() {
            "outcome" => (&mut self.outcome, push_prose),
            "method" => (&mut self.method, push_word),
            "path" => (&mut self.path, push_word),
            "id" => (&mut self.id, push_word),
            "detail" => (&mut self.detail, push_prose),
            _ => return self.others.record_debug(field, value),
        };
        let start = self.words.len();
        push(&mut self.words, value);
        *range = start..self.words.len();
    }
}

/// Any other line: what happened, then its fields.
#[derive(Default)]
struct Told {
    message: String,
    pairs: String,
}

impl Visit for Told {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            return push_prose(&mut self.message, value);
        }
        let gap = if self.pairs.is_empty() { "  " } else { " " };
        self.pairs.extend([gap, field.name(), "="]);
        push_word(&mut self.pairs, value);
    }
}

/// A value that ends where it seems to: in quotes, and escaped, unless it is plain.
fn push_word(out: &mut String, value: &dyn Debug) {
    let start = out.len();
    let _ = write!(out, "{value:?}");
    let word = &out[start..];
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    if word.is_empty() || !word.bytes().all(is_plain) {
        let quoted = format!("{word:?}");
        out.replace_range(start.., &quoted);
    }
}

/// A text up to the next field or the end of the line: escaped where it is not printable.
fn push_prose(out: &mut String, value: &dyn Debug) {
    let start = out.len();
    let _ = write!(out, "{value:?}");
    if !out[start..].bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        for char in out.split_off(start).chars() {
            match char {
                '"' | '\'' | '\\' => out.push(char),
                char => out.extend(char.escape_debug()),
            }
        }
    }
}
