//! Functions of kind [`command`](crate::Kind::Command): a program with arguments, environment, stdin, and an exit status.

use crate::call::{self, CallOptions};
use crate::capability::cli::Invocation;
use crate::engine::command;
use crate::error::{Error, ErrorKind, Limit, Result};
use crate::function::{Function, Kind};
use crate::usage::Reply;
use bytes::Bytes;

/// One run of a program: what it is started with, in addition to what the function was granted.
#[derive(Clone, Debug, Default)]
pub struct Command(Invocation);

impl Command {
    /// No arguments, no environment, empty stdin, but for what was granted.
    pub fn new() -> Command {
        Command::default()
    }

    /// Adds an argument, after those that were granted. The first of all is the program's name by custom.
    pub fn arg(mut self, arg: impl Into<String>) -> Command {
        self.0.args.push(arg.into());
        self
    }

    /// Adds arguments.
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Command {
        self.0.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds an environment variable.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Command {
        self.0.env.push((name.into(), value.into()));
        self
    }

    /// What the program reads from stdin, instead of what was granted.
    pub fn stdin(mut self, bytes: impl Into<Bytes>) -> Command {
        self.0.stdin = Some(bytes.into());
        self
    }

    fn size(&self) -> u64 {
        let Invocation { args, env, stdin } = &self.0;
        let args = args.iter().map(String::len).sum::<usize>();
        let env = env.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        (args + env + stdin.as_ref().map_or(0, Bytes::len)) as u64
    }
}

impl Function {
    /// Runs a program to its end and gives its exit status: 0 for success. Most toolchains for WASI 0.2 pass on only
    /// whether it succeeded, as 1 where it did not. What it wrote is in [`Reply::output`], up to the log limit.
    ///
    /// ```
    /// # async fn run(function: isopod::Function) -> isopod::Result<()> {
    /// use isopod::Command;
    ///
    /// let reply = function.command(Command::new().arg("sort").arg("-r").stdin("b\na\n")).await?;
    /// println!("{} {}", reply.value, String::from_utf8_lossy(&reply.output().stdout));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::WrongExport`] for a function of another kind; then whatever ends a call.
    pub async fn command(&self, command: Command) -> Result<Reply<i32>> {
        self.require(Kind::Command, "command", "wasi:cli/run")?;
        let inner = self.inner();
        let limit = inner.limits().input;
        let bytes = command.size();
        if bytes > limit {
            let text = format!(
                "arguments, environment and stdin have {bytes} bytes, more than {limit}; pass less, or raise `Limits::input`"
            );
            return Err(Error::new(ErrorKind::LimitExceeded(Limit::Input), text).of(&inner.name));
        }
        let reply = call::run(inner, self.options(), Some(Box::new(command.0)), async |lease| {
            lease.store.data_mut().bytes_in += bytes;
            command::run(lease, &inner.entry).await
        })
        .await?;
        Ok(reply)
    }
}
