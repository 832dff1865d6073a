//! A request's body, buffered whole behind its head in blocks of this core's pool.
use bytes::Bytes;

use crate::downstream::client::{Client, Ended};
use crate::downstream::reply::Unanswered;
use crate::downstream::request::{HEAD_BYTES_MAX, Request};
use crate::http1::chunked::{Decoder, Run};
use crate::http1::fields::write_field;
use crate::http1::framing::Framing;
use crate::http1::head::{REQUEST_FIELDS_MAX, Scan, with_fields};
use crate::net::buffer::{Buffer, SMALL_BYTES};
use crate::net::deadline::Deadline;
use crate::net::quota::Taken;
use crate::refusal::Refusal;

/// Less room at the end of a block is not worth a read.
const BLOCK_REST_MIN: u64 = 4096;

/// Why there is no body.
pub enum Fault {
    /// The client has left.
    Left,
    /// The request is refused.
    Refused(Refusal),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// The blocks that an attempt sends, the first with the head, and what was taken for them.
pub type Wire = (Bytes, Vec<Bytes>, Taken);

/// Buffers the body of `request` behind its rewritten `head`.
///
/// Memory follows the bytes that have come, not the length that was claimed: a block is taken when
/// there is something to put into it. `input` is left with what follows the request.
pub async fn buffer(
    client: &Client,
    input: &mut Buffer,
    request: &Request,
    head: Buffer,
    reply: &Unanswered<'_>,
) -> Result<Wire, Fault> {
    let wire = buffer_wire(client, input, request, head, reply).await;
    if input.is_empty() {
        *input = Buffer::empty(); // nothing is held while the response is awaited
    }
    wire
}

async fn buffer_wire(
    client: &Client,
    input: &mut Buffer,
    request: &Request,
    mut head: Buffer,
    reply: &Unanswered<'_>,
) -> Result<Wire, Fault> {
    if request.expects_continue && input.is_empty() && request.framing != Framing::Length(0) {
        reply.go_on().await.map_err(|_| Fault::Left)?;
    }
    match request.framing {
        Framing::Chunked => {
            let mut blocks = Blocks::starting_with(Buffer::empty(), client);
            let length = unchunk(client, input, &mut blocks).await?;
            write_field(
                head.as_vec(),
                "Content-Length",
                length.to_string().as_bytes(),
            );
            head.as_vec().extend_from_slice(b"\r\n");
            Ok(blocks.finish(Some(head)))
        }
        framing => {
            head.as_vec().extend_from_slice(b"\r\n");
            let mut blocks = Blocks::starting_with(head, client);
            if let Framing::Length(length) = framing {
                receive(client, input, &mut blocks, length).await?;
            }
            Ok(blocks.finish(None))
        }
    }
}

/// Receives exactly `length` bytes, straight into the blocks.
async fn receive(
    client: &Client,
    input: &mut Buffer,
    blocks: &mut Blocks,
    length: u64,
) -> Result<(), Fault> {
    let held = usize::try_from(length).map_or(input.len(), |length| length.min(input.len()));
    blocks.append(&input[..held])?;
    input.consume(held);
    let mut left = length - held as u64;
    while left > 0 {
        if blocks.last.spare() < left.min(BLOCK_REST_MIN) as usize {
            wait(client).await?;
            blocks.next(left);
        }
        let before = blocks.last.len();
        if client
            .read_into(&mut blocks.last)
            .map_err(|_| Fault::Left)?
            == 0
        {
            wait(client).await?;
            continue;
        }
        let received = (blocks.last.len() - before) as u64;
        if received > left {
            // Behind the body comes the next request.
            let body_end = before + left as usize;
            *input = Buffer::large();
            input.as_vec().extend_from_slice(&blocks.last[body_end..]);
            blocks.last.truncate(body_end);
        }
        blocks.charge(received.min(left) as usize)?;
        left = left.saturating_sub(received);
        if left > 0 && client.tcp.worked(received as usize) {
            wait(client).await?; // on io_uring others run meanwhile
            client.tcp.breathe().await;
        }
    }
    Ok(())
}

/// Receives a chunked body and its trailers, which are dropped; the length of its data.
async fn unchunk(client: &Client, input: &mut Buffer, blocks: &mut Blocks) -> Result<u64, Fault> {
    let bytes_max = client.limits.body_bytes_max;
    let (mut decoder, mut length) = (Decoder::default(), 0);
    loop {
        while !input.is_empty() {
            let run = decoder.next(input);
            let (bytes, run) =
                run.map_err(|_| Refusal::BadRequest("the chunked body is malformed"))?;
            if run == Run::Data {
                length += bytes as u64;
                blocks.append(&input[..bytes])?;
            }
            if length + decoder.data_left() > bytes_max {
                return Err(Refusal::BodyTooLarge(bytes_max).into()); // as soon as it is claimed
            }
            input.consume(bytes);
            if run == Run::LastChunk {
                drop_trailers(client, input).await?;
                return Ok(length);
            }
        }
        more(client, input).await?;
    }
}

async fn drop_trailers(client: &Client, input: &mut Buffer) -> Result<(), Fault> {
    let mut scan = Scan::default();
    let malformed = || Refusal::BadRequest("the trailer section is malformed");
    loop {
        if let Some(length) = scan.head_length(input).map_err(|_| malformed())? {
            if length > HEAD_BYTES_MAX {
                return Err(Refusal::FieldsTooLarge.into());
            }
            if length > 2 {
                with_fields::<_, REQUEST_FIELDS_MAX>(&input[..length], |_| ())
                    .map_err(|_| malformed())?;
            }
            input.consume(length);
            return Ok(());
        }
        if input.len() > HEAD_BYTES_MAX {
            return Err(Refusal::FieldsTooLarge.into());
        }
        more(client, input).await?;
    }
}

async fn more(client: &Client, input: &mut Buffer) -> Result<(), Fault> {
    let limit = client.limits.body_timeout;
    let received = client.receive(input, Deadline::after(limit)).await;
    received.map_err(|ended| fault(&ended, client))
}

async fn wait(client: &Client) -> Result<(), Fault> {
    let deadline = Deadline::after(client.limits.body_timeout);
    match deadline.limit(client.tcp.readable()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Fault::Left),
        Err(_) => Err(fault(&Ended::Late, client)),
    }
}

