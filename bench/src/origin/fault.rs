//! Everything that an origin should not do, and the plans that mix it with good answers.
use std::io;
use std::ops::ControlFlow::{self, Break, Continue};
use std::time::Duration;

use monoio::io::{AsyncReadRent, AsyncWriteRent};
use monoio::time::sleep;

use super::answer::{PATTERN, write_head};
use super::connection::{Connection, End, after};
use super::ledger::{EMPTY, hash};
use super::request::Request;
use super::target::{Fault, Framing, Step};
use crate::pattern::PERIOD;

/// Length of the answer to a plan's request.
const PLAN_BYTES: usize = 1024;
/// Body of answers whose length the target does not say.
const BODY_BYTES: u64 = 1024;
/// How long half a head is there before the RST: long enough to be seen as bytes of their own.
const BEFORE_RESET: Duration = Duration::from_millis(20);

/// Longer than the rescue scenario allows before a response.
const PLAN_PAUSE: Duration = Duration::from_secs(1);

const HALF_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/jso";
const GARBAGE: &[u8] = b"\x16\x03\x01 this is not HTTP\n\r\0\xff 200 OK\r\n\r\n";

/// The answer to a plan's request that arrived `number` times before.
pub fn plan_answer(id: &str, number: usize) -> String {
    let mut answer = format!("{{\"id\":\"{id}\",\"arrival\":{number},\"fill\":\"");
    let room = PLAN_BYTES - answer.len() - 2;
    answer.extend(id.chars().cycle().take(room));
    answer + "\"}"
}

/// Where in the pattern the bodies and events begin that such a request is answered with, so that they
/// are no other's.
pub fn plan_first(id: &str, number: usize) -> u64 {
    let state = hash(EMPTY, id.as_bytes());
    hash(state, &number.to_le_bytes()) % PERIOD as u64
}

impl<S: AsyncReadRent + AsyncWriteRent> Connection<S> {
    pub(super) async fn fault(
        &mut self,
        request: &Request,
        fault: Fault,
    ) -> io::Result<ControlFlow<End>> {
        match fault {
            Fault::ResetAtOnce => return Ok(Break(End::Reset)),
            Fault::Early(status) => {
                self.out.clear();
                let (status, kind) = (format!("{status} Early"), "text/plain");
                write_head(&mut self.out, &status, kind, Framing::Length, 0, false);
                self.write_out().await?;
                return Ok(Break(End::Close));
            }
            Fault::Deaf(pause) => {
                sleep(pause).await;
                return Ok(Break(End::Reset));
            }
            _ => {}
        }
        // A malformed body makes no difference to a fault.
        let _ = self.body(request, |_, _| ()).await?;
        self.after_body(fault).await
    }

    async fn after_body(&mut self, fault: Fault) -> io::Result<ControlFlow<End>> {
        let end = match fault {
            Fault::Silent => self.hang().await,
            Fault::Reset | Fault::ResetAtOnce => End::Reset,
            Fault::HalfHead => {
                self.write_bare(HALF_HEAD).await?;
                sleep(BEFORE_RESET).await;
                End::Reset
            }
            Fault::HalfHeadHang => {
                self.write_bare(HALF_HEAD).await?;
                self.hang().await
            }
            Fault::SlowHead(pause) => {
                let mut head = Vec::new();
                good_head(&mut head, BODY_BYTES);
                self.slowly(&head, pause).await?;
                self.out.clear();
                self.out
                    .extend_from_slice(PATTERN.at(self.first, BODY_BYTES as usize));
                self.write_out().await?;
                return Ok(Continue(()));
            }
            Fault::SlowBody { length, pause } => {
                self.out.clear();
                good_head(&mut self.out, length);
                self.write_out().await?;
                for offset in 0..length {
                    self.slowly(PATTERN.at(self.first + offset, 1), pause)
                        .await?;
                }
                return Ok(Continue(()));
            }
            Fault::Cut {
                length,
                framing,
                at,
            } => {
                self.bytes(length, framing, at, true).await?;
                End::Cut
            }
            Fault::CloseAtReuse => {
                self.bytes(BODY_BYTES, Framing::Length, BODY_BYTES, true)
                    .await?;
                self.next_byte().await?;
                End::Close
            }
            Fault::Garbage => {
                self.write_bare(GARBAGE).await?;
                End::Cut
            }
            // Done before the body.
            Fault::Early(_) | Fault::Deaf(_) => End::Close,
        };
        Ok(Break(end))
    }

    async fn write_bare(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.clear();
        self.out.extend_from_slice(bytes);
        self.write_out().await
    }

    async fn hang(&mut self) -> End {
        self.peer_closes().await;
        End::Gone
    }

    async fn slowly(&mut self, bytes: &[u8], pause: Duration) -> io::Result<()> {
        for byte in bytes {
            sleep(pause).await;
            self.out.clear();
            self.out.push(*byte);
            self.write_out().await?;
        }
        Ok(())
    }

    /// Does the step that is due for this request, and enters what was seen of it.
    pub(super) async fn plan(
        &mut self,
        request: &Request,
        id: &str,
        steps: &[Step],
    ) -> io::Result<ControlFlow<End>> {
        let shared = self.shared.clone();
        let number = shared.ledger.arrives(id);
        let step = steps[number.min(steps.len() - 1)];
        self.first = plan_first(id, number);
        self.unanswered = Some((id.to_owned(), number));
        if let Step::Fault(fault @ (Fault::ResetAtOnce | Fault::Early(_) | Fault::Deaf(_))) = step {
            return self.fault(request, fault).await;
        }
        let mut state = EMPTY;
        let add = |_, piece: &[u8]| state = hash(state, piece);
        if self.body(request, add).await?.is_ok() {
            shared.ledger.has_body(id, number, state);
        }
        let keep_alive = request.keep_alive;
        let framing = match step {
            Step::Fault(fault) => return self.after_body(fault).await,
            Step::Bytes { length, framing } => {
                self.bytes(length, framing, length, keep_alive).await?;
                return Ok(after(keep_alive && framing != Framing::Close));
            }
            Step::Events {
                count,
                bytes,
                interval,
            } => {
                self.events(count, bytes, interval, keep_alive).await?;
                return Ok(after(keep_alive));
            }
            Step::Cut(framing) => framing,
            Step::Ok | Step::Pause => Framing::Length,
        };
        let answer = plan_answer(id, number);
        self.out.clear();
        let (kind, length) = ("application/json", PLAN_BYTES as u64);
        write_head(&mut self.out, "200 OK", kind, framing, length, keep_alive);
        if framing == Framing::Chunked {
            self.out
                .extend_from_slice(format!("{PLAN_BYTES:x}\r\n").as_bytes());
        }
        let sent = match step {
            Step::Ok => PLAN_BYTES,
            _ => PLAN_BYTES / 2,
        };
        self.out.extend_from_slice(&answer.as_bytes()[..sent]);
        self.write_out().await?;
        match step {
            Step::Ok => Ok(after(keep_alive)),
            Step::Pause => {
                sleep(PLAN_PAUSE).await;
                self.out.clear();
                self.out.extend_from_slice(&answer.as_bytes()[sent..]);
                self.write_out().await?;
                Ok(after(keep_alive))
            }
            _ => Ok(Break(End::Cut)),
        }
    }
}

fn good_head(out: &mut Vec<u8>, length: u64) {
    let kind = "application/octet-stream";
    write_head(out, "200 OK", kind, Framing::Length, length, true);
}
