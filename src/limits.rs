//! What a call may use ([`Limits`]) and what a component may look like to be loaded ([`LoadLimits`]).
//!
//! Every default is finite. Whoever wants no bound writes [`UNLIMITED`] or `Duration::MAX` out. Values that contradict
//! each other are refused when the function is loaded, with the names of both.

use crate::error::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One kibibyte, for limits in bytes.
pub const KIB: u64 = 1024;
/// One mebibyte, for limits in bytes.
pub const MIB: u64 = 1024 * KIB;
/// No bound, written out.
pub const UNLIMITED: u64 = u64::MAX;

/// A duration in milliseconds, for limits.
pub const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// What one call may use. See each method for the default.
///
/// ```
/// use isopod::{Limits, MIB, ms};
/// let limits = Limits::default().deadline(ms(50)).memory(32 * MIB);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    deadline: Duration,
    metering: Metering,
    memory: u64,
    input: u64,
    output: u64,
    transfer: Option<u64>,
    log: u64,
    handles: u32,
    host_calls: u64,
    random: u64,
    concurrency: u32,
    queue: u32,
    queue_wait: Option<Duration>,
    depth: u32,
    calls: u32,
}

/// How the guest's own work is bounded: by the clock or by counting instructions. One of the two, as the two together
/// cost 2.8 times the run time in a tight loop.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Metering {
    /// The default of one second, or the deadline where that is shorter.
    Default,
    Busy(Duration),
    Fuel(u64),
    /// Both were asked for; refused at load.
    Both,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            deadline: Duration::from_secs(5),
            metering: Metering::Default,
            memory: 64 * MIB,
            input: 4 * MIB,
            output: 4 * MIB,
            transfer: None,
            log: 64 * KIB,
            handles: 1_000,
            host_calls: 100_000,
            random: 64 * KIB,
            concurrency: 256,
            queue: 1_024,
            queue_wait: None,
            depth: 8,
            calls: 1_000,
        }
    }
}

/// Busy time that a call may use if nothing was said.
const DEFAULT_BUSY: Duration = Duration::from_secs(1);
/// Bytes that a guest may pass to the host at once if nothing was said. wasmtime's own default is 128 MiB.
const DEFAULT_TRANSFER: u64 = 4 * MIB;

impl Limits {
    /// Wall-clock time from the call to its end: waiting for a seat, starting the instance, host calls, lifting the
    /// result and post-return included. Default 5 s. A call that passes it ends as [`ErrorKind::TimedOut`], or as
    /// [`ErrorKind::Overloaded`] if it got no seat until then.
    pub fn deadline(mut self, limit: Duration) -> Limits {
        self.deadline = limit;
        self
    }

    /// Time that the guest itself may compute, waiting excluded. Default 1 s. Measured at each tick of the host, so
    /// a call ends up to one tick later, as [`ErrorKind::TimedOut`]. Excludes [`fuel`](Limits::fuel).
    pub fn busy(mut self, limit: Duration) -> Limits {
        self.metering = match self.metering {
            Metering::Fuel(_) | Metering::Both => Metering::Both,
            _ => Metering::Busy(limit),
        };
        self
    }

    /// Count instructions instead of measuring busy time: the same call uses the same fuel on every machine and ends
    /// as [`ErrorKind::OutOfFuel`] at the same instruction. Where it computes a NaN, that is the canonical one. Excludes
    /// [`busy`](Limits::busy). See [`deterministic`](crate::FunctionBuilder::deterministic) for all else that can differ.
    ///
    /// A function with a fuel limit runs on an engine of its own kind within the Host: its code is compiled to count. It
    /// takes 0.9 to 1.2 times as long as code that is metered by time, and up to a sixth more, as it gives way every 100 000
    /// units. A component with several memories gives way every 1 000, which can more than double the time that it computes.
    pub fn fuel(mut self, limit: u64) -> Limits {
        self.metering = match self.metering {
            Metering::Busy(_) | Metering::Both => Metering::Both,
            _ => Metering::Fuel(limit),
        };
        self
    }

    /// Bytes of all linear memories and tables of a call together. Default 64 MiB. Growing beyond it fails inside the
    /// guest; one that cannot go on ends as [`ErrorKind::OutOfMemory`].
    pub fn memory(mut self, bytes: u64) -> Limits {
        self.memory = bytes;
        self
    }

    /// Bytes of a call's arguments. Default 4 MiB. More is refused before the export is called. An answer of a function that
    /// serves an interface has the same bound.
    pub fn input(mut self, bytes: u64) -> Limits {
        self.input = bytes;
        self
    }

