//! What rustc cannot check: layers, pure files, headers.

use std::path::{Path, PathBuf};

/// A row uses its own row and those above it in this list.
const LAYERS: &[&[&str]] = &[
    &[
        "error",
        "denial",
        "limits",
        "usage",
        "clock",
        "blocking",
        "resource",
        "log",
        "foreign",
        "text",
        "future",
        "sync",
        "exception",
    ],
    &["store", "bindings", "cache", "admission"],
    &["capability"],
    &["engine", "context"],
    &[
        "host", "function", "call", "refiller", "typed", "event", "command", "http", "unstable", "load", "worker",
        "script",
    ],
    &["testkit", "bin"],
];
/// Decisions apart from I/O.
const PURE: &[&str] = &[
    "engine/precheck/mod.rs",
    "engine/precheck/survey.rs",
    "engine/precheck/effort.rs",
    "engine/artefact.rs",
    "engine/budget.rs",
    "engine/overlap/desk.rs",
    "capability/http/egress.rs",
    "capability/http/inject.rs",
    "capability/policy.rs",
    "capability/secrets/scrub.rs",
    "engine/schema.rs",
    "admission/ledger.rs",
    "admission/seats.rs",
    "admission/turns.rs",
    "event/json.rs",
    "store/batch.rs",
    "testkit/fuzz/judge.rs",
    "testkit/fuzz/script.rs",
    "testkit/fuzz/value.rs",
    "testkit/judge.rs",
    "limits.rs",
    "error.rs",
    "text.rs",
];
/// The only places that may name wasmtime: below these, and nowhere in the public API.
const WASMTIME: &[&str] = &["engine/", "capability/", "bindings.rs", "typed.rs", "unstable.rs", "lib.rs"];

fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, files) } else { files.push(path) }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    files.retain(|path| path.extension().is_some_and(|ext| ext == "rs"));
    let name = |path: &PathBuf| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
    files.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

