//! One connection of the scripted upstream, as an act sees it.
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustls::HandshakeKind;

use super::wire::{Framing, Gone, Head, Request, Stream, Wire};
use super::{Pattern, Seen, net};

#[derive(PartialEq, Eq)]
pub enum Ready {
    Readable,
    Stopped,
}

/// Waits until `fd` is readable or the test is over.
pub fn readable(fd: impl AsFd, stopped: &UnixStream) -> Ready {
    loop {
        let mut fds = [
            PollFd::new(&fd, PollFlags::IN),
            PollFd::new(stopped, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => (),
            other => drop(other.unwrap()),
        }
        if !fds[0].revents().is_empty() {
            return Ready::Readable;
        }
        if !fds[1].revents().is_empty() {
            return Ready::Stopped;
        }
    }
}

/// What has come, on all connections of an upstream.
#[derive(Clone)]
pub struct Heard {
    pub requests: Seen<Request>,
    pub handshakes: Seen<HandshakeKind>,
}

/// One connection, as an act sees it.
pub struct Peer {
    /// Counted from 0.
    pub number: usize,
    wire: Option<Wire>,
    heard: Heard,
    handshake_noted: bool,
    stopped: UnixStream,
}

impl Peer {
    pub fn new(number: usize, stream: Stream, heard: Heard, stopped: UnixStream) -> Self {
        Self {
            number,
            wire: Some(Wire::new(stream)),
            heard,
            handshake_noted: false,
            stopped,
        }
    }

    /// The connection itself, for acts that no method has.
    pub fn wire(&mut self) -> &mut Wire {
        self.wire.as_mut().expect("the connection is not closed")
    }

    /// Whether no act has closed the connection.
    pub fn is_open(&self) -> bool {
        self.wire.is_some()
    }

    /// The next request, complete.
    pub fn request(&mut self) -> Request {
        match self.next_request() {
            Some(request) => request,
            None => panic!("no request came"),
        }
    }

    /// The next request, complete; `None` when the proxy closes instead.
    pub fn next_request(&mut self) -> Option<Request> {
        match self.receive() {
            Ok(request) => request,
            Err(half) => panic!("{half}"),
        }
    }

    /// The same, and `None` as well where the proxy breaks off a request: its client has left.
    pub fn next_whole_request(&mut self) -> Option<Request> {
        self.receive().unwrap_or(None)
    }

    fn receive(&mut self) -> Result<Option<Request>, String> {
        if self.wire().unread().is_empty() {
            let tcp = self.wire.as_ref().unwrap().stream.tcp();
            if readable(tcp, &self.stopped) == Ready::Stopped {
                return Ok(None);
            }
        }
        let head = match self.wire().head() {
            Ok(head) => head,
            Err(_) if self.wire().unread().is_empty() => return Ok(None),
            Err(gone) => return Err(format!("half a head, then {gone:?}")),
        };
        self.note_handshake();
        let mut body = Vec::new();
        let framing = Framing::of_request(&head);
        assert!(!matches!(framing, Framing::Chunked), "{}", head.text());
        let end = self
            .wire()
            .body(framing, &mut |piece| body.extend_from_slice(piece));
        if let Err(gone) = end {
            let came = body.len();
            return Err(format!("half a request, then {gone:?}: {came} bytes"));
        }
        let request = Request { head, body };
        self.heard.requests.push(request.clone());
        Ok(Some(request))
    }

    /// The next request, not kept; `false` when the proxy closes instead.
    pub fn forget_request(&mut self) -> bool {
        let requests = std::mem::replace(&mut self.heard.requests, Seen::new());
        let came = self.next_request().is_some();
        self.heard.requests = requests;
        came
    }

    /// Only the head of a request.
    pub fn head(&mut self) -> Head {
        let head = self.wire().head().unwrap();
        self.note_handshake();
        head
    }

    /// `count` bytes of a body.
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        self.wire().exact(count).unwrap()
    }

    /// The next `count` bytes, and none beyond them: the rest stays with the kernel.
    pub fn take_no_more_than(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.wire().stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// TLS: reads the client's first flight and yields the answer, to be sent with `send_sealed`.
    pub fn flight(&mut self) -> Vec<u8> {
        let Stream::Tls(tls) = &mut self.wire().stream else {
            panic!("not TLS")
        };
        while !tls.conn.wants_write() {
            tls.conn.read_tls(&mut tls.sock).unwrap();
            tls.conn.process_new_packets().unwrap();
        }
        let mut flight = Vec::new();
        while tls.conn.wants_write() {
            tls.conn.write_tls(&mut flight).unwrap();
        }
        flight
    }

    /// TLS: how many certificates the proxy has shown.
    pub fn certificates(&self) -> usize {
        let wire = self.wire.as_ref().unwrap();
        let Stream::Tls(tls) = &wire.stream else {
            panic!("not TLS")
        };
        tls.conn.peer_certificates().map_or(0, <[_]>::len)
    }

    /// How many bytes have come and are not read yet, up to 64 KiB.
    pub fn waiting(&self) -> usize {
        let wire = self.wire.as_ref().unwrap();
        wire.stream.tcp().peek(&mut [0; 64 << 10]).unwrap()
    }

    fn note_handshake(&mut self) {
        let noted = std::mem::replace(&mut self.handshake_noted, true);
        let wire = self.wire.as_ref().unwrap();
        if let Stream::Tls(tls) = &wire.stream
            && !noted
        {
            self.heard
                .handshakes
                .push(tls.conn.handshake_kind().unwrap());
        }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire().try_send(bytes.as_ref()).unwrap();
    }

    /// TLS: the records that carry `bytes`, as they go over the wire, to be sent with `send_sealed`.
    pub fn seal(&mut self, bytes: &[u8]) -> Vec<u8> {
        let Stream::Tls(tls) = &mut self.wire().stream else {
            panic!("not TLS")
        };
        tls.conn.writer().write_all(bytes).unwrap();
        let mut sealed = Vec::new();
        while tls.conn.wants_write() {
            tls.conn.write_tls(&mut sealed).unwrap();
        }
        sealed
    }

    /// TLS: sends bytes of records, whole or not.
    pub fn send_sealed(&mut self, sealed: &[u8]) {
        let mut tcp = self.wire().stream.tcp();
        tcp.write_all(sealed).unwrap();
    }

    /// Sends what the proxy is free not to take.
    pub fn send_if_taken(&mut self, bytes: &[u8]) -> bool {
        self.wire().try_send(bytes).is_ok()
    }

    /// Sends the pattern until nothing more fits between here and a client that does not read;
    /// yields how many bytes fitted.
    pub fn fill_the_pipe(&mut self, pattern: Pattern) -> usize {
        self.wire().fill_the_pipe(pattern)
    }

    /// Sends `length` bytes of the pattern, in writes of `write` bytes; each is one chunk if `chunked`.
    pub fn send_pattern(&mut self, pattern: Pattern, length: usize, write: usize, chunked: bool) {
        let mut sent = 0;
        while sent < length {
            let piece = pattern.at(sent, write.min(length - sent));
            if chunked {
                self.send(format!("{:X}\r\n", piece.len()));
            }
            self.send(piece);
            if chunked {
                self.send("\r\n");
            }
            sent += piece.len();
        }
        if chunked {
            self.send("0\r\n\r\n");
        }
    }

    /// Waits until the proxy has read everything sent so far.
    pub fn until_taken(&mut self) {
        self.wire().until_taken();
    }

    /// The proxy closes or resets, without another byte; when that happened.
    pub fn is_closed(&mut self) -> Instant {
        let (more, _) = self.wire().rest();
        let when = Instant::now();
        let text = String::from_utf8_lossy(&more);
        assert!(more.is_empty(), "more than the script allows: {text:?}");
        self.wire = None;
        when
    }

    /// The same, whatever bytes came before; yields how many.
    pub fn is_closed_after(&mut self) -> (Instant, u64) {
        let count = self.wire().discard();
        self.wire = None;
        (Instant::now(), count)
    }

    /// Sends and receives so much of the pattern at the same time.
    pub fn both_ways(&mut self, pattern: Pattern, length: usize) {
        self.wire().both_ways(pattern, length);
    }

    /// The proxy sends nothing more; it may still be sent to.
    pub fn ends(&mut self) {
        self.wire().ends();
    }

    /// Reads nothing more until the test is over.
    pub fn is_deaf(&mut self) {
        let mut fds = [PollFd::new(&self.stopped, PollFlags::IN)];
        poll(&mut fds, None).unwrap();
        self.wire = None;
    }

    /// The TLS handshake fails, by an alert or a close of the proxy.
    pub fn fails_handshake(&mut self) -> io::Error {
        let wire = self.wire.take().unwrap();
        let Stream::Tls(mut tls) = wire.stream else {
            panic!("not TLS")
        };
        let tls = &mut *tls;
        match tls.conn.complete_io(&mut tls.sock) {
            Ok(_) => panic!("the handshake succeeded"),
            Err(error) => error,
        }
    }

    /// Closes at once: FIN, or RST where request bytes were left unread. TLS: without close_notify.
    pub fn close(&mut self) {
        let wire = self.wire.take().expect("the connection is not closed");
        let tcp = wire.stream.tcp();
        tcp.set_nonblocking(true).unwrap();
        if tcp.peek(&mut [0]).is_err() {
            // A process that another test starts holds the socket as well, for a moment.
            let _ = tcp.shutdown(Shutdown::Both);
        }
    }

    /// TLS: says that this is the end, then closes.
    pub fn close_with_notify(&mut self) {
        if let Stream::Tls(tls) = &mut self.wire().stream {
            tls.conn.send_close_notify();
            let _ = tls.conn.complete_io(&mut tls.sock); // one that has left does not hear it
        }
        self.close();
    }

    /// Sends FIN and keeps reading.
    pub fn half_close(&mut self) {
        let tcp = self.wire().stream.tcp();
        tcp.shutdown(Shutdown::Write).unwrap();
    }

    /// Closes with RST.
    pub fn reset(&mut self) {
        let wire = self.wire.take().unwrap();
        net::close_with_reset(wire.stream.tcp());
    }

    /// After the act: nothing may come on this connection any more but its end.
    pub fn stays_silent(&mut self) {
        let Some(wire) = &mut self.wire else { return };
        let (mut more, mut gone) = (wire.unread().to_vec(), Gone { reset: false });
        if readable(wire.stream.tcp(), &self.stopped) == Ready::Readable {
            (more, gone) = wire.rest();
        }
        let text = String::from_utf8_lossy(&more);
        assert!(
            more.is_empty(),
            "more than the script allows, then {gone:?}: {text:?}"
        );
    }
}
