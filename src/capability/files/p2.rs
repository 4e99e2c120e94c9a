//! `wasi:filesystem@0.2`: the host functions, and files as streams.

use super::fail::Code;
use super::node::{How, Listing, Node, Stat, short};
use super::{Access, MAX_CHUNK, Ours, generation, judge, run, told};
use crate::capability::Reach;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::p2::bindings::clocks::wall_clock::Datetime;
use wasmtime_wasi::p2::bindings::filesystem::{preopens, types};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, FsError, FsResult, InputStream, OutputStream, Pollable, StreamError, StreamResult,
};

pub(super) fn link<T: Reach>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    types::add_to_linker::<T, Ours>(linker, |state| state.view().files())?;
    preopens::add_to_linker::<T, Ours>(linker, |state| state.view().files())
}

generation!(types, types::DescriptorType::Unknown);

fn timestamp(time: SystemTime) -> Option<Datetime> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(Datetime { seconds: since.as_secs(), nanoseconds: since.subsec_nanos() })
}

fn system_time(at: Datetime) -> Option<SystemTime> {
    let since = Duration::from_secs(at.seconds).checked_add(Duration::from_nanos(at.nanoseconds.into()))?;
    SystemTime::UNIX_EPOCH.checked_add(since)
}

/// As the guest's handles name it.
type Descriptor = Resource<types::Descriptor>;

impl Access<'_> {
    /// What is behind a handle. The types of the bindings only name it: what lies in the table is a [`Node`].
    pub(super) fn node(&self, fd: &Descriptor) -> wasmtime::Result<Arc<Node>> {
        Ok(Arc::clone(self.table.get(&Resource::<Arc<Node>>::new_borrow(fd.rep()))?))
    }

    pub(super) fn push(&mut self, node: Node) -> wasmtime::Result<Descriptor> {
        let at = self.table.push(Arc::new(node))?;
        Ok(Resource::new_own(at.rep()))
    }

    pub(super) fn close(&mut self, fd: &Descriptor) -> wasmtime::Result<()> {
        self.table.delete(Resource::<Arc<Node>>::new_own(fd.rep()))?;
        Ok(())
    }

    pub(super) fn preopens(&mut self) -> wasmtime::Result<Vec<(Descriptor, String)>> {
        let roots = self.files.roots();
        roots.into_iter().map(|(node, path)| Ok((self.push(node)?, path))).collect()
    }

    fn found(&self, fd: &Descriptor) -> FsResult<Arc<Node>> {
        self.node(fd).map_err(FsError::trap)
    }

    async fn run<R: Send + 'static>(
        &mut self,
        fd: &Descriptor,
        asked: &'static str,
        work: impl FnOnce(&Node) -> super::Outcome<R> + Send + 'static,
    ) -> FsResult<R> {
        let node = self.found(fd)?;
        run(&node, asked, work).await.map_err(failed)
    }

    fn judge<const N: usize>(&self, fd: &Descriptor, asked: &'static str, paths: [&str; N]) -> FsResult<()> {
        judge(&*self.found(fd)?, asked, paths).map_err(failed)
    }
}

fn failed(code: Code) -> FsError {
    types::ErrorCode::from(code).into()
}

impl preopens::Host for Access<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Descriptor, String)>> {
        self.preopens()
    }
}

impl types::Host for Access<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<types::ErrorCode> {
        error.downcast()
    }

    fn filesystem_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<types::ErrorCode>> {
        Ok(self.table.get(&error)?.downcast_ref::<types::ErrorCode>().copied())
    }
}

