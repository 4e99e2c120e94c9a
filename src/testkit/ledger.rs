//! What was found so far, and the [`Report`] that it makes.

use super::attack::Shot;
use super::case::Figures;
use super::judge::{Ended, Fault, Outcome};
use super::promise::Promise;
use super::report::{Finding, Report};
use super::watch::resident;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Faults of one promise that are kept.
const FAULTS: usize = 8;

pub(super) struct Ledger {
    pub started: Instant,
    pub benign: u64,
    pub over: u64,
    pub repeats: u32,
    attacks: u64,
    /// Guests that are scripts, which isopod's own interpreter compiles.
    scripts: usize,
    late: Duration,
    p99: (Duration, Duration),
    house: u32,
    lines: BTreeMap<Promise, Line>,
}

#[derive(Default)]
struct Line {
    cases: Vec<&'static str>,
    far: u64,
    faults: Vec<String>,
    broken: bool,
    /// And not by what was measured alone.
    firm: bool,
}

impl Ledger {
    pub(super) fn new() -> Ledger {
        let always = [Promise::Text, Promise::Fresh, Promise::Seats, Promise::Punctual, Promise::Resident];
        let always = always.into_iter().chain([Promise::Neighbours, Promise::Compiling]);
        Ledger {
            started: Instant::now(),
            benign: 0,
            over: 0,
            repeats: 0,
            attacks: 0,
            scripts: 0,
            late: Duration::ZERO,
            p99: Default::default(),
            house: 0,
            lines: always.map(|promise| (promise, Line::default())).collect(),
        }
    }

    pub(super) fn fault(&mut self, fault: &Fault) {
        let line = self.lines.entry(fault.promise).or_default();
        line.broken = true;
        line.firm |= !fault.measured;
        let text: String = fault.text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
        if line.faults.len() < FAULTS && !line.faults.contains(&text) {
            line.faults.push(text);
        }
    }

    /// A guest cannot be run.
    pub(super) fn untried(&mut self, promise: Promise) {
        self.lines.entry(promise).or_default();
    }

    /// A guest was run.
    pub(super) fn attack(&mut self, shot: &Shot, outcome: &Outcome, faults: &[Fault]) {
        self.attacks += 1;
        let (case, promise) = (&shot.case, shot.case.promise());
        self.late = self.late.max(outcome.late(case, &shot.figures).unwrap_or_default());
        let line = self.lines.entry(promise).or_default();
        line.far = line.far.max(far(promise, outcome));
        // A host with fewer seats than a function may have never comes to that.
        let reached = promise != Promise::Concurrency || outcome.far >= shot.figures.get("concurrency");
        if reached && !line.cases.contains(&case.name()) {
            line.cases.push(case.name());
            self.scripts += usize::from(shot.is_script);
        }
        self.faults(shot, faults);
    }

    /// What was wrong with a guest.
    pub(super) fn faults<'a>(&mut self, shot: &Shot, faults: impl IntoIterator<Item = &'a Fault>) {
        for fault in faults {
            self.fault(&Fault { text: format!("{}: {}", shot.case.name(), fault.text), ..fault.clone() });
        }
    }

    pub(super) fn p99(&mut self, solo: Duration, beside: Duration) {
        if beside > self.p99.1 {
            self.p99 = (solo, beside);
        }
    }

    /// So many calls ran at once.
    pub(super) fn house(&mut self, calls: u32) {
        self.house = calls;
    }

    pub(super) fn report(self, theirs: &Figures, rounds: u32) -> Report {
        let all: usize = self.lines.values().map(|line| line.cases.len()).sum();
        let finding = |promise: Promise, line: Line| Finding {
            promise,
            held: !line.broken,
            measured: line.broken && !line.firm,
            limit: promise.limit().map(|name| limit(promise, theirs.get(name))).unwrap_or_default(),
            seen: match promise {
                Promise::Punctual => format!("{:.1?} late at worst", self.late),
                Promise::Resident => format!("{:.1} MiB beyond the guests'", self.over as f64 / 1_048_576.0),
                Promise::Neighbours => format!("p99 {:.1?}, alone {:.1?}", self.p99.1, self.p99.0),
                Promise::Seats => format!("{} calls at once after it", self.house),
                Promise::Compiling if line.broken => "in this process".into(),
                Promise::Compiling => "in a process of its own".into(),
                _ => seen(promise, line.far),
            },
            cases: match promise {
                Promise::Resident if resident().is_none() => 0,
                Promise::Punctual | Promise::Resident | Promise::Neighbours | Promise::Seats | Promise::Text => all,
                Promise::Fresh => all,
                Promise::Compiling => all - self.scripts,
                _ => line.cases.len(),
            },
            faults: line.faults,
        };
        Report {
            rounds,
            attacks: self.attacks,
            benign: self.benign,
            overshoot: self.late,
            over: self.over,
            p99: self.p99,
            repeats: self.repeats,
            took: self.started.elapsed(),
            findings: self.lines.into_iter().map(|(promise, line)| finding(promise, line)).collect(),
        }
    }
}

/// How far a guest came that attacks a limit.
fn far(promise: Promise, outcome: &Outcome) -> u64 {
    let usage = &outcome.usage;
    match promise {
        Promise::Deadline | Promise::QueueWait => outcome.wall.as_micros() as u64,
        Promise::Busy => usage.busy.as_micros() as u64,
        Promise::Fuel => usage.fuel.unwrap_or(0),
        Promise::Memory => usage.peak_memory,
        Promise::Input => usage.bytes_in,
        Promise::Output => usage.bytes_out,
        Promise::Log => usage.log_bytes,
        Promise::HostCalls => usage.host_calls,
        Promise::Depth | Promise::Calls => match &outcome.end {
            Ended::Gave(count) => count.as_u64().unwrap_or(0),
            _ => 0,
        },
        _ => outcome.far,
    }
}

/// A limit, for people.
fn limit(promise: Promise, value: u64) -> String {
    // None is the largest number that the limit could be.
    if value == u64::MAX || (value == u64::from(u32::MAX) && is_count(promise)) {
        return "none".into();
    }
    match promise {
        Promise::Deadline | Promise::Busy | Promise::QueueWait => format!("{:?}", Duration::from_millis(value)),
        Promise::Fuel => value.to_string(),
        promise if is_count(promise) => value.to_string(),
        _ => bytes(value),
    }
}

fn seen(promise: Promise, far: u64) -> String {
    match promise {
        Promise::Deadline | Promise::Busy | Promise::QueueWait => format!("{:.1?}", Duration::from_micros(far)),
        Promise::Fuel => format!("{far} units"),
        promise if promise.limit().is_none() => String::new(),
        promise if is_count(promise) => far.to_string(),
        _ => bytes(far),
    }
}

fn is_count(promise: Promise) -> bool {
    use Promise::{Calls, Concurrency, Depth, Handles, HostCalls, Queue};
    matches!(promise, Handles | HostCalls | Concurrency | Queue | Depth | Calls)
}

fn bytes(bytes: u64) -> String {
    match bytes {
        n @ 0..1024 => format!("{n} B"),
        n @ 1024..1_048_576 => format!("{:.1} KiB", n as f64 / 1024.0),
        n => format!("{:.1} MiB", n as f64 / 1_048_576.0),
    }
}
