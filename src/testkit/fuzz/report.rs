//! [`Report`]: how much was tried, and what was found.

use super::judge::Fault;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Something that a guest brought the host to.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Finding {
    /// What it is.
    pub fault: Fault,
    /// What was seen, in a line.
    pub text: String,
    /// What repeats it, given to [`Fuzz::once`](super::Fuzz::once); as short as it could be made. Empty where no single
    /// input does it, such as for memory that all calls together keep.
    pub input: Vec<u8>,
    /// Whether it did so again at once, or gave another tenant what it had itself given the host. If not, it took what
    /// others had left there: run the rounds again, on a function that was loaded anew.
    pub repeats: bool,
    /// The calls that led to it, in words, with whom they were for; the last one may not have been reached.
    pub calls: Vec<String>,
}

/// Calls that are printed of a finding.
const PRINTED: usize = 40;

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.fault, self.text)?;
        self.calls.iter().take(PRINTED).try_for_each(|line| write!(f, "\n    {line}"))?;
        if self.calls.len() > PRINTED {
            write!(f, "\n    .. and {} more", self.calls.len() - PRINTED)?;
        }
        if !self.input.is_empty() {
            let how = if self.repeats { "repeats it" } else { "did it, after others" };
            write!(f, "\n  what {how}: Fuzz::once(&function, b\"{}\")", self.input.escape_ascii())?;
        }
        Ok(())
    }
}

/// How much was tried, and what was found.
///
/// Prints as a few lines: how the calls ended, how often each import was called, and each finding with its calls.
#[non_exhaustive]
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Rounds that were run. Fewer than asked for where much was found.
    pub rounds: u32,
    /// Calls of the guest, some of them for each round.
    pub scripts: u64,
    /// Calls that these made to the host.
    pub host_calls: u64,
    /// How they ended: `answered`, or the name of the [`ErrorKind`](crate::ErrorKind).
    pub ends: BTreeMap<String, u64>,
    /// How often each import stood in a script. A loop counts once.
    pub imports: BTreeMap<String, u64>,
    /// What was found, each kind of thing a few times.
    pub findings: Vec<Finding>,
    /// How long all of it took.
    pub took: Duration,
}

impl Report {
    /// Whether nothing was found.
    pub fn held(&self) -> bool {
        self.findings.is_empty()
    }

    /// Whether something of that kind was found.
    pub fn has(&self, fault: Fault) -> bool {
        self.findings.iter().any(|finding| finding.fault == fault)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { rounds, scripts, host_calls, took, .. } = self;
        write!(f, "{rounds} rounds in {took:.1?}: {scripts} calls of the guest, which made {host_calls} host calls")?;
        let ends: Vec<String> = self.ends.iter().map(|(end, many)| format!("{many} {end}")).collect();
        write!(f, "\nended: {}", ends.join(", "))?;
        self.imports.iter().try_for_each(|(name, many)| write!(f, "\n{many:>8}  {name}"))?;
        match self.findings.len() {
            0 => write!(f, "\nnothing was found"),
            many => write!(f, "\n{many} found:"),
        }?;
        self.findings.iter().try_for_each(|finding| write!(f, "\n\n{finding}"))
    }
}
