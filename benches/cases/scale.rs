//! What does a fresh call cost where many functions are called in turn?

use crate::cases::bare::{self, Bare};
use crate::cases::guests::{ECHO, Echo};
use crate::cases::{Case, Group, Groups, now};
use isopod::{Host, block_on};
use std::hint::black_box;

pub fn groups() -> Groups {
    vec![|| functions(10), || functions(100), || functions(200), || functions(1_000), || functions(10_000)]
}

static DATA: [u8; 64] = [7; 64];

const NOTE: &str = "`fresh_64B` over that many functions in turn; `isopod_one` over one, on the same host. Dearer: functions whose memories begin with more than 32 KiB, which are mapped anew when a slot changes hands.";

/// Of that many it is measured as well what calls of one alone cost.
const BESIDE_ONE: usize = 200;

fn functions(count: usize) -> Group {
    // Twice as many components have more mappings than a process may by default.
    let of_bare = if count < 10_000 { count } else { 0 };
    let engine = bare::engine(bare::SLOTS, bare::KEEP);
    let bares: Vec<_> = (0..of_bare).map(|_| Bare::on(&engine, ECHO, "echo", |_| {})).collect();
    let before = resident();
    let host = Host::new().unwrap();
    let load = || block_on(host.function("echo").component_wat(ECHO).load_typed::<Echo>()).unwrap();
    let typed: Vec<_> = (0..count).map(|_| load()).collect();
    eprintln!("{count} functions of isopod take {} KiB", resident() - before);
    let mut cases = Vec::new();
    if !bares.is_empty() {
        let mut next = 0;
        cases.push(Case::new("bare", move || {
            next = (next + 1) % count;
            let bare = &bares[next];
            black_box(now(async { bare.make::<_, Vec<u8>>().await.call((&DATA[..],)).await }));
        }));
    }
    if count == BESIDE_ONE {
        let one = load();
        cases.push(Case::new("isopod_one", move || {
            black_box(now(one.echo(&DATA)).unwrap());
        }));
    }
    let mut next = 0;
    cases.push(Case::new("isopod", move || {
        next = (next + 1) % count;
        black_box(now(typed[next].echo(&DATA)).unwrap());
    }));
    Group { name: format!("functions_{count}"), note: NOTE, cases }
}

/// Resident memory of this process, in KiB; 0 where there is no `/proc`.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
