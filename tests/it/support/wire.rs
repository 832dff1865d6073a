//! HTTP/1.1 as both ends of a test see it: bytes read under a deadline, split into messages.
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustls::{ServerConnection, StreamOwned};
use serde_json::{Value, json};

use super::{DEADLINE, Pattern, net};

const BLOCK: usize = 64 * 1024;

pub enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Stream {
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => &tls.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(buf),
            Self::Tls(tls) => tls.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(buf),
            Self::Tls(tls) => tls.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

/// The header section of a message as it came, its empty line included.
#[derive(Clone, PartialEq, Eq)]
pub struct Head(pub Vec<u8>);

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text().fmt(f)
    }
}

impl Head {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }

    pub fn line(&self) -> String {
        self.text().split("\r\n").next().unwrap().to_owned()
    }

    pub fn status(&self) -> u16 {
        let line = self.line();
        assert!(line.starts_with("HTTP/1."), "no status-line: {line:?}");
        line[9..12].parse().unwrap()
    }

    pub fn fields(&self) -> Vec<(String, String)> {
        let text = self.text();
        let lines = text.split("\r\n").skip(1).filter(|line| !line.is_empty());
        lines
            .map(|line| {
                let (name, value) = line
                    .split_once(':')
                    .unwrap_or_else(|| panic!("no field line: {line:?}"));
                (name.to_owned(), value.trim().to_owned())
            })
            .collect()
    }

    /// The value of the only field of that name.
    pub fn field(&self, name: &str) -> Option<String> {
        let mut all = self.all(name);
        assert!(all.len() < 2, "{name} is repeated: {}", self.text());
        all.pop()
    }

    pub fn all(&self, name: &str) -> Vec<String> {
        let named = |field: &(String, String)| field.0.eq_ignore_ascii_case(name);
        let found = self.fields().into_iter().filter(named);
        found.map(|(_, value)| value).collect()
    }

    /// `Connection: close` is there, or the version implies it.
    pub fn closes(&self) -> bool {
        let says = self
            .all("connection")
            .iter()
            .any(|value| value.to_ascii_lowercase().contains("close"));
        says || self.line().starts_with("HTTP/1.0")
    }

    fn length(&self) -> Option<u64> {
        self.field("content-length")
            .map(|value| value.parse().unwrap())
    }

    fn is_chunked(&self) -> bool {
        self.field("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
    }
}

/// The fields without those of some names, for comparing.
pub fn fields_without(head: &Head, names: &[&str]) -> Vec<(String, String)> {
    let mut fields = head.fields();
    fields.retain(|(name, _)| !names.iter().any(|other| name.eq_ignore_ascii_case(other)));
    fields
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub head: Head,
    pub body: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub head: Head,
    pub body: Vec<u8>,
    /// The trailer section, without its empty line.
    pub trailers: Vec<u8>,
}

impl Response {
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn attempts(&self) -> Option<u32> {
        self.head
            .field("x-codex-reset-proxy-attempts")
            .map(|value| value.parse().unwrap())
    }

    /// What became of the attempts that failed, one of them each; nothing where the field is missing.
    pub fn failed_attempts(&self) -> Vec<String> {
        let fields = self.head.all("x-codex-reset-proxy-attempts-detail");
        assert!(fields.len() <= 1, "{fields:?}");
        let all = fields.first().map(|field| field.split("; ").collect());
        let all: Vec<&str> = all.unwrap_or_default();
        all.into_iter().map(str::to_owned).collect()
    }

    /// Fails unless this is a refusal with this status and code, in the shape of the contract.
    #[track_caller]
    pub fn assert_refusal(&self, status: u16, code: &str) {
        let seen = format!("{}{}", self.head.text(), self.text());
        assert_eq!(self.status(), status, "{seen}");
        let error = self.head.field("x-codex-reset-proxy-error");
        assert_eq!(error.as_deref(), Some(code), "{seen}");
        let kind = self.head.field("content-type").unwrap_or_default();
        assert!(kind.starts_with("application/json"), "{seen}");
        let body: Value = serde_json::from_slice(&self.body).unwrap();
        let message = &body["error"]["message"];
        assert!(
            message.as_str().is_some_and(|text| !text.is_empty()),
            "{seen}"
        );
        let id = self.head.field("x-request-id").unwrap();
        let error = json!({
            "message": message, "type": "proxy_error", "param": null, "code": code,
            "request_id": id,
        });
        assert_eq!(body, json!({ "error": error }), "{seen}");
    }
}

