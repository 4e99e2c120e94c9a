//! [`Function`]: a loaded component with its limits and grants, and the handle people call it by.
//!
//! What can be wrong about a function is found while it is loaded; a call fails only for reasons of that call.

use crate::admission::Line;
use crate::call::{self, CallOptions, Options, Pace};
use crate::capability::functions::{Answer, Ask, Caller, Failure};
use crate::capability::{Binding, Bound, Clocks, Grant, Needs, Policy, Random};
use crate::context::Context;
use crate::engine::entry::Entry;
use crate::engine::export::{self, Export, Exports, Session};
use crate::engine::import::{Closure, Others};
use crate::engine::lease::{self, Blueprint, Lease, MakeImports, Prepare};
use crate::engine::linker::Given;
use crate::engine::overlap::Place;
use crate::engine::pool::Pool;
use crate::engine::reuse::Reuse;
use crate::engine::script;
use crate::engine::state::State;
use crate::engine::stock::Stock;
use crate::engine::value::Handles;
use crate::engine::{self, linker};
use crate::error::{Error, ErrorKind, Result};
use crate::host::{self, Host};
use crate::limits::{Limits, LoadLimits, Resolved, Trust};
use crate::load::{self, Loaded, Source};
use crate::refiller;
use crate::typed::{self, Link, TypedFunction};
use crate::usage::Reply;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, OnceLock, Weak};
use std::time::SystemTime;

/// A loaded component: a cheap handle, any number of which may be used from any number of tasks.
///
/// Every call gets an instance that nobody used before, unless [`reuse`](FunctionBuilder::reuse) was asked for.
#[derive(Clone)]
pub struct Function {
    inner: Arc<Inner>,
    options: Options,
}

const _: () = {
    const fn handle<T: Clone + Send + Sync + 'static>() {}
    handle::<Function>();
};

/// What all handles of a function share.
pub(crate) struct Inner {
    pub name: Arc<str>,
    pub host: Arc<host::Inner>,
    pub pool: Arc<Pool>,
    pub kind: Kind,
    /// By which exports it is that kind.
    pub entry: Entry,
    pub exports: Exports,
    /// Its seats, and the line for them.
    pub line: Line,
    pub pace: Pace,
}

/// What a component is for, told by its exports.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// Answers http requests: exports `wasi:http/incoming-handler@0.2` or `wasi:http/handler@0.3`. See
    /// [`Function::http`].
    Http,
    /// A program: exports `wasi:cli/run`. See [`Function::command`].
    Command,
    /// Handles events: exports `isopod:function/handler`. See [`Function::handle`].
    Event,
    /// A source text, and no component. See [`Host::script`].
    Script,
    /// Any other world, called by the names of its exports.
    Custom,
}

impl Kind {
    fn of<'a>(exports: impl Iterator<Item = &'a str> + Clone) -> Kind {
        let any =
            |prefixes: &[&str]| exports.clone().any(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)));
        if any(&["wasi:http/incoming-handler@0.2.", "wasi:http/handler@0.3."]) {
            Kind::Http
        } else if any(&["wasi:cli/run@0.2.", "wasi:cli/run@0.3."]) {
            Kind::Command
        } else if any(&["isopod:function/handler@"]) {
            Kind::Event
        } else {
            Kind::Custom
        }
    }

    /// The exports that make it this kind, if they are what their names say.
    fn entry(self, pre: &engine::Pre, engine: &engine::Engine) -> Option<Entry> {
        match self {
            Kind::Http => Entry::http(pre, engine),
            Kind::Command => Entry::command(pre, engine),
            Kind::Event => Entry::event(pre),
            Kind::Custom | Kind::Script => Some(Entry::Custom),
        }
    }
}

impl Inner {
    /// What a call may use.
    pub(crate) fn limits(&self) -> &Resolved {
        &self.pool.blueprint.limits
    }
}

impl Function {
    /// The name it was loaded under.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// What the component is for.
    pub fn kind(&self) -> Kind {
        self.inner.kind
    }

