//! [`Host`]: a real host, of which a test says what is around it.

use super::capture::{Capture, Logged, Used};
use super::clock::Clock;
use super::exchange::{Exchange, Exchanges, Wires};
use super::faults::{Faults, Faulty};
use super::mocks::{Asked, Mock, Mocks};
use crate::store::Store;
use crate::{Clocks, FunctionBuilder, HostBuilder, Random, Result};
use bytes::Bytes;
use http::Request;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A host for tests: functions run in it as they do in yours, with their own limits and grants, and all around them is the
/// test's.
///
/// - Imports of the component's own that the test provides by nothing else answer what [`on`](Host::on) says; a call that
///   nobody expects ends as [`ErrorKind::HostPanic`](crate::ErrorKind::HostPanic), with what was asked.
/// - Requests by http get what [`http`](Host::http) says, over connections that do not leave the process: resolving, the
///   check of addresses, TLS and HTTP are the real ones. One that nobody expects gets status 501.
/// - Time stands still but for [`clock`](Host::clock); randomness comes from a seed; state is in memory.
/// - Operations of the store and connections fail when [`store_faults`](Host::store_faults) and
///   [`network_faults`](Host::network_faults) say so.
/// - What guests logged, and what calls used, is kept: [`logged`](Host::logged), [`used`](Host::used).
///
/// What a function is granted by itself comes before that; and one that is
/// [`deterministic`](FunctionBuilder::deterministic) has clocks and randomness of its own, which the test's do not move.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> isopod::Result<()> {
/// use isopod::testkit::Host;
///
/// let host = Host::new()?;
/// host.on("acme:db/query#get").with(("color",)).times(1).gives("blue");
/// # const ASKS: &str = r#"(component
/// #     (import "acme:db/query@1.0.0" (instance $db (export "get" (func (param "key" string) (result string)))))
/// #     (core module $libc (memory (export "m") 1)
/// #         (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
/// #     (core instance $libc (instantiate $libc))
/// #     (core func $get (canon lower (func $db "get") (memory (core memory $libc "m")) (realloc (core func $libc "realloc"))))
/// #     (core module $m (import "" "get" (func $get (param i32 i32 i32)))
/// #         (func (export "ask") (param i32 i32) (result i32)
/// #             (call $get (local.get 0) (local.get 1) (i32.const 8)) (i32.const 8)))
/// #     (core instance $i (instantiate $m (with "" (instance (export "get" (func $get))))))
/// #     (func (export "ask") (param "key" string) (result string)
/// #         (canon lift (core func $i "ask") (memory (core memory $libc "m")) (realloc (core func $libc "realloc")))))"#;
/// let function = host.function("asks").component_wat(ASKS).load().await?;
/// assert_eq!(function.call::<String>("ask", ("color",)).await?.value, "blue");
/// assert_eq!(host.asked()[0].to_string(), r#"acme:db/query@1.0.0#get("color")"#);
///
/// let error = function.call::<String>("ask", ("size",)).await.unwrap_err();
/// assert!(error.to_string().contains(r#"expects no call acme:db/query@1.0.0#get("size")"#), "{error}");
/// # Ok(()) }
/// ```
pub struct Host {
    host: crate::Host,
    clock: Clock,
    mocks: Arc<Mocks>,
    exchanges: Arc<Exchanges>,
    store: Store,
    store_faults: Faults,
    network_faults: Faults,
    capture: Capture,
}

/// Where a test's clock begins: 2026.
const START: Duration = Duration::from_secs(1_767_225_600);

impl Host {
    /// A host of the default settings, with the seed 0.
    ///
    /// # Errors
    /// As [`build`](Host::build).
    pub fn new() -> Result<Host> {
        Host::build(crate::Host::builder(), 0)
    }

