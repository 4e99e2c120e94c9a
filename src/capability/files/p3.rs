//! `wasi:filesystem@0.3`: the host functions, and files and directories as streams.

use super::fail::{Code, Outcome};
use super::node::{How, Listing, Node, Stat, short};
use super::{Access, MAX_CHUNK, Ours, generation, judge, run, told};
use crate::capability::Reach;
use bytes::BytesMut;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use wasmtime::StoreContextMut;
use wasmtime::component::{
    Access as Stored, Accessor, Destination, FutureReader, Linker, Resource, Source, StreamConsumer, StreamProducer,
    StreamReader, StreamResult, VecBuffer,
};
use wasmtime_wasi::p3::bindings::clocks::system_clock::Instant;
use wasmtime_wasi::p3::bindings::filesystem::types::{
    Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, ErrorCode, MetadataHashValue,
    NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p3::bindings::filesystem::{preopens, types};
use wasmtime_wasi::p3::filesystem::{FilesystemError, FilesystemResult};

pub(super) fn link<T: Reach>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    types::add_to_linker::<T, Ours>(linker, |state| state.view().files())?;
    preopens::add_to_linker::<T, Ours>(linker, |state| state.view().files())
}

generation!(types, types::DescriptorType::Other(None));

fn timestamp(time: SystemTime) -> Option<Instant> {
    let (seconds, nanoseconds) = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => (i64::try_from(since.as_secs()).ok()?, since.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).ok()?.checked_neg()?;
            match before.subsec_nanos() {
                0 => (seconds, 0),
                nanos => (seconds.checked_sub(1)?, 1_000_000_000 - nanos),
            }
        }
    };
    Some(Instant { seconds, nanoseconds })
}

fn system_time(at: Instant) -> Option<SystemTime> {
    let seconds = Duration::from_secs(at.seconds.unsigned_abs());
    let whole = if at.seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)?
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)?
    };
    whole.checked_add(Duration::from_nanos(at.nanoseconds.into()))
}

type Descriptor = Resource<types::Descriptor>;
/// How a stream ended.
type End = FutureReader<Result<(), ErrorCode>>;

fn find<U>(store: &Accessor<U, Ours>, fd: &Descriptor) -> FilesystemResult<Arc<Node>> {
    store.with(|mut store| store.get().node(fd)).map_err(FilesystemError::trap)
}

fn failed(code: Code) -> FilesystemError {
    ErrorCode::from(code).into()
}

async fn on<U, R: Send + 'static>(
    store: &Accessor<U, Ours>,
    fd: &Descriptor,
    asked: &'static str,
    work: impl FnOnce(&Node) -> Outcome<R> + Send + 'static,
) -> FilesystemResult<R> {
    let node = find(store, fd)?;
    run(&node, asked, work).await.map_err(failed)
}

fn judged<U, const N: usize>(
    store: &Accessor<U, Ours>,
    fd: &Descriptor,
    asked: &'static str,
    paths: [&str; N],
) -> FilesystemResult<()> {
    judge(&*find(store, fd)?, asked, paths).map_err(failed)
}

impl preopens::Host for Access<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Descriptor, String)>> {
        self.preopens()
    }
}

impl types::Host for Access<'_> {
    fn convert_error_code(&mut self, error: FilesystemError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }
}

impl types::HostDescriptor for Access<'_> {
    fn drop(&mut self, fd: Descriptor) -> wasmtime::Result<()> {
        self.close(&fd)
    }
}

impl<U> types::HostDescriptorWithStore<U> for Ours {
    fn read_via_stream(
        mut store: Stored<U, Self>,
        fd: Descriptor,
        offset: u64,
    ) -> wasmtime::Result<(StreamReader<u8>, End)> {
        let node = store.get().node(&fd)?;
        let (told_end, end) = oneshot::channel();
        let place = node.for_reading().map_err(|fail| told(&node, "read-via-stream", fail)).and_then(|_| node.stream());
        let ending = Ending(Some(told_end));
        let stream = match place {
            Ok(_place) => StreamReader::new(&mut store, Reader { node, offset, work: None, end: ending, _place })?,
            Err(code) => ended(&mut store, ending, code)?,
        };
        Ok((stream, FutureReader::new(&mut store, end)?))
    }

    fn write_via_stream(
        store: Stored<U, Self>,
        fd: Descriptor,
        data: StreamReader<u8>,
        offset: u64,
    ) -> wasmtime::Result<End> {
        write(store, &fd, data, "write-via-stream", Some(offset))
    }

    fn append_via_stream(store: Stored<U, Self>, fd: Descriptor, data: StreamReader<u8>) -> wasmtime::Result<End> {
        write(store, &fd, data, "append-via-stream", None)
    }

