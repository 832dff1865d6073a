//! Where a request-target leads, for each of the upstreams that may read it.

/// What upstreams do differently. Each of them is some combination of these.
const READINGS: u8 = 1 << 5;

/// Whether some upstream would take `path` followed by `target` for something above `path`.
pub fn leaves(path: &str, target: &[u8]) -> bool {
    (0..READINGS).any(|reading| {
        let [
            backslash,
            backslash_encoded,
            slash_encoded,
            fragment,
            parameters,
        ] = [1, 2, 4, 8, 16].map(|bit| reading & bit != 0);
        let mut text: String = target.iter().map(|byte| char::from(*byte)).collect();
        text.truncate(text.find('?').unwrap_or(text.len()));
        if fragment {
            text.truncate(text.find('#').unwrap_or(text.len()));
        }
        text = text.replace("%2e", ".").replace("%2E", ".");
        if slash_encoded {
            text = text.replace("%2f", "/").replace("%2F", "/");
        }
        if backslash {
            text = text.replace('\\', "/");
        }
        if backslash && backslash_encoded {
            text = text.replace("%5c", "/").replace("%5C", "/");
        }
        let mut stack: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        let floor = stack.len();
        text.split('/').any(|segment| {
            let name = match parameters {
                true => segment.split(';').next().unwrap_or_default(),
                false => segment,
            };
            match name {
                "" | "." => (),
                ".." => drop(stack.pop()),
                name => stack.push(name),
            }
            stack.len() < floor
        })
    })
}

/// Whether there is a segment that leads up, however it is written.
pub fn has_dot_segments(target: &[u8]) -> bool {
    let text = String::from_utf8_lossy(target).to_ascii_lowercase();
    text.replace("%2e", ".").contains("..")
}

/// What follows the authority of an absolute-form; any other target as it is.
pub fn origin_form(target: &[u8]) -> Option<&[u8]> {
    let lower = target.to_ascii_lowercase();
    for scheme in ["http://", "https://"] {
        if lower.starts_with(scheme.as_bytes()) {
            let rest = &target[scheme.len()..];
            let end = rest.iter().position(|byte| b"/?".contains(byte));
            return match end {
                None if rest.is_empty() => None,
                None => Some(b"/"),
                Some(0) => None,
                Some(at) => (rest[at] == b'/').then_some(&rest[at..]),
            };
        }
    }
    (target == b"*" || target.starts_with(b"/")).then_some(target)
}
