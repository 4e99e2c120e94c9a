//! What a guest has open in a granted directory. Every operation of `wasi:filesystem` is here once, for both generations;
//! all of them may block.
//!
//! Paths are resolved beneath a directory by cap-std. Beyond that:
//!
//! - Only regular files and directories are opened. What is there is looked at first, then opened without waiting, then
//!   looked at again. Who swaps the file for a device in between makes the host open that device, and close it at once.
//! - What is changed is counted in the books of the [`Tree`], under their lock.
//! - A symlink that a guest makes leads down from where it lies, so that it leads out of the tree for nobody, wherever it
//!   is moved. One that leads up, which only others can have made, is not moved by guests.

use super::fail::{Code, Fail, Outcome, Rule};
use super::ledger::{Inode, Ledger};
use super::scratch::walk;
use super::tree::{Books, Desk, Place, Tree, length};
use cap_fs_ext::{DirExt, FollowSymlinks, MetadataExt, OpenOptionsFollowExt, OpenOptionsSyncExt, SystemTimeSpec};
use cap_std::fs::{Dir, FileType, Metadata, OpenOptions};
use cap_std::time::SystemTime as CapTime;
use parking_lot::MutexGuard;
use std::fs::{File, FileTimes};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::OwnedSemaphorePermit;

/// Bytes of one path, or of the text of a symlink; what Linux takes.
const MAX_PATH: usize = 4096;
/// Entries of a directory that are read at once.
const BATCH: usize = 64;

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

    pub(super) fn file(&self) -> Outcome<(&File, Inode)> {
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
