//! The one [`Error`] of this crate, its [`ErrorKind`]s, and the one place where foreign text becomes ours.
//!
//! Names, panic messages and values chosen by a guest end up in messages. Whatever is put into an `Error` passes
//! [`sanitise`]: control characters are made visible, lengths are capped, so that an error can be logged, shown on a
//! terminal or sent to a tenant as it is. An `Error`, with its whole source chain, prints in at most 4 KiB.

use crate::denial::Denial;
use crate::exception::Exception;
use crate::text::sanitise;
use crate::usage::{Aside, Output, Usage};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Longest message, in bytes. With a name, causes and a backtrace at their own bounds, an error prints in 4 KiB.
const MAX_MESSAGE: usize = 1600;
/// Longest text of one cause, and how many of them are kept.
const MAX_CAUSE: usize = 300;
const MAX_CAUSES: usize = 4;
/// Longest name of a guest function in a backtrace, and how many frames are kept.
const MAX_FRAME: usize = 120;
const MAX_FRAMES: usize = 8;
/// Longest function name shown; a name is the embedder's, but may come from a tenant.
const MAX_NAME: usize = 128;

/// Why something did not succeed: what to act on.
///
/// Blame lies with the guest (`GuestAbi`, `Trapped`, `Thrown`, the limits), with the caller (`WrongArguments`, `Misuse`), with
/// the load (`Overloaded`), or with us (`Internal`: please report it).
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ErrorKind {
    /// The bytes are not a valid WebAssembly component, or cannot be read. Raised by loading.
    InvalidComponent,
    /// The component is larger or more deeply nested than the load limits allow. Raised by loading.
    TooComplex,
    /// The component imports something that was not granted. Raised by loading; the message lists all such imports, and
    /// so does [`Error::denials`], each with how to grant it. Also for an import that has another type than what is
    /// granted under its name.
    UngrantedImport,
    /// The source of a script does not compile, or has no default export that is a function. Raised by loading and updating a
    /// script, and by calling one whose default export turns out to be something else. See [`Error::exception`].
    InvalidScript,
    /// A script threw something, rejected, or gave what has no form in JSON or is not what the call asked for. See
    /// [`Error::exception`].
    Thrown,
    /// The component has no such export, or it has another type than the one asked for.
    WrongExport,
    /// The arguments do not fit the function's parameters. The export was not called.
    WrongArguments,
    /// The embedder used the API in a way that cannot work, such as asking for a result as another type than it has; fix
    /// the calling code.
    Misuse,
    /// The guest broke the canonical ABI: invalid UTF-8, a pointer out of bounds, a forged handle.
    GuestAbi,
    /// The guest stopped itself: a panic, an abort, an access out of bounds, a stack overflow.
    Trapped,
    /// The guest used up its fuel. The same call with the same limits fails again.
    OutOfFuel,
    /// The deadline passed, or the busy time was used up.
    TimedOut,
    /// The guest asked for more memory than its limit and could not go on without it. Raised by loading too, for a
    /// component that would start with more.
    OutOfMemory,
    /// The result is larger than the output limit.
    OutputTooLarge,
    /// Another limit was reached; it says which one.
    LimitExceeded(Limit),
    /// The guest used a capability that was not granted, and that was linked by `deny_at_call`; or an interface that
    /// another function serves, which is gone.
    Denied,
    /// Every seat is taken, and the line is full or none became free in time; or the operating system has no memory for
    /// the call. Try again later; [`Error::retry_after`] says when.
    Overloaded,
    /// The call was given up before it ended: by whoever dropped it, or as another call ended the instance that both ran in
    /// (see [`Reuse::overlapping`](crate::Reuse::overlapping)); then try again.
    Cancelled,
    /// The guest ended itself by `exit` in a call that expects a value, or gave no http response, or not all of it.
    Exited,
    /// The store failed, or could not be opened: its file is open elsewhere, damaged, or not one of ours. A guest is told
    /// as an error of its import, and the call goes on.
    Store,
    /// A host function panicked, or other code of the embedder's that ran in the call.
    HostPanic,
    /// A bug in isopod or below it. Please report it.
    Internal,
}

/// Which limit a call reached, in [`ErrorKind::LimitExceeded`].
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Limit {
    /// Bytes of the arguments.
    Input,
    /// Bytes passed from the guest to the host in one host call.
    Transfer,
    /// Live handles of resources, streams and tasks.
    Handles,
    /// Number of host calls.
    HostCalls,
    /// Bytes of one request for randomness.
    Random,
    /// How deep functions call functions.
    Depth,
    /// Calls of functions by functions.
    Calls,
    /// Bytes of the headers of a request or a response, 32 KiB.
    Headers,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Limit::Input => "input",
            Limit::Transfer => "transfer",
            Limit::Handles => "handles",
            Limit::HostCalls => "host_calls",
            Limit::Random => "random_bytes",
            Limit::Depth => "depth",
            Limit::Calls => "calls",
            Limit::Headers => "headers",
        })
    }
}

/// What went wrong, to which function, why, and what to do about it.
///
/// `Display` prints one line; [`source`](std::error::Error::source) leads to the causes. An error of a call carries
/// the call's [`Usage`].
pub struct Error(Box<Repr>);

struct Repr {
    kind: ErrorKind,
    function: Option<Arc<str>>,
    message: String,
    source: Option<Cause>,
    frames: Vec<String>,
    usage: Option<Usage>,
    denials: Vec<Denial>,
    output: Output,
    retry_after: Option<Duration>,
    exception: Option<Box<Exception>>,
}

