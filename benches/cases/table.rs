//! All cases of a group in turn, in blocks of some milliseconds, as the machine's speed drifts; a table in Markdown.

use crate::cases::{Case, Group};
use std::fmt::Write;
use std::time::{Duration, Instant};

/// How long a block of one case goes on, and how many there are of each.
pub const BLOCK: Duration = Duration::from_millis(3);
pub const BLOCKS: usize = 150;
/// How long a group may take; it then has fewer blocks.
const LONGEST: Duration = Duration::from_secs(20);

/// Runs the cases of a group in turn; the first is what the others are compared with.
pub fn measure(Group { name, note, mut cases }: Group) -> String {
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
