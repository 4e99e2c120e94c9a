//! The store in one file: redb, which writes by copying and makes each commit durable before it says so.
//!
//! One thread writes. It takes what has come in since its last commit and makes one commit of it, so that many writers
//! share the wait for the disk; each batch is judged by itself, and one that is refused leaves nothing behind. Reads
//! see the last commit, on the runtime's blocking threads.
//!
//! A file is checked as a whole when it is opened. redb trusts what it reads later: a damaged page makes it panic, and
//! a panic in the middle of a write can end the process.
//!
//! After an I/O error redb refuses everything until the file is opened anew, and so does this store.

use super::{Batch, Committed, Durability, Entry, Kv, Refused, Size, Space, Store, Version, within};
use crate::error::{Error, ErrorKind, Result};
use crate::future::BoxFuture;
use bytes::Bytes;
use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
    TableHandle,
};
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// A space and a key in it.
type Place = (&'static [u8], &'static [u8]);
/// A version and a value.
type Stored = (u64, &'static [u8]);

const ENTRIES: TableDefinition<'_, Place, Stored> = TableDefinition::new("isopod.entries");
/// By space: bytes and keys. Only of those that hold something.
const SIZES: TableDefinition<'_, &[u8], (u64, u64)> = TableDefinition::new("isopod.sizes");
/// [`FORMAT`], and the version of the last commit.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("isopod.meta");

/// How the tables are to be read; a number for each change that an older isopod would misread.
const FORMAT: u64 = 1;
/// Memory for pages of the file. redb's own default of 1 GiB is for those who have one database and nothing else.
const CACHE: usize = 64 * 1024 * 1024;
/// Batches that wait for the writer; more wait for a place. As many as a host has seats by default.
const QUEUE: usize = 1_024;
/// Batches that share one commit: what they hold is in memory twice until it is written.
const GROUP: usize = 128;
/// Reads at once. They take threads of the runtime, of which there are 512.
const READS: usize = 16;

impl Store {
    /// State in that file, which is made where there is none. A commit is on the disk when it is acknowledged. One
    /// process at a time may have the file open, and in it one store, which hosts may share.
    ///
    /// Opening reads and checks the whole file, on this thread: about a second for half a gigabyte.
    ///
    /// # Errors
    /// [`ErrorKind::Store`] for a file that is open already, that is damaged, that is something else than such a store,
    /// or that the operating system refuses.
    ///
    /// ```no_run
    /// # fn main() -> isopod::Result<()> {
    /// use isopod::{Host, Store};
    ///
    /// let host = Host::builder().store(Store::embedded("state.redb")?).build()?;
    /// # Ok(()) }
    /// ```
    pub fn embedded(path: impl AsRef<Path>) -> Result<Store> {
        Embedded::open(path.as_ref()).map(Store::new)
    }
}

struct Embedded {
    db: Arc<Database>,
    reads: Arc<Semaphore>,
    /// There until this is dropped.
    writer: Option<(mpsc::Sender<Job>, JoinHandle<()>)>,
}

/// A batch, and who waits for it.
struct Job {
    batch: Batch,
    done: oneshot::Sender<std::result::Result<Committed, Refused>>,
}

impl Embedded {
    fn open(path: &Path) -> Result<Embedded> {
        let fail = |why: &str, error: Option<String>| {
            let text = format!("the store {} cannot be opened: {why}", path.display());
            Error::new(ErrorKind::Store, text).because(error)
        };
        let new = !path.exists();
        let opened = catch_unwind(|| {
            let mut builder = Database::builder();
            builder.set_cache_size(CACHE).set_check_integrity_on_open(true).create(path)
        });
        let damaged = "the file is damaged; restore it from a copy";
        let db = opened.map_err(|_| fail(damaged, None))?.map_err(|error| {
            let text = error.to_string();
            match error {
                DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
                    fail("it is open already, here or in another process; open it once and share the `Store`", None)
                }
                DatabaseError::UpgradeRequired(_) => fail("another version of redb wrote it", Some(text)),
                DatabaseError::Storage(StorageError::Corrupted(_)) | DatabaseError::RepairAborted => {
                    fail(damaged, Some(text))
                }
                DatabaseError::Storage(StorageError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
                    fail("the file is something else than a store; name another one", Some(text))
                }
                _ => fail("the file cannot be used", Some(text)),
            }
        })?;
        let prepared = catch_unwind(AssertUnwindSafe(|| prepare(&db)));
        let format = prepared.map_err(|_| fail(damaged, None))?.map_err(|error| match error {
            redb::Error::Corrupted(_) => fail(damaged, Some(error.to_string())),
            error => fail("the file cannot be used", Some(error.to_string())),
        })?;
        match format {
            Some(FORMAT) => {}
            Some(_) => return Err(fail("a newer isopod wrote it; use that one", None)),
            None => return Err(fail("it is the database of another program; name another file", None)),
        }
        // Windows has no such thing as a folder that is synced.
        if new && cfg!(unix) {
            // Or else a loss of power could lose the file's name.
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(parent)
                .and_then(|folder| folder.sync_all())
                .map_err(|e| fail("its folder cannot be synced", Some(e.to_string())))?;
        }
        let db = Arc::new(db);
        let (jobs, queue) = mpsc::channel(QUEUE);
        let written = Arc::clone(&db);
        let thread = std::thread::Builder::new().name("isopod-store".into());
        let thread = thread
            .spawn(move || write(&written, queue))
            .map_err(|e| fail("its thread cannot be started", Some(e.to_string())))?;
        Ok(Embedded { db, reads: Arc::new(Semaphore::new(READS)), writer: Some((jobs, thread)) })
    }

    /// Reads the last commit on a thread that may wait for the disk.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error> + Send + 'static,
    ) -> io::Result<T> {
        let place = Arc::clone(&self.reads).acquire_owned().await.map_err(io::Error::other)?;
        let db = Arc::clone(&self.db);
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            read(&db.begin_read()?)
        });
        done.await.map_err(io::Error::other)?.map_err(io::Error::other)
    }
}

