//! The thread of a Host that starts instances ahead of calls, and drops those that calls have used or that nobody used
//! for too long. There is none until a function is loaded that asks for one of these.
//!
//! Whoever has time after an answer does that work itself, for the function that it called: a thread in
//! [`block_on`](crate::block_on), and a loop by [`Function::restock`](crate::Function::restock). The instance then stays
//! with the processor that will use it.

use crate::blocking;
use crate::call;
use crate::clock::Clock;
use crate::engine::pool::Pool;
use crate::engine::slots::Slots;
use crate::engine::stock::Claim;
use crate::engine::ticker::Ticker;
use crate::error::{Error, ErrorKind, Result};
use crate::host;
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
        while let Some(claim) = slots.wanted() {
            waiting = true;
            filling.push(async move {
                if let Some(ticker) = ticker.upgrade() {
                    fill(claim.pool(), clock, &ticker).await;
                }
            });
        }
        let now = clock.now();
        if now.since(round) >= ROUND {
            round = now;
            // Each of them is tidied, so this counts rather than asks.
            waiting = slots.pools().into_iter().filter(|pool| pool.tidy(now)).count() > 0;
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
    if let (Err(error), Some(stock)) = (start_missing(pool, clock, ticker).await, &pool.stock) {
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

/// Has a stock filled: by this thread, when it has its answer, or by the refiller.
#[cold]
pub(crate) fn fill_later(claim: Claim, host: &Arc<host::Inner>) {
    let afterwards = blocking::afterwards(claim, |claim| {
        let host = Arc::clone(host);
        Box::pin(async move {
            host.slots.drop_used();
            fill(claim.pool(), &host.clock, &host.ticker).await;
        })
    });
    if let Err(claim) = afterwards {
        host.slots.want(claim);
    }
}

/// Fills a stock now, whoever else does.
pub(crate) async fn fill_now(pool: &Arc<Pool>, host: &host::Inner) {
    host.slots.drop_used();
    // So that the refiller is not told meanwhile; where it was told before, both do what they can.
    let _claim = Claim::on(pool);
    fill(pool, &host.clock, &host.ticker).await;
}