    /// Bytes of a call's result. Default 4 MiB. More ends as [`ErrorKind::OutputTooLarge`], or as `LimitExceeded` of
    /// [`transfer`](Limits::transfer) where an async export passes more than that at once.
    pub fn output(mut self, bytes: u64) -> Limits {
        self.output = bytes;
        self
    }

    /// Bytes that the guest may pass to the host at once, as the arguments of one host call or as the result. Counted
    /// as the host must allocate them, which is more than the bytes of the value where it is nested, and 40 bytes for
    /// each element of a list in the result of a dynamic call, except for bytes that pass in one piece (see
    /// [`Function::call`](crate::Function::call)). The result of a script is counted as its text, and 40 bytes for each
    /// element of a list, 100 for each entry of an object and 640 for each object. Default 4 MiB, or the output limit where that is larger.
    pub fn transfer(mut self, bytes: u64) -> Limits {
        self.transfer = Some(bytes);
        self
    }

    /// Bytes of stdout, stderr and `wasi:logging` that are kept. Default 64 KiB. What is written beyond is counted and
    /// dropped; the guest does not notice.
    pub fn log(mut self, bytes: u64) -> Limits {
        self.log = bytes;
        self
    }

    /// Live handles: resources, streams, tasks, of the guest and of the host for the guest. Default 1 000.
    pub fn handles(mut self, count: u32) -> Limits {
        self.handles = count;
        self
    }

    /// Host calls that a call may make. Default 100 000. A guest that goes beyond is stopped when it next gives way, which
    /// is at the next tick; with [`fuel`](Limits::fuel) as the host call returns. Whatever it answers until then is
    /// discarded.
    pub fn host_calls(mut self, count: u64) -> Limits {
        self.host_calls = count;
        self
    }

    /// Bytes that the guest may ask for in one request for randomness. Default 64 KiB.
    pub fn random_bytes(mut self, bytes: u64) -> Limits {
        self.random = bytes;
        self
    }

    /// Calls of this function that may run at once. Default 256; [`seats`](crate::HostBuilder::seats) and
    /// [`tenant_seats`](crate::HostBuilder::tenant_seats) of the host bound them too.
    pub fn concurrency(mut self, calls: u32) -> Limits {
        self.concurrency = calls;
        self
    }

    /// Calls that may wait for a seat. Default 1 024; one more ends as [`ErrorKind::Overloaded`] at once, unless another
    /// tenant has more in the line than the newcomer's would have with it: then the last of those does, so that no tenant
    /// closes the line to others. Whose tenant's calls were busy least is next; calls of one tenant keep their order. A call
    /// that a guest makes does not wait.
    pub fn queue(mut self, calls: u32) -> Limits {
        self.queue = calls;
        self
    }

    /// How long a call may wait for a seat before it ends as [`ErrorKind::Overloaded`]. Default: the deadline.
    pub fn queue_wait(mut self, limit: Duration) -> Limits {
        self.queue_wait = Some(limit);
        self
    }

    /// How deep calls of other functions may be nested below a call from outside. Default 8. One deeper fails inside the
    /// guest, or ends it where it calls by an interface that another function serves. What counts is the first function's limit.
    pub fn depth(mut self, calls: u32) -> Limits {
        self.depth = calls;
        self
    }

    /// Calls of other functions that a call from outside may lead to, those that they make in turn included. Default
    /// 1 000. One more fails inside the guest, or ends it, as with [`depth`](Limits::depth). What counts is the first
    /// function's limit.
    pub fn calls(mut self, calls: u32) -> Limits {
        self.calls = calls;
        self
    }

    /// Limits from a JSON object such as `{"deadline_ms": 50, "memory_bytes": 33554432}`; what is not named keeps its
    /// default. Names are those of the methods with their unit: `deadline_ms`, `busy_ms`, `fuel`, `memory_bytes`,
    /// `input_bytes`, `output_bytes`, `transfer_bytes`, `log_bytes`, `handles`, `host_calls`, `random_bytes`,
    /// `concurrency`, `queue`, `queue_wait_ms`, `depth`, `calls`.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`] for anything that is not such an object, with the name of an unknown or repeated limit.
    pub fn from_json(json: &str) -> Result<Limits> {
        let named: Named = serde_json::from_str(json)
            .map_err(|e| Error::new(ErrorKind::Misuse, format!("these limits cannot be read: {e}")))?;
        let mut limits = Limits::default();
        let millis = Duration::from_millis;
        macro_rules! set {
            ($($name:ident => $method:ident $(($convert:expr))?),*) => {
                $(if let Some(value) = named.$name { limits = limits.$method($($convert)?(value)); })*
            };
        }
        set!(deadline_ms => deadline(millis), busy_ms => busy(millis), fuel => fuel, memory_bytes => memory,
            input_bytes => input, output_bytes => output, transfer_bytes => transfer, log_bytes => log, handles => handles,
            host_calls => host_calls, random_bytes => random_bytes, concurrency => concurrency, queue => queue,
            queue_wait_ms => queue_wait(millis), depth => depth, calls => calls);
        Ok(limits)
    }

