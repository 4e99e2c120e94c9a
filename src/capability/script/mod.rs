//! What scripts ask of their host, by `isopod:script`: the same as guests ask by WASI and by isopod's interfaces, in one
//! form that is there for all scripts. What a script may have of it is decided at the call, by its grants.

mod fetch;
mod tasks;
mod url;

use super::clocks::nanos;
use super::{Reach, View, Whole, config, functions, logging, secrets};
use crate::bindings::script::isopod::script::host as wit;
use crate::log::Level;
pub(super) use tasks::Tasks;
use wasmtime::component::Linker;
use wasmtime_wasi::p2::bindings::random::random::Host as _;

/// The interfaces that it stands for, of which there are grants.
pub(crate) const IMPORTS: [&str; 8] = [
    "wasi:clocks/wall-clock@0.2.12",
    "wasi:random/random@0.2.12",
    "wasi:http/outgoing-handler@0.2.12",
    "wasi:keyvalue/store@0.2.0-draft2",
    logging::INTERFACE,
    config::INTERFACE,
    functions::INTERFACE,
    secrets::INTERFACE,
];

/// What [`link`] brings.
pub(crate) const INTERFACES: [&str; 2] = ["isopod:script/host@0.1.0", "isopod:script/tasks@0.1.0"];

pub(crate) fn link<T: Reach>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    wit::add_to_linker::<T, Whole>(linker, T::log_view)?;
    tasks::link(linker)
}

impl wit::Host for View {
    fn log(&mut self, level: wit::Level, message: String) -> wasmtime::Result<()> {
        let level = match level {
            wit::Level::Trace => Level::Trace,
            wit::Level::Debug => Level::Debug,
            wit::Level::Info => Level::Info,
            wit::Level::Warn => Level::Warn,
            wit::Level::Error => Level::Error,
        };
        self.capture.log(level, "", &message);
        Ok(())
    }

    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(nanos(self.watch.wall()))
    }

    fn monotonic(&mut self) -> wasmtime::Result<u64> {
        Ok(nanos(self.watch.monotonic()))
    }

    fn random(&mut self, bytes: u32) -> wasmtime::Result<Vec<u8>> {
        self.wasi().ctx.random().get_random_bytes(bytes.into())
    }

    fn context(&mut self) -> wasmtime::Result<wit::Call> {
        Ok(wit::Call {
            function: self.bound.function.to_string(),
            tenant: self.tenant.as_deref().map(str::to_owned),
            id: (!self.bound.random.is_seeded()).then_some(self.call_id),
        })
    }

    fn config(&mut self, name: String) -> wasmtime::Result<Option<String>> {
        Ok(self.setting(&name))
    }

    fn secret(&mut self, name: String) -> wasmtime::Result<Option<String>> {
        Ok(self.find_secret(&name).map(|index| self.placeholder_of(index)))
    }

    fn url(&mut self, text: String, base: Option<String>) -> wasmtime::Result<Option<Vec<String>>> {
        Ok(url::parse(&text, base.as_deref()))
    }

    fn with_part(&mut self, href: String, part: String, value: String) -> wasmtime::Result<Option<Vec<String>>> {
        Ok(url::with_part(&href, &part, &value))
    }
}
