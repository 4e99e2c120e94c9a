//! What became of a script, held against what may become of one. Pure: it says what is wrong.

use super::super::case::Figures;
use crate::{Error, ErrorKind, Usage};
use std::fmt;
use std::time::Duration;

/// How much later than its time a call may end: far more than a machine that is busy with other work adds.
const LATE: Duration = Duration::from_millis(500);
/// Bytes that the process may take beyond what the guest has.
const OVER: u64 = 64 << 20;

/// What no guest may bring a host to.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Fault {
    /// A host function panicked: [`ErrorKind::HostPanic`].
    Panic,
    /// A call did not come back at all. Its thread is left behind.
    Hang,
    /// A call ended half a second and more after its [`deadline`](crate::Limits::deadline), or was busy for so much
    /// longer than its [`busy`](crate::Limits::busy) time: a host function holds its thread.
    Late,
    /// A call used more than a limit of it allows, by its [`Usage`].
    Budget,
    /// The process took 64 MiB more than the guest has memory during one call.
    Memory,
    /// What the host holds was more after a call than before it, by one of [`Fuzz::count`](super::Fuzz::count); or the
    /// process grew as long as calls were made, in 200 rounds or more.
    Kept,
    /// A tenant was given, or told in an error, what another tenant had given the host.
    Tenant,
    /// A call ended by an error that says that not the guest is to blame, such as [`ErrorKind::Misuse`] for a host
    /// function of another type than its import.
    Blame,
}

impl Fault {
    /// Whether a machine that is busy, or another thread, may have caused it.
    pub(super) fn may_be_chance(self) -> bool {
        matches!(self, Fault::Late | Fault::Memory)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Fault::Panic => "panic",
            Fault::Hang => "hang",
            Fault::Late => "late",
            Fault::Budget => "budget",
            Fault::Memory => "memory",
            Fault::Kept => "kept",
            Fault::Tenant => "another tenant's bytes",
            Fault::Blame => "blame",
        })
    }
}

/// What became of one script.
pub(super) struct Seen {
    pub ended: Result<Answer, Error>,
    pub usage: Usage,
    pub wall: Duration,
    /// Bytes that the process grew by.
    pub grown: u64,
    /// Bytes of the other tenant's that must not be seen; none where the script itself says them.
    pub foreign: Option<&'static str>,
}

/// What the guest said.
pub(super) struct Answer {
    /// The number of the call that gave it what it must not be given, and what that was.
    pub found: Option<(u32, Vec<u8>)>,
}

/// What is wrong with it. `name` has the imports by the numbers of their calls.
pub(super) fn judge(figures: &Figures, seen: &Seen, name: impl Fn(u32) -> String) -> Vec<(Fault, String)> {
    let mut faults = Vec::new();
    let mut fault = |fault, text: String| faults.push((fault, text));
    match &seen.ended {
        Ok(Answer { found: Some((number, bytes)) }) => {
            fault(Fault::Tenant, format!("{} gave \"{}\"", name(*number), bytes.escape_ascii()));
        }
        Ok(_) => {
            // One that is beyond is stopped, and whatever it answers is discarded.
            let most = figures.get("host_calls");
            if seen.usage.host_calls > most {
                fault(Fault::Budget, format!("made {} host calls of {most}, and answered", seen.usage.host_calls));
            }
        }
        Err(error) => {
            let text = message(error);
            match error.kind() {
                ErrorKind::HostPanic => fault(Fault::Panic, text),
                kind if !is_the_guests(kind) => fault(Fault::Blame, format!("{kind:?}: {text}")),
                _ => {}
            }
            let all = format!("{error:?}");
            if seen.foreign.is_some_and(|foreign| all.contains(foreign)) {
                fault(Fault::Tenant, format!("an error says it: {}", all.lines().collect::<Vec<_>>().join(" ")));
            }
        }
    }
    let times = [("deadline", "deadline_ms", seen.wall), ("busy time", "busy_ms", seen.usage.busy)];
    for (what, limit, took) in times {
        let most = Duration::from_millis(figures.get(limit));
        if took.saturating_sub(LATE) > most {
            fault(Fault::Late, format!("took {took:.1?}, with a {what} of {most:?}"));
        }
    }
    let usage = &seen.usage;
    for (limit, used) in [
        ("memory_bytes", usage.peak_memory),
        ("input_bytes", usage.bytes_in),
        ("output_bytes", usage.bytes_out),
        ("log_bytes", usage.log_bytes),
        ("fuel", usage.fuel.unwrap_or(0)),
    ] {
        let most = figures.get(limit);
        if used > most {
            fault(Fault::Budget, format!("used {used} of {most} {limit}"));
        }
    }
    let over = seen.grown.saturating_sub(usage.peak_memory);
    if over > OVER {
        fault(Fault::Memory, format!("the process took {} MiB more than the guest", over >> 20));
    }
    faults
}

