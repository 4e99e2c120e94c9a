//! The store that is gone with the process: maps under one lock.

use super::{Batch, Committed, Durability, Entry, Kv, Refused, Size, Space, Version, within};
use crate::future::BoxFuture;
use bytes::Bytes;
use parking_lot::RwLock;
use std::collections::{BTreeMap, HashMap};
use std::future::ready;
use std::io;
use std::ops::Bound;

#[derive(Default)]
pub(super) struct Memory(RwLock<Maps>);

#[derive(Default)]
struct Maps {
    /// Only those that hold something: tenants come and go.
    spaces: HashMap<Space, Map>,
    last: u64,
}

#[derive(Default)]
struct Map {
    entries: BTreeMap<Bytes, Entry>,
    size: Size,
}

impl Maps {
    fn commit(&mut self, batch: &Batch) -> Result<Committed, Refused> {
        let map = |space: &Space| self.spaces.get(space);
        let plan = batch.plan(
            |space, key| Ok(map(space).and_then(|map| map.entries.get(key)).cloned()),
            |space| Ok(map(space).map(|map| map.size).unwrap_or_default()),
        )?;
        self.last += 1;
        let version = Version(self.last);
        for ((space, key), value) in plan.writes {
            let entries = &mut self.spaces.entry(space).or_default().entries;
            match value {
                Some(value) => drop(entries.insert(key, Entry { value, version })),
                None => drop(entries.remove(&key)),
            }
        }
        for (space, size) in plan.sizes {
            if size.keys == 0 {
                self.spaces.remove(&space);
            } else if let Some(map) = self.spaces.get_mut(&space) {
                map.size = size;
            }
        }
        Ok(Committed { version, sums: plan.sums })
    }
}

impl Kv for Memory {
    fn durability(&self) -> Durability {
        Durability::Memory
    }

    fn get_many<'a>(
        &'a self,
        space: &'a Space,
        keys: &'a [Bytes],
        room: usize,
    ) -> BoxFuture<'a, io::Result<Vec<Option<Entry>>>> {
        let maps = self.0.read();
        let map = maps.spaces.get(space);
        let found = keys.iter().map(|key| Ok(map.and_then(|map| map.entries.get(key)).cloned()));
        Box::pin(ready(within(room, found)))
    }

    fn list<'a>(
        &'a self,
        space: &'a Space,
        prefix: &'a [u8],
        after: Option<&'a [u8]>,
        limit: usize,
    ) -> BoxFuture<'a, io::Result<Vec<Bytes>>> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let maps = self.0.read();
        let keys = maps.spaces.get(space).map(|map| {
            let found = map.entries.range::<[u8], _>((from, Bound::Unbounded)).map(|(key, _)| key);
            found.take_while(|key| key.starts_with(prefix)).take(limit).cloned().collect()
        });
        Box::pin(ready(Ok(keys.unwrap_or_default())))
    }

    fn size<'a>(&'a self, space: &'a Space) -> BoxFuture<'a, io::Result<Size>> {
        Box::pin(ready(Ok(self.0.read().spaces.get(space).map(|map| map.size).unwrap_or_default())))
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Committed, Refused>> {
        Box::pin(ready(self.0.write().commit(&batch)))
    }
}
