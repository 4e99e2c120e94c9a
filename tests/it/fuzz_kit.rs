//! The fuzz kit: finds a bug of each kind in host functions, and finds nothing where there is none.

use isopod::testkit::fuzz::{Fault, Finding, Fuzz, Report};
use isopod::{Context, ErrorKind, Function, FunctionBuilder, Host, Limits, Resource, Resources, Result, ms};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

mod plugin {
    isopod::world!({ world: "plugin", path: "tests/it/fuzz_kit.wit" });
}

use plugin::test::fuzz::notes::{self, Note};
use plugin::test::fuzz::rows::{self, Cursor, Snapshot};
use plugin::test::fuzz::shapes::{self, Color, Point, Rights, Shape};
use plugin::test::fuzz::texts;

const WIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/fuzz_kit.wit");

/// What is wrong with the host functions.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bug {
    None,
    /// A text is cut at any byte.
    Cuts,
    /// A note is found by its key alone, whoever's it is.
    Shares,
    /// An error says what others' notes are.
    Tells,
    /// A cursor that was joined is not given back.
    Keeps,
    /// What was put is kept twice: once for ever.
    Hoards,
    /// As much is taken as a guest says.
    Takes,
    /// A thread is held for longer than any call may take.
    Holds,
    /// A thread is held for ever.
    Hangs,
    /// `mixed` panics, whatever it is given.
    Panics,
}

/// What calls share.
#[derive(Clone, Default)]
struct Shared {
    notes: Arc<Mutex<BTreeMap<(String, String), Note>>>,
    hoard: Arc<Mutex<Vec<Vec<u8>>>>,
    open: Arc<AtomicU64>,
    /// How often each function was called.
    calls: Arc<Mutex<BTreeMap<&'static str, u64>>>,
    /// The last call of `mixed`, as the kit would tell it.
    mixed: Arc<Mutex<String>>,
}

/// The embedder's side of the world `plugin`, for one call.
struct Imports {
    bug: Bug,
    tenant: String,
    shared: Shared,
    cursors: Resources<Open>,
    snapshots: Resources<String>,
}

/// A cursor. Its counter has one more as long as it lives.
struct Open {
    left: u32,
    counter: Arc<AtomicU64>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Imports {
    fn new(bug: Bug, shared: &Shared) -> impl Fn(Context) -> Imports + Send + Sync + 'static {
        let shared = shared.clone();
        move |context| Imports {
            bug,
            tenant: context.tenant().unwrap_or_default().to_owned(),
            shared: shared.clone(),
            cursors: Resources::default(),
            snapshots: Resources::default(),
        }
    }

    fn called(&self, name: &'static str) {
        *self.shared.calls.lock().entry(name).or_default() += 1;
    }

    fn owner(&self) -> String {
        if self.bug == Bug::Shares { String::new() } else { self.tenant.clone() }
    }

    fn open(&mut self, left: u32) -> Resource<Cursor> {
        self.shared.open.fetch_add(1, Ordering::Relaxed);
        self.cursors.insert(Open { left, counter: Arc::clone(&self.shared.open) })
    }
}

impl plugin::PluginImports for Imports {
    async fn pause(&mut self, milliseconds: u32) {
        self.called("pause");
        if milliseconds > 1_000 {
            match self.bug {
                Bug::Holds => std::thread::sleep(ms(1_000)),
                Bug::Hangs => loop {
                    std::thread::park();
                },
                _ => {}
            }
        }
        tokio::task::yield_now().await;
    }
}

impl texts::Host for Imports {
    async fn cut(&mut self, text: String, at: u32) -> String {
        self.called("cut");
        let at = at as usize;
        if self.bug == Bug::Cuts {
            return text[..at.min(text.len())].to_owned();
        }
        text.get(..at).unwrap_or(&text).to_owned()
    }

