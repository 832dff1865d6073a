//! Whether what a client saw is one of the things that it may see.
use super::client::End;
use super::message::response_body;
use super::oracle::Case;
use super::script::{Framing, Move, bodiless};
use crate::support::{Cut, Head, Response};

/// What the client may see.
#[derive(Debug)]
pub enum Allowed {
    Refusal(u16, &'static str),
    /// The answer of the last sending, with so many bytes of body.
    Whole(usize),
    /// It is broken off after at most so many bytes of body; at least as many where nothing but a
    /// FIN was sent behind them.
    Broken {
        bytes: usize,
        lossy: bool,
    },
    /// Broken off before the final head.
    Headless {
        lossy: bool,
    },
}

impl Case<'_> {
    pub fn untouched(&self) -> Result<(), String> {
        match &self.seen.end {
            End::Never | End::Left => Ok(()),
            other => Err(format!("an answer to nothing: {other:?}")),
        }
    }

    pub fn compare(&self, allowed: &[Allowed]) -> Result<(), String> {
        match &self.seen.end {
            End::Left => return Ok(()),
            // Before its turn the connection was to end, or the client has left.
            End::Never if self.sends.is_empty() || self.left.is_some() => return Ok(()),
            _ => (),
        }
        let mut reasons = Vec::new();
        for allowed in allowed {
            match self.matches(allowed) {
                Ok(()) => return Ok(()),
                Err(reason) => reasons.push(format!("{allowed:?}: {reason}")),
            }
        }
        Err(format!(
            "not as allowed: {}\nseen: {}",
            reasons.join("; "),
            brief(&self.seen.end)
        ))
    }

    fn matches(&self, allowed: &Allowed) -> Result<(), String> {
        let last = self.sends.len() - 1;
        let interim: Vec<u16> = match self.exchange.moves.get(last) {
            Some(Move::Answers(answer)) if !matches!(allowed, Allowed::Refusal(..)) => {
                let layout = answer.layout(self.exchange.method, self.exchange.id, last);
                self.interim(answer, &layout, answer.cut.unwrap_or(layout.wire.len()))
            }
            _ => Vec::new(),
        };
        let ours = usize::from(self.exchange.expect && self.seen.interim.first() == Some(&100));
        let seen = &self.seen.interim[ours..];
        let lossy = matches!(
            allowed,
            Allowed::Broken { lossy: true, .. } | Allowed::Headless { lossy: true }
        );
        if seen != interim && !(lossy && interim.starts_with(seen)) {
            return Err(format!("interim responses {:?}", self.seen.interim));
        }
        match (allowed, &self.seen.end) {
            (Allowed::Refusal(status, code), End::Whole(response)) => {
                self.is_refusal(response, *status, code)
            }
            (Allowed::Whole(bytes), End::Whole(response)) => self.is_answer(response, *bytes),
            (Allowed::Broken { bytes, lossy }, End::Cut(cut)) => {
                self.is_broken(cut, *bytes, *lossy)
            }
            (Allowed::Headless { .. }, End::Cut(cut)) if cut.head.is_none() => {
                match cut.body.is_empty() {
                    true => Ok(()),
                    false => Err("bytes instead of a head".to_owned()),
                }
            }
            _ => Err("another end".to_owned()),
        }
    }

    fn is_refusal(&self, response: &Response, status: u16, code: &str) -> Result<(), String> {
        let said = response.head.field("x-codex-reset-proxy-error");
        let same = response.status() == status && said.as_deref() == Some(code);
        if !same {
            return Err("another refusal".to_owned());
        }
        let text = response.text();
        let told = text.contains(&format!(r#""code":"{code}""#));
        if told == (self.exchange.method == "HEAD") {
            return Err(format!("its body: {text}"));
        }
        self.says(&response.head, false)
    }

    /// What the proxy itself says in a final head.
    fn says(&self, head: &Head, until_close: bool) -> Result<(), String> {
        if head.closes() != (self.exchange.close || self.exchange.http10 || until_close) {
            return Err("its persistence".to_owned());
        }
        let said = head.all("x-codex-reset-proxy-attempts");
        match said == [self.sends.len().to_string()] {
            true => Ok(()),
            false => Err(format!("attempts: {said:?}")),
        }
    }

    fn is_head(&self, head: &Head) -> Result<(), String> {
        let last = self.sends.len() - 1;
        let Move::Answers(answer) = &self.exchange.moves[last] else {
            return Err("nobody sent that".to_owned());
        };
        let mark = format!("{}/{last}", self.exchange.id);
        if head.status() != answer.status || head.field("x-send") != Some(mark) {
            return Err("another head".to_owned());
        }
        let until_close = answer.framing == Framing::UntilClose;
        self.says(
            head,
            until_close && !bodiless(self.exchange.method, answer.status),
        )
    }

    fn is_answer(&self, response: &Response, bytes: usize) -> Result<(), String> {
        self.is_head(&response.head)?;
        let own = response_body(self.exchange.id, self.sends.len() - 1);
        if response.body.len() != bytes || !own.has(0, &response.body) {
            return Err(format!("another body, of {} bytes", response.body.len()));
        }
        let Move::Answers(answer) = &self.exchange.moves[self.sends.len() - 1] else {
            return Ok(());
        };
        let trailers = answer.trailers
            && answer.framing == Framing::Chunked
            && !self.exchange.http10
            && !bodiless(self.exchange.method, answer.status);
        let expected: &[u8] = if trailers { b"X-Trailer: t\r\n" } else { b"" };
        match response.trailers == expected {
            true => Ok(()),
            false => Err(format!(
                "trailers {:?}",
                String::from_utf8_lossy(&response.trailers)
            )),
        }
    }

    fn is_broken(&self, cut: &Cut, bytes: usize, lossy: bool) -> Result<(), String> {
        let Some(head) = &cut.head else {
            return match lossy && cut.body.is_empty() {
                true => Ok(()),
                false => Err("no head".to_owned()),
            };
        };
        self.is_head(head)?;
        let own = response_body(self.exchange.id, self.sends.len() - 1);
        let long = cut.body.len();
        if long > bytes || (long < bytes && !lossy) || !own.has(0, &cut.body) {
            return Err(format!("not the {bytes} bytes that were sent but {long}"));
        }
        Ok(())
    }
}

fn brief(end: &End) -> String {
    let head = |head: &Head| head.text();
    match end {
        End::Whole(response) => format!(
            "whole, {} bytes of body, {}",
            response.body.len(),
            head(&response.head)
        ),
        End::Cut(cut) => {
            let text = cut.head.as_ref().map(head);
            format!(
                "cut, reset {}, {} bytes of body, {text:?}",
                cut.reset,
                cut.body.len()
            )
        }
        other => format!("{other:?}"),
    }
}
