//! A head, taken apart line by line.

/// Name and value of a field.
pub type Field = (Vec<u8>, Vec<u8>);

/// Where the body of a message ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Nothing,
    Length(u64),
    Chunked,
}

/// A line of a head ends with something else than CRLF.
#[derive(Debug, PartialEq, Eq)]
pub struct BareLf;

/// The length of the head that `bytes` start with, its empty line included.
pub fn length(bytes: &[u8]) -> Result<Option<usize>, BareLf> {
    let length = match bytes.windows(4).position(|window| window == b"\r\n\r\n") {
        _ if bytes.starts_with(b"\r\n") => Some(2),
        Some(at) => Some(at + 4),
        None => None,
    };
    let head = &bytes[..length.unwrap_or(bytes.len())];
    let bare = |(at, byte): (usize, &u8)| *byte == b'\n' && (at == 0 || head[at - 1] != b'\r');
    match head.iter().enumerate().any(bare) {
        true => Err(BareLf),
        false => Ok(length),
    }
}

/// The start-line and the fields of a whole head; `None` where a line of it is not what it has to be.
pub fn parse(head: &[u8]) -> Option<(&[u8], Vec<Field>)> {
    let mut lines = lines(head.strip_suffix(b"\r\n\r\n")?).into_iter();
    let start = lines.next()?;
    let fields = lines.map(field).collect::<Option<_>>()?;
    Some((start, fields))
}

/// The fields of a whole field section.
pub fn fields(section: &[u8]) -> Option<Vec<Field>> {
    if section == b"\r\n" {
        return Some(Vec::new());
    }
    let lines = lines(section.strip_suffix(b"\r\n\r\n")?);
    lines.into_iter().map(field).collect()
}

/// Method, target and minor version.
pub fn request_line(line: &[u8]) -> Option<(&[u8], &[u8], u8)> {
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [method, target, version] = words[..] else {
        return None;
    };
    let visible = target.iter().all(|byte| *byte > 0x20 && *byte != 0x7f);
    let fits = is_token(method) && !target.is_empty() && visible;
    fits.then_some((method, target, minor_version(version)?))
}

/// Minor version, status code, and the reason phrase with its space.
pub fn status_line(line: &[u8]) -> Option<(u8, u16, &[u8])> {
    let (version, rest) = line.split_at_checked(9)?;
    let (code, reason) = rest.split_at_checked(3)?;
    let code: u16 = match code.iter().all(u8::is_ascii_digit) {
        true => std::str::from_utf8(code).ok()?.parse().ok()?,
        false => return None,
    };
    let reason_fits = reason.first().is_none_or(|byte| *byte == b' ') && is_text(reason);
    let minor = minor_version(version.strip_suffix(b" ")?)?;
    (code >= 100 && reason_fits).then_some((minor, code, reason))
}

/// RFC 9112 6.3 for what the fields say; `None` where they leave a doubt.
pub fn end(fields: &[Field], minor_version: u8) -> Option<End> {
    let lengths = values(fields, "content-length");
    let codings = values(fields, "transfer-encoding");
    match (&lengths[..], &codings[..]) {
        ([], []) => Some(End::Nothing),
        ([], [coding]) if minor_version == 1 => {
            let chunked = coding.eq_ignore_ascii_case(b"chunked");
            chunked.then_some(End::Chunked)
        }
        (_, []) => {
            let numbers: Option<Vec<u64>> = lengths.iter().map(|text| number(text)).collect();
            let mut numbers = numbers?;
            numbers.dedup();
            (numbers.len() == 1).then(|| End::Length(numbers[0]))
        }
        _ => None,
    }
}

/// The values of the fields of this name.
pub fn values<'a>(fields: &'a [Field], name: &str) -> Vec<&'a [u8]> {
    let named = fields.iter().filter(|field| is(field, name));
    named.map(|(_, value)| &value[..]).collect()
}

/// Whether `field` has this name, in any case.
pub fn is(field: &Field, name: &str) -> bool {
    field.0.eq_ignore_ascii_case(name.as_bytes())
}

/// The elements of all lists in the fields of this name, in lower case.
pub fn elements(fields: &[Field], name: &str) -> Vec<Vec<u8>> {
    let lists = values(fields, name).join(&b',').to_ascii_lowercase();
    let elements = lists.split(|byte| *byte == b',');
    let trimmed = elements.map(|element| trim(element).to_vec());
    trimmed.filter(|element| !element.is_empty()).collect()
}

/// Fields of one connection only, that no message may carry on: RFC 9110 7.6.1 and 11.7.
pub fn is_hop_by_hop(field: &Field) -> bool {
    [
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
        "proxy-authenticate",
        "proxy-authorization",
    ]
    .iter()
    .any(|name| is(field, name))
}

fn lines(text: &[u8]) -> Vec<&[u8]> {
    let (mut lines, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.windows(2).position(|window| window == b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    lines.push(rest);
    lines
}

fn field(line: &[u8]) -> Option<Field> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = (&line[..colon], trim(&line[colon + 1..]));
    (is_token(name) && is_text(value)).then(|| (name.to_vec(), value.to_vec()))
}

fn minor_version(text: &[u8]) -> Option<u8> {
    match text {
        b"HTTP/1.0" => Some(0),
        b"HTTP/1.1" => Some(1),
        _ => None,
    }
}

fn number(text: &[u8]) -> Option<u64> {
    let digits = (1..=18).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok())?
}

fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

fn is_token(text: &[u8]) -> bool {
    let delimiter = |byte: &u8| b"\"(),/:;<=>?@[\\]{}".contains(byte);
    !text.is_empty()
        && text
            .iter()
            .all(|byte| byte.is_ascii_graphic() && !delimiter(byte))
}

fn is_text(text: &[u8]) -> bool {
    text.iter()
        .all(|byte| *byte == b'\t' || *byte >= 0x20 && *byte != 0x7f)
}
