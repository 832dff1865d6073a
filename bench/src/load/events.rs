//! Whether the events of a stream arrive whole, right and in order, and how long each was under way.
use super::Fault;
use crate::pattern::Pattern;

const PREFIX: &[u8] = b"data: ";
const END: &[u8] = b"\n\n";

/// The events of one stream, all of one length.
pub(crate) struct Events {
    event_bytes: usize,
    /// Where in the pattern their filling begins.
    first: u64,
    /// The beginning of an event whose end is to come: no memory for whole ones.
    begun: Vec<u8>,
    /// Sending time of the last event, in nanoseconds.
    last: u64,
}

impl Events {
    pub(crate) fn new(event_bytes: usize, first: u64) -> Self {
        Self {
            event_bytes,
            first,
            begun: Vec::new(),
            last: 0,
        }
    }

    /// Takes content that arrived at `now` and calls `each` with the delay of each event that is
    /// complete with it, in nanoseconds.
    pub(crate) fn take(
        &mut self,
        mut content: &[u8],
        now: u64,
        pattern: &Pattern,
        mut each: impl FnMut(u64),
    ) -> Result<(), Fault> {
        if !self.begun.is_empty() {
            let missing = self.event_bytes - self.begun.len();
            let (piece, rest) = content.split_at(missing.min(content.len()));
            content = rest;
            self.begun.extend_from_slice(piece);
            if self.begun.len() < self.event_bytes {
                return Ok(());
            }
            let event = std::mem::take(&mut self.begun);
            each(self.delay(&event, now, pattern)?);
        }
        let events = content.chunks_exact(self.event_bytes);
        self.begun.extend_from_slice(events.remainder());
        for event in events {
            each(self.delay(event, now, pattern)?);
        }
        Ok(())
    }

    /// The stream has ended.
    pub(crate) fn end(&self) -> Result<(), Fault> {
        if self.begun.is_empty() {
            Ok(())
        } else {
            Err(Fault::Wrong("the last event is cut".to_owned()))
        }
    }

    fn delay(&mut self, event: &[u8], now: u64, pattern: &Pattern) -> Result<u64, Fault> {
        let Some(sent) = sent(event, self.first, pattern) else {
            let event = event[..event.len().min(60)].escape_ascii();
            return Err(Fault::Wrong(format!("bad event: \"{event}\"")));
        };
        if sent <= self.last || sent > now {
            let last = self.last;
            return Err(Fault::Wrong(format!(
                "event of {sent} after one of {last}, read at {now}"
            )));
        }
        self.last = sent;
        Ok(now - sent)
    }
}

/// When `event` was sent; `None` where a byte of it is not what the origin sends.
fn sent(event: &[u8], first: u64, pattern: &Pattern) -> Option<u64> {
    let payload = event.strip_prefix(PREFIX)?.strip_suffix(END)?;
    let digits = payload.iter().position(|&byte| byte == b' ')?;
    let (time, filling) = (&payload[..digits], &payload[digits + 1..]);
    if !pattern.fits(first, filling) {
        return None;
    }
    std::str::from_utf8(time).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT_BYTES: usize = 40;

    fn event(sent: u64, pattern: &Pattern) -> Vec<u8> {
        let mut event = format!("data: {sent} ").into_bytes();
        event.extend_from_slice(pattern.at(0, EVENT_BYTES - 2 - event.len()));
        event.extend_from_slice(END);
        event
    }

    fn delays(stream: &[u8], split: usize, pattern: &Pattern) -> Result<Vec<u64>, Fault> {
        let mut events = Events::new(EVENT_BYTES, 0);
        let mut delays = Vec::new();
        for content in [&stream[..split], &stream[split..]] {
            events.take(content, 1_000, pattern, |delay| delays.push(delay))?;
        }
        events.end()?;
        Ok(delays)
    }

    #[test]
    fn each_event_counts_wherever_reads_cut_the_stream() {
        let pattern = Pattern::default();
        let stream = [100, 700, 999].map(|sent| event(sent, &pattern)).concat();
        for split in 0..=stream.len() {
            let delays = delays(&stream, split, &pattern).expect("three right events");
            assert_eq!(delays, [900, 300, 1]);
        }
    }

    #[test]
    fn doubled_late_cut_and_changed_events_are_wrong() {
        let pattern = Pattern::default();
        let [first, second] = [100, 200].map(|sent| event(sent, &pattern));
        let mut changed = second.clone();
        changed[30] ^= 1;
        for stream in [
            [&second[..], &first].concat(),
            [&first[..], &first].concat(),
            [&first[..], &changed].concat(),
            [&first[..20], &second].concat(),
            [&first[..], &second[..39]].concat(),
            event(1_001, &pattern),
        ] {
            let outcome = delays(&stream, 0, &pattern);
            assert!(matches!(outcome, Err(Fault::Wrong(_))), "{outcome:?}");
        }
    }
}
