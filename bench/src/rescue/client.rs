//! The clients: each asks one request after the other on a connection that it keeps, and judges what
//! it gets by nothing but what it knows itself.
use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::received::{End, Received, received};
use super::script::{Request, Script};
use crate::origin::plan_answer;

/// How long a client waits for the end of a response. Two attempts take a tenth of it.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Nobody asks an origin so often for one response.
const ARRIVALS_MAX: usize = 16;
/// How long a connection is watched for bytes that nobody has asked for, once it is not used any more.
const AFTERMATH: Duration = Duration::from_millis(200);

/// What one client has to say of one request.
pub(super) struct Heard {
    pub(super) request: Request,
    pub(super) outcome: Outcome,
    pub(super) took: Duration,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The answer that the origin gave when the request arrived for the time of this number, from 0 on.
    Right(usize),
    /// An error response, or an end before that of the response.
    Failed,
    /// What looks like an answer and is not this request's, or is not all of it.
    Wrong(String),
    Hung,
}

/// Sends the first `requests` of `script` to `target`, from so many clients at once.
pub(super) fn ask(
    target: SocketAddr,
    script: &Script,
    requests: u64,
    clients: usize,
) -> Vec<Heard> {
    let next = AtomicU64::new(0);
    let work = || {
        let mut client = Client { target, conn: None };
        let mut heard: Vec<Heard> = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= requests {
                break;
            }
            heard.push(client.ask(script.request(index)));
        }
        if let (Some(conn), Some(last)) = (client.conn, heard.last_mut())
            && !ends_in_silence(conn)
        {
            last.outcome = Outcome::Wrong("bytes after the response".to_owned());
        }
        heard
    };
    thread::scope(|scope| {
        let crew: Vec<_> = (0..clients).map(|_| scope.spawn(work)).collect();
        let heard = crew
            .into_iter()
            .map(|client| client.join().expect("clients do not panic"));
        heard.flatten().collect()
    })
}

struct Client {
    target: SocketAddr,
    conn: Option<TcpStream>,
}

impl Client {
    fn ask(&mut self, request: Request) -> Heard {
        let begun = Instant::now();
        let outcome = match self.exchange(&request.bytes, begun + PATIENCE) {
            Ok(received) => judged(&request.id, received),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Outcome::Hung,
            // There is no connection, which the client sees.
            Err(_) => Outcome::Failed,
        };
        Heard {
            request,
            outcome,
            took: begun.elapsed(),
        }
    }

    /// `WouldBlock`, as the kernel calls a time-out, when the deadline has passed.
    fn exchange(&mut self, request: &[u8], deadline: Instant) -> io::Result<Received> {
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => TcpStream::connect_timeout(&self.target, PATIENCE)?,
        };
        conn.set_nodelay(true)?;
        conn.set_write_timeout(Some(PATIENCE))?;
        match conn.write_all(request) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
            // Who refuses the rest of a request may have said why.
            _ => {}
        }
        let mut bytes = Vec::new();
        let mut piece = [0; 4096];
        let received = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            conn.set_read_timeout(Some(left))?;
            let end = match conn.read(&mut piece) {
                Ok(0) => Some(End::Closed),
                Ok(count) => {
                    bytes.extend_from_slice(&piece[..count]);
                    None
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
                Err(_) => Some(End::Broken),
            };
            if let Some(received) = received(&bytes, end) {
                break received;
            }
        };
        match received {
            Received::Whole { persists: true, .. } => self.conn = Some(conn),
            Received::Whole { .. } if !ends_in_silence(conn) => {
                return Ok(Received::Wrong("bytes after the response".to_owned()));
            }
            _ => {}
        }
        Ok(received)
    }
}

/// Whether nothing comes on a connection on which everything asked for has come.
fn ends_in_silence(mut conn: TcpStream) -> bool {
    // Fails where the connection is gone already: then nothing comes.
    let _ = conn.shutdown(Shutdown::Write);
    let _ = conn.set_read_timeout(Some(AFTERMATH));
    !matches!(conn.read(&mut [0]), Ok(1))
}

fn judged(id: &str, received: Received) -> Outcome {
    let (status, content) = match received {
        Received::Whole {
            status, content, ..
        } => (status, content),
        Received::Cut => return Outcome::Failed,
        Received::Wrong(why) => return Outcome::Wrong(why),
    };
    match status {
        200 => {}
        400..=599 => return Outcome::Failed,
        _ => return Outcome::Wrong(format!("status {status}")),
    }
    let is_answer = |&arrival: &usize| plan_answer(id, arrival).as_bytes() == content;
    match (0..ARRIVALS_MAX).find(is_answer) {
        Some(arrival) => Outcome::Right(arrival),
        None => {
            let start = content[..content.len().min(60)].escape_ascii();
            Outcome::Wrong(format!(
                "{} bytes of no answer to it: \"{start}\"",
                content.len()
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(status: &str, content: &str) -> Outcome {
        let wire = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{content}",
            content.len()
        );
        judged(
            "a-1",
            received(wire.as_bytes(), None).expect("it is complete"),
        )
    }

    #[test]
    fn only_the_whole_answer_to_this_very_request_is_right() {
        let answer = plan_answer("a-1", 2);
        assert_eq!(heard("200 OK", &answer), Outcome::Right(2));
        let half = &answer[..answer.len() / 2];
        for content in [
            half,
            &(half.to_owned() + &answer),
            &plan_answer("a-2", 2),
            "",
        ] {
            assert!(matches!(heard("200 OK", content), Outcome::Wrong(_)));
        }
        assert!(matches!(heard("201 Created", &answer), Outcome::Wrong(_)));
    }

    #[test]
    fn an_error_response_and_a_visible_end_are_clean_failures() {
        assert_eq!(heard("504 Gateway Timeout", "late"), Outcome::Failed);
        assert_eq!(judged("a-1", Received::Cut), Outcome::Failed);
    }
}
