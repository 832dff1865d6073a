//! Requests with responses of a known length: closed loop, open loop, downloads.
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use monoio::time::sleep;

use super::pace::Pace;
use super::response::{HEAD_BYTES_MAX, Response};
use super::socket::{Slot, Socket};
use super::{Fault, Run, clock};

/// A request of no more bytes fits into an empty send buffer whatever tcp_wmem says, so its write
/// and the first read of its response go to the kernel together.
const AT_ONCE_BYTES_MAX: usize = 16 << 10;
const BUFFER_BYTES_MAX: usize = 256 << 10;
/// Before a connection is made again after a fault: a proxy that refuses all is not flooded.
const FAULT_PAUSE: Duration = Duration::from_millis(10);
/// How long a connection is held after its last response to see whether more comes.
const SURPLUS_WAIT: Duration = Duration::from_millis(50);

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Response,
    Byte,
}

/// What every connection does.
pub(super) struct Requests {
    pub(super) run: Rc<Run>,
    pub(super) request: Bytes,
    pub(super) response_bytes: u64,
    /// Where false, the request says `Connection: close`: the peer closes first, so nobody is reset
    /// and no port of ours is left in TIME_WAIT.
    pub(super) keep_alive: bool,
    pub(super) unit: Unit,
    pub(super) pace: Option<Rc<Pace>>,
}

impl Requests {
    /// One connection at a time until the run stops.
    pub(super) async fn work(self: Rc<Self>, slot: Rc<Slot>) {
        let mut conn = Connection {
            socket: None,
            buf: Vec::with_capacity(self.buffer_bytes()),
        };
        let mut up = false;
        let mut now = clock();
        while let Some(start) = self.next_start(up, now).await {
            match self.exchange(&mut conn, &slot).await {
                Ok(completed) => {
                    now = completed;
                    if !std::mem::replace(&mut up, true) {
                        self.run.came_up();
                    }
                    self.run.completed(now, now.saturating_sub(start));
                    if self.unit == Unit::Response {
                        self.run.count(now, 1);
                    }
                    if !self.keep_alive {
                        if let Err(fault) = settle(&mut conn).await {
                            self.run.fault(&slot, fault);
                        }
                        now = clock();
                    }
                }
                Err(fault) => {
                    conn.socket = None;
                    self.run.fault(&slot, fault);
                    sleep(FAULT_PAUSE).await;
                    now = clock();
                }
            }
        }
        self.finish(conn, &slot).await;
    }

    /// Room for a head and the content, within reason.
    fn buffer_bytes(&self) -> usize {
        let content = usize::try_from(self.response_bytes).unwrap_or(BUFFER_BYTES_MAX);
        content.saturating_add(HEAD_BYTES_MAX).min(BUFFER_BYTES_MAX)
    }

    /// When the next request is to be sent; `None` at the end of the run. Until a connection has had
    /// its first response there is no open loop.
    async fn next_start(&self, up: bool, now: u64) -> Option<u64> {
        if self.run.is_stopping() {
            return None;
        }
        match &self.pace {
            Some(pace) if up => pace.next().await,
            _ => Some(now),
        }
    }

    /// Sends a request and reads its response. Returns when that was complete.
    async fn exchange(&self, conn: &mut Connection, slot: &Rc<Slot>) -> Result<u64, Fault> {
        let socket = match conn.socket.take() {
            Some(socket) => socket,
            None => Socket::connect(self.run.target, slot.clone())
                .map_err(|error| Fault::Error(format!("connect: {error}")))?,
        };
        slot.progress(clock());
        let (received, written) = if self.request.len() <= AT_ONCE_BYTES_MAX {
            // Not awaited until the response is there: the write costs no wake-up of its own.
            let write = socket.send(self.request.clone());
            let received = self.receive(&socket, &mut conn.buf).await;
            if received.is_err() {
                slot.hang_up();
            }
            (received, write.await.0.map(drop))
        } else {
            let written = socket.send_all(self.request.clone()).await;
            (self.receive(&socket, &mut conn.buf).await, written)
        };
        match (received, written) {
            (Ok(answer), written) => {
                slot.rest();
                if written.is_ok() && (answer.persists || !self.keep_alive) {
                    conn.socket = Some(socket);
                }
                Ok(answer.completed)
            }
            // Which of the two operations is told that nobody listens is a matter of chance.
            (Err(_), Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                Err(Fault::Error(format!("connect: {error}")))
            }
            (Err(fault), _) => Err(fault),
        }
    }

    async fn receive(&self, socket: &Socket, buf: &mut Vec<u8>) -> Result<Answer, Fault> {
        let mut response = Response::default();
        let mut received = 0;
        buf.clear();
        loop {
            let read = socket.read(buf).await;
            let now = clock();
            match read {
                Ok(0) => response.end(!buf.is_empty())?,
                Ok(_) => {
                    let before = received;
                    let taken =
                        response.take(buf, &mut |piece| self.check(&mut received, piece))?;
                    buf.drain(..taken);
                    if self.unit == Unit::Byte {
                        self.run.count(now, received - before);
                        socket.slot().progress(now);
                    }
                }
                Err(error) => return Err(response.broken(&error)),
            }
            if response.is_complete() {
                if received != self.response_bytes {
                    let expected = self.response_bytes;
                    return Err(Fault::Wrong(format!("{received} bytes for {expected}")));
                }
                return Ok(Answer {
                    completed: now,
                    persists: response.persists(),
                });
            }
        }
    }

    fn check(&self, received: &mut u64, piece: &[u8]) -> Result<(), Fault> {
        if !self.run.pattern.fits(*received, piece) {
            let length = piece.len();
            return Err(Fault::Wrong(format!(
                "a wrong byte among the {length} from {received} on"
            )));
        }
        *received += piece.len() as u64;
        Ok(())
    }

    /// A byte too many anywhere in the life of a connection has shifted all that followed, so it is
    /// enough to look once, at the end.
    async fn finish(&self, conn: Connection, slot: &Slot) {
        let Some(socket) = conn.socket else {
            return;
        };
        sleep(SURPLUS_WAIT).await;
        if matches!(socket.try_read(&mut [0; 1]), Ok(Some(1..))) {
            let surplus = Fault::Wrong("a response nobody asked for".to_owned());
            self.run.fault(slot, surplus);
        }
    }
}

struct Connection {
    socket: Option<Socket>,
    buf: Vec<u8>,
}

struct Answer {
    completed: u64,
    persists: bool,
}

/// Reads on to the end of a connection that the peer is to close.
async fn settle(conn: &mut Connection) -> Result<(), Fault> {
    let Some(socket) = conn.socket.take() else {
        return Ok(());
    };
    socket.slot().progress(clock());
    conn.buf.clear();
    match socket.read(&mut conn.buf).await {
        Ok(1..) => Err(Fault::Wrong("bytes after a last response".to_owned())),
        // The response was complete: a reset takes nothing away.
        Ok(0) | Err(_) if !socket.slot().is_overdue() => Ok(()),
        Ok(0) | Err(_) => Err(Fault::Error("the peer does not close".to_owned())),
    }
}
