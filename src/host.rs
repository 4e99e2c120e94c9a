//! [`Host`]: made once, then immutable. Owns the engines, their ticker, the seats and the meter.

use crate::admission::Admission;
use crate::capability::Secret;
use crate::capability::files::disk::Disk;
use crate::capability::http::{Network, Wires};
use crate::clock::Clock;
use crate::denial::{Audit, Denial};
use crate::engine::ticker::Ticker;
use crate::engine::{Engines, Flavour};
use crate::error::{Error, ErrorKind, Result};
use crate::function::{FunctionBuilder, Registry};
use crate::log::LogSink;
use crate::store::Store;
use crate::usage::Meter;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Runs functions. Made once, for the life of the application; a clone is another handle to the same host.
#[derive(Clone)]
pub struct Host(pub(crate) Arc<Inner>);

const _: () = {
    const fn handle<T: Clone + Send + Sync + 'static>() {}
    handle::<Host>();
};

pub(crate) struct Inner {
    pub engines: Engines,
    pub ticker: Ticker,
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
    pub sink: Option<Arc<dyn LogSink>>,
    pub functions: Registry,
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
            tenant_seats: None,
            tick: Duration::from_millis(1),
            meter: None,
            network: None,
            roots: Vec::new(),
            secrets: Vec::new(),
            sink: None,
            store: None,
            scratch: None,
        }
    }

    /// What guests were refused in calls, of all functions and tenants, oldest first: the last 1 024, of one tenant of one
    /// function at most 128, and of one call at most 32. What a component was not granted when it was loaded is in the error.
    /// Each is a `tracing` event as well, of level `WARN`.
    pub fn denials(&self) -> Vec<Denial> {
        self.0.audit.list()
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
    tenant_seats: Option<u32>,
    tick: Duration,
    meter: Option<Arc<dyn Meter>>,
    network: Option<Arc<dyn Network>>,
    roots: Vec<Vec<u8>>,
    secrets: Vec<Secret>,
    sink: Option<Arc<dyn LogSink>>,
    store: Option<Store>,
    scratch: Option<PathBuf>,
}

/// Calls that may run at once unless asked otherwise: as many as wasmtime's own pool has slots by default.
const SEATS: u32 = 1_000;

impl HostBuilder {
    /// Calls that may run at once, over all functions. Default 1 000; more wait, see
    /// [`Limits::queue`](crate::Limits::queue). A call of a composed component that uses async
    /// takes as many as it has components with code, since each of those may wait on a stack of its own. Each seat
    /// reserves address space for its memories; where that much cannot be had, building the host fails if the number
    /// was asked for, and falls back to making instances on demand if it is the default.
    pub fn seats(mut self, seats: u32) -> HostBuilder {
        self.seats = Some(seats);
        self
    }

    /// Calls of one named tenant that may run at once, over all functions. Default: seven eighths of
    /// [`seats`](HostBuilder::seats), so that no tenant can take all of a host of eight or more. Calls without a
    /// [`tenant`](crate::CallOptions::tenant) have no such bound.
    pub fn tenant_seats(mut self, seats: u32) -> HostBuilder {
        self.tenant_seats = Some(seats);
        self
    }

    /// How often a guest that computes gives way, and how exact deadlines are. Default 1 ms; from 100 µs to 100 ms.
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

    /// Makes the host. Engines are made when the first function needs them.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`] for a number of seats that this machine cannot hold, one of a tenant's that is 0 or more than
    /// all, a tick out of range, a root
    /// certificate that cannot be read, two secrets of one name, or where the operating system refuses a thread.
    pub fn build(self) -> Result<Host> {
        let misuse = |text: String| Err(Error::new(ErrorKind::Misuse, text));
        if self.seats == Some(0) {
            return misuse("a host with 0 seats runs no call; give it at least 1".into());
        }
        let seats = self.seats.unwrap_or(SEATS);
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
        let engines = Engines::new(seats, self.seats.is_some());
        if self.seats.is_some() {
            engines.get(Flavour { asynchronous: false, fuel: false }, &ticker)?;
        }
        let wires = Wires::new(self.network, self.roots.into_iter().map(Into::into).collect())?;
        Ok(Host(Arc::new(Inner {
            engines,
            ticker,
            clock,
            admission,
            tenant_seats,
            meter: self.meter,
            wires,
            store: self.store.unwrap_or_else(Store::memory),
            disk: Disk::new(self.scratch),
            audit: Arc::default(),
            secrets: self.secrets,
            sink: self.sink,
            functions: Registry::default(),
        })))
    }
}
