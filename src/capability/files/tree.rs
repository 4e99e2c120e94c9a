//! One granted directory: its books, its scratch directory, and the closing of its files.
//!
//! Whatever changes a tree holds the lock of its books from looking until the change is counted. Writers of one tree wait
//! for each other: for [`Tree::turn`], before they have a thread, so that no thread waits for another. A file is closed on
//! a thread for blocking work, one at a time for each tree: what the last to close it has to do, where it has no name any
//! more, may take seconds. Who finds the quota used up waits for what is being closed.

use super::disk::{Shares, Taken};
use super::fail::{Code, Fail, Outcome};
use super::ledger::{Full, Inode, Ledger, Quota};
use super::scratch::{Own, Space, walk};
use cap_fs_ext::MetadataExt;
use cap_std::fs::{Dir, Metadata};
use parking_lot::{Mutex, MutexGuard};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How often a tree is measured again at most. It takes some milliseconds for the default quota.
const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// One granted directory: of a function, for a [`Dir`](super::Dir), of one call, for a [`Scratch`](super::Scratch).
pub(super) struct Tree {
    /// Where the guest finds it.
    pub guest: String,
    /// Where it is, for people; empty for scratch.
    pub host: PathBuf,
    pub writable: bool,
    /// Where to make it, for scratch.
    space: Option<Arc<Space>>,
    root: OnceLock<Root>,
    /// What its function may take.
    shares: Shares,
    /// Has one permit: for who needs the books.
    changes: Arc<Semaphore>,
    books: Mutex<Books>,
    closing: Mutex<Closing>,
    /// Held by who closes files.
    closer: Mutex<()>,
    /// Files that were closed, which the books are told of when they are next needed.
    closed: Mutex<Vec<Inode>>,
}

/// The directory of a tree.
enum Root {
    Granted(Dir),
    Scratch { own: Own, _place: Place },
}

/// Files that guests need no longer.
#[derive(Default)]
struct Closing {
    files: Vec<(File, Inode, Option<Taken>)>,
    /// Whether somebody was asked to close them.
    asked: bool,
}

pub(super) struct Books {
    pub(super) ledger: Ledger,
    /// When the tree was last measured again.
    measured: Option<SystemTime>,
    /// Whether the call that it was for has ended.
    over: bool,
    /// Whether it was told that the directory cannot be made; a guest may try it often.
    complained: bool,
}

/// Somebody's turn to do something that blocks: a thread, and, to change a tree, the only permit for that.
pub(super) struct Turn {
    _changes: Option<OwnedSemaphorePermit>,
    _thread: Taken,
}

impl Tree {
    /// A directory that is there. A writable one is measured.
    pub(super) fn granted(
        dir: Dir,
        host: PathBuf,
        guest: String,
        quota: Option<Quota>,
        shares: Shares,
    ) -> Result<Tree, String> {
        let writable = quota.is_some();
        let mut ledger = Ledger::new(quota.unwrap_or_default());
        if let Some(quota) = quota {
            measure(&dir, &mut ledger).map_err(|e| format!("it cannot be measured: {e}"))?;
            if ledger.is_over() {
                let Quota { bytes, entries } = ledger.held();
                let more = if entries > quota.entries { "at least " } else { "" };
                return Err(format!(
                    "it holds {more}{bytes} bytes in {entries} entries, and may hold {} in {}; raise .max_bytes(..) or .max_entries(..), or remove some",
                    quota.bytes, quota.entries
                ));
            }
        }
        Ok(Tree { host, writable, root: OnceLock::from(Root::Granted(dir)), ..Tree::new(guest, ledger, shares) })
    }

    /// An empty directory that is made when it is first used.
    pub(super) fn scratch(space: Arc<Space>, guest: String, quota: Quota, shares: Shares) -> Tree {
        Tree { space: Some(space), ..Tree::new(guest, Ledger::new(quota), shares) }
    }

    fn new(guest: String, ledger: Ledger, shares: Shares) -> Tree {
        Tree {
            guest,
            host: PathBuf::new(),
            writable: true,
            space: None,
            root: OnceLock::new(),
            shares,
            changes: Semaphore::new(1).into(),
            books: Mutex::new(Books { ledger, measured: None, over: false, complained: false }),
            closing: Mutex::default(),
            closer: Mutex::default(),
            closed: Mutex::default(),
        }
    }