impl Drop for Embedded {
    /// Waits for the writer, so that the file can be opened again.
    fn drop(&mut self) {
        if let Some((jobs, thread)) = self.writer.take() {
            drop(jobs);
            let _ = thread.join();
        }
    }
}

/// Makes the tables of a new file; gives the format of one that is ours.
fn prepare(db: &Database) -> Result<Option<u64>, redb::Error> {
    {
        let read = db.begin_read()?;
        let mut names = read.list_tables()?.map(|table| table.name().to_owned());
        if let Some(first) = names.next() {
            if first != META.name() && !names.any(|name| name == META.name()) {
                return Ok(None);
            }
            return Ok(read.open_table(META)?.get("format")?.map(|format| format.value()));
        }
    }
    let new = db.begin_write()?;
    new.open_table(META)?.insert("format", FORMAT)?;
    new.open_table(ENTRIES)?;
    new.open_table(SIZES)?;
    new.commit()?;
    Ok(Some(FORMAT))
}

/// The writer's thread, until nobody can send any more.
fn write(db: &Database, mut queue: mpsc::Receiver<Job>) {
    let mut group = Vec::new();
    while queue.blocking_recv_many(&mut group, GROUP) > 0 {
        // Whoever gave up before it began has it not written.
        group.retain(|job| !job.done.is_closed());
        if group.is_empty() {
            continue;
        }
        let answers = commit(db, group.iter().map(|job| &job.batch));
        let failed = answers.as_ref().err().map(ToString::to_string);
        let mut answers = answers.unwrap_or_default().into_iter();
        for job in group.drain(..) {
            let failed = || Err(Refused::Failed(io::Error::other(failed.clone().unwrap_or_default())));
            // Nobody may be waiting any more.
            let _ = job.done.send(answers.next().unwrap_or_else(failed));
        }
    }
}

type Answer = std::result::Result<Committed, Refused>;

