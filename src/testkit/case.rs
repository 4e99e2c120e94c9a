//! [`Case`]: one hostile guest, how it attacks, and what must become of it. Nothing here runs anything.

use super::promise::Promise;
use crate::{ErrorKind, FunctionBuilder, Limits, Result, ScriptBuilder};
use serde_json::{Map, Value};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Semaphore;

/// One hostile guest of the [`corpus`](super::corpus): what it is, and what must become of it.
#[derive(Clone)]
pub struct Case {
    name: &'static str,
    threat: u32,
    promise: Promise,
    pub(super) guest: fn(&Figures) -> Guest,
    pub(super) attack: Attack,
    pub(super) end: End,
    pub(super) with: With,
    pub(super) with_script: WithScript,
    /// Limits that it is given besides, for it to get as far as the one it attacks.
    pub(super) room: &'static [(&'static str, u64)],
    /// Seats that it takes at least, to be what it is.
    pub(super) seats: fn(&Figures) -> u64,
}

/// What a component is loaded with for a case.
type With = fn(FunctionBuilder, &Wire) -> FunctionBuilder;
/// What a script is loaded with. It has nothing to tell the harness but its result.
type WithScript = fn(ScriptBuilder) -> ScriptBuilder;

impl Case {
    /// A guest of which `run`, or a script's `default`, is called without arguments, and must trap.
    pub(super) fn new(name: &'static str, threat: u32, promise: Promise, guest: fn(&Figures) -> Guest) -> Case {
        let end = End::Fails(ErrorKind::Trapped);
        let attack = Attack::Call(|_| Value::Null);
        Case { name, threat, promise, guest, attack, end, with: |b, _| b, with_script: |b| b, room: &[], seats: |_| 1 }
    }

    /// Ends so.
    pub(super) fn fails(mut self, kind: ErrorKind) -> Case {
        self.end = End::Fails(kind);
        self
    }

    /// Does no harm: gives that value.
    pub(super) fn gives(mut self, value: fn(&Figures) -> Value) -> Case {
        self.end = End::Gives(value);
        self
    }

    /// Does no harm: gives some value.
    pub(super) fn answers(mut self) -> Case {
        self.end = End::Answers;
        self
    }

    /// Ends as it has computed for as long as it may.
    pub(super) fn spends(mut self) -> Case {
        self.end = End::Spends;
        self
    }

    /// Ends where the stack does: by an error of the interpreter's own, or by a trap. Which it is depends on how much of the
    /// machine's stack compiled code takes.
    pub(super) fn overflows(mut self) -> Case {
        self.end = End::Overflows;
        self
    }

    /// Does not load.
    pub(super) fn refused(mut self, kind: ErrorKind) -> Case {
        (self.attack, self.end) = (Attack::Load, End::Fails(kind));
        self
    }

    /// Loads, in as little time as any, and tells its types.
    pub(super) fn described(mut self) -> Case {
        (self.attack, self.end) = (Attack::Describe, End::Answers);
        self
    }

    pub(super) fn args(mut self, args: fn(&Figures) -> Value) -> Case {
        self.attack = Attack::Call(args);
        self
    }

    pub(super) fn attack(mut self, attack: Attack) -> Case {
        self.attack = attack;
        self
    }

    pub(super) fn with(mut self, with: With) -> Case {
        self.with = with;
        self
    }

    pub(super) fn with_script(mut self, with: WithScript) -> Case {
        self.with_script = with;
        self
    }