    /// The limits that it was loaded with, every default filled in. What a handle narrows, such as its
    /// [`deadline`](crate::CallOptions::deadline), is not in them.
    pub fn limits(&self) -> Limits {
        self.inner.limits().into()
    }

    /// Every function that the component exports, with its types; also those that [`call`](Function::call) refuses, as
    /// they have types without a JSON form, such as handles and streams.
    pub fn exports(&self) -> &[Export] {
        self.inner.exports.all()
    }

    /// Calls an export by name, with arguments from any serde value and a result into any serde type.
    ///
    /// `export` is `func`, `interface#func`, or `ns:pkg/interface[@version]#func`. Arguments are a tuple or array in
    /// the order of the parameters, or an object or struct by their names. A WIT `result` is a value, serde's own
    /// `Result`; `list<u8>` is base64 in self-describing formats such as JSON.
    ///
    /// Bytes pass in one piece, at little more than the cost of a typed call, where the function has no more than two
    /// parameters, each of them `list<u8>` or `string`, and a result of one of these or none, of `option<list<u8>>`, or
    /// of a `result` with one of these or nothing, and `string` as its error. Give them as `serde_bytes::Bytes` and
    /// take them as `serde_bytes::ByteBuf`: serde passes a `Vec<u8>` byte by byte, which takes longer.
    ///
    /// Anywhere else, in a record for example, each element of a list is a value of 40 bytes, bytes as well: a result
    /// with lists of more than some hundred thousand elements needs a higher [`Limits::transfer`]. A typed call by
    /// [`world!`](crate::world) does not.
    ///
    /// # Errors
    /// [`ErrorKind::WrongExport`] and [`ErrorKind::WrongArguments`] before the guest runs; then whatever ends a call; and
    /// [`ErrorKind::Misuse`] after it, for a result that does not fit `T`, which for a script is [`ErrorKind::Thrown`].
    pub async fn call<T: DeserializeOwned>(&self, export: &str, args: impl Serialize) -> Result<Reply<T>> {
        if let Entry::Script(script) = &self.inner.entry {
            let input = script::input(export, &args, self.inner.limits());
            drop(args);
            let input = input.map_err(|error| error.of(&self.inner.name))?;
            let limits = self.inner.limits();
            return call::run(&self.inner, &self.options, None, async |lease| script.call(lease, input, limits).await)
                .await;
        }
        let ready = export::prepare(&self.inner.exports, export, &args, self.inner.limits());
        drop(args);
        let ready = ready.map_err(|error| error.of(&self.inner.name))?;
        if ready.overlaps() && call::is_shared(&self.inner, &self.options) {
            let work = async |place: &mut Place| export::invoke_among(place, ready).await;
            return call::run_among(&self.inner, &self.options, work).await;
        }
        let limits = self.inner.limits();
        let work = async |lease: &mut Lease| export::invoke(lease, ready, &mut Handles::default(), limits).await;
        call::run(&self.inner, &self.options, None, work).await
    }

