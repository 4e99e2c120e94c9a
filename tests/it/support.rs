//! What several modules need: a host, small guests as text, the built guests.

use isopod::{Error, ErrorKind, Function, FunctionBuilder, Host, Limits, Meter, Receipt, Result};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub(crate) fn host() -> Host {
    Host::new().unwrap()
}

/// The path of a built guest.
pub(crate) fn built(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "guests", "built", &format!("{name}.wasm")].iter().collect()
}

/// A component around one core module that exports `memory`, `realloc` and `run: func()`, from the module's body.
pub(crate) fn runner(body: &str) -> String {
    format!(
        r#"(component
            (core module $m {body})
            (core instance $i (instantiate $m))
            (func (export "run") (canon lift (core func $i "run"))))"#
    )
}

/// Calls a host function and does nothing else.
pub(crate) const WAITS: &str = r#"(component
    (import "wait" (func $wait))
    (core func $wait' (canon lower (func $wait)))
    (core module $m (import "" "wait" (func $w)) (func (export "run") (call $w)))
    (core instance $i (instantiate $m (with "" (instance (export "wait" (func $wait'))))))
    (func (export "run") (canon lift (core func $i "run"))))"#;

pub(crate) async fn load(builder: FunctionBuilder, limits: Limits) -> Function {
    builder.limits(limits).load().await.unwrap()
}

/// Loads a runner and calls it.
pub(crate) async fn run(body: &str, limits: Limits) -> Result<isopod::Reply<()>> {
    let function = load(host().function("guest").component_wat(runner(body)), limits).await;
    function.call("run", ()).await
}

/// The text of an error with its whole chain.
pub(crate) fn text(error: &Error) -> String {
    format!("{error:?}")
}

/// Whom a call was for, and how it ended.
type Entry = (String, Option<ErrorKind>);

/// A meter that writes both down.
#[derive(Clone, Default)]
pub(crate) struct Book(Arc<Mutex<Vec<Entry>>>);

impl Meter for Book {
    fn record(&self, receipt: &Receipt<'_>) {
        self.0.lock().unwrap().push((receipt.tenant.to_owned(), receipt.error));
    }
}

impl Book {
    /// What was written down since the last time.
    pub(crate) fn take(&self) -> Vec<Entry> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// Runs a test in a process of its own, for what other tests of this one would disturb, or would be disturbed by.
/// `test` is its path, `shell` what to say to a shell before. Gives true where the test is to do its work.
pub(crate) fn alone(test: &str, shell: &str) -> bool {
    said_alone(test, shell).is_none()
}

/// As [`alone`]; where the work was done elsewhere, all that was said there.
pub(crate) fn said_alone(test: &str, shell: &str) -> Option<String> {
    const CHILD: &str = "ISOPOD_TEST_ALONE";
    if std::env::var_os(CHILD).is_some_and(|name| name == test) {
        return None;
    }
    let script = format!("{shell}\nexec \"$0\" --exact {test} --nocapture");
    let ended = std::process::Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, test)
        .output()
        .unwrap();
    let text = [&ended.stdout, &ended.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat();
    assert!(ended.status.success() && text.contains("1 passed"), "{}: {text}", ended.status);
    Some(text)
}

/// Waits until it is so, as it will be soon by what other threads do.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(20), "waited in vain until {what}");
        std::thread::yield_now();
    }
}

/// Resident memory of this process, in KiB.
pub(crate) fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A `tracing` subscriber that keeps the text of every event.
#[derive(Clone, Default)]
pub(crate) struct Journal(Arc<Mutex<String>>);

impl Journal {
    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }
}

impl tracing::Subscriber for Journal {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Fields<'a>(&'a mut String);
        impl tracing::field::Visit for Fields<'_> {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0.push_str(&format!("{field}={value:?} "));
            }
        }
        let mut text = self.0.lock().unwrap();
        event.record(&mut Fields(&mut text));
        text.push('\n');
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}
