//! [`Promise`]: what a guest may not break.

use std::fmt;

/// What isopod promises about a guest, whatever the guest does. A [`Report`](super::Report) has a line for each.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Promise {
    /// It ends by its [`deadline`](crate::Limits::deadline).
    Deadline,
    /// It computes no longer than its [`busy`](crate::Limits::busy) time.
    Busy,
    /// It executes no more than its [`fuel`](crate::Limits::fuel).
    Fuel,
    /// Its memories and tables are no larger than its [`memory`](crate::Limits::memory).
    Memory,
    /// Its arguments are no larger than its [`input`](crate::Limits::input).
    Input,
    /// Its result is no larger than its [`output`](crate::Limits::output).
    Output,
    /// What it passes to the host at once is no larger than its [`transfer`](crate::Limits::transfer).
    Transfer,
    /// What is kept of what it writes is no larger than its [`log`](crate::Limits::log).
    Log,
    /// It has no more [`handles`](crate::Limits::handles).
    Handles,
    /// It makes no more [`host_calls`](crate::Limits::host_calls).
    HostCalls,
    /// It gets no more [`random_bytes`](crate::Limits::random_bytes) at once.
    Random,
    /// No more of its calls run at once than its [`concurrency`](crate::Limits::concurrency).
    Concurrency,
    /// No more of its calls wait than its [`queue`](crate::Limits::queue).
    Queue,
    /// None of its calls waits longer than its [`queue_wait`](crate::Limits::queue_wait).
    QueueWait,
    /// Its calls of functions nest no deeper than its [`depth`](crate::Limits::depth).
    Depth,
    /// It makes no more [`calls`](crate::Limits::calls) of functions.
    Calls,
    /// A component has no more bytes than [`component_bytes`](crate::LoadLimits::component_bytes), or it is not compiled.
    ComponentBytes,
    /// The same for its [`functions`](crate::LoadLimits::functions).
    Functions,
    /// The same for its [`core_instances`](crate::LoadLimits::core_instances).
    CoreInstances,
    /// The same for its [`adapters`](crate::LoadLimits::adapters).
    Adapters,
    /// The same for its [`nesting`](crate::LoadLimits::nesting).
    Nesting,
    /// The same for its [`values`](crate::LoadLimits::values).
    Values,
    /// Strangers' components are compiled where that is bounded in memory and time: by a
    /// [`compile_worker`](crate::compile_worker).
    Compiling,
    /// What is no component, or of a proposal that is off, does not load.
    Invalid,
    /// A script whose source takes more to compile than about a second, 64 MiB or the stack does not load, and neither does
    /// one that is none: see [`ScriptBuilder::load`](crate::ScriptBuilder::load).
    Sources,
    /// A value that breaks the canonical ABI reaches nobody.
    Abi,
    /// A guest that traps, throws, overflows its stack or exits ends its own call and nothing else.
    Trap,
    /// A host function that panics ends the call that it serves and nothing else.
    Panic,
    /// Nothing is reachable that was not granted.
    Grants,
    /// Requests go to no address that was not granted.
    Network,
    /// Files and keys are no more than their grants say, and nothing outside of them.
    Quota,
    /// Errors print in 4 KiB without control characters, whatever the guest's names and texts are.
    Text,
    /// Nobody sees what another call left, and no instance serves after an abnormal end.
    Fresh,
    /// Seats and slots come back.
    Seats,
    /// What ends a call that is out of time ends it within 100 ms.
    Punctual,
    /// The process takes at most 64 MiB more than what its guests may have, and gives it back.
    Resident,
    /// Calls of others are answered rightly meanwhile, and their p99 rises by at most three ticks plus twice what it was.
    Neighbours,
}

/// The word for it, in a report, and the limit by its name in [`Limits::from_json`](crate::Limits::from_json).
macro_rules! words {
    ($($promise:ident $word:literal $($limit:literal)?),* $(,)?) => {
        impl Promise {
            /// The limit that it is about, by its name in [`Limits::from_json`](crate::Limits::from_json).
            pub fn limit(self) -> Option<&'static str> {
                match self {
                    $($(Promise::$promise => Some($limit),)?)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for Promise {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $(Promise::$promise => $word),* })
            }
        }
    };
}

words! {
    Deadline "deadline" "deadline_ms",
    Busy "busy" "busy_ms",
    Fuel "fuel" "fuel",
    Memory "memory" "memory_bytes",
    Input "input" "input_bytes",
    Output "output" "output_bytes",
    Transfer "transfer" "transfer_bytes",
    Log "log" "log_bytes",
    Handles "handles" "handles",
    HostCalls "host_calls" "host_calls",
    Random "random_bytes" "random_bytes",
    Concurrency "concurrency" "concurrency",
    Queue "queue" "queue",
    QueueWait "queue_wait" "queue_wait_ms",
    Depth "depth" "depth",
    Calls "calls" "calls",
    ComponentBytes "load: component_bytes",
    Functions "load: functions",
    CoreInstances "load: core_instances",
    Adapters "load: adapters",
    Nesting "load: nesting",
    Values "load: values",
    Compiling "compiling",
    Invalid "valid components",
    Sources "sources of scripts",
    Abi "canonical ABI",
    Trap "traps",
    Panic "panics of the host's",
    Grants "grants",
    Network "network",
    Quota "quotas",
    Text "texts of guests",
    Fresh "fresh instances",
    Seats "seats",
    Punctual "on time",
    Resident "memory of the process",
    Neighbours "neighbours",
}
