//! Does isopod's interpreter of scripts run the language as QuickJS-ng does, which it is made of?
//!
//! Runs test262, the tests of ECMAScript, in the guest and in the same version of QuickJS-ng built natively, and compares. A
//! test that has no flag runs twice, as sloppy and as strict code. The guest runs strict code as what a customer writes, a
//! module that is compiled in one instance and runs in another, and sloppy code as a text that such a module is given and
//! `eval` runs. QuickJS-ng runs both as global scripts, which isopod does not have. So where the two differ, QuickJS-ng runs
//! the test in the guest's way too: if it ends as in the guest then, the test tells those ways apart, as by what `var` makes
//! of the global object or by `await` as a name, and is skipped.
//!
//! ```text
//! test262 FOLDER [PART]     # FOLDER as `get.sh` makes it; PART is in the paths of the tests that are run
//! ```
//!
//! With a PART, what fails in both engines and what tells the ways apart is shown too. A difference that is not among those
//! explained below fails the run.

mod case;
mod engines;

use anyhow::{Context, Result, ensure};
use case::{Case, Mode};
use engines::{Failure, Guest, Job, native};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// The folders of the language and of its library.
const FOLDERS: [&str; 3] = ["annexB", "built-ins", "language"];

/// Differences with a known cause: how the path of a test begins, and the cause.
const EXPLAINED: &[(&str, &str)] = &[
    ("built-ins/Function/prototype/toString/", "a script is compiled without its source, so functions do not show it"),
    (
        "language/expressions/tagged-template/template-object.js",
        "the `length` of a template object can be written once code was stored and read, as QuickJS-ng's own compiler has it",
    ),
];

/// Why a run is skipped that ends otherwise in a global script.
const APART: &str = "tells a script from `eval` or from a module";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (folder, part) = match args.as_slice() {
        [folder] => (Path::new(folder), ""),
        [folder, part] => (Path::new(folder), part.as_str()),
        _ => anyhow::bail!("usage: test262 FOLDER [PART]"),
    };
    same_version()?;
    let began = Instant::now();
    let report = run(folder, part)?;
    print(&report, !part.is_empty());
    println!("in {:.0} s", began.elapsed().as_secs_f64());
    ensure!(report.counts.values().map(|count| count.run).sum::<usize>() > 0, "nothing was run");
    ensure!(report.unexplained == 0, "{} differences are not explained", report.unexplained);
    Ok(())
}

/// The guest is built of the QuickJS-ng that it is compared with.
fn same_version() -> Result<()> {
    let (lock, manifest) = (include_str!("../Cargo.lock"), include_str!("../../../src/script/MANIFEST.json"));
    let (_, rest) = lock.split_once("name = \"rquickjs-sys\"\nversion = \"").context("rquickjs-sys in Cargo.lock")?;
    let version = rest.split('"').next().context("its version")?;
    let of_guest = format!("rquickjs-sys {version}\"");
    ensure!(manifest.contains(&of_guest), "the guest is not built of rquickjs-sys {version}; see Cargo.toml");
    Ok(())
}

#[derive(Default)]
struct Report {
    /// By folder.
    counts: BTreeMap<&'static str, Count>,
    /// Tests that were not run, by the reason.
    skipped: BTreeMap<&'static str, usize>,
    differences: Vec<String>,
    /// What fails in both, and what was skipped when it was known how it ends.
    others: Vec<String>,
    unexplained: usize,
}

/// Runs: a test in one mode.
#[derive(Clone, Copy, Default)]
struct Count {
    run: usize,
    guest: usize,
    native: usize,
}

fn run(folder: &Path, part: &str) -> Result<Report> {
    let (root, harness) = (folder.join("test"), harness(&folder.join("harness"))?);
    let mut paths = Vec::new();
    for name in FOLDERS {
        find(&root.join(name), &mut paths)?;
    }
    paths.sort();
    let (guest, next, report) = (Guest::new()?, AtomicUsize::new(0), Mutex::new(Report::default()));
    let work = || -> Result<()> {
        while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
            let name = path.strip_prefix(&root)?.display().to_string();
            if name.contains(part) {
                let case = Case::read(name, path).with_context(|| path.display().to_string())?;
                check(&case, &harness, &guest, &report)?;
            }
        }
        Ok(())
    };
    let threads = std::thread::available_parallelism()?.get();
    std::thread::scope(|scope| {
        // Room for the depth that the native engine allows.
        let spawn = || std::thread::Builder::new().stack_size(16 << 20).spawn_scoped(scope, work);
        let threads: Vec<_> = (0..threads).map(|_| spawn()).collect::<std::io::Result<_>>()?;
        threads.into_iter().try_for_each(|thread| thread.join().expect("a thread panicked"))
    })?;
    Ok(report.into_inner().expect("no thread panicked"))
}