/// The peer closed or reset before the message was complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    pub reset: bool,
}

/// How the end of a body is known to the reader.
#[derive(Clone, Copy, Debug)]
pub enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

impl Framing {
    pub fn of_request(head: &Head) -> Self {
        if head.is_chunked() {
            Self::Chunked
        } else {
            Self::Length(head.length().unwrap_or(0))
        }
    }

    pub fn of_response(method: &str, head: &Head) -> Self {
        if method == "HEAD" || matches!(head.status(), 100..=199 | 204 | 304) {
            Self::Length(0)
        } else if head.is_chunked() {
            Self::Chunked
        } else {
            head.length().map_or(Self::UntilClose, Self::Length)
        }
    }
}

/// A connection with what was read from it and not yet used.
pub struct Wire {
    pub stream: Stream,
    unread: Vec<u8>,
    block: Box<[u8]>,
    /// Bytes left of the chunk being read, where a chunked body is read in steps.
    chunk: Option<usize>,
}

impl Wire {
    pub fn new(stream: Stream) -> Self {
        let tcp = stream.tcp();
        let _ = tcp.set_nodelay(true); // a Unix socket has no delay
        tcp.set_read_timeout(Some(DEADLINE)).unwrap();
        tcp.set_write_timeout(Some(DEADLINE)).unwrap();
        Self {
            stream,
            unread: Vec::new(),
            block: vec![0; BLOCK].into(),
            chunk: None,
        }
    }

