//! From a source to a component that can be called: recognised, checked, and compiled or taken from where its compiled
//! code is kept.
//!
//! Bytes that were not signed with a key of the embedder's are measured by the pre-check before anything else reads them.
//! For code that was, its head says what the pre-check found when it was compiled, which is held against this load's
//! bounds.

use crate::cache::{Cache, CacheStats, Folder};
use crate::capability::{Needs, policy};
use crate::engine::artefact::{self, Digest, Flaw, Header, Key, Use};
use crate::engine::code::{Opened, Packed, Unusable};
use crate::engine::precheck::{self, Bounds, Facts, Refusal};
use crate::engine::{self, Component, Engine, Flavour, Profile, Sizes, compiler};
use crate::error::{Error, ErrorKind, Result};
use crate::host::{Host, Inner};
use crate::limits::{Limits, LoadLimits, MIB, Resolved, Trust};
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a component is.
pub(crate) enum Source {
    File(PathBuf),
    Bytes(Vec<u8>),
    Text(String),
}

/// A component that can be called.
pub(crate) struct Loaded {
    pub engine: Arc<Engine>,
    pub component: Component,
    /// Seats of the host that one call takes, and slots that an instance does.
    pub width: u32,
    /// Whether code runs as an instance starts.
    pub starts: bool,
    /// What the component says in itself that it needs, as it stands there.
    section: Result<Option<Vec<u8>>>,
}

impl Loaded {
    fn new(engine: Arc<Engine>, component: Component, facts: &Facts, section: Result<Option<Vec<u8>>>) -> Loaded {
        let memories = component.resources_required().map_or(1, |needs| needs.num_memories.max(1));
        // A composed component with async may stand still in each of its parts at once, on a stack for each.
        let width = if facts.asynchronous { facts.parts.max(memories) } else { memories };
        let starts = facts.starts || (facts.data > 0 && !engine.flavour.image);
        Loaded { engine, component, width, starts, section }
    }

    /// What the component says in itself that it needs.
    pub(crate) fn needs(&mut self) -> Result<Option<Needs>> {
        let Some(section) = std::mem::replace(&mut self.section, Ok(None))? else { return Ok(None) };
        let text = std::str::from_utf8(&section).map_err(|_| unusable("it is not UTF-8"))?;
        Needs::from_toml(text).map(Some).map_err(|e| unusable(&e.to_string()))
    }
}

/// Whether a host of these sizes can run the component at all, of which an instance takes so many slots.
pub(crate) fn fits(component: &Component, width: u32, limits: &Resolved, sizes: Sizes) -> Result<()> {
    engine::fits(component, limits)?;
    if width > sizes.seats {
        let text = format!(
            "the component has {} memories, or parts that may wait at once, and the host {} seats, so that no call could run; raise `HostBuilder::seats`",
            width, sizes.seats
        );
        return Err(Error::new(ErrorKind::TooComplex, text));
    }
    if limits.memory > sizes.profile.memory() && sizes.profile == Profile::Density {
        let text = format!(
            "a memory limit of {} bytes can never be reached with Profile::Density, whose slots have {}; lower it, or choose another profile",
            limits.memory,
            sizes.profile.memory()
        );
        return Err(Error::new(ErrorKind::Misuse, text));
    }
    Ok(())
}

/// Loads what is in the source.
pub(crate) fn load(source: Source, bounds: Option<LoadLimits>, limits: &Resolved, host: &Inner) -> Result<Loaded> {
    let bounded = |trust: Trust| limited(bounds.clone().unwrap_or_else(|| trust.into()));
    let stranger = matches!(source, Source::Bytes(_));
    let given = match source {
        Source::Bytes(bytes) => Given::Bytes(bytes),
        Source::Text(text) => Given::Bytes(binary(&text, bounded(Trust::Own)?.bounds.bytes)?),
        Source::File(path) => Given::file(path)?,
    };
    let signed = given.is_artefact()?;
    // What the embedder compiled and signed is the embedder's own, wherever it is.
    let trust = if stranger && !signed { Trust::Untrusted } else { Trust::Own };
    let rules = bounded(trust)?;
    let loaded = if signed {
        precompiled(given, &rules.bounds, limits, host)?
    } else if let Some(cache) = &host.cache {
        cache.load(given, &rules, limits, host)?
    } else {
        compile(&given.bytes(rules.bounds.bytes)?, &rules, limits, host)?.0
    };
    fits(&loaded.component, loaded.width, limits, host.engines.sizes)?;
    Ok(loaded)
}

