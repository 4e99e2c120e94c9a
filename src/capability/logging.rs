//! What a guest says: stdout, stderr and `wasi:logging`, into a bounded buffer of the call, and record by record to
//! `tracing` and the host's [`LogSink`].
//!
//! Saying never fails and never blocks: a guest's `println!` must not panic because nobody reads. What goes beyond the
//! log limit of the call is counted and dropped, and so is for sinks what goes beyond the rate of the function's tenant.

use super::{Reach, View, Whole};
use crate::bindings::capabilities::wasi::logging::logging as wit;
use crate::clock::{Clock, Nanos};
use crate::foreign::guarded;
use crate::log::{Level, LogLine, LogRecord, LogSink, LogSource};
use crate::text::sanitise;
use crate::usage::Output;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use wasmtime::component::Linker;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// How much of what a guest says becomes records. Without this grant: everything, up to 1 000 records a second.
///
/// This is about records for `tracing` and the host's [`LogSink`]; the reply's [`Output`] has all of stdout and stderr, up
/// to [`Limits::log`](crate::Limits::log).
///
/// ```
/// use isopod::{Level, Log};
///
/// let log = Log::level(Level::Info).per_second(100);
/// ```
#[derive(Clone, Debug)]
pub struct Log {
    level: Level,
    per_second: u32,
}

impl Default for Log {
    fn default() -> Log {
        Log { level: Level::Trace, per_second: 1_000 }
    }
}

impl Log {
    /// Records of that level and above. Of `wasi:logging`, those below are not in the reply either.
    pub fn level(level: Level) -> Log {
        Log { level, ..Log::default() }
    }

    /// Records a second that the calls of each tenant may make together, and as many at once after a silence. Default
    /// 1 000. With 0 there are none.
    pub fn per_second(mut self, records: u32) -> Log {
        self.per_second = records;
        self
    }
}

/// Bytes of a record's message. Whole lines of most programs, and short enough for any log store.
const MAX_MESSAGE: usize = 4 * 1024;
const MAX_CONTEXT: usize = 128;
/// What a record takes of the log limit besides its texts, so that empty ones are bounded too.
const OVERHEAD: usize = 64;

/// Where one function's records go.
pub(crate) struct Logger {
    function: Arc<str>,
    sink: Option<Arc<dyn LogSink>>,
    log: Log,
    clock: Clock,
    pace: Mutex<HashMap<Option<Arc<str>>, Tokens>>,
}

/// Tenants whose pace is kept. One that said nothing for a second needs none.
const MAX_PACED: usize = 1_024;

impl Logger {
    pub(super) fn new(function: Arc<str>, sink: Option<Arc<dyn LogSink>>, log: Log, clock: Clock) -> Logger {
        Logger { function, sink, log, clock, pace: Mutex::default() }
    }

    /// Whether anybody would hear it.
    fn is_heard(&self, level: Level) -> bool {
        level >= self.log.level && (self.sink.is_some() || is_traced(level))
    }

    /// Whether the tenant may say one more.
    fn admit(&self, tenant: Option<&Arc<str>>) -> bool {
        let (now, rate) = (self.clock.now(), self.log.per_second);
        let mut pace = self.pace.lock();
        if pace.len() >= MAX_PACED {
            pace.retain(|_, tokens| !tokens.is_full(now, rate));
        }
        pace.entry(tenant.cloned()).or_insert_with(|| Tokens::new(now, rate)).take(now, rate)
    }
}

/// Records that may still be said, in a bucket that fills up again.
struct Tokens {
    left: f64,
    at: Nanos,
}

impl Tokens {
    fn new(now: Nanos, rate: u32) -> Tokens {
        Tokens { left: rate.into(), at: now }
    }

    fn fill(&self, now: Nanos, rate: u32) -> f64 {
        (self.left + now.since(self.at).as_secs_f64() * f64::from(rate)).min(rate.into())
    }

    fn is_full(&self, now: Nanos, rate: u32) -> bool {
        self.fill(now, rate) >= rate.into()
    }

    fn take(&mut self, now: Nanos, rate: u32) -> bool {
        let left = self.fill(now, rate);
        (self.left, self.at) = if left >= 1.0 { (left - 1.0, now) } else { (left, now) };
        left >= 1.0
    }
}