fn commit<'a>(db: &Database, batches: impl Iterator<Item = &'a Batch>) -> Result<Vec<Answer>, redb::Error> {
    let transaction = db.begin_write()?;
    let mut answers = Vec::new();
    {
        let mut entries = transaction.open_table(ENTRIES)?;
        let mut sizes = transaction.open_table(SIZES)?;
        let mut meta = transaction.open_table(META)?;
        let mut last = meta.get("version")?.map_or(0, |last| last.value());
        for batch in batches {
            let plan = batch.plan(
                |space, key| entry(&entries, &space.to_bytes(), key).map_err(io::Error::other),
                |space| size(&sizes, &space.to_bytes()).map_err(io::Error::other),
            );
            let plan = match plan {
                Ok(plan) => plan,
                Err(Refused::Failed(error)) => return Err(error.into()),
                Err(refused) => {
                    answers.push(Err(refused));
                    continue;
                }
            };
            last += 1;
            for ((space, key), value) in &plan.writes {
                let space = space.to_bytes();
                match value {
                    Some(value) => drop(entries.insert((&space[..], &key[..]), (last, &value[..]))?),
                    None => drop(entries.remove((&space[..], &key[..]))?),
                }
            }
            for (space, Size { bytes, keys }) in &plan.sizes {
                match keys {
                    0 => drop(sizes.remove(&space.to_bytes()[..])?),
                    keys => drop(sizes.insert(&space.to_bytes()[..], (*bytes, *keys))?),
                }
            }
            answers.push(Ok(Committed { version: Version(last), sums: plan.sums }));
        }
        meta.insert("version", last)?;
    }
    if answers.iter().any(Result::is_ok) {
        transaction.commit()?;
    } else {
        transaction.abort()?;
    }
    Ok(answers)
}

fn entry(
    entries: &impl ReadableTable<Place, Stored>,
    space: &[u8],
    key: &[u8],
) -> Result<Option<Entry>, redb::StorageError> {
    Ok(entries.get((space, key))?.map(|found| {
        let (version, value) = found.value();
        Entry { value: Bytes::copy_from_slice(value), version: Version(version) }
    }))
}

fn size(sizes: &impl ReadableTable<&'static [u8], (u64, u64)>, space: &[u8]) -> Result<Size, redb::StorageError> {
    let (bytes, keys) = sizes.get(space)?.map(|found| found.value()).unwrap_or_default();
    Ok(Size { bytes, keys })
}

impl Kv for Embedded {
    fn durability(&self) -> Durability {
        Durability::Disk
    }

    fn get_many<'a>(
        &'a self,
        space: &'a Space,
        keys: &'a [Bytes],
        room: usize,
    ) -> BoxFuture<'a, io::Result<Vec<Option<Entry>>>> {
        let (space, keys) = (space.to_bytes(), keys.to_vec());
        Box::pin(self.read(move |read| {
            let entries = read.open_table(ENTRIES)?;
            Ok(within(room, keys.iter().map(|key| entry(&entries, &space, key)))?)
        }))
    }

    fn list<'a>(
        &'a self,
        space: &'a Space,
        prefix: &'a [u8],
        after: Option<&'a [u8]>,
        limit: usize,
    ) -> BoxFuture<'a, io::Result<Vec<Bytes>>> {
        let (space, prefix, after) = (space.to_bytes(), prefix.to_vec(), after.map(<[u8]>::to_vec));
        Box::pin(self.read(move |read| {
            let from = match &after {
                Some(after) if *after >= prefix => Bound::Excluded((&space[..], &after[..])),
                _ => Bound::Included((&space[..], &prefix[..])),
            };
            let mut keys = Vec::new();
            for found in read.open_table(ENTRIES)?.range((from, Bound::Unbounded))? {
                let found = found?.0;
                let (place, key) = found.value();
                if keys.len() == limit || place != space || !key.starts_with(&prefix) {
                    break;
                }
                keys.push(Bytes::copy_from_slice(key));
            }
            Ok(keys)
        }))
    }

    fn size<'a>(&'a self, space: &'a Space) -> BoxFuture<'a, io::Result<Size>> {
        let space = space.to_bytes();
        Box::pin(self.read(move |read| Ok(size(&read.open_table(SIZES)?, &space)?)))
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Committed, Refused>> {
        Box::pin(async move {
            let ended = || Refused::Failed(io::Error::other("the store's writer has ended"));
            let (done, answer) = oneshot::channel();
            let (jobs, _) = self.writer.as_ref().ok_or_else(ended)?;
            jobs.send(Job { batch, done }).await.map_err(|_| ended())?;
            answer.await.map_err(|_| ended())?
        })
    }
}
