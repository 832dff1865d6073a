//! The failed attempts of a request, as its client is told of them.
use std::fmt::{self, Display};
use std::time::Duration;

use crate::telemetry::words::{Cause, Delivery};

/// Attempts told one by one; the rest is only counted, for there may be any number of them.
const TOLD_MAX: usize = 8;

/// Which attempt, how far its request came, why it failed, and after how long:
/// `1=acked,header_timeout,30.0s; 2=not_sent,connect_failed,0.0s`. What was found closed when it was used
/// again is `stale` and has no number.
#[derive(Default)]
pub(super) struct FailedAttempts {
    told: Vec<Told>,
    more: u32,
}

struct Told {
    attempt: Option<u32>,
    delivery: Delivery,
    cause: Cause,
    took: Duration,
}

impl FailedAttempts {
    pub(super) fn add(
        &mut self,
        attempt: Option<u32>,
        (delivery, cause): (Delivery, Cause),
        took: Duration,
    ) {
        if self.told.len() == TOLD_MAX {
            self.more += 1;
            return;
        }
        self.told.push(Told {
            attempt,
            delivery,
            cause,
            took,
        });
    }

    /// Whether the first was none, but a stale connection.
    pub(super) fn begins_stale(&self) -> bool {
        self.told
            .first()
            .is_some_and(|first| first.attempt.is_none())
    }
}

impl Display for FailedAttempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, told) in self.told.iter().enumerate() {
            if at > 0 {
                f.write_str("; ")?;
            }
            match told.attempt {
                Some(number) => write!(f, "{number}=")?,
                None => f.write_str("stale=")?,
            }
            let (delivery, cause) = (told.delivery.name(), told.cause.name());
            write!(f, "{delivery},{cause},{:.1}s", told.took.as_secs_f64())?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, "; more={more}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_attempts_is_told_in_a_bounded_line() {
        let mut failed = FailedAttempts::default();
        assert_eq!(failed.to_string(), "");
        let stale = (Delivery::Acked, Cause::Closed);
        failed.add(None, stale, Duration::from_millis(12));
        let first = (Delivery::NotAcked, Cause::WriteTimeout);
        failed.add(Some(1), first, Duration::from_millis(30_049));
        assert_eq!(
            failed.to_string(),
            "stale=acked,closed,0.0s; 1=not_acked,write_timeout,30.0s"
        );
        for number in 2..=100 {
            let next = (Delivery::NotSent, Cause::ConnectFailed);
            failed.add(Some(number), next, Duration::ZERO);
        }
        let text = failed.to_string();
        assert!(text.ends_with("; 7=not_sent,connect_failed,0.0s; more=93"));
        assert!(text.len() < 300, "{text}");
    }
}
