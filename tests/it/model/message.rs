//! The bytes of a script's messages.
use super::script::{Answer, Content, Exchange, Fault, Framing, bodiless};
use crate::support::{Dice, chunked, pattern};

const EXCESS: &str = "HTTP/1.1 299 Excess\r\nContent-Length: 6\r\n\r\nexcess";

impl Exchange {
    pub fn fields(&self) -> Vec<(String, String)> {
        let fields = [
            ("X-Model", self.id.to_string()),
            ("accept", "*/*".to_owned()),
        ];
        fields.map(|(name, value)| (name.to_owned(), value)).into()
    }

    pub fn head(&self) -> String {
        let version = if self.http10 { "1.0" } else { "1.1" };
        let mut head = format!(
            "{} /{} HTTP/{version}\r\nHost: model.example\r\n",
            self.method, self.id
        );
        for (name, value) in self.fields() {
            head += &format!("{name}: {value}\r\n");
        }
        if self.close {
            head += "Connection: close\r\n";
        }
        if self.expect {
            head += "Expect: 100-continue\r\n";
        }
        head += &match self.body {
            Content::None => String::new(),
            Content::Length(bytes) => format!("Content-Length: {bytes}\r\n"),
            Content::Chunked { .. } => "Transfer-Encoding: chunked\r\n".to_owned(),
        };
        head + "\r\n"
    }

    /// The request as the client sends it.
    pub fn wire(&self) -> Vec<u8> {
        let body = request_body(self.id);
        let framed = match self.body {
            Content::None => Vec::new(),
            Content::Length(bytes) => body.bytes(bytes),
            Content::Chunked { bytes, chunk } => chunked(&body.bytes(bytes), chunk),
        };
        [self.head().into_bytes(), framed].concat()
    }
}

impl Answer {
    /// Its bytes as the answer to the `send`-th sending of request `id`.
    pub fn layout(&self, method: &str, id: u64, send: usize) -> Layout {
        let mut wire: Vec<u8> = Vec::new();
        let mut interim_ends = Vec::new();
        for status in &self.interim {
            wire.extend(format!("HTTP/1.1 {status} Wait\r\nX-Interim: {id}\r\n\r\n").bytes());
            interim_ends.push(wire.len());
        }
        let bodiless = bodiless(method, self.status);
        if let Fault::Garbage(text) = self.fault {
            wire.extend(text.bytes());
            return Layout {
                interim_ends,
                head: wire.len(),
                bodiless,
                excess: 0,
                wire,
            };
        }
        wire.extend(self.head(id, send).bytes());
        let head = wire.len();
        let body = response_body(id, send).bytes(self.bytes);
        if !bodiless {
            wire.extend(self.frame(&body));
        }
        let excess = if self.fault == Fault::Excess {
            EXCESS
        } else {
            ""
        };
        wire.extend(excess.bytes());
        Layout {
            interim_ends,
            head,
            bodiless,
            excess: excess.len(),
            wire,
        }
    }

    fn head(&self, id: u64, send: usize) -> String {
        let version = if self.http10 { "1.0" } else { "1.1" };
        let mut head = format!(
            "HTTP/{version} {} Said\r\nX-Send: {id}/{send}\r\n",
            self.status
        );
        head += "x-codex-reset-proxy-attempts: 99\r\n"; // forged
        if self.close {
            head += "Connection: close\r\n";
        }
        head += &match self.framing {
            _ if self.status == 204 => String::new(),
            Framing::Length => format!("Content-Length: {}\r\n", self.bytes),
            Framing::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
            Framing::UntilClose => String::new(),
        };
        head + "\r\n"
    }

    fn frame(&self, body: &[u8]) -> Vec<u8> {
        if self.framing != Framing::Chunked {
            return body.to_vec();
        }
        let mut framed = chunked(body, 1 + self.bytes / 3);
        let end = framed.len() - b"0\r\n\r\n".len();
        if self.fault == Fault::BadChunk {
            framed.truncate(end);
            framed.extend(b"-1\r\n");
        } else if self.trailers {
            framed.truncate(framed.len() - b"\r\n".len());
            framed.extend(b"X-Trailer: t\r\nx-codex-reset-proxy-error: forged\r\n\r\n");
        }
        framed
    }
}

/// The bytes of an answer and what stands where.
pub struct Layout {
    /// The ends of the interim responses.
    pub interim_ends: Vec<usize>,
    /// The end of the final head.
    pub head: usize,
    pub bodiless: bool,
    /// Bytes behind the end of the response.
    pub excess: usize,
    pub wire: Vec<u8>,
}

/// A body that no other message of the run has: a piece of the pattern from a place of its own.
#[derive(Clone, Copy)]
pub struct Own(usize);

pub fn request_body(id: u64) -> Own {
    Own(Dice::new(id).below(1 << 30))
}

pub fn response_body(id: u64, send: usize) -> Own {
    Own(Dice::new(!id ^ ((send as u64) << 56)).below(1 << 30))
}

impl Own {
    pub fn bytes(self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let at = self.0 + bytes.len();
            bytes.extend_from_slice(pattern().at(at, length - bytes.len()));
        }
        bytes
    }

    /// Whether `piece` is what stands at `offset`.
    pub fn has(self, offset: usize, piece: &[u8]) -> bool {
        Self(self.0 + offset).bytes(piece.len()) == piece
    }
}
