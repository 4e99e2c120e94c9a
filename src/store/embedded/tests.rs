//! The embedded store with a file that fails, in ways that a real one would take long to.

use super::*;
use parking_lot::Condvar;
use redb::StorageBackend;
use std::time::Instant;
use tokio::task::JoinSet;

/// A disk that is slow, full or broken when it is told so.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<(Mutex<Platter>, Condvar)>);

#[derive(Debug, Default)]
struct Platter {
    bytes: Vec<u8>,
    opened: usize,
    /// Whoever syncs waits.
    held: bool,
    full: bool,
    unreadable: bool,
    panics: bool,
}

impl Disk {
    fn set(&self, set: impl FnOnce(&mut Platter)) {
        set(&mut self.0.0.lock());
        self.0.1.notify_all();
    }

    fn store(&self) -> Embedded {
        let disk = self.clone();
        let open: Box<Open> = Box::new(move |builder, _| {
            disk.set(|platter| platter.opened += 1);
            builder.create_with_backend(disk.clone())
        });
        Embedded::start("disk".to_owned(), open).unwrap()
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.0.lock().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platter = self.0.0.lock();
        if platter.unreadable {
            return Err(io::Error::other("a bad sector"));
        }
        let offset = offset as usize;
        out.copy_from_slice(platter.bytes.get(offset..offset + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut platter = self.0.0.lock();
        if platter.full && len > platter.bytes.len() as u64 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        platter.bytes.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platter = self.0.0.lock();
        self.0.1.wait_while(&mut platter, |platter| platter.held);
        assert!(!platter.panics, "the disk panics");
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut platter = self.0.0.lock();
        let offset = offset as usize;
        platter.bytes.get_mut(offset..offset + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        Ok(())
    }
}

const MIB: usize = 1024 * 1024;

fn space(tenant: &str) -> Space {
    Space::new(Some(tenant), "state")
}

fn set(tenant: &str, key: &str, bytes: usize) -> Batch {
    Batch::new().set(&space(tenant), key.to_owned(), vec![b'v'; bytes])
}

async fn kind(store: &Embedded, batch: Batch) -> io::ErrorKind {
    match store.commit(batch).await {
        Err(Refused::Failed(error)) => error.kind(),
        other => panic!("{other:?}"),
    }
}

/// Until it is written again, for some seconds at most.
async fn commit_again(store: &Embedded, batch: Batch) -> Committed {
    let started = Instant::now();
    loop {
        match store.commit(batch.clone()).await {
            Ok(committed) => return committed,
            Err(error) => assert!(started.elapsed() < Duration::from_secs(20), "{error:?}"),
        }
        tokio::task::yield_now().await;
    }
}

async fn keys(store: &Embedded, tenant: &str) -> Vec<Bytes> {
    store.list(&space(tenant), b"", None, 1_000).await.unwrap()
}

/// The disk was full once, and the store was dead for all tenants until the host was restarted.
#[tokio::test]
async fn a_full_disk_fails_writes_only_until_there_is_space() {
    let disk = Disk::default();
    let store = store_with(&disk).await;
    disk.set(|platter| platter.full = true);
    // What there is room for in the file is written; then it must grow.
    let mut written = vec![Bytes::from("kept")];
    let refused = loop {
        let key = format!("n{:03}", written.len());
        match store.commit(set("a", &key, MIB)).await {
            Ok(_) => written.push(key.into()),
            Err(Refused::Failed(error)) => break error,
            other => panic!("{other:?}"),
        }
        assert!(written.len() < 100);
    };
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
    for _ in 0..3 {
        // The first answer after a pause says the same as those during it.
        assert_eq!(kind(&store, set("a", "large", 64 * MIB)).await, io::ErrorKind::StorageFull);
    }
    // Those who read are served although nothing can be written.
    let started = Instant::now();
    while store.get(&space("a"), b"kept").await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(20));
    }
    disk.set(|platter| platter.full = false);
    commit_again(&store, set("a", "zlast", MIB)).await;
    written.push("zlast".into());
    assert_eq!(keys(&store, "a").await, written, "what was acknowledged is there, and nothing else");
    let opened = disk.0.0.lock().opened;
    drop(store);
    let store = disk.store();
    assert_eq!(keys(&store, "a").await, written);
    assert_eq!(store.size(&space("a")).await.unwrap().keys, written.len() as u64);
    assert!(opened < 20, "it was opened {opened} times");
}

/// A store with one entry.
async fn store_with(disk: &Disk) -> Embedded {
    let store = disk.store();
    store.commit(set("a", "kept", 10)).await.unwrap();
    store
}

#[tokio::test]
async fn a_panic_of_the_database_ends_neither_the_writer_nor_the_process() {
    let disk = Disk::default();
    let store = store_with(&disk).await;
    disk.set(|platter| platter.panics = true);
    assert_eq!(kind(&store, set("a", "b", 10)).await, io::ErrorKind::Other);
    disk.set(|platter| platter.panics = false);
    let version = commit_again(&store, set("a", "c", 10)).await.version;
    assert!(version.0 >= 2);
    let found = keys(&store, "a").await;
    assert!(found.contains(&"kept".into()) && found.contains(&"c".into()), "{found:?}");
}

/// Nobody writes, and still the store can be read again.
#[tokio::test]
async fn a_failed_read_has_the_file_opened_again() {
    let disk = Disk::default();
    let store = store_with(&disk).await;
    store.commit(set("a", "large", MIB)).await.unwrap();
    drop(store);
    // Nothing is in redb's memory yet.
    let store = disk.store();
    disk.set(|platter| platter.unreadable = true);
    assert!(store.get(&space("a"), b"large").await.is_err());
    assert!(store.get(&space("a"), b"large").await.is_err());
    disk.set(|platter| platter.unreadable = false);
    let started = Instant::now();
    while store.get(&space("a"), b"large").await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(20));
    }
}