    /// Several calls in one instance, for guests with resources or state: a fresh one, or with
    /// [`reuse`](FunctionBuilder::reuse) one that was kept. Together they are one call: one set of limits, one receipt.
    ///
    /// # Errors
    /// What the body gives; then whatever ends a call.
    pub async fn session<R>(&self, body: impl AsyncFnOnce(&mut Session<'_>) -> Result<R>) -> Result<Reply<R>> {
        let limits = self.inner.limits();
        let work = async |lease: &mut Lease| {
            let mut session = Session::new(lease, &self.inner.exports, limits);
            Ok(body(&mut session).await?)
        };
        call::run(&self.inner, &self.options, None, work).await
    }

    /// [`call`](Function::call) for callers without async. See [`block_on`](crate::block_on).
    pub fn call_blocking<T: DeserializeOwned>(&self, export: &str, args: impl Serialize) -> Result<Reply<T>> {
        crate::block_on(self.call(export, args))
    }

    /// Instances that wait for a call: those that [`prewarm`](FunctionBuilder::prewarm) has ready, and those that
    /// [`reuse`](FunctionBuilder::reuse) keeps.
    pub fn idle(&self) -> usize {
        self.inner.pool.idle()
    }

    /// Starts what is missing of the instances that [`prewarm`](FunctionBuilder::prewarm) keeps ready, here and now. A
    /// thread of the host does that by itself; where calls come from a loop that has time after each answer, this is
    /// quicker, as the instance stays with the processor that will use it. It takes as long as the guests take to start.
    /// One that fails to start is told as a `tracing` event of level `WARN`, and [`idle`](Function::idle) says how many there
    /// are. Without prewarm there is nothing to start.
    pub async fn restock(&self) {
        refiller::fill_now(&self.inner.pool, &self.inner.host).await;
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    pub(crate) fn shared_name(&self) -> &Arc<str> {
        &self.inner.name
    }

    /// The error for a surface that this component does not have.
    pub(crate) fn require(&self, kind: Kind, surface: &str, export: &str) -> Result<()> {
        if self.inner.kind == kind {
            return Ok(());
        }
        let text = format!("`{surface}` needs a component that exports {export}; this one is {:?}", self.inner.kind);
        Err(Error::new(ErrorKind::WrongExport, text).of(&self.inner.name))
    }
}

/// The functions of a host that others may call, by name.
#[derive(Default)]
pub(crate) struct Registry(Mutex<HashMap<Arc<str>, Weak<Inner>>>);

impl Registry {
    fn add(&self, function: &Arc<Inner>) {
        let mut known = self.0.lock();
        // Now and then, so that it does not grow with functions that are gone.
        if known.len() == known.capacity() {
            known.retain(|_, function| function.strong_count() > 0);
        }
        known.insert(Arc::clone(&function.name), Arc::downgrade(function));
    }

    fn find(&self, name: &str) -> Option<Arc<Inner>> {
        self.0.lock().get(name).and_then(Weak::upgrade)
    }
}

impl Caller for host::Inner {
    fn call(&self, ask: Ask) -> Pin<Box<dyn Future<Output = Answer> + Send + '_>> {
        Box::pin(async move {
            let Some(inner) = self.functions.find(&ask.function) else {
                return Answer { result: Err(Failure::Missing), fuel: 0 };
            };
            let function = Function { inner, options: Options::nested(ask.tenant, ask.within) };
            let ended = function.call::<serde_json::Value>(&ask.export, ask.arguments).await;
            let usage = ended.as_ref().map_or_else(Error::usage, |reply| reply.usage);
            // A call that is metered by time costs a caller that counts a unit for each nanosecond.
            let fuel = usage.fuel.unwrap_or(usage.busy.as_nanos() as u64);
            Answer { result: ended.map(|reply| reply.value).map_err(Failure::Call), fuel }
        })
    }
}

impl CallOptions for Function {
    fn options(&self) -> &Options {
        &self.options
    }

    fn with_options(&self, options: Options) -> Function {
        Function { inner: Arc::clone(&self.inner), options }
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function").field("name", &self.name()).field("kind", &self.kind()).finish_non_exhaustive()
    }
}

/// How a function is to be loaded. Made by [`Host::function`].
pub struct FunctionBuilder<U = ()> {
    settings: Settings,
    imports: Option<MakeImports>,
    _imports: PhantomData<fn() -> U>,
}

/// All of it that does not depend on the type of the imports.
struct Settings {
    host: Host,
    name: Arc<str>,
    source: Option<Source>,
    load_limits: Option<LoadLimits>,
    limits: Limits,
    grants: Vec<Grant>,
    needs: Option<Needs>,
    deny_at_call: bool,
    callable: bool,
    prewarm: Option<u32>,
    reuse: Option<Reuse>,
    /// The seed of a function that answers alike.
    seed: Option<u64>,
    closures: Vec<Closure>,
    others: Option<Others>,
}

/// What cannot be had together with calls that answer alike.
pub(crate) fn varies(limits: &Resolved, reuse: Option<&Reuse>, grants: &[Grant]) -> Option<&'static str> {
    if limits.fuel.is_none() {
        return Some("limits that count time, which no two calls take alike; set `Limits::fuel`");
    }
    if reuse.is_some() {
        return Some("`reuse`, by which a call finds what others left; remove it");
    }
    if grants.iter().any(Grant::is_of_the_machine) {
        return Some("the machine's clocks or its randomness; see `Clocks::simulated` and `Random::seeded`");
    }
    None
}

