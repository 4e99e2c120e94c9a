//! [`Function`]: a loaded component with its limits and grants, and the handle people call it by.
//!
//! What can be wrong about a function is found while it is loaded; a call fails only for reasons of that call.

use crate::admission::Line;
use crate::call::{self, CallOptions, Options, Pace};
use crate::capability::functions::{Answer, Ask, Caller, Failure};
use crate::capability::{Binding, Bound, Grant, Needs, Policy, policy};
use crate::context::Context;
use crate::engine::export::{self, Export, Session};
use crate::engine::import::Closure;
use crate::engine::linker::Given;
use crate::engine::pool::{self, Blueprint, Lease, MakeImports};
use crate::engine::precheck::{self, Bounds, Refusal};
use crate::engine::state::State;
use crate::engine::value::Handles;
use crate::engine::{self, Flavour, linker};
use crate::error::{Error, ErrorKind, Result};
use crate::host::{self, Host};
use crate::limits::{Limits, LoadLimits, Trust};
use crate::typed::{Link, TypedFunction};
use crate::usage::Reply;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Weak};

/// A loaded component: a cheap handle, any number of which may be used from any number of tasks.
///
/// Every call gets an instance that nobody used before.
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
    pub blueprint: Blueprint,
    pub kind: Kind,
    pub exports: Vec<Export>,
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

    /// Whether the exports that make it this kind are what their names say.
    fn is_served_by(self, pre: &engine::Pre, engine: &engine::Engine) -> bool {
        match self {
            Kind::Http => engine::http::serves(pre, engine),
            Kind::Command => engine::command::runs(pre, engine),
            Kind::Event => crate::bindings::FunctionIndices::new(pre).is_ok(),
            Kind::Custom => true,
        }
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

    /// Every function that the component exports and that [`call`](Function::call) can call, with its types.
    pub fn exports(&self) -> &[Export] {
        &self.inner.exports
    }

    /// Calls an export by name, with arguments from any serde value and a result into any serde type.
    ///
    /// `export` is `func`, `interface#func`, or `ns:pkg/interface[@version]#func`. Arguments are a tuple or array in
    /// the order of the parameters, or an object or struct by their names. A WIT `result` is a value, serde's own
    /// `Result`; `list<u8>` is base64 in self-describing formats such as JSON.
    ///
    /// Each element of a list is a value of 40 bytes here, bytes as well. A result with lists of more than some hundred
    /// thousand elements needs a higher [`Limits::transfer`]; a typed call by [`world!`](crate::world) does not.
    ///
    /// # Errors
    /// [`ErrorKind::WrongExport`] and [`ErrorKind::WrongArguments`] before the guest runs; then whatever ends a call; and
    /// [`ErrorKind::Misuse`] after it, for a result that does not fit `T`.
    pub async fn call<T: DeserializeOwned>(&self, export: &str, args: impl Serialize) -> Result<Reply<T>> {
        let ready = export::prepare(&self.inner.exports, export, &args, &self.inner.blueprint.limits);
        drop(args);
        let ready = ready.map_err(|error| error.of(&self.inner.name))?;
        let limits = &self.inner.blueprint.limits;
        let work = async |lease: &mut Lease| export::invoke(lease, ready, &mut Handles::default(), limits).await;
        call::run(&self.inner, &self.options, None, work).await
    }

    /// Several calls in one fresh instance, for guests with resources or state. Together they are one call: one set of
    /// limits, one receipt.
    ///
    /// # Errors
    /// What the body gives; then whatever ends a call.
    pub async fn session<R>(&self, body: impl AsyncFnOnce(&mut Session<'_>) -> Result<R>) -> Result<Reply<R>> {
        let limits = &self.inner.blueprint.limits;
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
    host: Host,
    name: Arc<str>,
    source: Option<Source>,
    load_limits: Option<LoadLimits>,
    limits: Limits,
    grants: Vec<Grant>,
    needs: Option<Needs>,
    deny_at_call: bool,
    callable: bool,
    closures: Vec<Closure>,
    imports: Option<MakeImports>,
    _imports: PhantomData<fn() -> U>,
}

enum Source {
    File(PathBuf),
    Bytes(Vec<u8>),
    Text(String),
}

impl FunctionBuilder {
    pub(crate) fn new(host: Host, name: Arc<str>) -> FunctionBuilder {
        FunctionBuilder {
            host,
            name,
            source: None,
            load_limits: None,
            limits: Limits::default(),
            grants: Vec::new(),
            needs: None,
            deny_at_call: false,
            callable: false,
            closures: Vec::new(),
            imports: None,
            _imports: PhantomData,
        }
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
        FunctionBuilder {
            host: self.host,
            name: self.name,
            source: self.source,
            load_limits: self.load_limits,
            limits: self.limits,
            grants: self.grants,
            needs: self.needs,
            deny_at_call: self.deny_at_call,
            callable: self.callable,
            closures: self.closures,
            imports: Some(Box::new(move |state| Box::new(make(state)))),
            _imports: PhantomData,
        }
    }

    /// Compiles and checks the component, to be called by the names of its exports.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidComponent`], [`ErrorKind::TooComplex`], [`ErrorKind::UngrantedImport`],
    /// [`ErrorKind::OutOfMemory`] for a component that starts with more than its limit, [`ErrorKind::WrongExport`] for
    /// one whose exports are not what their names say, or [`ErrorKind::Misuse`] for settings that contradict each other
    /// or have no effect, for secrets, settings, variables and directories that cannot be had, and outside of a tokio
    /// runtime.
    pub async fn load(self) -> Result<Function> {
        self.load_with(&[], |_| Ok(())).await
    }

    /// [`load`](FunctionBuilder::load) for callers without async. See [`block_on`](crate::block_on).
    pub fn load_blocking(self) -> Result<Function> {
        crate::block_on(self.load())
    }
}

impl<U: Send + 'static> FunctionBuilder<U> {
    /// The component in that file.
    pub fn component_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.source = Some(Source::File(path.into()));
        self
    }

    /// The component in these bytes. A stranger's unless [`trust`](FunctionBuilder::trust) says otherwise.
    pub fn component_bytes(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.source = Some(Source::Bytes(bytes.into()));
        self
    }

    /// The component in this text: the WebAssembly text format.
    pub fn component_wat(mut self, text: impl Into<String>) -> Self {
        self.source = Some(Source::Text(text.into()));
        self
    }

    /// Whose component it is, which decides what it may look like. Default: [`Trust::Own`] for files and text,
    /// [`Trust::Untrusted`] for bytes.
    pub fn trust(mut self, trust: Trust) -> Self {
        self.load_limits = Some(trust.into());
        self
    }

    /// What the component may look like, if neither kind of [`Trust`] fits. Overrides it.
    pub fn load_limits(mut self, limits: LoadLimits) -> Self {
        self.load_limits = Some(limits);
        self
    }

    /// What each call may use.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Permission for one capability. Whatever is not granted cannot be reached.
    pub fn grant(mut self, grant: impl Into<Grant>) -> Self {
        self.grants.push(grant.into());
        self
    }

    /// All grants of a policy, besides those given by [`grant`](FunctionBuilder::grant).
    pub fn policy(mut self, policy: Policy) -> Self {
        self.grants.extend(policy.into_grants());
        self
    }

    /// What the component needs, in the words of whoever made it; what is granted beyond it is not given. Overrides what
    /// the component itself says in its custom section `isopod:policy`. See [`Needs`].
    pub fn needs(mut self, needs: Needs) -> Self {
        self.needs = Some(needs);
        self
    }

    /// Lets other functions call it by its name, if they are granted [`Functions`](crate::Functions) of that name. It takes
    /// the place of one that was loaded under the same name before.
    pub fn callable(mut self) -> Self {
        self.callable = true;
        self
    }

    /// Load the component even if it imports what was not granted: a call that uses such an import ends as
    /// [`ErrorKind::Denied`]. For components whose toolchain imports interfaces that they never call.
    pub fn deny_at_call(mut self) -> Self {
        self.deny_at_call = true;
        self
    }

    /// One host function for an import of the component, by name and with serde values: what it is called with is any
    /// type that serde can read, a tuple by position or a struct by the names of the parameters, and what it gives is
    /// any type that serde can write; a WIT `result` is serde's own `Result`. `interface` is `ns:pkg/interface`, with
    /// its version or without, and empty for a function that is imported by itself.
    ///
    /// It runs as part of the call, under its limits and its deadline; a panic in it ends the call as
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
        self.closures.push(Closure::new(interface, function, call));
        self
    }

    /// Compiles and checks the component against a world, and gives the world's typed handle.
    ///
    /// # Errors
    /// As [`load`](FunctionBuilder::load), and [`ErrorKind::WrongExport`] for exports that differ from the world's.
    pub async fn load_typed<W: Link<U>>(self) -> Result<W::Handle> {
        let function = self.load_with(W::IMPORTS, W::link).await?;
        Ok(W::handle(TypedFunction::new(function)?))
    }

    async fn load_with(
        self,
        provided: &'static [&'static str],
        link: impl FnOnce(&mut engine::Linker) -> engine::LinkResult + Send + 'static,
    ) -> Result<Function> {
        let (name, callable) = (Arc::clone(&self.name), self.callable);
        // Compiling takes milliseconds to seconds: not on a thread that runs others' tasks.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            let text = "loading needs a tokio runtime; call it in one, or use `load_blocking`";
            return Err(Error::new(ErrorKind::Misuse, text).of(&name));
        };
        let loaded = runtime.spawn_blocking(move || self.build(provided, link)).await.unwrap_or_else(|e| {
            Err(if e.is_cancelled() {
                Error::new(ErrorKind::Cancelled, "the runtime was shut down while it was loaded")
            } else {
                Error::new(ErrorKind::Internal, "loading failed; please report this").because([e.to_string()])
            })
        });
        let inner = Arc::new(loaded.map_err(|error| error.of(&name))?);
        if callable {
            inner.host.functions.add(&inner);
        }
        Ok(Function { inner, options: Options::default() })
    }

    fn build(self, provided: &[&str], link: impl FnOnce(&mut engine::Linker) -> engine::LinkResult) -> Result<Inner> {
        let limits = self.limits.resolve()?;
        let Some(source) = self.source else {
            return Err(Error::new(
                ErrorKind::Misuse,
                "no component was given; add `.component_file(..)`, `.component_bytes(..)` or `.component_wat(..)`",
            ));
        };
        let bounds = self.load_limits.unwrap_or_else(|| source.default_trust().into());
        if bounds.instances > LoadLimits::MAX_INSTANCES {
            let text = format!(
                "a core_instances limit of {} is beyond what the pool holds; at most {}",
                bounds.instances,
                LoadLimits::MAX_INSTANCES
            );
            return Err(Error::new(ErrorKind::Misuse, text));
        }
        let bytes = source.read(bounds.bytes)?;
        let facts = precheck::inspect(
            &bytes,
            Bounds {
                bytes: bounds.bytes,
                functions: bounds.functions,
                instances: bounds.instances,
                adapters: bounds.adapters,
                nesting: bounds.nesting,
                values: bounds.values,
            },
        )
        .map_err(refused)?;
        let host = self.host.0;
        let flavour = Flavour { asynchronous: facts.asynchronous, fuel: limits.fuel.is_some() };
        // A composed component with async may stand still in each of its parts at once, on a stack for each.
        let width = if facts.asynchronous { facts.parts } else { 1 };
        if width > host.engines.seats() {
            let text = format!(
                "the component has {width} parts that may wait at once, and the host {} seats, so that no call could run; raise `HostBuilder::seats`",
                host.engines.seats()
            );
            return Err(Error::new(ErrorKind::TooComplex, text));
        }
        let engine = host.engines.get(flavour, &host.ticker)?;
        let component = engine::compile(&engine, &bytes, &limits)?;
        let imported = linker::imports(&component, &engine);
        let needs = match self.needs {
            Some(needs) => Some(needs),
            None => own_needs(&bytes)?,
        };
        let bound = Bound::bind(
            self.grants,
            Binding {
                function: &self.name,
                imports: &imported,
                limits: &limits,
                clock: &host.clock,
                wires: &host.wires,
                store: &host.store,
                disk: &host.disk,
                audit: &host.audit,
                secrets: &host.secrets,
                sink: host.sink.as_ref(),
                caller: &(Arc::clone(&host) as Arc<dyn Caller>),
                needs: needs.as_ref(),
            },
        )?;
        let given = Given { provided, link, closures: self.closures };
        let linker = linker::wire(&engine, &component, &bound, given, self.deny_at_call)?;
        let pre = linker.instantiate_pre(&component).map_err(|e| linker::wrong_import(&e))?;
        let exports = export::list(&component, &engine);
        let names = component.component_type();
        let names: Vec<&str> = names.exports(&engine.wasmtime).map(|(name, _)| name).collect();
        let kind = Kind::of(names.iter().copied());
        if !kind.is_served_by(&pre, &engine) {
            let text = format!(
                "its exports are named as those of a {kind:?} function, and have other types or another version; build it against the current WIT"
            );
            return Err(Error::new(ErrorKind::WrongExport, text));
        }
        let line = Line::new(&host.admission, limits.concurrency, width, limits.queue);
        let fuel_interval = pool::fuel_interval(&component);
        let blueprint = Blueprint { engine, pre, limits, fuel_interval, bound: Arc::new(bound), imports: self.imports };
        Ok(Inner { name: self.name, host, blueprint, kind, exports, line, pace: Pace::default() })
    }
}