    async fn repeat(&mut self, text: String, times: u32) -> Result<String, String> {
        self.called("repeat");
        let bytes = text.len().saturating_mul(times as usize);
        if self.bug == Bug::Takes {
            let taken = vec![1u8; bytes.min(160 << 20)];
            std::hint::black_box(&taken);
        }
        if bytes > 10_000 { Err(format!("{bytes} bytes are too many")) } else { Ok(text.repeat(times as usize)) }
    }
}

impl notes::Host for Imports {
    async fn get(&mut self, key: String) -> Option<Note> {
        self.called("get");
        let notes = self.shared.notes.lock();
        let found = notes.get(&(self.owner(), key)).cloned();
        if self.bug == Bug::Tells && found.is_none() {
            let text = notes.values().map(|note| String::from_utf8_lossy(&note.value)).collect::<String>();
            drop(notes);
            panic!("there are only {text}");
        }
        found
    }

    async fn put(&mut self, note: Note) {
        self.called("put");
        if self.bug == Bug::Hoards {
            self.shared.hoard.lock().push(vec![1; 2_000]);
        }
        let mut notes = self.shared.notes.lock();
        if notes.len() < 50 && note.value.len() < 1_000 {
            notes.insert((self.owner(), note.key.clone()), note);
        }
    }

    async fn all(&mut self) -> Vec<Note> {
        self.called("all");
        let (notes, owner) = (self.shared.notes.lock(), self.owner());
        notes.iter().filter(|((of, _), _)| *of == owner).map(|(_, note)| note.clone()).collect()
    }
}

impl rows::Host for Imports {
    async fn open_all(&mut self, prefixes: Vec<String>) -> Vec<Resource<Cursor>> {
        self.called("open-all");
        prefixes.iter().map(|prefix| self.open(prefix.len() as u32)).collect()
    }

    async fn freeze(&mut self) -> Option<Resource<Snapshot>> {
        self.called("freeze");
        Some(self.snapshots.insert(self.tenant.clone()))
    }

    async fn restore(&mut self, from: Option<Resource<Snapshot>>) {
        self.called("restore");
        let found = from.map(|from| self.snapshots.remove(&from));
        assert_ne!(found, Some(None), "a handle leads to what is there");
    }
}

impl rows::HostCursor for Imports {
    async fn new(&mut self, prefix: String) -> Resource<Cursor> {
        self.called("new cursor");
        self.open(prefix.len() as u32)
    }

    async fn next(&mut self, cursor: Resource<Cursor>) -> Option<String> {
        self.called("next");
        let cursor = self.cursors.get_mut(&cursor).expect("a handle leads to what is there");
        cursor.left = cursor.left.checked_sub(1)?;
        Some(format!("{} more", cursor.left))
    }

    async fn split(&mut self, cursor: Resource<Cursor>) -> Result<(Resource<Cursor>, Resource<Cursor>), String> {
        self.called("split");
        match self.cursors.get(&cursor).expect("a handle leads to what is there").left {
            0 => Err("nothing is left".into()),
            left => Ok((self.open(left / 2), self.open(left - left / 2))),
        }
    }

    async fn join(&mut self, a: Resource<Cursor>, b: Resource<Cursor>) -> Resource<Cursor> {
        self.called("join");
        let a = self.cursors.remove(&a).expect("a handle leads to what is there");
        let left = a.left + self.cursors.get(&b).expect("a handle leads to what is there").left;
        if self.bug == Bug::Keeps {
            std::mem::forget(a);
        }
        self.open(left)
    }

    async fn drop(&mut self, cursor: Resource<Cursor>) {
        self.called("drop cursor");
        self.cursors.remove(&cursor).expect("a handle leads to what is there");
    }
}

impl rows::HostSnapshot for Imports {
    async fn open(&mut self, snapshot: Resource<Snapshot>, prefix: String) -> Resource<Cursor> {
        self.called("open");
        self.snapshots.get(&snapshot).expect("a handle leads to what is there");
        self.open(prefix.len() as u32)
    }

