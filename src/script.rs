//! Scripts: a customer's source text as a [`Function`]. It runs in an interpreter that is a guest itself, so that a bug of
//! the interpreter is only a guest's bug.

use crate::bindings::script::Options;
use crate::call;
use crate::capability::functions::Caller;
use crate::capability::{Binding, Bound, Clocks, Grant, Policy, Random, script};
use crate::engine::entry::Entry;
use crate::engine::export::Exports;
use crate::engine::lease::{self, Blueprint, Lease};
#[cfg(feature = "typescript")]
use crate::engine::script::Stripper;
use crate::engine::script::{Fit, Image, Program, Runtime, Script, Snapshots, Workshop};
pub use crate::engine::script::{Interpreter, Language};
use crate::engine::stock::Stock;
use crate::engine::trap::Fault;
use crate::error::{Error, ErrorKind, Result};
use crate::function::{self, Function, Kind, Parts};
use crate::host::{self, Host};
use crate::limits::{KIB, Limits, Resolved, Trust};
use crate::load::{self, Loaded, Source};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{OnceCell, Semaphore};

/// What scripts find besides the language, for editors and for the compiler of TypeScript that checks them: the text of a
/// declaration file, `isopod.d.ts`.
pub const SCRIPT_TYPES: &str = include_str!("script/isopod.d.ts");

/// The interpreter of JavaScript: see `guests/script`.
const JAVASCRIPT: &[u8] = include_bytes!("script/javascript.wasm");
/// What takes types out: see `guests/typescript`.
#[cfg(feature = "typescript")]
const TYPESCRIPT: &[u8] = include_bytes!("script/typescript.wasm");
/// What compiling a source may use where calls are metered by fuel: what takes about as long as the default busy time.
const COMPILE_FUEL: u64 = 5_000_000_000;
/// How long that may take with what it waits for.
const MOST_TIME: Duration = Duration::from_secs(2);
/// Bytes of a source. More is not what people write.
const MAX_SOURCE: usize = 1024 * KIB as usize;

impl Host {
    /// A source text, to be loaded as a function with one export, `default`, of one argument.
    ///
    /// The source is one module with `export default function (input, context) { .. }`, or an `async` one. `input` is what
    /// [`call`](Function::call) is given, as JSON; what the function gives goes back as JSON. Where that is text already, or is
    /// to be, `serde_json::value::RawValue` takes it through as it is. Bytes alone, as by
    /// `serde_bytes`, are a `Uint8Array`, both ways. `context` has `function`, `tenant` and `callId`. `console` writes to the
    /// call's [log](crate::Output::log). What else a script finds is declared in [`SCRIPT_TYPES`].
    ///
    /// Each call runs the whole module anew, in an instance of the interpreter that nobody used before: no call finds what
    /// another left, and the time at the top level is that of the call.
    ///
    /// ```
    /// # async fn run(host: isopod::Host) -> isopod::Result<()> {
    /// use isopod::{Language, Limits, ms};
    /// use serde_json::json;
    ///
    /// let source = "export default (order) => ({ total: order.price * order.count })";
    /// let rule = host.script("rule-7", Language::JavaScript, source).limits(Limits::default().busy(ms(20))).load().await?;
    /// let reply = rule.call::<serde_json::Value>("default", (json!({ "price": 3, "count": 4 }),)).await?;
    /// assert_eq!(reply.value, json!({ "total": 12 }));
    /// # Ok(()) }
    /// ```
    pub fn script(&self, name: impl Into<Arc<str>>, language: Language, source: impl Into<Vec<u8>>) -> ScriptBuilder {
        ScriptBuilder {
            host: self.clone(),
            name: name.into(),
            language,
            source: source.into(),
            limits: Limits::default(),
            grants: Vec::new(),
            callable: false,
            prewarm: None,
            seed: None,
            eval: false,
            snapshot: false,
        }
    }
}

/// How a script is to be loaded. Made by [`Host::script`].
pub struct ScriptBuilder {
    host: Host,
    name: Arc<str>,
    language: Language,
    source: Vec<u8>,
    limits: Limits,
    grants: Vec<Grant>,
    callable: bool,
    prewarm: Option<u32>,
    seed: Option<u64>,
    eval: bool,
    snapshot: bool,
}

impl ScriptBuilder {
    /// What each call may use. The interpreter itself takes 0.8 MiB of [`Limits::memory`].
    pub fn limits(mut self, limits: Limits) -> ScriptBuilder {
        self.limits = limits;
        self
    }

