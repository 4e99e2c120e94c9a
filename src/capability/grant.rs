//! [`Grant`]: permission for one capability, of whichever kind.

use super::{Args, Clocks, Config, Dir, Env, Functions, Http, KeyValue, Log, Random, Scratch, Secrets, Stdin};
use super::{config, functions, secrets};

/// Permission for one capability, narrowed. Made by the capability's own type: [`Http`], [`Secrets`], [`Dir`], [`Scratch`],
/// [`KeyValue`], [`Functions`], [`Config`], [`Env`], [`Args`], [`Stdin`], [`Log`], [`Clocks`], [`Random`].
///
/// Every guest has what carries no power, without a grant: clocks of 1 ms, secure randomness, exit, empty stdin, arguments
/// and environment, stdout, stderr and `wasi:logging` into the reply's [`Output`](crate::Output), a filesystem without a
/// directory, the types of `wasi:http`.
///
#[doc = include_str!("../guide/capabilities.md")]
#[derive(Clone, Debug)]
pub struct Grant(pub(crate) Kind);

impl Grant {
    /// Whether a guest is told by it what differs from call to call.
    pub(crate) fn is_of_the_machine(&self) -> bool {
        match &self.0 {
            Kind::Clocks(clocks) => clocks.are_the_machines(),
            Kind::Random(random) => !random.is_seeded(),
            _ => false,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Clocks(Clocks),
    Random(Random),
    Stdin(Stdin),
    Env(Env),
    Args(Args),
    Http(Http),
    Log(Log),
    Secrets(Secrets),
    Config(Config),
    Functions(Functions),
    KeyValue(KeyValue),
    Dir(Dir),
    Scratch(Scratch),
}

impl Kind {
    /// Whether it has an effect on a component with that import.
    pub(super) fn is_for(&self, import: &str) -> bool {
        match self {
            Kind::Functions(functions) => functions.is_for(import),
            _ => self.serves().1.iter().any(|interface| import.starts_with(interface)),
        }
    }

    /// Whether several of these are several permissions.
    pub(super) fn adds_up(&self) -> bool {
        matches!(
            self,
            Kind::Dir(_)
                | Kind::Env(_)
                | Kind::Http(_)
                | Kind::Secrets(_)
                | Kind::Config(_)
                | Kind::Functions(_)
                | Kind::KeyValue(_)
        )
    }

    /// How the grant is called in messages, and the interfaces without which it has no effect.
    pub(super) fn serves(&self) -> (&'static str, &'static [&'static str]) {
        match self {
            Kind::Clocks(_) => ("Clocks", &["wasi:clocks/"]),
            Kind::Random(_) => ("Random", &["wasi:random/"]),
            Kind::Stdin(_) => ("Stdin", &["wasi:cli/stdin@"]),
            Kind::Env(_) => ("Env", &["wasi:cli/environment@"]),
            Kind::Args(_) => ("Args", &["wasi:cli/environment@"]),
            Kind::Http(_) => ("Http", &["wasi:http/outgoing-handler@", "wasi:http/client@"]),
            Kind::Log(_) => ("Log", &["wasi:cli/stdout@", "wasi:cli/stderr@", "wasi:logging/logging@"]),
            Kind::Secrets(_) => ("Secrets", &[secrets::INTERFACE]),
            Kind::Config(_) => ("Config", &[config::INTERFACE]),
            Kind::Functions(_) => ("Functions", &[functions::INTERFACE, "interface that it serves"]),
            Kind::KeyValue(_) => ("KeyValue", &["wasi:keyvalue/"]),
            Kind::Dir(_) => ("Dir", &["wasi:filesystem/preopens@"]),
            Kind::Scratch(_) => ("Scratch", &["wasi:filesystem/preopens@"]),
        }
    }
}

macro_rules! grant {
    ($($kind:ident),*) => { $(impl From<$kind> for Grant {
        fn from(grant: $kind) -> Grant { Grant(Kind::$kind(grant)) }
    })* };
}
grant!(Clocks, Random, Stdin, Env, Args, Http, Log, Secrets, Config, Functions, KeyValue, Dir, Scratch);
