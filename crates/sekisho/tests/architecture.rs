//! The invariants of ARCHITECTURE.md, read off the manifests and sources themselves.
#![expect(clippy::expect_used, reason = "a test may stop where the tree cannot be read")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Crates in the order of the layers: a crate imports only from layers above its own.
const LAYERS: &[&[&str]] = &[
    &["model"],
    &["policy", "intel", "shield"],
    &["store", "inspect", "net"],
    &["scan", "query"],
    &["checkpoint"],
    &["gate-dns", "gate-web", "gate-l4"],
    &["sekisho"],
];

const MINDS: &[&str] = &["model", "policy", "intel", "inspect"];

/// What a mind may not touch, as it would stand in source.
const HANDS_ONLY: &[&str] =
    &["tokio", "std::net::Tcp", "std::net::Udp", "Instant::now", "SystemTime::now", "std::thread", " rand::", "getrandom"];

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The names in the `[dependencies]` section of a crate's manifest.
fn dependencies(name: &str) -> Vec<String> {
    let manifest = fs::read_to_string(crates().join(name).join("Cargo.toml")).expect("manifest");
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap_or_default();
    section
        .lines()
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

fn sources(name: &str) -> Vec<(PathBuf, String)> {
    let mut folders = vec![crates().join(name).join("src")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("source folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push((path.clone(), fs::read_to_string(&path).expect("source file")));
            }
        }
    }
    found
}

#[test]
fn imports_point_downward_only() {
    let layer: BTreeMap<&str, usize> =
        LAYERS.iter().enumerate().flat_map(|(depth, names)| names.iter().map(move |name| (*name, depth))).collect();
    for (name, depth) in &layer {
        for dependency in dependencies(name) {
            if let Some(other) = layer.get(dependency.as_str()) {
                assert!(other < depth, "{name} imports {dependency}, which is not below it");
            }
        }
    }
}

#[test]
fn gates_import_model_net_and_checkpoint_and_nothing_else_of_ours() {
    let ours: Vec<&str> = LAYERS.concat();
    for gate in ["gate-dns", "gate-web", "gate-l4"] {
        for dependency in dependencies(gate) {
            let is_allowed = ["model", "net", "checkpoint"].contains(&dependency.as_str());
            assert!(is_allowed || !ours.contains(&dependency.as_str()), "{gate} imports {dependency}");
        }
    }
}

#[test]
fn minds_touch_no_clock_socket_thread_or_runtime() {
    for mind in MINDS {
        for (path, text) in sources(mind) {
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
                for word in HANDS_ONLY {
                    assert!(!line.contains(word), "{} uses {word}: {line}", path.display());
                }
            }
        }
    }
}

#[test]
fn every_crate_says_in_its_first_line_what_it_is() {
    for name in LAYERS.concat() {
        let root =
            ["lib.rs", "main.rs"].iter().find_map(|file| fs::read_to_string(crates().join(name).join("src").join(file)).ok());
        let first = root.as_deref().and_then(|text| text.lines().next()).unwrap_or_default();
        let is_said = ["mind", "hand", "gate", "meeting place", "binary"].iter().any(|kind| first.to_lowercase().contains(kind));
        assert!(first.starts_with("//!") && is_said, "{name}: {first:?}");
    }
}