impl types::HostDescriptor for Access<'_> {
    fn read_via_stream(&mut self, fd: Descriptor, offset: u64) -> FsResult<Resource<DynInputStream>> {
        let node = self.found(&fd)?;
        node.for_reading().map_err(|fail| failed(told(&node, "read-via-stream", fail)))?;
        let _place = node.stream().map_err(failed)?;
        let reader: DynInputStream = Box::new(Reader { node, offset, state: State::Idle, _place });
        Ok(self.table.push(reader)?)
    }

    fn write_via_stream(&mut self, fd: Descriptor, offset: u64) -> FsResult<Resource<DynOutputStream>> {
        self.writer(&fd, "write-via-stream", Some(offset))
    }

    fn append_via_stream(&mut self, fd: Descriptor) -> FsResult<Resource<DynOutputStream>> {
        self.writer(&fd, "append-via-stream", None)
    }

    /// Advice is not followed: it could make the host read far more than the guest does.
    async fn advise(&mut self, fd: Descriptor, _: u64, _: u64, _: types::Advice) -> FsResult<()> {
        if self.found(&fd)?.is_dir() { Err(failed(Code::BadDescriptor)) } else { Ok(()) }
    }

    async fn sync_data(&mut self, fd: Descriptor) -> FsResult<()> {
        self.run(&fd, "sync-data", |node| node.sync(true)).await
    }

    async fn get_flags(&mut self, fd: Descriptor) -> FsResult<types::DescriptorFlags> {
        Ok(flags(&*self.found(&fd)?))
    }

    async fn get_type(&mut self, fd: Descriptor) -> FsResult<types::DescriptorType> {
        let is_dir = self.found(&fd)?.is_dir();
        Ok(if is_dir { types::DescriptorType::Directory } else { types::DescriptorType::RegularFile })
    }

    async fn set_size(&mut self, fd: Descriptor, size: u64) -> FsResult<()> {
        self.run(&fd, "set-size", move |node| node.set_size(size)).await
    }

    async fn set_times(
        &mut self,
        fd: Descriptor,
        accessed: types::NewTimestamp,
        modified: types::NewTimestamp,
    ) -> FsResult<()> {
        let (accessed, modified) = (time(accessed).map_err(failed)?, time(modified).map_err(failed)?);
        self.run(&fd, "set-times", move |node| node.set_times(accessed, modified)).await
    }

    async fn read(&mut self, fd: Descriptor, len: u64, offset: u64) -> FsResult<(Vec<u8>, bool)> {
        let max = usize::try_from(len).unwrap_or(MAX_CHUNK).min(MAX_CHUNK);
        let bytes = self.run(&fd, "read", move |node| node.read(offset, max)).await?;
        let end = bytes.is_empty() && max > 0;
        Ok((bytes, end))
    }

    async fn write(&mut self, fd: Descriptor, bytes: Vec<u8>, offset: u64) -> FsResult<u64> {
        let len = bytes.len() as u64;
        self.run(&fd, "write", move |node| node.write(&bytes, Some(offset))).await?;
        Ok(len)
    }

    async fn read_directory(&mut self, fd: Descriptor) -> FsResult<Resource<types::DirectoryEntryStream>> {
        let listing = self.run(&fd, "read-directory", Node::list).await?;
        let entries = Entries { node: self.found(&fd)?, listing: Some(listing), batch: VecDeque::new() };
        let at = self.table.push(entries)?;
        Ok(Resource::new_own(at.rep()))
    }

    async fn sync(&mut self, fd: Descriptor) -> FsResult<()> {
        self.run(&fd, "sync", |node| node.sync(false)).await
    }

    async fn create_directory_at(&mut self, fd: Descriptor, path: String) -> FsResult<()> {
        self.judge(&fd, "create-directory-at", [&path])?;
        self.run(&fd, "create-directory-at", move |node| node.create_dir(&path)).await
    }

    async fn stat(&mut self, fd: Descriptor) -> FsResult<types::DescriptorStat> {
        self.run(&fd, "stat", Node::stat).await.map(|found| stat(&found))
    }

    async fn stat_at(&mut self, fd: Descriptor, at: types::PathFlags, path: String) -> FsResult<types::DescriptorStat> {
        self.judge(&fd, "stat-at", [&path])?;
        self.run(&fd, "stat-at", move |node| node.stat_at(&path, follow(at))).await.map(|found| stat(&found))
    }

    async fn set_times_at(
        &mut self,
        fd: Descriptor,
        at: types::PathFlags,
        path: String,
        accessed: types::NewTimestamp,
        modified: types::NewTimestamp,
    ) -> FsResult<()> {
        self.judge(&fd, "set-times-at", [&path])?;
        let (accessed, modified) = (time(accessed).map_err(failed)?, time(modified).map_err(failed)?);
        let work = move |node: &Node| node.set_times_at(&path, follow(at), accessed, modified);
        self.run(&fd, "set-times-at", work).await
    }

    async fn link_at(
        &mut self,
        fd: Descriptor,
        at: types::PathFlags,
        old: String,
        to: Descriptor,
        new: String,
    ) -> FsResult<()> {
        self.judge(&fd, "link-at", [&old, &new])?;
        let to = self.found(&to)?;
        self.run(&fd, "link-at", move |node| node.link(&old, follow(at), &to, &new)).await
    }

    async fn open_at(
        &mut self,
        fd: Descriptor,
        at: types::PathFlags,
        path: String,
        open: types::OpenFlags,
        flags: types::DescriptorFlags,
    ) -> FsResult<Descriptor> {
        self.judge(&fd, "open-at", [&path])?;
        let how = how(at, open, flags);
        let node = self.run(&fd, "open-at", move |node| node.open(&path, how)).await?;
        self.push(node).map_err(FsError::trap)
    }

    async fn readlink_at(&mut self, fd: Descriptor, path: String) -> FsResult<String> {
        self.judge(&fd, "readlink-at", [&path])?;
        self.run(&fd, "readlink-at", move |node| node.read_link(&path)).await
    }

    async fn remove_directory_at(&mut self, fd: Descriptor, path: String) -> FsResult<()> {
        self.judge(&fd, "remove-directory-at", [&path])?;
        self.run(&fd, "remove-directory-at", move |node| node.remove_dir(&path)).await
    }

    async fn rename_at(&mut self, fd: Descriptor, old: String, to: Descriptor, new: String) -> FsResult<()> {
        self.judge(&fd, "rename-at", [&old, &new])?;
        let to = self.found(&to)?;
        self.run(&fd, "rename-at", move |node| node.rename(&old, &to, &new)).await
    }

    async fn symlink_at(&mut self, fd: Descriptor, target: String, path: String) -> FsResult<()> {
        self.judge(&fd, "symlink-at", [&path])?;
        short(&target).map_err(failed)?;
        self.run(&fd, "symlink-at", move |node| node.symlink(&target, &path)).await
    }

    async fn unlink_file_at(&mut self, fd: Descriptor, path: String) -> FsResult<()> {
        self.judge(&fd, "unlink-file-at", [&path])?;
        self.run(&fd, "unlink-file-at", move |node| node.unlink(&path)).await
    }

    async fn is_same_object(&mut self, fd: Descriptor, other: Descriptor) -> wasmtime::Result<bool> {
        let (node, other) = (self.node(&fd)?, self.node(&other)?);
        let same = run(&node, "is-same-object", move |node| Ok(node.stat()?.inode == other.stat()?.inode)).await;
        Ok(same.unwrap_or(false))
    }

    async fn metadata_hash(&mut self, fd: Descriptor) -> FsResult<types::MetadataHashValue> {
        self.run(&fd, "metadata-hash", Node::stat).await.map(|found| hash(&found))
    }

    async fn metadata_hash_at(
        &mut self,
        fd: Descriptor,
        at: types::PathFlags,
        path: String,
    ) -> FsResult<types::MetadataHashValue> {
        self.judge(&fd, "metadata-hash-at", [&path])?;
        self.run(&fd, "metadata-hash-at", move |node| node.stat_at(&path, follow(at))).await.map(|found| hash(&found))
    }

    fn drop(&mut self, fd: Descriptor) -> wasmtime::Result<()> {
        self.close(&fd)
    }
}