    /// A host of these settings, but for those that are the test's: clocks, randomness, network, store, meter and log. What
    /// is random for guests and in faults comes from `seed`.
    ///
    /// # Errors
    /// As [`HostBuilder::build`], and [`ErrorKind::Internal`](crate::ErrorKind::Internal) where no certificate can be made.
    pub fn build(settings: HostBuilder, seed: u64) -> Result<Host> {
        let clock = Clock::at(SystemTime::UNIX_EPOCH + START);
        let (store_faults, network_faults) = (Faults::new(seed), Faults::new(seed.wrapping_add(1)));
        let (exchanges, authority) = Exchanges::new(network_faults.clone())?;
        let (exchanges, capture) = (Arc::new(exchanges), Capture::default());
        let store = Store::new(Faulty { store: Store::memory(), faults: store_faults.clone() });
        let host = settings
            .clocks(Clocks::by(clock.clone()))
            .random(Random::seeded(seed))
            .network(Wires(Arc::clone(&exchanges)))
            .tls_root(authority)
            .store(store.clone())
            .log(capture.clone())
            .meter(capture.clone())
            .build()?;
        Ok(Host { host, clock, mocks: Arc::default(), exchanges, store, store_faults, network_faults, capture })
    }

    /// Begins to load a function, as [`Host::function`](crate::Host::function) does.
    pub fn function(&self, name: impl Into<Arc<str>>) -> FunctionBuilder {
        let mocks = Arc::clone(&self.mocks);
        self.host.function(name).import_others(move |_, import, arguments: Vec<Value>| {
            let mocks = Arc::clone(&mocks);
            async move { mocks.answer(&import, arguments.into()) }
        })
    }

    /// The host, for what this one has no word of its own for. A function that is loaded by it has no mocks.
    pub fn host(&self) -> &crate::Host {
        &self.host
    }

    /// Begins to say what an import of the components' own answers: `ns:pkg/interface#function`, with the interface's version
    /// or without, or the function alone where it is imported by itself. An interface with resources needs
    /// [`world!`](crate::world) and [`imports`](FunctionBuilder::imports), as in your application.
    pub fn on(&self, import: &str) -> Mock<'_> {
        self.mocks.on(import)
    }

    /// Begins to say what is replied to a request. A URL without a query stands for any query. What the function may reach
    /// is its grants' to say, as in your application.
    ///
    /// # Panics
    /// If it is no method, or no whole URL.
    pub fn http(&self, method: &str, url: &str) -> Exchange<'_> {
        self.exchanges.on(method, url)
    }

    /// The clock of guests whose functions are granted no other. It begins with the year 2026.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The state of its guests, to seed it and to look into it. It fails as guests see it fail.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Which operations of the store fail. Of the commits that fail, half happen all the same, as where the connection to a
    /// database is lost before the answer.
    pub fn store_faults(&self) -> &Faults {
        &self.store_faults
    }

    /// Which connections fail: half are refused, and half break before anything comes over them.
    pub fn network_faults(&self) -> &Faults {
        &self.network_faults
    }

    /// What the components' own imports were asked, in order, also what nobody expected.
    pub fn asked(&self) -> Vec<Asked> {
        self.mocks.asked()
    }

    /// The requests that came, in order, with whole URLs, also those that nobody expected.
    pub fn requests(&self) -> Vec<Request<Bytes>> {
        self.exchanges.requests()
    }

    /// What guests logged, in order.
    pub fn logged(&self) -> Vec<Logged> {
        self.capture.logged.lock().clone()
    }

    /// What calls used, in the order in which they ended.
    pub fn used(&self) -> Vec<Used> {
        self.capture.used.lock().clone()
    }

    /// What the test's end asks: whether all was as it said.
    ///
    /// # Panics
    /// If something was asked that nobody expected, or less often than was said by `times`.
    #[track_caller]
    pub fn verify(&self) {
        let unmet = [self.mocks.unmet(), self.exchanges.unmet()].concat();
        assert!(unmet.is_empty(), "{}", unmet.join("; "));
    }
}
