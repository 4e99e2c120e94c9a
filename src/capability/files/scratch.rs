//! Directories that live as long as one call: where they are made, and how they are removed whatever happens.
//!
//! Below one root each [`Space`], one for each host, has a directory of its own with a file in it that it keeps locked.
//! The lock goes with the process, even with one that is killed: whoever makes the next space below that root removes the
//! directories whose locks are free.

use super::ledger::Inode;
use cap_fs_ext::DirExt;
use cap_std::ambient_authority;
use cap_std::fs::Dir;
use parking_lot::Mutex;
use std::ffi::OsString;
use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt as Unix};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The space of one host, made when the first function needs it.
#[derive(Default)]
pub(crate) struct Scratches {
    root: Option<PathBuf>,
    space: Mutex<Option<Arc<Space>>>,
}

impl Scratches {
    pub(crate) fn at(root: Option<PathBuf>) -> Scratches {
        Scratches { root, space: Mutex::default() }
    }

    pub(super) fn space(&self) -> Result<Arc<Space>, String> {
        let mut space = self.space.lock();
        if let Some(space) = &*space {
            return Ok(Arc::clone(space));
        }
        let root = self.root.clone().unwrap_or_else(default_root);
        let made = Space::make(&root).map_err(|e| format!("{}: {e}", root.display()))?;
        Ok(Arc::clone(space.insert(Arc::new(made))))
    }
}

/// A directory for each user: in a shared one, one user would find what is another's and stop.
fn default_root() -> PathBuf {
    std::env::temp_dir().join(format!("isopod-{}", rustix::process::geteuid().as_raw()))
}

/// The file in a space that its host keeps locked.
const LOCK: &str = "lock";
/// The file in a root that is locked while a space is made or swept.
const SWEEP: &str = "isopod.lock";
/// How the names of spaces begin. A root that somebody else keeps things in is not emptied.
const PREFIX: &str = "isopod-scratch-";

/// Where the scratch directories of one host are.
pub(super) struct Space {
    root: Dir,
    name: String,
    dir: Dir,
    next: AtomicU64,
    /// Locked for as long as it is open.
    _lock: File,
}

impl Space {
    /// Removes what dead processes left below `root`, and makes a space there.
    fn make(root: &Path) -> io::Result<Space> {
        let root = own(root)?;
        let sweeping = lock_file(&root, SWEEP)?;
        sweeping.lock()?;
        sweep(&root)?;
        let name = format!("{PREFIX}{}-{:016x}", std::process::id(), rand::random::<u64>());
        let mut private = cap_std::fs::DirBuilder::new();
        cap_std::fs::DirBuilderExt::mode(&mut private, 0o700);
        root.create_dir_with(&name, &private)?;
        let dir = root.open_dir_nofollow(&name)?;
        let lock = lock_file(&dir, LOCK)?;
        lock.lock()?;
        Ok(Space { root, name, dir, next: AtomicU64::new(0), _lock: lock })
    }

    /// Makes an empty directory, and says its name.
    pub(super) fn directory(&self) -> io::Result<(String, Dir)> {
        let name = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        self.dir.create_dir(&name)?;
        let dir = self.dir.open_dir_nofollow(&name)?;
        Ok((name, dir))
    }

    /// Removes that directory and all in it.
    pub(super) fn remove(&self, name: &str, dir: Dir) -> io::Result<()> {
        clear(dir)?;
        self.dir.remove_dir(name)
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let gone = self.dir.remove_file(LOCK).and_then(|()| self.root.remove_dir(&self.name));
        if let Err(error) = gone {
            tracing::warn!(%error, "a directory for scratch files is left to be swept");
        }
    }
}

/// Opens the root, made if it is missing. It must be ours, and nobody else may write in it: another could put a symlink
/// where a directory is to be removed.
fn own(root: &Path) -> io::Result<Dir> {
    match DirBuilder::new().mode(0o700).create(root) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let refuse = |why: &str| Err(io::Error::new(ErrorKind::PermissionDenied, why));
    let named = std::fs::symlink_metadata(root)?;
    if !named.is_dir() {
        return refuse(if named.is_symlink() { "it is a symlink" } else { "it is not a directory" });
    }
    let dir = File::open(root)?;
    let found = dir.metadata()?;
    if (Unix::dev(&found), Unix::ino(&found)) != (Unix::dev(&named), Unix::ino(&named)) {
        return refuse("it was replaced meanwhile");
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return refuse("it belongs to another user");
    }
    if found.mode() & 0o022 != 0 {
        return refuse("others than its owner may write in it");
    }
    Ok(Dir::from_std_file(dir))
}