/// Whether a guest may be to blame.
fn is_the_guests(kind: ErrorKind) -> bool {
    use ErrorKind::{
        Denied, Exited, GuestAbi, LimitExceeded, OutOfFuel, OutOfMemory, OutputTooLarge, TimedOut, Trapped,
    };
    matches!(
        kind,
        Denied | Exited | GuestAbi | LimitExceeded(_) | OutOfFuel | OutOfMemory | OutputTooLarge | TimedOut | Trapped
    )
}

/// What the error says, without whose it is.
fn message(error: &Error) -> String {
    let text = error.to_string();
    let start = error.function().map(|name| format!("function \"{name}\": ")).unwrap_or_default();
    text.strip_prefix(&start).unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, ms};

    fn seen(ended: Result<Answer, Error>) -> Seen {
        Seen { ended, usage: Usage::default(), wall: ms(1), grown: 0, foreign: Some("theirs") }
    }

    fn faults(seen: &Seen) -> Vec<Fault> {
        let limits = Limits::default().deadline(ms(100)).busy(ms(50)).host_calls(10).log(5);
        let all = judge(&Figures::of(&limits).unwrap(), seen, |n| format!("call {n}"));
        all.into_iter().map(|(fault, _)| fault).collect()
    }

    #[test]
    fn each_fault_is_told_from_what_may_be() {
        let failed = |kind| seen(Err(Error::new(kind, "text")));
        assert_eq!(faults(&seen(Ok(Answer { found: None }))), []);
        assert_eq!(faults(&seen(Ok(Answer { found: Some((1, vec![1])) }))), [Fault::Tenant]);
        assert_eq!(faults(&seen(Err(Error::new(ErrorKind::Trapped, "is theirs")))), [Fault::Tenant]);
        assert_eq!(faults(&failed(ErrorKind::GuestAbi)), []);
        assert_eq!(faults(&failed(ErrorKind::HostPanic)), [Fault::Panic]);
        for kind in [ErrorKind::Internal, ErrorKind::Misuse, ErrorKind::Store, ErrorKind::Overloaded] {
            assert_eq!(faults(&failed(kind)), [Fault::Blame]);
        }
        let answered = |usage| Seen { usage, ..seen(Ok(Answer { found: None })) };
        assert_eq!(faults(&answered(Usage { host_calls: 10, ..Usage::default() })), []);
        assert_eq!(faults(&answered(Usage { host_calls: 11, ..Usage::default() })), [Fault::Budget]);
        assert_eq!(faults(&answered(Usage { log_bytes: 6, ..Usage::default() })), [Fault::Budget]);
        assert_eq!(faults(&answered(Usage { busy: ms(551), ..Usage::default() })), [Fault::Late]);
        let late = |wall| faults(&Seen { wall, ..failed(ErrorKind::TimedOut) });
        assert_eq!((late(ms(600)), late(ms(601))), (vec![], vec![Fault::Late]));
        assert_eq!(faults(&Seen { grown: OVER + 1, ..failed(ErrorKind::Trapped) }), [Fault::Memory]);
    }
}