    pub(super) fn room(mut self, room: &'static [(&'static str, u64)]) -> Case {
        self.room = room;
        self
    }

    pub(super) fn seats(mut self, seats: fn(&Figures) -> u64) -> Case {
        self.seats = seats;
        self
    }

    /// What it is called in a [`Report`](super::Report), in a few words.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The row of isopod's list of threats that it is of.
    pub fn threat(&self) -> u32 {
        self.threat
    }

    /// What it tries to break.
    pub fn promise(&self) -> Promise {
        self.promise
    }

    /// Whether it goes on until its time is up.
    pub(super) fn is_long(&self) -> bool {
        matches!(self.promise, Promise::Deadline | Promise::Busy | Promise::Fuel | Promise::QueueWait)
    }

    /// The limits that it is tried with: `theirs` for what it attacks, and room for all else.
    pub(super) fn figures(&self, theirs: &Figures) -> Figures {
        let mut all = Figures::roomy(theirs);
        let short = |name: &str| narrowed(theirs.get(name), LONGEST);
        match self.promise {
            Promise::Deadline => {
                all.set("deadline_ms", short("deadline_ms"));
                if theirs.is("busy_ms") {
                    all.set("busy_ms", short("deadline_ms"));
                }
                // What computes until then must not run out of fuel before.
                if theirs.is("fuel") {
                    all.set("fuel", u64::MAX);
                }
                all.set("host_calls", u64::MAX);
            }
            Promise::Busy => {
                all.set("busy_ms", short("busy_ms"));
                all.set("deadline_ms", short("busy_ms").saturating_add(LONGEST));
            }
            Promise::QueueWait => {
                all.set("queue_wait_ms", short("queue_wait_ms"));
                all.set("deadline_ms", short("queue_wait_ms").saturating_add(LONGEST));
            }
            Promise::Fuel => all.set("fuel", narrowed(theirs.get("fuel"), MOST_FUEL)),
            other => {
                if let Some(name) = other.limit() {
                    all.set(name, theirs.get(name));
                }
            }
        }
        self.room.iter().for_each(|(name, value)| all.set(name, *value));
        all
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { name, threat, promise, .. } = self;
        f.debug_struct("Case").field("name", name).field("threat", threat).field("promise", promise).finish()
    }
}

/// Milliseconds that a guest is tried for at most: a limit of more is tried as one of so much.
pub(super) const LONGEST: u64 = 5_000;
/// Units of fuel that a guest is given at most: about a second of work.
const MOST_FUEL: u64 = 500_000_000;
/// A bound beyond this is none: an hour in milliseconds, and what takes an hour in fuel.
const NEVER: u64 = 3_600_000;
const NEVER_FUEL: u64 = 10_000_000_000_000;

/// A bound as it is tried, unless it is none.
fn narrowed(bound: u64, most: u64) -> u64 {
    let never = if most == LONGEST { NEVER } else { NEVER_FUEL };
    if bound > never { bound } else { bound.min(most) }
}

/// The bytes or the text of a component, or the source of a script in JavaScript.
pub(super) enum Guest {
    Text(String),
    Bytes(Vec<u8>),
    Script(String),
}

impl From<String> for Guest {
    fn from(text: String) -> Guest {
        Guest::Text(text)
    }
}

impl From<&str> for Guest {
    fn from(text: &str) -> Guest {
        Guest::Text(text.into())
    }
}

impl Guest {
    /// What it is loaded from.
    pub(super) fn bytes(self) -> Result<Vec<u8>, String> {
        match self {
            Guest::Bytes(bytes) => Ok(bytes),
            Guest::Text(text) => wat::parse_str(text).map_err(|e| format!("the corpus is wrong: {e}")),
            Guest::Script(source) => Ok(source.into()),
        }
    }
}

/// What is done to a host with the guest.
#[derive(Clone, Copy)]
pub(super) enum Attack {
    /// It is loaded.
    Load,
    /// It is loaded and asked for its types.
    Describe,
    /// `run`, or a script's `default`, is called with these arguments; none for null.
    Call(fn(&Figures) -> Value),
    /// It is called again by the same tenant, and by another, after it was called once, however that ended.
    Again,
    /// Calls that wait at a gate, more than may.
    Crowd,
    /// As many calls as may wait in the line, and one more.
    Queue,
    /// One call has the only seat, and one waits for it.
    Wait,
}

/// What must become of it.
#[derive(Clone, Copy)]
pub(super) enum End {
    Fails(ErrorKind),
    /// It has computed for as long as it may: by time or by fuel.
    Spends,
    /// It has recursed until the stack ended: by the interpreter's count, or by the machine's.
    Overflows,
    Answers,
    Gives(fn(&Figures) -> Value),
}

/// Limits by the names that [`Limits::from_json`] has for them.
#[derive(Clone, Debug)]
pub(super) struct Figures(Map<String, Value>);

impl Figures {
    pub(super) fn of(limits: &Limits) -> Result<Figures> {
        let json = limits.to_json()?;
        // It is an object, as `from_json` reads it.
        Ok(Figures(serde_json::from_str(&json).unwrap_or_default()))
    }