/// What one call says.
#[derive(Clone)]
pub(crate) struct Capture(Arc<Call>);

struct Call {
    logger: Arc<Logger>,
    said: Mutex<Said>,
}

struct Said {
    tenant: Option<Arc<str>>,
    call_id: u64,
    stdout: Text,
    stderr: Text,
    log: Vec<LogLine>,
    /// Bytes that may be kept, for all together.
    limit: usize,
    /// Those of them that are left.
    room: usize,
    kept: u64,
    dropped: u64,
}

#[derive(Default)]
struct Text {
    bytes: BytesMut,
    /// Where the line begins that has not ended yet.
    line: usize,
}

impl Capture {
    pub(super) fn new(logger: Arc<Logger>, tenant: Option<Arc<str>>, call_id: u64, limit: usize) -> Capture {
        let said = Said {
            tenant,
            call_id,
            stdout: Text::default(),
            stderr: Text::default(),
            log: Vec::new(),
            limit,
            room: limit,
            kept: 0,
            dropped: 0,
        };
        Capture(Arc::new(Call { logger, said: Mutex::new(said) }))
    }

    /// Another call begins in the same instance. What nobody has taken yet, as a guest said it when it started, is that
    /// one's.
    pub(super) fn begin(&self, tenant: Option<Arc<str>>, call_id: u64) {
        let mut said = self.0.said.lock();
        (said.tenant, said.call_id) = (tenant, call_id);
    }

    /// What was kept, how many bytes that were, and how many were dropped; then there is room again for as much.
    pub(crate) fn take(&self) -> (Output, u64, u64) {
        for source in [LogSource::Stdout, LogSource::Stderr] {
            let rest = {
                let said = &mut *self.0.said.lock();
                let text = said.text(source);
                let rest = text.bytes[text.line..].to_vec();
                text.line = text.bytes.len();
                rest
            };
            if !rest.is_empty() {
                self.0.tell_line(source, &rest);
            }
        }
        let mut said = self.0.said.lock();
        let output = Output {
            stdout: std::mem::take(&mut said.stdout).bytes.freeze(),
            stderr: std::mem::take(&mut said.stderr).bytes.freeze(),
            log: std::mem::take(&mut said.log),
        };
        said.room = said.limit;
        (output, std::mem::take(&mut said.kept), std::mem::take(&mut said.dropped))
    }

    pub(super) fn pipe(&self, source: LogSource) -> Pipe {
        Pipe { capture: self.clone(), source }
    }

    pub(super) fn log(&self, level: Level, context: &str, message: &str) {
        let Call { logger, said, .. } = &*self.0;
        if level < logger.log.level {
            return;
        }
        let (context, message) = (sanitise(context, MAX_CONTEXT), sanitise(message, MAX_MESSAGE));
        {
            let mut said = said.lock();
            let size = context.len() + message.len() + OVERHEAD;
            let Some(room) = said.room.checked_sub(size) else {
                said.dropped += size as u64;
                return;
            };
            said.room = room;
            said.kept += size as u64;
            said.log.push(LogLine { level, context: context.clone(), message: message.clone() });
        }
        self.0.tell(LogSource::Logging, level, &context, &message);
    }
}

impl Said {
    fn text(&mut self, source: LogSource) -> &mut Text {
        match source {
            LogSource::Stderr => &mut self.stderr,
            _ => &mut self.stdout,
        }
    }
}

impl Call {
    fn tell_line(&self, source: LogSource, line: &[u8]) {
        let level = level_of(source);
        if self.logger.is_heard(level) {
            // A character takes at most four bytes: what is cut here could not be shown either.
            let line = &line[..line.len().min(MAX_MESSAGE + 4)];
            self.tell(source, level, "", &sanitise(String::from_utf8_lossy(line).trim_end_matches('\r'), MAX_MESSAGE));
        }
    }

    fn tell(&self, source: LogSource, level: Level, context: &str, message: &str) {
        let Call { logger, said } = self;
        if !logger.is_heard(level) {
            return;
        }
        let (tenant, call_id) = {
            let said = said.lock();
            (said.tenant.clone(), said.call_id)
        };
        if !logger.admit(tenant.as_ref()) {
            said.lock().dropped += (context.len() + message.len()) as u64;
            return;
        }
        let [function, tenant] =
            [&logger.function, tenant.as_deref().unwrap_or("")].map(|name| sanitise(name, MAX_CONTEXT));
        let record = LogRecord { function: &function, tenant: &tenant, call_id, source, level, context, message };
        guarded("the tracing subscriber", || trace(&record));
        if let Some(sink) = &logger.sink {
            guarded("the log sink", || sink.log(&record));
        }
    }
}

