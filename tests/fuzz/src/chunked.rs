//! A chunked body that is there as a whole: RFC 9112 7.1.

/// Most bytes of an extension, its `;` included, and of the white space before it.
const EXTENSION_BYTES_MAX: usize = 1024;

/// What a body comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Its data, and its length up to and with the last chunk's line.
    Whole(Vec<u8>, usize),
    /// So far it is well-formed, and this is the data.
    Begun(Vec<u8>),
    Malformed,
}

pub fn decode(body: &[u8]) -> Decoded {
    let (mut data, mut at) = (Vec::new(), 0);
    loop {
        let line = &body[at..];
        let text_end = line.iter().position(|byte| *byte == b'\r');
        let text = &line[..text_end.unwrap_or(line.len())];
        let Some(size) = size(text) else {
            return match text.is_empty() && text_end.is_none() {
                true => Decoded::Begun(data),
                false => Decoded::Malformed,
            };
        };
        match &line[text.len()..] {
            [] | [b'\r'] => return Decoded::Begun(data),
            [b'\r', b'\n', ..] => at += text.len() + 2,
            _ => return Decoded::Malformed,
        }
        if size == 0 {
            return Decoded::Whole(data, at);
        }
        let there = size.min((body.len() - at) as u64) as usize;
        data.extend_from_slice(&body[at..at + there]);
        at += there;
        if (there as u64) < size {
            return Decoded::Begun(data);
        }
        match &body[at..] {
            [] | [b'\r'] => return Decoded::Begun(data),
            [b'\r', b'\n', ..] => at += 2,
            _ => return Decoded::Malformed,
        }
    }
}

/// What the line without its CRLF, or the beginning of one, gives as the size.
fn size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit());
    let (digits, rest) = line.split_at(digits.count());
    if digits.len() > 15 || rest.len() > EXTENSION_BYTES_MAX {
        return None;
    }
    let space = rest.iter().take_while(|byte| b" \t".contains(byte));
    let extension = &rest[space.count()..];
    let legal = |byte: &u8| *byte == b'\t' || *byte >= 0x20 && *byte != 0x7f;
    if !matches!(extension, [] | [b';', ..]) || !extension.iter().all(legal) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}
