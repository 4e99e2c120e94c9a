//! Turns whatever wasmtime reports into an [`Error`]: the one place that knows its traps and its messages.

use super::import::Unfit;
use super::linker::Refused;
use super::state::{State, Stop, TooEarly};
use crate::capability::functions::Unanswered;
use crate::capability::http::MAX_FIELDS;
use crate::error::{Error, ErrorKind, Limit};
use crate::limits::Resolved;
use crate::text::head;
use std::time::Duration;
use wasmtime::component::ResourceTableError;
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace, WasmtimeBug};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::FieldMapError;

/// Texts by which wasmtime 48 reports what has no type of its own. A test provokes each of them.
const TRANSFER: &str = "fuel allocated for hostcalls has been exhausted";
const HANDLES: &str = "store handle limit exceeded";
const RANDOM: &str = "exceeds limit";
const REFUSED: &str = "(os error ";
const MEMORY: [&str; 2] = ["memory minimum size of", "table minimum size of"];

/// When to come back to a machine that is out of memory: long enough for some calls to end.
const RETRY: Duration = Duration::from_millis(100);

/// Why a call's work ended early: by wasmtime's word, or by ours.
pub(crate) enum Fault {
    Wasm(wasmtime::Error),
    Own(Error),
}

impl From<wasmtime::Error> for Fault {
    fn from(error: wasmtime::Error) -> Fault {
        Fault::Wasm(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::Own(error)
    }
}

/// Why the call ended, in our words.
pub(crate) fn explain(error: &wasmtime::Error, state: &State, limits: &Resolved) -> Error {
    if let Some(stop) = state.stop {
        return stopped(stop, limits);
    }
    let found = classify(error, state, limits);
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else { return found };
    found.backtrace(backtrace.frames().iter().map(|frame| {
        let name = match frame.func_name() {
            Some(name) => head(format_args!("{:#}", rustc_demangle::demangle(name)), HEAD),
            None => format!("function {}", frame.func_index()),
        };
        match frame.module().name() {
            Some(module) => format!("{module}!{name}"),
            None => name,
        }
    }))
}

/// The error for a limit that a host function saw passed.
pub(crate) fn stopped(stop: Stop, limits: &Resolved) -> Error {
    match stop {
        Stop::Limit(Limit::HostCalls) => exceeded(
            Limit::HostCalls,
            format!("it made more than {} host calls; raise `Limits::host_calls` if it needs them", limits.host_calls),
        ),
        Stop::Limit(limit) => exceeded(limit, format!("it went beyond its {limit} limit")),
        Stop::Deadline => Error::new(
            ErrorKind::TimedOut,
            "it did not end within the call's deadline; raise `Limits::deadline` or give it less to do",
        ),
    }
}

/// It computed for too long.
pub(crate) fn too_busy(limits: &Resolved) -> Error {
    Error::new(
        ErrorKind::TimedOut,
        format!(
            "it computed for more than its {:?} of busy time; raise `Limits::busy` or give it less to do",
            limits.busy
        ),
    )
}

fn exceeded(limit: Limit, message: String) -> Error {
    Error::new(ErrorKind::LimitExceeded(limit), message)
}

fn classify(error: &wasmtime::Error, state: &State, limits: &Resolved) -> Error {
    if error.is::<Refused>() {
        let what = state.last_denial().unwrap_or_else(|| "an import was denied".into());
        return Error::new(ErrorKind::Denied, what);
    }
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        return Error::new(
            ErrorKind::Exited,
            format!("the guest ended itself with exit status {code} before it gave a value; see its output"),
        );
    }
    if let Some(unfit) = error.downcast_ref::<Unfit>() {
        return Error::new(ErrorKind::Misuse, unfit.to_string());
    }
    if let Some(early) = error.downcast_ref::<TooEarly>() {
        let text =
            format!("it cannot be prewarmed: {early}; remove `.prewarm(..)`, or have it do that when it is called");
        return Error::new(ErrorKind::Misuse, text);
    }
    if let Some(unanswered) = error.downcast_ref::<Unanswered>() {
        return Error::new(unanswered.kind, format!("it called another function: {unanswered}"));
    }
    if error.is::<WasmtimeBug>() || error.is::<PoolConcurrencyLimitError>() {
        return Error::new(ErrorKind::Internal, "the WebAssembly runtime failed; please report this")
            .because(chain(error));
    }
    if let Some(trap) = error.downcast_ref::<Trap>() {
        return trapped(*trap, state, limits);
    }
    if error.is::<ResourceTableError>() && matches!(error.downcast_ref(), Some(ResourceTableError::Full)) {
        return handles(limits);
    }
    if let Some(FieldMapError::TotalSizeTooBig | FieldMapError::TooManyFields) = error.downcast_ref() {
        let text = format!("it made headers of more than the {MAX_FIELDS} bytes that one set of them may have");
        return exceeded(Limit::Headers, text);
    }
    // The innermost cause names the fault; what stands around it is context.
    let text = error.root_cause().to_string();
    if text.contains(TRANSFER) {
        // With the guest on the stack it was passing something to the host: arguments, or an async export its result.
        // Without, its result was being read.
        let passing = error.is::<WasmBacktrace>();
        return if passing { transfer(limits) } else { result_too_large(limits) };
    }
    if text.contains(HANDLES) {
        return handles(limits);
    }
    if text.contains(RANDOM) && text.starts_with("requested len") {
        return exceeded(
            Limit::Random,
            format!(
                "it asked for more than {} random bytes at once; raise `Limits::random_bytes` if it needs them",
                limits.random
            ),
        );
    }
    if text.contains(REFUSED) {
        return Error::new(
            ErrorKind::Overloaded,
            "the operating system has no memory for it; try again later, give the host fewer seats, or raise what its process may have",
        )
        .because(chain(error))
        .retry_in(RETRY);
    }
    if error.is::<wasmtime::OutOfMemory>() || (state.budget.refused && MEMORY.iter().any(|known| text.contains(known)))
    {
        return out_of_memory(limits);
    }
    Error::new(ErrorKind::GuestAbi, "the guest broke the canonical ABI; report it to the guest's author")
        .because(chain(error))
}

