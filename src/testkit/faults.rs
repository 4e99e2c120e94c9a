//! [`Faults`]: what goes wrong on purpose, and a store in which it does.

use crate::BoxFuture;
use crate::store::{Batch, Committed, Durability, Entry, Kv, Refused, Size, Space, Store};
use bytes::Bytes;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::io;
use std::sync::Arc;

/// Which of the next operations fail. A clone is another handle to the same.
#[derive(Clone, Debug)]
pub struct Faults(Arc<Mutex<Plan>>);

#[derive(Debug)]
struct Plan {
    random: StdRng,
    next: u32,
    percent: u8,
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fault {
    /// Before anything happened.
    Before,
    /// It happens, and nobody is told.
    After,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Faults {
        Faults(Arc::new(Mutex::new(Plan { random: StdRng::seed_from_u64(seed), next: 0, percent: 0 })))
    }

    /// The next `operations` fail.
    pub fn next(&self, operations: u32) {
        self.0.lock().next = operations;
    }

    /// From now on so many of a hundred operations fail, which ones by the seed; 0 ends it.
    pub fn percent(&self, percent: u8) {
        self.0.lock().percent = percent;
    }

    pub(super) fn strike(&self) -> Option<Fault> {
        let plan = &mut *self.0.lock();
        let strikes = if plan.next > 0 {
            plan.next -= 1;
            true
        } else {
            plan.percent > 0 && plan.random.random_range(0..100) < plan.percent
        };
        strikes.then(|| if plan.random.random() { Fault::Before } else { Fault::After })
    }
}

/// A store in which operations fail as [`Faults`] say. Of the commits that fail, half happen all the same, as where a
/// connection is lost before the answer.
pub(super) struct Faulty {
    pub(super) store: Store,
    pub(super) faults: Faults,
}

impl Faulty {
    fn read(&self) -> io::Result<()> {
        self.faults.strike().map_or(Ok(()), |_| Err(lost()))
    }
}

fn lost() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "a fault of the test's")
}

impl Kv for Faulty {
    fn durability(&self) -> Durability {
        self.store.kv().durability()
    }

    fn get_many<'a>(
        &'a self,
        space: &'a Space,
        keys: &'a [Bytes],
        room: usize,
    ) -> BoxFuture<'a, io::Result<Vec<Option<Entry>>>> {
        Box::pin(async move {
            self.read()?;
            self.store.kv().get_many(space, keys, room).await
        })
    }

    fn list<'a>(
        &'a self,
        space: &'a Space,
        prefix: &'a [u8],
        after: Option<&'a [u8]>,
        limit: usize,
    ) -> BoxFuture<'a, io::Result<Vec<Bytes>>> {
        Box::pin(async move {
            self.read()?;
            self.store.kv().list(space, prefix, after, limit).await
        })
    }

    fn size<'a>(&'a self, space: &'a Space) -> BoxFuture<'a, io::Result<Size>> {
        Box::pin(async move {
            self.read()?;
            self.store.kv().size(space).await
        })
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Committed, Refused>> {
        Box::pin(async move {
            let fault = self.faults.strike();
            if fault != Some(Fault::Before) {
                let committed = self.store.kv().commit(batch).await?;
                if fault.is_none() {
                    return Ok(committed);
                }
            }
            Err(Refused::Failed(lost()))
        })
    }
}
