//! What functions logged and used in a test: [`Logged`] and [`Used`].

use crate::{ErrorKind, Level, LogRecord, LogSink, LogSource, Meter, Receipt, Usage};
use parking_lot::Mutex;
use std::sync::Arc;

/// One record of a guest, as a [`LogRecord`] has it.
#[non_exhaustive]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Logged {
    /// The function's name.
    pub function: String,
    /// Whom the call was for; empty where the caller named no tenant.
    pub tenant: String,
    /// How the guest said it.
    pub source: LogSource,
    /// How much it matters.
    pub level: Level,
    /// What the guest groups records by; empty for stdout and stderr.
    pub context: String,
    /// What it says.
    pub message: String,
}

/// What one call used, as a [`Receipt`] has it.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
pub struct Used {
    /// The function's name.
    pub function: String,
    /// Whom the call was for; empty where the caller named no tenant.
    pub tenant: String,
    /// `None` for a call that gave its value, else why it did not.
    pub error: Option<ErrorKind>,
    /// What the call used.
    pub usage: Usage,
    /// How many calls of functions stand above this one.
    pub depth: u32,
}

/// Writes down what it is told.
#[derive(Clone, Default)]
pub(super) struct Capture {
    pub(super) logged: Arc<Mutex<Vec<Logged>>>,
    pub(super) used: Arc<Mutex<Vec<Used>>>,
}

impl LogSink for Capture {
    fn log(&self, record: &LogRecord<'_>) {
        self.logged.lock().push(Logged {
            function: record.function.to_owned(),
            tenant: record.tenant.to_owned(),
            source: record.source,
            level: record.level,
            context: record.context.to_owned(),
            message: record.message.to_owned(),
        });
    }
}

impl Meter for Capture {
    fn record(&self, receipt: &Receipt<'_>) {
        self.used.lock().push(Used {
            function: receipt.function.to_owned(),
            tenant: receipt.tenant.to_owned(),
            error: receipt.error,
            usage: receipt.usage,
            depth: receipt.depth,
        });
    }
}
