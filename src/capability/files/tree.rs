//! One granted directory and what a guest has open in it. Every operation of `wasi:filesystem` is here once, for both
//! generations; all of them may block.
//!
//! Paths are resolved beneath a directory by cap-std. Beyond that:
//!
//! - Only regular files and directories are opened. What is there is looked at first, then opened without waiting, then
//!   looked at again. Who swaps the file for a device in between makes the host open that device, and close it at once.
//! - Whatever changes a tree holds the lock of its books from looking until the change is counted. Writers of one tree
//!   wait for each other: for [`Tree::turn`], before they have a thread, so that no thread waits for another.
//! - A file is closed on a thread for blocking work, one at a time for each tree: what the last to close it has to do,
//!   where it has no name any more, may take seconds. Who finds the quota used up waits for what is being closed.
//! - A symlink that a guest makes leads down from where it lies, so that it leads out of the tree for nobody, wherever it
//!   is moved. One that leads up, which only others can have made, is not moved by guests.

use super::disk::{Shares, Taken};
use super::ledger::{Full, Inode, Ledger, Quota};
use super::scratch::{Own, Space, walk};
use cap_fs_ext::{DirExt, FollowSymlinks, MetadataExt, OpenOptionsFollowExt, OpenOptionsSyncExt, SystemTimeSpec};
use cap_std::fs::{Dir, FileType, Metadata, OpenOptions};
use cap_std::time::SystemTime as CapTime;
use parking_lot::{Mutex, MutexGuard};
use std::fs::{File, FileTimes};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of one path, or of the text of a symlink; what Linux takes.
const MAX_PATH: usize = 4096;
/// Entries of a directory that are read at once.
const BATCH: usize = 64;
/// How often a tree is measured again at most. It takes some milliseconds for the default quota.
const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// Why an operation fails.
#[derive(Debug)]
pub(super) enum Fail {
    Code(Code),
    /// A rule said no: there is a record to be made.
    Denied(Rule, String),
}

/// Error codes that both generations of WASI have, as far as they are given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Code {
    Access,
    BadDescriptor,
    Busy,
    CrossDevice,
    Exist,
    FileTooLarge,
    IllegalByteSequence,
    InsufficientMemory,
    InsufficientSpace,
    Interrupted,
    Invalid,
    Io,
    IsDirectory,
    Loop,
    NameTooLong,
    NoEntry,
    NotDirectory,
    NotEmpty,
    NotPermitted,
    Overflow,
    ReadOnly,
    TooManyLinks,
    Unsupported,
}

/// Which rule said no.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Rule {
    ReadOnly,
    Escape,
    Special,
    Target,
    Moved,
}

impl Rule {
    pub(super) fn code(self) -> Code {
        match self {
            Rule::ReadOnly => Code::ReadOnly,
            Rule::Escape | Rule::Special | Rule::Target | Rule::Moved => Code::NotPermitted,
        }
    }
}

impl From<Code> for Fail {
    fn from(code: Code) -> Fail {
        Fail::Code(code)
    }
}

impl From<Full> for Fail {
    fn from(_: Full) -> Fail {
        Fail::Code(Code::InsufficientSpace)
    }
}

impl From<io::Error> for Fail {
    fn from(error: io::Error) -> Fail {
        use rustix::io::Errno;
        Fail::Code(match Errno::from_io_error(&error) {
            Some(Errno::ACCESS) => Code::Access,
            Some(Errno::BADF) => Code::BadDescriptor,
            Some(Errno::BUSY) => Code::Busy,
            Some(Errno::DQUOT | Errno::NOSPC) => Code::InsufficientSpace,
            Some(Errno::EXIST) => Code::Exist,
            Some(Errno::FBIG) => Code::FileTooLarge,
            Some(Errno::ILSEQ) => Code::IllegalByteSequence,
            Some(Errno::INTR) => Code::Interrupted,
            Some(Errno::INVAL) => Code::Invalid,
            Some(Errno::ISDIR) => Code::IsDirectory,
            Some(Errno::LOOP) => Code::Loop,
            Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => Code::InsufficientMemory,
            Some(Errno::MLINK) => Code::TooManyLinks,
            Some(Errno::NAMETOOLONG) => Code::NameTooLong,
            Some(Errno::NOENT) => Code::NoEntry,
            Some(Errno::NOTDIR) => Code::NotDirectory,
            Some(Errno::NOTEMPTY) => Code::NotEmpty,
            Some(Errno::NOTSUP) => Code::Unsupported,
            Some(Errno::OVERFLOW) => Code::Overflow,
            Some(Errno::PERM) => Code::NotPermitted,
            Some(Errno::ROFS) => Code::ReadOnly,
            Some(Errno::XDEV) => Code::CrossDevice,
            Some(_) => Code::Io,
            None if error.kind() == io::ErrorKind::PermissionDenied => Code::NotPermitted,
            None if error.kind() == io::ErrorKind::InvalidInput => Code::Invalid,
            None => Code::Io,
        })
    }
}

