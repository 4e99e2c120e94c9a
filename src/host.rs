//! [`Host`]: made once, then immutable. Owns the engines, their ticker, the seats and the meter.

use crate::admission::Admission;
use crate::cache::Cache;
use crate::capability::files::disk::Disk;
use crate::capability::http::{Network, Wires};
use crate::capability::{Clocks, Random, Secret};
use crate::clock::Clock;
use crate::denial::{Audit, Denial};
use crate::engine::artefact::{Key, Use};
use crate::engine::slots::Slots;
use crate::engine::ticker::Ticker;
use crate::engine::{Engines, Flavour, Profile, Sizes};
use crate::error::{Error, ErrorKind, Result};
use crate::function::{FunctionBuilder, Registry};
use crate::load::CodeCache;
use crate::log::LogSink;
use crate::refiller::Refiller;
use crate::script::Interpreters;
use crate::store::Store;
use crate::usage::Meter;
#[cfg(feature = "compiler")]
use crate::worker::{CompileWorker, Workers};
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// Runs functions. Made once, for the life of the application; a clone is another handle to the same host.
#[derive(Clone)]
pub struct Host(pub(crate) Arc<Inner>);

const _: () = {
    const fn handle<T: Clone + Send + Sync + 'static>() {}
    handle::<Host>();
};

pub(crate) struct Inner {
    pub engines: Engines,
    pub slots: Arc<Slots>,
    pub refiller: Refiller,
    pub ticker: Arc<Ticker>,
    pub clock: Clock,
    pub admission: Arc<Admission>,
    /// Seats that one tenant may have.
    pub tenant_seats: u32,
    pub meter: Option<Arc<dyn Meter>>,
    pub wires: Wires,
    pub store: Store,
    pub disk: Disk,
    pub audit: Arc<Audit>,
    pub secrets: Vec<Secret>,
    /// Those of functions without a grant of them.
    pub clocks: Clocks,
    pub random: Random,
    pub sink: Option<Arc<dyn LogSink>>,
    pub functions: Registry,
    pub interpreters: Interpreters,
    pub cache: Option<CodeCache>,
    /// The key of precompiled code.
    pub code_key: Option<Key>,
    /// Who compiles strangers' components, unless this process does.
    #[cfg(feature = "compiler")]
    pub workers: Option<Workers>,
}

impl Host {
    /// A host with every setting at its default.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`] if the operating system refuses it a thread.
    pub fn new() -> Result<Host> {
        Host::builder().build()
    }

    /// A host with other settings than the defaults.
    pub fn builder() -> HostBuilder {
        HostBuilder {
            seats: None,
            instances: None,
            profiles: Vec::new(),
            tenant_seats: None,
            tick: Duration::from_millis(1),
            meter: None,
            network: None,
            roots: Vec::new(),
            secrets: Vec::new(),
            clocks: Clocks::default(),
            random: Random::default(),
            sink: None,
            store: None,
            scratch: None,
            cache: None,
            code_key: None,
            #[cfg(feature = "compiler")]
            worker: None,
        }
    }

    /// What guests were refused in calls, of all functions and tenants, oldest first: the last 1 024, of one tenant of one
    /// function at most 128, and of one call at most 32. What a component was not granted when it was loaded is in the error.
    /// Each is a `tracing` event as well, of level `WARN`.
    pub fn denials(&self) -> Vec<Denial> {
        self.0.audit.list()
    }

    /// Who compiles components of [`Trust::Untrusted`](crate::Trust); none if this process does.
    #[cfg(feature = "compiler")]
    pub fn compile_worker(&self) -> Option<&CompileWorker> {
        self.0.workers.as_ref().map(Workers::spec)
    }

    /// How often it looks after what computes: its [`tick`](HostBuilder::tick).
    pub fn tick(&self) -> Duration {
        self.0.ticker.tick()
    }

    /// Seats that no call has: how many more could run now.
    pub fn free_seats(&self) -> u32 {
        self.0.admission.free_seats()
    }

