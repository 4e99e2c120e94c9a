//! A program that scans the files of a directory with plugins which other people wrote: two in Rust, one in C, and a
//! fourth one that means harm. All of them implement the same world, `guests/wit/plugin.wit`.
//!
//! ```text
//! cargo run --release --example quickstart [PATH]
//! ```
//!
//! Every file and plugin is a call of its own, in an instance that nobody used before. A plugin sees the bytes it is
//! handed and nothing else: nothing is granted to it, so it has no files, no network, no clock.

use anyhow::Context as _;
use futures_util::{StreamExt as _, future, stream};
use indicatif::ProgressBar;
use isopod::{ErrorKind, Function, Host, Limits, MIB, Meter, Receipt, Usage, ms};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PLUGINS: [&str; 3] = ["text-stats", "content-hash", "secret-scan"];
/// Larger files are skipped.
const MAX_FILE: u64 = MIB;
/// Rows of a table that may become long.
const SHOWN: usize = 20;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let root = std::env::args_os().nth(1).map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    let (files, mut notes) = list_files(&root)?;

    let ledger = Ledger::default();
    let host = Host::builder().meter(ledger.clone()).build()?;
    let limits = Limits::default().deadline(ms(10_000)).busy(ms(5_000)).memory(64 * MIB);
    let plugins = future::try_join_all(PLUGINS.map(|name| load(&host, name, limits.clone()))).await?;
    let hostile = load(&host, "hostile", Limits::default().deadline(ms(50)).memory(32 * MIB)).await?;

    let started = Instant::now();
    let scanning = async { (scan(plugins, files).await, started.elapsed()) };
    let ((scanned, took), attacks) = tokio::join!(scanning, provoke(&hostile, &ledger));

    notes.extend(scanned.iter().flat_map(|file| file.notes.iter().cloned()));
    print_files(&scanned, took);
    print_duplicates(&scanned);
    print_findings(&scanned);
    print_list("Notes", &notes, SHOWN / 4);
    print_usage(&ledger);
    print_attacks(&attacks);
    Ok(())
}

// ---- The plugins' world, as serde sees it. A WIT `result` is serde's own `Result`, `list<u8>` is bytes.

#[derive(Serialize)]
struct File<'a> {
    path: &'a str,
    #[serde(with = "serde_bytes")]
    content: &'a [u8],
}

#[derive(Deserialize)]
struct Report {
    facts: Vec<(String, String)>,
    findings: Vec<Finding>,
}

#[derive(Deserialize)]
struct Finding {
    line: u32,
    label: String,
    excerpt: String,
}

async fn load(host: &Host, name: &str, limits: Limits) -> isopod::Result<Function> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("guests/built/{name}.wasm"));
    host.function(name).component_file(path).limits(limits).load().await
}

async fn inspect(plugin: &Function, path: &str, content: &[u8]) -> isopod::Result<Result<Report, String>> {
    let reply = plugin.call("inspect", (File { path, content },)).await?;
    Ok(reply.value)
}

// ---- The scan.

/// What all plugins together say about a file.
#[derive(Default)]
struct Scanned {
    /// As it is shown: relative to the root, with control characters made visible.
    path: String,
    size: usize,
    facts: BTreeMap<String, String>,
    findings: Vec<Finding>,
    notes: Vec<String>,
}

impl Scanned {
    /// A fact that ought to be a number. It is a plugin's claim, so it may be anything.
    fn number(&self, fact: &str) -> Option<u64> {
        self.facts.get(fact)?.parse::<u32>().ok().map(u64::from)
    }
}

type NamedFile = (PathBuf, String);