fn trapped(trap: Trap, state: &State, limits: &Resolved) -> Error {
    match trap {
        Trap::OutOfFuel if state.is_nested() => Error::new(
            ErrorKind::OutOfFuel,
            "it used up the fuel that it or the function which called it had left; raise `Limits::fuel` of the first",
        ),
        Trap::OutOfFuel => Error::new(
            ErrorKind::OutOfFuel,
            format!(
                "it used up its {} units of fuel; raise `Limits::fuel` or give it less to do",
                limits.fuel.unwrap_or(0)
            ),
        ),
        Trap::StackOverflow => Error::new(
            ErrorKind::Trapped,
            "the guest's stack overflowed, by recursion without end as a rule; report it to the guest's author",
        ),
        Trap::NoAsyncResult
        | Trap::CannotEnterComponent
        | Trap::CannotLeaveComponent
        | Trap::InvalidChar
        | Trap::StringOutOfBounds
        | Trap::ListOutOfBounds
        | Trap::InvalidDiscriminant
        | Trap::UnalignedPointer
        | Trap::TaskCancelNotCancelled
        | Trap::TaskCancelOrReturnTwice
        | Trap::SubtaskCancelAfterTerminal
        | Trap::TaskReturnInvalid
        | Trap::WaitableSetDropHasWaiters
        | Trap::SubtaskDropNotResolved
        | Trap::UnsupportedCallbackCode
        | Trap::BackpressureOverflow
        | Trap::ConcurrentFutureStreamOp
        | Trap::ReferenceCountOverflow
        | Trap::StreamOpTooBig
        | Trap::WaitableSyncAndAsync => Error::new(
            ErrorKind::GuestAbi,
            format!("the guest broke the canonical ABI: {trap}; report it to the guest's author"),
        ),
        // A guest that can't grow its memory ends itself in its allocator's own way.
        _ if state.budget.refused => out_of_memory(limits),
        trap => Error::new(ErrorKind::Trapped, format!("the guest trapped: {trap}; report it to the guest's author")),
    }
}

fn out_of_memory(limits: &Resolved) -> Error {
    Error::new(
        ErrorKind::OutOfMemory,
        format!("it needed more than its {} bytes of memory; raise `Limits::memory` if that is right", limits.memory),
    )
}

fn transfer(limits: &Resolved) -> Error {
    exceeded(
        Limit::Transfer,
        format!(
            "it passed more than {} bytes to the host at once, in a host call or as an async result; raise `Limits::transfer` if that is right",
            limits.transfer
        ),
    )
}

fn handles(limits: &Resolved) -> Error {
    exceeded(
        Limit::Handles,
        format!("it held more than {} handles at once; raise `Limits::handles` if it needs them", limits.handles),
    )
}

/// The result was too large by our own count.
pub(crate) fn output_too_large(limits: &Resolved) -> Error {
    Error::new(
        ErrorKind::OutputTooLarge,
        format!("its result has more than {} bytes; raise `Limits::output` if that is right", limits.output),
    )
}

/// The result was too large by wasmtime's count, which is of what it takes in the host.
pub(super) fn result_too_large(limits: &Resolved) -> Error {
    Error::new(
        ErrorKind::OutputTooLarge,
        format!(
            "its result takes more than {} bytes in the host, where a dynamic call keeps each element of most lists as a value of its own; raise `Limits::output` if that is right, or `Limits::transfer` for long lists",
            limits.transfer
        ),
    )
}

/// Longer than what is shown of any text that passes here. A mangled name of some hundred bytes can stand for megabytes.
const HEAD: usize = 2 * 1024;

fn chain(error: &wasmtime::Error) -> Vec<String> {
    // The backtrace is a link of wasmtime's chain; it has a place of its own in ours.
    let links = error.chain().map(|cause| head(cause, HEAD));
    links.filter(|text| !text.starts_with("error while executing at wasm backtrace")).collect()
}
