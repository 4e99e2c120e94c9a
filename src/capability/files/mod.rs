//! `wasi:filesystem`: directories of the host's that a guest may use, and one of its own for each call.
//!
//! The interfaces of both generations are implemented here, on cap-std, instead of by wasmtime's WASI: every function
//! that opens, grows or lists something had to be replaced, which leaves nothing. `node` has what is done, once and
//! blocking; `p2` and `p3` are the two ways to ask for it; `tree` is one granted directory, and `ledger` counts what it
//! holds; `scratch` makes and removes directories; `disk` has what all of it may take of the process.
//!
//! Whatever touches the disk runs on the runtime's threads for blocking work, [`MAX_JOBS`] at a time for each call, and no
//! more for a function and for a host than `disk` says. It has no thread before it can go on: writers of one tree take
//! turns. When a call ends, what has not begun never begins; what has begun ends by itself, on its thread.

pub(crate) mod disk;
mod fail;
mod ledger;
mod node;
mod p2;
mod p3;
mod scratch;
mod tree;

use super::Reach;
use crate::denial::{Denial, Denials};
use crate::error::{Error, ErrorKind, Result};
use crate::text::quoted;
use cap_std::ambient_authority;
use disk::{Disk, Shares};
use fail::{Code, Fail, Outcome, Rule};
use ledger::Quota;
use node::{Node, check};
use parking_lot::Mutex;
use scratch::Space;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, spawn_blocking};
use tree::{Desk, Tree};
use wasmtime::component::{HasData, Linker, ResourceTable};

/// Operations of one call that touch the disk at once. More wait: a call must not take all of the runtime's threads.
const MAX_JOBS: usize = 4;
/// Files, directories and streams that one call has open at once, besides what it was granted; a scratch directory that it
/// uses is one of them. Descriptors are few: a process has 1 024 by custom. More fail as `insufficient-memory`, as WASI
/// has no better name for it.
const MAX_OPEN: usize = 128;
/// Bytes that are read or written at once; each stream holds that many at most.
const MAX_CHUNK: usize = 64 * 1024;

/// A directory of the host's that the guest may use. Without this grant and [`Scratch`] it finds none.
///
/// The guest sees the directory at a path that you choose, and nothing outside of it: no path, symlink or rename leads
/// out. It opens regular files and directories; FIFOs, sockets and devices are refused as `not-permitted`, without waiting
/// for them. Symlinks that it makes lead down from where they lie: a target that is absolute or has a `..` is refused. Those
/// of yours that have a `..`, and directories that hold one, are not moved to another directory, from where it might lead
/// out. Hard links and renames stay within the directory. A refusal is a [`Denial`](crate::Denial).
///
/// The directory is the function's: all its calls, of whichever tenant, find the same files there and share its quota. For
/// a directory of each tenant's own, load a function for each.
///
/// A directory that is [`read_write`](Dir::read_write) has a quota: how much the whole tree may hold, whoever put it
/// there. It is measured when the function is loaded, then kept up to date by what the function's guests do. What others
/// change meanwhile is seen when a guest opens or changes that file, and where the quota is used up: before something is
/// refused, the tree is measured again, though not twice within 5 seconds. So what others removed, such as one who fetches
/// results, comes back, if late; what they add may make the tree hold more than its quota. A file that is deleted while it
/// is open counts until it is closed. Two functions with the same directory have a quota each.
///
/// Over the quota a guest is told `insufficient-space`. What does not fit is not written, not in part either; of a stream,
/// the pieces before it are.
///
/// A call has at most 128 files, directories and streams of files open at once. All guests of a host have half of the
/// descriptors that the process may have when the host is made, and those of one function a quarter of these: raise
/// `ulimit -n` where many calls use files at once. More fail as `insufficient-memory`. In WASI 0.2 each name of a listing
/// is a host call. Writers of one directory wait for each other. Operations that take long hold threads of the runtime's
/// blocking pool: up to 4 for each call, 16 for a function, and 128 for a host. Works on Unix.
///
/// ```
/// # async fn run(host: isopod::Host) -> isopod::Result<()> {
/// use isopod::Dir;
///
/// let function = host
///     .function("resize")
///     .component_file("resize.wasm")
///     .grant(Dir::read_only("/srv/pictures", "/in"))
///     .grant(Dir::read_write("/srv/thumbnails", "/out").max_bytes(100 * isopod::MIB))
///     .load()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Dir {
    host: PathBuf,
    guest: String,
    write: bool,
    max_bytes: Option<u64>,
    max_entries: Option<u64>,
}

