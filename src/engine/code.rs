//! Compiled code between its [`artefact`](super::artefact) and wasmtime: packed, and loaded from memory that nobody else
//! can write to.
//!
//! A file may change while it is read. So its bytes are copied once, piece by piece: each piece is checked and then
//! written from the same buffer, and only when the tag fits is the copy loaded. The copy is a sealed file in memory, which
//! wasmtime maps as it would map the file itself: a descriptor for each component loaded so, which serves the images of its
//! memories as well, for which a compiled component takes one for each core module. Where there are no such files, beyond
//! what the process may write into one, and where half of the descriptors that it may have are in use, the copy is private
//! memory, which wasmtime copies once more.

use super::artefact::{Authentic, CHUNK, Check, Flaw, Header, Key, START, head_length, symbols};
use super::{Component, Engine};
use std::fs::File;
use std::io::{self, Read};

/// Why there is no component.
#[derive(Debug)]
pub(crate) enum Unusable {
    Flaw(Flaw),
    /// The tag is not the key's.
    Forged,
    Unreadable(io::Error),
    /// wasmtime's reasons, outermost first.
    Refused(Vec<String>),
}

impl From<Flaw> for Unusable {
    fn from(flaw: Flaw) -> Unusable {
        Unusable::Flaw(flaw)
    }
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Unusable {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Unusable::Flaw(Flaw::CutOff),
            _ => Unusable::Unreadable(error),
        }
    }
}

/// An artefact of which the head was read, and is not to be believed yet.
pub(crate) struct Opened<R> {
    pub header: Header,
    head: Vec<u8>,
    code: R,
}

impl<R: Read> Opened<R> {
    /// Reads the head of `size` bytes.
    pub(crate) fn new(mut from: R, size: u64) -> Result<Opened<R>, Unusable> {
        let mut start = [0; START];
        from.read_exact(&mut start)?;
        let mut head = start.to_vec();
        head.resize(head_length(&start)?, 0);
        from.read_exact(&mut head[START..])?;
        let header = Header::read(&head)?;
        // What is allocated by the lengths that a head gives is at most twice what there is.
        match (head.len() as u64).checked_add(header.stored()) {
            Some(whole) if whole > size => Err(Flaw::CutOff.into()),
            Some(whole) if whole == size => Ok(Opened { header, head, code: from }),
            _ => Err(Flaw::Malformed.into()),
        }
    }

    /// Copies the code, checks it, and loads the copy.
    pub(crate) fn load(mut self, key: &Key, engine: &Engine) -> Result<(Component, Header), Unusable> {
        let mut check = Check::new(key, &self.head);
        let mut memory = Memory::new(self.header.length)?;
        let mut buffer = vec![0; CHUNK];
        let (gap, zeros) = self.header.gap;
        for (mut at, end) in [(0, gap), (gap + zeros, self.header.length)] {
            while at < end {
                let room = usize::try_from(end - at).map_or(CHUNK, |left| left.min(CHUNK));
                let read = match self.code.read(&mut buffer[..room]) {
                    Ok(0) => return Err(Flaw::CutOff.into()),
                    Ok(read) => read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error.into()),
                };
                check.take(&buffer[..read]);
                memory.write(at, &buffer[..read])?;
                at += read as u64;
            }
        }
        memory.seal()?;
        let authentic = check.end().ok_or(Unusable::Forged)?;
        let component = deserialize(engine, &memory, authentic)
            .map_err(|error| Unusable::Refused(error.chain().map(ToString::to_string).collect()))?;
        Ok((component, self.header))
    }
}