    /// Whether there is a directory. To make it needs the books.
    pub(super) fn is_made(&self) -> bool {
        self.root.get().is_some()
    }

    /// `desk` is that of whoever needs it: a directory of a call's own is one of those that it has open.
    pub(super) fn root(&self, desk: &Desk) -> Outcome<&Dir> {
        if !self.is_made() {
            let place = self.place(desk)?;
            let mut books = self.lock()?;
            if let (None, Some(space)) = (self.root.get(), &self.space) {
                let made = space.directory().inspect_err(|error| {
                    if !std::mem::replace(&mut books.complained, true) {
                        tracing::error!(%error, "no directory for scratch files can be made");
                    }
                })?;
                // Nobody else sets it while the books are locked.
                let _ = self.root.set(Root::Scratch { own: made, _place: place });
            }
        }
        match self.root.get() {
            Some(Root::Granted(dir) | Root::Scratch { own: Own { dir, .. }, .. }) => Ok(dir),
            None => Err(Code::Io.into()),
        }
    }

    /// Waits for a turn.
    pub(super) async fn turn(&self, changes: bool) -> Option<Turn> {
        // First this: while who changes the tree is waited for, others may have the threads.
        let _changes = match changes {
            true => Some(Arc::clone(&self.changes).acquire_owned().await.ok()?),
            false => None,
        };
        Some(Turn { _changes, _thread: self.shares.thread().await? })
    }

    fn turn_now(&self, changes: bool) -> Option<Turn> {
        let _changes = match changes {
            true => Some(Arc::clone(&self.changes).try_acquire_owned().ok()?),
            false => None,
        };
        Some(Turn { _changes, _thread: self.shares.thread_now()? })
    }

    /// Room for one more descriptor.
    pub(super) fn place(&self, desk: &Desk) -> Outcome<Place> {
        let call = desk.open()?;
        let taken = self.shares.descriptor().or_else(|| {
            self.close_all();
            self.shares.descriptor()
        });
        Ok(Place { taken: taken.ok_or(Code::InsufficientMemory)?, _call: call })
    }

    /// The books, for as long as the tree is changed.
    pub(super) fn lock(&self) -> Outcome<MutexGuard<'_, Books>> {
        let mut books = self.books.lock();
        if books.over {
            return Err(Fail::Code(Code::Io));
        }
        self.settle(&mut books);
        Ok(books)
    }

    fn settle(&self, books: &mut Books) {
        let closed = std::mem::take(&mut *self.closed.lock());
        closed.into_iter().for_each(|inode| books.ledger.closed(inode));
    }

    /// Whether there is room for something. If not, by the books: after what was closed is so, and after the tree was
    /// measured again, as others may have removed something.
    pub(super) fn room(&self, books: &mut Books, fits: impl Fn(&Ledger) -> Result<(), Full>) -> Outcome<()> {
        if fits(&books.ledger).is_ok() {
            return Ok(());
        }
        self.close_all();
        self.settle(books);
        if fits(&books.ledger).is_err() {
            self.measure_again(books);
        }
        Ok(fits(&books.ledger)?)
    }

    /// Draws up the books anew, unless that was done just now, or there is more than there may be.
    fn measure_again(&self, books: &mut Books) {
        let now = crate::clock::wall();
        let recent = |then| now.duration_since(then).is_ok_and(|since| since < MEASURE_EVERY);
        // Nobody else changes one call's own.
        let Some(Root::Granted(root)) = self.root.get() else { return };
        if books.measured.is_some_and(recent) {
            return;
        }
        books.measured = Some(now);
        let mut found = Ledger::new(books.ledger.max());
        // Where others are changing it just then, this may fail. Then the books stay as they are.
        if measure(root, &mut found).is_ok() && !found.is_over() {
            books.ledger.replace(found);
        }
    }

    /// Closes a file, by and by.
    pub(super) fn close(self: &Arc<Tree>, file: File, inode: Inode, taken: Option<Taken>) {
        let mut closing = self.closing.lock();
        closing.files.push((file, inode, taken));
        if !std::mem::replace(&mut closing.asked, true) {
            drop(closing);
            later(Arc::clone(self), false, |tree| {
                loop {
                    tree.close_all();
                    let mut closing = tree.closing.lock();
                    if closing.files.is_empty() {
                        closing.asked = false;
                        break;
                    }
                }
            });
        }
    }

    /// Closes all files that guests closed before, or waits for who is doing so.
    fn close_all(&self) {
        let _closer = self.closer.lock();
        while let Some((file, inode, taken)) = self.next_to_close() {
            drop(file);
            drop(taken);
            if self.writable {
                self.closed.lock().push(inode);
            }
        }
    }

    fn next_to_close(&self) -> Option<(File, Inode, Option<Taken>)> {
        self.closing.lock().files.pop()
    }

    /// Ends a scratch directory: what is under way in it is waited for, nothing begins any more, and it is removed.
    /// At once, where that takes no time; else on a thread.
    pub(super) fn end(self: &Arc<Tree>) {
        if let Some(mut books) = self.books.try_lock() {
            self.settle(&mut books);
            let held = books.ledger.held();
            if held.entries <= SMALL.entries && held.bytes <= SMALL.bytes {
                books.over = true;
                drop(books);
                return self.remove();
            }
        }
        later(Arc::clone(self), true, |tree| {
            tree.close_all();
            tree.books.lock().over = true;
            tree.remove();
        });
    }

    fn remove(&self) {
        if let Some(Root::Scratch { own, .. }) = self.root.get()
            && let Err(error) = own.remove()
        {
            tracing::error!(%error, "scratch files are left to be swept");
        }
    }
}