#[test]
fn modules_use_only_what_is_below_them() {
    for (name, text) in sources() {
        let own = name.split(['/', '.']).next().unwrap();
        if own == "lib" {
            continue;
        }
        let own_layer = layer(own).unwrap_or_else(|| panic!("{name} has no layer"));
        for (at, _) in text.match_indices("crate::") {
            let used: String = text[at + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if let Some(used_layer) = layer(&used) {
                assert!(used_layer <= own_layer, "{name} uses crate::{used}, which is above it");
            }
        }
    }
}

/// What tests isopod could live in another crate.
#[test]
fn the_testkit_uses_the_public_api() {
    let all = sources();
    let root = &all.iter().find(|(name, _)| name == "lib.rs").unwrap().1;
    let exports: Vec<&str> = root
        .lines()
        .filter(|line| line.starts_with("pub use") || line.starts_with("pub mod"))
        .flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'))
        .collect();
    for (name, text) in all.iter().filter(|(name, _)| name.starts_with("testkit/")) {
        for line in text.lines().filter_map(|line| line.trim_start().strip_prefix("use crate::")) {
            let first = |path: &str| path.split([':', ';', ' ']).next().unwrap().to_owned();
            let names: Vec<String> = match line.strip_prefix('{') {
                Some(list) => list.trim_end_matches("};").split(", ").map(first).collect(),
                None => vec![first(line)],
            };
            for used in names.iter().filter(|name| !name.is_empty()) {
                assert!(exports.contains(&used.as_str()), "{name} uses crate::{used}, which is not public");
            }
        }
    }
}

#[test]
fn files_have_headers_and_pure_ones_are_pure() {
    for (name, text) in sources() {
        assert!(text.starts_with("//!") || name == "lib.rs", "{name} does not begin with what it is for");
        if PURE.contains(&name.as_str()) {
            let code = text.split("#[cfg(test)]\n").next().unwrap();
            for word in
                ["tokio", "SystemTime::now", "Instant::now", "std::fs", "TcpStream", "UdpSocket", "ToSocketAddrs"]
            {
                assert!(!code.contains(word), "{name} is pure, yet it says {word}");
            }
        }
    }
}

#[test]
fn wasmtime_is_named_only_where_it_belongs() {
    for (name, text) in sources() {
        if WASMTIME.iter().any(|allowed| name.starts_with(allowed)) {
            continue;
        }
        let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        assert!(!code.contains("wasmtime::"), "{name} names wasmtime");
    }
}

/// Names that a file takes from wasmtime's crates, and those crates themselves.
fn names_of_wasmtime(text: &str) -> Vec<&str> {
    let imports = text.match_indices("use wasmtime").filter_map(|(at, _)| text[at..].split_once(';'));
    let words = imports.flat_map(|(import, _)| import.split(|c: char| !c.is_alphanumeric() && c != '_'));
    words.filter(|word| word.starts_with(char::is_uppercase)).chain(["wasmtime", "wasmtime_wasi"]).collect()
}

/// What the lint `unreachable_pub` leaves as `pub` is the public API: no signature and no field of it, and no impl for
/// it, may say a name of wasmtime's. What the macro expands to, and the back door, are the exceptions.
#[test]
fn the_public_api_does_not_show_wasmtime() {
    let api: Vec<String> = {
        let root = sources().into_iter().find(|(name, _)| name == "lib.rs").unwrap().1;
        let exports = root.lines().filter(|line| line.starts_with("pub use"));
        let words = exports.flat_map(|line| line.split(|c: char| !c.is_alphanumeric())).map(str::to_owned);
        words.filter(|word| word.starts_with(char::is_uppercase)).collect()
    };
    assert!(api.iter().any(|name| name == "Function"));
    for (name, text) in sources() {
        if ["typed.rs", "unstable.rs", "bindings.rs", "lib.rs"].contains(&name.as_str()) {
            continue;
        }
        let theirs = names_of_wasmtime(&text);
        let shows =
            |text: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| theirs.contains(&word));
        for (at, _) in text.match_indices("pub ") {
            let item = &text[at..];
            let signature = if item.starts_with("pub struct ") {
                // Its public fields, in lines of their own.
                let body = item.split("\n}").next().unwrap();
                body.lines().filter(|line| line.trim_start().starts_with("pub ")).collect::<String>()
            } else if ["fn", "async", "const", "trait", "type", "use"].iter().any(|kind| item[4..].starts_with(kind)) {
                item.split(['{', ';']).next().unwrap().to_owned()
            } else {
                continue;
            };
            assert!(!shows(&signature), "{name}: {signature}");
        }
        for line in text.lines().filter(|line| line.starts_with("impl")) {
            let (what, whom) = line.split_once(" for ").unwrap_or(("", line));
            let public = whom.split(|c: char| !c.is_alphanumeric()).any(|word| api.iter().any(|name| name == word));
            assert!(!(public && shows(what)), "{name}: {line}");
        }
    }
}

/// Each promise names the tests that fail when it does not hold.
#[test]
fn what_promises_are_held_by_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let mut found = 0;
    for line in text.lines().filter(|line| line.starts_with("| ") && !line.contains("held by")) {
        let held = line.rsplit("| ").next().unwrap();
        let names: Vec<_> = held.split('`').filter_map(|name| name.split_once("::")).collect();
        assert!(!names.is_empty(), "{line}");
        for (module, name) in names {
            let tests = std::fs::read_to_string(root.join("tests/it").join(format!("{module}.rs"))).unwrap();
            let test = tests.find(&format!("fn {name}()")).unwrap_or_else(|| panic!("there is no {module}::{name}"));
            let before = &tests[..test];
            let attribute = before.trim_end().trim_end_matches("async").trim_end().lines().last().unwrap();
            assert!(attribute.starts_with("#["), "{module}::{name} is no test: {attribute}");
            found += 1;
        }
    }
    assert!(found > 20, "{found}");
}