pub(super) type Outcome<T> = Result<T, Fail>;

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

struct Books {
    ledger: Ledger,
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
    fn root(&self, desk: &Desk) -> Outcome<&Dir> {
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
    fn place(&self, desk: &Desk) -> Outcome<Place> {
        let call = desk.open()?;
        let taken = self.shares.descriptor().or_else(|| {
            self.close_all();
            self.shares.descriptor()
        });
        Ok(Place { taken: taken.ok_or(Code::InsufficientMemory)?, _call: call })
    }

    /// The books, for as long as the tree is changed.
    fn lock(&self) -> Outcome<MutexGuard<'_, Books>> {
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
    fn room(&self, books: &mut Books, fits: impl Fn(&Ledger) -> Result<(), Full>) -> Outcome<()> {
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
    fn close(self: &Arc<Tree>, file: File, inode: Inode, taken: Option<Taken>) {
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
fn length(meta: &Metadata) -> u64 {
    if meta.is_dir() { 0 } else { meta.len() }
}

/// What all descriptors of one call share.
pub(super) struct Desk {
    /// Operations at once.
    pub jobs: Arc<Semaphore>,
    /// Descriptors that may still be opened.
    pub opens: Arc<Semaphore>,
    pub denials: crate::denial::Denials,
}

impl Desk {
    /// One more of what a call has open: a descriptor, or a stream with what it holds.
    fn open(&self) -> Result<OwnedSemaphorePermit, Code> {
        Arc::clone(&self.opens).try_acquire_owned().map_err(|_| Code::InsufficientMemory)
    }
}

/// What a descriptor takes: of the call, and of the function and the host.
struct Place {
    taken: Taken,
    _call: OwnedSemaphorePermit,
}

/// Something that a guest has open.
pub(super) struct Node {
    pub tree: Arc<Tree>,
    pub desk: Arc<Desk>,
    what: What,
    /// Whether its data may be read and written; for a directory, whether it may be changed.
    pub read: bool,
    pub write: bool,
    place: Option<Place>,
}

enum What {
    Root,
    Dir(Dir),
    File(File, Inode),
}

/// How to open.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct How {
    pub follow: bool,
    pub create: bool,
    pub directory: bool,
    pub exclusive: bool,
    pub truncate: bool,
    pub read: bool,
    pub write: bool,
    pub sync: bool,
}

/// What a guest is told of a file.
pub(super) struct Stat {
    pub kind: FileType,
    pub links: u64,
    pub bytes: u64,
    pub accessed: Option<SystemTime>,
    pub modified: Option<SystemTime>,
    pub inode: Inode,
}

/// A directory that is being listed.
pub(super) struct Listing {
    entries: cap_std::fs::ReadDir,
    /// What went wrong behind the entries that were given last.
    wrong: Option<Fail>,
    _place: Place,
}

impl Node {
    /// The directory of a grant.
    pub(super) fn root(tree: Arc<Tree>, desk: Arc<Desk>) -> Node {
        let write = tree.writable;
        Node { tree, desk, what: What::Root, read: true, write, place: None }
    }

    pub(super) fn is_dir(&self) -> bool {
        !matches!(self.what, What::File(..))
    }

    fn dir(&self) -> Outcome<&Dir> {
        match &self.what {
            What::Root => self.tree.root(&self.desk),
            What::Dir(dir) => Ok(dir),
            What::File(..) => Err(Code::NotDirectory.into()),
        }
    }

    fn file(&self) -> Outcome<(&File, Inode)> {
        match &self.what {
            What::File(file, inode) => Ok((file, *inode)),
            _ => Err(Code::BadDescriptor.into()),
        }
    }

    /// The file, if its data may be written.
    pub(super) fn for_writing(&self) -> Outcome<(&File, Inode)> {
        let found = self.file()?;
        if self.write { Ok(found) } else { self.writable("").and(Err(Code::BadDescriptor.into())) }
    }

    /// The file, if its data may be read.
    pub(super) fn for_reading(&self) -> Outcome<&File> {
        match &self.what {
            What::File(file, _) if self.read => Ok(file),
            What::File(..) => Err(Code::BadDescriptor.into()),
            _ => Err(Code::IsDirectory.into()),
        }
    }

    /// Whether the tree may be changed.
    fn writable(&self, path: &str) -> Outcome<()> {
        if self.tree.writable { Ok(()) } else { Err(Fail::Denied(Rule::ReadOnly, path.to_owned())) }
    }

    fn place(&self) -> Outcome<Place> {
        self.tree.place(&self.desk)
    }

    /// Room for a stream of it.
    pub(super) fn stream(&self) -> Result<OwnedSemaphorePermit, Code> {
        self.desk.open()
    }

    pub(super) fn open(&self, path: &str, mut how: How) -> Outcome<Node> {
        // What must not be there yet may not be a symlink either.
        how.follow &= !(how.create && how.exclusive);
        let dir = self.dir()?;
        let checked = check(path)?;
        if how.create || how.truncate || how.write {
            self.writable(path)?;
        }
        if how.sync {
            return Err(Code::Unsupported.into());
        }
        if how.directory && (how.create || how.exclusive || how.truncate) {
            return Err(Code::Invalid.into());
        }
        let place = self.place()?;
        let there = match look(dir, checked, how.follow) {
            Ok(_) if how.create && how.exclusive => return Err(Code::Exist.into()),
            Ok(meta) => {
                openable(&meta, path, how)?;
                options(how, false).open(dir, checked)
            }
            Err(error) => Err(error),
        };
        match there {
            Ok(file) => {
                let books = if self.tree.writable { Some(self.tree.lock()?) } else { None };
                self.opened(file, path, how, place, books)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && how.create => {
                no_slash(path).map_err(|_| Code::IsDirectory)?;
                let mut books = self.tree.lock()?;
                self.tree.room(&mut books, Ledger::room_for_name)?;
                let file = options(how, true).open(dir, checked).map_err(|error| failed(error, path))?;
                self.opened(file, path, how, place, Some(books))
            }
            Err(error) => Err(failed(error, path)),
        }
    }

    /// What was opened, as something the guest has. `books` are there if the tree is writable.
    fn opened(
        &self,
        file: File,
        path: &str,
        how: How,
        place: Place,
        books: Option<MutexGuard<'_, Books>>,
    ) -> Outcome<Node> {
        let meta = Metadata::from_file(&file)?;
        openable(&meta, path, how)?;
        let (inode, is_dir) = (inode(&meta), meta.is_dir());
        // Directories are counted when they are made, or measured. The tree's own is none of its entries.
        if let Some(mut books) = books.filter(|_| !is_dir) {
            books.ledger.seen(inode, length(&meta), meta.nlink());
            books.ledger.opened(inode);
        }
        let node = Node {
            tree: Arc::clone(&self.tree),
            desk: Arc::clone(&self.desk),
            what: if is_dir { What::Dir(Dir::from_std_file(file)) } else { What::File(file, inode) },
            read: how.read || !how.write,
            write: if is_dir { self.tree.writable } else { how.write },
            place: Some(place),
        };
        if how.truncate {
            let (file, inode) = node.file()?;
            node.change(file, inode, |_| Ok(0), || file.set_len(0))?;
        }
        Ok(node)
    }

    pub(super) fn stat(&self) -> Outcome<Stat> {
        let meta = match &self.what {
            What::File(file, _) => Metadata::from_file(file)?,
            _ => self.dir()?.dir_metadata()?,
        };
        Ok(Stat::of(&meta))
    }

    pub(super) fn stat_at(&self, path: &str, follow: bool) -> Outcome<Stat> {
        let meta = look(self.dir()?, check(path)?, follow).map_err(|error| failed(error, path))?;
        Ok(Stat::of(&meta))
    }

    pub(super) fn read(&self, offset: u64, max: usize) -> Outcome<Vec<u8>> {
        let file = self.for_reading()?;
        let mut bytes = vec![0; max];
        loop {
            match file.read_at(&mut bytes, offset) {
                Ok(len) => {
                    bytes.truncate(len);
                    return Ok(bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes all of it, or nothing if it would not fit. At the end of the file if there is no offset.
    pub(super) fn write(&self, bytes: &[u8], offset: Option<u64>) -> Outcome<()> {
        let (file, inode) = self.for_writing()?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.change(
            file,
            inode,
            |now| {
                let end = offset.unwrap_or(now).checked_add(bytes.len() as u64).ok_or(Code::FileTooLarge)?;
                Ok(now.max(end))
            },
            || match offset {
                Some(offset) => file.write_all_at(bytes, offset),
                None => append(file, bytes),
            },
        )
    }

    pub(super) fn set_size(&self, bytes: u64) -> Outcome<()> {
        let (file, inode) = self.for_writing()?;
        self.change(file, inode, |_| Ok(bytes), || file.set_len(bytes))
    }

    /// Changes a file, if it has room to become as long as `wanted` says of how long it is. It is counted as what it then is.
    fn change(
        &self,
        file: &File,
        inode: Inode,
        wanted: impl FnOnce(u64) -> Outcome<u64>,
        work: impl FnOnce() -> io::Result<()>,
    ) -> Outcome<()> {
        let mut books = self.tree.lock()?;
        let now = file.metadata()?.len();
        let wanted = wanted(now)?;
        self.tree.room(&mut books, |ledger| ledger.room_for(inode, now, wanted))?;
        let done = work();
        // Some of it may have been written before it failed.
        books.ledger.resized(inode, file.metadata()?.len());
        Ok(done?)
    }

    pub(super) fn sync(&self, data_only: bool) -> Outcome<()> {
        let dir;
        let file = match &self.what {
            What::File(file, _) => file,
            _ => {
                dir = self.dir()?.open(".")?.into_std();
                &dir
            }
        };
        Ok(if data_only { file.sync_data() } else { file.sync_all() }?)
    }

    pub(super) fn set_times(&self, accessed: Option<SystemTime>, modified: Option<SystemTime>) -> Outcome<()> {
        self.writable("")?;
        Ok(match &self.what {
            What::File(file, _) => file.set_times(times(accessed, modified)),
            _ => self.dir()?.open(".")?.into_std().set_times(times(accessed, modified)),
        }?)
    }

    pub(super) fn set_times_at(
        &self,
        path: &str,
        follow: bool,
        accessed: Option<SystemTime>,
        modified: Option<SystemTime>,
    ) -> Outcome<()> {
        let (dir, checked) = (self.dir()?, check(path)?);
        self.writable(path)?;
        if !follow {
            // cap-std would panic.
            if [accessed, modified].into_iter().flatten().any(|time| time < SystemTime::UNIX_EPOCH) {
                return Err(Code::Overflow.into());
            }
            let spec = |time: SystemTime| SystemTimeSpec::Absolute(CapTime::from_std(time));
            let done = dir.set_symlink_times(checked, accessed.map(spec), modified.map(spec));
            return done.map_err(|error| failed(error, path));
        }
        // cap-std's own would wait for the other end of a FIFO.
        let how = How { follow, ..How::default() };
        openable(&look(dir, checked, follow).map_err(|error| failed(error, path))?, path, how)?;
        let file = options(how, false).open(dir, checked).map_err(|error| failed(error, path))?;
        openable(&Metadata::from_file(&file)?, path, how)?;
        Ok(file.set_times(times(accessed, modified))?)
    }

    pub(super) fn create_dir(&self, path: &str) -> Outcome<()> {
        self.make(path, 0, |dir, path| dir.create_dir(path))
    }

    pub(super) fn symlink(&self, target: &str, path: &str) -> Outcome<()> {
        let aim = Path::new(target);
        if aim.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
            self.writable(path)?;
            return Err(Fail::Denied(Rule::Target, path.to_owned()));
        }
        let aim = check(target)?;
        no_slash(path)?;
        self.make(path, target.len() as u64, |dir, path| dir.symlink(aim, path))
    }

    /// Makes something that has a name and that many bytes.
    fn make(&self, path: &str, bytes: u64, work: impl FnOnce(&Dir, &Path) -> io::Result<()>) -> Outcome<()> {
        let (dir, checked) = (self.dir()?, check(path)?);
        self.writable(path)?;
        let mut books = self.tree.lock()?;
        self.tree.room(&mut books, |ledger| ledger.room_for_name().and(ledger.room_for((0, 0), 0, bytes)))?;
        work(dir, checked).map_err(|error| failed(error, path))?;
        match dir.symlink_metadata(checked) {
            Ok(meta) => books.ledger.seen(inode(&meta), length(&meta), if meta.is_dir() { 1 } else { meta.nlink() }),
            // Looking may need a descriptor where making it did not.
            Err(_) => books.ledger.unseen(bytes),
        }
        Ok(())
    }

    pub(super) fn read_link(&self, path: &str) -> Outcome<String> {
        let target = self.dir()?.read_link(check(path)?).map_err(|error| failed(error, path))?;
        target.into_os_string().into_string().map_err(|_| Code::IllegalByteSequence.into())
    }

    pub(super) fn remove_dir(&self, path: &str) -> Outcome<()> {
        // cap-std takes no slash at the end here.
        let bare = path.trim_end_matches('/');
        self.remove(if bare.is_empty() { path } else { bare }, |dir, path| dir.remove_dir(path))
    }

    pub(super) fn unlink(&self, path: &str) -> Outcome<()> {
        self.remove(path, |dir, path| dir.remove_file(path))
    }

    fn remove(&self, path: &str, work: impl FnOnce(&Dir, &Path) -> io::Result<()>) -> Outcome<()> {
        let (dir, checked) = (self.dir()?, check(path)?);
        self.writable(path)?;
        let mut books = self.tree.lock()?;
        let meta = dir.symlink_metadata(checked).map_err(|error| failed(error, path))?;
        work(dir, checked).map_err(|error| failed(error, path))?;
        books.ledger.unnamed(inode(&meta));
        Ok(())
    }

    pub(super) fn rename(&self, old: &str, to: &Node, new: &str) -> Outcome<()> {
        let (from, from_path) = (self.dir()?, check(old)?);
        let (to_dir, to_path) = (to.dir()?, check(new)?);
        let mut books = self.both_changed(old, to, new)?;
        let moved = from.symlink_metadata(from_path).map_err(|error| failed(error, old))?;
        if !moved.is_dir() {
            no_slash(new)?;
        }
        let elsewhere = !std::ptr::eq(self, to) || from_path.parent() != to_path.parent();
        if elsewhere && leads_up(from, from_path, &moved).map_err(|error| failed(error, old))? {
            return Err(Fail::Denied(Rule::Moved, old.to_owned()));
        }
        let replaced = to_dir.symlink_metadata(to_path).ok().map(|meta| inode(&meta));
        from.rename(from_path, to_dir, to_path).map_err(|error| failed(error, old))?;
        // Two names of the same file: nothing happened.
        if let Some(replaced) = replaced.filter(|replaced| *replaced != inode(&moved)) {
            books.ledger.unnamed(replaced);
        }
        Ok(())
    }

    pub(super) fn link(&self, old: &str, follow: bool, to: &Node, new: &str) -> Outcome<()> {
        let (from, from_path) = (self.dir()?, check(old)?);
        let (to_dir, to_path) = (to.dir()?, check(new)?);
        let mut books = self.both_changed(old, to, new)?;
        if follow {
            return Err(Code::Invalid.into());
        }
        no_slash(new)?;
        let linked = from.symlink_metadata(from_path).map_err(|error| failed(error, old))?;
        if !linked.is_file() {
            return Err(Code::NotPermitted.into());
        }
        self.tree.room(&mut books, Ledger::room_for_name)?;
        from.hard_link(from_path, to_dir, to_path).map_err(|error| failed(error, old))?;
        books.ledger.linked(inode(&linked), length(&linked), linked.nlink() + 1);
        Ok(())
    }

    /// The books of the tree that both are in. Each tree has a quota of its own, so nothing passes from one to another.
    fn both_changed(&self, old: &str, to: &Node, new: &str) -> Outcome<MutexGuard<'_, Books>> {
        self.writable(old)?;
        to.writable(new)?;
        if !Arc::ptr_eq(&self.tree, &to.tree) {
            return Err(Code::CrossDevice.into());
        }
        self.tree.lock()
    }

    pub(super) fn list(&self) -> Outcome<Listing> {
        let _place = self.place()?;
        Ok(Listing { entries: self.dir()?.entries()?, wrong: None, _place })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let What::File(file, inode) = std::mem::replace(&mut self.what, What::Root) {
            // The call may open another one at once; the descriptor is there until the file is closed.
            self.tree.close(file, inode, self.place.take().map(|place| place.taken));
        }
    }
}

impl Listing {
    /// Some more entries; none at the end.
    pub(super) fn next(&mut self) -> Outcome<Vec<(FileType, String)>> {
        if let Some(wrong) = self.wrong.take() {
            return Err(wrong);
        }
        let mut batch = Vec::new();
        for entry in self.entries.by_ref().take(BATCH) {
            let read = entry.map_err(Fail::from).and_then(|entry| {
                let name = entry.file_name().into_string().map_err(|_| Code::IllegalByteSequence)?;
                Ok((entry.file_type()?, name))
            });
            match read {
                Ok(entry) => batch.push(entry),
                Err(wrong) if batch.is_empty() => return Err(wrong),
                Err(wrong) => {
                    self.wrong = Some(wrong);
                    break;
                }
            }
        }
        Ok(batch)
    }
}

impl Stat {
    fn of(meta: &Metadata) -> Stat {
        Stat {
            kind: meta.file_type(),
            links: meta.nlink(),
            bytes: meta.len(),
            accessed: meta.accessed().ok().map(CapTime::into_std),
            modified: meta.modified().ok().map(CapTime::into_std),
            inode: inode(meta),
        }
    }

    /// A number by which a file is told from others.
    pub(super) fn hash(&self) -> (u64, u64) {
        use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        (hasher.hash_one(self.inode), hasher.hash_one((self.inode, "upper")))
    }
}

fn inode(meta: &Metadata) -> Inode {
    (meta.dev(), meta.ino())
}

pub(super) fn short(path: &str) -> Result<(), Code> {
    if path.len() < MAX_PATH { Ok(()) } else { Err(Code::NameTooLong) }
}

/// A path as far as it can be judged without looking.
pub(super) fn check(path: &str) -> Outcome<&Path> {
    match path {
        "" => Err(Code::NoEntry.into()),
        _ if path.contains('\0') => Err(Code::Invalid.into()),
        _ if short(path).is_err() => Err(Code::NameTooLong.into()),
        _ if path.starts_with('/') => Err(Fail::Denied(Rule::Escape, path.to_owned())),
        _ => Ok(Path::new(path)),
    }
}

/// A name that ends so is a directory's. cap-std takes it for any.
fn no_slash(path: &str) -> Outcome<()> {
    if path.ends_with('/') { Err(Code::NotDirectory.into()) } else { Ok(()) }
}

/// Whether something is, or holds, a symlink with `..` in its target: moved, it may lead out of the tree, for who follows
/// it on the host.
fn leads_up(dir: &Dir, path: &Path, meta: &Metadata) -> io::Result<bool> {
    let up = |dir: &Dir, path: &Path| {
        io::Result::Ok(dir.read_link_contents(path)?.components().any(|part| part == Component::ParentDir))
    };
    if meta.is_symlink() {
        return up(dir, path);
    }
    // Without a name of its own it cannot be moved.
    if !meta.is_dir() || path.file_name().is_none() {
        return Ok(false);
    }
    let mut found = false;
    let enter = |dir: &Dir| {
        let mut below = Vec::new();
        for entry in dir.entries()? {
            let entry = entry?;
            let kind = entry.file_type()?;
            found |= kind.is_symlink() && up(dir, Path::new(&entry.file_name()))?;
            if found {
                return Ok(Vec::new());
            }
            if kind.is_dir() {
                below.push(entry.file_name());
            }
        }
        Ok(below)
    };
    walk(dir.open_dir_nofollow(path)?, enter, |_, _| Ok(()))?;
    Ok(found)
}

fn look(dir: &Dir, path: &Path, follow: bool) -> io::Result<Metadata> {
    if follow { dir.metadata(path) } else { dir.symlink_metadata(path) }
}

/// Whether it is something that may be opened so.
fn openable(meta: &Metadata, path: &str, how: How) -> Outcome<()> {
    if meta.is_dir() {
        if how.write || how.truncate { Err(Code::IsDirectory.into()) } else { Ok(()) }
    } else if meta.is_symlink() {
        Err(if how.directory { Code::NotDirectory } else { Code::Loop }.into())
    } else if !meta.is_file() {
        Err(Fail::Denied(Rule::Special, path.to_owned()))
    } else if how.directory {
        Err(Code::NotDirectory.into())
    } else {
        Ok(())
    }
}

/// An error of an operation on a path.
fn failed(error: io::Error, path: &str) -> Fail {
    use rustix::io::Errno;
    match Errno::from_io_error(&error) {
        // What a socket says when it is opened, and a FIFO without a reader.
        Some(Errno::NXIO) => Fail::Denied(Rule::Special, path.to_owned()),
        // cap-std's own error for a path that leads out.
        None if error.kind() == io::ErrorKind::PermissionDenied => Fail::Denied(Rule::Escape, path.to_owned()),
        _ => error.into(),
    }
}

struct Opener(OpenOptions);

fn options(how: How, create: bool) -> Opener {
    let write = how.write || how.truncate || create;
    let mut options = OpenOptions::new();
    options.read(how.read || !write).write(write);
    options.create(create && !how.exclusive).create_new(create && how.exclusive);
    options.follow(if how.follow { FollowSymlinks::Yes } else { FollowSymlinks::No });
    // Waits for nobody: see the head of this file. It means nothing to regular files.
    options.nonblock(true);
    Opener(options)
}

impl Opener {
    fn open(&self, dir: &Dir, path: &Path) -> io::Result<File> {
        Ok(dir.open_with(path, &self.0)?.into_std())
    }
}

fn times(accessed: Option<SystemTime>, modified: Option<SystemTime>) -> FileTimes {
    let times = accessed.map_or_else(FileTimes::new, |time| FileTimes::new().set_accessed(time));
    modified.map_or(times, |time| times.set_modified(time))
}

/// Writes at the end, wherever that is by then: somebody else may be appending too.
fn append(file: &File, mut bytes: &[u8]) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    while !bytes.is_empty() {
        use rustix::io::{Errno, ReadWriteFlags, pwritev2};
        match pwritev2(file, &[io::IoSlice::new(bytes)], 0, ReadWriteFlags::APPEND) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::NOSYS | Errno::NOTSUP) => break,
            Err(error) => return Err(error.into()),
        }
    }
    if bytes.is_empty() { Ok(()) } else { file.write_all_at(bytes, file.metadata()?.len()) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::disk::Disk;
    use super::super::run;
    use super::*;
    use crate::denial::Denials;
    use cap_std::ambient_authority;
    use proptest::prelude::*;

    pub(in super::super) fn place(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("isopod-tree-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        path
    }

    pub(in super::super) fn tree(path: &Path, quota: Quota) -> Arc<Node> {
        let dir = Dir::open_ambient_dir(path, ambient_authority()).unwrap();
        let shares = Disk::default().shares();
        let tree = Tree::granted(dir, path.to_owned(), "/d".to_owned(), Some(quota), shares).unwrap();
        let (jobs, opens) = (Semaphore::new(4).into(), Semaphore::new(16).into());
        let denials = Denials::new(Arc::default(), "f".into(), None, 0);
        Arc::new(Node::root(Arc::new(tree), Arc::new(Desk { jobs, opens, denials })))
    }

    pub(in super::super) const QUOTA: Quota = Quota { bytes: 60, entries: 8 };
    const NAMES: [&str; 6] = ["a", "b", "d", "d/a", "d/b", "d/d"];

    /// One random operation; most fail, which is part of it.
    fn step(root: &Node, open: &mut Vec<Node>, (what, one, other, size): (u8, usize, usize, u64)) {
        let (one_name, other_name) = (NAMES[one % NAMES.len()], NAMES[other % NAMES.len()]);
        let how = How { follow: other % 2 == 0, write: true, ..How::default() };
        let kept = open.get(one % open.len().max(1));
        let _ = match what % 15 {
            0 | 1 => root.open(one_name, How { create: true, ..how }).map(|node| open.push(node)),
            2 => root.open(one_name, How { create: true, truncate: true, ..how }).map(|node| open.push(node)),
            3 => root.open(one_name, How { create: true, exclusive: true, ..how }).map(drop),
            4 => root.create_dir(one_name),
            5 => root.remove_dir(one_name),
            6 => root.unlink(one_name),
            7 => root.rename(one_name, root, other_name),
            8 => root.link(one_name, false, root, other_name),
            9 => root.symlink("a", one_name),
            10 | 11 => kept.map_or(Ok(()), |node| node.write(&vec![0; size as usize], Some(size / 2))),
            12 => kept.map_or(Ok(()), |node| node.set_size(size)),
            13 => root.tree.lock().map(|mut books| {
                books.measured = None;
                root.tree.measure_again(&mut books);
            }),
            _ => {
                if !open.is_empty() {
                    open.remove(one % open.len());
                }
                Ok(())
            }
        };
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

        /// After each operation the books have what is on the disk, and what is open besides; and that is within the quota.
        #[test]
        fn the_books_are_what_there_is(steps in prop::collection::vec((any::<u8>(), 0..16_usize, 0..16_usize, 0..50_u64), 1..80)) {
            let path = place("books");
            let root = tree(&path, QUOTA);
            let mut open = Vec::new();
            for (at, next) in steps.iter().enumerate() {
                step(&root, &mut open, *next);
                let held = root.tree.lock().map_err(|_| ()).unwrap().ledger.held();
                let mut found = Ledger::new(Quota { bytes: u64::MAX, entries: u64::MAX });
                measure(root.tree.root(&root.desk).map_err(|_| ()).unwrap(), &mut found).unwrap();
                for node in &open {
                    let Ok((file, inode)) = node.file() else { continue };
                    found.seen(inode, file.metadata().unwrap().len(), MetadataExt::nlink(&file.metadata().unwrap()));
                }
                prop_assert_eq!(held, found.held(), "after step {} of {:?}", at, steps);
                prop_assert!(held.bytes <= QUOTA.bytes && held.entries <= QUOTA.entries);
            }
            open.clear();
            drop(root);
            std::fs::remove_dir_all(path).unwrap();
        }
    }

    /// cap-std panics where it sets the times of a symlink; where it opens what it leads to, such times are fine.
    #[test]
    fn times_before_1970_are_set_or_refused() {
        let path = place("times");
        let root = tree(&path, QUOTA);
        drop(root.open("a", How { create: true, write: true, ..How::default() }).unwrap());
        let before = Some(SystemTime::UNIX_EPOCH - Duration::from_nanos(1));
        for (accessed, modified) in [(before, None), (None, before)] {
            let refused = root.set_times_at("a", false, accessed, modified);
            assert!(matches!(refused, Err(Fail::Code(Code::Overflow))), "{refused:?}");
        }
        let after = Some(SystemTime::UNIX_EPOCH);
        root.set_times_at("a", false, after, after).unwrap();
        assert_eq!(root.stat_at("a", false).unwrap().modified, after);
        root.set_times_at("a", true, before, before).unwrap();
        assert_eq!(root.stat_at("a", false).unwrap().modified, before);
        std::fs::remove_dir_all(path).unwrap();
    }

    /// What a guest closes is closed by a thread, in its turn, and until then it is counted.
    #[tokio::test]
    async fn files_are_closed_on_a_thread() {
        let path = place("close");
        let root = tree(&path, QUOTA);
        let open = || root.open("a", How { create: true, write: true, ..How::default() }).unwrap();
        let files = || {
            let open = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fd.unwrap().path().read_link().ok());
            open.filter(|file| file.starts_with(path.join("a"))).count()
        };
        // All turns are taken, so nobody closes anything.
        let turns: Vec<_> = std::iter::from_fn(|| root.tree.turn_now(false)).collect();
        let opened = [open(), open()];
        assert_eq!(root.desk.opens.available_permits(), 14);
        drop(opened);
        assert_eq!((root.desk.opens.available_permits(), files()), (16, 2));
        drop(turns);
        while files() > 0 {
            tokio::task::yield_now().await;
        }
        // Who needs the room does it.
        let turns: Vec<_> = std::iter::from_fn(|| root.tree.turn_now(false)).collect();
        let file = open();
        file.write(&[0; 60], Some(0)).unwrap();
        root.unlink("a").unwrap();
        drop(file);
        let other = root.open("b", How { create: true, write: true, ..How::default() }).unwrap();
        assert_eq!(root.tree.books.lock().ledger.held().bytes, 60);
        other.write(&[0; 60], Some(0)).unwrap();
        drop(turns);
        std::fs::remove_dir_all(path).unwrap();
    }

    /// Else one tree, on a disk that is slow, would take all threads of a function.
    #[tokio::test]
    async fn who_waits_for_a_tree_has_no_thread() {
        use futures_util::FutureExt;
        let path = place("turns");
        let root = tree(&path, QUOTA);
        let turn = root.tree.turn_now(true).unwrap();
        let mut waiting = Box::pin(run(&root, "create-directory-at", |node| node.create_dir("d")));
        assert!(waiting.as_mut().now_or_never().is_none());
        let spare: Vec<_> = std::iter::from_fn(|| root.tree.shares.thread_now()).collect();
        assert_eq!(spare.len(), 15);
        drop(spare);
        run(&root, "stat", |node| node.stat().map(drop)).await.unwrap();
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(turn);
        waiting.await.unwrap();
        assert!(path.join("d").is_dir());
        std::fs::remove_dir_all(path).unwrap();
    }

    #[tokio::test]
    async fn an_operation_that_panics_fails() {
        let path = place("panic");
        let root = tree(&path, QUOTA);
        for _ in 0..20 {
            assert_eq!(run::<()>(&root, "mkdir", |_| panic!("as a bug would")).await, Err(Code::Io));
        }
        run(&root, "create-directory-at", |node| node.create_dir("d")).await.unwrap();
        std::fs::remove_dir_all(path).unwrap();
    }

    /// One that others made may lead out from elsewhere, for those who follow it on the host.
    #[test]
    fn symlinks_that_lead_up_are_not_moved_elsewhere() {
        let path = place("up");
        for dir in ["d/with/deep", "d/without"] {
            std::fs::create_dir_all(path.join(dir)).unwrap();
        }
        for (target, link) in [("../../x", "d/with/deep/up"), ("..", "d/up"), ("a", "d/down")] {
            std::os::unix::fs::symlink(target, path.join(link)).unwrap();
        }
        let root = tree(&path, Quota { entries: 100, ..QUOTA });
        for old in ["d/up", "d/with", "d/with/deep", "./d/with/"] {
            let refused = root.rename(old, &root, "new");
            assert!(matches!(refused, Err(Fail::Denied(Rule::Moved, _))), "{old}: {refused:?}");
        }
        root.rename("d/up", &root, "d/renamed").unwrap();
        root.rename("d/with", &root, "d/same").unwrap();
        root.rename("d", &root, "e").unwrap();
        root.rename("e/down", &root, "down").unwrap();
        root.rename("e/without", &root, "without").unwrap();
        assert!(root.link("e/renamed", false, &root, "new").is_err());
        std::fs::remove_dir_all(path).unwrap();
    }

    /// Somebody else swaps a file for a FIFO, over and over: an open never waits, and never gives the FIFO.
    #[test]
    fn a_file_that_becomes_a_fifo_is_not_waited_for() {
        let path = place("swap");
        std::fs::write(path.join("regular"), "x").unwrap();
        assert!(std::process::Command::new("mkfifo").arg(path.join("fifo")).status().unwrap().success());
        let root = tree(&path, QUOTA);
        use std::sync::atomic::{AtomicBool, Ordering};
        /// Ends the swapping, if only by a panic.
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let over = AtomicBool::new(false);
        let (mut opened, mut refused) = (0, 0);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                let [regular, fifo, name, new] = ["regular", "fifo", "name", "new"].map(|name| path.join(name));
                while !over.load(Ordering::Relaxed) {
                    for from in [&regular, &fifo] {
                        std::fs::hard_link(from, &new).unwrap();
                        std::fs::rename(&new, &name).unwrap();
                        // Where both are the same file, renaming does nothing.
                        let _ = std::fs::remove_file(&new);
                    }
                }
            });
            let _end = End(&over);
            for round in 0_u64.. {
                if round > 5_000 && opened > 100 && refused > 100 {
                    break;
                }
                let write = round % 2 == 0;
                match root.open("name", How { follow: true, read: !write, write, ..How::default() }) {
                    Ok(node) => {
                        assert!(node.file().unwrap().0.metadata().unwrap().is_file());
                        opened += 1;
                    }
                    Err(Fail::Denied(Rule::Special, _)) => refused += 1,
                    Err(Fail::Code(Code::NoEntry)) => {}
                    Err(fail) => panic!("{fail:?}"),
                }
            }
        });
        std::fs::remove_dir_all(path).unwrap();
    }
}
