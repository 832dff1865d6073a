//! One client of the soak: asks one request after the other, leaves where it is to leave, and judges
//! what it gets by nothing but what it knows itself.
use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use rustix::net::sockopt;

use super::answer::Answers;
use super::script::{Due, How, Place, Request};
use crate::{
    load::response::{Response, Told},
    pattern::Pattern,
};

/// How long a client waits for the end of a response. The longest takes a fifth of it.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
const READ_BYTES: usize = 256 << 10;

/// What a client has to say of one request.
pub(super) struct Heard {
    pub(super) request: Request,
    pub(super) outcome: Outcome,
    pub(super) told: Told,
    pub(super) ended: Instant,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The answer that the origin gave when the request arrived for the time of this number, from 0 on.
    Right(usize),
    /// A whole response that is no answer, such as an error.
    Status(u16),
    /// The beginning of a response, or nothing, and an end that shows.
    Broken,
    /// The client left.
    Left,
    /// What looks like an answer and is not this request's, or is not all of it.
    Wrong(String),
    Hung,
}

pub(super) struct Client {
    target: SocketAddr,
    pattern: Pattern,
    conn: Option<TcpStream>,
    buf: Vec<u8>,
}

impl Client {
    pub(super) fn new(target: SocketAddr) -> Self {
        Self {
            target,
            pattern: Pattern::default(),
            conn: None,
            buf: vec![0; READ_BYTES],
        }
    }

    pub(super) fn ask(&mut self, request: Request) -> Heard {
        let mut told = Told::default();
        let outcome = match self.exchange(&request, &mut told) {
            Ok(outcome) => outcome,
            // What the kernel calls a time-out.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Outcome::Hung,
            // There is no connection, which the client sees.
            Err(_) => Outcome::Broken,
        };
        Heard {
            request,
            outcome,
            told,
            ended: Instant::now(),
        }
    }

    fn exchange(&mut self, request: &Request, told: &mut Told) -> io::Result<Outcome> {
        let kept = self.conn.take().filter(|_| !request.fresh);
        let mut conn = match kept {
            Some(conn) => conn,
            None => TcpStream::connect_timeout(&self.target, PATIENCE)?,
        };
        conn.set_nodelay(true)?;
        conn.set_write_timeout(Some(PATIENCE))?;
        let all = &request.bytes;
        let within = |bytes: usize| (bytes as f64 * request.share) as usize;
        let sent = match request.due() {
            Due::Left(Place::Head) => within(request.head_bytes),
            Due::Left(Place::Body) => request.head_bytes + within(all.len() - request.head_bytes),
            _ => all.len(),
        };
        match conn.write_all(&all[..sent]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
            // Who refuses the rest of a request may have said why.
            _ => {}
        }
        match request.due() {
            Due::Left(Place::Head | Place::Body) => return leave(conn, request.leaves),
            Due::Left(Place::Waiting(millis)) => {
                thread::sleep(Duration::from_millis(millis).mul_f64(request.share));
                return leave(conn, request.leaves);
            }
            _ => {}
        }
        self.receive(conn, request, told)
    }

    fn receive(
        &mut self,
        mut conn: TcpStream,
        request: &Request,
        told: &mut Told,
    ) -> io::Result<Outcome> {
        let enough = match request.due() {
            Due::Left(Place::Response(bytes)) => (bytes as f64 * request.share) as u64,
            _ => u64::MAX,
        };
        let deadline = Instant::now() + PATIENCE;
        let mut response = Response::of_any_status();
        let mut answers = Answers::to(request, &self.pattern);
        let (mut held, mut received) = (0, 0);
        let outcome = loop {
            conn.set_read_timeout(Some(left_until(deadline)?))?;
            let count = match conn.read(&mut self.buf[held..]) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break Outcome::Broken,
            };
            if count == 0 {
                match response.end(held > 0) {
                    Ok(()) => break whole(&response, &answers),
                    Err(_) => break Outcome::Broken,
                }
            }
            received += count as u64;
            let bytes = &self.buf[..held + count];
            let mut take = |piece: &[u8]| {
                answers.take(piece);
                Ok(())
            };
            let taken = match response.take(bytes, &mut take) {
                Ok(taken) => taken,
                Err(fault) => break Outcome::Wrong(format!("{fault:?}")),
            };
            let end = held + count;
            self.buf.copy_within(taken..end, 0);
            held = end - taken;
            // First: all of it may have come at once.
            if received > enough {
                *told = response.told();
                let left = leave(conn, request.leaves)?;
                return Ok(begun(left, &response, &answers));
            }
            if response.is_complete() {
                break whole(&response, &answers);
            }
        };
        *told = response.told();
        let is_whole = matches!(outcome, Outcome::Right(_) | Outcome::Status(_));
        if is_whole && response.persists() && !request.fresh {
            self.conn = Some(conn);
        } else if is_whole {
            return Ok(closes(conn, outcome));
        }
        Ok(begun(outcome, &response, &answers))
    }
}

fn left_until(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    match left.is_zero() {
        true => Err(io::ErrorKind::WouldBlock.into()),
        false => Ok(left),
    }
}

fn whole(response: &Response, answers: &Answers<'_>) -> Outcome {
    match (response.told().status, answers.whole()) {
        (200, Some(arrival)) => Outcome::Right(arrival),
        (200, None) => Outcome::Wrong("a whole body of no answer to it".to_owned()),
        (status, _) => Outcome::Status(status),
    }
}

/// `outcome`, unless what had come before is nothing that the origin has said to this request.
fn begun(outcome: Outcome, response: &Response, answers: &Answers<'_>) -> Outcome {
    match response.told().status {
        200 if !answers.fit() => Outcome::Wrong("the beginning of no answer to it".to_owned()),
        _ => outcome,
    }
}

/// What is not kept has to end here, in silence.
fn closes(mut conn: TcpStream, outcome: Outcome) -> Outcome {
    // Fails where the connection is gone already: then nothing comes.
    let _ = conn.set_read_timeout(Some(PATIENCE));
    match conn.read(&mut [0]) {
        Ok(1) => Outcome::Wrong("bytes after the response".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Outcome::Wrong("a last response, and no end of the connection".to_owned())
        }
        _ => outcome,
    }
}

/// `WouldBlock` where the peer does not notice.
fn leave(mut conn: TcpStream, how: How) -> io::Result<Outcome> {
    match how {
        How::Close => {}
        How::Reset => sockopt::set_socket_linger(&conn, Some(Duration::ZERO))?,
        How::HalfClose => {
            // Fails where the peer was faster.
            let _ = conn.shutdown(Shutdown::Write);
            conn.set_read_timeout(Some(PATIENCE))?;
            let mut piece = [0; 16 << 10];
            loop {
                match conn.read(&mut piece) {
                    Ok(1..) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(0) | Err(_) => break,
                }
            }
        }
    }
    Ok(Outcome::Left)
}
