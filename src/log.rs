//! What guests log, in words: [`LogRecord`], and who is told about each ([`LogSink`]).

use serde::Deserialize;
use std::fmt;

/// How much a record matters, in the words of `wasi:logging`.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Values of variables and the flow of control.
    Trace,
    /// For somebody who debugs the guest.
    Debug,
    /// For somebody who watches the guest.
    Info,
    /// Something that may become a problem.
    Warn,
    /// A problem.
    Error,
    /// A problem that ends the guest.
    Critical,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
            Level::Critical => "critical",
        })
    }
}

/// How a guest said it.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum LogSource {
    /// By `wasi:logging`.
    Logging,
    /// A line of stdout, which counts as [`Level::Info`].
    Stdout,
    /// A line of stderr, which counts as [`Level::Warn`].
    Stderr,
}

/// One record of a guest. Its texts are sanitised, without line breaks, and cut: `message` to 4 KiB, `context` to 128
/// bytes.
#[non_exhaustive]
#[derive(Clone, Copy, Debug)]
pub struct LogRecord<'a> {
    /// The function's name.
    pub function: &'a str,
    /// Whom the call is for; empty where the caller named no tenant.
    pub tenant: &'a str,
    /// A number that no other call in this process has.
    pub call_id: u64,
    /// How the guest said it.
    pub source: LogSource,
    /// How much it matters.
    pub level: Level,
    /// What the guest groups records by; empty for stdout and stderr.
    pub context: &'a str,
    /// What it says.
    pub message: &'a str,
}

/// Somebody who wants every record of every guest, such as a log store. Each is a `tracing` event of the target
/// `isopod::guest` as well.
///
/// Told while the guest waits: be quick and do not block. A panic in it is caught.
///
/// ```
/// use isopod::{Host, LogRecord, LogSink};
///
/// struct Print;
///
/// impl LogSink for Print {
///     fn log(&self, record: &LogRecord<'_>) {
///         println!("{} {} {}: {}", record.function, record.call_id, record.level, record.message);
///     }
/// }
///
/// let host = Host::builder().log(Print).build()?;
/// # Ok::<(), isopod::Error>(())
/// ```
pub trait LogSink: Send + Sync + 'static {
    /// One record.
    fn log(&self, record: &LogRecord<'_>);
}

/// One record of `wasi:logging`, as the reply has it; see [`Output`](crate::Output). Sanitised and cut as a [`LogRecord`].
#[non_exhaustive]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogLine {
    /// How much it matters.
    pub level: Level,
    /// What the guest groups records by.
    pub context: String,
    /// What it says.
    pub message: String,
}