/// Lets tasks go on until all of them wait for something.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// One tenant's calls wrote as much as they could, and everybody waited behind gigabytes.
#[tokio::test]
async fn who_writes_a_lot_waits_for_itself() {
    let disk = Disk::default();
    let store = Arc::new(store_with(&disk).await);
    let mut writes = JoinSet::new();
    let mut write = |batch: Batch| {
        let store = Arc::clone(&store);
        writes.spawn(async move { store.commit(batch).await.unwrap().version.0 })
    };
    disk.set(|platter| platter.held = true);
    let loud: Vec<_> = (0..24).map(|n| write(set("loud", &n.to_string(), 4 * MIB - 4_096))).collect();
    settle().await;
    let left = store.room.all.available_permits();
    assert!(left >= ROOM - SHARE, "{left} bytes are left for others");
    // Calls that end while they wait leave nothing behind, and neither do those in the room.
    loud[12..].iter().for_each(|call| call.abort());
    write(set("quiet", "a", 10));
    settle().await;
    assert_eq!(store.room.all.available_permits(), left - LEAST);
    disk.set(|platter| platter.held = false);
    let mut versions = Vec::new();
    while let Some(done) = writes.join_next_with_id().await {
        versions.extend(done);
    }
    assert_eq!(versions.len(), 13);
    let quiet = store.get(&space("quiet"), b"a").await.unwrap().unwrap().version.0;
    assert!(quiet <= 6, "it came after {} of the other tenant's", quiet - 2);
    assert_eq!(store.room.all.available_permits(), ROOM);
    assert_eq!(store.room.share(Some("loud")).available_permits(), SHARE);
}

/// A hundred batches of 4 MiB were one commit.
#[test]
fn a_commit_takes_no_more_batches_than_it_has_memory_for() {
    let (asks, queue) = mpsc::channel(100);
    let mut writer = Writer {
        name: "none".to_owned(),
        shared: Arc::new(Shared { db: RwLock::new(None) }),
        open: Box::new(|_, _| Err(StorageError::DatabaseClosed.into())),
        queue,
        clock: Clock::new(),
        broken: false,
        failed: None,
    };
    let room = Room::default();
    let mut waiting = Vec::new();
    for (at, bytes) in [4 * MIB, 4 * MIB, 3 * MIB, 6 * MIB, 1, 20 * MIB].into_iter().enumerate() {
        let batch = set(&at.to_string(), "a", bytes);
        let place = futures_util::FutureExt::now_or_never(room.place(&batch)).unwrap().unwrap();
        let (done, answer) = oneshot::channel();
        asks.try_send(Ask::Write(Job { batch, place, done })).unwrap_or_else(|_| panic!("the queue is full"));
        waiting.push(answer);
    }
    // A call that ended is no part of it.
    waiting.remove(4);
    drop(asks);
    let mut groups = Vec::new();
    let mut group = Vec::new();
    while writer.take(&mut group) {
        groups.push(group.drain(..).count());
    }
    assert_eq!(groups, [2, 2, 1]);
}

/// Its locks are given back, whoever still reads.
#[tokio::test]
async fn a_file_is_opened_again_by_the_process_that_has_it() {
    let path = std::env::temp_dir().join(format!("isopod-embedded-{}", std::process::id()));
    let store = Embedded::open(&path).unwrap();
    store.commit(set("a", "kept", 10)).await.unwrap();
    let old = store.shared.db.write().take().unwrap();
    let reading = old.begin_read().unwrap();
    drop(old);
    assert!(store.get(&space("a"), b"kept").await.is_err());
    commit_again(&store, set("a", "more", 10)).await;
    assert_eq!(keys(&store, "a").await, ["kept", "more"]);
    drop((store, reading));
    // One that is gone is not made anew.
    let store = Embedded::open(&path).unwrap();
    drop(store.shared.db.write().take());
    std::fs::remove_file(&path).unwrap();
    assert_eq!(kind(&store, set("a", "b", 10)).await, io::ErrorKind::Other);
    assert_eq!(kind(&store, set("a", "b", 10)).await, io::ErrorKind::Other);
    assert!(!path.exists());
}

#[tokio::test]
async fn shares_of_tenants_that_are_gone_are_not_kept() {
    let room = Room::default();
    for n in 0..10_000 {
        drop(room.place(&set(&n.to_string(), "a", 1)).await.unwrap());
    }
    assert!(room.shares.lock().len() < 100);
    // More than there is room for is written all the same, alone.
    let place = room.place(&set("a", "a", 2 * ROOM)).await.unwrap();
    assert_eq!(room.all.available_permits(), ROOM - SHARE);
    drop(place);
}
