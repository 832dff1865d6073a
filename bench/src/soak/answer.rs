//! Whether the bytes of a response body are the answer to this very request, and to which arrival of it.
use super::script::{Answer, Request};
use crate::{
    load::{clock, events::Events},
    origin::{plan_answer, plan_first},
    pattern::Pattern,
};

/// Nobody asks an origin so often for one response.
const ARRIVALS_MAX: usize = 4;

/// The answers that a body may turn out to be: one for each time that the request may have arrived.
pub(super) struct Answers<'a> {
    pattern: &'a Pattern,
    length: u64,
    possible: Vec<Possible>,
}

struct Possible {
    arrival: usize,
    content: Content,
}

enum Content {
    Text {
        text: String,
    },
    Bytes {
        first: u64,
        length: u64,
    },
    Events {
        events: Events,
        seen: u64,
        count: u64,
    },
}

impl<'a> Answers<'a> {
    pub(super) fn to(request: &Request, pattern: &'a Pattern) -> Self {
        let possible = |arrival| {
            let first = plan_first(&request.id, arrival);
            let content = match request.answer {
                Answer::Plan => Content::Text {
                    text: plan_answer(&request.id, arrival),
                },
                Answer::Bytes(length) => Content::Bytes { first, length },
                Answer::Events { count, bytes } => Content::Events {
                    events: Events::new(bytes, first),
                    seen: 0,
                    count,
                },
            };
            Possible { arrival, content }
        };
        Self {
            pattern,
            length: 0,
            possible: (0..ARRIVALS_MAX).map(possible).collect(),
        }
    }

    /// Takes what comes next of the body.
    pub(super) fn take(&mut self, piece: &[u8]) {
        let at = self.length;
        self.length += piece.len() as u64;
        let fits = |one: &mut Possible| match &mut one.content {
            Content::Text { text } => {
                let rest = text.as_bytes().get(at as usize..);
                rest.is_some_and(|rest| rest.starts_with(piece))
            }
            Content::Bytes { first, length } => {
                at + piece.len() as u64 <= *length && self.pattern.fits(*first + at, piece)
            }
            Content::Events { events, seen, .. } => {
                let taken = events.take(piece, clock(), self.pattern, |_| *seen += 1);
                taken.is_ok()
            }
        };
        self.possible.retain_mut(fits);
    }

    /// Whether what has come so far is the beginning of an answer.
    pub(super) fn fit(&self) -> bool {
        !self.possible.is_empty()
    }

    /// Whose answer it is, where it is a whole one.
    pub(super) fn whole(&self) -> Option<usize> {
        let is_whole = |one: &&Possible| match &one.content {
            Content::Text { text } => self.length == text.len() as u64,
            Content::Bytes { length, .. } => self.length == *length,
            Content::Events {
                events,
                seen,
                count,
            } => events.end().is_ok() && seen == count,
        };
        Some(self.possible.iter().find(is_whole)?.arrival)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soak::script::Script;

    #[test]
    fn a_body_is_the_answer_to_one_arrival_of_one_request_whole_and_in_place() {
        let (pattern, script) = (Pattern::default(), Script::default());
        let mut request = script.request(7);
        request.answer = Answer::Bytes(5000);
        let bytes = |id: &str, arrival| pattern.at(plan_first(id, arrival), 5000).to_vec();
        let found = |body: &[u8]| {
            let mut answers = Answers::to(&request, &pattern);
            body.chunks(77).for_each(|piece| answers.take(piece));
            answers.whole()
        };
        let good = bytes("soak-7", 1);
        assert_eq!(found(&good), Some(1));
        assert_eq!(found(&bytes("soak-8", 1)), None, "another's");
        assert_eq!(found(&good[..4999]), None, "cut");
        assert_eq!(found(&[&good[..], b"x"].concat()), None, "too long");
        let mut spoilt = good;
        spoilt[4000] ^= 1;
        assert_eq!(found(&spoilt), None, "a wrong byte");
    }

    #[test]
    fn text_is_told_by_its_id_and_arrival() {
        let (pattern, script) = (Pattern::default(), Script::default());
        let mut request = script.request(7);
        request.answer = Answer::Plan;
        for (text, whole) in [
            (plan_answer("soak-7", 2), Some(2)),
            (plan_answer("soak-8", 2), None),
        ] {
            let mut answers = Answers::to(&request, &pattern);
            answers.take(text.as_bytes());
            assert_eq!((answers.whole(), answers.fit()), (whole, whole.is_some()));
        }
    }
}
