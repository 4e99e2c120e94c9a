//! Resources of the embedder: what a guest holds as a handle, and where the values behind the handles are.

use std::fmt;
use std::marker::PhantomData;

/// A handle that a guest holds to a value of the embedder's. What is behind it, the embedder keeps: see [`Resources`].
pub struct Resource<T> {
    rep: u32,
    of: PhantomData<fn() -> T>,
}

impl<T> Resource<T> {
    /// A handle with that number, which the embedder chooses.
    pub fn new(rep: u32) -> Resource<T> {
        Resource { rep, of: PhantomData }
    }

    /// The number.
    pub fn rep(&self) -> u32 {
        self.rep
    }
}

impl<T> fmt::Debug for Resource<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resource({})", self.rep)
    }
}

/// The values behind the handles of one call. A clone is empty, so that imports which hold one can be cloned for each
/// call. How many a guest may hold is bounded by [`Limits::handles`](crate::Limits::handles).
pub struct Resources<T>(slab::Slab<T>);

impl<T> Default for Resources<T> {
    fn default() -> Resources<T> {
        Resources(slab::Slab::new())
    }
}

impl<T> Clone for Resources<T> {
    fn clone(&self) -> Resources<T> {
        Resources::default()
    }
}

impl<T> Resources<T> {
    /// Keeps a value, and gives the handle to pass to the guest.
    pub fn insert(&mut self, value: T) -> Resource<T> {
        // A call holds far fewer values than that: its handles are bounded.
        Resource::new(self.0.insert(value).try_into().unwrap_or(u32::MAX))
    }

    /// The value behind a handle.
    pub fn get(&self, handle: &Resource<T>) -> Option<&T> {
        self.0.get(handle.rep as usize)
    }

    /// The value behind a handle, to change it.
    pub fn get_mut(&mut self, handle: &Resource<T>) -> Option<&mut T> {
        self.0.get_mut(handle.rep as usize)
    }

    /// Gives a value up, when the guest drops its handle.
    pub fn remove(&mut self, handle: &Resource<T>) -> Option<T> {
        self.0.try_remove(handle.rep as usize)
    }
}

impl<T> fmt::Debug for Resources<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resources({})", self.0.len())
    }
}