    async fn drop(&mut self, snapshot: Resource<Snapshot>) {
        self.called("drop snapshot");
        self.snapshots.remove(&snapshot).expect("a handle leads to what is there");
    }
}

impl shapes::Host for Imports {
    async fn mixed(
        &mut self,
        byte: i8,
        short: u16,
        long: i64,
        single: f32,
        letter: char,
        yes: bool,
        color: Color,
        rights: Rights,
        shape: Shape,
        maybe: Option<Option<u32>>,
        outcome: Result<String, Color>,
        names: Vec<String>,
        place: Point,
    ) -> (Color, Rights, Shape) {
        self.called("mixed");
        let option = |is: Option<String>| is.map_or("none".into(), |some| format!("some({some})"));
        let name = |color| match color {
            Color::Red => "red",
            Color::Green => "green",
            Color::DeepBlue => "deep-blue",
        };
        let point = |point: &Point| format!("{{ x: {}, y: {:?} }}", point.x, point.y);
        let list = |all: Vec<String>| format!("[{}]", all.join(", "));
        let told = match &shape {
            Shape::Empty => "empty".into(),
            Shape::Circle(radius) => format!("circle({radius:?})"),
            Shape::Path(points) => format!("path({})", list(points.iter().map(point).collect())),
            Shape::Named((name, id)) => format!("named(({name:?}, {id}))"),
        };
        let outcome = match outcome {
            Ok(text) => format!("ok({text:?})"),
            Err(color) => format!("error({})", name(color)),
        };
        let mut text = format!("mixed({byte}, {short}, {long}, {single:?}, {letter:?}, {yes}, {}, ", name(color));
        let maybe = option(maybe.map(|maybe| option(maybe.map(|n| n.to_string()))));
        let names = list(names.iter().map(|name| format!("{name:?}")).collect());
        let bits = [Rights::READ, Rights::WRITE, Rights::RUN];
        let bits = (0..).zip(bits).filter(|(_, one)| rights.contains(*one)).map(|(bit, _)| 1 << bit).sum::<u8>();
        write!(text, "flags {bits:#b}, {told}, {maybe}, {outcome}, {names}, {})", point(&place)).unwrap();
        *self.shared.mixed.lock() = text;
        assert_ne!(self.bug, Bug::Panics);
        (color, rights, shape)
    }

    async fn few(&mut self, shape: Shape, outcome: Result<(), u8>) -> Result<Color, u64> {
        self.called("few");
        match (shape, outcome) {
            (Shape::Empty, Ok(())) => Ok(Color::DeepBlue),
            (_, outcome) => Err(outcome.map_or_else(u64::from, |()| 0)),
        }
    }
}

fn limits() -> Limits {
    Limits::default().deadline(ms(400)).busy(ms(300)).host_calls(20_000)
}

fn kit(shared: &Shared) -> Fuzz {
    let open = Arc::clone(&shared.open);
    Fuzz::path(WIT, "plugin").unwrap().count("cursors", move || open.load(Ordering::Relaxed))
}

fn builder(fuzz: &Fuzz) -> FunctionBuilder {
    Host::new().unwrap().function("plugin").component_bytes(fuzz.guest()).limits(limits())
}

async fn load(fuzz: &Fuzz, bug: Bug, shared: &Shared) -> Function {
    let builder = builder(fuzz).imports_with(Imports::new(bug, shared));
    builder.load_typed::<plugin::Plugin>().await.unwrap().as_ref().clone()
}