impl Error {
    /// An error with a message for people: what happened, then what to do. The text is sanitised and capped.
    pub(crate) fn new(kind: ErrorKind, message: impl AsRef<str>) -> Error {
        Error(Box::new(Repr {
            kind,
            function: None,
            message: sanitise(message.as_ref(), MAX_MESSAGE),
            source: None,
            frames: Vec::new(),
            usage: None,
            denials: Vec::new(),
            output: Output::default(),
            retry_after: None,
            exception: None,
        }))
    }

    /// Records why, as a chain of texts, outermost first.
    pub(crate) fn because(mut self, causes: impl IntoIterator<Item = String>) -> Error {
        let texts: Vec<String> = causes.into_iter().take(MAX_CAUSES).map(|text| sanitise(&text, MAX_CAUSE)).collect();
        self.0.source =
            texts.into_iter().rev().fold(None, |source, text| Some(Cause { text, source: source.map(Box::new) }));
        self
    }

    pub(crate) fn from_io(kind: ErrorKind, message: impl fmt::Display, error: &std::io::Error) -> Error {
        Error::new(kind, format!("{message}: {error}"))
    }

    pub(crate) fn of(mut self, function: &Arc<str>) -> Error {
        self.0.function.get_or_insert_with(|| Arc::clone(function));
        self
    }

    pub(crate) fn backtrace(mut self, frames: impl IntoIterator<Item = String>) -> Error {
        self.0.frames = frames.into_iter().take(MAX_FRAMES).map(|frame| sanitise(&frame, MAX_FRAME)).collect();
        self
    }

    pub(crate) fn receipt(mut self, usage: Usage, aside: Option<Box<Aside>>) -> Error {
        self.0.usage = Some(usage);
        if let Some(aside) = aside {
            (self.0.output, self.0.denials) = (aside.output, aside.denials);
        }
        self
    }

    pub(crate) fn denying(mut self, denials: Vec<Denial>) -> Error {
        self.0.denials = denials;
        self
    }

    pub(crate) fn thrown(mut self, exception: Exception) -> Error {
        self.0.exception = Some(Box::new(exception));
        self
    }

    pub(crate) fn retry_in(mut self, delay: Duration) -> Error {
        self.0.retry_after = Some(delay);
        self
    }

    /// The same, for another call that ended by it.
    pub(crate) fn again(&self) -> Error {
        let Repr { kind, function, message, source, frames, retry_after, exception, .. } = &*self.0;
        Error(Box::new(Repr {
            kind: *kind,
            function: function.clone(),
            message: message.clone(),
            source: source.clone(),
            frames: frames.clone(),
            usage: None,
            denials: Vec::new(),
            output: Output::default(),
            retry_after: *retry_after,
            exception: exception.clone(),
        }))
    }

    /// What to act on.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The name of the function that was loaded or called.
    pub fn function(&self) -> Option<&str> {
        self.0.function.as_deref()
    }

    /// What the call had used when it ended; zero where no call had started.
    pub fn usage(&self) -> Usage {
        self.0.usage.unwrap_or_default()
    }

    /// What the guest was refused during the call; with [`ErrorKind::UngrantedImport`], the imports.
    pub fn denials(&self) -> &[Denial] {
        &self.0.denials
    }

    /// What the guest had written to stdout and stderr when it ended.
    pub fn output(&self) -> &Output {
        &self.0.output
    }

    /// The guest's functions on the stack when it stopped, innermost first. Names are the guest's own claims.
    pub fn guest_backtrace(&self) -> &[String] {
        &self.0.frames
    }

    /// What a script threw, and where, or what is wrong with its source.
    pub fn exception(&self) -> Option<&Exception> {
        self.0.exception.as_deref()
    }

    /// When it is worth trying again: with [`ErrorKind::Overloaded`], and at once with [`ErrorKind::Cancelled`] where another
    /// call in the same instance ended it.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.function {
            Some(function) => write!(f, "function \"{}\": {}", sanitise(function, MAX_NAME), self.0.message),
            None => f.write_str(&self.0.message),
        }
    }
}

impl fmt::Debug for Error {
    /// What `fn main() -> isopod::Result<()>` shows: the message, the causes and the guest's backtrace.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} [{:?}]", self.0.kind)?;
        let mut source = self.0.source.as_ref();
        while let Some(cause) = source {
            write!(f, "\n  because: {}", cause.text)?;
            source = cause.source.as_deref();
        }
        self.0.frames.iter().try_for_each(|frame| write!(f, "\n  at {frame}"))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|cause| cause as _)
    }
}

/// One step of the chain below an [`Error`]: text only, so that nothing unsanitised hides in it.
#[derive(Clone, Debug)]
struct Cause {
    text: String,
    source: Option<Box<Cause>>,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|cause| cause as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_error_prints_within_its_bound() {
        let wide = "\u{1b}é".repeat(10_000);
        let name: Arc<str> = wide.as_str().into();
        let error = Error::new(ErrorKind::Trapped, &wide)
            .because(std::iter::repeat_n(wide.clone(), 100))
            .backtrace(std::iter::repeat_n(wide.clone(), 100))
            .of(&name);
        let text = format!("{error:?}");
        assert!(text.len() <= 4096, "{} bytes", text.len());
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
    }

    #[test]
    fn an_error_is_one_word() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }
}
