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
use crate::engine::ticker::{Ticker, Until};
use crate::error::{Error, ErrorKind, Result};
use crate::host;
use crate::sync::Mutex;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How often instances that wait are looked at, and how long nothing is started for a stock that could not be filled.
const ROUND: Duration = Duration::from_secs(1);
/// How long nothing is started for a stock that calls empty sooner than it can be filled.
const BREATH: Duration = Duration::from_millis(10);
/// How long a thread that has its answer starts instances before it goes on.
const SHORT: Duration = Duration::from_millis(1);
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

pub(crate) async fn run(slots: &Slots, clock: &Clock, ticker: &Weak<Ticker>) {
    let mut filling = FuturesUnordered::new();
    let mut round = clock.now();
    while !slots.is_closed() {
        slots.drop_used();
        while let Some(claim) = slots.wanted() {
            filling.push(async move {
                // While the claim is held nobody asks again: what fails, or finds no slot, is not tried at each call.
                loop {
                    let Some(ticker) = ticker.upgrade() else { return };
                    let filled = fill(claim.pool(), clock, &ticker, true).await;
                    drop(ticker);
                    match filled {
                        // Where others took theirs meanwhile, it is their turn again after what else there is to do:
                        // what calls have used waits here to be dropped.
                        Filled::Full => {
                            if let Some(claim) = claim.release() {
                                slots.want(claim);
                            }
                            return;
                        }
                        Filled::Outrun => clock.sleep(BREATH).await,
                        Filled::Short => return clock.sleep(ROUND).await,
                    }
                }
            });
        }
        let now = clock.now();
        if now.since(round) >= ROUND {
            round = now;
            slots.pools().into_iter().for_each(|pool| pool.tidy(now));
        }
        tokio::select! {
            // In this order, as nothing here holds up the others: what wakes it, it does all that there is.
            biased;
            Some(()) = filling.next(), if !filling.is_empty() => {}
            () = slots.bell.notified() => {}
            () = clock.sleep(ROUND) => {}
        }
    }
    slots.drop_used();
    // What was asked for meanwhile, by this thread, is nobody's any more.
    while slots.wanted().is_some() {}
}

/// What became of filling a stock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Filled {
    Full,
    /// Calls take them sooner than they can be made.
    Outrun,
    /// It failed, or others need the slots more.
    Short,
}

/// Starts as many instances as the stock is short of. One that `yields` stops where calls outrun it.
async fn fill(pool: &Pool, clock: &Clock, ticker: &Ticker, yields: bool) -> Filled {
    start_missing(pool, clock, ticker, yields).await.unwrap_or_else(|error| {
        let function = &*pool.blueprint.bound.function;
        tracing::warn!(function, %error, "an instance could not be started ahead; none is for a while");
        Filled::Short
    })
}

async fn start_missing(pool: &Pool, clock: &Clock, ticker: &Ticker, yields: bool) -> Result<Filled> {
    let missing = pool.stock.as_ref().map_or(0, |stock| stock.missing(clock.now()));
    for started in 1..=missing {
        let lease = match pool.has_place() {
            true => call::start_early(pool, &pool.blueprint.pre, clock, ticker).await?,
            false => None,
        };
        // Others need the slots more, or have the stacks.
        if !lease.is_some_and(|lease| pool.put(lease)) {
            return Ok(Filled::Short);
        }
        if started % BATCH == 0 {
            if yields && pool.stock.as_ref().is_some_and(|stock| stock.is_outrun(started)) {
                return Ok(Filled::Outrun);
            }
            // As many as were started: others leave theirs here meanwhile.
            for _ in 0..BATCH {
                pool.slots.drop_one();
            }
            tokio::task::yield_now().await;
        }
    }
    Ok(Filled::Full)
}

/// Fills the stock of a function that was just loaded, for no longer than one call may take; the refiller does the rest.
pub(crate) async fn stock_up(pool: &Arc<Pool>, host: &host::Inner) -> Result<()> {
    let instant = host.clock.now().plus(pool.blueprint.limits.deadline);
    let filled = pin!(start_missing(pool, &host.clock, &host.ticker, false));
    match (Until { alarm: host.ticker.alarm(), instant, future: filled }.await) {
        Some(filled) => filled.map(drop),
        None => {
            if let Some(claim) = Claim::on(pool) {
                host.slots.want(claim);
            }
            Ok(())
        }
    }
}

/// Has a stock filled: by this thread, when it has its answer, or by the refiller.
#[cold]
pub(crate) fn fill_later(claim: Claim, host: &Arc<host::Inner>) {
    let afterwards = blocking::afterwards(claim, |claim| {
        let host = Arc::clone(host);
        Box::pin(async move {
            // Somebody waits for this thread: many that were used, or guests that take long to start, are not its business.
            let instant = host.clock.now().plus(SHORT);
            while host.clock.now() < instant && host.slots.drop_one() {}
            let filled = {
                let future = pin!(fill(claim.pool(), &host.clock, &host.ticker, false));
                Until { alarm: host.ticker.alarm(), instant, future }.await
            };
            let left = if filled == Some(Filled::Full) { claim.release() } else { Some(claim) };
            if let Some(claim) = left {
                host.slots.want(claim);
            }
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
    let claim = Claim::on(pool);
    fill(pool, &host.clock, &host.ticker, false).await;
    if let Some(claim) = claim.and_then(Claim::release) {
        host.slots.want(claim);
    }
}
