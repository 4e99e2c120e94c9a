//! `wasi:cli`: environment, arguments, stdin, and stdout and stderr into a bounded buffer of the call.
//!
//! Writing never fails and never blocks: a guest's `println!` must not panic because nobody reads. What goes beyond
//! the log limit is counted and dropped.

use super::Bound;
use crate::error::{Error, ErrorKind, Result};
use crate::usage::Output;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use wasmtime::component::Linker;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream, WasiCli, WasiCliView};
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{WasiCtxBuilder, WasiView};

/// An environment variable of the guest. Without this grant the environment is empty.
#[derive(Clone, Debug)]
pub struct Env {
    name: String,
    value: Option<String>,
}

impl Env {
    /// The variable `name` with that value.
    pub fn var(name: impl Into<String>, value: impl Into<String>) -> Env {
        Env { name: name.into(), value: Some(value.into()) }
    }

    /// The variable `name` as it is in the host's own environment when the function is loaded. Loading fails as
    /// [`ErrorKind::Misuse`] where it is not set, or not UTF-8.
    pub fn from_host(name: impl Into<String>) -> Env {
        Env { name: name.into(), value: None }
    }

    pub(super) fn bind(self) -> Result<(String, String)> {
        let value = match self.value {
            Some(value) => value,
            None => std::env::var(&self.name).map_err(|e| {
                Error::new(
                    ErrorKind::Misuse,
                    format!("the grant Env::from_host(\"{}\") cannot be kept: {e}; set it, or use Env::var", self.name),
                )
            })?,
        };
        Ok((self.name, value))
    }
}

/// The guest's command-line arguments. Without this grant there are none, not even a program name.
#[derive(Clone, Debug)]
pub struct Args(pub(super) Vec<String>);

impl Args {
    /// These arguments; the first is the program's name by custom.
    pub fn new<S: Into<String>>(args: impl IntoIterator<Item = S>) -> Args {
        Args(args.into_iter().map(Into::into).collect())
    }
}

/// The guest's standard input. Without this grant it is empty.
#[derive(Clone, Debug, Default)]
pub struct Stdin(Bytes);

impl Stdin {
    /// These bytes, the same at every call.
    pub fn bytes(bytes: impl Into<Bytes>) -> Stdin {
        Stdin(bytes.into())
    }
}

/// What one call of a command brings along, besides what the function was granted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Invocation {
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub stdin: Option<Bytes>,
}

pub(super) fn link<T: WasiView>(linker: &mut Linker<T>, asynchronous: bool) -> wasmtime::Result<()> {
    use wasmtime_wasi::p2::bindings::cli;
    cli::exit::add_to_linker::<T, WasiCli>(linker, T::cli)?;
    cli::environment::add_to_linker::<T, WasiCli>(linker, T::cli)?;
    cli::stdin::add_to_linker::<T, WasiCli>(linker, T::cli)?;
    cli::stdout::add_to_linker::<T, WasiCli>(linker, T::cli)?;
    cli::stderr::add_to_linker::<T, WasiCli>(linker, T::cli)?;
    cli::terminal_input::add_to_linker::<T, WasiCli>(linker, T::cli)?;
    cli::terminal_output::add_to_linker::<T, WasiCli>(linker, T::cli)?;
    cli::terminal_stdin::add_to_linker::<T, WasiCli>(linker, T::cli)?;
    cli::terminal_stdout::add_to_linker::<T, WasiCli>(linker, T::cli)?;
    cli::terminal_stderr::add_to_linker::<T, WasiCli>(linker, T::cli)?;
    if asynchronous {
        wasmtime_wasi::p3::cli::add_to_linker(linker)?;
    }
    Ok(())
}

pub(super) fn view(bound: &Bound, call: Option<&Invocation>, capture: &Capture, wasi: &mut WasiCtxBuilder) {
    wasi.args(&bound.args).envs(&bound.env);
    let mut stdin = bound.stdin.0.clone();
    if let Some(call) = call {
        wasi.args(&call.args).envs(&call.env);
        stdin = call.stdin.clone().unwrap_or(stdin);
    }
    if !stdin.is_empty() {
        wasi.stdin(MemoryInputPipe::new(stdin));
    }
    wasi.stdout(capture.pipe(Which::Stdout)).stderr(capture.pipe(Which::Stderr));
}

/// Where a call's stdout and stderr go.
#[derive(Clone)]
pub(crate) struct Capture(Arc<Mutex<Captured>>);

struct Captured {
    stdout: BytesMut,
    stderr: BytesMut,
    /// Bytes that may still be kept, for both together.
    room: usize,
    dropped: u64,
}

impl Capture {
    pub(crate) fn new(limit: usize) -> Capture {
        Capture(Arc::new(Mutex::new(Captured {
            stdout: BytesMut::new(),
            stderr: BytesMut::new(),
            room: limit,
            dropped: 0,
        })))
    }

    /// What was kept, and how many bytes were dropped.
    pub(crate) fn take(&self) -> (Output, u64) {
        let mut captured = self.0.lock();
        let output = Output { stdout: captured.stdout.split().freeze(), stderr: captured.stderr.split().freeze() };
        (output, captured.dropped)
    }

    fn pipe(&self, which: Which) -> Pipe {
        Pipe { capture: self.clone(), which }
    }
}

#[derive(Clone, Copy)]
enum Which {
    Stdout,
    Stderr,
}

#[derive(Clone)]
struct Pipe {
    capture: Capture,
    which: Which,
}

impl Pipe {
    fn keep(&self, bytes: &[u8]) {
        let captured = &mut *self.capture.0.lock();
        let kept = bytes.len().min(captured.room);
        captured.room -= kept;
        captured.dropped += (bytes.len() - kept) as u64;
        match self.which {
            Which::Stdout => captured.stdout.extend_from_slice(&bytes[..kept]),
            Which::Stderr => captured.stderr.extend_from_slice(&bytes[..kept]),
        }
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

    #[test]
    fn output_beyond_the_limit_is_counted_and_dropped() {
        let capture = Capture::new(8);
        capture.pipe(Which::Stdout).keep(b"hello");
        capture.pipe(Which::Stderr).keep(b"world");
        capture.pipe(Which::Stdout).keep(b"again");
        let (output, dropped) = capture.take();
        assert_eq!((&output.stdout[..], &output.stderr[..], dropped), (&b"hello"[..], &b"wor"[..], 7));
    }
}