    /// The limits as [`from_json`](Limits::from_json) reads them, as they will be enforced: with every default filled in,
    /// and times of less than a millisecond as one. No bound is the largest number, and what does not apply is null.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`] for limits that contradict each other, as when a function is loaded.
    pub fn to_json(&self) -> Result<String> {
        let limits = self.resolve()?;
        let millis = |time: Duration| Some(u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1));
        let named = Named {
            deadline_ms: millis(limits.deadline),
            busy_ms: millis(limits.busy).filter(|_| limits.fuel.is_none()),
            fuel: limits.fuel,
            memory_bytes: Some(limits.memory),
            input_bytes: Some(limits.input),
            output_bytes: Some(limits.output),
            transfer_bytes: Some(limits.transfer as u64),
            log_bytes: Some(limits.log as u64),
            handles: Some(self.handles),
            host_calls: Some(limits.host_calls),
            random_bytes: Some(limits.random),
            concurrency: Some(limits.concurrency),
            queue: Some(limits.queue),
            queue_wait_ms: millis(limits.queue_wait).filter(|_| limits.queue > 0),
            depth: Some(limits.depth),
            calls: Some(limits.calls),
        };
        serde_json::to_string(&named).map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))
    }

    /// The limits as they will be enforced, or what is contradictory about them.
    pub(crate) fn resolve(&self) -> Result<Resolved> {
        let contradiction = |what: String| Err(Error::new(ErrorKind::Misuse, what));
        for (name, value) in [
            ("memory", self.memory),
            ("output", self.output),
            ("handles", self.handles.into()),
            ("concurrency", self.concurrency.into()),
        ] {
            if value == 0 {
                return contradiction(format!("a {name} limit of 0 lets no call run; give it at least 1"));
            }
        }
        if self.deadline.is_zero() {
            return contradiction("a deadline of 0 lets no call run; give it at least 1 ms".into());
        }
        let (busy, fuel) = match self.metering {
            Metering::Default => (DEFAULT_BUSY.min(self.deadline), None),
            Metering::Busy(busy) if busy.is_zero() => {
                return contradiction("a busy limit of 0 lets no call run; give it at least 1 ms".into());
            }
            Metering::Busy(busy) if busy > self.deadline => {
                return contradiction(format!(
                    "a busy limit of {busy:?} can never be reached within a deadline of {:?}; lower busy or raise the deadline",
                    self.deadline
                ));
            }
            Metering::Busy(busy) => (busy, None),
            Metering::Fuel(0) => return contradiction("a fuel limit of 0 lets no call run; give it at least 1".into()),
            Metering::Fuel(fuel) => (Duration::MAX, Some(fuel)),
            Metering::Both => {
                return contradiction("busy and fuel are two ways to bound the same work; set one of them".into());
            }
        };
        if let Some(transfer) =
            self.transfer.filter(|transfer| *transfer < self.output && self.output != Limits::default().output)
        {
            return contradiction(format!(
                "an output limit of {} bytes can never be reached with a transfer limit of {transfer} bytes; lower output or raise transfer",
                self.output
            ));
        }
        if let Some(wait) = self.queue_wait.filter(|wait| *wait > self.deadline) {
            return contradiction(format!(
                "a queue_wait of {wait:?} can never be reached within a deadline of {:?}; lower queue_wait or raise the deadline",
                self.deadline
            ));
        }
        if let Some(wait) = self.queue_wait.filter(|_| self.queue == 0) {
            return contradiction(format!(
                "a queue_wait of {wait:?} has no effect with a queue of 0 calls; remove it or raise queue"
            ));
        }
        Ok(Resolved {
            deadline: self.deadline,
            busy,
            fuel,
            memory: self.memory,
            input: self.input,
            output: self.output,
            transfer: self.transfer.unwrap_or(DEFAULT_TRANSFER.max(self.output)).try_into().unwrap_or(usize::MAX),
            log: self.log.try_into().unwrap_or(usize::MAX),
            handles: self.handles as usize,
            host_calls: self.host_calls,
            random: self.random,
            concurrency: self.concurrency,
            queue: self.queue,
            queue_wait: self.queue_wait.unwrap_or(self.deadline),
            depth: self.depth,
            calls: self.calls,
        })
    }
}