impl Access<'_> {
    fn writer(
        &mut self,
        fd: &Descriptor,
        asked: &'static str,
        offset: Option<u64>,
    ) -> FsResult<Resource<DynOutputStream>> {
        let node = self.found(fd)?;
        node.for_writing().map_err(|fail| failed(told(&node, asked, fail)))?;
        let _place = node.stream().map_err(failed)?;
        let writer: DynOutputStream = Box::new(Writer { node, asked, offset, state: State::Idle, _place });
        Ok(self.table.push(writer)?)
    }
}

/// A directory that a guest is listing.
struct Entries {
    node: Arc<Node>,
    /// There unless it is being read, or ended, or failed.
    listing: Option<Listing>,
    batch: VecDeque<types::DirectoryEntry>,
}

impl types::HostDirectoryEntryStream for Access<'_> {
    async fn read_directory_entry(
        &mut self,
        stream: Resource<types::DirectoryEntryStream>,
    ) -> FsResult<Option<types::DirectoryEntry>> {
        let entries = self.table.get_mut(&Resource::<Entries>::new_borrow(stream.rep()))?;
        if entries.batch.is_empty()
            && let Some(mut listing) = entries.listing.take()
        {
            let next = run(&entries.node, "read-directory-entry", move |_| Ok((listing.next()?, listing))).await;
            let (batch, listing) = next.map_err(failed)?;
            entries.listing = (!batch.is_empty()).then_some(listing);
            entries.batch.extend(batch.into_iter().map(|(of, name)| types::DirectoryEntry { type_: kind(of), name }));
        }
        Ok(entries.batch.pop_front())
    }

    fn drop(&mut self, stream: Resource<types::DirectoryEntryStream>) -> wasmtime::Result<()> {
        self.table.delete(Resource::<Entries>::new_own(stream.rep()))?;
        Ok(())
    }
}

