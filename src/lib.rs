#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]
#![warn(missing_docs, unreachable_pub, unnameable_types)]

// In reading order.
mod function;
mod call;
mod host;
mod refiller;
mod load;
#[cfg(feature = "compiler")]
mod worker;

mod command;
mod event;
mod script;
mod http;
mod typed;

mod limits;
mod usage;
mod error;
mod exception;
mod denial;
mod log;
mod foreign;
mod sync;
mod text;
mod resource;
mod blocking;
mod clock;
mod admission;
mod context;
mod future;

mod capability;
pub mod store;
mod cache;
mod engine;
mod bindings;
#[cfg(feature = "testkit")]
pub mod testkit;
#[cfg(feature = "unstable")]
pub mod unstable;

pub use self::http::Body;
pub use blocking::block_on;
pub use cache::{Cache, CacheStats};
pub use call::{CallOptions, Options};
pub use capability::http::{Http, Network, Stream};
pub use capability::{Args, Clocks, Config, Dir, Env, Functions, Grant, KeyValue, Log, Random, Scratch, Stdin};
pub use capability::{Needs, Policy, Secret, SecretSource, SecretValue, Secrets, TimeSource};
pub use command::Command;
pub use context::Context;
pub use denial::Denial;
pub use engine::Profile;
pub use engine::export::{Export, Session};
pub use engine::reuse::Reuse;
pub use engine::value::Handle;
pub use error::{Error, ErrorKind, Limit, Result};
pub use event::{Attribute, Event, Handled, Unhandled};
pub use exception::Exception;
pub use function::{Function, FunctionBuilder, Kind};
pub use future::BoxFuture;
pub use host::{Host, HostBuilder};
#[doc = include_str!("guide/world.md")]
pub use isopod_macros::world;
pub use limits::{KIB, Limits, LoadLimits, MIB, Trust, UNLIMITED, ms};
pub use log::{Level, LogLine, LogRecord, LogSink, LogSource};
pub use resource::{Resource, Resources};
pub use script::{Interpreter, Language, SCRIPT_TYPES, ScriptBuilder};
pub use store::Store;
pub use usage::{Meter, Output, Receipt, Reply, Usage};
#[cfg(feature = "compiler")]
pub use worker::{CompileWorker, compile_worker};

/// The guide: pages that are longer than one item's documentation.
#[cfg(doc)]
pub mod guide {
    #[doc = include_str!("guide/numbers.md")]
    pub mod numbers {}
    #[doc = include_str!("guide/proof.md")]
    pub mod proof {}
    #[doc = include_str!("guide/scripts.md")]
    pub mod scripts {}
    #[doc = include_str!("../SECURITY.md")]
    pub mod security {}
}

/// What the code that `world!` generates is built on. Not for use by hand, and no semver promise.
#[doc(hidden)]
pub mod __private {
    pub use crate::engine::state::State;
    pub use crate::typed::*;
    pub use wasmtime;
}
