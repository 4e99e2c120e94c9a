//! Components built by other people's tools run unchanged.
//!
//! They are too large to commit and their tools too many to install for every change, so without `ISOPOD_THIRD_PARTY`
//! this says that it is skipped, and passes. The weekly CI (`.ci/weekly`) is where it means something: there
//! `guests/third-party/build.sh` builds the components into the folder that the variable names, and a folder that is
//! missing or empty fails.

use isopod::{CallOptions, Error, ErrorKind, Function, Host, Interpreter, KeyValue, Language, Limits, MIB, Trust, ms};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

const FOLDER: &str = "ISOPOD_THIRD_PARTY";

#[tokio::test]
async fn components_of_other_tools_run() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        println!("skipped: {FOLDER} names no folder; fill one with guests/third-party/build.sh");
        return;
    };
    let components = components(Path::new(&folder));
    assert!(!components.is_empty(), "{FOLDER} is set, but there is no component in {}", folder.display());
    let host = Host::new().unwrap();
    let mut failed = Vec::new();
    for path in components {
        let name = path.file_stem().unwrap().to_str().unwrap();
        // One that fails must not hide what the others do.
        let bytes = std::fs::read(&path).unwrap();
        let checked = match name.strip_prefix("script-") {
            Some(_) => check_interpreter(&host, name, bytes).await,
            None => check(&host, name, bytes).await,
        };
        match checked {
            Ok(()) => println!("{name}: ok"),
            Err(why) => {
                println!("{name}: FAILED: {why}");
                failed.push(name.to_owned());
            }
        }
    }
    assert!(failed.is_empty(), "these components do not run: {failed:?}; see the output above");
}

fn components(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{FOLDER} is set to {}: {e}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ext| ext == "wasm"));
    paths.sort();
    paths
}

async fn check(host: &Host, name: &str, bytes: Vec<u8>) -> Result<(), String> {
    println!("{name}: {} bytes", bytes.len());
    let load =
        |trust| host.function(name).component_bytes(bytes.clone()).trust(trust).limits(limits()).deny_at_call().load();
    match load(Trust::Untrusted).await {
        Ok(_) => println!("{name}: as a stranger's: loaded"),
        Err(error) => println!("{name}: as a stranger's: {error}"),
    }
    let start = Instant::now();
    let function = load(Trust::Own).await.map_err(|error| format!("{error:?}"))?;
    println!("{name}: as one's own: loaded in {:.1?}", start.elapsed());

    // Twice, as the second round's instances are made in memory that the first's had.
    for _ in 0..2 {
        call(&function, name, "hello", Ok("HELLO")).await?;
        call(&function, name, "", Err("nothing to do")).await?;
        if name.ends_with("-wasi") {
            call(&function, name, "print this", Ok("PRINT THIS")).await?;
        }
    }
    Ok(())
}

/// An interpreter of a language of one's own.
async fn check_interpreter(host: &Host, name: &str, bytes: Vec<u8>) -> Result<(), String> {
    println!("{name}: {} bytes", bytes.len());
    let language = Language::Of(Interpreter::new(bytes));
    let script = |source: &str| {
        let script = host.script(name, language.clone(), source).limits(limits().deadline(ms(20_000)).busy(ms(10_000)));
        script.grant(KeyValue::bucket("state"))
    };
    let said = |error: Error| format!("{error:?}");
    let source = "import re\n\ncalls = 0\n\ndef main(order, context):\n    global calls\n    calls += 1\n    print('for', context.tenant)\n    \
        if 'bad' in order:\n        raise KeyError(order['bad'])\n    kv.increment('n')\n    \
        return {'total': sum(order['prices']), 'calls': calls, 'word': re.sub('[aeiou]', '', 'python')}\n";
    let start = Instant::now();
    let rule = script(source).load().await.map_err(said)?.tenant("acme");
    println!("{name}: loaded in {:.1?}", start.elapsed());
    for n in 0..3 {
        let reply = rule.call::<Value>("default", (json!({"prices": [1, 2.5]}),)).await.map_err(said)?;
        println!("{name}: {}", reply.usage);
        ensure(reply.value == json!({"total": 3.5, "calls": 1, "word": "pythn"}), &reply.value)?;
        ensure(reply.output().log.first().is_some_and(|line| line.message == "for acme"), &reply.output().log)?;
        ensure(reply.denials().is_empty(), reply.denials())?;
        let count = script("main = lambda input, context: kv.get('n')").load().await.map_err(said)?.tenant("acme");
        ensure(count.call::<Value>("default", (0,)).await.map_err(said)?.value == json!(n + 1), n)?;
    }
    let error = rule.call::<Value>("default", (json!({"bad": "x"}),)).await.unwrap_err();
    ensure(error.kind() == ErrorKind::Thrown && error.exception().and_then(|e| e.line()) == Some(10), &error)?;
    ensure(
        error.exception().is_some_and(|e| e.name() == "KeyError" && e.excerpt().contains("raise KeyError")),
        &error,
    )?;

    for (source, kind) in
        [("def main(:", ErrorKind::InvalidScript), ("1 + 1", ErrorKind::InvalidScript), ("", ErrorKind::InvalidScript)]
    {
        let error = script(source).load().await.map(drop).unwrap_err();
        ensure(error.kind() == kind, &error)?;
    }
    for (body, kind) in [
        ("while True: pass", ErrorKind::TimedOut),
        ("return 'x' * (1 << 28)", ErrorKind::Thrown),
        ("return {1, 2}", ErrorKind::Thrown),
        ("import socket; return socket.create_connection(('127.0.0.1', 1)) and 1", ErrorKind::Thrown),
        ("return open('/etc/passwd').read()", ErrorKind::Thrown),
    ] {
        let rule = script(&format!("def main(input, context):\n    {body}\n")).load().await.map_err(said)?;
        let error = rule.call::<Value>("default", (0,)).await.unwrap_err();
        println!("{name}: {error}");
        ensure(error.kind() == kind || error.kind() == ErrorKind::OutOfMemory, (body, &error))?;
    }
    Ok(())
}

fn ensure(right: bool, what: impl std::fmt::Debug) -> Result<(), String> {
    if right { Ok(()) } else { Err(format!("{what:?}")) }
}

/// More memory than the default: some carry an interpreter and its heap. (It took 12.4 MiB at most, so the default
/// would do; a version that needs more is not a fault of isopod's.)
fn limits() -> Limits {
    Limits::default().memory(256 * MIB)
}

/// One call, and whether the answer is right, and what it printed, and that it reached WASI where it had to.
async fn call(function: &Function, name: &str, input: &str, expected: Result<&str, &str>) -> Result<(), String> {
    let reply = function.call::<Result<String, String>>("handle", (input,)).await;
    let reply = reply.map_err(|error| format!("{input:?}: {error:?}"))?;
    println!("{name}: {input:?}: {}", reply.usage);
    let stdout = String::from_utf8_lossy(&reply.output().stdout).into_owned();
    let prints = input.starts_with("print");
    // QuickJS has no console; it asks for the time instead.
    let printed = if prints && !name.starts_with("js-qjs") { format!("{input}\n") } else { String::new() };
    let right = reply.value.as_deref().map_err(String::as_str) == expected
        && stdout == printed
        && reply.denials().is_empty()
        && (!prints || reply.usage.host_calls > 0);
    if right {
        return Ok(());
    }
    Err(format!("{input:?}: {:?}, printed {stdout:?}, denied {:?}, {}", reply.value, reply.denials(), reply.usage))
}