/// What a writable directory may hold, unless asked otherwise.
const DIR_QUOTA: Quota = Quota { bytes: 64 * 1024 * 1024, entries: 10_000 };
/// What a scratch directory may hold, unless asked otherwise.
const SCRATCH_QUOTA: Quota = Quota { bytes: 16 * 1024 * 1024, entries: 1_000 };

impl Dir {
    /// The directory `host_path`, to be read, at the guest's `guest_path`.
    ///
    /// Loading fails as [`ErrorKind::Misuse`] if there is no such directory, or if the guest path is not absolute, has
    /// `.`, `..` or empty parts, or is the same as that of another grant, above it or below it.
    pub fn read_only(host_path: impl Into<PathBuf>, guest_path: impl Into<String>) -> Dir {
        let (host, guest) = (host_path.into(), guest_path.into());
        Dir { host, guest, write: false, max_bytes: None, max_entries: None }
    }

    /// The directory `host_path`, to be read and changed, at the guest's `guest_path`.
    ///
    /// Loading fails as for [`read_only`](Dir::read_only), and if the directory holds more than its quota already, or
    /// is the same as another one that may be changed, above it or below it.
    pub fn read_write(host_path: impl Into<PathBuf>, guest_path: impl Into<String>) -> Dir {
        Dir { write: true, ..Dir::read_only(host_path, guest_path) }
    }

    /// Bytes that the whole tree may hold: the lengths of its files, holes included, a file with several names once.
    /// Default 64 MiB. Loading fails as [`ErrorKind::Misuse`] for 0, and for a directory that is only read.
    pub fn max_bytes(mut self, bytes: u64) -> Dir {
        self.max_bytes = Some(bytes);
        self
    }

    /// Files, directories and symlinks that the whole tree may hold, by their names. Default 10 000; the host remembers
    /// some 50 bytes for each there is. Loading fails as [`ErrorKind::Misuse`] for 0, and for a directory that is only read.
    pub fn max_entries(mut self, entries: u64) -> Dir {
        self.max_entries = Some(entries);
        self
    }

    pub(super) fn guest(&self) -> &str {
        &self.guest
    }

    pub(super) fn writes(&self) -> bool {
        self.write
    }

    /// Takes writing away.
    pub(super) fn keep_reading(&mut self) {
        (self.write, self.max_bytes, self.max_entries) = (false, None, None);
    }

    fn bind(&self, shares: Shares) -> Result<Tree, String> {
        if !self.write && (self.max_bytes.is_some() || self.max_entries.is_some()) {
            return Err("a directory that is only read has no quota; remove .max_bytes(..) and .max_entries(..)".into());
        }
        guest_path(&self.guest)?;
        if self.max_bytes == Some(0) || self.max_entries == Some(0) {
            return Err("a quota of 0 lets the guest write nothing; use `Dir::read_only`, or raise it".into());
        }
        let host = std::fs::canonicalize(&self.host)
            .map_err(|e| format!("{e}; make that directory, or grant one that there is"))?;
        if !host.is_dir() {
            return Err("it is not a directory; grant the one it lies in".into());
        }
        let dir = cap_std::fs::Dir::open_ambient_dir(&host, ambient_authority()).map_err(|e| e.to_string())?;
        let quota = Quota {
            bytes: self.max_bytes.unwrap_or(DIR_QUOTA.bytes),
            entries: self.max_entries.unwrap_or(DIR_QUOTA.entries),
        };
        Tree::granted(dir, host, self.guest.clone(), self.write.then_some(quota), shares)
    }
}