fn level_of(source: LogSource) -> Level {
    if source == LogSource::Stderr { Level::Warn } else { Level::Info }
}

/// The target of guests' records in `tracing`.
const TARGET: &str = "isopod::guest";

fn is_traced(level: Level) -> bool {
    match level {
        Level::Trace => tracing::enabled!(target: TARGET, tracing::Level::TRACE),
        Level::Debug => tracing::enabled!(target: TARGET, tracing::Level::DEBUG),
        Level::Info => tracing::enabled!(target: TARGET, tracing::Level::INFO),
        Level::Warn => tracing::enabled!(target: TARGET, tracing::Level::WARN),
        Level::Error | Level::Critical => tracing::enabled!(target: TARGET, tracing::Level::ERROR),
    }
}

fn trace(record: &LogRecord<'_>) {
    macro_rules! event {
        ($level:ident) => {
            tracing::event!(
                target: TARGET,
                tracing::Level::$level,
                function = record.function,
                tenant = record.tenant,
                call_id = record.call_id,
                source = ?record.source,
                context = record.context,
                "{}",
                record.message
            )
        };
    }
    match record.level {
        Level::Trace => event!(TRACE),
        Level::Debug => event!(DEBUG),
        Level::Info => event!(INFO),
        Level::Warn => event!(WARN),
        Level::Error | Level::Critical => event!(ERROR),
    }
}

/// The interface by which guests log, besides stdout and stderr.
pub(super) const INTERFACE: &str = "wasi:logging/logging@0.1.0-draft";

pub(super) fn link<T: Reach>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    wit::add_to_linker::<T, Whole>(linker, T::log_view)
}

impl wit::Host for View {
    async fn log(&mut self, level: wit::Level, context: String, message: String) -> wasmtime::Result<()> {
        let level = match level {
            wit::Level::Trace => Level::Trace,
            wit::Level::Debug => Level::Debug,
            wit::Level::Info => Level::Info,
            wit::Level::Warn => Level::Warn,
            wit::Level::Error => Level::Error,
            wit::Level::Critical => Level::Critical,
        };
        self.capture.log(level, &context, &message);
        Ok(())
    }
}

/// One of a call's two outputs.
#[derive(Clone)]
pub(super) struct Pipe {
    capture: Capture,
    source: LogSource,
}

impl Pipe {
    fn keep(&self, bytes: &[u8]) {
        let call = &*self.capture.0;
        let heard = call.logger.is_heard(level_of(self.source));
        let lines = {
            let said = &mut *call.said.lock();
            let kept = bytes.len().min(said.room);
            said.room -= kept;
            said.kept += kept as u64;
            said.dropped += (bytes.len() - kept) as u64;
            let text = said.text(self.source);
            text.bytes.extend_from_slice(&bytes[..kept]);
            match memchr::memrchr(b'\n', &text.bytes[text.line..]) {
                Some(last) if heard => {
                    let lines = text.bytes[text.line..text.line + last].to_vec();
                    text.line += last + 1;
                    lines
                }
                _ => return,
            }
        };
        lines.split(|byte| *byte == b'\n').for_each(|line| call.tell_line(self.source, line));
    }
}