/// What holds for one load.
struct Rules {
    bounds: Bounds,
    /// Whether it is compiled in another process, where there is one for that.
    #[cfg_attr(not(feature = "compiler"), expect(dead_code, reason = "only a compiler asks"))]
    apart: bool,
}

fn limited(limits: LoadLimits) -> Result<Rules> {
    if limits.instances > LoadLimits::MAX_INSTANCES {
        let text = format!(
            "a core_instances limit of {} is beyond what the pool holds; at most {}",
            limits.instances,
            LoadLimits::MAX_INSTANCES
        );
        return Err(Error::new(ErrorKind::Misuse, text));
    }
    let LoadLimits { apart, bytes, functions, instances, adapters, nesting, values } = limits;
    Ok(Rules { bounds: Bounds { bytes, functions, instances, adapters, nesting, values }, apart })
}

/// Bytes that the code of a component within these bounds may have: several times what that of toolchains' components
/// comes to, as a rule two or three bytes for one.
fn most_code(bounds: &Bounds) -> u64 {
    bounds.bytes.saturating_mul(16).max(16 * MIB)
}

/// The engine for a component in which that was found.
fn engine_for(facts: &Facts, fuel: bool, host: &Inner) -> Result<Arc<Engine>> {
    // What is copied is copied by code, which counts as fuel: a call would use more on one host than on another.
    let image = fuel || facts.data > host.engines.sizes.profile.copies();
    host.engines.get(Flavour { asynchronous: facts.asynchronous, fuel, image }, &host.ticker)
}

/// Checks and compiles a component, and gives besides what there is to say of it when its code is kept.
fn compile(bytes: &[u8], rules: &Rules, limits: &Resolved, host: &Inner) -> Result<(Loaded, Facts)> {
    let facts = precheck::inspect(bytes, rules.bounds).map_err(refused)?;
    let engine = engine_for(&facts, limits.fuel.is_some(), host)?;
    let component = translate(bytes, rules, &engine, host)?;
    let section = section(bytes).map(|section| section.map(<[u8]>::to_vec));
    Ok((Loaded::new(engine, component, &facts, section), facts))
}

#[cfg(feature = "compiler")]
fn translate(bytes: &[u8], rules: &Rules, engine: &Engine, host: &Inner) -> Result<Component> {
    match &host.workers {
        Some(workers) if rules.apart => workers.compile(engine, bytes, most_code(&rules.bounds)),
        _ => compiler::compile(engine, bytes),
    }
}

#[cfg(not(feature = "compiler"))]
fn translate(bytes: &[u8], _: &Rules, engine: &Engine, _: &Inner) -> Result<Component> {
    compiler::compile(engine, bytes)
}

