//! The store in one file: redb, which writes by copying and makes each commit durable before it says so.
//!
//! One thread writes. It takes what has come in since its last commit and makes one commit of it, so that many writers
//! share the wait for the disk; each batch is judged by itself, and one that is refused leaves nothing behind. Reads
//! see the last commit, on the runtime's blocking threads.
//!
//! Batches wait in a room of so many bytes, of which a tenant has a share, so that one that writes a lot waits for
//! itself. Those in the room are written in the order in which they came; a call that ends before it has a place leaves
//! nothing there, and one that ends later leaves a batch that is skipped.
//!
//! A file is checked as a whole when it is opened. redb trusts what it reads later: a damaged page makes it panic, and
//! a panic in the middle of a write can end the process.
//!
//! After an I/O error, such as a full disk, redb refuses everything until the file is opened anew. The writer does that,
//! also after a panic. Reads are refused meanwhile, and writes wait for it. Where it fails again, writes are refused for
//! a while without an attempt, each time longer; a file that cannot be opened is tried again when somebody asks for
//! something.
//!
//! redb commits in one phase: it writes the pages and the root that names them, then syncs once, and tells by checksums
//! after a crash whether all was written. They are not cryptographic. Who chooses the values, knows the file, and can
//! make the machine crash in the middle of a sync and with only some pages written, could in theory have half of a
//! commit taken for a whole one, as redb's documentation of `WriteTransaction::set_two_phase_commit` says. A second
//! sync for each commit would be the price of the other way, which is not offered.

