//! What became of a guest, held against what must become of it. Pure: it says what is wrong, and of which promise.

use super::case::{Case, End, Figures};
use super::promise::Promise;
use crate::{Error, ErrorKind, Usage};
use serde_json::Value;
use std::time::Duration;

/// How much later than its time a call may end.
pub(super) const LATE: Duration = Duration::from_millis(100);
/// Bytes that the process may take beyond what its guests have.
pub(super) const OVER: u64 = 64 << 20;
/// Bytes that may stay with the process after a guest.
pub(super) const LEFT: u64 = 32 << 20;
/// Bytes of log that may stay free as the next piece does not fit.
const NEAR: u64 = 4096;
/// Bytes of an error with all its causes.
const TEXT: usize = 4096;
/// What guests begin a line with that they want to stand in an error.
pub(super) const FORGED: &str = "error: forged";

/// What became of a guest.
#[derive(Debug)]
pub(super) struct Outcome {
    pub end: Ended,
    pub usage: Usage,
    /// From the call to its end, by the caller's clock.
    pub wall: Duration,
    /// How far the guest says that it came, or the harness.
    pub far: u64,
}

#[derive(Debug)]
pub(super) enum Ended {
    Gave(Value),
    Failed {
        kind: ErrorKind,
        text: String,
    },
    /// The harness saw for itself what was wrong.
    Wrong(String),
    /// It went on for so long that the harness dropped it.
    GivenUp,
}

impl Outcome {
    pub(super) fn failed(error: &Error, wall: Duration, far: u64) -> Outcome {
        let end = Ended::Failed { kind: error.kind(), text: format!("{error:?}") };
        Outcome { end, usage: error.usage(), wall, far }
    }

    /// How much later than its time it ended, if it was to end by that.
    pub(super) fn late(&self, case: &Case, figures: &Figures) -> Option<Duration> {
        let ms = |name| Duration::from_millis(figures.get(name));
        let late = match case.promise() {
            _ if matches!(self.end, Ended::GivenUp) => return None,
            Promise::Deadline => self.wall.saturating_sub(ms("deadline_ms")),
            Promise::Busy => self.usage.busy.saturating_sub(ms("busy_ms")),
            Promise::QueueWait => self.wall.saturating_sub(ms("queue_wait_ms")),
            _ => return None,
        };
        Some(late)
    }
}

/// Something that was not as promised.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Fault {
    pub promise: Promise,
    pub text: String,
    /// A time or an amount of memory, which a machine that has much else to do may have caused.
    pub measured: bool,
}

impl Fault {
    pub(super) fn new(promise: Promise, text: impl Into<String>) -> Fault {
        Fault { promise, text: text.into(), measured: false }
    }

    pub(super) fn measured(promise: Promise, text: impl Into<String>) -> Fault {
        Fault { measured: true, ..Fault::new(promise, text) }
    }
}

/// What is wrong with it.
pub(super) fn judge(case: &Case, figures: &Figures, outcome: &Outcome) -> Vec<Fault> {
    let mut faults = Vec::new();
    if let Some(late) = outcome.late(case, figures).filter(|late| *late >= LATE) {
        faults.push(Fault::measured(Promise::Punctual, format!("ended {late:.0?} after its time")));
    }
    let mut fault = |promise: Promise, text: String| faults.push(Fault::new(promise, text));
    if let Some(text) = wrong_end(case, figures, outcome) {
        fault(case.promise(), text);
    }
    if let Ended::Failed { text, .. } = &outcome.end {
        if text.len() > TEXT {
            fault(Promise::Text, format!("its error has {} bytes", text.len()));
        }
        if let Some(odd) = text.chars().find(|c| is_odd(*c)) {
            fault(Promise::Text, format!("its error holds {:?}", odd));
        }
        if text.lines().any(|line| line.trim_start().starts_with(FORGED)) {
            fault(Promise::Text, "a line of its error is the guest's".into());
        }
    }
    let usage = &outcome.usage;
    for (promise, used) in [
        (Promise::Memory, usage.peak_memory),
        (Promise::Input, usage.bytes_in),
        (Promise::Output, usage.bytes_out),
        (Promise::Log, usage.log_bytes),
        (Promise::Fuel, usage.fuel.unwrap_or(0)),
    ] {
        let most = promise.limit().map_or(u64::MAX, |name| figures.get(name));
        if used > most {
            fault(promise, format!("used {used} of {most}"));
        }
    }
    faults
}