/// An empty directory for each call, which is removed with all in it when the call ends.
///
/// It is made when the guest first uses it, in the directory that [`HostBuilder::scratch_dir`](crate::HostBuilder::scratch_dir)
/// names. Whatever ends the call, it is removed: a small one before the call returns, a large one on a thread of the
/// runtime's blocking pool. If the process is killed, the next host with the same directory removes what was left.
///
/// The quota is each call's own. Once it is used, the directory is one of those that the call has open. What else there is
/// to say of a writable directory, [`Dir`] says.
///
/// ```
/// # async fn run(host: isopod::Host) -> isopod::Result<()> {
/// use isopod::Scratch;
///
/// let function = host
///     .function("convert")
///     .component_file("convert.wasm")
///     .grant(Scratch::at("/tmp").max_bytes(isopod::MIB).max_entries(100))
///     .load()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Scratch {
    guest: String,
    quota: Quota,
}

impl Scratch {
    /// A directory at the guest's `guest_path`, such as `/tmp`.
    ///
    /// Loading fails as [`ErrorKind::Misuse`] for a guest path as [`Dir::read_only`] says, and if the host has no place
    /// for such directories.
    pub fn at(guest_path: impl Into<String>) -> Scratch {
        Scratch { guest: guest_path.into(), quota: SCRATCH_QUOTA }
    }

    pub(super) fn guest(&self) -> &str {
        &self.guest
    }

    /// Bytes that one call's directory may hold. Default 16 MiB; loading fails as [`ErrorKind::Misuse`] for 0.
    pub fn max_bytes(mut self, bytes: u64) -> Scratch {
        self.quota.bytes = bytes;
        self
    }

    /// Files, directories and symlinks that one call's directory may hold. Default 1 000; loading fails as
    /// [`ErrorKind::Misuse`] for 0.
    pub fn max_entries(mut self, entries: u64) -> Scratch {
        self.quota.entries = entries;
        self
    }
}

/// Whether a guest path is one that a program can find things at.
fn guest_path(path: &str) -> Result<(), String> {
    let Some(parts) = path.strip_prefix('/') else {
        return Err(format!("the guest path \"{path}\" is not absolute; let it begin with \"/\""));
    };
    let odd = |part: &str| part.is_empty() || part == "." || part == ".." || part.contains('\0');
    if !parts.is_empty() && parts.split('/').any(odd) {
        return Err(format!("the guest path \"{path}\" has a part that is empty, \".\" or \"..\"; remove it"));
    }
    Ok(())
}

/// All directories that one function was granted.
pub(super) struct Granted {
    trees: Vec<Arc<Tree>>,
    scratch: Option<(Scratch, Arc<Space>)>,
    shares: Shares,
}

