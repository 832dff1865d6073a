//! Where a message ends, for every way of saying it in its fields.
#![no_main]
use codex_reset_proxy::http1::framing::{Framing, of_request, of_response};
use codex_reset_proxy::http1::head::{with_request, with_response};
use fuzz::head::{self as naive, End};
use libfuzzer_sys::fuzz_target;

/// What a line of the input begins with is the number of one of these.
const NAMES: [&str; 8] = [
    "Content-Length:",
    "content-length: ",
    "Transfer-Encoding: ",
    "TRANSFER-ENCODING:\t",
    "Transfer-Encoding: chunked",
    "Content-Length : ",
    "Content_Length: ",
    "X: ",
];

fuzz_target!(|data: &[u8]| {
    let [choice, lines @ ..] = data else { return };
    let [http10, asked_head, no_content, interim] = [1, 2, 4, 8].map(|bit| choice & bit != 0);
    let minor = u8::from(!http10);
    let mut section = Vec::new();
    for line in lines.split(|byte| *byte == b'\n') {
        if let [number, value @ ..] = line {
            section.extend(NAMES[usize::from(*number) % NAMES.len()].bytes());
            section.extend_from_slice(value);
            section.extend(b"\r\n");
        }
    }
    section.extend(b"\r\n");
    let request = [format!("POST / HTTP/1.{minor}\r\n").as_bytes(), &section].concat();
    let Some((_, fields)) = naive::parse(&request).filter(|(_, fields)| fields.len() <= 128) else {
        return;
    };
    let end = naive::end(&fields, minor);
    let expected = end.map(|end| match end {
        End::Nothing => Framing::None,
        End::Length(bytes) => Framing::Length(bytes),
        End::Chunked => Framing::Chunked,
    });
    let framing = with_request(&request, |head| of_request(head).ok());
    assert_eq!(framing, Ok(expected));

    let status = match (no_content, interim) {
        (true, true) => 304,
        (true, false) => 204,
        (false, true) => 103,
        (false, false) => 200,
    };
    let method = if asked_head { "HEAD" } else { "POST" };
    let response = [format!("HTTP/1.{minor} {status}\r\n").as_bytes(), &section].concat();
    let bodyless = asked_head || status != 200;
    let expected = expected.map(|framing| match framing {
        _ if bodyless => Framing::None,
        Framing::None => Framing::UntilClose,
        framing => framing,
    });
    let framing = with_response(&response, |head| of_response(method, head).ok());
    assert_eq!(framing, Ok(expected));
});
