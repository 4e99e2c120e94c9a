//! What a call used ([`Usage`]), what it gave back ([`Reply`]), and who is told about it ([`Meter`]).

use crate::denial::Denial;
use crate::error::ErrorKind;
use crate::log::LogLine;
use bytes::Bytes;
use std::fmt;
use std::time::Duration;

/// What one call used. Every call ends with it, a failed or cancelled call as well.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// From admission to the end: waiting for a seat, starting the instance, host calls and the guest's own work.
    pub wall: Duration,
    /// Time spent inside the guest, starting its instance included, even if that was ahead of the call, and in host
    /// functions that did not wait. What the busy limit counts.
    pub busy: Duration,
    /// Units of fuel used, for a function with a fuel limit.
    pub fuel: Option<u64>,
    /// Highest sum, in bytes, of all linear memories and tables.
    pub peak_memory: u64,
    /// Bytes of the arguments that were handed to the guest.
    pub bytes_in: u64,
    /// Bytes of the result that the guest handed back.
    pub bytes_out: u64,
    /// Calls of the guest into host functions.
    pub host_calls: u64,
    /// Bytes that the guest wrote to stdout and stderr and logged, and that were kept. A record of `wasi:logging` counts as
    /// its texts and 64 bytes.
    pub log_bytes: u64,
    /// Bytes that were written beyond the log limit and dropped, or logged faster than allowed and told to no sink.
    pub log_dropped: u64,
    /// Whether the instance was started for this call: not ahead of it, and not for another one. False for a call that got
    /// no instance.
    pub cold: bool,
}

impl fmt::Display for Usage {
    /// For people: `wall 83 µs · busy 83 µs · peak 1.1 MiB · 1 host call`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wall {} · busy {} · peak {}", Span(self.wall), Span(self.busy), Size(self.peak_memory))?;
        if let Some(fuel) = self.fuel {
            write!(f, " · {fuel} fuel")?;
        }
        write!(f, " · {} host call{}", self.host_calls, if self.host_calls == 1 { "" } else { "s" })
    }
}

/// A duration in ns, µs or ms.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_nanos() {
            ns @ 0..1_000 => write!(f, "{ns} ns"),
            ns @ 1_000..1_000_000 => write!(f, "{} µs", ns / 1_000),
            ns @ 1_000_000..10_000_000_000 => write!(f, "{} ms", ns / 1_000_000),
            ns => write!(f, "{} s", ns / 1_000_000_000),
        }
    }
}

/// Bytes in binary units.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n @ 0..1024 => write!(f, "{n} B"),
            n @ 1024..1_048_576 => write!(f, "{:.1} KiB", n as f64 / 1024.0),
            n => write!(f, "{:.1} MiB", n as f64 / 1_048_576.0),
        }
    }
}

/// What the guest wrote to stdout and stderr and logged, up to the function's log limit for all together.
///
/// The bytes are the guest's: they may hold anything, control characters included.
#[non_exhaustive]
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Output {
    /// Standard output.
    pub stdout: Bytes,
    /// Standard error.
    pub stderr: Bytes,
    /// Records of `wasi:logging`.
    pub log: Vec<LogLine>,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Output { stdout, stderr, log } = self;
        let (stdout, stderr, log) = (stdout.len(), stderr.len(), log.len());
        write!(f, "Output {{ stdout: {stdout} bytes, stderr: {stderr} bytes, log: {log} records }}")
    }
}

/// What a call gives back: the value, and what it cost.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Reply<T> {
    /// The export's result. A guest's own `result<_, e>` is part of it: it is a value, not an [`Error`](crate::Error).
    pub value: T,
    /// What the call used.
    pub usage: Usage,
    /// In a box, as most calls have none of it, and a reply is moved some times.
    pub(crate) aside: Option<Box<Aside>>,
}

/// What there is to tell of a call besides its value.
#[derive(Clone, Debug, Default)]
pub(crate) struct Aside {
    pub output: Output,
    pub denials: Vec<Denial>,
}

impl<T> Reply<T> {
    /// What the guest was refused during the call.
    pub fn denials(&self) -> &[Denial] {
        self.aside.as_ref().map_or(&[], |aside| &aside.denials)
    }

    /// What the guest wrote to stdout and stderr, and logged.
    pub fn output(&self) -> &Output {
        static NOTHING: Output = Output { stdout: Bytes::new(), stderr: Bytes::new(), log: Vec::new() };
        self.aside.as_ref().map_or(&NOTHING, |aside| &aside.output)
    }

    /// The same reply with another value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Reply<U> {
        Reply { value: f(self.value), usage: self.usage, aside: self.aside }
    }
}

/// Somebody who wants to know what every call used, such as a metrics registry or a biller.
///
/// Told once for each call that asked for a seat, on the thread that ends it: be quick and do not block. A call that was
/// refused before that, such as for its arguments, is none.
///
/// ```
/// use isopod::{Host, Meter, Receipt};
///
/// struct Print;
///
/// impl Meter for Print {
///     fn record(&self, receipt: &Receipt<'_>) {
///         println!("{} for {:?}: {} {:?}", receipt.function, receipt.tenant, receipt.usage, receipt.error);
///     }
/// }
///
/// let host = Host::builder().meter(Print).build()?;
/// # Ok::<(), isopod::Error>(())
/// ```
pub trait Meter: Send + Sync + 'static {
    /// One call ended.
    fn record(&self, receipt: &Receipt<'_>);
}

/// What a [`Meter`] is told.
#[non_exhaustive]
#[derive(Clone, Copy, Debug)]
pub struct Receipt<'a> {
    /// The function's name.
    pub function: &'a str,
    /// Whom the call was for; empty where the caller named no tenant.
    pub tenant: &'a str,
    /// `None` for a call that gave its value, else why it did not.
    pub error: Option<ErrorKind>,
    /// What the call used.
    pub usage: Usage,
    /// A number that no other call in this process has; 0 for a call that got no seat.
    pub call_id: u64,
    /// The [`call_id`](Receipt::call_id) of the call from outside that led to this one; its own where it is that.
    pub root_id: u64,
    /// How many calls of functions stand above this one: 0 for a call from outside. The busy time and the fuel of a
    /// call include those of the calls it made, so that what was used is the sum of the calls from outside.
    pub depth: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_reads_well() {
        let usage = Usage {
            wall: Duration::from_nanos(41_300),
            busy: Duration::from_nanos(900),
            peak_memory: 1_153_434,
            host_calls: 1,
            ..Usage::default()
        };
        assert_eq!(usage.to_string(), "wall 41 µs · busy 900 ns · peak 1.1 MiB · 1 host call");
        let usage = Usage { fuel: Some(7), wall: Duration::from_millis(5_200), ..Usage::default() };
        assert_eq!(usage.to_string(), "wall 5200 ms · busy 0 ns · peak 0 B · 7 fuel · 0 host calls");
    }
}
