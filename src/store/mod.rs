//! Where state lives: [`Kv`], what it promises, and who keeps the promise.
//!
//! A store maps a [`Space`] and a key to a value with a version. Everything is written by [`Kv::commit`], as a
//! [`Batch`] that happens as a whole or not at all, so that a write of one kind can be made together with another.
//! What is read was committed.
//!
//! A store knows nothing of guests or grants: what a guest may do is decided before it comes here.
//!
//! ```
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use isopod::store::{Batch, Space, Store};
//!
//! let store = Store::memory();
//! let space = Space::new(Some("acme"), "state");
//! let committed = store.kv().commit(Batch::new().set(&space, "color", "blue").add(&space, "visits", 1)).await?;
//! assert_eq!(store.kv().get(&space, b"color").await?.unwrap().value, "blue");
//! assert_eq!(committed.sums, [1]);
//! # Ok(()) }
//! ```

mod batch;
#[cfg(feature = "embedded")]
mod embedded;
mod memory;

pub use batch::{Batch, Committed, Op, Plan, Refused, Step};

use crate::future::BoxFuture;
use bytes::Bytes;
use std::fmt;
use std::io;
use std::sync::Arc;

/// A key-value store. Implement it to keep state elsewhere; `isopod::testkit` has the tests that it must pass.
///
/// Dropping a future gives the answer up, not the work: a commit that is given up happens later, has happened, or never
/// does, but never in part. A future must not block its thread: a call whose deadline passes could not end.
pub trait Kv: Send + Sync + 'static {
    /// What a commit has outlived once it is acknowledged.
    fn durability(&self) -> Durability;

    /// The entry of a key.
    fn get<'a>(&'a self, space: &'a Space, key: &'a [u8]) -> BoxFuture<'a, io::Result<Option<Entry>>> {
        Box::pin(async move {
            let found = self.get_many(space, &[Bytes::copy_from_slice(key)], usize::MAX).await?;
            Ok(found.into_iter().next().flatten())
        })
    }

    /// The entries of these keys, in their order, as of one moment. Whatever was acknowledged before is in it.
    ///
    /// Answers for as many of the first keys as have values of at most `room` bytes together, so that nobody makes the
    /// store take more memory than that; for one key at least.
    fn get_many<'a>(
        &'a self,
        space: &'a Space,
        keys: &'a [Bytes],
        room: usize,
    ) -> BoxFuture<'a, io::Result<Vec<Option<Entry>>>>;

    /// The keys of a space that begin with `prefix` and come after `after`, in the order of their bytes, at most `limit`
    /// of them. Fewer only if there are no more.
    fn list<'a>(
        &'a self,
        space: &'a Space,
        prefix: &'a [u8],
        after: Option<&'a [u8]>,
        limit: usize,
    ) -> BoxFuture<'a, io::Result<Vec<Bytes>>>;

    /// What a space holds.
    fn size<'a>(&'a self, space: &'a Space) -> BoxFuture<'a, io::Result<Size>>;

    /// Writes all of a batch or nothing, as if no other were written at the same time. See [`Batch::plan`] for what that
    /// comes to.
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Committed, Refused>>;
}

/// As many of the first entries as [`Kv::get_many`] answers for.
fn within<E>(room: usize, found: impl Iterator<Item = Result<Option<Entry>, E>>) -> Result<Vec<Option<Entry>>, E> {
    let (mut answers, mut bytes) = (Vec::new(), 0_usize);
    for entry in found {
        let entry = entry?;
        bytes = bytes.saturating_add(entry.as_ref().map_or(0, |entry| entry.value.len()));
        if bytes > room && !answers.is_empty() {
            break;
        }
        answers.push(entry);
    }
    Ok(answers)
}

/// One bucket of one tenant: where keys are. A bucket without a tenant is another one than that of the tenant "".
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Space {
    tenant: Option<Arc<str>>,
    bucket: Arc<str>,
}

impl Space {
    /// The bucket of that tenant, or the one of calls without a tenant.
    pub fn new(tenant: Option<&str>, bucket: &str) -> Space {
        Space { tenant: tenant.map(Into::into), bucket: bucket.into() }
    }

    /// The tenant whose it is.
    pub fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    /// The bucket's name.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// A name in bytes that no other space has, for backends that keep one: 0 and the bucket, or 1, the length of the
    /// tenant as four bytes, the tenant and the bucket. Other first bytes are free for what is no bucket.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut name = Vec::with_capacity(5 + self.tenant().map_or(0, str::len) + self.bucket.len());
        match &self.tenant {
            None => name.push(0),
            Some(tenant) => {
                name.push(1);
                // Nobody's name has 4 GiB.
                name.extend((tenant.len() as u32).to_be_bytes());
                name.extend(tenant.as_bytes());
            }
        }
        name.extend(self.bucket.as_bytes());
        name
    }
}

/// A value, and which write of its key it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// Changes with every write of the key, and never comes back, not even after the key was removed.
    pub version: Version,
}

/// Which write an entry comes from. No two commits of a store have the same, and one that begins after another was
/// acknowledged has a higher one.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Version(pub u64);

/// What a space holds, or may hold.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Size {
    /// Bytes of all keys and values.
    pub bytes: u64,
    /// Number of keys.
    pub keys: u64,
}

/// What an acknowledged commit outlives. Each is more than the one before.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Durability {
    /// Nothing: it is gone with the process.
    Memory,
    /// The end of the process, by kill -9 as well.
    Os,
    /// A loss of power, as far as the disk says the truth.
    Disk,
    /// The loss of a machine.
    Quorum,
}

/// Where a host keeps its state. A clone is another handle to the same store.
#[derive(Clone)]
pub struct Store(Arc<dyn Kv>);

impl Store {
    /// State of this process, gone with it.
    pub fn memory() -> Store {
        Store::new(memory::Memory::default())
    }

    /// A store of your own.
    pub fn new(kv: impl Kv) -> Store {
        Store(Arc::new(kv))
    }

    /// The store itself, for the embedder's own reads and writes: to seed a bucket, or to look into it.
    pub fn kv(&self) -> &dyn Kv {
        &*self.0
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("durability", &self.0.durability()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_spaces_have_the_same_name() {
        let names = ["", "a", "b", "ab", "a/b", "/", "\0", "\0a", "\u{1}", "\0\0\0\u{1}a", "b\0\0\0\u{1}", "a\u{ffff}"];
        let tenants: Vec<Option<&str>> = names.iter().copied().map(Some).chain([None]).collect();
        let mut seen = HashSet::new();
        for tenant in &tenants {
            for bucket in names {
                assert!(seen.insert(Space::new(*tenant, bucket).to_bytes()), "{tenant:?} {bucket:?}");
            }
        }
    }
}