/// What a load without a world links.
const NOTHING: Option<fn(&mut engine::Linker) -> engine::LinkResult> = None;

impl FunctionBuilder {
    pub(crate) fn new(host: Host, name: Arc<str>) -> FunctionBuilder {
        let settings = Settings {
            host,
            name,
            source: None,
            load_limits: None,
            limits: Limits::default(),
            grants: Vec::new(),
            needs: None,
            deny_at_call: false,
            callable: false,
            prewarm: None,
            reuse: None,
            seed: None,
            closures: Vec::new(),
            others: None,
        };
        FunctionBuilder { settings, imports: None, _imports: PhantomData }
    }

    /// Host functions for the component's own imports: a value that implements the traits which `world!` made of
    /// them, for [`load_typed`](FunctionBuilder::load_typed). Each call gets a clone; put what is to be shared into an
    /// `Arc`. Without a world, see [`import`](FunctionBuilder::import).
    pub fn imports<V: Clone + Send + Sync + 'static>(self, imports: V) -> FunctionBuilder<V> {
        self.making(move |_| imports.clone())
    }

    /// Host functions made anew for each call, which `make` is told about.
    pub fn imports_with<V: Send + 'static>(
        self,
        make: impl Fn(Context) -> V + Send + Sync + 'static,
    ) -> FunctionBuilder<V> {
        self.making(move |state| make(state.context()))
    }

    fn making<V: Send + 'static>(self, make: impl Fn(&mut State) -> V + Send + Sync + 'static) -> FunctionBuilder<V> {
        let imports: MakeImports = Box::new(move |state| Box::new(make(state)));
        FunctionBuilder { settings: self.settings, imports: Some(imports), _imports: PhantomData }
    }

    /// Compiles and checks the component, to be called by the names of its exports.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidComponent`], [`ErrorKind::TooComplex`], [`ErrorKind::UngrantedImport`],
    /// [`ErrorKind::OutOfMemory`] for a component that starts with more than its limit, [`ErrorKind::WrongExport`] for
    /// one whose exports are not what their names say, or [`ErrorKind::Misuse`] for settings that contradict each other
    /// or have no effect, for secrets, settings, variables and directories that cannot be had, and outside of a tokio
    /// runtime. [`ErrorKind::Overloaded`] where the operating system has no memory for its code, and
    /// [`ErrorKind::Cancelled`] where the runtime is shut down meanwhile. With [`prewarm`](FunctionBuilder::prewarm) also
    /// how a call ends whose instance fails to start: [`ErrorKind::Trapped`], [`ErrorKind::TimedOut`] or
    /// [`ErrorKind::OutOfFuel`].
    pub async fn load(self) -> Result<Function> {
        self.load_with(&[], NOTHING, |_| Ok(None)).await
    }

    /// [`load`](FunctionBuilder::load) for callers without async. See [`block_on`](crate::block_on).
    pub fn load_blocking(self) -> Result<Function> {
        let name = Arc::clone(&self.settings.name);
        let built = crate::blocking::in_place(|| self.build(&[], NOTHING, |_| Ok(None)));
        let built = built.map_err(|error| error.of(&name))?;
        if built.probe.is_some() { crate::block_on(built.stocked()) } else { Ok(built.done()) }
    }
}

