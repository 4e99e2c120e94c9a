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

use cases::table::{BLOCK, BLOCKS, measure};
use std::process::Command;

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
        "What calls cost, each against bare wasmtime in the same process and run, the first line of its table (but for `functions_10000`, as a process has no room for both): cases in turn, {BLOCKS} blocks of {BLOCK:?} each, fewer where one takes long. `bare` is wasmtime by its async entry points in the best configuration we know, with epochs on; `bare_sync` by its synchronous ones; `isopod` has every limit on. Written by `cargo bench --bench numbers -- --write`.\n\n- {}, {} cores, {}\n- {}, isopod {}, wasmtime {}, {}\n\n",
        cpu,
        std::thread::available_parallelism().map_or(0, usize::from),
        said("uname", &["-sr"]),
        said("date", &["-u", "+%F"]),
        env!("CARGO_PKG_VERSION"),
        wasmtime.unwrap_or("?"),
        said("rustc", &["-V"]),
    )
}