impl Granted {
    pub(super) fn bind(dirs: &[Dir], scratch: Option<&Scratch>, disk: &Disk) -> Result<Granted> {
        let shares = disk.shares();
        let misuse = |grant: String, why: String| {
            Error::new(ErrorKind::Misuse, format!("the grant {grant} cannot be kept: {why}"))
        };
        let mut paths: Vec<&str> = Vec::new();
        let named = dirs.iter().map(|dir| (shown(dir), dir.guest.as_str()));
        for (grant, path) in named.chain(scratch.map(|scratch| (shown_scratch(scratch), scratch.guest.as_str()))) {
            guest_path(path).map_err(|why| misuse(grant.clone(), why))?;
            if let Some(other) = paths.iter().find(|other| nested(Path::new(other), Path::new(path))) {
                let why = format!("the guest finds another one at \"{other}\"; give each a path of its own");
                return Err(misuse(grant, why));
            }
            paths.push(path);
        }
        let mut trees: Vec<Arc<Tree>> = Vec::new();
        for dir in dirs {
            let tree = dir.bind(shares.clone()).map_err(|why| misuse(shown(dir), why))?;
            let both = |other: &&Arc<Tree>| other.writable && tree.writable && nested(&other.host, &tree.host);
            if let Some(other) = trees.iter().find(both) {
                let why = format!("\"{}\" lies in the same directory, and each counts for itself", other.guest);
                return Err(misuse(shown(dir), why));
            }
            trees.push(Arc::new(tree));
        }
        let scratch = scratch.map(|scratch| {
            if scratch.quota.bytes == 0 || scratch.quota.entries == 0 {
                let why = "a quota of 0 lets the guest write nothing; raise it, or remove the grant".to_owned();
                return Err(misuse(shown_scratch(scratch), why));
            }
            let space = disk.space().map_err(|why| {
                misuse(shown_scratch(scratch), format!("{why}; name another directory by `HostBuilder::scratch_dir`"))
            })?;
            Ok((scratch.clone(), space))
        });
        Ok(Granted { trees, scratch: scratch.transpose()?, shares })
    }

    /// One call's share. Nothing is made on the disk.
    pub(super) fn view(&self, denials: Denials) -> Files {
        let mut trees = self.trees.clone();
        let scratch = self.scratch.as_ref().map(|(scratch, space)| {
            let (guest, shares) = (scratch.guest.clone(), self.shares.clone());
            let tree = Arc::new(Tree::scratch(Arc::clone(space), guest, scratch.quota, shares));
            trees.push(Arc::clone(&tree));
            Wipe(tree)
        });
        let (jobs, opens) = (Semaphore::new(MAX_JOBS).into(), Semaphore::new(MAX_OPEN).into());
        Files { trees, desk: Some(Arc::new(Desk { jobs, opens, denials: Mutex::new(denials) })), _scratch: scratch }
    }
}

/// Whether one of them is the other, or lies in it.
fn nested(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

fn shown(dir: &Dir) -> String {
    let how = if dir.write { "read_write" } else { "read_only" };
    format!("Dir::{how}(\"{}\", \"{}\")", dir.host.display(), dir.guest)
}

fn shown_scratch(scratch: &Scratch) -> String {
    format!("Scratch::at(\"{}\")", scratch.guest)
}

/// What a guest has of files: one call's.
#[derive(Default)]
pub(super) struct Files {
    trees: Vec<Arc<Tree>>,
    desk: Option<Arc<Desk>>,
    _scratch: Option<Wipe>,
}

impl Files {
    /// Another call begins in the same instance.
    pub(super) fn begin(&mut self, denials: &Denials) {
        if let Some(desk) = &self.desk {
            *desk.denials.lock() = denials.clone();
        }
    }

    /// Descriptors of what was granted, and where the guest finds them.
    fn roots(&self) -> Vec<(Node, String)> {
        let Some(desk) = &self.desk else { return Vec::new() };
        let root = |tree: &Arc<Tree>| (Node::root(Arc::clone(tree), Arc::clone(desk)), tree.guest.clone());
        self.trees.iter().map(root).collect()
    }
}

/// Removes a scratch directory when it is dropped.
struct Wipe(Arc<Tree>);

impl Drop for Wipe {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// What the host functions of both generations work on.
pub(super) struct Access<'a> {
    files: &'a mut Files,
    table: &'a mut ResourceTable,
}

impl<'a> Access<'a> {
    pub(super) fn new(files: &'a mut Files, table: &'a mut ResourceTable) -> Access<'a> {
        Access { files, table }
    }
}

/// For the linker: what a host function gets.
struct Ours;

impl HasData for Ours {
    type Data<'a> = Access<'a>;
}

pub(super) fn link<T: Reach>(linker: &mut Linker<T>, asynchronous: bool) -> wasmtime::Result<()> {
    p2::link(linker)?;
    if asynchronous {
        p3::link(linker)?;
    }
    Ok(())
}