    /// Permission for one capability. Those that have an effect on a script are [`Http`](crate::Http), of which it sends
    /// requests by `fetch`, [`KeyValue`](crate::KeyValue) (`kv`), [`Secrets`](crate::Secrets) (`secrets`),
    /// [`Config`](crate::Config) (`config`), [`Functions`](crate::Functions) (`call`), [`Clocks`](crate::Clocks),
    /// [`Random`](crate::Random) and [`Log`](crate::Log). What it does without a grant throws, and is a
    /// [`Denial`](crate::Denial); `config.get` alone gives `undefined`.
    pub fn grant(mut self, grant: impl Into<Grant>) -> ScriptBuilder {
        self.grants.push(grant.into());
        self
    }

    /// All grants of a policy, besides those given by [`grant`](ScriptBuilder::grant).
    pub fn policy(mut self, policy: Policy) -> ScriptBuilder {
        self.grants.extend(policy.into_grants());
        self
    }

    /// As [`FunctionBuilder::callable`](crate::FunctionBuilder::callable).
    pub fn callable(mut self) -> ScriptBuilder {
        self.callable = true;
        self
    }

    /// As [`FunctionBuilder::prewarm`](crate::FunctionBuilder::prewarm). What is kept ready is the interpreter; the script
    /// is loaded by the call.
    pub fn prewarm(mut self, instances: u32) -> ScriptBuilder {
        self.prewarm = Some(instances);
        self
    }

    /// As [`FunctionBuilder::deterministic`](crate::FunctionBuilder::deterministic): `Date`, `Math.random` and `crypto` are
    /// the same in each call, and `context.callId` is not there.
    pub fn deterministic(mut self, seed: u64) -> ScriptBuilder {
        self.seed = Some(seed);
        self
    }

    /// Lets the script make code of texts, by `eval` and `new Function`. It reaches no more by that than by its own source.
    /// An [`Interpreter`] that you bring is told, and does what it will.
    pub fn eval(mut self) -> ScriptBuilder {
        self.eval = true;
        self
    }

    /// Runs the top level once, now, and has each call begin with the state that it left: the same state, as calls change
    /// only their own. For scripts whose top level takes long, such as one that makes tables, and for long ones that are
    /// called often.
    ///
    /// What the top level saw stays as it was: the time, random numbers, and the order that hashing gives. Of what is
    /// granted it finds the settings of [`Config`](crate::Config), which stay the same too; it has no `context` and no log,
    /// and nothing that it begins may be under way at its end; what it throws is an error of the load. `Math.random` and
    /// `crypto` give each call what no other call has, unless the script drew it at the top level. The state takes memory of
    /// the process besides, some 20 KiB for a small script, and some milliseconds to load, and a host has room for some ten
    /// thousand of them: the system has a bound for mappings (`vm.max_map_count`).
    pub fn snapshot(mut self) -> ScriptBuilder {
        self.snapshot = true;
        self
    }

    /// Compiles the script. The first script of a host has the interpreter compiled, which takes about a second, or is taken
    /// from the host's [`Cache`](crate::Cache).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidScript`] for a source that is empty, has more than 1 MiB, is not UTF-8, does not compile or has no
    /// default export; [`ErrorKind::Misuse`] for settings that contradict each other or have no effect;
    /// [`ErrorKind::OutOfMemory`] for a memory limit below what the interpreter starts with;
    /// [`ErrorKind::TimedOut`], or [`ErrorKind::OutOfFuel`] with [`Limits::fuel`], `OutOfMemory`,
    /// [`ErrorKind::OutputTooLarge`] or [`ErrorKind::Trapped`] for a source that takes more than about a second, 64 MiB,
    /// 4 MiB of code or the stack to compile; [`ErrorKind::Overloaded`] where no slot is free for that. Four compile at
    /// once, and four run the top levels of snapshots, for two seconds at most; others wait. For a
    /// [`snapshot`](ScriptBuilder::snapshot) also [`ErrorKind::Thrown`] for what its top level throws, and the same kinds for
    /// one that takes more than that, or leaves more than 4 MiB of memory in use. For an [`Interpreter`] that you bring,
    /// whatever ends the loading of a component, and [`ErrorKind::WrongExport`] for one of another world.
    pub async fn load(self) -> Result<Function> {
        let name = Arc::clone(&self.name);
        self.build().await.map_err(|error| error.of(&name))
    }

    /// [`load`](ScriptBuilder::load) for callers without async. See [`block_on`](crate::block_on).
    pub fn load_blocking(self) -> Result<Function> {
        crate::block_on(self.load())
    }

