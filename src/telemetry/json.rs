//! JSON strings, in ASCII: nothing in them ends a line, for whatever reads it, or commands a terminal.
use std::fmt::{self, Write};

/// Text that is written to it becomes the inside of a JSON string (RFC 8259 7).
pub struct Escaped<'a>(pub &'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
        if text.bytes().all(is_plain) {
            self.0.push_str(text);
            return Ok(());
        }
        for char in text.chars() {
            match char {
                '"' | '\\' => self.0.extend(['\\', char]),
                ' '..='~' => self.0.push(char),
                char => {
                    for unit in char.encode_utf16(&mut [0; 2]) {
                        write!(self.0, "\\u{unit:04x}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_ascii_on_one_line_and_reads_as_what_it_was() {
        let text: String = ('\0'..='\u{3000}')
            .chain("\u{feff}\u{e0041}𝄞\u{10ffff}".chars())
            .collect();
        let mut out = String::new();
        write!(Escaped(&mut out), "{text}").unwrap();
        assert!(out.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{out}");
        let read: String = serde_json::from_str(&format!("\"{out}\"")).unwrap();
        assert_eq!(read, text);
    }
}