    /// Advice is not followed: it could make the host read far more than the guest does.
    async fn advise(store: &Accessor<U, Self>, fd: Descriptor, _: u64, _: u64, _: Advice) -> FilesystemResult<()> {
        if find(store, &fd)?.is_dir() { Err(failed(Code::BadDescriptor)) } else { Ok(()) }
    }

    async fn sync_data(store: &Accessor<U, Self>, fd: Descriptor) -> FilesystemResult<()> {
        on(store, &fd, "sync-data", |node| node.sync(true)).await
    }

    async fn get_flags(store: &Accessor<U, Self>, fd: Descriptor) -> FilesystemResult<DescriptorFlags> {
        Ok(flags(&*find(store, &fd)?))
    }

    async fn get_type(store: &Accessor<U, Self>, fd: Descriptor) -> FilesystemResult<DescriptorType> {
        let is_dir = find(store, &fd)?.is_dir();
        Ok(if is_dir { DescriptorType::Directory } else { DescriptorType::RegularFile })
    }

    async fn set_size(store: &Accessor<U, Self>, fd: Descriptor, size: u64) -> FilesystemResult<()> {
        on(store, &fd, "set-size", move |node| node.set_size(size)).await
    }

    async fn set_times(
        store: &Accessor<U, Self>,
        fd: Descriptor,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FilesystemResult<()> {
        let (accessed, modified) = (time(accessed).map_err(failed)?, time(modified).map_err(failed)?);
        on(store, &fd, "set-times", move |node| node.set_times(accessed, modified)).await
    }

    fn read_directory(
        mut store: Stored<U, Self>,
        fd: Descriptor,
    ) -> wasmtime::Result<(StreamReader<DirectoryEntry>, End)> {
        let node = store.get().node(&fd)?;
        let (told_end, end) = oneshot::channel();
        let ending = Ending(Some(told_end));
        let stream = match node.is_dir() {
            true => StreamReader::new(&mut store, Lister { node, listing: None, work: None, end: ending })?,
            false => ended(&mut store, ending, Code::NotDirectory)?,
        };
        Ok((stream, FutureReader::new(&mut store, end)?))
    }

    async fn sync(store: &Accessor<U, Self>, fd: Descriptor) -> FilesystemResult<()> {
        on(store, &fd, "sync", |node| node.sync(false)).await
    }

    async fn create_directory_at(store: &Accessor<U, Self>, fd: Descriptor, path: String) -> FilesystemResult<()> {
        judged(store, &fd, "create-directory-at", [&path])?;
        on(store, &fd, "create-directory-at", move |node| node.create_dir(&path)).await
    }

    async fn stat(store: &Accessor<U, Self>, fd: Descriptor) -> FilesystemResult<DescriptorStat> {
        on(store, &fd, "stat", Node::stat).await.map(|found| stat(&found))
    }

    async fn stat_at(
        store: &Accessor<U, Self>,
        fd: Descriptor,
        at: PathFlags,
        path: String,
    ) -> FilesystemResult<DescriptorStat> {
        judged(store, &fd, "stat-at", [&path])?;
        on(store, &fd, "stat-at", move |node| node.stat_at(&path, follow(at))).await.map(|found| stat(&found))
    }

    async fn set_times_at(
        store: &Accessor<U, Self>,
        fd: Descriptor,
        at: PathFlags,
        path: String,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FilesystemResult<()> {
        judged(store, &fd, "set-times-at", [&path])?;
        let (accessed, modified) = (time(accessed).map_err(failed)?, time(modified).map_err(failed)?);
        let work = move |node: &Node| node.set_times_at(&path, follow(at), accessed, modified);
        on(store, &fd, "set-times-at", work).await
    }

    async fn link_at(
        store: &Accessor<U, Self>,
        fd: Descriptor,
        at: PathFlags,
        old: String,
        to: Descriptor,
        new: String,
    ) -> FilesystemResult<()> {
        judged(store, &fd, "link-at", [&old, &new])?;
        let to = find(store, &to)?;
        on(store, &fd, "link-at", move |node| node.link(&old, follow(at), &to, &new)).await
    }

    async fn open_at(
        store: &Accessor<U, Self>,
        fd: Descriptor,
        at: PathFlags,
        path: String,
        open: OpenFlags,
        flags: DescriptorFlags,
    ) -> FilesystemResult<Descriptor> {
        judged(store, &fd, "open-at", [&path])?;
        let how = how(at, open, flags);
        let node = on(store, &fd, "open-at", move |node| node.open(&path, how)).await?;
        store.with(|mut store| store.get().push(node)).map_err(FilesystemError::trap)
    }

    async fn readlink_at(store: &Accessor<U, Self>, fd: Descriptor, path: String) -> FilesystemResult<String> {
        judged(store, &fd, "readlink-at", [&path])?;
        on(store, &fd, "readlink-at", move |node| node.read_link(&path)).await
    }

    async fn remove_directory_at(store: &Accessor<U, Self>, fd: Descriptor, path: String) -> FilesystemResult<()> {
        judged(store, &fd, "remove-directory-at", [&path])?;
        on(store, &fd, "remove-directory-at", move |node| node.remove_dir(&path)).await
    }

    async fn rename_at(
        store: &Accessor<U, Self>,
        fd: Descriptor,
        old: String,
        to: Descriptor,
        new: String,
    ) -> FilesystemResult<()> {
        judged(store, &fd, "rename-at", [&old, &new])?;
        let to = find(store, &to)?;
        on(store, &fd, "rename-at", move |node| node.rename(&old, &to, &new)).await
    }

    async fn symlink_at(
        store: &Accessor<U, Self>,
        fd: Descriptor,
        target: String,
        path: String,
    ) -> FilesystemResult<()> {
        judged(store, &fd, "symlink-at", [&path])?;
        short(&target).map_err(failed)?;
        on(store, &fd, "symlink-at", move |node| node.symlink(&target, &path)).await
    }

    async fn unlink_file_at(store: &Accessor<U, Self>, fd: Descriptor, path: String) -> FilesystemResult<()> {
        judged(store, &fd, "unlink-file-at", [&path])?;
        on(store, &fd, "unlink-file-at", move |node| node.unlink(&path)).await
    }

    async fn is_same_object(store: &Accessor<U, Self>, fd: Descriptor, other: Descriptor) -> wasmtime::Result<bool> {
        let other = store.with(|mut store| store.get().node(&other))?;
        let node = store.with(|mut store| store.get().node(&fd))?;
        let same = run(&node, "is-same-object", move |node| Ok(node.stat()?.inode == other.stat()?.inode)).await;
        Ok(same.unwrap_or(false))
    }

    async fn metadata_hash(store: &Accessor<U, Self>, fd: Descriptor) -> FilesystemResult<MetadataHashValue> {
        on(store, &fd, "metadata-hash", Node::stat).await.map(|found| hash(&found))
    }

    async fn metadata_hash_at(
        store: &Accessor<U, Self>,
        fd: Descriptor,
        at: PathFlags,
        path: String,
    ) -> FilesystemResult<MetadataHashValue> {
        judged(store, &fd, "metadata-hash-at", [&path])?;
        let work = move |node: &Node| node.stat_at(&path, follow(at));
        on(store, &fd, "metadata-hash-at", work).await.map(|found| hash(&found))
    }
}

/// A stream that was refused: it is at its end.
fn ended<U, I>(store: &mut Stored<U, Ours>, mut ending: Ending, code: Code) -> wasmtime::Result<StreamReader<I>>
where
    I: wasmtime::component::Lower + wasmtime::component::Lift + Send + Sync + Unpin + 'static,
{
    ending.tell(Err(code));
    StreamReader::new(store, Vec::new())
}

fn write<U>(
    mut store: Stored<U, Ours>,
    fd: &Descriptor,
    mut data: StreamReader<u8>,
    asked: &'static str,
    offset: Option<u64>,
) -> wasmtime::Result<End> {
    let node = store.get().node(fd)?;
    let (told_end, end) = oneshot::channel();
    let mut ending = Ending(Some(told_end));
    match node.for_writing().map_err(|fail| told(&node, asked, fail)).and_then(|_| node.stream()) {
        Ok(_place) => data.pipe(&mut store, Writer { node, asked, offset, work: None, end: ending, _place })?,
        Err(code) => {
            data.close(&mut store)?;
            ending.tell(Err(code));
        }
    }
    FutureReader::new(&mut store, end)
}

/// Who waits for the end of a stream. Told by whoever drops it that all went well.
struct Ending(Option<oneshot::Sender<Result<(), ErrorCode>>>);

impl Ending {
    fn tell(&mut self, how: Result<(), Code>) {
        if let Some(end) = self.0.take() {
            // The guest may not have waited for it.
            let _ = end.send(how.map_err(ErrorCode::from));
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.tell(Ok(()));
    }
}

type Work<T> = Pin<Box<dyn Future<Output = Result<T, Code>> + Send>>;

/// A file that is read from some place on.
struct Reader {
    node: Arc<Node>,
    offset: u64,
    work: Option<Work<Vec<u8>>>,
    end: Ending,
    _place: OwnedSemaphorePermit,
}

impl<D> StreamProducer<D> for Reader {
    type Item = u8;
    type Buffer = BytesMut;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, D>,
        mut to: Destination<'a, u8, BytesMut>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let Reader { node, offset, work, end, .. } = &mut *self;
        let wanted = to.remaining(&mut store).unwrap_or(MAX_CHUNK);
        if wanted == 0 {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        let reading = work.get_or_insert_with(|| {
            let (node, offset, max) = (Arc::clone(node), *offset, wanted.min(MAX_CHUNK));
            Box::pin(async move { run(&node, "read", move |node| node.read(offset, max)).await })
        });
        let read = match reading.as_mut().poll(cx) {
            Poll::Ready(read) => read,
            // Reading it again does no harm.
            Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => return Poll::Pending,
        };
        *work = None;
        Poll::Ready(Ok(match read {
            Ok(bytes) if bytes.is_empty() => {
                end.tell(Ok(()));
                StreamResult::Dropped
            }
            Ok(bytes) => {
                *offset = offset.saturating_add(bytes.len() as u64);
                to.set_buffer(BytesMut::from(&bytes[..]));
                StreamResult::Completed
            }
            Err(code) => {
                end.tell(Err(code));
                StreamResult::Dropped
            }
        }))
    }
}

/// A file that is written from some place on, or at its end.
struct Writer {
    node: Arc<Node>,
    asked: &'static str,
    offset: Option<u64>,
    work: Option<Work<usize>>,
    end: Ending,
    _place: OwnedSemaphorePermit,
}

impl<D> StreamConsumer<D> for Writer {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<D>,
        from: Source<'_, u8>,
        _: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let Writer { node, asked, offset, work, end, .. } = &mut *self;
        let mut from = from.as_direct(store);
        let writing = work.get_or_insert_with(|| {
            let (node, asked, offset) = (Arc::clone(node), *asked, *offset);
            let bytes = from.remaining();
            let bytes = bytes[..bytes.len().min(MAX_CHUNK)].to_vec();
            Box::pin(
                async move { run(&node, asked, move |node| node.write(&bytes, offset).map(|()| bytes.len())).await },
            )
        });
        // What has begun is waited for, even where the guest gave up, so that it learns how much was written.
        let written = ready!(writing.as_mut().poll(cx));
        *work = None;
        Poll::Ready(Ok(match written {
            Ok(len) => {
                from.mark_read(len);
                *offset = offset.map(|offset| offset.saturating_add(len as u64));
                StreamResult::Completed
            }
            Err(code) => {
                end.tell(Err(code));
                StreamResult::Dropped
            }
        }))
    }
}

/// A directory that is listed.
struct Lister {
    node: Arc<Node>,
    listing: Option<Listing>,
    work: Option<Work<(Vec<DirectoryEntry>, Listing)>>,
    end: Ending,
}

impl<D> StreamProducer<D> for Lister {
    type Item = DirectoryEntry;
    type Buffer = VecBuffer<DirectoryEntry>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, D>,
        mut to: Destination<'a, DirectoryEntry, VecBuffer<DirectoryEntry>>,
        _: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let Lister { node, listing, work, end } = &mut *self;
        if to.remaining(&mut store) == Some(0) {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        let reading = work.get_or_insert_with(|| {
            let (node, listing) = (Arc::clone(node), listing.take());
            Box::pin(async move {
                run(&node, "read-directory", move |node| {
                    let mut listing = listing.map_or_else(|| node.list(), Ok)?;
                    let batch = listing.next()?.into_iter();
                    Ok((batch.map(|(of, name)| DirectoryEntry { type_: kind(of), name }).collect(), listing))
                })
                .await
            })
        });
        // Some entries are read at most, and none is lost, so this is waited for where the guest gave up.
        let read: Result<(Vec<DirectoryEntry>, Listing), Code> = ready!(reading.as_mut().poll(cx));
        *work = None;
        Poll::Ready(Ok(match read {
            Ok((batch, _)) if batch.is_empty() => {
                end.tell(Ok(()));
                StreamResult::Dropped
            }
            Ok((batch, rest)) => {
                *listing = Some(rest);
                to.set_buffer(batch.into());
                StreamResult::Completed
            }
            Err(code) => {
                end.tell(Err(code));
                StreamResult::Dropped
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_and_after_1970_come_back_as_they_were() {
        for (seconds, nanoseconds) in [(0, 0), (1, 5), (-1, 0), (-1, 999_999_999), (-7, 1), (1 << 33, 7)] {
            let back = timestamp(system_time(Instant { seconds, nanoseconds }).unwrap()).unwrap();
            assert_eq!((back.seconds, back.nanoseconds), (seconds, nanoseconds));
        }
        for seconds in [i64::MIN, i64::MAX] {
            // Whatever a clock cannot hold is refused, not a panic.
            let _ = system_time(Instant { seconds, nanoseconds: u32::MAX }).and_then(timestamp);
        }
    }
}