    /// Reads once; 0 is the peer's close, and a reset is `Gone`.
    fn fill(&mut self) -> Result<usize, Gone> {
        loop {
            match self.stream.read(&mut self.block) {
                Ok(count) => {
                    self.unread.extend_from_slice(&self.block[..count]);
                    return Ok(count);
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => (),
                    // InvalidData: a TLS alert.
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::InvalidData => {
                        return Err(Gone { reset: true });
                    }
                    ErrorKind::UnexpectedEof => return Ok(0), // TLS without close_notify
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                        let text = String::from_utf8_lossy(&self.unread);
                        panic!("nothing came within {DEADLINE:?}, after {text:?}");
                    }
                    _ => panic!("reading: {error}"),
                },
            }
        }
    }

    fn fill_some(&mut self) -> Result<(), Gone> {
        match self.fill()? {
            0 => Err(Gone { reset: false }),
            _ => Ok(()),
        }
    }

    /// What has been read and belongs to no message yet.
    pub fn unread(&self) -> &[u8] {
        &self.unread
    }

    /// A message's head.
    pub fn head(&mut self) -> Result<Head, Gone> {
        let mut looked_at = 0;
        loop {
            let found = self.unread[looked_at..]
                .windows(4)
                .position(|window| window == b"\r\n\r\n");
            if let Some(at) = found {
                return Ok(Head(self.take(looked_at + at + 4)));
            }
            looked_at = self.unread.len().saturating_sub(3);
            self.fill_some()?;
        }
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let rest = self.unread.split_off(count);
        std::mem::replace(&mut self.unread, rest)
    }

    /// Exactly `count` bytes.
    pub fn exact(&mut self, count: usize) -> Result<Vec<u8>, Gone> {
        while self.unread.len() < count {
            self.fill_some()?;
        }
        Ok(self.take(count))
    }

    fn line(&mut self) -> Result<Vec<u8>, Gone> {
        loop {
            if let Some(at) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line = self.take(at + 1);
                assert!(line.ends_with(b"\r\n"), "a line ends with LF: {line:?}");
                return Ok(line[..at - 1].to_vec());
            }
            self.fill_some()?;
        }
    }

    /// A body, piece by piece as it comes; yields the trailer section.
    pub fn body(&mut self, framing: Framing, sink: &mut dyn FnMut(&[u8])) -> Result<Vec<u8>, Gone> {
        match framing {
            Framing::Length(length) => self.pass(length, sink).map(|()| Vec::new()),
            Framing::UntilClose => loop {
                sink(&std::mem::take(&mut self.unread));
                if self.fill()? == 0 {
                    return Ok(Vec::new());
                }
            },
            Framing::Chunked => loop {
                let size = self.chunk_size()?;
                if size == 0 {
                    return self.trailers();
                }
                self.pass(size, sink)?;
                assert_eq!(self.line()?, b"", "bytes after a chunk");
            },
        }
    }

    /// The next `count` bytes of a chunked body, and no byte of framing beyond them.
    pub fn chunked(&mut self, count: usize) -> Result<Vec<u8>, Gone> {
        let mut content = Vec::new();
        while content.len() < count {
            if self.chunk == Some(0) {
                assert_eq!(self.line()?, b"", "bytes after a chunk");
                self.chunk = None;
            }
            let left = match self.chunk {
                Some(left) => left,
                None => usize::try_from(self.chunk_size()?).unwrap(),
            };
            assert!(left > 0, "the body ends after {content:?}");
            if self.unread.is_empty() {
                self.chunk = Some(left);
                self.fill_some()?;
            }
            let taken = left.min(count - content.len()).min(self.unread.len());
            content.extend(self.take(taken));
            self.chunk = Some(left - taken);
        }
        Ok(content)
    }

    /// The rest of a chunked body that was read in steps: it must be its end.
    pub fn chunked_end(&mut self) -> Result<(), Gone> {
        if self.chunk.take().is_some() {
            assert_eq!(self.line()?, b"", "bytes after a chunk");
        }
        assert_eq!(self.chunk_size()?, 0, "more than was sent");
        self.trailers().map(drop)
    }

    fn chunk_size(&mut self) -> Result<u64, Gone> {
        let line = String::from_utf8(self.line()?).unwrap();
        let size = line.split(';').next().unwrap().trim();
        match u64::from_str_radix(size, 16) {
            Ok(size) => Ok(size),
            Err(_) => panic!("no chunk size: {line:?}"),
        }
    }

    fn trailers(&mut self) -> Result<Vec<u8>, Gone> {
        let mut section = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(section);
            }
            section.extend_from_slice(&line);
            section.extend_from_slice(b"\r\n");
        }
    }

    fn pass(&mut self, length: u64, sink: &mut dyn FnMut(&[u8])) -> Result<(), Gone> {
        let mut left = length;
        while left > 0 {
            if self.unread.is_empty() {
                self.fill_some()?;
            }
            let count = usize::try_from(left).unwrap().min(self.unread.len());
            sink(&self.take(count));
            left -= count as u64;
        }
        Ok(())
    }

    /// Everything until the peer closes or resets.
    pub fn rest(&mut self) -> (Vec<u8>, Gone) {
        let gone = loop {
            match self.fill() {
                Ok(0) => break Gone { reset: false },
                Ok(_) => (),
                Err(gone) => break gone,
            }
        };
        let mut rest = std::mem::take(&mut self.unread);
        if self.chunk == Some(0) && rest.starts_with(b"\r\n") {
            rest.drain(..2); // the end of a chunk that was read in steps
        }
        (rest, gone)
    }

    /// Drops whatever comes until the peer closes or resets; yields how many bytes came.
    pub fn discard(&mut self) -> u64 {
        let mut count = self.unread.len() as u64;
        self.unread.clear();
        while let Ok(1..) = self.fill() {
            count += self.unread.len() as u64;
            self.unread.clear();
        }
        count
    }

    /// Sends all of it; what the peer does not take is the caller's to judge.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Sends the pattern until nothing more fits on the way; yields how many bytes fitted.
    pub fn fill_the_pipe(&mut self, pattern: Pattern) -> usize {
        let stream = &mut self.stream;
        let patience = Duration::from_millis(300);
        stream.tcp().set_write_timeout(Some(patience)).unwrap();
        let mut sent = 0;
        while let Ok(count) = stream.write(pattern.at(sent, 64 * 1024)) {
            sent += count;
        }
        stream.tcp().set_write_timeout(Some(DEADLINE)).unwrap();
        sent
    }

    /// Sends `length` bytes of the pattern and receives as many, a part after the other at both ends, so
    /// that both ways are in use at the same time.
    pub fn both_ways(&mut self, pattern: Pattern, length: usize) {
        const PART: usize = 256 * 1024; // less than sockets hold
        for offset in (0..length).step_by(PART) {
            self.try_send(pattern.at(offset, PART)).unwrap();
            let received = self.exact(PART).unwrap();
            pattern.check(offset, &received);
        }
    }

    /// The peer sends nothing more, and no other byte before that; it may still be sent to.
    #[track_caller]
    pub fn ends(&mut self) {
        let (rest, gone) = self.rest();
        assert_eq!(
            (String::from_utf8_lossy(&rest), gone.reset),
            ("".into(), false)
        );
    }

    /// Waits until the program at the other end has read everything sent so far.
    pub fn until_taken(&self) {
        net::until_taken(self.stream.tcp());
    }
}