fn lock_file(dir: &Dir, name: &str) -> io::Result<File> {
    let mut options = cap_std::fs::OpenOptions::new();
    Ok(dir.open_with(name, options.write(true).create(true).truncate(false))?.into_std())
}

/// Removes the spaces of hosts that are no more. The root's own lock is held, so that nobody is between making a space
/// and locking it.
fn sweep(root: &Dir) -> io::Result<()> {
    for entry in root.entries()? {
        let entry = entry?;
        let name = entry.file_name();
        if !name.to_str().is_some_and(|name| name.starts_with(PREFIX)) {
            continue;
        }
        match sweep_space(root, &name) {
            // A host that ends removes its own without the root's lock.
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn sweep_space(root: &Dir, name: &OsString) -> io::Result<()> {
    let space = root.open_dir_nofollow(name)?;
    match lock_file(&space, LOCK)?.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(()),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    clear(space)?;
    root.remove_dir(name)
}

/// Removes all that is in a directory.
fn clear(dir: Dir) -> io::Result<()> {
    let empty = |dir: &Dir| {
        let mut full = Vec::new();
        for entry in dir.entries()? {
            let entry = entry?;
            let name = entry.file_name();
            if !entry.file_type()?.is_dir() {
                dir.remove_file(&name)?;
            } else if dir.remove_dir(&name).is_err() {
                full.push(name);
            }
        }
        Ok(full)
    };
    walk(dir, empty, |parent, name| parent.remove_dir(name))
}

/// Goes through a tree, however deep it is, with one directory open at a time. `enter` is shown each directory and says
/// which of those in it to go into; `leave` is told when one of them is done.
pub(super) fn walk(
    mut dir: Dir,
    mut enter: impl FnMut(&Dir) -> io::Result<Vec<OsString>>,
    mut leave: impl FnMut(&Dir, &OsString) -> io::Result<()>,
) -> io::Result<()> {
    let mut levels = vec![(OsString::new(), inode(&dir)?, enter(&dir)?)];
    while let Some((_, _, pending)) = levels.last_mut() {
        if let Some(name) = pending.pop() {
            let below = dir.open_dir_nofollow(&name)?;
            let inside = enter(&below)?;
            levels.push((name, inode(&below)?, inside));
            dir = below;
            continue;
        }
        let done = levels.pop();
        if let (Some((name, ..)), Some((_, expected, _))) = (done, levels.last()) {
            dir = dir.open_parent_dir(ambient_authority())?;
            if inode(&dir)? != *expected {
                return Err(io::Error::other("a directory in it was moved meanwhile"));
            }
            leave(&dir, &name)?;
        }
    }
    Ok(())
}

fn inode(dir: &Dir) -> io::Result<Inode> {
    use cap_fs_ext::MetadataExt;
    let meta = dir.dir_metadata()?;
    Ok((MetadataExt::dev(&meta), MetadataExt::ino(&meta)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("isopod-test-{}-{name}", std::process::id()))
    }

    #[test]
    fn a_tree_is_removed_however_deep_and_wide() {
        let path = root("clear");
        let space = Space::make(&path).unwrap();
        let (name, dir) = space.directory().unwrap();
        let mut deep = dir.try_clone().unwrap();
        for depth in 0..5_000 {
            deep.create_dir("d").unwrap();
            if depth % 100 == 0 {
                deep.write("file", "x").unwrap();
                deep.symlink("nowhere", "link").unwrap();
            }
            deep = deep.open_dir("d").unwrap();
        }
        for wide in 0..100 {
            dir.create_dir(format!("w{wide}")).unwrap();
            dir.write(format!("w{wide}/file"), "x").unwrap();
        }
        space.remove(&name, dir).unwrap();
        drop(space);
        let left: Vec<_> = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [SWEEP]);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn roots_that_others_could_change_are_refused() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let path = root("own");
        std::fs::create_dir(&path).unwrap();
        let refused = |path: &Path| Space::make(path).err().unwrap().to_string();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(refused(&path).contains("may write in it"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        symlink(&path, path.with_extension("link")).unwrap();
        assert!(refused(&path.with_extension("link")).contains("symlink"));
        std::fs::write(path.join("file"), "").unwrap();
        assert!(refused(&path.join("file")).contains("not a directory"));
        assert!(Space::make(&path).is_ok());
        std::fs::remove_file(path.with_extension("link")).unwrap();
        std::fs::remove_dir_all(path).unwrap();
    }
}