#[tokio::test]
async fn host_functions_without_a_bug_pass() {
    let shared = Shared::default();
    let fuzz = kit(&shared);
    let function = load(&fuzz, Bug::None, &shared).await;
    let report = fuzz.run(&function, 1, 1_000).await.unwrap();
    println!("{report}");
    assert!(report.held(), "{report}");
    assert!(report.scripts > 3_000, "{report}");
    // It means something: every function is reached often, and most scripts come to their end.
    let calls = shared.calls.lock().clone();
    assert_eq!(calls.len(), 18, "{calls:?}");
    assert!(calls.values().all(|many| *many > 500), "{calls:?}");
    let ended = |kind| report.ends.get(kind).copied().unwrap_or(0);
    assert!(ended("answered") * 2 > report.scripts, "{report}");
    for kind in ["GuestAbi", "Trapped", "LimitExceeded(HostCalls)", "LimitExceeded(Handles)"] {
        assert!(ended(kind) > 0, "no script ended as {kind}: {report}");
    }
}

/// What is found with that bug, and that it is nothing else. The same seed finds the same.
async fn found(bug: Bug, fault: Fault) -> Report {
    let shared = Shared::default();
    let fuzz = kit(&shared);
    let function = load(&fuzz, bug, &shared).await;
    let report = fuzz.run(&function, 1, 500).await.unwrap();
    println!("{bug:?}: {report}");
    assert!(report.has(fault), "{bug:?}: {report}");
    assert!(report.findings.iter().all(|finding| finding.fault == fault), "{bug:?}: {report}");
    for Finding { input, repeats, .. } in &report.findings {
        if *repeats && fault != Fault::Hang {
            let again = fuzz.once(&function, input).await.unwrap();
            assert!(again.has(fault), "{bug:?}: {again}");
        }
    }
    report
}

fn calls(report: &Report) -> String {
    report.findings[0].calls.join("\n")
}

#[tokio::test]
async fn a_panic_is_found_and_made_short() {
    let report = found(Bug::Cuts, Fault::Panic).await;
    let finding = &report.findings[0];
    assert!(finding.repeats && finding.input.len() < 30, "{report}");
    assert!(calls(&report).contains("test:fuzz/texts@1.2.0#cut(\""), "{report}");
    assert!(finding.text.contains("char boundary"), "{report}");
}

#[tokio::test]
async fn what_another_tenant_gave_is_found_in_results_and_errors() {
    let report = found(Bug::Shares, Fault::Tenant).await;
    assert!(report.findings[0].text.contains("test:fuzz/notes@1.2.0#all gave"), "{report}");
    // What the one gave the host, and the other asked for.
    assert!(report.findings[0].repeats && calls(&report).contains("#put("), "{report}");

    let shared = Shared::default();
    let fuzz = kit(&shared);
    let function = load(&fuzz, Bug::Tells, &shared).await;
    let report = fuzz.run(&function, 1, 500).await.unwrap();
    assert!(report.has(Fault::Tenant) && report.has(Fault::Panic), "{report}");
}

#[tokio::test]
async fn what_a_call_does_not_give_back_is_found() {
    let report = found(Bug::Keeps, Fault::Kept).await;
    assert!(calls(&report).contains("rows@1.2.0#cursor.join(handle"), "{report}");
}

#[tokio::test]
async fn a_thread_that_is_held_is_found() {
    let report = found(Bug::Holds, Fault::Late).await;
    assert!(calls(&report).contains("pause("), "{report}");
    let report = found(Bug::Hangs, Fault::Hang).await;
    assert!(calls(&report).contains("pause("), "{report}");
}

