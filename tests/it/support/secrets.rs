//! A value that stands for every secret, and must be in no output of the proxy, in no form.

/// Part of each secret that tests send or set. Letters and digits: percent-encoding leaves them alone.
pub const CANARY: &str = "c4nary9f3e71d0b5";

/// Base64 of a text that has `before` bytes ahead of the canary: what of it the canary alone decides.
fn base64(before: usize) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: Vec<u8> = CANARY
        .bytes()
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1))
        .collect();
    let skipped = (6 - before * 8 % 6) % 6;
    bits[skipped..]
        .chunks_exact(6)
        .map(|six| {
            six.iter()
                .fold(0, |value, bit| value << 1 | usize::from(*bit))
        })
        .map(|value| char::from(ALPHABET[value]))
        .collect()
}

/// The form in which `text` shows the canary, if it does.
pub fn shown_canary(text: &str) -> Option<String> {
    let bytes = |write: fn(u8) -> String, between: &str| -> String {
        CANARY.bytes().map(write).collect::<Vec<_>>().join(between)
    };
    let any_case = [
        CANARY.to_owned(),
        bytes(|byte| format!("{byte:02x}"), ""),
        bytes(|byte| format!("%{byte:02x}"), ""),
        bytes(|byte| format!("{byte:02x}"), ", "),
        bytes(|byte| byte.to_string(), ", "), // as Debug shows bytes
    ];
    let lower = text.to_ascii_lowercase();
    let found = any_case.into_iter().find(|form| lower.contains(form));
    found.or_else(|| (0..3).map(base64).find(|form| text.contains(form)))
}

/// Fails if `text` shows the canary.
#[track_caller]
pub fn assert_no_secret(text: &str) {
    if let Some(form) = shown_canary(text) {
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| shown_canary(line).is_some())
            .collect();
        panic!("a secret is shown as {form}: {lines:#?}");
    }
}