/// The tests below a folder.
fn find(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            find(&path, paths)?;
        } else if name.ends_with(".js") && !name.contains("_FIXTURE") {
            paths.push(path);
        }
    }
    Ok(())
}

fn harness(folder: &Path) -> Result<BTreeMap<String, String>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let read = |path: PathBuf| {
        Ok((path.file_name().unwrap_or_default().to_string_lossy().into(), std::fs::read_to_string(path)?))
    };
    entries.map(|entry| read(entry?.path())).collect()
}

/// Runs one test in each of its modes.
fn check(case: &Case, parts: &BTreeMap<String, String>, guest: &Guest, report: &Mutex<Report>) -> Result<()> {
    if let Some(why) = case.skipped() {
        *report.lock().expect("no thread panicked").skipped.entry(why).or_default() += 1;
        return Ok(());
    }
    let mut harness = String::new();
    let always = if case.is("raw") { &[][..] } else { &["assert.js", "sta.js"] };
    for part in always.iter().copied().chain(case.front.includes.iter().map(String::as_str)) {
        harness += parts.get(part).with_context(|| format!("{part} is missing in the harness"))?;
    }
    // What `const` declares in a text that `eval` runs is not there for the next.
    let harness = harness.replace("\nconst ", "\nvar ");
    let folder = FOLDERS.into_iter().find(|folder| case.name.starts_with(folder)).context("a folder")?;
    for &mode in case.modes() {
        let job = Job { mode, harness: harness.clone(), test: case.text.clone(), waits: case.is("async") };
        let (ours, theirs) = (guest.run(&job), native(&job, false));
        let (right, wanted) = (passes(case, &ours), passes(case, &theirs));
        let apart = right != wanted && mode != Mode::Module && right == passes(case, &native(&job, true));
        let mut report = report.lock().expect("no thread panicked");
        let line = format!("{} {mode:?}: guest {}, native {}", case.name, show(&ours), show(&theirs));
        if apart {
            *report.skipped.entry(APART).or_default() += 1;
            report.others.push(format!("{APART}: {line}"));
            continue;
        }
        let count = report.counts.entry(folder).or_default();
        count.run += 1;
        count.guest += usize::from(right);
        count.native += usize::from(wanted);
        if right != wanted {
            let why = EXPLAINED.iter().find(|(path, _)| case.name.starts_with(path)).map(|(_, why)| *why);
            report.unexplained += usize::from(why.is_none());
            report.differences.push(format!("{}: {line}", why.unwrap_or("NOT EXPLAINED")));
        } else if !right {
            report.others.push(format!("fails in both: {line}"));
        }
    }
    Ok(())
}

/// Whether it went as the test wants it.
fn passes(case: &Case, outcome: &Result<(), Failure>) -> bool {
    match (&case.front.negative, outcome) {
        (None, outcome) => outcome.is_ok(),
        (Some(negative), outcome) => outcome.as_ref().is_err_and(|failure| failure.name == negative.name),
    }
}

fn show(outcome: &Result<(), Failure>) -> String {
    match outcome {
        Ok(()) => "ended well".to_owned(),
        Err(Failure { name, message }) => format!("{name}: {:.160}", message.replace('\n', " ")),
    }
}

fn print(report: &Report, all: bool) {
    let Report { counts, skipped, differences, others, .. } = report;
    let sorted = |lines: &[String]| {
        let mut lines = lines.to_vec();
        lines.sort();
        lines.iter().for_each(|line| println!("{line}"));
    };
    if all {
        sorted(others);
    }
    sorted(differences);
    for (why, count) in skipped {
        println!("{count:6} skipped: {why}");
    }
    let mut all = Count::default();
    for (folder, count) in counts {
        println!("{folder:10} {count}");
        all.run += count.run;
        all.guest += count.guest;
        all.native += count.native;
    }
    println!("{:10} {all}", "all");
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Count { run, guest, native } = *self;
        let rate = |passed: usize| 100.0 * passed as f64 / run.max(1) as f64;
        write!(f, "{run:6} runs; guest {guest} passed ({:.2} %), native {native} ({:.2} %)", rate(guest), rate(native))
    }
}
