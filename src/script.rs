//! Scripts: a customer's source text as a [`Function`]. It runs in an interpreter that is a guest itself, so that a bug of
//! the interpreter is only a guest's bug.

use crate::call;
use crate::capability::functions::Caller;
use crate::capability::{Binding, Bound, Clocks, Grant, Policy, Random, script};
use crate::engine::entry::Entry;
use crate::engine::export::Exports;
use crate::engine::lease::{self, Blueprint, Lease};
pub use crate::engine::script::Language;
#[cfg(feature = "typescript")]
use crate::engine::script::Stripper;
use crate::engine::script::{Fit, Interpreter, Program, Script, Workshop};
use crate::engine::stock::Stock;
use crate::engine::trap::Fault;
use crate::error::{Error, ErrorKind, Result};
use crate::function::{self, Function, Kind, Parts};
use crate::host::{self, Host};
use crate::limits::{KIB, Limits, Resolved, Trust};
use crate::load::{self, Loaded, Source};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::{OnceCell, Semaphore};

/// What scripts find besides the language, for editors and for the compiler of TypeScript that checks them: the text of a
/// declaration file, `isopod.d.ts`.
pub const SCRIPT_TYPES: &str = include_str!("script/isopod.d.ts");

/// The interpreter of JavaScript: see `guests/script`.
const JAVASCRIPT: &[u8] = include_bytes!("script/javascript.wasm");
/// What takes types out: see `guests/typescript`.
#[cfg(feature = "typescript")]
const TYPESCRIPT: &[u8] = include_bytes!("script/typescript.wasm");
/// Bytes of a source. More is not what people write.
const MAX_SOURCE: usize = 1024 * KIB as usize;

impl Host {
    /// A source text, to be loaded as a function with one export, `default`, of one argument.
    ///
    /// The source is one module with `export default function (input, context) { .. }`, or an `async` one. `input` is what
    /// [`call`](Function::call) is given, as JSON; what the function gives goes back as JSON. Bytes alone, as by
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
}

impl ScriptBuilder {
    /// What each call may use. The interpreter itself takes 1 MiB of [`Limits::memory`].
    pub fn limits(mut self, limits: Limits) -> ScriptBuilder {
        self.limits = limits;
        self
    }

    /// Permission for one capability. Those that have an effect on a script are [`Http`](crate::Http), of which it sends
    /// requests by `fetch`, [`KeyValue`](crate::KeyValue) (`kv`), [`Secrets`](crate::Secrets) (`secrets`),
    /// [`Config`](crate::Config) (`config`), [`Functions`](crate::Functions) (`call`), [`Clocks`](crate::Clocks),
    /// [`Random`](crate::Random) and [`Log`](crate::Log). What it does without a grant throws, and is a
    /// [`Denial`](crate::Denial).
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
    pub fn eval(mut self) -> ScriptBuilder {
        self.eval = true;
        self
    }

    /// Compiles the script. The first script of a host has the interpreter compiled, which takes about a second, or is taken
    /// from the host's [`Cache`](crate::Cache).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidScript`] for a source that is empty, has more than 1 MiB, is not UTF-8, does not compile or has no
    /// default export; [`ErrorKind::Misuse`] for settings that contradict each other or have no effect;
    /// [`ErrorKind::OutOfMemory`] for a memory limit below what the interpreter starts with;
    /// [`ErrorKind::TimedOut`], `OutOfMemory`, [`ErrorKind::OutputTooLarge`] or [`ErrorKind::Trapped`] for a source that takes
    /// more than a second, 64 MiB, 4 MiB of code or the stack to compile; [`ErrorKind::Overloaded`] where no slot is free
    /// for that. Four compile at once, and others wait.
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
        let source = text(self.source)?;
        let interpreter = host.interpreters.get(limits.fuel.is_some(), &host).await?;
        let Blueprint { engine, pre, width, starts, .. } = &interpreter.workshop.blueprint;
        load::fits(&interpreter.workshop.component, *width, &limits, host.engines.sizes)?;
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
        let program = compile(source, self.language, &interpreter, &host).await?;
        let blueprint = Blueprint {
            engine: Arc::clone(engine),
            pre: pre.clone(),
            fuel_interval: lease::fuel_interval(&interpreter.workshop.component),
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
        let entry = Entry::Script(Script::new(Arc::clone(&interpreter), self.language, program, self.eval));
        let Self { name, callable, .. } = self;
        let (kind, exports) = (Kind::Script, Exports::default());
        let parts = Parts { name, host, blueprint, stock, reuse: None, kind, entry, exports, probe, callable };
        parts.assemble()?.stocked().await
    }
}