/// The files to scan, each with its name for people, and notes about those that are left out.
fn list_files(root: &Path) -> anyhow::Result<(Vec<NamedFile>, Vec<String>)> {
    root.metadata().with_context(|| format!("{} cannot be scanned", root.display()))?;
    let (mut files, mut notes) = (Vec::new(), Vec::new());
    for entry in ignore::WalkBuilder::new(root).require_git(false).sort_by_file_name(Ord::cmp).build() {
        let (data, entry) = match entry.and_then(|entry| Ok((entry.metadata()?, entry))) {
            Ok(found) => found,
            Err(e) => {
                notes.push(printable(&e.to_string()));
                continue;
            }
        };
        let relative = entry.path().strip_prefix(root).ok().filter(|path| !path.as_os_str().is_empty());
        let name = printable(&relative.unwrap_or(entry.path()).to_string_lossy());
        if data.is_file() && data.len() > MAX_FILE {
            notes.push(format!("{name}: skipped, {}", mib(data.len())));
        } else if data.is_file() {
            files.push((entry.into_path(), name));
        }
    }
    Ok((files, notes))
}

/// Scans all files, a few at a time. A task per file lets the plugins use every core.
async fn scan(plugins: Vec<Function>, files: Vec<(PathBuf, String)>) -> Vec<Scanned> {
    let plugins: Arc<[Function]> = plugins.into();
    let at_once = 2 * std::thread::available_parallelism().map_or(1, usize::from);
    let bar = ProgressBar::new(files.len() as u64); // Draws nothing where there is no terminal.
    let scanned = stream::iter(files)
        .map(|(file, name)| tokio::spawn(scan_file(Arc::clone(&plugins), file, name)))
        .buffered(at_once)
        .map(|task| task.expect("scanning a file does not panic"))
        .inspect(|_| bar.inc(1))
        .collect()
        .await;
    bar.finish_and_clear();
    scanned
}

async fn scan_file(plugins: Arc<[Function]>, file: PathBuf, path: String) -> Scanned {
    let mut scanned = Scanned { path, ..Scanned::default() };
    let content = match tokio::fs::read(file).await {
        Ok(content) => content,
        Err(e) => {
            scanned.notes.push(format!("{}: skipped, {e}", scanned.path));
            return scanned;
        }
    };
    scanned.size = content.len();
    for plugin in &*plugins {
        match inspect(plugin, &scanned.path, &content).await {
            Ok(Ok(report)) => {
                scanned.facts.extend(report.facts);
                scanned.findings.extend(report.findings);
            }
            // The plugin's own error, and the ways in which a call itself can fail.
            Ok(Err(text)) => scanned.notes.push(format!("{}: {}", plugin.name(), printable(&text))),
            Err(e) => scanned.notes.push(format!("{}: {e} [{:?}]", scanned.path, e.kind())),
        }
    }
    scanned
}

// ---- The plugin that means harm.

/// How an attack went, and how many calls of the other plugins ended meanwhile.
type Attack = (&'static str, isopod::Result<()>, usize);

/// Lets the hostile plugin do its worst, one way after the other, while the others work.
async fn provoke(hostile: &Function, ledger: &Ledger) -> Vec<Attack> {
    let mut attacks = Vec::new();
    for how in ["loop", "memory", "stack", "trap", "flood"] {
        let before = ledger.calls_except(hostile.name());
        let end = inspect(hostile, how, how.as_bytes()).await.map(drop);
        attacks.push((how, end, ledger.calls_except(hostile.name()) - before));
    }
    attacks
}

// ---- What the calls used. The host tells the ledger about each.

#[derive(Clone, Default)]
struct Ledger(Arc<Mutex<BTreeMap<String, Calls>>>);

/// The receipts of one function's calls, and how those ended that failed.
type Calls = Vec<(Usage, Option<ErrorKind>)>;

impl Meter for Ledger {
    fn record(&self, receipt: &Receipt<'_>) {
        let mut calls = self.0.lock().unwrap();
        calls.entry(receipt.function.to_string()).or_default().push((receipt.usage, receipt.error));
    }
}

impl Ledger {
    fn calls_except(&self, plugin: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|(name, _)| *name != plugin).map(|(_, calls)| calls.len()).sum()
    }
}

// ---- Tables.

