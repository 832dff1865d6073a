//! Good answers: bodies of the pattern, and streams of events.
use std::io::{self, Write};
use std::sync::LazyLock;
use std::time::Duration;

use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt};
use monoio::time::{Instant, sleep_until};
use rustix::time::{ClockId, clock_gettime};

use super::connection::Connection;
use super::target::{EVENT_BYTES_MIN, Framing};
use crate::pattern::{PERIOD, Pattern};

const CHUNK_BYTES: u64 = 16 * 1024;
/// Chunks are gathered until there are as many bytes for one write.
const WRITE_BYTES: usize = 256 * 1024;
/// Periods in one write of a large body: stays in the second level cache of most machines.
const PERIODS: usize = 4;

pub(super) static PATTERN: LazyLock<Pattern> = LazyLock::new(Pattern::default);

/// `PERIODS` periods of the pattern from any start, in one piece.
static BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| PATTERN.at(0, PERIOD).repeat(PERIODS + 1));

/// Appends a response head.
pub(super) fn write_head(
    out: &mut Vec<u8>,
    status: &str,
    kind: &str,
    framing: Framing,
    length: u64,
    keep_alive: bool,
) {
    let close = match keep_alive && framing != Framing::Close {
        true => "",
        false => "Connection: close\r\n",
    };
    let framing = match framing {
        Framing::Length => format!("Content-Length: {length}\r\n"),
        Framing::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
        Framing::Close => String::new(),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{framing}{close}\r\n");
    out.extend_from_slice(head.as_bytes());
}

impl<S: AsyncReadRent + AsyncWriteRent> Connection<S> {
    /// Answers with a body of `length` bytes, of which only the first `until` are sent. Whether
    /// `out` holds all that was written.
    pub(super) async fn bytes(
        &mut self,
        length: u64,
        framing: Framing,
        until: u64,
        keep_alive: bool,
    ) -> io::Result<bool> {
        self.out.clear();
        let kind = "application/octet-stream";
        write_head(&mut self.out, "200 OK", kind, framing, length, keep_alive);
        if framing == Framing::Chunked {
            return self.chunks(length, until).await;
        }
        let piece = PATTERN.at(self.first, usize::try_from(until).unwrap_or(PERIOD));
        self.out.extend_from_slice(piece);
        self.write_out().await?;
        let mut offset = piece.len() as u64;
        let is_all = offset == until;
        while offset < until {
            let start = ((self.first + offset) % PERIOD as u64) as usize;
            let room = PERIODS * PERIOD;
            let count = usize::try_from(until - offset).map_or(room, |left| left.min(room));
            let piece: &'static [u8] = &BLOCK[start..start + count];
            self.stream.write_all(piece).await.0?;
            offset += count as u64;
        }
        Ok(is_all)
    }

    /// Writes the body in chunks, the first of them behind the head in `out`.
    async fn chunks(&mut self, length: u64, until: u64) -> io::Result<bool> {
        let mut offset = 0;
        let mut is_all = true;
        loop {
            while offset < until && self.out.len() < WRITE_BYTES {
                let size = CHUNK_BYTES.min(length - offset);
                let sent = size.min(until - offset);
                write!(self.out, "{size:x}\r\n")?;
                self.out
                    .extend_from_slice(PATTERN.at(self.first + offset, sent as usize));
                if sent == size {
                    self.out.extend_from_slice(b"\r\n");
                }
                offset += sent;
            }
            if offset == length {
                self.out.extend_from_slice(b"0\r\n\r\n");
            }
            self.write_out().await?;
            if offset == until {
                return Ok(is_all);
            }
            self.out.clear();
            is_all = false;
        }
    }

    /// Answers with `count` events, each one chunk and one write.
    pub(super) async fn events(
        &mut self,
        count: Option<u64>,
        bytes: usize,
        interval: Duration,
        keep_alive: bool,
    ) -> io::Result<()> {
        self.out.clear();
        let kind = "text/event-stream";
        write_head(
            &mut self.out,
            "200 OK",
            kind,
            Framing::Chunked,
            0,
            keep_alive,
        );
        self.write_out().await?;

        self.out.clear();
        write!(self.out, "{bytes:x}\r\ndata: ")?;
        let stamp = self.out.len()..self.out.len() + 20;
        write!(self.out, "{:020} ", 0)?;
        self.out
            .extend_from_slice(PATTERN.at(self.first, bytes - EVENT_BYTES_MIN));
        self.out.extend_from_slice(b"\n\n\r\n");

        let mut due = Instant::now() + interval.mul_f64(self.shared.next_phase());
        let mut left = count.unwrap_or(u64::MAX);
        while left > 0 {
            if !interval.is_zero() && due > Instant::now() {
                sleep_until(due).await;
            }
            due += interval;
            write!(&mut self.out[stamp.clone()], "{:020}", monotonic_nanos())?;
            self.write_out().await?;
            left -= 1;
        }
        self.out.clear();
        self.out.extend_from_slice(b"0\r\n\r\n");
        self.write_out().await
    }
}

/// The time that events carry.
pub(super) fn monotonic_nanos() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
