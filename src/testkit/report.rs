//! [`Report`]: what [`prove`](super::prove()) found, a line for each promise.

use super::promise::Promise;
use std::fmt;
use std::time::Duration;

/// What became of one promise.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Finding {
    /// What was promised.
    pub promise: Promise,
    /// Whether it was kept in every case and every round. Also where there was none: see `cases`.
    pub held: bool,
    /// Whether all that was wrong is a time or an amount of memory that was measured: then a machine that has something else
    /// to do may be the reason.
    pub measured: bool,
    /// The limit that was set, for people; empty where the promise is not a limit of [`Limits`](crate::Limits).
    pub limit: String,
    /// How far the guests came that tried, for people.
    pub seen: String,
    /// How many guests tried. 0 where [`Prove::only`](super::Prove::only) left none, and where this system does not tell
    /// what it takes to know: the memory of a process is read from `/proc`.
    pub cases: usize,
    /// What was wrong, with the name of the case. Text of guests in it is made fit to show. At most eight.
    pub faults: Vec<String>,
}

/// What [`prove`](super::prove()) found.
///
/// Prints as a table: a line for each promise, "held", "NOT held" or, where no guest tried, "not tried", and what was
/// wrong below it.
///
/// What to do about a line that is NOT held: a limit that is off says so in its line, and
/// [`Limits`](crate::Limits) or [`LoadLimits`](crate::LoadLimits) set it. "compiling" wants
/// [`compile_worker`](crate::compile_worker). What was only [measured](Finding::measured), such as "on time", may be the
/// doing of a machine that has something else to do: run it again where it has not, with [`rounds`](super::Prove::rounds).
/// Anything else is a fault of isopod, or of your host functions where [`Prove::with`](super::Prove::with) adds them.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Report {
    /// A line for each promise.
    pub findings: Vec<Finding>,
    /// How often the corpus was run.
    pub rounds: u32,
    /// Calls of hostile guests, and loads of what must not load.
    pub attacks: u64,
    /// Calls of others meanwhile.
    pub benign: u64,
    /// How much later than its time the worst call ended.
    pub overshoot: Duration,
    /// Bytes that the process had at most beyond what its guests had. 0 where the system does not say: only Linux does.
    pub over: u64,
    /// The 99th of a hundred calls of others: alone, and beside hostile guests. Of the round that was worst for them.
    pub p99: (Duration, Duration),
    /// How often something was measured again that the machine may have disturbed.
    pub repeats: u32,
    /// How long all of it took.
    pub took: Duration,
}

impl Report {
    /// Whether everything was held.
    pub fn held(&self) -> bool {
        self.findings.iter().all(|finding| finding.held)
    }

    /// What was not.
    pub fn broken(&self) -> Vec<Promise> {
        self.findings.iter().filter(|finding| !finding.held).map(|finding| finding.promise).collect()
    }

    /// The finding about that promise; none about a limit that does not apply, as fuel to functions metered by time.
    pub fn about(&self, promise: Promise) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.promise == promise)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<22} {:<9} {:>14}  {:<34} cases", "", "", "limit", "seen")?;
        for Finding { promise, held, limit, seen, cases, faults, .. } in &self.findings {
            let verdict = match held {
                false => "NOT held",
                true if *cases == 0 => "not tried",
                true => "held",
            };
            writeln!(f, "{promise:<22} {verdict:<9} {limit:>14}  {seen:<34} {cases:>5}")?;
            for fault in faults {
                writeln!(f, "    {fault}")?;
            }
        }
        writeln!(
            f,
            "\n{} round{} in {:.1?}: {} attacks, {} calls of others, {} measurements repeated",
            self.rounds,
            if self.rounds == 1 { "" } else { "s" },
            self.took,
            self.attacks,
            self.benign,
            self.repeats
        )?;
        writeln!(f, "worst overshoot of a deadline: {:.1?}", self.overshoot)?;
        writeln!(f, "worst memory beyond the guests' own: {:.1} MiB", self.over as f64 / 1_048_576.0)?;
        write!(f, "p99 of others: {:.1?} alone, {:.1?} beside hostile guests", self.p99.0, self.p99.1)
    }
}