use super::{Batch, Committed, Durability, Entry, Kv, Op, Refused, Size, Space, Step, Store, Version, within};
use crate::clock::{Clock, Nanos};
use crate::error::{Error, ErrorKind, Result};
use crate::future::BoxFuture;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use redb::{
    Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
    TableHandle,
};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// A space and a key in it.
type At = (&'static [u8], &'static [u8]);
/// A version and a value.
type Stored = (u64, &'static [u8]);

const ENTRIES: TableDefinition<'_, At, Stored> = TableDefinition::new("isopod.entries");
/// By space: bytes and keys. Only of those that hold something.
const SIZES: TableDefinition<'_, &[u8], (u64, u64)> = TableDefinition::new("isopod.sizes");
/// [`FORMAT`], and the version of the last commit.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("isopod.meta");

/// How the tables are to be read; a number for each change that an older isopod would misread.
const FORMAT: u64 = 1;
/// Memory for pages of the file. redb's own default of 1 GiB is for those who have one database and nothing else.
const CACHE: usize = 64 * 1024 * 1024;
/// Bytes of batches that wait for the writer; more wait for a place, with whoever makes them.
const ROOM: usize = 64 * 1024 * 1024;
/// As much of it as one tenant takes, so that four of them at least must write a lot before others wait for it.
const SHARE: usize = ROOM / 4;
/// Bytes at which a commit takes no more batches: what they hold is in memory twice until it is written.
const GROUP: usize = 8 * 1024 * 1024;
/// What a small batch counts for. It bounds their number: 1 024 wait, as many as a host has seats by default.
const LEAST: usize = 64 * 1024;
/// Reads at once. They take threads of the runtime, of which there are 512.
const READS: usize = 16;
/// For how long nothing is written once the store has failed twice in a row: twice as long each time. Each attempt may
/// read the whole file.
const WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

impl Store {
    /// State in that file, which is made where there is none. A commit is on the disk when it is acknowledged. One
    /// process at a time may have the file open, and in it one store, which hosts may share.
    ///
    /// Opening reads and checks the whole file, on this thread: about a second for half a gigabyte.
    ///
    /// When the disk is full or fails, writes fail, and are tried again as they come, with pauses of up to ten seconds;
    /// the file is opened again by itself, and what is read meanwhile fails.
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
    shared: Arc<Shared>,
    reads: Arc<Semaphore>,
    room: Room,
    /// There until this is dropped.
    writer: Option<(mpsc::Sender<Ask>, JoinHandle<()>)>,
}

/// What readers and the writer both use. Only the writer takes the lock to write, for as long as it takes to put
/// something there.
struct Shared {
    /// None while the file is opened again, or cannot be.
    db: RwLock<Option<Database>>,
}

/// How the file is opened, the first time or again.
type Open = dyn Fn(&Builder, bool) -> Result<Database, DatabaseError> + Send;

impl Embedded {
    fn open(path: &Path) -> Result<Embedded> {
        let new = !path.exists();
        let file = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let name = path.display().to_string();
        // A file that was removed meanwhile is not made anew: the store would be empty, without a word.
        let open: Box<Open> =
            Box::new(move |builder, again| if again { builder.open(&file) } else { builder.create(&file) });
        let embedded = Embedded::start(name.clone(), open)?;
        // Windows has no such thing as a folder that is synced.
        if new && cfg!(unix) {
            // Or else a loss of power could lose the file's name.
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(parent)
                .and_then(|folder| folder.sync_all())
                .map_err(|e| refusal(&name, "its folder cannot be synced", Some(e.to_string())))?;
        }
        Ok(embedded)
    }

    fn start(name: String, open: Box<Open>) -> Result<Embedded> {
        let db = database(&name, &open, false)?;
        let shared = Arc::new(Shared { db: RwLock::new(Some(db)) });
        let (asks, queue) = mpsc::channel(ROOM / LEAST);
        let thread = std::thread::Builder::new().name("isopod-store".into());
        let writer = Writer {
            name: name.clone(),
            shared: Arc::clone(&shared),
            open,
            queue,
            clock: Clock::new(),
            broken: false,
            failed: None,
        };
        let thread = thread
            .spawn(move || writer.run())
            .map_err(|e| refusal(&name, "its thread cannot be started", Some(e.to_string())))?;
        let reads = Arc::new(Semaphore::new(READS));
        Ok(Embedded { shared, reads, room: Room::default(), writer: Some((asks, thread)) })
    }

    /// Reads the last commit on a thread that may wait for the disk.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error> + Send + 'static,
    ) -> io::Result<T> {
        let place = Arc::clone(&self.reads).acquire_owned().await.map_err(io::Error::other)?;
        let shared = Arc::clone(&self.shared);
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            let begun = match &*shared.db.read() {
                Some(db) => db.begin_read(),
                None => return Err(io::Error::other("the store is closed since it failed")),
            };
            let done = begun.map_err(redb::Error::from).and_then(|begun| read(&begun));
            done.map_err(io_error)
        });
        let done = done.await.map_err(io::Error::other)?;
        if let (Err(_), Some((asks, _))) = (&done, &self.writer) {
            // A writer with so much to do finds out by itself.
            let _ = asks.try_send(Ask::Look);
        }
        done
    }
}

impl Drop for Embedded {
    /// Waits for the writer, so that the file can be opened again.
    fn drop(&mut self) {
        if let Some((asks, thread)) = self.writer.take() {
            drop(asks);
            let _ = thread.join();
            drop(self.shared.db.write().take());
        }
    }
}

fn refusal(name: &str, why: &str, cause: Option<String>) -> Error {
    Error::new(ErrorKind::Store, format!("the store {name} cannot be opened: {why}")).because(cause)
}