    /// Begins to load a function. Its name stands in errors, records and
    /// receipts, and is what other functions call it by, if it is [`callable`](FunctionBuilder::callable).
    pub fn function(&self, name: impl Into<Arc<str>>) -> FunctionBuilder {
        FunctionBuilder::new(self.clone(), name.into())
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = &self.0;
        f.debug_struct("Host")
            .field("free_seats", &host.admission.free_seats())
            .field("ticking", &!host.ticker.is_asleep())
            .finish_non_exhaustive()
    }
}

/// Settings of a [`Host`].
pub struct HostBuilder {
    seats: Option<u32>,
    instances: Option<u32>,
    profiles: Vec<Profile>,
    tenant_seats: Option<u32>,
    tick: Duration,
    meter: Option<Arc<dyn Meter>>,
    network: Option<Arc<dyn Network>>,
    roots: Vec<Vec<u8>>,
    secrets: Vec<Secret>,
    clocks: Clocks,
    random: Random,
    sink: Option<Arc<dyn LogSink>>,
    store: Option<Store>,
    scratch: Option<PathBuf>,
    cache: Option<Cache>,
    code_key: Option<Zeroizing<[u8; 32]>>,
    #[cfg(feature = "compiler")]
    worker: Option<CompileWorker>,
}

impl HostBuilder {
    /// Calls that may run at once, over all functions. Default 1 000, or as the [`Profile`] says; more wait, see
    /// [`Limits::queue`](crate::Limits::queue). A call of a component with several memories takes as many as it has of
    /// them, and one of a composed component that uses async as many as it has components with code, since each of those
    /// may wait on a stack of its own.
    pub fn seats(mut self, seats: u32) -> HostBuilder {
        self.seats = Some(seats);
        self
    }

    /// Instances that may be alive at once, over all functions: those that serve calls, and those that wait for one, as
    /// [`prewarm`](FunctionBuilder::prewarm) and [`reuse`](FunctionBuilder::reuse) have them. At least the seats; default
    /// as the [`Profile`] says. Each reserves address space for its memory, and takes up to three memory mappings; where so
    /// much cannot be had, building the host fails if this number, the seats or the profile were asked for, and instances
    /// are made on demand if they are the default. Those that wait give way to those that are needed.
    ///
    /// An instance that has run code waits on the stack that it ran on. Of those at most 1 024 wait over all functions, 128
    /// with [`Profile::Density`]: all that are kept by `reuse`, and in the stock of `prewarm` those whose components have a
    /// start function, or work out in code where their data go, or, with [`Profile::Latency`], begin with up to 32 KiB of
    /// data. One more is dropped, or not started.
    pub fn instances(mut self, instances: u32) -> HostBuilder {
        self.instances = Some(instances);
        self
    }

    /// What the host is to be best at. Default: [`Profile::Latency`].
    pub fn profile(mut self, profile: Profile) -> HostBuilder {
        self.profiles.push(profile);
        self
    }

    /// Calls of one named tenant that may run at once, over all functions. Default: seven eighths of
    /// [`seats`](HostBuilder::seats), so that no tenant can take all of a host of eight or more. Calls without a
    /// [`tenant`](crate::CallOptions::tenant) have no such bound.
    pub fn tenant_seats(mut self, seats: u32) -> HostBuilder {
        self.tenant_seats = Some(seats);
        self
    }

    /// How often a guest that computes gives way, and how exact deadlines are. Default 1 ms; from 100 µs to 100 ms. Giving
    /// way each millisecond takes a guest that computes about a twentieth longer; a shorter tick costs more, and wakes the
    /// host's thread as often while calls run.
    pub fn tick(mut self, tick: Duration) -> HostBuilder {
        self.tick = tick;
        self
    }

    /// Tells `meter` what each call used. Default: nobody.
    pub fn meter(mut self, meter: impl Meter) -> HostBuilder {
        self.meter = Some(Arc::new(meter));
        self
    }

    /// Tells `sink` what guests log. Default: nobody but `tracing`.
    pub fn log(mut self, sink: impl LogSink) -> HostBuilder {
        self.sink = Some(Arc::new(sink));
        self
    }

