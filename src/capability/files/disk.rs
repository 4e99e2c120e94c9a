//! [`Disk`]: how many threads and descriptors of the process guests' files may take, and where scratch directories are.
//!
//! Each bound stands three times: for the host, for one function, so that it leaves some for the others, and for one call.
//! The first two are here; the call's is its [`Desk`](super::tree::Desk).

use super::scratch::{Space, default_root};
use parking_lot::Mutex;
use rustix::process::{Resource, getrlimit};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Threads that guests' files have at work at once. A runtime has 512 for blocking work by default, and others need them too.
const MAX_THREADS: usize = 128;
/// Those of one function. A disk that no longer answers keeps them for ever.
const MAX_FUNCTION_THREADS: usize = 16;
/// Descriptors that guests have open, where the process may have as many as it likes.
const MAX_DESCRIPTORS: usize = 65_536;

/// What the files of one host's guests share.
pub(crate) struct Disk {
    root: Option<PathBuf>,
    space: Mutex<Option<Arc<Space>>>,
    all: Arc<Share>,
    of_function: usize,
}

impl Default for Disk {
    fn default() -> Disk {
        Disk::new(None)
    }
}

impl Disk {
    /// One whose scratch directories are made below `scratch`. Guests have half of the descriptors that the process may
    /// have now, and those of one function a quarter of that.
    pub(crate) fn new(scratch: Option<PathBuf>) -> Disk {
        let limit = getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok());
        Disk::with(scratch, limit.map_or(MAX_DESCRIPTORS, |limit| (limit / 2).min(MAX_DESCRIPTORS)))
    }

    fn with(root: Option<PathBuf>, descriptors: usize) -> Disk {
        let all = Share::new(MAX_THREADS, descriptors);
        Disk { root, space: Mutex::default(), all, of_function: (descriptors / 4).max(1) }
    }

    /// Where scratch directories are, made when the first function needs it.
    pub(super) fn space(&self) -> Result<Arc<Space>, String> {
        let mut space = self.space.lock();
        if let Some(space) = &*space {
            return Ok(Arc::clone(space));
        }
        let root = self.root.clone().unwrap_or_else(default_root);
        let made = Space::make(root.clone()).map_err(|e| format!("{}: {e}", root.display()))?;
        Ok(Arc::clone(space.insert(Arc::new(made))))
    }

    /// What one more function may take.
    pub(super) fn shares(&self) -> Shares {
        Shares { function: Share::new(MAX_FUNCTION_THREADS, self.of_function), host: Arc::clone(&self.all) }
    }
}

struct Share {
    threads: Arc<Semaphore>,
    descriptors: Arc<Semaphore>,
}

impl Share {
    fn new(threads: usize, descriptors: usize) -> Arc<Share> {
        Arc::new(Share { threads: Semaphore::new(threads).into(), descriptors: Semaphore::new(descriptors).into() })
    }
}

/// A function's share, and that of its host in which it lies.
#[derive(Clone)]
pub(super) struct Shares {
    function: Arc<Share>,
    host: Arc<Share>,
}

/// A part of both, until it is dropped.
pub(super) struct Taken {
    _function: OwnedSemaphorePermit,
    _host: OwnedSemaphorePermit,
}

impl Shares {
    /// A thread, when there is one to spare.
    pub(super) async fn thread(&self) -> Option<Taken> {
        // In this order: who waits for the host's keeps none of its function from others for longer than those take.
        let _function = Arc::clone(&self.function.threads).acquire_owned().await.ok()?;
        let _host = Arc::clone(&self.host.threads).acquire_owned().await.ok()?;
        Some(Taken { _function, _host })
    }

    /// A thread, if there is one to spare now.
    pub(super) fn thread_now(&self) -> Option<Taken> {
        take(&self.function.threads, &self.host.threads)
    }

    /// A descriptor, if one may be opened.
    pub(super) fn descriptor(&self) -> Option<Taken> {
        take(&self.function.descriptors, &self.host.descriptors)
    }
}

fn take(function: &Arc<Semaphore>, host: &Arc<Semaphore>) -> Option<Taken> {
    let _function = Arc::clone(function).try_acquire_owned().ok()?;
    let _host = Arc::clone(host).try_acquire_owned().ok()?;
    Some(Taken { _function, _host })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_has_a_quarter_of_what_there_is_and_all_of_them_no_more_than_that() {
        let disk = Disk::with(None, 8);
        let mut functions = Vec::new();
        for _ in 0..4 {
            let shares = disk.shares();
            let taken = [shares.descriptor().unwrap(), shares.descriptor().unwrap()];
            assert!(shares.descriptor().is_none());
            functions.push((shares, taken));
        }
        let more = disk.shares();
        assert!(more.descriptor().is_none());
        functions.pop();
        assert!(more.descriptor().is_some() && more.thread_now().is_some());
    }

    #[test]
    fn the_threads_of_a_function_are_some_of_the_hosts() {
        let disk = Disk::default();
        let shares = disk.shares();
        let taken: Vec<_> = std::iter::from_fn(|| shares.thread_now()).collect();
        assert_eq!(taken.len(), MAX_FUNCTION_THREADS);
        let others: Vec<_> = (0..20).map(|_| disk.shares()).collect();
        let all = others.iter().flat_map(|shares| std::iter::from_fn(|| shares.thread_now())).collect::<Vec<_>>();
        assert_eq!(all.len() + taken.len(), MAX_THREADS);
    }
}