impl<U: Send + 'static> FunctionBuilder<U> {
    /// The component in that file, or what [`Host::precompile`] made of it.
    pub fn component_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.source = Some(Source::File(path.into()));
        self
    }

    /// The component in these bytes, or what [`Host::precompile`] made of it. A stranger's unless
    /// [`trust`](FunctionBuilder::trust) says otherwise, or it is precompiled.
    pub fn component_bytes(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.settings.source = Some(Source::Bytes(bytes.into()));
        self
    }

    /// The component in this text: the WebAssembly text format.
    pub fn component_wat(mut self, text: impl Into<String>) -> Self {
        self.settings.source = Some(Source::Text(text.into()));
        self
    }

    /// Whose component it is, which decides what it may look like. Default: [`Trust::Own`] for files and text,
    /// [`Trust::Untrusted`] for bytes.
    pub fn trust(mut self, trust: Trust) -> Self {
        self.settings.load_limits = Some(trust.into());
        self
    }

    /// What the component may look like, if neither kind of [`Trust`] fits. Overrides it.
    pub fn load_limits(mut self, limits: LoadLimits) -> Self {
        self.settings.load_limits = Some(limits);
        self
    }

    /// What each call may use.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// Permission for one capability. Whatever is not granted cannot be reached.
    pub fn grant(mut self, grant: impl Into<Grant>) -> Self {
        self.settings.grants.push(grant.into());
        self
    }

    /// All grants of a policy, besides those given by [`grant`](FunctionBuilder::grant).
    pub fn policy(mut self, policy: Policy) -> Self {
        self.settings.grants.extend(policy.into_grants());
        self
    }

    /// What the component needs, in the words of whoever made it; what is granted beyond it is not given. Overrides what
    /// the component itself says in its custom section `isopod:policy`. See [`Needs`].
    pub fn needs(mut self, needs: Needs) -> Self {
        self.settings.needs = Some(needs);
        self
    }

    /// Lets other functions call it by its name, if they are granted [`Functions`](crate::Functions) of that name. It takes
    /// the place of one that was loaded under the same name before.
    pub fn callable(mut self) -> Self {
        self.settings.callable = true;
        self
    }

    /// Keeps up to this many instances ready that are started and were never used, so that a call is answered as fast as by
    /// a used one. Those that calls take are replaced by a thread of the host, and by callers in
    /// [`block_on`](crate::block_on), which start new ones for about a millisecond when they have their answer; a call that
    /// finds none starts its own. Where they find none as often as one is made, the thread makes but a few each 10 ms, and leaves
    /// them the processor. The number in stock falls while nobody calls, rises again with calls that found none, and
    /// instances give way where other calls need their slots. Each holds the guest's memory.
    ///
    /// While such an instance starts there is no call, and no tenant: of the imports only clocks, randomness, the
    /// environment and logs answer, and nothing is granted. A guest that calls anything else as it starts cannot be
    /// prewarmed. What it logs then, the first call has in its output. Of instances that have run code, at most 1 024 wait;
    /// see [`HostBuilder::instances`](crate::HostBuilder::instances).
    ///
    /// Loading starts them, for as long as one call may take; the rest come soon after. It fails as
    /// [`ErrorKind::Misuse`] for 0, for more than [`HostBuilder::instances`](crate::HostBuilder::instances), and for a
    /// guest that cannot be prewarmed, with the import that it called; and as a call would for one that fails to start.
    pub fn prewarm(mut self, instances: u32) -> Self {
        self.settings.prewarm = Some(instances);
        self
    }

    /// Lets one instance serve several calls. See [`Reuse`] for what that gives up. Default: an instance for each call.
    ///
    /// Loading fails as [`ErrorKind::Misuse`] for what [`Reuse`]'s own settings say, and for a program
    /// ([`Kind::Command`]), which starts once.
    pub fn reuse(mut self, reuse: Reuse) -> Self {
        self.settings.reuse = Some(reuse);
        self
    }

    /// The same answer for the same arguments, with the same output and the same fuel used, in each call and in each process
    /// that loads this component by this version of isopod on this kind of machine: the randomness of each call comes from
    /// `seed`, and its clocks are [simulated](crate::Clocks::simulated) from 1970 on, unless it is granted others. Where a
    /// computation gives a NaN, it is the canonical one, as in all functions with [`Limits::fuel`].
    ///
    /// What reaches outside answers as it does: http, files, state, other functions, host functions of yours. A call that
    /// runs into its deadline ends wherever it stood, so give it one that the fuel ends before; and how deep a guest may
    /// recurse until its stack is full depends on the code that its host compiles, such as by [`Profile`](crate::Profile).
    ///
    /// Loading fails as [`ErrorKind::Misuse`] without [`Limits::fuel`], with [`reuse`](FunctionBuilder::reuse), and with
    /// grants of the machine's clocks or randomness.
    pub fn deterministic(mut self, seed: u64) -> Self {
        self.settings.seed = Some(seed);
        self
    }

    /// Load the component even if it imports what was not granted: a call that uses such an import ends as
    /// [`ErrorKind::Denied`]. For components whose toolchain imports interfaces that they never call.
    pub fn deny_at_call(mut self) -> Self {
        self.settings.deny_at_call = true;
        self
    }

    /// One host function for an import of the component, by name and with serde values: what it is called with is any
    /// type that serde can read, a tuple by position or a struct by the names of the parameters, and what it gives is
    /// any type that serde can write; a WIT `result` is serde's own `Result`. `interface` is `ns:pkg/interface`, with
    /// its version or without, and empty for a function that is imported by itself.
    ///
    /// It runs as part of the call, under its limits and its deadline, and ends with it. What serves an `async func` goes on
    /// beside the guest, as a task of the caller's runtime, and is not in the call's busy time. A panic in it ends the call as
    /// [`ErrorKind::HostPanic`], and values that do not fit the import's types as [`ErrorKind::Misuse`]. An interface
    /// with resources needs [`world!`](crate::world).
    ///
    /// ```
    /// # async fn run(host: isopod::Host) -> isopod::Result<()> {
    /// let function = host
    ///     .function("report")
    ///     .component_file("report.wasm")
    ///     .import("acme:db/query", "get", async |context, (key,): (String,)| -> Option<String> {
    ///         println!("{} asks for {key}", context.function());
    ///         None
    ///     })
    ///     .load()
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub fn import<A, R, Fut>(
        mut self,
        interface: &str,
        function: &str,
        call: impl Fn(Context, A) -> Fut + Send + Sync + 'static,
    ) -> Self
    where
        A: DeserializeOwned,
        R: Serialize,
        Fut: Future<Output = R> + Send + 'static,
    {
        self.settings.closures.push(Closure::new(interface, function, call));
        self
    }

    /// One host function for all functions that the component imports and that nothing else serves, of interfaces that are
    /// nobody's standard (`wasi:`, `isopod:`) and have no resources; there may be none: to pass such calls on, to another process for one, or to
    /// answer them in a test. It is given the import, as `ns:pkg/interface@1.0.0#function`, and the arguments by position; in
    /// all else it is as one of [`import`](FunctionBuilder::import).
    ///
    /// ```
    /// # async fn run(host: isopod::Host) -> isopod::Result<()> {
    /// use serde_json::{Value, json};
    ///
    /// let function = host
    ///     .function("report")
    ///     .component_file("report.wasm")
    ///     .import_others(async |_, import, arguments: Vec<Value>| {
    ///         println!("{import} is asked with {arguments:?}");
    ///         json!(null)
    ///     })
    ///     .load()
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub fn import_others<A, R, Fut>(
        mut self,
        call: impl Fn(Context, Arc<str>, A) -> Fut + Send + Sync + 'static,
    ) -> Self
    where
        A: DeserializeOwned,
        R: Serialize,
        Fut: Future<Output = R> + Send + 'static,
    {
        self.settings.others = Some(Others::new(call));
        self
    }

    /// Compiles and checks the component against a world, and gives the world's typed handle.
    ///
    /// # Errors
    /// As [`load`](FunctionBuilder::load), and [`ErrorKind::WrongExport`] for exports that differ from the world's.
    pub async fn load_typed<W: Link<U>>(self) -> Result<W::Handle> {
        let name = Arc::clone(&self.settings.name);
        let found = Arc::new(OnceLock::new());
        let find = {
            let found = Arc::clone(&found);
            move |pre: &engine::Pre| {
                let (indices, prepare) = typed::indices::<W>(pre)?;
                let _ = found.set(indices);
                Ok(Some(prepare))
            }
        };
        let function = self.load_with(W::IMPORTS, Some(W::link), find).await?;
        let indices = found.get().cloned();
        let indices = indices
            .ok_or_else(|| Error::new(ErrorKind::Internal, "its exports are lost; please report this").of(&name))?;
        Ok(W::handle(TypedFunction::new(function, indices)))
    }

    async fn load_with(
        self,
        provided: &'static [&'static str],
        link: Option<impl FnOnce(&mut engine::Linker) -> engine::LinkResult + Send + 'static>,
        find: impl FnOnce(&engine::Pre) -> Result<Option<Prepare>> + Send + 'static,
    ) -> Result<Function> {
        let name = Arc::clone(&self.settings.name);
        // Compiling takes milliseconds to seconds.
        let built = crate::blocking::unblock(move || self.build(provided, link, find)).await;
        built.map_err(|error| error.of(&name))?.stocked().await
    }

    fn build(
        self,
        provided: &[&str],
        link: Option<impl FnOnce(&mut engine::Linker) -> engine::LinkResult>,
        find: impl FnOnce(&engine::Pre) -> Result<Option<Prepare>>,
    ) -> Result<Built> {
        let FunctionBuilder { mut settings, imports, .. } = self;
        let limits = settings.limits.resolve()?;
        let Some(source) = settings.source.take() else {
            return Err(Error::new(
                ErrorKind::Misuse,
                "no component was given; add `.component_file(..)`, `.component_bytes(..)` or `.component_wat(..)`",
            ));
        };
        let host = Arc::clone(&settings.host.0);
        if let Some(why) = settings.reuse.as_ref().and_then(|reuse| reuse.check(&limits, imports.is_some()).err()) {
            return Err(Error::new(ErrorKind::Misuse, why));
        }
        if let Some(why) = settings.seed.and_then(|_| varies(&limits, settings.reuse.as_ref(), &settings.grants)) {
            let text = format!("`.deterministic(..)` excludes {why}");
            return Err(Error::new(ErrorKind::Misuse, text));
        }
        let (clocks, random) = match settings.seed {
            Some(seed) => (Clocks::simulated(SystemTime::UNIX_EPOCH), Random::seeded(seed)),
            None => (host.clocks.clone(), host.random.clone()),
        };
        let mut loaded = load::load(source, settings.load_limits, &limits, &host)?;
        let needs = match settings.needs {
            Some(needs) => Some(needs),
            None => loaded.needs()?,
        };
        let Loaded { engine, component, width, starts, .. } = loaded;
        if let Some(prewarm) = settings.prewarm {
            has_room(prewarm, width, &host)?;
        }
        let imported = linker::imports(&component, &engine);
        let bound = Bound::bind(
            settings.grants,
            Binding {
                function: &settings.name,
                imports: &imported,
                limits: &limits,
                clock: &host.clock,
                wires: &host.wires,
                store: &host.store,
                disk: &host.disk,
                audit: &host.audit,
                secrets: &host.secrets,
                clocks: &clocks,
                random: &random,
                sink: host.sink.as_ref(),
                caller: &(Arc::clone(&host) as Arc<dyn Caller>),
                needs: needs.as_ref(),
            },
        )?;
        let given = Given { provided, link, closures: settings.closures, others: settings.others };
        let linker = linker::wire(&engine, &component, &bound, given, settings.deny_at_call)?;
        let pre = linker.instantiate_pre(&component).map_err(|e| linker::wrong_import(&e))?;
        let exports = export::list(&component, &engine);
        let names = component.component_type();
        let names: Vec<&str> = names.exports(&engine.wasmtime).map(|(name, _)| name).collect();
        let kind = Kind::of(names.iter().copied());
        let Some(entry) = kind.entry(&pre, &engine) else {
            let text = format!(
                "its exports are named as those of a {kind:?} function, and have other types or another version; build it against the current WIT"
            );
            return Err(Error::new(ErrorKind::WrongExport, text));
        };
        if kind == Kind::Command && settings.reuse.is_some() {
            let text = "a program has its arguments, environment and input as it starts, and starts once: `reuse` would give it those of another call; remove it";
            return Err(Error::new(ErrorKind::Misuse, text));
        }
        let overlaps = match entry {
            Entry::Http03(_) => true,
            Entry::Custom => exports.overlap(),
            _ => false,
        };
        if settings.reuse.as_ref().is_some_and(Reuse::is_overlapping) && !overlaps {
            let text = "`Reuse::overlapping` has no effect: of the component's exports none can overlap, as none is an `async func` or a handler of http of WASI 0.3; remove it";
            return Err(Error::new(ErrorKind::Misuse, text));
        }
        let prepare = find(&pre)?;
        let (mut stock, mut probe) = (None, None);
        if let Some(prewarm) = settings.prewarm {
            stock = Some(Stock::new(prewarm, Arc::new(bound.early())));
            let without = linker::without_call(&engine, &component, &linker).map_err(|e| linker::wrong_import(&e))?;
            probe = Some(without.instantiate_pre(&component).map_err(|e| linker::wrong_import(&e))?);
        }
        let blueprint = Blueprint {
            engine,
            pre,
            limits,
            fuel_interval: lease::fuel_interval(&component),
            tick: host.ticker.tick(),
            bound: Arc::new(bound),
            imports,
            prepare,
            width,
            starts,
        };
        let Settings { name, reuse, callable, .. } = settings;
        Parts { name, host, blueprint, stock, reuse, kind, entry, exports, probe, callable }.assemble()
    }
}