/// Loads what [`Host::precompile`] gave.
fn precompiled(given: Given, bounds: &Bounds, limits: &Resolved, host: &Inner) -> Result<Loaded> {
    let invalid = |text: String| Error::new(ErrorKind::InvalidComponent, text);
    let Some(key) = &host.code_key else {
        return Err(invalid(
            "this is precompiled code, and the host has no key to check it with; give it by `HostBuilder::code_key`"
                .into(),
        ));
    };
    let unusable = |unusable: Unusable| {
        match unusable {
        Unusable::Flaw(Flaw::CutOff) => invalid("this precompiled code is cut off; copy it again".into()),
        Unusable::Flaw(Flaw::Version(_)) => {
            invalid("this precompiled code was made by another version of isopod; precompile the component again".into())
        }
        Unusable::Flaw(Flaw::Malformed) => invalid("this precompiled code is damaged; precompile the component again".into()),
        Unusable::Forged => invalid(
            "this precompiled code is damaged, or was signed with another key than the host has by `HostBuilder::code_key`; precompile the component again".into(),
        ),
        Unusable::Unreadable(e) => {
            Error::from_io(ErrorKind::InvalidComponent, "this precompiled code cannot be read", &e)
        }
        Unusable::Refused(causes) => invalid(
            "this precompiled code is for another machine, or for other settings of the host; precompile the component as the cause says".into(),
        )
        .because(causes),
    }
    };
    let size = given.size();
    // All of it is copied before anything of it is known to be true.
    if size > most_code(bounds) {
        return Err(refused(Refusal::TooComplex { what: "component_bytes", found: size, limit: most_code(bounds) }));
    }
    let opened = Opened::new(given.reader(), size).map_err(unusable)?;
    // None of this is to be believed yet: at worst it is an error of another wording.
    let header = &opened.header;
    if header.usage != Use::Precompiled {
        return Err(invalid("this is a file of a cache, which only a host with that cache can load".into()));
    }
    if header.maker != engine::maker() {
        return Err(invalid(format!(
            "this code was precompiled by {}, and this is {}; precompile the component again",
            header.maker,
            engine::maker()
        )));
    }
    let fuel = limits.fuel.is_some();
    if header.fuel != fuel {
        let metering = |fuel| if fuel { "fuel" } else { "time" };
        return Err(invalid(format!(
            "this code was precompiled to be metered by {}, and its limits are by {}; precompile it with the limits that it is loaded with",
            metering(header.fuel),
            metering(fuel)
        )));
    }
    header.facts.within(bounds).map_err(refused)?;
    let engine = engine_for(&header.facts, fuel, host)?;
    let (component, header) = opened.load(key, &engine).map_err(unusable)?;
    Ok(Loaded::new(engine, component, &header.facts, Ok(header.needs)))
}

/// A cache with the keys that are derived from its own.
pub(crate) struct CodeCache {
    folder: Folder,
    tags: Key,
    names: Key,
}

impl CodeCache {
    /// Opens what a host was given.
    pub(crate) fn open(cache: Cache) -> Result<CodeCache> {
        let (folder, key) = cache.open()?;
        Ok(CodeCache { folder, tags: Key::new(Use::Cached, &key), names: Key::of_names(&key) })
    }

    /// Loads a component from the cache, or compiles it and keeps its code.
    fn load(&self, given: Given, rules: &Rules, limits: &Resolved, host: &Inner) -> Result<Loaded> {
        let (fuel, bounds) = (limits.fuel.is_some(), &rules.bounds);
        let Some(family) = host.engines.family(fuel) else {
            return Ok(compile(&given.bytes(bounds.bytes)?, rules, limits, host)?.0);
        };
        // A component that is too large is for the pre-check to refuse.
        let known = given.digest(bounds.bytes)?.map(|digest| (digest, self.names.name(&digest, &family)));
        if let Some((digest, name)) = &known {
            match self.find(name, digest, bounds, fuel, host) {
                Ok(loaded) => {
                    self.folder.hit();
                    return Ok(loaded);
                }
                Err(Miss::Absent) => self.folder.missed(),
                Err(Miss::Rejected(cause, detail)) => self.folder.reject(cause, &detail),
            }
        }
        let bytes = given.bytes(bounds.bytes)?;
        let (loaded, facts) = compile(&bytes, rules, limits, host)?;
        if let Err(error) = self.keep(&loaded, &bytes, family, facts, fuel) {
            self.folder.warn("it cannot be written to", &error);
        }
        Ok(loaded)
    }