    /// Room for everything; metered as `theirs`. Who computes a little waits for turns beside those that compute for ever.
    fn roomy(theirs: &Figures) -> Figures {
        let mut all = Figures(Map::new());
        all.set("deadline_ms", 2 * LONGEST);
        match theirs.is("fuel") {
            true => all.set("fuel", 10 * MOST_FUEL),
            false => all.set("busy_ms", LONGEST),
        }
        all
    }

    /// Whether there is such a limit.
    pub(super) fn is(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| !value.is_null())
    }

    /// The limit of that name; none is the largest number.
    pub(super) fn get(&self, name: &str) -> u64 {
        self.0.get(name).and_then(Value::as_u64).unwrap_or(u64::MAX)
    }

    fn set(&mut self, name: &str, value: u64) {
        self.0.insert(name.into(), value.into());
    }

    pub(super) fn limits(&self) -> Result<Limits> {
        Limits::from_json(&Value::Object(self.0.clone()).to_string())
    }

    /// With every default filled in.
    pub(super) fn filled(&self) -> Result<Figures> {
        Figures::of(&self.limits()?)
    }
}

/// How a guest and the harness hear of each other.
#[derive(Clone)]
pub(super) struct Wire(Arc<Ends>);

struct Ends {
    far: AtomicU64,
    inside: AtomicU64,
    gate: Semaphore,
}

impl Default for Wire {
    fn default() -> Wire {
        Wire(Arc::new(Ends { far: AtomicU64::new(0), inside: AtomicU64::new(0), gate: Semaphore::new(0) }))
    }
}

impl Wire {
    /// How far a guest says that it came.
    pub(super) fn far(&self) -> u64 {
        self.0.far.load(Ordering::Relaxed)
    }

    pub(super) fn came(&self, far: u64) {
        self.0.far.fetch_max(far, Ordering::Relaxed);
    }

    /// A number that it did not give before.
    pub(super) fn next(&self) -> u64 {
        self.0.far.fetch_add(1, Ordering::Relaxed)
    }

    /// How many guests have come to the gate.
    pub(super) fn inside(&self) -> u64 {
        self.0.inside.load(Ordering::Relaxed)
    }

    /// Comes to the gate, and waits until it is opened.
    pub(super) async fn wait(self) {
        self.0.inside.fetch_add(1, Ordering::Relaxed);
        // Closed is what it is when it is open.
        let _ = self.0.gate.acquire().await;
    }

    pub(super) fn open(&self) {
        self.0.gate.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ms;

    fn tried(promise: Promise, limits: Limits) -> Figures {
        let case = Case::new("case", 0, promise, |_| "".into());
        case.figures(&Figures::of(&limits).unwrap()).filled().unwrap()
    }

    #[test]
    fn a_case_has_room_for_all_but_what_it_attacks() {
        let tight = Limits::default().deadline(ms(50)).host_calls(7).memory(99).handles(3);
        let figures = tried(Promise::HostCalls, tight.clone());
        assert_eq!((figures.get("host_calls"), figures.get("deadline_ms"), figures.get("handles")), (7, 10_000, 1_000));
        let figures = tried(Promise::Deadline, tight.clone());
        assert_eq!(
            (figures.get("deadline_ms"), figures.get("busy_ms"), figures.get("memory_bytes")),
            (50, 50, 64 << 20)
        );
        let figures = tried(Promise::Busy, tight.clone());
        assert_eq!((figures.get("deadline_ms"), figures.get("busy_ms")), (5_050, 50));
        let figures = tried(Promise::Deadline, tight.fuel(1_000));
        assert!(figures.get("deadline_ms") == 50 && figures.get("fuel") > 1_000_000 && !figures.is("busy_ms"));
    }

    #[test]
    fn long_times_are_tried_as_shorter_ones_and_none_stays_none() {
        let long = Limits::default().deadline(ms(60_000)).busy(ms(50_000));
        assert_eq!(tried(Promise::Deadline, long.clone()).get("deadline_ms"), LONGEST);
        assert_eq!(tried(Promise::Busy, long).get("busy_ms"), LONGEST);
        let none = Limits::default().deadline(std::time::Duration::MAX);
        assert_eq!(tried(Promise::Deadline, none).get("deadline_ms"), u64::MAX);
    }
}