/// What a stream is at.
enum State<T> {
    Idle,
    Busy(Task<T>),
    Ready(T),
    Failed(Code),
    Closed,
}

/// Work that goes on while the guest does something else, until it is dropped.
struct Task<T>(JoinHandle<Result<T, Code>>);

impl<T: Send + 'static> Task<T> {
    fn start(work: impl Future<Output = Result<T, Code>> + Send + 'static) -> Task<T> {
        Task(tokio::spawn(work))
    }

    async fn end(&mut self) -> State<T> {
        match (&mut self.0).await {
            Ok(Ok(value)) => State::Ready(value),
            Ok(Err(code)) => State::Failed(code),
            Err(_) => State::Failed(Code::Io),
        }
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T: Send + 'static> State<T> {
    async fn settle(&mut self) {
        if let State::Busy(task) = self {
            *self = task.end().await;
        }
    }

    /// The error that it is at, once; then it is closed.
    fn error(&mut self) -> StreamError {
        match std::mem::replace(self, State::Closed) {
            State::Failed(code) => StreamError::LastOperationFailed(types::ErrorCode::from(code).into()),
            _ => StreamError::Closed,
        }
    }
}

/// A file that is read from some place on.
struct Reader {
    node: Arc<Node>,
    offset: u64,
    state: State<Bytes>,
    _place: OwnedSemaphorePermit,
}

impl Reader {
    fn start(&mut self, max: usize) {
        let (node, offset) = (Arc::clone(&self.node), self.offset);
        self.state = State::Busy(Task::start(async move {
            run(&node, "read", move |node| Ok(node.read(offset, max.min(MAX_CHUNK))?.into())).await
        }));
    }
}

#[wasmtime_wasi::async_trait]
impl InputStream for Reader {
    fn read(&mut self, max: usize) -> StreamResult<Bytes> {
        match &mut self.state {
            State::Idle if max > 0 => {
                self.start(max);
                Ok(Bytes::new())
            }
            State::Idle | State::Busy(_) => Ok(Bytes::new()),
            State::Ready(bytes) if bytes.is_empty() => {
                self.state = State::Closed;
                Err(StreamError::Closed)
            }
            State::Ready(bytes) => {
                let chunk = bytes.split_to(max.min(bytes.len()));
                if bytes.is_empty() {
                    self.state = State::Idle;
                }
                self.offset += chunk.len() as u64;
                Ok(chunk)
            }
            State::Failed(_) | State::Closed => Err(self.state.error()),
        }
    }

    /// Without a task in between.
    async fn blocking_read(&mut self, max: usize) -> StreamResult<Bytes> {
        self.state.settle().await;
        if matches!(self.state, State::Idle) && max > 0 {
            let offset = self.offset;
            let read = run(&self.node, "read", move |node| node.read(offset, max.min(MAX_CHUNK))).await;
            self.state = read.map_or_else(State::Failed, |bytes| State::Ready(bytes.into()));
        }
        self.read(max)
    }
}

/// Bytes that are read for a guest that waits before it says how many it wants.
const READ_AHEAD: usize = 4096;

#[wasmtime_wasi::async_trait]
impl Pollable for Reader {
    async fn ready(&mut self) {
        if matches!(self.state, State::Idle) {
            self.start(READ_AHEAD);
        }
        self.state.settle().await;
    }
}

/// A file that is written from some place on, or at its end.
struct Writer {
    node: Arc<Node>,
    asked: &'static str,
    offset: Option<u64>,
    state: State<()>,
    _place: OwnedSemaphorePermit,
}

impl Writer {
    /// Writes, and goes on behind it: what fails is the last.
    fn work(&mut self, bytes: Bytes) -> impl Future<Output = Result<(), Code>> + Send + use<> {
        let (node, asked, offset) = (Arc::clone(&self.node), self.asked, self.offset);
        self.offset = offset.map(|offset| offset.saturating_add(bytes.len() as u64));
        async move { run(&node, asked, move |node| node.write(&bytes, offset)).await }
    }

    async fn settle(&mut self) {
        self.state.settle().await;
        if matches!(self.state, State::Ready(())) {
            self.state = State::Idle;
        }
    }
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Writer {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        match self.state {
            // What it keeps meanwhile is bounded, whatever the guest hands over.
            State::Idle if bytes.len() <= MAX_CHUNK => {
                self.state = State::Busy(Task::start(self.work(bytes)));
                Ok(())
            }
            State::Closed => Err(StreamError::Closed),
            _ => Err(StreamError::trap("more was written to a stream than `check-write` allowed")),
        }
    }

