//! A raw client: it sends what it is told and fails the test when more comes back than was asked for.
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use super::bodies::Pattern;
use super::net;
use super::proxy::Proxy;
use super::wire::{Framing, Head, Response, Stream, Wire};
use super::{DEADLINE, PROMPT};

/// A response that was broken off: what had come by then.
#[derive(Debug)]
pub struct Cut {
    pub head: Option<Head>,
    pub body: Vec<u8>,
    pub reset: bool,
}

pub struct Client {
    wire: Option<Wire>,
}

impl Client {
    pub fn connect(proxy: &Proxy) -> Self {
        match &proxy.unix {
            Some(path) => Self::connect_at(path),
            None => Self::connect_to(proxy.addr),
        }
    }

    pub fn connect_to(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect_timeout(&addr, DEADLINE).unwrap())
    }

    /// To a Unix socket.
    pub fn connect_at(path: &Path) -> Self {
        let socket = UnixStream::connect(path).unwrap();
        Self::over(OwnedFd::from(socket).into()) // a socket is a socket
    }

    /// Over a connection that exists already.
    pub fn over(tcp: TcpStream) -> Self {
        Self {
            wire: Some(Wire::new(Stream::Plain(tcp))),
        }
    }

    fn wire(&mut self) -> &mut Wire {
        self.wire.as_mut().expect("the client has not left")
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire().try_send(bytes.as_ref()).unwrap();
    }

    /// Sends what the proxy is free not to take.
    pub fn send_if_taken(&mut self, bytes: &[u8]) -> bool {
        self.wire().try_send(bytes).is_ok()
    }

    /// Waits until the proxy has read everything sent so far.
    pub fn until_taken(&mut self) {
        self.wire().until_taken();
    }

    /// Only a head, interim ones included.
    #[track_caller]
    pub fn head(&mut self) -> Head {
        let head = self.wire().head();
        head.unwrap_or_else(|gone| panic!("no head: {gone:?} after {:?}", self.unread()))
    }

    fn unread(&mut self) -> String {
        String::from_utf8_lossy(self.wire().unread()).into_owned()
    }

    /// Exactly these bytes come next.
    #[track_caller]
    pub fn receive(&mut self, expected: &str) {
        let came = self.wire().exact(expected.len()).unwrap();
        assert_eq!(String::from_utf8_lossy(&came), expected);
    }

    /// The next bytes of a chunked body are these, however they are cut into chunks.
    #[track_caller]
    pub fn receive_chunked(&mut self, expected: &str) {
        let came = self.take_chunked(expected.len());
        assert_eq!(String::from_utf8_lossy(&came), expected);
    }

    /// The next `count` bytes of a chunked body.
    #[track_caller]
    pub fn take_chunked(&mut self, count: usize) -> Vec<u8> {
        self.wire().chunked(count).unwrap()
    }

    /// The end of a chunked body, and nothing before it.
    #[track_caller]
    pub fn receive_chunked_end(&mut self) {
        self.wire().chunked_end().unwrap();
    }

    /// `count` bytes, whatever they are.
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        self.wire().exact(count).unwrap()
    }

    /// A complete response to a request with a body-bearing method.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        self.response_to("GET")
    }

    #[track_caller]
    pub fn response_to(&mut self, method: &str) -> Response {
        match self.try_response(method) {
            Ok(response) => response,
            Err(cut) => panic!("an incomplete response: {cut:?}"),
        }
    }

    pub fn try_response(&mut self, method: &str) -> Result<Response, Cut> {
        let mut body = Vec::new();
        let (head, end) = self.streamed(method, &mut |piece| body.extend_from_slice(piece))?;
        match end {
            Ok(trailers) => Ok(Response {
                head,
                body,
                trailers,
            }),
            Err(reset) => {
                self.wire = None;
                Err(Cut {
                    head: Some(head),
                    body,
                    reset,
                })
            }
        }
    }

    /// A response whose body goes to `sink` as it comes. The end is the trailer section, or whether
    /// the response was cut off by a reset.
    #[allow(clippy::type_complexity, reason = "read once, here")]
    pub fn streamed(
        &mut self,
        method: &str,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<(Head, Result<Vec<u8>, bool>), Cut> {
        let head = match self.wire().head() {
            Ok(head) => head,
            Err(gone) => {
                let body = self.wire().unread().to_vec();
                self.wire = None;
                return Err(Cut {
                    head: None,
                    body,
                    reset: gone.reset,
                });
            }
        };
        let framing = Framing::of_response(method, &head);
        let end = self.wire().body(framing, sink);
        if matches!(framing, Framing::UntilClose) {
            self.wire = None;
        }
        Ok((head, end.map_err(|gone| gone.reset)))
    }

    /// One request, one response.
    #[track_caller]
    pub fn exchange(&mut self, request: impl AsRef<[u8]>) -> Response {
        let request = request.as_ref();
        self.send(request);
        let head = request.starts_with(b"HEAD ");
        self.response_to(if head { "HEAD" } else { "GET" })
    }

    /// Sends FIN and keeps reading.
    pub fn half_close(&mut self) {
        let tcp = self.wire().stream.tcp();
        tcp.shutdown(Shutdown::Write).unwrap();
    }

    /// Leaves with FIN, or with RST where response bytes were left unread.
    pub fn leave(&mut self) -> Instant {
        self.wire = None;
        Instant::now()
    }

    /// Leaves with RST.
    pub fn reset(&mut self) -> Instant {
        close_with_reset_and_drop(self.wire.take());
        Instant::now()
    }

    /// The proxy closes without another byte.
    #[track_caller]
    pub fn is_closed(&mut self) {
        let (rest, _) = self.wire().rest();
        assert_eq!(String::from_utf8_lossy(&rest), "", "bytes before the close");
        self.wire = None;
    }

    /// The same, at once.
    #[track_caller]
    pub fn is_closed_promptly(&mut self, since: Instant) {
        self.is_closed();
        let took = since.elapsed();
        assert!(took < PROMPT, "noticed after {took:?}");
    }

    /// Sends the pattern until nothing more fits between here and an upstream that does not read.
    pub fn fill_the_pipe(&mut self, pattern: Pattern) -> usize {
        self.wire().fill_the_pipe(pattern)
    }

    /// Sends and receives so much of the pattern at the same time.
    pub fn both_ways(&mut self, pattern: Pattern, length: usize) {
        self.wire().both_ways(pattern, length);
    }

    /// The proxy sends nothing more; it may still be sent to.
    #[track_caller]
    pub fn ends(&mut self) {
        self.wire().ends();
    }

    /// The proxy resets the connection, whatever came before.
    #[track_caller]
    pub fn is_reset(&mut self) {
        let (_, gone) = self.wire().rest();
        assert!(gone.reset, "it was closed in order");
        self.wire = None;
    }

    /// The proxy breaks the connection; what had come before.
    pub fn rest(&mut self) -> Vec<u8> {
        let (rest, _) = self.wire().rest();
        self.wire = None;
        rest
    }

    /// Whatever still comes is of no interest.
    pub fn discard(&mut self) {
        if let Some(mut wire) = self.wire.take() {
            wire.discard();
        }
    }

    /// Whether another request can be sent: neither side has closed.
    pub fn is_usable(&mut self) -> bool {
        let open = self.wire.is_some() && !self.has_answer();
        if !open {
            self.wire = None;
        }
        open
    }

    /// Whether bytes or a close are there to be read.
    pub fn has_answer(&mut self) -> bool {
        let tcp = self.wire().stream.tcp();
        tcp.set_nonblocking(true).unwrap();
        let peeked = tcp.peek(&mut [0]);
        tcp.set_nonblocking(false).unwrap();
        peeked.is_ok()
    }
}

fn close_with_reset_and_drop(wire: Option<Wire>) {
    let wire = wire.expect("the client has not left");
    net::close_with_reset(wire.stream.tcp());
}

impl Drop for Client {
    /// Whatever was not asked for is a fault of the proxy.
    fn drop(&mut self) {
        let Some(wire) = &mut self.wire else { return };
        if std::thread::panicking() {
            return;
        }
        let tcp = wire.stream.tcp();
        tcp.set_nonblocking(true).unwrap();
        let mut more = [0; 256];
        let count = tcp.peek(&mut more).unwrap_or(0);
        let unasked = [wire.unread(), &more[..count]].concat();
        let text = String::from_utf8_lossy(&unasked);
        assert!(unasked.is_empty(), "bytes that nobody asked for: {text:?}");
    }
}