    /// How guests' requests reach other machines. Default: the operating system's resolver and sockets.
    pub fn network(mut self, network: impl Network) -> HostBuilder {
        self.network = Some(Arc::new(network));
        self
    }

    /// A certificate authority, as DER, that guests' requests trust besides those of the web.
    pub fn tls_root(mut self, certificate: impl Into<Vec<u8>>) -> HostBuilder {
        self.roots.push(certificate.into());
        self
    }

    /// A secret that grants and policies may name; see [`Secret::of_host`]. Two of one name fail
    /// [`build`](HostBuilder::build).
    pub fn secret(mut self, secret: Secret) -> HostBuilder {
        self.secrets.push(secret);
        self
    }

    /// The time that guests of functions without a grant [`Clocks`] are told. Default: [`Clocks::coarse`] at 1 ms.
    pub fn clocks(mut self, clocks: Clocks) -> HostBuilder {
        self.clocks = clocks;
        self
    }

    /// The randomness that guests of functions without a grant [`Random`] are given. Default: the operating system's.
    pub fn random(mut self, random: Random) -> HostBuilder {
        self.random = random;
        self
    }

    /// Where guests' state is kept. Default: [`Store::memory`], which is gone with the process.
    pub fn store(mut self, store: Store) -> HostBuilder {
        self.store = Some(store);
        self
    }

    /// Where the directories of [`Scratch`](crate::Scratch) are: a place that nobody else cleans up. Default: `isopod-` and
    /// the number of the user, in the directory for temporary files. It is made, for this user alone, when a function with
    /// that grant is first loaded, and what hosts of dead processes left in it is removed then. Loading fails as
    /// [`ErrorKind::Misuse`] if it cannot be made, is a symlink, belongs to another user, or can be written by others.
    pub fn scratch_dir(mut self, path: impl Into<PathBuf>) -> HostBuilder {
        self.scratch = Some(path.into());
        self
    }

    /// Keeps compiled code in a folder, so that loading a component again takes a fraction of the time. Default: nothing is
    /// kept. A cache without a key, or with a folder or a key file that cannot be used, fails
    /// [`build`](HostBuilder::build); whatever happens to the folder later, functions load.
    pub fn cache(mut self, cache: Cache) -> HostBuilder {
        self.cache = Some(cache);
        self
    }

    /// The key that [`Host::precompile`] signs with, and that precompiled code must be signed with to be loaded: 32 random
    /// bytes, known to the build pipeline and to the application. Whoever has it and can give the application a component
    /// can make it run native code. It may be the same as a [`Cache`]'s: each use derives a key of its own.
    pub fn code_key(mut self, key: [u8; 32]) -> HostBuilder {
        self.code_key = Some(Zeroizing::new(key));
        self
    }

    /// Who compiles components of [`Trust::Untrusted`](crate::Trust), and what one may take. Default:
    /// [`CompileWorker::this_program`], where `main` begins with [`compile_worker`](crate::compile_worker); otherwise they are
    /// compiled in this process, whose memory and processor have no bound then but by [`LoadLimits`](crate::LoadLimits).
    #[cfg(feature = "compiler")]
    pub fn compile_worker(mut self, worker: CompileWorker) -> HostBuilder {
        self.worker = Some(worker);
        self
    }