/// Does what may block, on a thread for it. Dropped before that has begun, it never begins.
async fn run<R: Send + 'static>(
    node: &Arc<Node>,
    asked: &'static str,
    work: impl FnOnce(&Node) -> Outcome<R> + Send + 'static,
) -> Result<R, Code> {
    struct Job<R>(JoinHandle<R>);
    impl<R> Drop for Job<R> {
        fn drop(&mut self) {
            self.0.abort();
        }
    }
    let node = Arc::clone(node);
    let place = Arc::clone(&node.desk.jobs).acquire_owned().await.map_err(|_| Code::Io)?;
    let changes = node.tree.writable && (needs_books(asked) || !node.tree.is_made());
    let turn = node.tree.turn(changes).await.ok_or(Code::Io)?;
    let mut job = Job(spawn_blocking(move || {
        let result = match catch_unwind(AssertUnwindSafe(|| work(&node))) {
            Ok(done) => done.map_err(|fail| told(&node, asked, fail)),
            Err(_) => {
                tracing::error!(function = asked, "an operation on files panicked; please report it");
                Err(Code::Io)
            }
        };
        drop((node, turn, place));
        result
    }));
    // It fails only with the runtime.
    (&mut job.0).await.unwrap_or(Err(Code::Io))
}

/// Whether a function of WASI may change a tree, or open something in it, which is counted.
fn needs_books(asked: &str) -> bool {
    !matches!(
        asked,
        "is-same-object"
            | "metadata-hash"
            | "metadata-hash-at"
            | "read"
            | "read-directory"
            | "read-directory-entry"
            | "readlink-at"
            | "set-times"
            | "set-times-at"
            | "stat"
            | "stat-at"
            | "sync"
            | "sync-data"
    )
}

/// Refuses paths that are none before they are kept for as long as the operation waits: a guest may pass megabytes.
fn judge<const N: usize>(node: &Node, asked: &'static str, paths: [&str; N]) -> Result<(), Code> {
    paths.into_iter().try_for_each(|path| check(path).map(drop)).map_err(|fail| told(node, asked, fail))
}

/// What the guest is told, and a record of it where a rule said no.
fn told(node: &Node, asked: &str, fail: Fail) -> Code {
    let (rule, path) = match fail {
        Fail::Code(code) => return code,
        Fail::Denied(rule, path) => (rule, path),
    };
    let Tree { guest, host, .. } = &*node.tree;
    let (host, named) = (quoted(&host.to_string_lossy()), quoted(guest));
    let what = if path.is_empty() { String::new() } else { format!("\"{path}\" ") };
    let denial = |why: String| Denial::new(&format!("wasi:filesystem#{asked} {what}in \"{guest}\""), &why);
    node.desk.denials.lock().push(match rule {
        Rule::ReadOnly => denial(format!("\"{guest}\" was granted to be read only")).allowed_by(
            &format!("`.grant(Dir::read_write({host}, {named}))`"),
            Some(&format!("files = [{{ host = {host}, guest = {named}, mode = \"rw\" }}]")),
        ),
        Rule::Escape => denial(format!("it leads out of \"{guest}\"")),
        Rule::Special => denial("only regular files and directories are opened".to_owned()),
        Rule::Target => {
            denial("a symlink leads down from where it lies: its target is absolute or has \"..\"".to_owned())
        }
        Rule::Moved => {
            denial("a symlink with \"..\" stays in its directory, where it leads where it should".to_owned())
        }
    });
    rule.code()
}