fn fault(ended: &Ended, client: &Client) -> Fault {
    match ended {
        Ended::Left => Fault::Left,
        Ended::Late => {
            let limit = client.limits.body_timeout;
            Refusal::RequestTimeout(
                "more of the request body",
                limit,
                "CLIENT_BODY_TIMEOUT_SECONDS",
            )
            .into()
        }
    }
}

/// Full blocks and the one being filled.
struct Blocks {
    full: Vec<Bytes>,
    last: Buffer,
    /// For the bytes of the body.
    taken: Taken,
}

impl Blocks {
    fn starting_with(last: Buffer, client: &Client) -> Self {
        Self {
            full: Vec::new(),
            last,
            taken: Taken::nothing(&client.bodies),
        }
    }

    /// Begins another block, for `left` bytes or the first of them.
    fn next(&mut self, left: u64) {
        let next = if left > SMALL_BYTES as u64 {
            Buffer::large()
        } else {
            Buffer::small()
        };
        let full = std::mem::replace(&mut self.last, next);
        if !full.is_empty() {
            self.full.push(full.freeze());
        }
    }

    /// Takes `count` bytes, which have come, from what all requests together may hold.
    fn charge(&mut self, count: usize) -> Result<(), Refusal> {
        match self.taken.add(count as u64) {
            true => Ok(()),
            false => Err(Refusal::Overloaded(
                "bytes of request bodies",
                "MAX_BUFFERED_BYTES",
            )),
        }
    }

    fn append(&mut self, mut bytes: &[u8]) -> Result<(), Refusal> {
        self.charge(bytes.len())?;
        while !bytes.is_empty() {
            if self.last.spare() == 0 {
                // Where the length is not known, what has come says what to expect.
                let more = if self.full.is_empty() {
                    bytes.len() as u64
                } else {
                    u64::MAX
                };
                self.next(more);
            }
            let (fits, rest) = bytes.split_at(bytes.len().min(self.last.spare()));
            self.last.as_vec().extend_from_slice(fits);
            bytes = rest;
        }
        Ok(())
    }

    /// `first` is a block ahead of these. Most requests have one block in all.
    fn finish(mut self, first: Option<Buffer>) -> Wire {
        if !self.last.is_empty() {
            self.full.push(self.last.freeze());
        }
        let first = match first {
            Some(first) => first.freeze(),
            None => self.full.remove(0),
        };
        (first, self.full, self.taken)
    }
}
