//! Event streams, held open by the thousand: an idle one has no buffer.
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use monoio::time::sleep;

use super::events::Events;
use super::response::Response;
use super::socket::{Slot, Socket};
use super::{Fault, Run, clock};

const BUFFER_BYTES: usize = 64 << 10;
/// Before a stream is opened again after a fault.
const FAULT_PAUSE: Duration = Duration::from_millis(10);

/// What every stream does.
pub(super) struct Streams {
    pub(super) run: Rc<Run>,
    pub(super) request: Bytes,
    pub(super) event_bytes: usize,
    /// For the bytes of whichever stream is being read.
    buffer: RefCell<Vec<u8>>,
}

impl Streams {
    pub(super) fn new(run: Rc<Run>, request: Bytes, event_bytes: usize) -> Self {
        Self {
            run,
            request,
            event_bytes,
            buffer: RefCell::new(vec![0; BUFFER_BYTES]),
        }
    }

    /// One stream after the other until the run stops.
    pub(super) async fn work(self: Rc<Self>, slot: Rc<Slot>) {
        let mut up = false;
        while !self.run.is_stopping() {
            if let Err(fault) = self.follow(&slot, &mut up).await {
                self.run.fault(&slot, fault);
                sleep(FAULT_PAUSE).await;
            }
        }
    }

    /// Opens a stream and reads it to its end.
    async fn follow(&self, slot: &Rc<Slot>, up: &mut bool) -> Result<(), Fault> {
        let socket = Socket::connect(self.run.target, slot.clone())
            .map_err(|error| Fault::Error(format!("connect: {error}")))?;
        let sent = socket.send_all(self.request.clone()).await;
        sent.map_err(|error| Fault::Error(format!("write: {error}")))?;
        let mut response = Response::default();
        let mut events = Events::new(self.event_bytes, 0);
        let mut head = Vec::new();
        while !response.is_complete() {
            // An error shows at the read.
            let _ = socket.readable().await;
            let mut buffer = self.buffer.borrow_mut();
            let now = match socket.try_read(&mut buffer) {
                Ok(None) => continue,
                Ok(Some(0)) => {
                    response.end(!head.is_empty())?;
                    break;
                }
                Ok(Some(count)) => {
                    let now = clock();
                    let content = &mut |piece: &[u8]| {
                        events.take(piece, now, &self.run.pattern, |delay| {
                            self.run.count(now, 1);
                            self.run.completed(now, delay);
                        })
                    };
                    take(&mut response, &mut head, &buffer[..count], content)?;
                    now
                }
                Err(error) => return Err(response.broken(&error)),
            };
            slot.progress(now);
            if response.has_head() && !std::mem::replace(up, true) {
                self.run.came_up();
            }
        }
        events.end()
    }
}

/// Only of a head that is not complete are bytes kept, in `head`.
fn take(
    response: &mut Response,
    head: &mut Vec<u8>,
    bytes: &[u8],
    content: &mut impl FnMut(&[u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    if response.has_head() {
        return response.take(bytes, content).map(drop);
    }
    head.extend_from_slice(bytes);
    let taken = response.take(head, content)?;
    head.drain(..taken);
    if response.has_head() {
        *head = Vec::new();
    }
    Ok(())
}
