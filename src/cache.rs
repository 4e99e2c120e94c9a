//! [`Cache`]: a folder in which compiled code is kept. What is in a file is others' business (`engine/artefact.rs`); here
//! is which files there are, whose they are, and how much room they take.
//!
//! Several processes may use one folder at once, without a lock. A file is written under a name of its own and then moved
//! to where it belongs, so that whoever opens it sees all of it; whoever has it open keeps it when another takes its place
//! or removes it. Two that write the same entry write the same code, and the later one stays. Each step takes it for
//! granted that another process was there first: what is gone is as good as removed. The bound on the bytes is kept by
//! each process when it writes, so that together they may pass it by what they are writing at that moment.
//!
//! Nothing is forced to the disk: what a power failure leaves half written fails its check, and is compiled again.

use crate::error::{Error, ErrorKind, Result};
use crate::limits::MIB;
use parking_lot::Mutex;
use rustix::fs::OFlags;
use std::fmt;
use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use zeroize::Zeroizing;

/// A folder in which a host keeps compiled code, so that loading the same component again takes a fraction of the time.
///
/// An entry is found by the component's digest and all that compiled code depends on: the versions of isopod and wasmtime,
/// the settings, the processor's features. Each is signed with a key that is not in the folder, and loaded from a private
/// copy that was checked: a file that is damaged, or that somebody else put there, is compiled again. Whatever is wrong with
/// the folder, a function loads that would load without it; a `tracing` event of level `WARN` says what is wrong, once for
/// each cause.
///
/// The folder is made with mode 0700 if it is missing, and files in it with 0600. Several hosts and processes of one user
/// may share it, if they have the same key.
///
/// ```
/// # fn run() -> isopod::Result<()> {
/// use isopod::{Cache, Host};
///
/// let cache = Cache::dir("/var/cache/app/code").key_file("/var/lib/app/code.key");
/// let host = Host::builder().cache(cache).build()?;
/// # Ok(()) }
/// ```
pub struct Cache {
    dir: PathBuf,
    key: Option<Source>,
    max_bytes: u64,
}

enum Source {
    Given(Zeroizing<[u8; 32]>),
    File(PathBuf),
}

/// What became of the loads of a host with a [`Cache`]; see [`Host::cache_stats`](crate::Host::cache_stats).
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CacheStats {
    /// Loaded from the cache.
    pub hits: u64,
    /// Not in the cache: compiled, unless that failed. An entry for a component that is beyond the load's bounds is as good
    /// as none.
    pub misses: u64,
    /// Compiled although there was an entry: damaged, not signed with this key, or for another engine.
    pub rejected: u64,
}

/// Bytes that a cache may take unless asked otherwise: some thousand components of a usual size.
const MAX_BYTES: u64 = 1024 * MIB;

impl Cache {
    /// A cache in that folder. It needs a key: [`key`](Cache::key) or [`key_file`](Cache::key_file).
    ///
    /// A folder that is missing is made, if its parent is there. [`build`](crate::HostBuilder::build) refuses one that
    /// cannot be made, that is a symlink or no directory, that belongs to another user, or that others may write to.
    pub fn dir(path: impl Into<PathBuf>) -> Cache {
        Cache { dir: path.into(), key: None, max_bytes: MAX_BYTES }
    }

    /// The key that entries are signed with: 32 random bytes, kept where the application keeps its secrets. Whoever has it
    /// and may write to the folder can make the host run native code.
    pub fn key(mut self, key: [u8; 32]) -> Cache {
        self.key = Some(Source::Given(Zeroizing::new(key)));
        self
    }

    /// A file with the key, 32 bytes, made with mode 0600 if it is missing. It must not lie in the folder, be a symlink,
    /// belong to another user, or be readable by others.
    pub fn key_file(mut self, path: impl Into<PathBuf>) -> Cache {
        self.key = Some(Source::File(path.into()));
        self
    }

    /// Bytes that all entries together may take. Default 1 GiB. When a new one would pass it, those go that were not used
    /// for longest, to about an hour; one that is larger than that by itself is not kept.
    pub fn max_bytes(mut self, bytes: u64) -> Cache {
        self.max_bytes = bytes;
        self
    }