/// The memory of the process, to itself.
#[test]
fn memory_that_grows_is_found() {
    if !crate::support::alone("fuzz_kit::memory_that_grows_is_found", "") {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let report = runtime.block_on(found(Bug::Takes, Fault::Memory));
    assert!(calls(&report).contains("repeat("), "{report}");
    let report = runtime.block_on(found(Bug::Hoards, Fault::Kept));
    assert!(report.findings[0].input.is_empty(), "{report}");
}

/// Host functions of another type than their import are to blame, not the guest.
#[tokio::test]
async fn a_host_function_that_does_not_fit_is_found() {
    let fuzz = Fuzz::path(WIT, "small").unwrap();
    let builder = builder(&fuzz).import("test:fuzz/texts", "cut", async |_, (text, at): (String, u32)| (text, at));
    let function = builder.import("test:fuzz/texts", "repeat", async |_, (text, _): (String, u32)| Ok::<_, ()>(text));
    let report = fuzz.run(&function.load().await.unwrap(), 1, 200).await.unwrap();
    assert!(report.has(Fault::Blame), "{report}");
    assert!(report.findings.iter().any(|finding| finding.text.starts_with("Misuse")), "{report}");
}

/// The words and the layout in memory are made apart; the host sees the latter.
#[tokio::test]
async fn the_host_is_given_what_the_words_say() {
    let shared = Shared::default();
    let fuzz = kit(&shared);
    let function = load(&fuzz, Bug::Panics, &shared).await;
    let mut compared = 0;
    for seed in 0..2_000u32 {
        // The first script is tame, and begins with the import that the fourth byte says.
        let mut input = vec![0, 0, 31, (seed % 32) as u8];
        input.extend(
            (0..400).map(|n: u32| (seed + 7).wrapping_mul(2 * n + 1).wrapping_mul(0x9e37_79b1).to_be_bytes()[0]),
        );
        shared.mixed.lock().clear();
        let report = fuzz.once(&function, &input).await.unwrap();
        let told = shared.mixed.lock().clone();
        let tame = |finding: &&Finding| finding.calls.iter().filter(|line| line.starts_with("for ")).count() == 1;
        let Some(finding) = report.findings.first().filter(tame) else { continue };
        let lines: Vec<&str> =
            finding.calls.iter().filter_map(|line| line.find("mixed(").map(|at| &line[at..])).collect();
        // Long texts and lists are not told in full.
        if !lines.iter().any(|line| line.contains("..") || line.contains("\" * ")) {
            assert!(lines.iter().any(|line| line.starts_with(&told)), "{told}: {report}");
            compared += 1;
        }
    }
    assert!(compared > 20, "{compared}");
}

#[tokio::test]
async fn async_imports_are_called() {
    let fuzz = Fuzz::path(WIT, "waits").unwrap();
    let builder = builder(&fuzz).import("", "slow", async |_, (key,): (String,)| {
        tokio::task::yield_now().await;
        key
    });
    let report = fuzz.run(&builder.load().await.unwrap(), 1, 200).await.unwrap();
    assert!(report.held(), "{report}");
    assert!(report.host_calls > 1_000, "{report}");
}

#[test]
fn what_cannot_be_attacked_is_said() {
    let refused = |fuzz: Result<Fuzz>| {
        let error = fuzz.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse);
        crate::support::text(&error)
    };
    let text = refused(Fuzz::path(WIT, "streams"));
    assert!(text.contains("body (a stream), wait (a future)"), "{text}");
    assert!(refused(Fuzz::path(WIT, "no-such-world")).contains("there is no world no-such-world"));
    assert!(refused(Fuzz::path("/no/such/file.wit", "plugin")).contains("/no/such/file.wit"));
    assert!(refused(Fuzz::inline("package a:b; world w { import f: func(", "w")).contains("cannot be read"));
    let wasi = "package a:b; world w { import wasi:x/y; } package wasi:x { interface y { f: func(); } }";
    assert!(refused(Fuzz::inline(wasi, "w")).contains("nothing to attack"));
}

#[tokio::test]
async fn another_component_is_told_from_the_guest() {
    let fuzz = Fuzz::path(WIT, "small").unwrap();
    let other = Host::new().unwrap().function("other").component_wat("(component)").load().await.unwrap();
    assert_eq!(fuzz.run(&other, 1, 1).await.unwrap_err().kind(), ErrorKind::WrongExport);
    assert_eq!(fuzz.once(&other, b"").await.unwrap_err().kind(), ErrorKind::WrongExport);
}

/// The example checks what it claims.
#[tokio::test]
async fn the_example_finds_its_mistakes() {
    crate::fuzz_imports::run(300, 1).await.unwrap();
}
