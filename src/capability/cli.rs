//! `wasi:cli`: environment, arguments and stdin. Where stdout and stderr go is in [`logging`](super::logging).

use super::Bound;
use super::logging::Capture;
use crate::error::{Error, ErrorKind, Result};
use crate::log::LogSource;
use bytes::Bytes;
use std::env::VarError;
use wasmtime::component::Linker;
use wasmtime_wasi::cli::{WasiCli, WasiCliView};
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
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

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn bind(self) -> Result<(String, String)> {
        let value = match self.value {
            Some(value) => value,
            None => std::env::var(&self.name).map_err(|e| {
                // Its own text has the value, which may be a secret.
                let why = if e == VarError::NotPresent { "it is not set" } else { "it is not UTF-8" };
                let text = format!("the grant Env::from_host(\"{}\") cannot be kept: {why}; use Env::var", self.name);
                Error::new(ErrorKind::Misuse, text)
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
    wasi.stdout(capture.pipe(LogSource::Stdout)).stderr(capture.pipe(LogSource::Stderr));
}
