//! A response body on its way to the client, trailers and what lies beyond its end included.
#![no_main]
use codex_reset_proxy::http1::framing::Framing;
use codex_reset_proxy::net::buffer::Buffer;
use codex_reset_proxy::relay::body::Body;
use fuzz::chunked::{Decoded, decode};
use fuzz::head::{Field, fields, is, is_hop_by_hop, length};
use fuzz::pieces;
use libfuzzer_sys::fuzz_target;

/// What the client has got, whether that was all of it, and whether there was more.
type Relayed = (Vec<u8>, bool, bool);

fuzz_target!(|data: &[u8]| {
    let [choice, seed, wire @ ..] = data else {
        return;
    };
    let unchunk = choice & 1 != 0;
    let framing = match choice >> 1 & 7 {
        0 => Framing::None,
        1 => Framing::Length(u64::from(choice >> 4)),
        2 => Framing::UntilClose,
        _ => Framing::Chunked,
    };
    let expected = match framing {
        Framing::None => Ok((Vec::new(), true, !wire.is_empty())),
        Framing::Length(bytes) => {
            let taken = wire.len().min(bytes as usize);
            let ended = taken as u64 == bytes;
            Ok((wire[..taken].to_vec(), ended, taken < wire.len()))
        }
        Framing::UntilClose => Ok((wire.to_vec(), false, false)),
        Framing::Chunked => relayed(wire, unchunk),
    };
    for pieces in [vec![wire.into()], pieces(*seed, wire)] {
        let (followed, sent) = follow(framing, unchunk, &pieces);
        assert_eq!(followed.is_some(), expected.is_ok());
        if let Some(followed) = followed {
            assert_eq!(Ok(followed), expected);
        } else if !unchunk {
            assert!(wire.starts_with(&sent), "sent before the fault was seen");
        }
    }
});

fn follow(framing: Framing, unchunk: bool, pieces: &[Box<[u8]>]) -> (Option<Relayed>, Vec<u8>) {
    let mut body = Body::new(framing, unchunk);
    let (mut sent, mut excess) = (Vec::new(), false);
    let mut ended = matches!(framing, Framing::None | Framing::Length(0));
    for piece in pieces {
        let mut buffer = Buffer::for_bytes(piece.len());
        buffer.as_vec().extend_from_slice(piece);
        let Ok(followed) = body.follow(&mut buffer) else {
            return (None, sent);
        };
        assert!(
            !ended || followed.ended && buffer.is_empty(),
            "bytes behind the end"
        );
        sent.extend_from_slice(&buffer);
        ended = followed.ended;
        excess |= followed.excess;
    }
    (Some((sent.clone(), ended, excess)), sent)
}

/// The same for a chunked body that is there as a whole.
fn relayed(wire: &[u8], unchunk: bool) -> Result<Relayed, ()> {
    let (mut out, end) = match decode(wire) {
        Decoded::Malformed => return Err(()),
        Decoded::Begun(data) if unchunk => return Ok((data, false, false)),
        Decoded::Begun(_) => return Ok((wire.to_vec(), false, false)),
        Decoded::Whole(data, end) if unchunk => (data, end),
        Decoded::Whole(_, end) => (wire[..end].to_vec(), end),
    };
    let behind = &wire[end..];
    let Some(length) = length(behind).map_err(|_| ())? else {
        return Ok((out, false, false));
    };
    if !unchunk {
        for (name, value) in fields(&behind[..length])
            .ok_or(())?
            .iter()
            .filter(|f| passes(f))
        {
            out.extend([name, &b": "[..], value, b"\r\n"].concat());
        }
        out.extend(b"\r\n");
    }
    Ok((out, true, length < behind.len()))
}

/// Whether a trailer field goes on.
fn passes(field: &Field) -> bool {
    let own = field
        .0
        .to_ascii_lowercase()
        .starts_with(b"x-codex-reset-proxy-");
    !own && !is_hop_by_hop(field) && !is(field, "content-length")
}
