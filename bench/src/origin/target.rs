//! The request-target: it says what the origin does with the request.
use std::str::FromStr;
use std::time::Duration;

use crate::pattern::PERIOD;

/// `data: `, 20 digits of time, a space and an empty line: an event has no fewer bytes.
pub const EVENT_BYTES_MIN: usize = 29;
/// The filling of an event is one piece of the pattern.
pub const EVENT_BYTES_MAX: usize = PERIOD;
/// Longer waits than a day are mistakes, and could leave the range of the clock.
const WAIT_MAX: Duration = Duration::from_secs(86_400);
/// An ID fits many times into the answer of a plan.
const ID_BYTES_MAX: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `/bytes/N`, `/bytes/N/chunked`, `/bytes/N/close`
    Bytes { length: u64, framing: Framing },
    /// `/sse/EVENTS/BYTES/MICROS`
    Events {
        /// `None`: for ever.
        count: Option<u64>,
        bytes: usize,
        /// Zero: one right after the other.
        interval: Duration,
    },
    /// `/fault/WHAT`
    Fault(Fault),
    /// `/plan/ID/STEP,STEP,...`, a step being a name of [`Step`] or one of the targets above with `:`
    /// for `/`, such as `bytes:1024:chunked`.
    Plan { id: String, steps: Vec<Step> },
}

/// How the end of a response body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length,
    Chunked,
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Reads the request and never answers.
    Silent,
    /// Reads nothing behind the head of the request for so long, then RST.
    Deaf(Duration),
    /// RST after the request.
    Reset,
    /// RST after the head of the request, which has to come to know that this is asked for.
    ResetAtOnce,
    /// Half a response head, then RST.
    HalfHead,
    /// Half a response head, then nothing.
    HalfHeadHang,
    /// The response head byte by byte.
    SlowHead(Duration),
    /// The response body byte by byte.
    SlowBody { length: u64, pause: Duration },
    /// A final response before the request body is read.
    Early(u16),
    /// FIN after `at` bytes of a body that was to have `length`.
    Cut {
        length: u64,
        framing: Framing,
        at: u64,
    },
    /// A good answer; the connection closes when the first byte of the next request comes.
    CloseAtReuse,
    /// Bytes that are no response, then FIN.
    Garbage,
}

/// What is done when a request of a plan arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The plan's answer.
    Ok,
    /// The plan's answer, with a long pause in its middle.
    Pause,
    /// Half of the plan's answer, then FIN.
    Cut(Framing),
    /// A body as of `/bytes`, which begins where [`plan_first`](super::plan_first) says.
    Bytes {
        length: u64,
        framing: Framing,
    },
    /// Events as of `/sse`, whose filling begins there.
    Events {
        count: Option<u64>,
        bytes: usize,
        interval: Duration,
    },
    Fault(Fault),
}

impl Target {
    /// `None`: the path asks for nothing that the origin does.
    pub fn parse(path: &str) -> Option<Self> {
        let mut parts = path.strip_prefix('/')?.split('/');
        let parts = &mut parts;
        let target = match parts.next()? {
            "bytes" => Self::Bytes {
                length: number(parts)?,
                framing: framing(parts.next())?,
            },
            "sse" => events(parts)?,
            "fault" => Self::Fault(fault(parts)?),
            "plan" => plan(parts.next()?, parts.next()?)?,
            _ => return None,
        };
        parts.next().is_none().then_some(target)
    }
}

type Parts<'a> = std::str::Split<'a, char>;

fn number<T: FromStr>(parts: &mut Parts<'_>) -> Option<T> {
    parts.next()?.parse().ok()
}

fn wait(parts: &mut Parts<'_>, unit: fn(u64) -> Duration) -> Option<Duration> {
    let wait = unit(number(parts)?);
    (wait <= WAIT_MAX).then_some(wait)
}

fn framing(part: Option<&str>) -> Option<Framing> {
    match part {
        None => Some(Framing::Length),
        Some("chunked") => Some(Framing::Chunked),
        Some("close") => Some(Framing::Close),
        Some(_) => None,
    }
}

fn events(parts: &mut Parts<'_>) -> Option<Target> {
    let count: u64 = number(parts)?;
    let bytes = number(parts)?;
    let interval = wait(parts, Duration::from_micros)?;
    (EVENT_BYTES_MIN..=EVENT_BYTES_MAX)
        .contains(&bytes)
        .then_some(Target::Events {
            count: (count > 0).then_some(count),
            bytes,
            interval,
        })
}

fn fault(parts: &mut Parts<'_>) -> Option<Fault> {
    let fault = match parts.next()? {
        "deaf" => Fault::Deaf(wait(parts, Duration::from_millis)?),
        "slow-head" => Fault::SlowHead(wait(parts, Duration::from_millis)?),
        "slow-body" => Fault::SlowBody {
            length: number(parts)?,
            pause: wait(parts, Duration::from_millis)?,
        },
        "early" => Fault::Early(early(number(parts)?)?),
        "cut" => cut(parts, Framing::Length)?,
        "cut-chunked" => cut(parts, Framing::Chunked)?,
        "close-at-reuse" => Fault::CloseAtReuse,
        name => bare_fault(name)?,
    };
    Some(fault)
}

