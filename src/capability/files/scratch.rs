//! Directories that live as long as one call: where they are made, and how they are removed whatever happens.
//!
//! Below one root each [`Space`], one for each host, has a directory of its own that it keeps locked: the directory itself,
//! as no file in it would be safe from those who clean up old files, while some of them leave locked directories alone. The
//! lock goes with the process, even with one that is killed: whoever makes the next space below that root removes the
//! directories whose locks are free. What was removed all the same is made anew.

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

/// A directory for each user: in a shared one, one user would find what is another's and stop.
pub(super) fn default_root() -> PathBuf {
    std::env::temp_dir().join(format!("isopod-{}", rustix::process::geteuid().as_raw()))
}

/// How the names of spaces begin. A root that somebody else keeps things in is not emptied.
const PREFIX: &str = "isopod-scratch-";

/// Where the scratch directories of one host are.
pub(super) struct Space {
    root: PathBuf,
    made: Mutex<Arc<Made>>,
    next: AtomicU64,
}

/// A space as it is on the disk.
struct Made {
    root: Dir,
    name: String,
    dir: Dir,
    /// The directory, locked for as long as this is open.
    _lock: File,
}

/// One call's directory.
pub(super) struct Own {
    pub dir: Dir,
    name: String,
    within: Arc<Made>,
}

impl Space {
    pub(super) fn make(root: PathBuf) -> io::Result<Space> {
        let made = Mutex::new(Made::new(&root)?.into());
        Ok(Space { root, made, next: AtomicU64::new(0) })
    }

    /// Makes an empty directory.
    pub(super) fn directory(&self) -> io::Result<Own> {
        let name = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let made = Arc::clone(&self.made.lock());
        match Made::directory(&made, &name) {
            Err(error) if error.kind() == ErrorKind::NotFound => Made::directory(&self.anew(&made)?, &name),
            other => other,
        }
    }

    /// What is there instead of one that is gone.
    fn anew(&self, gone: &Arc<Made>) -> io::Result<Arc<Made>> {
        let mut made = self.made.lock();
        if Arc::ptr_eq(&made, gone) {
            tracing::warn!(name = gone.name, "the directory for scratch files was removed, and is made anew");
            *made = Made::new(&self.root)?.into();
        }
        Ok(Arc::clone(&made))
    }
}

impl Own {
    /// Removes the directory and all in it.
    pub(super) fn remove(&self) -> io::Result<()> {
        let gone = clear(self.dir.try_clone()?).and_then(|()| self.within.dir.remove_dir(&self.name));
        gone_is_fine(gone)
    }
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

impl Made {
    /// Removes what dead processes left below `root`, and makes a space there.
    fn new(root: &Path) -> io::Result<Made> {
        let root = own(root)?;
        let sweeping = lockable(&root)?;
        sweeping.lock()?;
        sweep(&root)?;
        let name = format!("{PREFIX}{}-{:016x}", std::process::id(), rand::random::<u64>());
        let mut private = cap_std::fs::DirBuilder::new();
        cap_std::fs::DirBuilderExt::mode(&mut private, 0o700);
        root.create_dir_with(&name, &private)?;
        let dir = root.open_dir_nofollow(&name)?;
        let lock = lockable(&dir)?;
        lock.lock()?;
        Ok(Made { root, name, dir, _lock: lock })
    }

    fn directory(this: &Arc<Made>, name: &str) -> io::Result<Own> {
        this.dir.create_dir(name)?;
        let dir = this.dir.open_dir_nofollow(name)?;
        Ok(Own { dir, name: name.to_owned(), within: Arc::clone(this) })
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Err(error) = gone_is_fine(self.root.remove_dir(&self.name)) {
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

/// The directory, opened once more: a lock is that of one opening.
fn lockable(dir: &Dir) -> io::Result<File> {
    Ok(dir.open(".")?.into_std())
}

/// Removes the spaces of hosts that are no more. The root's own lock is held, so that nobody is between making a space
/// and locking it. What cannot be removed stays: somebody has to look at it, and no function needs to wait for that.
fn sweep(root: &Dir) -> io::Result<()> {
    for entry in root.entries()? {
        let entry = entry?;
        let name = entry.file_name();
        if !name.to_str().is_some_and(|name| name.starts_with(PREFIX)) {
            continue;
        }
        // A host that ends removes its own without the root's lock.
        if let Err(error) = gone_is_fine(sweep_space(root, &name)) {
            tracing::warn!(%error, ?name, "scratch files of a process that has ended cannot be removed");
        }
    }
    Ok(())
}

fn sweep_space(root: &Dir, name: &OsString) -> io::Result<()> {
    let space = root.open_dir_nofollow(name)?;
    let lock = lockable(&space)?;
    match lock.try_lock() {
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
        let space = Space::make(path.clone()).unwrap();
        let own = space.directory().unwrap();
        let dir = &own.dir;
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
        own.remove().unwrap();
        drop((own, space));
        assert_eq!(inside(&path), [] as [String; 0]);
        std::fs::remove_dir_all(path).unwrap();
    }

    fn inside(path: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(path).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Others clean up directories for temporary files: old files first, then what is empty.
    #[test]
    fn a_space_that_others_removed_is_made_anew() {
        let path = root("anew");
        let space = Space::make(path.clone()).unwrap();
        let before = space.directory().unwrap();
        std::fs::remove_dir_all(path.join(&inside(&path)[0])).unwrap();
        let after = space.directory().unwrap();
        before.remove().unwrap();
        assert_eq!(inside(&path).len(), 1);
        std::fs::remove_dir_all(&path).unwrap();
        let again = space.directory().unwrap();
        assert!(again.dir.exists("."));
        after.remove().unwrap();
        again.remove().unwrap();
        drop((before, after, again, space));
        assert_eq!(inside(&path), [] as [String; 0]);
        std::fs::remove_dir_all(path).unwrap();
    }

    /// No files of a living host are removed, whatever was removed of what is in its directory.
    #[test]
    fn the_lock_of_a_space_is_none_of_its_files() {
        let path = root("locked");
        let living = Space::make(path.clone()).unwrap();
        let name = inside(&path).remove(0);
        assert_eq!(inside(&path.join(&name)), [] as [String; 0]);
        let _own = living.directory().unwrap();
        drop(Space::make(path.clone()).unwrap());
        assert_eq!(inside(&path), [name]);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn what_cannot_be_swept_is_left() {
        let path = root("sweep");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join(format!("{PREFIX}file")), "").unwrap();
        std::fs::create_dir_all(path.join(format!("{PREFIX}dead/0/d"))).unwrap();
        drop(Space::make(path.clone()).unwrap());
        assert_eq!(inside(&path), [format!("{PREFIX}file")]);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn roots_that_others_could_change_are_refused() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let path = root("own");
        std::fs::create_dir(&path).unwrap();
        let refused = |path: &Path| Space::make(path.to_owned()).err().unwrap().to_string();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(refused(&path).contains("may write in it"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        symlink(&path, path.with_extension("link")).unwrap();
        assert!(refused(&path.with_extension("link")).contains("symlink"));
        std::fs::write(path.join("file"), "").unwrap();
        assert!(refused(&path.join("file")).contains("not a directory"));
        assert!(Space::make(path.clone()).is_ok());
        std::fs::remove_file(path.with_extension("link")).unwrap();
        std::fs::remove_dir_all(path).unwrap();
    }
}