    /// Makes and checks the folder, and gives it with the key.
    pub(crate) fn open(self) -> Result<(Folder, Zeroizing<[u8; 32]>)> {
        let dir = self.dir.display();
        let Some(key) = self.key else {
            let text = format!(
                "the cache in {dir} has no key, without which anybody who can write there could have their code run; give it `.key(..)` or `.key_file(..)`"
            );
            return Err(Error::new(ErrorKind::Misuse, text));
        };
        claim(&self.dir).map_err(|e| {
            Error::from_io(ErrorKind::Misuse, format!("the folder {dir} cannot be used for compiled code"), &e)
        })?;
        let key = match key {
            Source::Given(key) => key,
            Source::File(path) => key_in(&path, &self.dir).map_err(|e| {
                let text = format!("the key file {} of the cache cannot be used", path.display());
                Error::from_io(ErrorKind::Misuse, text, &e)
            })?,
        };
        Ok((
            Folder { dir: self.dir, max_bytes: self.max_bytes, counts: Counts::default(), warned: Mutex::default() },
            key,
        ))
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("dir", &self.dir).field("max_bytes", &self.max_bytes).finish_non_exhaustive()
    }
}

fn refuse<T>(why: &str) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

/// Whether that is this user's, and has none of those bits.
fn is_private(found: &Metadata, others: u32) -> io::Result<()> {
    if found.uid() != rustix::process::geteuid().as_raw() {
        return refuse("it belongs to another user");
    }
    if found.mode() & others != 0 {
        return refuse("others than its owner may use it; take those permissions away (`chmod go-rwx`)");
    }
    Ok(())
}

/// Makes the folder if it is missing. Others may list it, and not write to it: they could fill it, and remove what is in it.
fn claim(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = std::fs::symlink_metadata(dir)?;
    if !found.is_dir() {
        return refuse(if found.is_symlink() { "it is a symlink" } else { "it is not a directory" });
    }
    is_private(&found, 0o022)
}

/// The key in that file, which is made if it is missing.
fn key_in(path: &Path, dir: &Path) -> io::Result<Zeroizing<[u8; 32]>> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if parent.canonicalize()?.starts_with(dir.canonicalize()?) {
        return refuse("it lies in the folder that it is to protect; put it elsewhere");
    }
    let file = match open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_key(path)?;
            open(path)
        }
        other => other,
    };
    let (mut file, found) = file?;
    is_private(&found, 0o077)?;
    let mut key = Zeroizing::new([0; 32]);
    if found.len() != key.len() as u64 {
        return refuse("it does not have 32 bytes");
    }
    file.read_exact(&mut *key)?;
    Ok(key)
}

/// Writes a key to where none is. It appears there whole, or another process's does.
fn make_key(path: &Path) -> io::Result<()> {
    let draft = path.with_extension(format!("{:016x}", rand::random::<u64>()));
    let key = Zeroizing::new(rand::random::<[u8; 32]>());
    let written = private(&draft).and_then(|mut file| {
        file.write_all(&*key)?;
        // A key that is lost makes all entries worthless, and a half one is an error.
        file.sync_all()?;
        gone_is_fine(std::fs::hard_link(&draft, path), io::ErrorKind::AlreadyExists)
    });
    let removed = std::fs::remove_file(&draft);
    written.and(removed)
}

/// A new file, for this user alone.
fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Opens a regular file to read it. Never follows a link, and never waits for the other end of a pipe.
fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return refuse("it is not a regular file");
    }
    Ok((file, found))
}

fn gone_is_fine(result: io::Result<()>, fine: io::ErrorKind) -> io::Result<()> {
    result.or_else(|error| if error.kind() == fine { Ok(()) } else { Err(error) })
}

/// Whether a file may be that long. Beyond its limit (`ulimit -f`) the process would get a signal that ends it.
pub(crate) fn may_write(length: u64) -> bool {
    rustix::process::getrlimit(rustix::process::Resource::Fsize).current.is_none_or(|limit| length <= limit)
}

/// How the names of files begin that are being written.
const DRAFT: &str = "new-";
/// How those of entries end: besides 64 hexadecimal digits.
const ENTRY: &str = ".code";
/// After this, what is still being written is left over from a process that is no more.
const STALE: Duration = Duration::from_secs(60 * 60);
/// An entry's time of use is written down again after this: writing it at each load would be a write for each load.
const TOUCH: Duration = Duration::from_secs(60 * 60);

/// The folder of a cache that could be opened.
pub(crate) struct Folder {
    dir: PathBuf,
    max_bytes: u64,
    counts: Counts,
    /// Causes that were told already.
    warned: Mutex<Vec<&'static str>>,
}

#[derive(Default)]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    rejected: AtomicU64,
}

impl Folder {
    pub(crate) fn stats(&self) -> CacheStats {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { hits, misses, rejected } = &self.counts;
        CacheStats { hits: read(hits), misses: read(misses), rejected: read(rejected) }
    }