    async fn build(self) -> Result<Function> {
        let limits = self.limits.resolve()?;
        let host = Arc::clone(&self.host.0);
        if let Some(why) = self.seed.and_then(|_| function::varies(&limits, None, &self.grants)) {
            let text = format!("`.deterministic(..)` excludes {why}");
            return Err(Error::new(ErrorKind::Misuse, text));
        }
        if let Some(with) = self.snapshot.then(|| self.excludes_snapshot()).flatten() {
            let text = format!("`.snapshot()` has no effect with {with}; remove one of them");
            return Err(Error::new(ErrorKind::Misuse, text));
        }
        let source = text(self.source, &self.language)?;
        let runtime = host.interpreters.get(&self.language, limits.fuel.is_some(), &host).await?;
        let Blueprint { engine, pre, width, starts, .. } = &runtime.workshop.blueprint;
        load::fits(&runtime.workshop.component, *width, &limits, host.engines.sizes)?;
        if let Some(prewarm) = self.prewarm {
            function::has_room(prewarm, *width, &host)?;
        }
        let (clocks, random) = match self.seed {
            Some(seed) => (Clocks::simulated(SystemTime::UNIX_EPOCH), Random::seeded(seed)),
            None => (host.clocks.clone(), host.random.clone()),
        };
        let bound = {
            let (host, name, grants, limits) = (Arc::clone(&host), Arc::clone(&self.name), self.grants, limits.clone());
            // Secrets are read where blocking is allowed.
            crate::blocking::unblock(move || bind(&host, &name, grants, &limits, &clocks, &random)).await?
        };
        let options = if self.eval { Options::EVAL } else { Options::empty() };
        let press = Press {
            host: &host,
            runtime: &runtime,
            language: &self.language,
            options,
            limits: &limits,
            snapshot: self.snapshot.then_some(&bound),
        };
        let program = press.program(source).await?;
        let blueprint = Blueprint {
            engine: Arc::clone(engine),
            pre: pre.clone(),
            fuel_interval: lease::fuel_interval(&runtime.workshop.component),
            tick: host.ticker.tick(),
            imports: None,
            prepare: None,
            width: *width,
            starts: *starts,
            limits,
            bound: Arc::new(bound),
        };
        let probe = self.prewarm.map(|_| pre.clone());
        let stock = self.prewarm.map(|prewarm| Stock::new(prewarm, Arc::new(blueprint.bound.early())));
        let entry = Entry::Script(Script::new(Arc::clone(&runtime), self.language, program, options));
        let Self { name, callable, .. } = self;
        let (kind, exports) = (Kind::Script, Exports::default());
        let parts = Parts { name, host, blueprint, stock, reuse: None, kind, entry, exports, probe, callable };
        parts.assemble()?.stocked().await
    }

    /// What a snapshot is not for.
    fn excludes_snapshot(&self) -> Option<&'static str> {
        match self.language {
            Language::Of(_) => Some("an interpreter of your own, whose state is not known"),
            _ if self.prewarm.is_some() => Some("`.prewarm(..)`, which keeps the interpreter ready without a script"),
            _ => None,
        }
    }
}

impl Function {
    /// Replaces the source of a script, for all tenants and all handles of this function, with the language, limits and grants
    /// that it was loaded with. Calls that begin from now on run the new one; those that run end with the one that they began
    /// with. Of updates at once each waits for those before it. If it fails, nothing has changed.
    ///
    /// That it compiles is all that is checked, besides the top level of a [`snapshot`](ScriptBuilder::snapshot): to try a
    /// text first, load it under another name and call it.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`] for a function that is no script; then as [`ScriptBuilder::load`].
    pub async fn update(&self, source: impl Into<Vec<u8>>) -> Result<()> {
        let inner = self.inner();
        let updated = async {
            let Entry::Script(script) = &inner.entry else {
                let text = "`update` is for scripts; load the component again under the same name";
                return Err(Error::new(ErrorKind::Misuse, text));
            };
            let press = Press {
                host: &inner.host,
                runtime: script.runtime(),
                language: &script.language,
                options: script.options,
                limits: inner.limits(),
                snapshot: script.is_snapshot().then_some(&inner.pool.blueprint.bound),
            };
            let source = text(source.into(), &script.language)?;
            let _turn = script.updating.lock().await;
            let program = press.program(source).await?;
            script.replace(program);
            Ok(())
        };
        updated.await.map_err(|error| error.of(&inner.name))
    }
}

