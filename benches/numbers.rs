//! All cases of a group in turn, in blocks of some milliseconds, as the machine's speed drifts: the page of numbers.
//!
//! `cargo bench --bench numbers` prints it, `cargo bench --bench numbers -- --write` writes it to `src/guide/numbers.md`; a
//! name as argument takes the groups that begin with it.

mod cases;
#[path = "cases/call.rs"]
mod call;
#[path = "cases/load.rs"]
mod load;
#[path = "cases/scale.rs"]
mod scale;
#[path = "cases/throughput.rs"]
mod throughput;

use cases::{Case, Group};
use std::fmt::Write;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a block of one case goes on, and how many there are of each.
const BLOCK: Duration = Duration::from_millis(3);
const BLOCKS: usize = 150;
/// How long a group may take; it then has fewer blocks.
const LONGEST: Duration = Duration::from_secs(20);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` only wants to know that it builds.
    if args.iter().any(|arg| arg == "--test") {
        return;
    }
    let wanted = args.iter().find(|arg| !arg.starts_with("--"));
    let mut page = head();
    for group in [call::groups(), load::groups(), throughput::groups(), scale::groups()].into_iter().flatten() {
        let group = group();
        if wanted.is_none_or(|wanted| group.name.starts_with(wanted.as_str())) {
            let table = measure(group);
            println!("{table}");
            page.push_str(&table);
        }
    }
    if args.iter().any(|arg| arg == "--write") {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/guide/numbers.md");
        std::fs::write(path, page).unwrap();
        println!("written to {path}");
    }
}

fn measure(Group { name, note, mut cases }: Group) -> String {
    let times: Vec<u64> = cases.iter_mut().map(fitting).collect();
    let mut samples = vec![Vec::new(); cases.len()];
    let begun = Instant::now();
    for _ in 0..BLOCKS {
        if begun.elapsed() > LONGEST {
            break;
        }
        for ((case, times), samples) in cases.iter_mut().zip(&times).zip(&mut samples) {
            samples.push((case.run)(*times).as_nanos() as f64 / *times as f64);
        }
    }
    samples.iter_mut().for_each(|samples| samples.sort_by(f64::total_cmp));
    let first = quantile(&samples[0], 0.5);
    let mut table =
        format!("## {name}\n\n{note}\n\n| | median | p10 - p90 | x of {} |\n|---|---:|---:|---:|\n", cases[0].id);
    for (case, samples) in cases.iter().zip(&samples) {
        let [low, median, high] = [0.1, 0.5, 0.9].map(|q| quantile(samples, q));
        let ratio = median / first;
        writeln!(table, "| `{}` | {} | {} - {} | {ratio:.2} |", case.id, span(median), span(low), span(high)).unwrap();
    }
    table.push('\n');
    table
}

/// How often a case is to run for a block.
fn fitting(case: &mut Case) -> u64 {
    let mut times = 1;
    loop {
        let took = (case.run)(times);
        if took >= BLOCK || times > 1 << 20 {
            return (times as f64 * BLOCK.as_secs_f64() / took.as_secs_f64().max(1e-9)).max(1.0) as u64;
        }
        times *= 2;
    }
}

fn quantile(sorted: &[f64], q: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * q) as usize]
}

fn span(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.2} µs", ns / 1e3),
        ns => format!("{:.2} ms", ns / 1e6),
    }
}

/// Where, when and with what.
fn head() -> String {
    let said = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    };
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("")
        .trim_start_matches([' ', '\t', ':']);
    let lock = include_str!("../Cargo.lock");
    let wasmtime = lock.split("name = \"wasmtime\"\nversion = \"").nth(1).and_then(|rest| rest.split('"').next());
    format!(
        "What calls cost, each against bare wasmtime in the same process and run: cases in turn, {BLOCKS} blocks of {BLOCK:?} each, fewer where one takes long. `bare` is wasmtime by its async entry points in the best configuration we know, with epochs on; `bare_sync` by its synchronous ones; `isopod` has every limit on. Written by `cargo bench --bench numbers -- --write`.\n\n- {}, {} cores, {}\n- {}, isopod {}, wasmtime {}, {}\n\n",
        cpu,
        std::thread::available_parallelism().map_or(0, usize::from),
        said("uname", &["-sr"]),
        said("date", &["-u", "+%F"]),
        env!("CARGO_PKG_VERSION"),
        wasmtime.unwrap_or("?"),
        said("rustc", &["-V"]),
    )
}