    pub(crate) fn hit(&self) {
        self.counts.hits.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn missed(&self) {
        self.counts.misses.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes note of an entry that cannot be loaded.
    pub(crate) fn reject(&self, cause: &'static str, detail: &dyn fmt::Display) {
        self.counts.rejected.fetch_add(1, Ordering::Relaxed);
        self.warn(cause, detail);
    }

    /// Says what is wrong with the cache, once for each cause.
    pub(crate) fn warn(&self, cause: &'static str, detail: &dyn fmt::Display) {
        let mut warned = self.warned.lock();
        if !warned.contains(&cause) {
            warned.push(cause);
            let dir = self.dir.display();
            tracing::warn!(%dir, cause, %detail, "compiled code is not kept as it should be; said once for each cause");
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}{ENTRY}"))
    }

    /// Opens an entry, with its length. None if there is no such entry.
    pub(crate) fn find(&self, name: &str) -> io::Result<Option<(File, u64)>> {
        let (file, found) = match open(&self.path(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let now = SystemTime::now();
        if found.modified().is_ok_and(|used| now.duration_since(used).is_ok_and(|age| age > TOUCH)) {
            // If that cannot be written down, it goes earlier than it should.
            let _ = file.set_modified(now);
        }
        Ok(Some((file, found.len())))
    }

    /// Writes an entry, in place of what is there under its name.
    pub(crate) fn keep(&self, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        let length = parts.iter().map(|part| part.len() as u64).sum();
        if length > self.max_bytes {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("an entry of {length} bytes is larger than the whole cache may be; raise `Cache::max_bytes`"),
            ));
        }
        if !may_write(length) {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the process may not write files of that size"));
        }
        // The folder may have been removed meanwhile, or be another one.
        claim(&self.dir)?;
        self.make_room(length)?;
        self.write(name, parts, private)
    }

    /// Writes an entry to a draft, which `make` opens, and moves it to its place; a draft that fails is removed.
    fn write<W: Write>(
        &self,
        name: &str,
        parts: &[&[u8]],
        make: impl FnOnce(&Path) -> io::Result<W>,
    ) -> io::Result<()> {
        let draft = self.dir.join(format!("{DRAFT}{:016x}", rand::random::<u64>()));
        let written = make(&draft).and_then(|mut file| {
            parts.iter().try_for_each(|part| file.write_all(part))?;
            std::fs::rename(&draft, self.path(name))
        });
        if written.is_err() {
            let _ = std::fs::remove_file(&draft);
        }
        written
    }

    /// Removes entries, those first that were not used for longest, until there is room for so many bytes; and what
    /// processes left behind that ended while they wrote.
    fn make_room(&self, wanted: u64) -> io::Result<()> {
        let (now, mut entries, mut total) = (SystemTime::now(), Vec::new(), wanted);
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let is_entry = name.strip_suffix(ENTRY).is_some_and(|stem| stem.len() == 64);
            if !is_entry && !name.starts_with(DRAFT) {
                continue;
            }
            // Another process may have removed it meanwhile.
            let Ok(found) = entry.metadata() else { continue };
            if !found.is_file() {
                continue;
            }
            let used = found.modified()?;
            if !is_entry && now.duration_since(used).is_ok_and(|age| age > STALE) {
                gone_is_fine(std::fs::remove_file(entry.path()), io::ErrorKind::NotFound)?;
                continue;
            }
            total = total.saturating_add(found.len());
            if is_entry {
                entries.push((used, found.len(), entry.path()));
            }
        }
        entries.sort_unstable();
        for (_, length, path) in entries {
            if total <= self.max_bytes {
                break;
            }
            gone_is_fine(std::fs::remove_file(path), io::ErrorKind::NotFound)?;
            total -= length;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that is full after so many bytes.
    struct Full(File, usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.1 == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let written = self.0.write(&bytes[..bytes.len().min(self.1)])?;
            self.1 -= written;
            Ok(written)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.0.flush()
        }
    }

    #[test]
    fn what_the_disk_has_no_room_for_leaves_nothing_behind() {
        let dir = std::env::temp_dir().join(format!("isopod-cache-full-{}", std::process::id()));
        let (folder, _) = Cache::dir(&dir).key([7; 32]).open().unwrap();
        let files = || std::fs::read_dir(&dir).unwrap().count();
        folder.write("old", &[b"an entry"], private).unwrap();
        for room in [0, 3, 8, 11] {
            let parts: [&[u8]; 2] = [b"one part", b"another"];
            let error = folder.write("old", &parts, |path| Ok(Full(private(path)?, room))).unwrap_err();
            assert_eq!((error.kind(), files()), (io::ErrorKind::StorageFull, 1), "{room}");
        }
        assert_eq!(std::fs::read(folder.path("old")).unwrap(), b"an entry", "what was there stays");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
