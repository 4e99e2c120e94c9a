//! What scripts ask of their host, by `isopod:script/host`: the same as guests ask by WASI, in one interface that is there
//! for all scripts, whatever they are granted.

use super::clocks::nanos;
use super::logging::INTERFACE;
use super::{Reach, View, Whole};
use crate::bindings::script::isopod::script::host as wit;
use crate::future::BoxFuture;
use crate::log::Level;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use std::future::ready;
use wasmtime::component::Linker;
use wasmtime_wasi::p2::bindings::random::random::Host as _;

/// The interfaces of WASI that it stands for, of which there are grants.
pub(crate) const IMPORTS: [&str; 3] = ["wasi:clocks/wall-clock@0.2.12", "wasi:random/random@0.2.12", INTERFACE];

/// What a script began and has not ended.
#[derive(Default)]
pub(super) struct Tasks {
    begun: u32,
    running: FuturesUnordered<BoxFuture<'static, u32>>,
}

pub(crate) fn link<T: Reach>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    wit::add_to_linker::<T, Whole>(linker, T::log_view)
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
            id: self.call_id,
            left: nanos(self.deadline.since(self.bound.clock.now())),
        })
    }

    fn sleep(&mut self, length: u64) -> wasmtime::Result<Option<u32>> {
        if self.tasks.running.len() >= self.max_handles {
            return Ok(None);
        }
        self.tasks.begun = self.tasks.begun.wrapping_add(1);
        let (id, mut until) = (self.tasks.begun, self.watch.after(length));
        let mut task: BoxFuture<'static, u32> = Box::pin(async move {
            // Others go on meanwhile, so that it holds nothing.
            until.over(false).await;
            id
        });
        // It begins now, and not when somebody waits: another that is over later would be first then.
        let over = task.as_mut().now_or_never();
        self.tasks.running.push(over.map_or(task, |id| Box::pin(ready(id))));
        Ok(Some(id))
    }

    async fn wait(&mut self) -> wasmtime::Result<Option<u32>> {
        Ok(self.tasks.running.next().await)
    }
}