impl IsTerminal for Pipe {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Pipe {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Pipe {
    async fn ready(&mut self) {}
}

/// Bytes that a guest is told it may write at once; as large as wasmtime's own read chunks.
const CHUNK: usize = 64 * 1024;

impl OutputStream for Pipe {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.keep(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(CHUNK)
    }
}

impl tokio::io::AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.keep(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    type Heard = Arc<Mutex<Vec<String>>>;

    struct Sink(Heard);

    impl LogSink for Sink {
        fn log(&self, record: &LogRecord<'_>) {
            assert_ne!(record.message, "panic");
            let LogRecord { tenant, level, context, message, .. } = record;
            self.0.lock().push(format!("{tenant} {level} {context} {message}"));
        }
    }

    fn logger(log: Log) -> (Arc<Logger>, Heard) {
        let heard = Heard::default();
        let sink: Arc<dyn LogSink> = Arc::new(Sink(Arc::clone(&heard)));
        (Arc::new(Logger::new("f".into(), Some(sink), log, Clock::new())), heard)
    }

    fn capture(logger: &Arc<Logger>, tenant: &str, limit: usize) -> Capture {
        Capture::new(Arc::clone(logger), Some(tenant.into()), 1, limit)
    }

    #[test]
    fn output_beyond_the_limit_is_counted_and_dropped() {
        let capture = capture(&logger(Log::default()).0, "t", 8);
        capture.pipe(LogSource::Stdout).keep(b"hello");
        capture.pipe(LogSource::Stderr).keep(b"world");
        capture.pipe(LogSource::Stdout).keep(b"again");
        capture.log(Level::Info, "", "");
        let (output, kept, dropped) = capture.take();
        assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"hello"[..], &b"wor"[..]));
        assert_eq!((kept, dropped, output.log.len()), (8, 7 + OVERHEAD as u64, 0));
    }

    #[test]
    fn lines_become_records_as_they_end() {
        let (logger, heard) = logger(Log::default());
        let capture = capture(&logger, "acme", 10_000);
        let heard = || std::mem::take(&mut *heard.lock());
        let pipe = capture.pipe(LogSource::Stdout);
        pipe.keep(b"one\r\ntw");
        assert_eq!(heard(), ["acme info  one"]);
        pipe.keep(b"o");
        capture.pipe(LogSource::Stderr).keep(b"oh\x1b[2J\n\n");
        assert_eq!(heard(), ["acme warn  oh\\u{1b}[2J", "acme warn  "]);
        capture.log(Level::Critical, "db\nx", "lost\r\nforged");
        assert_eq!(heard(), ["acme critical db x lost  forged"]);
        capture.log(Level::Info, "", "panic");
        capture.log(Level::Info, "", &"x".repeat(9_000));
        assert_eq!(heard()[0].len(), "acme info  ".len() + MAX_MESSAGE, "after a sink that panicked");
        let (output, kept, dropped) = capture.take();
        assert_eq!(heard(), ["acme info  two"]);
        assert_eq!((output.log.len(), dropped), (3, 0));
        assert_eq!(
            output.log[0],
            LogLine { level: Level::Critical, context: "db x".into(), message: "lost  forged".into() }
        );
        assert!(kept > MAX_MESSAGE as u64);
        assert!(capture.take().0.stdout.is_empty() && heard().is_empty(), "nothing is told twice");
    }

    #[test]
    fn a_tenant_that_floods_silences_itself() {
        let (logger, heard) = logger(Log::level(Level::Info).per_second(10));
        let loud = capture(&logger, "loud", 1_000_000);
        (0..1_000).for_each(|n| loud.log(Level::Info, "", &n.to_string()));
        capture(&logger, "quiet", 1_000).log(Level::Info, "", "heard");
        loud.log(Level::Debug, "", "too low");
        let heard = heard.lock();
        assert!(heard.len() < 100 && heard.last().unwrap() == "quiet info  heard", "{}", heard.len());
        let (output, _, dropped) = loud.take();
        assert!(dropped > 0 && output.log.len() == 1_000, "the reply has them all the same");
    }

    #[test]
    fn a_bucket_fills_up_again() {
        let start = Nanos::from_raw(0);
        let mut tokens = Tokens::new(start, 2);
        assert!(tokens.take(start, 2) && tokens.take(start, 2) && !tokens.take(start, 2));
        let later = start.plus(Duration::from_millis(500));
        assert!(tokens.take(later, 2) && !tokens.take(later, 2));
        assert!(tokens.is_full(later.plus(Duration::from_secs(1)), 2));
        assert!(!Tokens::new(start, 0).take(start, 0));
    }

    #[test]
    fn tenants_that_are_silent_are_forgotten() {
        let (logger, _) = logger(Log::default().per_second(1_000_000_000));
        for n in 0..5 * MAX_PACED {
            assert!(logger.admit(Some(&Arc::from(n.to_string()))));
        }
        assert!(logger.pace.lock().len() <= MAX_PACED + 1);
    }
}