/// Whether so many instances may be kept ready.
pub(crate) fn has_room(prewarm: u32, width: u32, host: &host::Inner) -> Result<()> {
    let (slots, has) = (u64::from(prewarm) * u64::from(width), host.engines.sizes.instances);
    let text = match slots {
        0 => "`.prewarm(0)` keeps no instance ready; raise it, or remove it".to_owned(),
        _ if slots > has.into() => format!(
            "`.prewarm({prewarm})` needs {slots} slots, and the host has {has}; lower it, or raise `HostBuilder::instances`"
        ),
        _ => return Ok(()),
    };
    Err(Error::new(ErrorKind::Misuse, text))
}

/// All that a function is made of.
pub(crate) struct Parts {
    pub name: Arc<str>,
    pub host: Arc<host::Inner>,
    pub blueprint: Blueprint,
    pub stock: Option<Stock>,
    pub reuse: Option<Reuse>,
    pub kind: Kind,
    pub entry: Entry,
    pub exports: Exports,
    /// If it is to be prewarmed, what shows whether it can be.
    pub probe: Option<engine::Pre>,
    pub callable: bool,
}

impl Parts {
    pub(crate) fn assemble(self) -> Result<Built> {
        let Parts { name, host, blueprint, stock, reuse, kind, entry, exports, probe, callable } = self;
        if stock.is_some() || reuse.is_some() {
            host.refiller.start(&host.clock, &host.ticker)?;
        }
        let Resolved { concurrency, queue, .. } = blueprint.limits;
        let line = Line::new(&host.admission, concurrency, blueprint.width, queue);
        let pool = Pool::new(blueprint, Arc::clone(&host.slots), stock, reuse);
        let inner = Inner { name, host, pool, kind, entry, exports, line, pace: Pace::default() };
        Ok(Built { inner: Arc::new(inner), probe, callable })
    }
}

/// A function that nobody has yet.
pub(crate) struct Built {
    inner: Arc<Inner>,
    /// If it is to be prewarmed, what shows whether it can be.
    probe: Option<engine::Pre>,
    callable: bool,
}

impl Built {
    /// Fills its stock.
    pub(crate) async fn stocked(self) -> Result<Function> {
        let Inner { pool, host, name, .. } = &*self.inner;
        if let Some(probe) = &self.probe {
            let started = async {
                call::start_early(pool, probe, &host.clock, &host.ticker).await?;
                refiller::stock_up(pool, host).await
            };
            started.await.map_err(|error| error.of(name))?;
        }
        Ok(self.done())
    }

    fn done(self) -> Function {
        if self.callable {
            self.inner.host.functions.add(&self.inner);
        }
        Function { inner: self.inner, options: Options::default() }
    }
}

#[cfg(test)]
mod tests;