    fn flush(&mut self) -> StreamResult<()> {
        match self.state {
            State::Failed(_) | State::Closed => Err(self.state.error()),
            _ => Ok(()),
        }
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        match self.state {
            State::Idle => Ok(MAX_CHUNK),
            State::Busy(_) | State::Ready(()) => Ok(0),
            State::Failed(_) | State::Closed => Err(self.state.error()),
        }
    }

    /// Without a task in between.
    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.settle().await;
        if !matches!(self.state, State::Idle) {
            return Err(self.state.error());
        }
        if let Err(code) = self.work(bytes).await {
            self.state = State::Failed(code);
            return Err(self.state.error());
        }
        Ok(())
    }

    /// The guest drops the stream: what it wrote before is written.
    async fn cancel(&mut self) {
        self.settle().await;
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Writer {
    async fn ready(&mut self) {
        self.settle().await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Files;
    use super::super::tree::tests::{QUOTA, place, tree};
    use super::types::HostDescriptor;
    use super::*;
    use wasmtime::component::ResourceTable;

    /// Each holds some memory of the host's, for as long as the guest likes.
    #[tokio::test]
    async fn streams_are_few_and_small() {
        let path = place("streams");
        let root = tree(&path, QUOTA);
        let (mut files, mut table) = (Files::default(), ResourceTable::new());
        let mut access = Access::new(&mut files, &mut table);
        let how = How { create: true, read: true, write: true, ..How::default() };
        let fd = access.push(root.open("a", how).unwrap()).unwrap();
        let fd = || Resource::new_borrow(fd.rep());
        let mut writers = Vec::new();
        for _ in 0..5 {
            writers.push(access.write_via_stream(fd(), 0).unwrap());
            writers.push(access.append_via_stream(fd()).unwrap());
            access.read_via_stream(fd(), 0).unwrap();
        }
        let full = |error: FsError| matches!(error.downcast(), Ok(types::ErrorCode::InsufficientMemory));
        assert!(access.read_via_stream(fd(), 0).is_err_and(full));
        assert!(access.write_via_stream(fd(), 0).is_err_and(full));
        let mut writer = access.table.delete(writers.pop().unwrap()).unwrap();
        assert_eq!(writer.check_write().unwrap(), MAX_CHUNK);
        let written = writer.write(vec![0; MAX_CHUNK + 1].into());
        assert!(matches!(written, Err(StreamError::Trap(_))), "{written:?}");
        writer.write(vec![0; QUOTA.bytes as usize].into()).unwrap();
        writer.ready().await;
        drop(writer);
        access.read_via_stream(fd(), 0).unwrap();
        assert_eq!(std::fs::read(path.join("a")).unwrap().len() as u64, QUOTA.bytes);
        std::fs::remove_dir_all(path).unwrap();
    }

    /// Without waiting for its turn, and so before it is kept for as long as that takes.
    #[tokio::test]
    async fn paths_that_are_none_are_refused_at_once() {
        use futures_util::FutureExt;
        let path = place("paths");
        let root = tree(&path, QUOTA);
        let _jobs = Arc::clone(&root.desk.jobs).acquire_many_owned(4).await.unwrap();
        let (mut files, mut table) = (Files::default(), ResourceTable::new());
        let mut access = Access::new(&mut files, &mut table);
        let fd = access.table.push(root).unwrap().rep();
        let fd = || Resource::new_borrow(fd);
        let (long, short) = (|| "n".repeat(1 << 20), || "n".to_owned());
        let none = types::PathFlags::empty;
        let ended = |result: Option<FsResult<()>>| match result.map(|result| result.unwrap_err().downcast()) {
            Some(Ok(code)) => matches!(code, types::ErrorCode::NameTooLong),
            _ => false,
        };
        assert!(ended(access.create_directory_at(fd(), long()).now_or_never()));
        assert!(ended(access.unlink_file_at(fd(), long()).now_or_never()));
        assert!(ended(access.symlink_at(fd(), long(), short()).now_or_never()));
        assert!(ended(access.symlink_at(fd(), short(), long()).now_or_never()));
        assert!(ended(access.rename_at(fd(), long(), fd(), short()).now_or_never()));
        assert!(ended(access.rename_at(fd(), short(), fd(), long()).now_or_never()));
        assert!(ended(access.link_at(fd(), none(), short(), fd(), long()).now_or_never()));
        assert!(access.create_directory_at(fd(), short()).now_or_never().is_none());
        std::fs::remove_dir_all(path).unwrap();
    }
}