impl Function {
    /// Replaces the source of a script. Calls that begin from now on run the new one; those that run end with the one that
    /// they began with. If it fails, nothing has changed.
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
            let program = compile(text(source.into())?, script.language, script.interpreter(), &inner.host).await?;
            script.replace(program);
            Ok(())
        };
        updated.await.map_err(|error| error.of(&inner.name))
    }
}

/// The source as text.
fn text(source: Vec<u8>) -> Result<String> {
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
        return invalid("the source is empty; write `export default function (input) { .. }`".to_owned());
    }
    Ok(text)
}

/// Has an interpreter compile it.
async fn compile(
    source: String,
    language: Language,
    interpreter: &Interpreter,
    host: &Arc<host::Inner>,
) -> Result<Program> {
    // It is never closed.
    let _place = host.interpreters.places.acquire().await;
    let code = match language {
        Language::JavaScript => {
            work_in(&interpreter.workshop, host, async |lease| interpreter.compile(lease, &source).await).await?
        }
        #[cfg(feature = "typescript")]
        Language::TypeScript => {
            let stripper = host.interpreters.stripper(host).await?;
            let plain = work_in(&stripper.workshop, host, async |lease| stripper.strip(lease, &source).await).await?;
            work_in(&interpreter.workshop, host, async |lease| interpreter.compile(lease, &plain).await).await?
        }
    };
    Ok(Program { source: source.into(), code })
}

/// Has something done with a source, under the limits of the workshop.
async fn work_in<R>(
    workshop: &Workshop,
    host: &Arc<host::Inner>,
    work: impl AsyncFnOnce(&mut Lease) -> Result<R, Fault>,
) -> Result<R> {
    let limits = &workshop.blueprint.limits;
    let Some(mut lease) = workshop.open(&host.slots, host.clock.now().plus(limits.deadline)) else {
        let text = "every slot is taken, and compiling a script needs one; try again later";
        return Err(Error::new(ErrorKind::Overloaded, text));
    };
    let done = call::run_early(&mut lease, limits, &host.clock, &host.ticker, true, work).await;
    done.map(|(made, _)| made).map_err(|error| match error.kind() {
        ErrorKind::InvalidScript | ErrorKind::Internal => error,
        kind => Error::new(kind, "the source takes more to compile than it may; make it shorter or less nested"),
    })
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
    /// For scripts that are metered by time, and by fuel.
    made: [OnceCell<Arc<Interpreter>>; 2],
    #[cfg(feature = "typescript")]
    stripper: OnceCell<Stripper>,
    /// For those that compile at once, so that they leave the slots to calls. Others wait.
    places: Semaphore,
}

const PLACES: usize = 4;

impl Default for Interpreters {
    fn default() -> Interpreters {
        Interpreters {
            made: Default::default(),
            #[cfg(feature = "typescript")]
            stripper: OnceCell::new(),
            places: Semaphore::new(PLACES),
        }
    }
}

impl Interpreters {
    /// Loaded now, if this is the first script.
    async fn get(&self, fuel: bool, host: &Arc<host::Inner>) -> Result<Arc<Interpreter>> {
        let load = || fit(JAVASCRIPT, fuel, host, |fit| Interpreter::new(fit).map(Arc::new));
        self.made[usize::from(fuel)].get_or_try_init(load).await.cloned()
    }

    /// Loaded now, if this is the first script with types.
    #[cfg(feature = "typescript")]
    async fn stripper(&self, host: &Arc<host::Inner>) -> Result<&Stripper> {
        self.stripper.get_or_try_init(|| fit(TYPESCRIPT, false, host, Stripper::new)).await
    }
}

/// Loads a guest of isopod's own.
async fn fit<G: Send + 'static>(
    component: &'static [u8],
    fuel: bool,
    host: &Arc<host::Inner>,
    make: fn(Fit) -> Result<G>,
) -> Result<G> {
    let host = Arc::clone(host);
    crate::blocking::unblock(move || {
        let limits = Limits::default();
        let limits = if fuel { limits.fuel(u64::MAX) } else { limits };
        let limits = limits.resolve()?;
        let loaded = load::load(Source::Bytes(component.to_vec()), Some(Trust::Own.into()), &limits, &host)?;
        let Loaded { engine, component, width, starts, .. } = loaded;
        let bound = bind(&host, &Arc::from("the interpreter"), Vec::new(), &limits, &host.clocks, &host.random)?;
        make(Fit { engine, component, width, starts, limits, bound: Arc::new(bound), tick: host.ticker.tick() })
    })
    .await
}