/// Characters that could move a cursor, or turn text around. Lines end between the parts of an error.
fn is_odd(c: char) -> bool {
    (c.is_control() && c != '\n')
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn wrong_end(case: &Case, figures: &Figures, outcome: &Outcome) -> Option<String> {
    let expected: &[ErrorKind] = match &case.end {
        End::Fails(kind) => std::slice::from_ref(kind),
        End::Spends if figures.is("fuel") => &[ErrorKind::OutOfFuel],
        End::Spends => &[ErrorKind::TimedOut],
        End::Overflows => &[ErrorKind::Thrown, ErrorKind::InvalidScript, ErrorKind::Trapped],
        End::Answers | End::Gives(_) => &[],
    };
    match (&outcome.end, expected) {
        (Ended::GivenUp, _) => Some(format!("went on for {:.1?}, and was given up", outcome.wall)),
        (Ended::Wrong(text), _) => Some(text.clone()),
        (Ended::Failed { kind, .. }, right) if right.contains(kind) => {
            let busy = Duration::from_millis(figures.get("busy_ms"));
            let early = case.promise() == Promise::Busy && outcome.usage.busy < busy;
            early.then(|| format!("was stopped after {:.0?} of computing, before its time", outcome.usage.busy))
        }
        (Ended::Failed { text, .. }, []) => Some(format!("failed: {}", line(text))),
        (Ended::Failed { text, .. }, right) => Some(format!("did not end as {}: {}", either(right), line(text))),
        (Ended::Gave(value), [_, ..]) => {
            Some(format!("gave {}, and did not end as {}", short(value), either(expected)))
        }
        (Ended::Gave(value), []) => match case.end {
            End::Gives(right) if *value != right(figures) => {
                Some(format!("gave {}, and not {}", short(value), short(&right(figures))))
            }
            _ if case.promise() == Promise::Log
                && outcome.usage.log_bytes.saturating_add(NEAR) < figures.get("log_bytes") =>
            {
                Some(format!("{} bytes of what it wrote were kept, and more would have been", outcome.usage.log_bytes))
            }
            _ => None,
        },
    }
}

fn either(kinds: &[ErrorKind]) -> String {
    kinds.iter().map(|kind| format!("{kind:?}")).collect::<Vec<_>>().join(" or ")
}

fn line(text: &str) -> &str {
    text.lines().next().unwrap_or("")
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.len() <= 60 { text } else { format!("{} bytes", text.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind::{TimedOut, Trapped};
    use crate::{Limits, ms};
    use serde_json::json;

    fn case(promise: Promise) -> Case {
        Case::new("case", 0, promise, |_| "".into())
    }

    fn outcome(end: Ended) -> Outcome {
        Outcome { end, usage: Usage::default(), wall: ms(50), far: 0 }
    }

    fn failed(kind: ErrorKind, text: &str) -> Outcome {
        outcome(Ended::Failed { kind, text: text.into() })
    }

    /// Which promises are found broken.
    fn broken(case: &Case, outcome: &Outcome) -> Vec<Promise> {
        let figures = Figures::of(&Limits::default().deadline(ms(50)).log(10)).unwrap();
        judge(case, &figures, outcome).into_iter().map(|fault| fault.promise).collect()
    }

    #[test]
    fn an_end_is_right_or_a_fault_of_what_was_attacked() {
        let (abi, none) = (case(Promise::Abi), [0; 0].map(|_: i32| Promise::Abi));
        assert_eq!(broken(&abi, &failed(Trapped, "")), none);
        assert_eq!(broken(&abi, &failed(TimedOut, "")), [Promise::Abi]);
        assert_eq!(broken(&abi, &outcome(Ended::GivenUp)), [Promise::Abi]);
        assert_eq!(broken(&abi, &outcome(Ended::Gave(json!(7)))), [Promise::Abi]);
        let gives = abi.clone().gives(|_| json!(7));
        assert_eq!(broken(&gives, &outcome(Ended::Gave(json!(7)))), none);
        assert_eq!(broken(&gives, &outcome(Ended::Gave(json!(8)))), [Promise::Abi]);
        assert_eq!(broken(&gives, &failed(Trapped, "")), [Promise::Abi]);
        assert_eq!(broken(&abi.answers(), &outcome(Ended::Gave(json!(8)))), none);
    }

    #[test]
    fn where_the_stack_ends_is_one_of_few_ends() {
        let deep = case(Promise::Trap).overflows();
        for kind in [Trapped, ErrorKind::Thrown, ErrorKind::InvalidScript] {
            assert_eq!(broken(&deep, &failed(kind, "")), []);
        }
        for kind in [TimedOut, ErrorKind::OutOfMemory, ErrorKind::Internal] {
            assert_eq!(broken(&deep, &failed(kind, "")), [Promise::Trap]);
        }
        assert_eq!(broken(&deep, &outcome(Ended::Gave(json!(7)))), [Promise::Trap]);
    }

    #[test]
    fn who_ends_late_is_found() {
        let endless = case(Promise::Deadline).fails(TimedOut);
        let mut late = failed(TimedOut, "");
        assert_eq!(broken(&endless, &late), []);
        late.wall = ms(149);
        assert_eq!(broken(&endless, &late), []);
        late.wall = ms(150);
        assert_eq!(broken(&endless, &late), [Promise::Punctual]);
        assert_eq!(broken(&case(Promise::Abi), &failed(Trapped, "")), []);
        let mut busy = failed(TimedOut, "");
        let spends = case(Promise::Busy).spends();
        assert_eq!(broken(&spends, &busy), [Promise::Busy], "the clock stopped it, not its busy time");
        busy.usage.busy = ms(50);
        assert_eq!(broken(&spends, &busy), []);
        busy.usage.busy = ms(200);
        assert_eq!(broken(&spends, &busy), [Promise::Punctual]);
    }

    #[test]
    fn texts_that_are_long_or_odd_are_found() {
        let abi = case(Promise::Abi);
        for (text, odd) in [("two\nlines", false), ("\u{1b}[2J", true), ("\u{202e}", true), ("bell\u{7}", true)] {
            assert_eq!(!broken(&abi, &failed(Trapped, text)).is_empty(), odd, "{text:?}");
        }
        assert_eq!(broken(&abi, &failed(Trapped, &"x".repeat(4_096))), []);
        assert_eq!(broken(&abi, &failed(Trapped, &"x".repeat(4_097))), [Promise::Text]);
    }

    #[test]
    fn who_used_more_than_a_limit_is_found() {
        let answers = case(Promise::Abi).answers();
        let used = |usage| Outcome { usage, ..outcome(Ended::Gave(json!(null))) };
        let most = 64 << 20;
        for (usage, promise) in [
            (Usage { peak_memory: most + 1, ..Usage::default() }, Promise::Memory),
            (Usage { log_bytes: 11, ..Usage::default() }, Promise::Log),
            (Usage { bytes_in: most, ..Usage::default() }, Promise::Input),
            (Usage { bytes_out: most, ..Usage::default() }, Promise::Output),
        ] {
            assert_eq!(broken(&answers, &used(usage)), [promise]);
        }
        let figures = Figures::of(&Limits::default()).unwrap();
        for (log_bytes, faults) in [(1_000, 1), (65_000, 0), (65_536, 0), (70_000, 1)] {
            let flood = used(Usage { log_bytes, ..Usage::default() });
            let found = judge(&case(Promise::Log).gives(|_| json!(null)), &figures, &flood);
            assert_eq!(found.len(), faults, "{log_bytes}: {found:?}");
        }
    }
}