    /// Makes the host. Engines are made when the first function needs them.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`] for numbers of seats, of a tenant's seats and of instances that contradict each other or that
    /// this machine cannot hold, two different profiles, a tick out of range, a root certificate that cannot be read, two
    /// secrets of one name, a cache that cannot be used or has no key, a compile worker that cannot be one, or where the operating system refuses a thread.
    pub fn build(self) -> Result<Host> {
        let misuse = |text: String| Err(Error::new(ErrorKind::Misuse, text));
        if self.seats == Some(0) {
            return misuse("a host with 0 seats runs no call; give it at least 1".into());
        }
        let profile = self.profiles.first().copied().unwrap_or_default();
        let seats = self.seats.unwrap_or(profile.seats());
        let tenant_seats = self.tenant_seats.unwrap_or(seats - seats / 8);
        if tenant_seats == 0 {
            return misuse("tenant_seats of 0 lets no call of a tenant run; give it at least 1".into());
        }
        if tenant_seats > seats {
            return misuse(format!(
                "tenant_seats of {tenant_seats} can never be reached with {seats} seats; lower tenant_seats or raise seats"
            ));
        }
        if self.tick < Duration::from_micros(100) || self.tick > Duration::from_millis(100) {
            return misuse(format!("a tick of {:?} is out of range; take one from 100 µs to 100 ms", self.tick));
        }
        let twice = |secret: &&Secret| self.secrets.iter().filter(|other| other.name() == secret.name()).count() > 1;
        if let Some(secret) = self.secrets.iter().find(twice) {
            return misuse(format!("two secrets are named \"{}\"; rename one by `Secret::named`", secret.name()));
        }
        if cfg!(panic = "abort") {
            tracing::warn!("built with panic = \"abort\": a panic in a host function ends the process, not the call");
        }
        let clock = Clock::new();
        // One worker stays free of guests that compute, for all that is over sooner.
        let turns = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).saturating_sub(1).max(1);
        let admission = Arc::new(Admission::new(clock.clone(), self.tick, seats, tenant_seats, turns));
        let ticker = Ticker::start(clock.clone(), self.tick, Arc::clone(&admission))
            .map_err(|e| Error::from_io(ErrorKind::Misuse, "the ticker's thread cannot be started", &e))?;
        if let Some(other) = self.profiles.iter().find(|other| **other != profile) {
            return misuse(format!("a host cannot have both the profiles {profile:?} and {other:?}; choose one"));
        }
        let instances = self.instances.unwrap_or(profile.instances(seats));
        if instances < seats {
            return misuse(format!(
                "{instances} instances (`HostBuilder::instances`) are fewer than the {seats} seats, each of which needs one; raise the instances, or lower the seats"
            ));
        }
        let strict = self.seats.is_some() || self.instances.is_some() || !self.profiles.is_empty();
        let sizes = Sizes { seats, instances, profile, strict };
        let engines = Engines::new(sizes);
        if strict {
            engines.get(Flavour { asynchronous: false, fuel: false, image: false }, &ticker)?;
            let (needed, allowed) = (sizes.mappings(), mappings());
            if needed > allowed {
                return misuse(format!(
                    "{seats} seats and {instances} instances can take {needed} memory mappings, and a process may have {allowed} on this machine; lower `HostBuilder::instances` or `seats`, or raise `vm.max_map_count`"
                ));
            }
        }
        let slots = Slots::new(instances, sizes.idle_stacks());
        let cache = self.cache.map(CodeCache::open).transpose()?;
        if cache.is_some() && engines.family(false).is_none() {
            return misuse(
                "a cache has no effect: this build has no compiler, whose work it would keep; remove it".into(),
            );
        }
        let wires = Wires::new(self.network, self.roots.into_iter().map(Into::into).collect())?;
        Ok(Host(Arc::new(Inner {
            engines,
            refiller: Refiller::new(Arc::clone(&slots)),
            slots,
            ticker: Arc::new(ticker),
            clock,
            admission,
            tenant_seats,
            meter: self.meter,
            wires,
            store: self.store.unwrap_or_else(Store::memory),
            disk: Disk::new(self.scratch),
            audit: Arc::default(),
            secrets: self.secrets,
            clocks: self.clocks,
            random: self.random,
            sink: self.sink,
            functions: Registry::default(),
            interpreters: Interpreters::default(),
            cache,
            code_key: self.code_key.map(|key| Key::new(Use::Precompiled, &key)),
            #[cfg(feature = "compiler")]
            workers: Workers::new(self.worker)?,
        })))
    }
}

/// Memory mappings that the application's own code and data are given, where the kernel bounds them.
const OWN_MAPPINGS: u64 = 2_000;

/// Memory mappings that a host may have; as many as it likes where nobody says.
fn mappings() -> u64 {
    let said = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok();
    let allowed = said.and_then(|text| text.trim().parse::<u64>().ok());
    allowed.map_or(u64::MAX, |allowed| allowed.saturating_sub(OWN_MAPPINGS))
}