    fn find(
        &self,
        name: &str,
        digest: &Digest,
        bounds: &Bounds,
        fuel: bool,
        host: &Inner,
    ) -> std::result::Result<Loaded, Miss> {
        let unreadable = |e: io::Error| Miss::Rejected("an entry cannot be read", e.to_string());
        let Some((file, size)) = self.folder.find(name).map_err(unreadable)? else { return Err(Miss::Absent) };
        if size > most_code(bounds) {
            return Err(Miss::Rejected("an entry is larger than any code of such a component", name.to_owned()));
        }
        let opened = Opened::new(file, size)?;
        let header = &opened.header;
        if header.usage != Use::Cached || header.fuel != fuel || header.digest != *digest {
            return Err(Miss::Rejected("an entry is not what its name says", name.to_owned()));
        }
        // A head that is not authentic may say here what it likes: it cannot make anything load, and what it makes fail is
        // compiled, which comes to the same refusals if they are due.
        header.facts.within(bounds).map_err(|_| Miss::Absent)?;
        let engine = engine_for(&header.facts, fuel, host).map_err(|_| Miss::Absent)?;
        if Some(header.compatibility) != engine.compatibility {
            return Err(Miss::Rejected("an entry is for an engine of other settings", name.to_owned()));
        }
        let (component, header) = opened.load(&self.tags, &engine)?;
        Ok(Loaded::new(engine, component, &header.facts, Ok(header.needs)))
    }

    fn keep(&self, loaded: &Loaded, bytes: &[u8], family: Digest, facts: Facts, fuel: bool) -> io::Result<()> {
        // Of the bytes that were compiled: those of a file may be others than were looked up.
        let digest = *blake3::hash(bytes).as_bytes();
        // What a head cannot say is compiled each time: several sections of needs, or a huge one.
        let Ok(section) = &loaded.section else { return Ok(()) };
        let header = header(Use::Cached, &loaded.engine, section.clone(), digest, facts, fuel);
        let packed = Packed::new(&loaded.component, header, &self.tags).map_err(io::Error::other)?;
        packed.map_or(Ok(()), |packed| self.folder.keep(&self.names.name(&digest, &family), &packed.parts()))
    }
}

/// Why a component is not loaded from the cache.
enum Miss {
    /// There is no entry; or one with more than the load allows, if it has what its head says: the pre-check decides.
    Absent,
    /// There is an entry that is no good, by a cause and its detail.
    Rejected(&'static str, String),
}

impl From<Unusable> for Miss {
    fn from(unusable: Unusable) -> Miss {
        match unusable {
            Unusable::Flaw(flaw) => Miss::Rejected("an entry is damaged", format!("{flaw:?}")),
            Unusable::Forged => {
                Miss::Rejected("an entry is damaged, or was signed with another key", "its tag does not fit".to_owned())
            }
            Unusable::Unreadable(e) => Miss::Rejected("an entry cannot be read", e.to_string()),
            Unusable::Refused(causes) => Miss::Rejected("an entry was refused by wasmtime", causes.join(": ")),
        }
    }
}

fn header(usage: Use, engine: &Engine, needs: Option<Vec<u8>>, digest: Digest, facts: Facts, fuel: bool) -> Header {
    let compatibility = engine.compatibility.unwrap_or_default();
    Header { usage, maker: engine::maker(), fuel, compatibility, digest, facts, needs, length: 0, gap: (0, 0) }
}

impl Host {
    /// Compiles a component, and gives its code in a form that
    /// [`component_file`](crate::FunctionBuilder::component_file) and
    /// [`component_bytes`](crate::FunctionBuilder::component_bytes) load as they load components: for build pipelines,
    /// and for hosts without a compiler. It is signed with the key of
    /// [`HostBuilder::code_key`](crate::HostBuilder::code_key), which the host that loads it must have. It is for the
    /// same versions of isopod and wasmtime, the same architecture with at least the features of this machine's
    /// processor, and a host that has the address space for its pool of instances if this one has, with the same
    /// [`Profile`](crate::Profile); and for limits that meter as `limits` do, by time or by fuel, whose other settings
    /// do not matter. The component is taken for the embedder's own ([`Trust::Own`]).
    ///
    /// ```
    /// # async fn run(key: [u8; 32], component: &[u8]) -> isopod::Result<()> {
    /// use isopod::{Host, Limits};
    ///
    /// let host = Host::builder().code_key(key).build()?;
    /// let code = host.precompile(component, &Limits::default()).await?;
    /// let function = host.function("greeter").component_bytes(code).load().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`load`](crate::FunctionBuilder::load) for a component that cannot be compiled; [`ErrorKind::Misuse`] without a
    /// key, outside of a tokio runtime, and in a build without the feature `compiler`.
    pub async fn precompile(&self, component: &[u8], limits: &Limits) -> Result<Vec<u8>> {
        let (host, component, limits) = (self.clone(), component.to_vec(), limits.clone());
        crate::blocking::unblock(move || host.precompile_here(&component, &limits)).await
    }

