//! Resources of the embedder: what a guest holds as a handle, and where the values behind the handles are.

use std::fmt;
use std::marker::PhantomData;

/// A handle that a guest holds to a value of the embedder's. What is behind it, the embedder keeps: see [`Resources`].
/// `R` is the type that `world!` made of the WIT resource.
pub struct Resource<R> {
    rep: u32,
    of: PhantomData<fn() -> R>,
}

impl<R> Resource<R> {
    /// A handle with that number, which the embedder chooses.
    pub fn new(rep: u32) -> Resource<R> {
        Resource { rep, of: PhantomData }
    }

    /// The number.
    pub fn rep(&self) -> u32 {
        self.rep
    }
}

impl<R> fmt::Debug for Resource<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resource({})", self.rep)
    }
}

/// The values behind the handles of one call. `R` in its methods is the type that `world!` made of the WIT resource, `T`
/// the embedder's own type behind it. A clone is empty, so that imports which hold one can be cloned for each
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
    pub fn insert<R>(&mut self, value: T) -> Resource<R> {
        // A call holds far fewer values than that: its handles are bounded.
        Resource::new(self.0.insert(value).try_into().expect("a table of resources holds fewer than 2^32"))
    }

    /// The value behind a handle.
    pub fn get<R>(&self, handle: &Resource<R>) -> Option<&T> {
        self.0.get(handle.rep as usize)
    }

    /// The value behind a handle, to change it.
    pub fn get_mut<R>(&mut self, handle: &Resource<R>) -> Option<&mut T> {
        self.0.get_mut(handle.rep as usize)
    }

    /// Gives a value up, when the guest drops its handle.
    pub fn remove<R>(&mut self, handle: &Resource<R>) -> Option<T> {
        self.0.try_remove(handle.rep as usize)
    }
}

impl<T> fmt::Debug for Resources<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resources({})", self.0.len())
    }
}
