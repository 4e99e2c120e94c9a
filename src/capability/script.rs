//! What scripts ask of their host, by `isopod:script/host`: the same as guests ask by WASI, in one interface that is there
//! for all scripts, whatever they are granted.

use super::clocks::nanos;
use super::logging::INTERFACE;
use super::{Reach, View, Whole};
use crate::bindings::script::isopod::script::host as wit;
use crate::future::BoxFuture;
use crate::log::Level;
use futures_util::future::{AbortHandle, abortable};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use std::collections::{HashMap, VecDeque};
use wasmtime::component::Linker;
use wasmtime_wasi::p2::bindings::random::random::Host as _;

/// The interfaces of WASI that it stands for, of which there are grants.
pub(crate) const IMPORTS: [&str; 3] = ["wasi:clocks/wall-clock@0.2.12", "wasi:random/random@0.2.12", INTERFACE];

/// What a script began and has not ended.
#[derive(Default)]
pub(super) struct Tasks {
    begun: u32,
    running: FuturesUnordered<BoxFuture<'static, Option<u32>>>,
    /// How to give up those that run.
    aborts: HashMap<u32, AbortHandle>,
    /// Those that are over already, in the order in which they were begun.
    over: VecDeque<u32>,
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
            id: (!self.bound.random.is_seeded()).then_some(self.call_id),
        })
    }

    fn sleep(&mut self, length: u64) -> wasmtime::Result<Option<u32>> {
        let Tasks { begun, running, aborts, over } = &mut self.tasks;
        if aborts.len() + over.len() >= self.max_handles {
            return Ok(None);
        }
        *begun = begun.wrapping_add(1);
        let id = *begun;
        if length == 0 {
            over.push_back(id);
            return Ok(Some(id));
        }
        let mut until = self.watch.after(length);
        // Others go on meanwhile, so that it holds nothing.
        let (sleep, abort) = abortable(async move { until.over(false).await });
        let mut task: BoxFuture<'static, Option<u32>> = Box::pin(sleep.map(move |ended| ended.is_ok().then_some(id)));
        // It begins now, and not when somebody waits: another that is over later would be first then.
        match task.as_mut().now_or_never() {
            Some(_) => over.push_back(id),
            None => {
                aborts.insert(id, abort);
                running.push(task);
            }
        }
        Ok(Some(id))
    }

    fn cancel(&mut self, begun: u32) -> wasmtime::Result<()> {
        self.tasks.over.retain(|id| *id != begun);
        if let Some(abort) = self.tasks.aborts.remove(&begun) {
            abort.abort();
        }
        Ok(())
    }

    async fn wait(&mut self) -> wasmtime::Result<Option<u32>> {
        let Tasks { running, aborts, over, .. } = &mut self.tasks;
        if let Some(id) = over.pop_front() {
            // A script that does nothing but sleep for no time gives way.
            tokio::task::yield_now().await;
            return Ok(Some(id));
        }
        while let Some(ended) = running.next().await {
            // Unless it was given up.
            if let Some(id) = ended.filter(|id| aborts.remove(id).is_some()) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }
}
