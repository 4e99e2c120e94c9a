//! [`Entry`]: by which exports a function is served, found once when it is loaded.

use super::script::Script;
use super::{Engine, Pre};
use crate::bindings::FunctionIndices;
use wasmtime_wasi::{p2 as cli_02, p3 as cli_03};
use wasmtime_wasi_http::{p2 as http_02, p3 as http_03};

/// The exports that make a component the kind of function that it is.
pub(crate) enum Entry {
    Http02(http_02::bindings::ProxyIndices),
    Http03(http_03::bindings::ServiceIndices),
    Command02(cli_02::bindings::CommandIndices),
    Command03(cli_03::bindings::CommandIndices),
    Event(FunctionIndices),
    Script(Script),
    /// Called by the names of its exports.
    Custom,
}

impl Entry {
    /// Whether what is called starts its instance, as it knows of which kind that is.
    #[inline]
    pub(crate) fn starts_itself(&self) -> bool {
        matches!(self, Entry::Script(_))
    }

    /// `None` for a component whose exports are not what their names say.
    pub(crate) fn http(pre: &Pre, engine: &Engine) -> Option<Entry> {
        let newest = engine.flavour.asynchronous.then(|| http_03::bindings::ServiceIndices::new(pre).ok()).flatten();
        newest.map(Entry::Http03).or_else(|| http_02::bindings::ProxyIndices::new(pre).ok().map(Entry::Http02))
    }

    /// As [`http`](Entry::http), for a program.
    pub(crate) fn command(pre: &Pre, engine: &Engine) -> Option<Entry> {
        let newest = engine.flavour.asynchronous.then(|| cli_03::bindings::CommandIndices::new(pre).ok()).flatten();
        newest.map(Entry::Command03).or_else(|| cli_02::bindings::CommandIndices::new(pre).ok().map(Entry::Command02))
    }

    /// As [`http`](Entry::http), for a handler of events.
    pub(crate) fn event(pre: &Pre) -> Option<Entry> {
        FunctionIndices::new(pre).ok().map(Entry::Event)
    }
}