/// Takes it that what `authentic` stands for is the content of `memory`.
#[expect(
    unsafe_code,
    reason = "wasmtime runs what it is given here as native code, so it must be what wasmtime made, and stay so. It is \
    what was signed: `Authentic` comes only from a tag that fits what was written into this memory. The key signs only \
    what a compiler has just given to this crate, and is not where the code is. It stays so: the memory is either private, \
    and copied by wasmtime before it is used, or a file that has no name but for this process, sealed against writing, \
    which no longer can be undone. For an engine of other settings or another version wasmtime refuses it, by what is \
    written in the code itself."
)]
fn deserialize(engine: &Engine, memory: &Memory, _: Authentic) -> wasmtime::Result<Component> {
    match memory {
        #[cfg(target_os = "linux")]
        Memory::Sealed(file) => {
            use std::os::fd::AsRawFd;
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            // SAFETY: see the reason above.
            let mapped = unsafe { Component::deserialize_file(&engine.wasmtime, path) };
            mapped.or_else(|error| {
                // Where /proc is not mounted, or what is in memory may not be mapped to be run.
                let Ok(bytes) = read(file) else { return Err(error) };
                // SAFETY: see the reason above.
                unsafe { Component::deserialize(&engine.wasmtime, bytes) }
            })
        }
        // SAFETY: see the reason above.
        Memory::Private(bytes) => unsafe { Component::deserialize(&engine.wasmtime, bytes) },
    }
}

#[cfg(target_os = "linux")]
fn read(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?];
    std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, 0)?;
    Ok(bytes)
}

/// Where the copy is.
enum Memory {
    #[cfg(target_os = "linux")]
    Sealed(File),
    Private(Vec<u8>),
}

impl Memory {
    /// Zeros of that length.
    fn new(length: u64) -> io::Result<Memory> {
        #[cfg(target_os = "linux")]
        if crate::cache::may_write(length)
            && let Ok(file) = memory_file(length)
        {
            return Ok(Memory::Sealed(file));
        }
        Ok(Memory::Private(vec![0; usize::try_from(length).map_err(io::Error::other)?]))
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        match self {
            #[cfg(target_os = "linux")]
            Memory::Sealed(file) => std::os::unix::fs::FileExt::write_all_at(file, bytes, at),
            Memory::Private(memory) => {
                let at = usize::try_from(at).map_err(io::Error::other)?;
                let place = memory.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len()));
                place.ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(bytes);
                Ok(())
            }
        }
    }

    fn seal(&self) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        if let Memory::Sealed(file) = self {
            use rustix::fs::SealFlags;
            let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
            rustix::fs::fcntl_add_seals(file, seals)?;
        }
        Ok(())
    }
}

#[cfg(target_os = "linux")]
fn memory_file(length: u64) -> io::Result<File> {
    use rustix::fs::MemfdFlags;
    use std::os::fd::AsRawFd;
    let file = File::from(rustix::fs::memfd_create("isopod-code", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    // wasmtime keeps a descriptor open for each component that is loaded so. Numbers are given out from below, so that the
    // next one tells how many are in use: half of what the process may have is left to it.
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    if u64::try_from(file.try_clone()?.as_raw_fd()).unwrap_or(u64::MAX) >= most / 2 {
        return Err(io::ErrorKind::QuotaExceeded.into());
    }
    file.set_len(length)?;
    Ok(file)
}

/// Compiled code with a signed head.
pub(crate) struct Packed {
    head: Vec<u8>,
    code: Vec<u8>,
    gap: (usize, usize),
}

impl Packed {
    /// Signs the component's code, described by `header` but for its lengths. None if there is too much to say of it.
    pub(crate) fn new(component: &Component, header: Header, key: &Key) -> wasmtime::Result<Option<Packed>> {
        Ok(Packed::of(component.serialize()?, header, key))
    }

    /// The same for code that wasmtime has serialised.
    pub(crate) fn of(code: Vec<u8>, mut header: Header, key: &Key) -> Option<Packed> {
        let (start, length) = symbols(&code).unwrap_or((code.len(), 0));
        header.length = code.len() as u64;
        header.gap = (start as u64, length as u64);
        let mut packed = Packed { head: Vec::new(), code, gap: (start, length) };
        let [_, before, after] = packed.parts();
        packed.head = header.sign(key, [before, after])?;
        Some(packed)
    }

    /// What it consists of, in order.
    pub(crate) fn parts(&self) -> [&[u8]; 3] {
        let (start, length) = self.gap;
        [&self.head, &self.code[..start], &self.code[start + length..]]
    }
}
