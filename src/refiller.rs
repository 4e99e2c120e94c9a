//! The thread of a Host that starts instances ahead of calls, and drops those that calls have used or that nobody used
//! for too long. There is none until a function is loaded that asks for one of these.
//!
//! Whoever has time after an answer can do the same work: [`assist`] for one function.

use crate::call;
use crate::clock::Clock;
use crate::engine::pool::Pool;
use crate::engine::slots::Slots;
use crate::engine::ticker::Ticker;
use crate::error::{Error, ErrorKind, Result};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How often instances that wait are looked at.
const ROUND: Duration = Duration::from_secs(1);
/// Instances that are started before others get the thread.
const BATCH: usize = 16;

/// Handle to the thread, which ends when it is dropped.
pub(crate) struct Refiller {
    slots: Arc<Slots>,
    started: Mutex<bool>,
}

impl Refiller {
    pub(crate) fn new(slots: Arc<Slots>) -> Refiller {
        Refiller { slots, started: Mutex::new(false) }
    }

    /// Starts the thread, if it was not started before.
    pub(crate) fn start(&self, clock: &Clock, ticker: &Arc<Ticker>) -> Result<()> {
        let mut started = self.started.lock();
        if *started {
            return Ok(());
        }
        let refused =
            |e: std::io::Error| Error::from_io(ErrorKind::Misuse, "the refiller's thread cannot be started", &e);
        // What a guest waits for as it starts, it waits for in this thread's own runtime.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)?;
        let (slots, clock, ticker) = (Arc::clone(&self.slots), clock.clone(), Arc::downgrade(ticker));
        std::thread::Builder::new()
            .name("isopod-refiller".into())
            .spawn(move || runtime.block_on(run(&slots, &clock, &ticker)))
            .map_err(refused)?;
        *started = true;
        Ok(())
    }
}

impl Drop for Refiller {
    fn drop(&mut self) {
        self.slots.close();
    }
}

async fn run(slots: &Slots, clock: &Clock, ticker: &Weak<Ticker>) {
    let mut filling = FuturesUnordered::new();
    let mut round = clock.now();
    let mut waiting = true;
    while !slots.is_closed() {
        slots.drop_used();
        while let Some(pool) = slots.wanted() {
            waiting = true;
            filling.push(async move {
                if let Some(ticker) = ticker.upgrade() {
                    fill(&pool, clock, &ticker).await;
                }
            });
        }
        let now = clock.now();
        if now.since(round) >= ROUND {
            round = now;
            waiting = slots.pools().into_iter().fold(false, |waiting, pool| pool.tidy(now) || waiting);
        }
        tokio::select! {
            () = slots.bell.notified() => waiting = true,
            Some(()) = filling.next(), if !filling.is_empty() => {}
            () = tokio::time::sleep(ROUND), if waiting => {}
        }
    }
}

/// Starts as many instances as the stock is short of.
async fn fill(pool: &Pool, clock: &Clock, ticker: &Ticker) {
    let Some(stock) = &pool.stock else { return };
    let _filling = stock.filling();
    if let Err(error) = start_missing(pool, clock, ticker).await {
        stock.failed(clock.now());
        let function = &*pool.blueprint.bound.function;
        tracing::warn!(function, %error, "an instance could not be started ahead; none is for a while");
    }
}

/// [`fill`] for a function that was just loaded, which nobody has yet.
pub(crate) async fn start_missing(pool: &Pool, clock: &Clock, ticker: &Ticker) -> Result<()> {
    let missing = pool.stock.as_ref().map_or(0, |stock| stock.missing(clock.now()));
    for started in 1..=missing {
        match call::start_early(pool, &pool.blueprint.pre, clock, ticker).await? {
            Some(lease) => pool.put(lease),
            // Others need the slots more.
            None => break,
        }
        if started % BATCH == 0 {
            pool.slots.drop_used();
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// Does the refiller's work for one function, if nobody else does: when less than half of its stock is there, or in any
/// case.
pub(crate) async fn assist(pool: &Pool, any: bool, clock: &Clock, ticker: &Ticker) {
    if pool.stock.as_ref().is_some_and(|stock| (any || stock.is_low()) && stock.claim()) {
        pool.slots.drop_used();
        fill(pool, clock, ticker).await;
    }
}