/// What is removed on the spot: some tens of microseconds. What is open and has no name is part of it, until it is closed.
const SMALL: Quota = Quota { bytes: 64 * 1024, entries: 8 };

/// Does what may take long on a thread, when it is its turn. Where there is no runtime, or it ends before, it is done by
/// who finds that out. If it has to wait for its turn, that is in a task: a runtime that nobody drives for a while does it
/// then, or at its end.
fn later(tree: Arc<Tree>, changes: bool, work: fn(&Arc<Tree>)) {
    struct Late(Arc<Tree>, fn(&Arc<Tree>));
    impl Drop for Late {
        fn drop(&mut self) {
            self.1(&self.0);
        }
    }
    let turn = tree.turn_now(changes);
    let late = Late(tree, work);
    let Ok(runtime) = Handle::try_current() else { return };
    match turn {
        Some(turn) => drop(runtime.spawn_blocking(move || drop((late, turn)))),
        None => drop(runtime.spawn(async move {
            let turn = late.0.turn(changes).await;
            tokio::task::spawn_blocking(move || drop((late, turn)));
        })),
    }
}

/// Counts what is in a directory, until that is more than it may hold.
fn measure(root: &Dir, ledger: &mut Ledger) -> io::Result<()> {
    let enter = |dir: &Dir| {
        let mut below = Vec::new();
        for entry in dir.entries()? {
            let entry = entry?;
            let meta = entry.metadata()?;
            ledger.measured((meta.dev(), meta.ino()), length(&meta));
            if ledger.is_over() {
                return Ok(Vec::new());
            }
            if meta.is_dir() {
                below.push(entry.file_name());
            }
        }
        Ok(below)
    };
    walk(root.try_clone()?, enter, |_, _| Ok(()))
}

/// What counts as its bytes. What a file system needs for directories is not the guest's.
pub(super) fn length(meta: &Metadata) -> u64 {
    if meta.is_dir() { 0 } else { meta.len() }
}

/// What all descriptors of one call share.
pub(super) struct Desk {
    /// Operations at once.
    pub jobs: Arc<Semaphore>,
    /// Descriptors that may still be opened.
    pub opens: Arc<Semaphore>,
    /// Of the call that runs.
    pub denials: Mutex<crate::denial::Denials>,
}

impl Desk {
    /// One more of what a call has open: a descriptor, or a stream with what it holds.
    pub(super) fn open(&self) -> Result<OwnedSemaphorePermit, Code> {
        Arc::clone(&self.opens).try_acquire_owned().map_err(|_| Code::InsufficientMemory)
    }
}

/// What a descriptor takes: of the call, and of the function and the host.
pub(super) struct Place {
    pub(super) taken: Taken,
    _call: OwnedSemaphorePermit,
}

#[cfg(test)]
pub(super) mod tests;
