//! A chunked body that arrives in pieces, some of its data going another way.
#![no_main]
use codex_reset_proxy::http1::chunked::{Decoder, Malformed, Run};
use fuzz::chunked::{Decoded, decode};
use fuzz::pieces;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [seed, body @ ..] = data else { return };
    let expected = decode(body);
    assert_eq!(follow(&[body.into()]), expected);
    assert_eq!(follow(&pieces(*seed, body)), expected);
    skip(*seed, body, &expected);
});

fn follow(pieces: &[Box<[u8]>]) -> Decoded {
    let (mut decoder, mut data, mut taken) = (Decoder::default(), Vec::new(), 0);
    for piece in pieces {
        let mut rest = &piece[..];
        while !rest.is_empty() {
            let data_left = decoder.data_left();
            let Ok((length, run)) = decoder.next(rest) else {
                return Decoded::Malformed;
            };
            assert!((1..=rest.len()).contains(&length));
            assert_eq!(run == Run::Data, data_left > 0);
            taken += length;
            match run {
                Run::Data => {
                    assert_eq!(length as u64, data_left.min(rest.len() as u64));
                    data.extend_from_slice(&rest[..length]);
                }
                Run::Framing => (),
                Run::LastChunk => return Decoded::Whole(data, taken),
            }
            rest = &rest[length..];
        }
    }
    Decoded::Begun(data)
}

/// The decoder sees none of the data and comes to the same end.
fn skip(seed: u8, body: &[u8], expected: &Decoded) {
    let (mut decoder, mut at) = (Decoder::default(), 0);
    let mut last = Ok((0, Run::Framing));
    while at < body.len() && matches!(last, Ok((_, Run::Framing))) {
        let left = decoder.data_left().min((body.len() - at) as u64);
        if left > 0 {
            let bytes = 1 + u64::from(seed) % left;
            decoder.skip_data(bytes);
            at += bytes as usize;
            continue;
        }
        last = decoder.next(&body[at..]);
        at += last.map_or(0, |(length, _)| length);
    }
    match expected {
        Decoded::Whole(_, length) => {
            assert_eq!((last.map(|last| last.1), at), (Ok(Run::LastChunk), *length))
        }
        Decoded::Begun(_) => assert!(matches!(last, Ok((_, Run::Framing)))),
        Decoded::Malformed => assert_eq!(last, Err(Malformed)),
    }
}
