//! Trees on a real disk, under random operations and under hands that others move.

use super::super::disk::Disk;
use super::super::fail::Rule;
use super::super::node::{How, Node};
use super::super::run;
use super::*;
use crate::denial::Denials;
use cap_std::ambient_authority;
use proptest::prelude::*;
use std::path::Path;

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
    Arc::new(Node::root(Arc::new(tree), Arc::new(Desk { jobs, opens, denials: Mutex::new(denials) })))
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