    /// [`precompile`](Host::precompile) for callers without async.
    ///
    /// # Errors
    /// As [`precompile`](Host::precompile), but [`ErrorKind::Misuse`] within an async runtime and not outside of one.
    pub fn precompile_blocking(&self, component: &[u8], limits: &Limits) -> Result<Vec<u8>> {
        crate::blocking::in_place(|| self.precompile_here(component, limits))
    }

    fn precompile_here(&self, bytes: &[u8], limits: &Limits) -> Result<Vec<u8>> {
        let Some(key) = &self.0.code_key else {
            let text =
                "precompiled code must be signed, and the host has no key for that; give it by `HostBuilder::code_key`";
            return Err(Error::new(ErrorKind::Misuse, text));
        };
        let (limits, rules) = (limits.resolve()?, limited(Trust::Own.into())?);
        let (loaded, facts) = compile(bytes, &rules, &limits, &self.0)?;
        let digest = *blake3::hash(bytes).as_bytes();
        let section = loaded.section?;
        let header = header(Use::Precompiled, &loaded.engine, section, digest, facts, limits.fuel.is_some());
        let failed = |why: String| {
            Error::new(ErrorKind::Internal, "compiled code cannot be written out; please report this").because([why])
        };
        let packed = Packed::new(&loaded.component, header, key).map_err(|e| failed(e.to_string()))?;
        let packed = packed.ok_or_else(|| {
            let text = format!("its section `{}` is too large to be kept with its code", policy::SECTION);
            Error::new(ErrorKind::TooComplex, text)
        })?;
        Ok(packed.parts().concat())
    }

    /// What became of the loads since the host was made; all zero without a [`Cache`].
    pub fn cache_stats(&self) -> CacheStats {
        self.0.cache.as_ref().map(|cache| cache.folder.stats()).unwrap_or_default()
    }
}

/// What a source holds, open to be read.
enum Given {
    Bytes(Vec<u8>),
    File { file: File, path: PathBuf, size: u64 },
}

impl Given {
    fn file(path: PathBuf) -> Result<Given> {
        let unreadable = |e: io::Error| unreadable(&path, &e);
        // Opening a pipe would wait for somebody to write to it.
        if !std::fs::metadata(&path).map_err(unreadable)?.is_file() {
            return Err(Error::new(ErrorKind::InvalidComponent, format!("{} is not a file", path.display())));
        }
        let file = File::open(&path).map_err(unreadable)?;
        let size = file.metadata().map_err(unreadable)?.len();
        Ok(Given::File { file, path, size })
    }

    fn is_artefact(&self) -> Result<bool> {
        match self {
            Given::Bytes(bytes) => Ok(artefact::is_artefact(bytes)),
            Given::File { file, path, .. } => {
                let mut start = [0; artefact::MAGIC.len()];
                match file.read_exact_at(&mut start, 0) {
                    Ok(()) => Ok(artefact::is_artefact(&start)),
                    Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
                    Err(e) => Err(unreadable(path, &e)),
                }
            }
        }
    }

    fn size(&self) -> u64 {
        match self {
            Given::Bytes(bytes) => bytes.len() as u64,
            Given::File { size, .. } => *size,
        }
    }

