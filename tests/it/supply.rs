//! Where the dependencies come from, and why they are there. `.deny.toml` has the rest.
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Packages with a lock file of their own.
const LOCKED: [&str; 2] = [".", "bench"];
const OURS: &[&str] = &["codex-reset-proxy", "bench"];

#[test]
fn every_locked_package_comes_from_one_registry_with_a_checksum() {
    let mut registries = BTreeSet::new();
    for lock in LOCKED.map(|package| read(package, "Cargo.lock")) {
        for entry in lock.split("[[package]]").skip(1) {
            let value = |key: &str| {
                let mut lines = entry.lines();
                let found = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))?;
                Some(found.trim_matches('"').to_owned())
            };
            let name = value("name").unwrap();
            match (value("source"), value("checksum")) {
                (None, None) => assert!(OURS.contains(&&*name), "{name} is from a folder"),
                (Some(source), Some(checksum)) if checksum.len() == 64 => {
                    assert!(source.starts_with("registry+"), "{name} is from {source}");
                    registries.insert(source);
                }
                other => panic!("{name} is from {other:?}"),
            }
        }
    }
    assert_eq!(registries.len(), 1, "{registries:?}");
}

#[test]
fn every_dependency_of_the_proxy_says_why_it_is_there() {
    let (mut table, mut previous, mut seen) = (String::new(), String::new(), 0);
    for line in read(".", "Cargo.toml").lines() {
        if line.starts_with('[') {
            line.clone_into(&mut table);
        } else if table.ends_with("dependencies]") && line.contains('=') && !line.starts_with('#') {
            assert!(previous.starts_with('#'), "no reason above {line}");
            seen += 1;
        }
        line.clone_into(&mut previous);
    }
    assert!(seen > 20, "only {seen} dependencies were seen");
}

fn read(package: &str, file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(package)
        .join(file);
    fs::read_to_string(&path).unwrap()
}