impl From<&Resolved> for Limits {
    fn from(limits: &Resolved) -> Limits {
        Limits {
            deadline: limits.deadline,
            metering: limits.fuel.map_or(Metering::Busy(limits.busy), Metering::Fuel),
            memory: limits.memory,
            input: limits.input,
            output: limits.output,
            transfer: Some(limits.transfer as u64),
            log: limits.log as u64,
            handles: limits.handles.try_into().unwrap_or(u32::MAX),
            host_calls: limits.host_calls,
            random: limits.random,
            concurrency: limits.concurrency,
            queue: limits.queue,
            queue_wait: (limits.queue > 0).then_some(limits.queue_wait),
            depth: limits.depth,
            calls: limits.calls,
        }
    }
}

/// [`Limits`] that were found to make sense, with every default filled in.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub deadline: Duration,
    pub busy: Duration,
    pub fuel: Option<u64>,
    pub memory: u64,
    pub input: u64,
    pub output: u64,
    pub transfer: usize,
    pub log: usize,
    pub handles: usize,
    pub host_calls: u64,
    pub random: u64,
    pub concurrency: u32,
    pub queue: u32,
    pub queue_wait: Duration,
    pub depth: u32,
    pub calls: u32,
}

/// The form that [`Limits::from_json`] reads and [`Limits::to_json`] writes.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Named {
    deadline_ms: Option<u64>,
    busy_ms: Option<u64>,
    fuel: Option<u64>,
    memory_bytes: Option<u64>,
    input_bytes: Option<u64>,
    output_bytes: Option<u64>,
    transfer_bytes: Option<u64>,
    log_bytes: Option<u64>,
    handles: Option<u32>,
    host_calls: Option<u64>,
    random_bytes: Option<u64>,
    concurrency: Option<u32>,
    queue: Option<u32>,
    queue_wait_ms: Option<u64>,
    depth: Option<u32>,
    calls: Option<u32>,
}

/// Whose component it is: decides what it may look like to be compiled at all.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Trust {
    /// The embedder's own component, as trusted as the embedder's code. Default of `component_file` and `component_wat`.
    Own,
    /// A stranger's: held to less, and compiled in a process of its own where the host has one for that; see
    /// [`CompileWorker`](crate::CompileWorker). Default of `component_bytes`.
    Untrusted,
}

/// What a component may look like to be loaded. Compiling is the one thing that cannot be interrupted, so a component
/// is measured before; one that is too large is refused as [`ErrorKind::TooComplex`].
#[derive(Clone, Debug, PartialEq)]
pub struct LoadLimits {
    /// Whether it is compiled in another process, where the host has one for that.
    pub(crate) apart: bool,
    pub(crate) bytes: u64,
    pub(crate) functions: u32,
    pub(crate) instances: u32,
    pub(crate) adapters: u32,
    pub(crate) nesting: u32,
    pub(crate) values: u64,
}

impl From<Trust> for LoadLimits {
    /// For [`Trust::Own`]: 64 MiB, 200 000 functions, 64 core instances, 10 000 adapters, nesting 100, 1 000 000 000
    /// values. For [`Trust::Untrusted`]: 8 MiB, 50 000 functions, 20 core instances, 1 000 adapters, nesting 50,
    /// 20 000 000 values.
    fn from(trust: Trust) -> LoadLimits {
        // Chosen by what other people's tools make of a world with one function (guests/third-party). The largest that
        // strangers plausibly send is QuickJS: 1.7 MB, 2 630 functions, 11 core instances, 90 adapters, nesting 4,
        // 9 million values.
        // StarlingMonkey (12 MB) and Python (18 MB, 16 700 functions, 38 core instances, 121 adapters) take ten seconds
        // and more to compile, too long for a stranger's. An adapter takes about 2 ms.
        match trust {
            Trust::Own => LoadLimits {
                apart: false,
                bytes: 64 * MIB,
                functions: 200_000,
                instances: 64,
                adapters: 10_000,
                nesting: 100,
                values: 1_000_000_000,
            },
            Trust::Untrusted => LoadLimits {
                apart: true,
                bytes: 8 * MIB,
                functions: 50_000,
                instances: 20,
                adapters: 1_000,
                nesting: 50,
                values: 20_000_000,
            },
        }
    }
}