/// Those without parameters, which a plan may have as steps.
fn bare_fault(name: &str) -> Option<Fault> {
    Some(match name {
        "silent" => Fault::Silent,
        "reset" => Fault::Reset,
        "reset-at-once" => Fault::ResetAtOnce,
        "half-head" => Fault::HalfHead,
        "half-head-hang" => Fault::HalfHeadHang,
        "garbage" => Fault::Garbage,
        _ => return None,
    })
}

/// A status of a final response with content (RFC 9110 15).
fn early(status: u16) -> Option<u16> {
    ((200..600).contains(&status) && status != 204 && status != 304).then_some(status)
}

fn cut(parts: &mut Parts<'_>, framing: Framing) -> Option<Fault> {
    let (length, at) = (number(parts)?, number(parts)?);
    (at < length).then_some(Fault::Cut {
        length,
        framing,
        at,
    })
}

fn plan(id: &str, steps: &str) -> Option<Target> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if id.is_empty() || id.len() > ID_BYTES_MAX || !id.bytes().all(plain) {
        return None;
    }
    let step = |name| match name {
        "ok" => Some(Step::Ok),
        "pause" => Some(Step::Pause),
        "cut" => Some(Step::Cut(Framing::Length)),
        "cut-chunked" => Some(Step::Cut(Framing::Chunked)),
        _ if name.contains(':') => other_step(name),
        _ => bare_fault(name).map(Step::Fault),
    };
    let id = id.to_owned();
    let steps = steps.split(',').map(step).collect::<Option<_>>()?;
    Some(Target::Plan { id, steps })
}

fn other_step(name: &str) -> Option<Step> {
    Some(
        match Target::parse(&format!("/{}", name.replace(':', "/")))? {
            Target::Bytes { length, framing } => Step::Bytes { length, framing },
            Target::Events {
                count,
                bytes,
                interval,
            } => Step::Events {
                count,
                bytes,
                interval,
            },
            Target::Fault(fault) => Step::Fault(fault),
            Target::Plan { .. } => return None,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn a_target_says_what_is_done() {
        let bytes = |length, framing| Target::Bytes { length, framing };
        let events = |count, bytes, interval| Target::Events {
            count,
            bytes,
            interval,
        };
        let cut = |framing| {
            Target::Fault(Fault::Cut {
                length: 9,
                framing,
                at: 4,
            })
        };
        let slow_body = Fault::SlowBody {
            length: 7,
            pause: MILLI,
        };
        for (path, target) in [
            ("/bytes/0", bytes(0, Framing::Length)),
            ("/bytes/1024/chunked", bytes(1024, Framing::Chunked)),
            ("/bytes/1024/close", bytes(1024, Framing::Close)),
            ("/sse/0/200/1000", events(None, 200, MILLI)),
            ("/sse/5/29/0", events(Some(5), 29, Duration::ZERO)),
            ("/fault/silent", Target::Fault(Fault::Silent)),
            ("/fault/deaf/1", Target::Fault(Fault::Deaf(MILLI))),
            ("/fault/slow-head/1", Target::Fault(Fault::SlowHead(MILLI))),
            ("/fault/slow-body/7/1", Target::Fault(slow_body)),
            ("/fault/early/413", Target::Fault(Fault::Early(413))),
            ("/fault/cut/9/4", cut(Framing::Length)),
            ("/fault/cut-chunked/9/4", cut(Framing::Chunked)),
            ("/fault/close-at-reuse", Target::Fault(Fault::CloseAtReuse)),
        ] {
            assert_eq!(Target::parse(path), Some(target), "{path}");
        }
    }

    #[test]
    fn a_plan_is_a_list_of_steps() {
        let steps = vec![
            Step::Fault(Fault::HalfHeadHang),
            Step::Cut(Framing::Chunked),
            Step::Pause,
            Step::Bytes {
                length: 9,
                framing: Framing::Chunked,
            },
            Step::Fault(Fault::Early(413)),
            Step::Ok,
        ];
        let id = "a-1".to_owned();
        assert_eq!(
            Target::parse(
                "/plan/a-1/half-head-hang,cut-chunked,pause,bytes:9:chunked,fault:early:413,ok"
            ),
            Some(Target::Plan { id, steps })
        );
    }

    #[test]
    fn what_the_origin_does_not_do_is_no_target() {
        for path in [
            "",
            "/",
            "bytes/1",
            "/bytes",
            "/bytes/",
            "/bytes/-1",
            "/bytes/1/gzip",
            "/bytes/1/close/",
            "/bytes/18446744073709551616",
            "/sse/1/28/0",
            "/sse/1/65522/0",
            "/sse/1/200/86400000001",
            "/sse/1/200",
            "/fault/",
            "/fault/early/100",
            "/fault/early/204",
            "/fault/cut/9/9",
            "/fault/silent/1",
            "/plan//ok",
            "/plan/a\"b/ok",
            "/plan/a/",
            "/plan/a/ok,",
            "/plan/a/early",
            "/plan/a/close-at-reuse",
            "/plan/a/bytes:x",
            "/plan/a/plan:b:ok",
        ] {
            assert_eq!(Target::parse(path), None, "{path}");
        }
    }
}
