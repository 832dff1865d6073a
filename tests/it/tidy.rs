//! The layout, checked: who may import whom, and how long a file or function may be.
use std::fs;
use std::path::{Path, PathBuf};

/// Top to bottom. A module imports only modules in rows below its own, never a neighbour.
const LAYERS: &[&[&str]] = &[
    &["main", "cli", "build"],
    &["worker"],
    &["exchange", "admin"],
    &["relay"],
    &["downstream", "upstream"],
    &["refusal"],
    &["net"],
    &["telemetry"],
    &["http1", "config"],
];
const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
/// Names that say nothing about what is in them.
const NAMES_BANNED: &[&str] = &[
    "util", "utils", "common", "types", "error", "errors", "helpers", "misc",
];
/// The only file with code that the compiler cannot vouch for.
const UNSAFE: &str = "src/net/socket.rs";
/// Crates that only the machine room may name.
const MACHINE: &[&str] = &["monoio", "rustls", "io_uring"];

#[test]
fn imports_point_down() {
    let mut errors = Vec::new();
    for Source { module, path, text } in sources("src") {
        let Some(own) = layer(&module) else {
            errors.push(format!("{}: `{module}` is in no layer", path.display()));
            continue;
        };
        for (number, target) in imports(&text) {
            // `main` and `cli` are one crate of their own, which names the library; `build` is another.
            let neighbours = target == module || own == 0 && layer(&target) == Some(0);
            if !neighbours && layer(&target).is_none_or(|other| other <= own) {
                errors.push(format!(
                    "{}:{number}: {module} imports {target}",
                    path.display()
                ));
            }
        }
    }
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}

#[test]
fn only_the_machine_room_names_the_machine() {
    let mut errors = Vec::new();
    for Source { module, path, text } in sources("src") {
        if matches!(module.as_str(), "net" | "worker") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap();
            let words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
            for word in words.filter(|word| MACHINE.contains(word)) {
                errors.push(format!("{}:{}: names {word}", path.display(), number + 1));
            }
        }
    }
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}

#[test]
fn unsafe_code_is_in_one_module() {
    let mut found = Vec::new();
    for Source { path, text, .. } in sources("src") {
        let mut code = text.lines().map(|line| line.split("//").next().unwrap());
        if code.any(|line| line.contains("unsafe")) {
            found.push(path);
        }
    }
    assert_eq!(found, [Path::new(UNSAFE)]);
}

#[test]
fn files_and_functions_fit() {
    let mut errors = Vec::new();
    for Source { path, text, .. } in sources("src").into_iter().chain(sources("tests")) {
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            errors.push(format!("{}: {lines} lines", path.display()));
        }
        for (start, length) in functions(&text) {
            if length > FUNCTION_LINES_MAX {
                errors.push(format!(
                    "{}:{start}: function of {length} lines",
                    path.display()
                ));
            }
        }
    }
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}

#[test]
fn a_module_is_named_for_what_it_is() {
    let mut errors = Vec::new();
    for Source { path, .. } in sources("src") {
        for part in path.with_extension("").iter() {
            if NAMES_BANNED.contains(&part.to_str().unwrap()) {
                errors.push(path.display().to_string());
            }
        }
    }
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}

#[test]
fn a_file_begins_with_what_it_is_for() {
    for Source { path, text, .. } in sources("src").into_iter().chain(sources("tests")) {
        let first = text.lines().next().unwrap_or_default();
        assert!(first.starts_with("//! "), "{}: {first:?}", path.display());
    }
}

#[test]
fn the_checks_see_what_they_check() {
    let text = "use crate::relay::Body;\nuse crate::{net, http1::head};\n// crate::main\nfn f() { crate::worker::run() }\n";
    let seen: Vec<_> = imports(text).into_iter().map(|(_, name)| name).collect();
    assert_eq!(seen, ["relay", "net", "http1", "worker"]);
    let text = "    fn a() {\n        b();\n    }\n\npub async fn c(\n    d: u8,\n) {\n}\n";
    assert_eq!(functions(text), [(1, 3), (5, 4)]);
    assert!(sources("src").len() > 20);
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|names| names.contains(&module))
}

/// A file, and the top-level module it belongs to.
struct Source {
    module: String,
    path: PathBuf,
    text: String,
}

/// Every file under `folder` save the library's root, which names all modules.
fn sources(folder: &str) -> Vec<Source> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package.join(folder);
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let relative = path.strip_prefix(&root).unwrap();
            let first = relative.iter().next().unwrap().to_str().unwrap();
            let module = first.trim_end_matches(".rs").to_owned();
            if module != "lib" && path.extension().is_some_and(|end| end == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(package).unwrap().to_owned();
                found.push(Source { module, path, text });
            }
        }
    }
    found
}

/// (line, top-level module) of every path that starts at the crate's root, grouped imports included.
fn imports(text: &str) -> Vec<(usize, String)> {
    let without_comments: Vec<&str> = text
        .lines()
        .map(|line| line.split("//").next().unwrap())
        .collect();
    let code = without_comments.join("\n");
    let mut found = Vec::new();
    for start in ["crate::", "codex_reset_proxy::"] {
        for (at, _) in code.match_indices(start) {
            let line = code[..at].matches('\n').count() + 1;
            let rest = &code[at + start.len()..];
            match rest.strip_prefix('{') {
                None => found.push((line, first_name(rest))),
                Some(group) => {
                    found.extend(grouped(group).into_iter().map(|name| (line, name)));
                }
            }
        }
    }
    found.retain(|(_, name)| !name.is_empty());
    found
}

/// The first names of `a::b, c::{d, e}, f}`.
fn grouped(group: &str) -> Vec<String> {
    let (mut depth, mut names, mut start) = (0, Vec::new(), 0);
    for (at, byte) in group.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 0 => {
                names.push(first_name(group[start..at].trim()));
                break;
            }
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                names.push(first_name(group[start..at].trim()));
                start = at + 1;
            }
            _ => (),
        }
    }
    names
}

fn first_name(path: &str) -> String {
    let end = path.find(|c: char| !c.is_alphanumeric() && c != '_');
    path[..end.unwrap_or(path.len())].to_owned()
}

/// (first line, length) of every `fn`, found by rustfmt's indentation.
fn functions(text: &str) -> Vec<(usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let mut words = line.split_whitespace().take(5);
        if !words.any(|word| word == "fn") || line.trim_start().starts_with("//") {
            continue;
        }
        let close = format!("{}}}", " ".repeat(indent));
        if let Some(length) = lines[start..].iter().position(|line| *line == close) {
            found.push((start + 1, length + 1));
        }
    }
    found
}