/// The source as text.
fn text(source: Vec<u8>, language: &Language) -> Result<String> {
    let invalid = |text: String| Err(Error::new(ErrorKind::InvalidScript, text));
    if source.len() > MAX_SOURCE {
        return invalid(format!("the source has {} bytes, more than {MAX_SOURCE}; make it shorter", source.len()));
    }
    let mut text = match String::from_utf8(source) {
        Ok(text) => text,
        Err(e) => {
            let at = e.utf8_error().valid_up_to();
            let line = 1 + e.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count();
            return invalid(format!("the source is not UTF-8: byte {at}, in line {line}; save it as UTF-8"));
        }
    };
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    if text.trim().is_empty() {
        return invalid(format!("the source is empty{}", language.hint()));
    }
    Ok(text)
}

const MOST_SOURCE: &str = "the source takes more to compile than it may; make it shorter or less nested";
const MOST_STATE: &str = "the top level takes more than that of a snapshot may: a second, 64 MiB, or 4 MiB at its end with what the interpreter itself has; do less there, or remove `.snapshot()`";

/// By what a source is made a program.
struct Press<'a> {
    host: &'a Arc<host::Inner>,
    runtime: &'a Arc<Runtime>,
    language: &'a Language,
    options: Options,
    /// Those of the calls.
    limits: &'a Resolved,
    /// If its top level is to run now, what the script is bound to.
    snapshot: Option<&'a Bound>,
}

impl Press<'_> {
    async fn program(&self, source: String) -> Result<Program> {
        let Interpreters { compiling, starting, .. } = &self.host.interpreters;
        // Neither is ever closed.
        let place = compiling.acquire().await;
        let plain = match self.language {
            Language::JavaScript | Language::Of(_) => None,
            #[cfg(feature = "typescript")]
            Language::TypeScript => {
                let stripper = self.host.interpreters.stripper(self.limits.fuel.is_some(), self.host).await?;
                Some(self.work_in(&stripper.workshop, None, async |lease| stripper.strip(lease, &source).await).await?)
            }
        };
        let plain = plain.as_ref().unwrap_or(&source);
        let compile = async |lease: &mut Lease| self.runtime.compile(lease, plain, &source, self.language).await;
        let code = self.work_in(&self.runtime.workshop, None, compile).await?;
        drop(place);
        let image = match self.snapshot {
            Some(bound) => {
                let _place = starting.acquire().await;
                Some(self.image(bound, &source, &code).await?)
            }
            None => None,
        };
        Ok(Program { source: source.into(), code, image })
    }

    /// Runs the top level, and keeps what it leaves.
    async fn image(&self, bound: &Bound, source: &str, code: &[u8]) -> Result<Image> {
        let snapshots = Arc::clone(self.host.interpreters.snapshots(self.limits.fuel.is_some(), self.host).await?);
        let run = async |lease: &mut Lease| snapshots.run(lease, (source, code), self.language, self.options).await;
        let early = Arc::new(bound.settled());
        let frozen = self.work_in(&snapshots.runtime.workshop, Some(&early), run).await?;
        if frozen.memory() > self.limits.memory {
            let text = format!(
                "the state of the snapshot takes {} bytes of memory, more than the limit of {}; raise `Limits::memory`",
                frozen.memory(),
                self.limits.memory
            );
            return Err(Error::new(ErrorKind::OutOfMemory, text));
        }
        crate::blocking::unblock(move || snapshots.keep(&frozen)).await
    }

    /// Has something done with a source, under the limits of the workshop; `bound` says what it reaches, if that is anything.
    async fn work_in<R>(
        &self,
        workshop: &Workshop,
        bound: Option<&Arc<Bound>>,
        work: impl AsyncFnOnce(&mut Lease) -> Result<R, Fault>,
    ) -> Result<R> {
        let (host, Blueprint { limits, bound: nothing, .. }) = (self.host, &workshop.blueprint);
        let deadline = host.clock.now().plus(limits.deadline);
        let Some(mut lease) = workshop.open(&host.slots, bound.unwrap_or(nothing), deadline) else {
            let text = "every slot is taken, and compiling a script needs one; try again later";
            return Err(Error::new(ErrorKind::Overloaded, text));
        };
        let done = call::run_early(&mut lease, limits, &host.clock, &host.ticker, true, work).await;
        let own = self.language.interpreter().is_none();
        done.map(|(made, _)| made).map_err(|error| match error.kind() {
            kind @ (ErrorKind::TimedOut
            | ErrorKind::OutOfFuel
            | ErrorKind::OutOfMemory
            | ErrorKind::OutputTooLarge
            | ErrorKind::Trapped)
                if own =>
            {
                let most = Error::new(kind, if bound.is_some() { MOST_STATE } else { MOST_SOURCE });
                match error.exception() {
                    Some(exception) => most.thrown(exception.clone()),
                    None => most,
                }
            }
            _ => error,
        })
    }
}