/// The database of a file that is whole, and ours.
fn database(name: &str, open: &Open, again: bool) -> Result<Database> {
    let fail = |why: &str, cause: Option<String>| refusal(name, why, cause);
    let opened = catch_unwind(AssertUnwindSafe(|| {
        open(Database::builder().set_cache_size(CACHE).set_check_integrity_on_open(true), again)
    }));
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
        Some(FORMAT) => Ok(db),
        Some(_) => Err(fail("a newer isopod wrote it; use that one", None)),
        None => Err(fail("it is the database of another program; name another file", None)),
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

/// What the writer is asked for.
enum Ask {
    Write(Job),
    /// A read failed: whether the file must be opened again.
    Look,
}

/// A batch, and who waits for it.
struct Job {
    batch: Batch,
    place: Place,
    done: oneshot::Sender<Answer>,
}

impl Job {
    /// Whoever waits may go on where there is room again; nobody may be waiting any more.
    fn answer(self, answer: Answer) {
        drop((self.batch, self.place));
        let _ = self.done.send(answer);
    }
}

/// The room for batches that wait to be written.
struct Room {
    all: Arc<Semaphore>,
    /// What is left of each tenant's share. Of a tenant for whom nothing waits there need not be one.
    shares: Mutex<HashMap<Option<String>, Weak<Semaphore>>>,
}

/// What a batch takes of its tenant's share and of the whole room, until it is dropped.
type Place = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl Default for Room {
    fn default() -> Room {
        Room { all: Arc::new(Semaphore::new(ROOM)), shares: Mutex::default() }
    }
}

impl Room {
    /// Waits for a place, each tenant in a line of its own. A batch for several tenants takes the first one's.
    async fn place(&self, batch: &Batch) -> Result<Place, AcquireError> {
        // Larger ones come from no guest. Such a one waits until nothing else of its tenant does.
        let bytes = weight(batch).min(SHARE) as u32;
        let share = self.share(batch.steps().first().and_then(|step| step.space.tenant()));
        let share = share.acquire_many_owned(bytes).await?;
        Ok((share, Arc::clone(&self.all).acquire_many_owned(bytes).await?))
    }

    fn share(&self, tenant: Option<&str>) -> Arc<Semaphore> {
        let tenant = tenant.map(str::to_owned);
        let mut shares = self.shares.lock();
        if let Some(share) = shares.get(&tenant).and_then(Weak::upgrade) {
            return share;
        }
        if shares.len() == shares.capacity() {
            shares.retain(|_, share| share.strong_count() > 0);
        }
        let share = Arc::new(Semaphore::new(SHARE));
        shares.insert(tenant, Arc::downgrade(&share));
        share
    }
}

/// Bytes that a batch takes in memory, about.
fn weight(batch: &Batch) -> usize {
    let step = |step: &Step| {
        let value = if let Op::Set(value) = &step.op { value.len() } else { 0 };
        size_of::<Step>() + step.key.len() + value
    };
    batch.steps().iter().map(step).sum::<usize>().max(LEAST)
}

/// The thread that writes, and that opens the file again when the database has failed.
struct Writer {
    name: String,
    shared: Arc<Shared>,
    open: Box<Open>,
    queue: mpsc::Receiver<Ask>,
    clock: Clock,
    /// The database is not to be used any more.
    broken: bool,
    /// There from a failure to the next commit.
    failed: Option<Failed>,
}

struct Failed {
    kind: io::ErrorKind,
    text: String,
    since: Nanos,
    wait: Duration,
}

impl Failed {
    fn error(&self) -> io::Error {
        io::Error::new(self.kind, self.text.clone())
    }
}

impl Writer {
    /// Until nobody can ask any more.
    fn run(mut self) {
        let mut group = Vec::new();
        while self.take(&mut group) {
            match self.write(&group) {
                Ok(answers) => group.drain(..).zip(answers).for_each(|(job, answer)| job.answer(answer)),
                Err(error) => group.drain(..).for_each(|job| {
                    let error = io::Error::new(error.kind(), error.to_string());
                    job.answer(Err(Refused::Failed(error)));
                }),
            }
            if self.broken {
                // Those who read need not wait until somebody writes.
                let _ = self.open_again();
            }
        }
    }

    /// Waits for something to do, and takes with it what has come in already, up to [`GROUP`].
    fn take(&mut self, group: &mut Vec<Job>) -> bool {
        let Some(mut ask) = self.queue.blocking_recv() else { return false };
        let mut bytes = 0;
        loop {
            match ask {
                // Whoever gave up before it began has it not written.
                Ask::Write(job) if !job.done.is_closed() => {
                    bytes += weight(&job.batch);
                    group.push(job);
                }
                Ask::Write(_) | Ask::Look => {}
            }
            if bytes >= GROUP {
                return true;
            }
            match self.queue.try_recv() {
                Ok(next) => ask = next,
                Err(_) => return true,
            }
        }
    }

    fn write(&mut self, group: &[Job]) -> io::Result<Vec<Answer>> {
        if let Some(failed) = &self.failed {
            if self.clock.now().since(failed.since) < failed.wait {
                return Err(failed.error());
            }
            if self.shared.db.read().is_none() {
                self.open_again()?;
            }
        }
        let done = catch_unwind(AssertUnwindSafe(|| match &*self.shared.db.read() {
            Some(db) if group.is_empty() => {
                db.begin_write()?.abort()?;
                Ok(Vec::new())
            }
            Some(db) => commit(db, group.iter().map(|job| &job.batch)),
            None => Err(redb::Error::DatabaseClosed),
        }));
        match done {
            Ok(Ok(answers)) => {
                if !group.is_empty() {
                    self.failed = None;
                }
                return Ok(answers);
            }
            // Only of values that no guest has room for; the database is as it was.
            Ok(Err(error @ redb::Error::ValueTooLarge(_))) => return Err(io_error(error)),
            Ok(Err(error)) => self.fail(&io_error(error)),
            Err(_) => self.fail(&io::Error::other("the database panicked")),
        }
        self.broken = true;
        Err(self.failed.as_ref().map_or(io::ErrorKind::Other.into(), Failed::error))
    }

    /// Opens the file again; no commit that was acknowledged is lost by that.
    fn open_again(&mut self) -> io::Result<()> {
        self.broken = false;
        let old = self.shared.db.write().take();
        // One that failed may do so when it ends, too. What is being read from it fails.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(old)));
        match database(&self.name, &self.open, true) {
            Ok(db) => {
                *self.shared.db.write() = Some(db);
                if let Some(failed) = &mut self.failed {
                    failed.since = self.clock.now();
                }
                tracing::info!(store = self.name, "the store is open again");
                Ok(())
            }
            Err(error) => {
                let chain = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
                let error = io::Error::other(chain.map(ToString::to_string).collect::<Vec<_>>().join(": "));
                self.fail(&error);
                Err(error)
            }
        }
    }

    fn fail(&mut self, error: &io::Error) {
        let wait = self.failed.as_ref().map(|failed| (failed.wait * 2).clamp(WAIT, LONGEST_WAIT));
        tracing::error!(store = self.name, %error, "the store failed");
        self.failed = Some(Failed {
            kind: error.kind(),
            text: error.to_string(),
            since: self.clock.now(),
            wait: wait.unwrap_or_default(),
        });
    }
}

fn io_error(error: redb::Error) -> io::Error {
    match error {
        redb::Error::Io(error) => error,
        error => io::Error::other(error),
    }
}

type Answer = Result<Committed, Refused>;

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
                |space, key| entry(&entries, &space.to_bytes(), key).map_err(|e| io_error(e.into())),
                |space| size(&sizes, &space.to_bytes()).map_err(|e| io_error(e.into())),
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
    entries: &impl ReadableTable<At, Stored>,
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
            let (asks, _) = self.writer.as_ref().ok_or_else(ended)?;
            let place = self.room.place(&batch).await.map_err(|_| ended())?;
            let (done, answer) = oneshot::channel();
            asks.send(Ask::Write(Job { batch, place, done })).await.map_err(|_| ended())?;
            answer.await.map_err(|_| ended())?
        })
    }
}

#[cfg(test)]
mod tests;