impl Source {
    fn default_trust(&self) -> Trust {
        match self {
            Source::File(_) | Source::Text(_) => Trust::Own,
            Source::Bytes(_) => Trust::Untrusted,
        }
    }

    /// The bytes, at most one more than allowed: enough for the check to see that there are too many.
    fn read(self, limit: u64) -> Result<Vec<u8>> {
        match self {
            Source::Bytes(bytes) => Ok(bytes),
            // Reading it is work before anything is measured, so it has the bound of what it stands for.
            Source::Text(text) if text.len() as u64 > limit => {
                Err(refused(Refusal::TooComplex { what: "component_bytes", found: text.len() as u64, limit }))
            }
            Source::Text(text) => wat::parse_str(&text).map_err(|e| {
                // The first line says what is wrong; what follows is a picture of the place.
                let text = e.to_string();
                let reason = text.lines().next().unwrap_or_default();
                let place = text.split_once("<anon>:").and_then(|(_, rest)| rest.lines().next()).unwrap_or("?");
                let text = format!("the component's text cannot be parsed at {place} (line:column): {reason}");
                Error::new(ErrorKind::InvalidComponent, text)
            }),
            Source::File(path) => {
                let unreadable = |e: std::io::Error| {
                    Error::from_io(
                        ErrorKind::InvalidComponent,
                        format!("the component file {} cannot be read", path.display()),
                        &e,
                    )
                };
                // Opening a pipe would wait for somebody to write to it.
                if !std::fs::metadata(&path).map_err(unreadable)?.is_file() {
                    return Err(Error::new(ErrorKind::InvalidComponent, format!("{} is not a file", path.display())));
                }
                let mut bytes = Vec::new();
                let file = std::fs::File::open(&path).map_err(unreadable)?;
                file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(unreadable)?;
                Ok(bytes)
            }
        }
    }
}

/// What the component says in itself that it needs.
fn own_needs(bytes: &[u8]) -> Result<Option<Needs>> {
    let invalid = |why: &str| {
        let text = format!("its section `{}` cannot be used: {why}", policy::SECTION);
        Err(Error::new(ErrorKind::InvalidComponent, text))
    };
    match precheck::custom_sections(bytes, policy::SECTION)[..] {
        [] => Ok(None),
        [section] => match std::str::from_utf8(section) {
            Ok(text) => Needs::from_toml(text).map(Some).or_else(|e| invalid(&e.to_string())),
            Err(_) => invalid("it is not UTF-8"),
        },
        _ => invalid("there are several"),
    }
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