/// What both generations say alike, in the types of one of them.
macro_rules! generation {
    ($types:ident, $unknown:expr) => {
        impl From<Code> for $types::ErrorCode {
            fn from(code: Code) -> $types::ErrorCode {
                match code {
                    Code::Access => Self::Access,
                    Code::BadDescriptor => Self::BadDescriptor,
                    Code::Busy => Self::Busy,
                    Code::CrossDevice => Self::CrossDevice,
                    Code::Exist => Self::Exist,
                    Code::FileTooLarge => Self::FileTooLarge,
                    Code::IllegalByteSequence => Self::IllegalByteSequence,
                    Code::InsufficientMemory => Self::InsufficientMemory,
                    Code::InsufficientSpace => Self::InsufficientSpace,
                    Code::Interrupted => Self::Interrupted,
                    Code::Invalid => Self::Invalid,
                    Code::Io => Self::Io,
                    Code::IsDirectory => Self::IsDirectory,
                    Code::Loop => Self::Loop,
                    Code::NameTooLong => Self::NameTooLong,
                    Code::NoEntry => Self::NoEntry,
                    Code::NotDirectory => Self::NotDirectory,
                    Code::NotEmpty => Self::NotEmpty,
                    Code::NotPermitted => Self::NotPermitted,
                    Code::Overflow => Self::Overflow,
                    Code::ReadOnly => Self::ReadOnly,
                    Code::TooManyLinks => Self::TooManyLinks,
                    Code::Unsupported => Self::Unsupported,
                }
            }
        }

        fn kind(of: cap_std::fs::FileType) -> $types::DescriptorType {
            use cap_std::fs::FileTypeExt;
            type Kind = $types::DescriptorType;
            match of {
                of if of.is_dir() => Kind::Directory,
                of if of.is_file() => Kind::RegularFile,
                of if of.is_symlink() => Kind::SymbolicLink,
                of if of.is_fifo() => Kind::Fifo,
                of if of.is_socket() => Kind::Socket,
                of if of.is_char_device() => Kind::CharacterDevice,
                of if of.is_block_device() => Kind::BlockDevice,
                _ => $unknown,
            }
        }

        fn how(at: $types::PathFlags, open: $types::OpenFlags, flags: $types::DescriptorFlags) -> How {
            type Open = $types::OpenFlags;
            type Flags = $types::DescriptorFlags;
            How {
                follow: follow(at),
                create: open.contains(Open::CREATE),
                directory: open.contains(Open::DIRECTORY),
                exclusive: open.contains(Open::EXCLUSIVE),
                truncate: open.contains(Open::TRUNCATE),
                read: flags.contains(Flags::READ),
                write: flags.contains(Flags::WRITE),
                sync: flags
                    .intersects(Flags::FILE_INTEGRITY_SYNC | Flags::DATA_INTEGRITY_SYNC | Flags::REQUESTED_WRITE_SYNC),
            }
        }

        fn follow(at: $types::PathFlags) -> bool {
            at.contains($types::PathFlags::SYMLINK_FOLLOW)
        }

        fn flags(node: &Node) -> $types::DescriptorFlags {
            type Flags = $types::DescriptorFlags;
            let write = if node.is_dir() { Flags::MUTATE_DIRECTORY } else { Flags::WRITE };
            let mut flags = Flags::empty();
            if node.read {
                flags |= Flags::READ;
            }
            if node.write {
                flags |= write;
            }
            flags
        }

        fn stat(of: &Stat) -> $types::DescriptorStat {
            $types::DescriptorStat {
                type_: kind(of.kind),
                link_count: of.links,
                size: of.bytes,
                data_access_timestamp: of.accessed.and_then(timestamp),
                data_modification_timestamp: of.modified.and_then(timestamp),
                status_change_timestamp: None,
            }
        }

        fn hash(of: &Stat) -> $types::MetadataHashValue {
            let (lower, upper) = of.hash();
            $types::MetadataHashValue { lower, upper }
        }

        fn time(new: $types::NewTimestamp) -> Result<Option<SystemTime>, Code> {
            match new {
                $types::NewTimestamp::NoChange => Ok(None),
                $types::NewTimestamp::Now => Ok(Some(crate::clock::wall())),
                $types::NewTimestamp::Timestamp(at) => system_time(at).map(Some).ok_or(Code::Overflow),
            }
        }
    };
}
use generation;