    /// Reads from the start.
    fn reader(&self) -> Box<dyn Read + '_> {
        match self {
            Given::Bytes(bytes) => Box::new(&bytes[..]),
            Given::File { file, .. } => Box::new(Positioned { file, at: 0 }),
        }
    }

    /// The digest of the component, if it is no larger than that. A file is read for it piece by piece: if its code is in
    /// the cache, its bytes are never together in memory.
    fn digest(&self, limit: u64) -> Result<Option<Digest>> {
        if self.size() > limit {
            return Ok(None);
        }
        let (file, path) = match self {
            Given::Bytes(bytes) => return Ok(Some(*blake3::hash(bytes).as_bytes())),
            Given::File { file, path, .. } => (file, path),
        };
        let (mut hasher, mut buffer, mut at) = (blake3::Hasher::new(), vec![0; artefact::CHUNK], 0);
        // A file that grows meanwhile is read no further than that.
        while at <= limit {
            match file.read_at(&mut buffer, at) {
                Ok(0) => break,
                Ok(read) => {
                    hasher.update(&buffer[..read]);
                    at += read as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(unreadable(path, &e)),
            }
        }
        Ok(Some(*hasher.finalize().as_bytes()))
    }

    /// The bytes, at most one more than allowed: enough for the check to see that there are too many.
    fn bytes(self, limit: u64) -> Result<Vec<u8>> {
        match self {
            Given::Bytes(bytes) => Ok(bytes),
            Given::File { ref file, ref path, size } => {
                let limit = limit.saturating_add(1);
                let mut bytes = Vec::with_capacity(size.min(limit).try_into().unwrap_or(0));
                let read = Positioned { file, at: 0 }.take(limit).read_to_end(&mut bytes);
                read.map_err(|e| unreadable(path, &e))?;
                Ok(bytes)
            }
        }
    }
}

/// The component in a text. Reading it is work before anything is measured, so it has the bound of what it stands for.
fn binary(text: &str, limit: u64) -> Result<Vec<u8>> {
    let found = text.len() as u64;
    if found > limit {
        return Err(refused(Refusal::TooComplex { what: "component_bytes", found, limit }));
    }
    wat::parse_str(text).map_err(|e| {
        // The first line says what is wrong; what follows is a picture of the place.
        let text = e.to_string();
        let reason = text.lines().next().unwrap_or_default();
        let place = text.split_once("<anon>:").and_then(|(_, rest)| rest.lines().next()).unwrap_or("?");
        let text = format!("the component's text cannot be parsed at {place} (line:column): {reason}");
        Error::new(ErrorKind::InvalidComponent, text)
    })
}

/// Reads a file from a place of its own.
struct Positioned<'a> {
    file: &'a File,
    at: u64,
}

impl Read for Positioned<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

fn unreadable(path: &Path, e: &dyn Display) -> Error {
    Error::new(ErrorKind::InvalidComponent, format!("the component file {} cannot be read: {e}", path.display()))
}

/// What the component says in itself that it needs, as it stands there.
fn section(bytes: &[u8]) -> Result<Option<&[u8]>> {
    match precheck::custom_sections(bytes, policy::SECTION)[..] {
        [] => Ok(None),
        [section] => Ok(Some(section)),
        _ => Err(unusable("there are several")),
    }
}

fn unusable(why: &str) -> Error {
    let text = format!("its section `{}` cannot be used: {why}", policy::SECTION);
    Error::new(ErrorKind::InvalidComponent, text)
}

fn refused(refusal: Refusal) -> Error {
    match refusal {
        Refusal::TooDeep(most) => Error::new(
            ErrorKind::TooComplex,
            format!("the component's types are nested more than {most} deep, which no toolchain makes"),
        ),
        Refusal::Invalid(why) => Error::new(ErrorKind::InvalidComponent, format!("this cannot be loaded: {why}")),
        Refusal::TooComplex { what, found, limit } => Error::new(
            ErrorKind::TooComplex,
            format!(
                "the component has at least {found} {what}, more than the {limit} it may have; raise `LoadLimits::{what}` if you trust it"
            ),
        ),
    }
}