impl LoadLimits {
    /// Bytes of the component.
    pub fn component_bytes(mut self, bytes: u64) -> LoadLimits {
        self.bytes = bytes;
        self
    }

    /// Core functions, core imports and globals, in all core modules together; and, each counted apart, their types, and
    /// what all instances export together, where one that exports another exports all of it.
    pub fn functions(mut self, count: u32) -> LoadLimits {
        self.functions = count;
        self
    }

    /// Core instances, those of the component's parts included. At most [`LoadLimits::MAX_INSTANCES`], which the pool
    /// is made for.
    pub fn core_instances(mut self, count: u32) -> LoadLimits {
        self.instances = count;
        self
    }

    /// Parts of the component, and functions that pass from part to part or out of it, as often as they are
    /// instantiated: code is compiled for each, so that a small component can ask for much.
    pub fn adapters(mut self, count: u32) -> LoadLimits {
        self.adapters = count;
        self
    }

    /// Depth of loops in a function, and of components within each other.
    pub fn nesting(mut self, depth: u32) -> LoadLimits {
        self.nesting = depth;
        self
    }

    /// Values that the compiler keeps account of: what the code of all core modules computes, passes and keeps, more for
    /// a large function than for many small ones, and what their tables and memories begin with.
    pub fn values(mut self, count: u64) -> LoadLimits {
        self.values = count;
        self
    }

    /// Core instances of one component that the pool can hold.
    pub const MAX_INSTANCES: u32 = 256;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_finite_and_agree() {
        let resolved = Limits::default().resolve().unwrap();
        assert_eq!(resolved.busy, Duration::from_secs(1));
        assert_eq!(resolved.transfer as u64, 4 * MIB);
        assert_eq!(Limits::default().deadline(ms(50)).resolve().unwrap().busy, ms(50));
        assert_eq!(Limits::default().output(16 * MIB).resolve().unwrap().transfer as u64, 16 * MIB);
    }

    #[test]
    fn contradictions_name_both_sides() {
        let l = Limits::default;
        let cases = [
            (l().memory(0), "memory"),
            (l().deadline(Duration::ZERO), "deadline"),
            (l().busy(ms(1)).fuel(1), "busy and fuel"),
            (l().fuel(1).busy(ms(1)), "busy and fuel"),
            (l().fuel(0), "fuel"),
            (l().busy(Duration::ZERO), "busy"),
            (l().deadline(ms(5)).busy(ms(6)), "busy limit of 6ms can never be reached within a deadline of 5ms"),
            (l().deadline(ms(5)).queue_wait(ms(6)), "queue_wait"),
            (l().queue(0).queue_wait(ms(6)), "queue_wait of 6ms has no effect with a queue of 0"),
            (l().transfer(10).output(11), "transfer"),
            (l().concurrency(0), "concurrency"),
            (l().handles(0), "handles"),
        ];
        for (limits, expected) in cases {
            let error = limits.resolve().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Misuse);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn json_names_are_checked() {
        let limits = Limits::from_json(r#"{"deadline_ms": 50, "fuel": 7, "queue": 3}"#).unwrap();
        assert_eq!(limits, Limits::default().deadline(ms(50)).fuel(7).queue(3));
        let error = Limits::from_json(r#"{"memory_byte": 1}"#).unwrap_err();
        assert!(error.to_string().contains("memory_byte"), "{error}");
        assert!(Limits::from_json(r#"{"fuel": -1}"#).is_err());
        assert!(Limits::from_json(r#"{"fuel": 1, "fuel": 2}"#).is_err());
    }

    #[test]
    fn json_says_what_is_enforced() {
        let all = Limits::default().deadline(Duration::MAX).busy(Duration::MAX).queue(0).memory(UNLIMITED);
        for limits in [Limits::default(), Limits::default().fuel(7).output(16 * MIB).queue_wait(ms(3)), all] {
            let json = limits.to_json().unwrap();
            let read = Limits::from_json(&json).unwrap();
            assert_eq!(read.to_json().unwrap(), json);
        }
        let json = Limits::default().deadline(ms(50)).to_json().unwrap();
        assert!(json.contains(r#""deadline_ms":50,"busy_ms":50"#) && json.contains(r#""fuel":null"#), "{json}");
        assert!(Limits::default().memory(0).to_json().is_err());
    }
}