fn bind(
    host: &Arc<host::Inner>,
    name: &Arc<str>,
    grants: Vec<Grant>,
    limits: &Resolved,
    clocks: &Clocks,
    random: &Random,
) -> Result<Bound> {
    Bound::bind(
        grants,
        Binding {
            function: name,
            imports: &script::IMPORTS.map(str::to_owned),
            limits,
            clock: &host.clock,
            wires: &host.wires,
            store: &host.store,
            disk: &host.disk,
            audit: &host.audit,
            secrets: &host.secrets,
            clocks,
            random,
            sink: host.sink.as_ref(),
            caller: &(Arc::clone(host) as Arc<dyn Caller>),
            needs: None,
        },
    )
}

/// The interpreters of a host.
pub(crate) struct Interpreters {
    /// Those that scripts run in: isopod's own, and others. Each for scripts that are metered by time, or by fuel.
    made: Mutex<HashMap<Which, Once<Runtime>>>,
    snapshots: [Once<Snapshots>; 2],
    #[cfg(feature = "typescript")]
    strippers: [Once<Stripper>; 2],
    /// Places for those that compile at once, so that they leave the slots to calls. Others wait.
    compiling: Semaphore,
    /// The same for top levels of snapshots, which can sleep.
    starting: Semaphore,
}

/// The digest of an interpreter, if it is not isopod's own, and whether it counts fuel.
type Which = (Option<blake3::Hash>, bool);

/// Loaded when the first asks for it.
type Once<G> = Arc<OnceCell<Arc<G>>>;

const PLACES: usize = 4;

impl Default for Interpreters {
    fn default() -> Interpreters {
        Interpreters {
            made: Mutex::default(),
            snapshots: Default::default(),
            #[cfg(feature = "typescript")]
            strippers: Default::default(),
            compiling: Semaphore::new(PLACES),
            starting: Semaphore::new(PLACES),
        }
    }
}

impl Interpreters {
    async fn get(&self, language: &Language, fuel: bool, host: &Arc<host::Inner>) -> Result<Arc<Runtime>> {
        let own = language.interpreter();
        let made = Arc::clone(self.made.lock().entry((own.map(Interpreter::digest), fuel)).or_default());
        let component = own.map_or(JAVASCRIPT, Interpreter::component);
        made.get_or_try_init(|| fit(component.to_vec(), fuel, host, Runtime::new)).await.cloned()
    }

    async fn snapshots(&self, fuel: bool, host: &Arc<host::Inner>) -> Result<&Arc<Snapshots>> {
        let load = async || fit(Snapshots::component(JAVASCRIPT)?, fuel, host, Snapshots::new).await;
        self.snapshots[usize::from(fuel)].get_or_try_init(load).await
    }

    #[cfg(feature = "typescript")]
    async fn stripper(&self, fuel: bool, host: &Arc<host::Inner>) -> Result<&Arc<Stripper>> {
        self.strippers[usize::from(fuel)].get_or_try_init(|| fit(TYPESCRIPT.to_vec(), fuel, host, Stripper::new)).await
    }
}

/// Loads a guest that works on sources.
async fn fit<G: Send + Sync + 'static>(
    component: Vec<u8>,
    fuel: bool,
    host: &Arc<host::Inner>,
    make: fn(Fit) -> Result<G>,
) -> Result<Arc<G>> {
    let host = Arc::clone(host);
    crate::blocking::unblock(move || {
        let limits = Limits::default().deadline(MOST_TIME);
        let limits = if fuel { limits.fuel(COMPILE_FUEL) } else { limits };
        let limits = limits.resolve()?;
        let loaded = load::load(Source::Bytes(component), Some(Trust::Own.into()), &limits, &host)?;
        let Loaded { engine, component, width, starts, .. } = loaded;
        let bound = bind(&host, &Arc::from("the interpreter"), Vec::new(), &limits, &host.clocks, &host.random)?;
        make(Fit { engine, component, width, starts, limits, bound: Arc::new(bound), tick: host.ticker.tick() })
            .map(Arc::new)
    })
    .await
}