fn print_files(scanned: &[Scanned], took: Duration) {
    let mut files: Vec<&Scanned> = scanned.iter().collect();
    files.sort_by_key(|file| std::cmp::Reverse(file.number("lines")));
    let row = |file: &&Scanned| {
        let [lines, words] = ["lines", "words"].map(|fact| file.number(fact).map_or("-".into(), |n| n.to_string()));
        format!("{lines:>8} {words:>8}  {}", file.path)
    };
    let [lines, words] = ["lines", "words"].map(|fact| files.iter().filter_map(|file| file.number(fact)).sum::<u64>());
    println!("Scanned {lines} lines and {words} words in {took:.1?}");
    print_list("Files (lines, words, name)", &files.iter().map(row).collect::<Vec<_>>(), SHOWN);
}

fn print_duplicates(scanned: &[Scanned]) {
    let mut same: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for file in scanned.iter().filter(|file| file.size > 0) {
        if let Some(hash) = file.facts.get("sha256") {
            same.entry(hash).or_default().push(&file.path);
        }
    }
    let rows: Vec<String> = same.values().filter(|paths| paths.len() > 1).map(|paths| paths.join(" = ")).collect();
    print_list("Duplicates", &rows, SHOWN);
}

fn print_findings(scanned: &[Scanned]) {
    let (mut secrets, mut marks) = (Vec::new(), Vec::new());
    for Scanned { path, findings, .. } in scanned {
        for Finding { line, label, excerpt } in findings {
            let rows = if label == "mark" { &mut marks } else { &mut secrets };
            rows.push(format!("{path}:{line}  {}  {}", printable(label), printable(excerpt)));
        }
    }
    print_list("Secrets", &secrets, usize::MAX);
    print_list("TODO marks", &marks, SHOWN);
}

fn print_list(title: &str, rows: &[String], shown: usize) {
    println!("\n{title}: {}", rows.len());
    rows.iter().take(shown).for_each(|row| println!("  {row}"));
    if rows.len() > shown {
        println!("  … and {} more", rows.len() - shown);
    }
}

fn print_usage(ledger: &Ledger) {
    println!(
        "\n{:<14} {:>7} {:>7} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "plugin", "calls", "failed", "busy", "mean wall", "p50 wall", "p99 wall", "peak"
    );
    for (plugin, calls) in &*ledger.0.lock().unwrap() {
        let mut walls: Vec<Duration> = calls.iter().map(|(usage, _)| usage.wall).collect();
        walls.sort();
        let mean = walls.iter().sum::<Duration>() / walls.len() as u32;
        let at = |percent: usize| walls[(walls.len() * percent).div_ceil(100) - 1];
        let failed = calls.iter().filter(|(_, error)| error.is_some()).count();
        let busy: Duration = calls.iter().map(|(usage, _)| usage.busy).sum();
        let peak = calls.iter().map(|(usage, _)| usage.peak_memory).max().unwrap_or(0);
        println!(
            "{plugin:<14} {:>7} {failed:>7} {busy:>10.1?} {mean:>10.1?} {:>10.1?} {:>10.1?} {:>10}",
            calls.len(),
            at(50),
            at(99),
            mib(peak)
        );
    }
}

fn print_attacks(attacks: &[Attack]) {
    println!("\nThe hostile plugin, and how many calls of the others ended meanwhile:");
    for (how, end, meanwhile) in attacks {
        match end {
            Ok(()) => println!("  {how:<7} was not stopped"),
            Err(e) => {
                println!("  {how:<7} {:?} after {:.1?}, {meanwhile} calls\n          {e}", e.kind(), e.usage().wall)
            }
        }
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / MIB as f64)
}

/// Text that somebody else chose, made fit for a terminal.
fn printable(text: &str) -> String {
    let quiet = |c: char| if matches!(c, '"' | '\'' | '\\') { c.to_string() } else { c.escape_debug().to_string() };
    text.chars().map(quiet).collect()
}
