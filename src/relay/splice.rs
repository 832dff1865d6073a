//! Bulk from socket to socket without passing through this process.
use crate::downstream::client::Left;
use crate::downstream::reply::Answering;
use crate::net::deadline::Deadline;
use crate::net::select;
use crate::net::splice::Pipe;
use crate::net::tcp::Tcp;
use crate::relay::{Aborted, Relay, client_error};
use crate::telemetry::counters::add;

impl Relay {
    /// Whether the bytes to come are many, and plain on both sides.
    pub(super) fn can_splice(&self) -> bool {
        !self.no_pipe
            && self.body.unseen(self.bulk) > 0
            && self.response.conn.stream.as_plain().is_some()
    }

    /// Moves what the upstream has sent, as far as the body goes unseen, and returns when there is no
    /// more for now: no pipe is held while waiting for the upstream.
    pub(super) async fn splice(
        &mut self,
        answering: &mut Answering<'_>,
        left: &mut Left<'_>,
    ) -> Result<(), Aborted> {
        let stream = self.response.conn.stream.clone();
        let Some(from) = stream.as_plain() else {
            return Ok(());
        };
        let Ok(mut pipe) = Pipe::take() else {
            self.no_pipe = true; // the other way needs none
            return Ok(());
        };
        let to = answering.tcp();
        let mut unseen = self.body.unseen(self.bulk);
        while unseen > 0 {
            match pipe.fill(from, unseen).map_err(Aborted::Cut)? {
                None => {
                    self.bulk = false;
                    return Ok(());
                }
                Some(0) => return self.end_of_stream(),
                Some(count) => {
                    unseen -= count as u64;
                    // Before they are passed on, which may fail: they are no longer in the socket,
                    // and what is drained after a failure has to be followed from the right place.
                    self.ended |= self.body.passed(count as u64);
                    self.empty(&mut pipe, to, answering, left).await?;
                    self.since_yield += count as u64;
                    self.breathe(answering, left).await?;
                }
            }
        }
        Ok(())
    }

    /// Moves all bytes of the pipe to the client, as long as it stays and takes some now and then.
    async fn empty(
        &mut self,
        pipe: &mut Pipe,
        to: &Tcp,
        answering: &mut Answering<'_>,
        left: &mut Left<'_>,
    ) -> Result<(), Aborted> {
        while pipe.held() > 0 {
            if let Some(count) = pipe.drain(to).map_err(|error| client_error(&error))? {
                answering.count(count as u64);
                add(count as u64, |core| &core.response_bytes);
                add(count as u64, |core| &core.spliced_bytes);
                continue;
            }
            let stall = Deadline::after(answering.stall());
            select! {
                biased;
                _ = to.writable() => (), // an error shows at the next splice
                () = &mut *left => return Err(Aborted::ClientLeft { complete: false }),
                () = stall.passed() => return Err(Aborted::ClientStalled),
            }
        }
        Ok(())
    }
}
