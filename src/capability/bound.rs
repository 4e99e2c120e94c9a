//! [`Bound`]: a function's grants, checked against what its component imports and needs, in the form its calls use.

use super::functions::{Callable, Caller};
use super::grant::{Grant, Kind};
use super::http::{Egress, MAX_FIELDS, Outgoing, Wires};
use super::keyvalue::Buckets;
use super::logging::{Capture, Logger};
use super::policy::Missing;
use super::secrets::{Keyring, Uses};
use super::{Call, Clocks, Functions, Log, Needs, Random, Reach, Secret, Secrets, Stdin, View};
use super::{cli, config, files, functions, how_to_grant, http, keyvalue, secrets};
use crate::clock::Clock;
use crate::denial::{Audit, Denials};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::Resolved;
use crate::log::LogSink;
use crate::store::Store;
use std::borrow::Cow;
use std::sync::Arc;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi_http::WasiHttpCtx;

/// A function's grants in the form its calls use.
pub(crate) struct Bound {
    /// The name of the function.
    pub function: Arc<str>,
    pub clock: Clock,
    pub clocks: Clocks,
    pub random: Random,
    pub stdin: Stdin,
    pub env: Vec<(String, String)>,
    pub args: Vec<String>,
    pub max_random: u64,
    pub egress: Option<Arc<Egress>>,
    pub keyring: Option<Arc<Keyring>>,
    pub(super) config: Option<Arc<config::Settings>>,
    pub(super) callable: Option<Callable>,
    pub max_depth: u32,
    pub max_calls: u32,
    pub max_input: u64,
    logger: Arc<Logger>,
    buckets: Option<Arc<Buckets>>,
    files: Option<files::Granted>,
    audit: Arc<Audit>,
    /// What the component says that it needs, and was not granted.
    pub missing: Vec<Missing>,
    /// What it was granted and does not say that it needs.
    dropped: Vec<Kind>,
}

/// What grants are bound to.
pub(crate) struct Binding<'a> {
    pub function: &'a Arc<str>,
    pub imports: &'a [String],
    pub limits: &'a Resolved,
    pub clock: &'a Clock,
    pub wires: &'a Wires,
    pub store: &'a Store,
    pub disk: &'a files::disk::Disk,
    pub audit: &'a Arc<Audit>,
    pub secrets: &'a [Secret],
    /// What holds without a grant of them.
    pub clocks: &'a Clocks,
    pub random: &'a Random,
    pub sink: Option<&'a Arc<dyn LogSink>>,
    pub caller: &'a Arc<dyn Caller>,
    pub needs: Option<&'a Needs>,
}

impl Binding<'_> {
    fn logger(&self, log: Log) -> Logger {
        Logger::new(Arc::clone(self.function), self.sink.cloned(), log, self.clock.clone())
    }
}

impl Bound {
    /// Checks the grants against what the component imports, and reads what they refer to.
    pub(crate) fn bind(grants: Vec<Grant>, to: Binding<'_>) -> Result<Bound> {
        let mut bound = Bound {
            function: Arc::clone(to.function),
            clock: to.clock.clone(),
            clocks: to.clocks.clone(),
            random: to.random.clone(),
            stdin: Stdin::default(),
            env: Vec::new(),
            args: Vec::new(),
            max_random: to.limits.random,
            egress: None,
            keyring: None,
            config: None,
            callable: None,
            max_depth: to.limits.depth,
            max_calls: to.limits.calls,
            max_input: to.limits.input,
            logger: Arc::new(to.logger(Log::default())),
            buckets: None,
            files: None,
            audit: Arc::clone(to.audit),
            missing: Vec::new(),
            dropped: Vec::new(),
        };
        let mut grants: Vec<Kind> = grants.into_iter().map(|Grant(kind)| kind).collect();
        effective(&grants, to.imports)?;
        if let Some(needs) = to.needs {
            let narrowed = needs.narrow(grants)?;
            (grants, bound.missing) = (narrowed.kept, narrowed.missing);
            bound.dropped = narrowed.dropped;
        }
        let mut keyring = Keyring::default();
        let (mut origins, mut settings, mut callable, mut buckets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut dirs, mut scratch) = (Vec::new(), None);
        for kind in grants {
            match kind {
                Kind::Clocks(clocks) => bound.clocks = clocks,
                Kind::Random(random) => bound.random = random,
                Kind::Stdin(stdin) => bound.stdin = stdin,
                Kind::Env(env) if bound.env.iter().any(|(name, _)| name == env.name()) => {
                    let text = format!("the grant Env of \"{}\" was given twice; give it once", env.name());
                    return Err(Error::new(ErrorKind::Misuse, text));
                }
                Kind::Env(env) => bound.env.push(env.bind()?),
                Kind::Args(args) => bound.args = args.0,
                Kind::Log(log) => bound.logger = Arc::new(to.logger(log)),
                Kind::Http(origin) => origins.push(origin),
                Kind::Config(setting) => settings.push(setting),
                Kind::Functions(grant) => callable.push(grant),
                Kind::Secrets(Secrets { secret, reveal }) => {
                    keyring.add(&secret, to.secrets, Uses { compare: true, reveal, ..Uses::default() })?;
                }
                Kind::KeyValue(bucket) => buckets.push(bucket),
                Kind::Dir(dir) => dirs.push(dir),
                Kind::Scratch(given) => scratch = Some(given),
            }
        }
        if !origins.is_empty() {
            bound.egress = Some(Arc::new(Egress::bind(
                &origins,
                to.needs.map(|needs| &*needs.http),
                &mut keyring,
                to.secrets,
                to.wires,
            )?));
        }
        if !settings.is_empty() {
            bound.config = Some(Arc::new(config::bind(&settings)?));
        }
        if !callable.is_empty() {
            bound.callable = Some(Callable::bind(callable, to.caller)?);
        }
        if !keyring.is_empty() {
            keyring.check()?;
            bound.keyring = Some(Arc::new(keyring));
        }
        if !buckets.is_empty() {
            bound.buckets = Some(Arc::new(Buckets::bind(buckets, to.store)?));
        }
        if !dirs.is_empty() || scratch.is_some() {
            bound.files = Some(files::Granted::bind(&dirs, scratch.as_ref(), to.disk)?);
        }
        Ok(bound)
    }

    /// Whether a grant brings that interface, beyond those that are linked for everybody.
    pub(crate) fn provides(&self, import: &str) -> bool {
        (self.egress.is_some() && http::is_outgoing(import))
            || (self.has_named_secrets() && import == secrets::INTERFACE)
            || (self.config.is_some() && import == config::INTERFACE)
            || (self.calls_by_name() && import == functions::INTERFACE)
            || (self.buckets.is_some() && keyvalue::is_provided(import))
    }

    /// Links what the grants bring, if they bring anything.
    pub(crate) fn link<T: Reach>(&self, linker: &mut Cow<'_, Linker<T>>, asynchronous: bool) -> wasmtime::Result<()> {
        if self.egress.is_some() {
            http::link(linker.to_mut(), asynchronous)?;
        }
        if self.has_named_secrets() {
            secrets::link(linker.to_mut())?;
        }
        if self.config.is_some() {
            config::link(linker.to_mut())?;
        }
        if self.calls_by_name() {
            functions::link(linker.to_mut())?;
        }
        if self.buckets.is_some() {
            keyvalue::link(linker.to_mut())?;
        }
        Ok(())
    }

    fn calls_by_name(&self) -> bool {
        self.callable.as_ref().is_some_and(Callable::is_by_name)
    }

    /// How to let the component have an import that it has not: the line of code that grants it.
    pub(crate) fn how_to_grant(&self, import: &str) -> String {
        match self.dropped.iter().any(|kind| kind.is_for(import)) {
            true => "its own needs do not list what it was granted; see `.needs(..)`".to_owned(),
            false => how_to_grant(import),
        }
    }

    /// The function that serves that import, with the import's types.
    pub(crate) fn serving(&self, import: &str) -> Option<&Functions> {
        self.callable.as_ref()?.serving(import)
    }

    /// An interface that a function was to serve, and that is not among those served.
    pub(crate) fn unserved<'a>(&self, served: impl Iterator<Item = &'a str> + Clone) -> Option<&str> {
        self.callable.as_ref()?.unserved(served)
    }

    fn has_named_secrets(&self) -> bool {
        self.keyring.as_ref().is_some_and(|keyring| keyring.has_named())
    }

    /// Where one call's refusals are kept.
    pub(crate) fn denials(&self, tenant: Option<Arc<str>>, call_id: u64) -> Denials {
        Denials::new(Arc::clone(&self.audit), Arc::clone(&self.function), tenant, call_id)
    }

    /// One call's share, made when the guest first touches a capability.
    pub(crate) fn view(self: &Arc<Bound>, call: Call<'_>) -> View {
        let mut wasi = WasiCtxBuilder::new();
        wasi.max_random_size(self.max_random);
        self.random.view(&mut wasi);
        let capture = Capture::new(Arc::clone(&self.logger), call.tenant.cloned(), call.call_id, call.max_log);
        cli::view(self, call.invocation, &capture, &mut wasi);
        let mut table = ResourceTable::new();
        table.set_max_capacity(call.max_handles);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(MAX_FIELDS);
        let (tenant, denials) = (call.tenant.cloned(), call.denials);
        let (outgoing, keyvalue) = (self.outgoing(&tenant, &denials), self.keyvalue(&tenant, &denials));
        let files = self.files(&denials);
        let bound = Arc::clone(self);
        View {
            bound,
            tenant,
            call_id: call.call_id,
            max_handles: call.max_handles,
            table,
            tasks: Default::default(),
            watch: self.clocks.watch(),
            wasi: wasi.build(),
            http,
            outgoing,
            keyvalue,
            files,
            capture,
            denials,
        }
    }

    pub(super) fn outgoing(&self, tenant: &Option<Arc<str>>, denials: &Denials) -> Outgoing {
        Outgoing::new(self.egress.clone(), self.keyring.clone(), tenant.clone(), denials.clone())
    }

    pub(super) fn keyvalue(&self, tenant: &Option<Arc<str>>, denials: &Denials) -> keyvalue::Access {
        keyvalue::Access::new(self.buckets.clone(), tenant.clone(), denials.clone())
    }

    pub(super) fn files(&self, denials: &Denials) -> files::Files {
        self.files.as_ref().map(|granted| granted.view(denials.clone())).unwrap_or_default()
    }

    /// The same, with nothing granted but what a guest may look at before there is a call: clocks, randomness, its
    /// environment and logs.
    pub(crate) fn early(&self) -> Bound {
        Bound {
            function: Arc::clone(&self.function),
            clock: self.clock.clone(),
            clocks: self.clocks.clone(),
            random: self.random.clone(),
            stdin: self.stdin.clone(),
            env: self.env.clone(),
            args: self.args.clone(),
            max_random: self.max_random,
            egress: None,
            keyring: None,
            config: None,
            callable: None,
            max_depth: self.max_depth,
            max_calls: self.max_calls,
            max_input: self.max_input,
            logger: Arc::clone(&self.logger),
            buckets: None,
            files: None,
            audit: Arc::clone(&self.audit),
            missing: Vec::new(),
            dropped: Vec::new(),
        }
    }

    /// What the top level of a snapshot reaches: besides, what is the same in each call of a function.
    pub(crate) fn settled(&self) -> Bound {
        Bound { config: self.config.clone(), ..self.early() }
    }
}

/// Checks that each grant can have an effect on a component with these imports.
fn effective(grants: &[Kind], imports: &[String]) -> Result<()> {
    let misuse = |text: String| Err(Error::new(ErrorKind::Misuse, text));
    for (index, kind) in grants.iter().enumerate() {
        let (name, interfaces) = kind.serves();
        if !imports.iter().any(|import| kind.is_for(import)) {
            let interfaces = interfaces.join(" or ");
            return misuse(format!("the grant {name} has no effect: the component imports no {interfaces}; remove it"));
        }
        if !kind.adds_up() && grants[..index].iter().any(|other| other.serves().0 == name) {
            return misuse(format!(
                "the grant {name} was given twice; only the last could take effect, so give it once"
            ));
        }
    }
    let places = grants.iter().any(|kind| matches!(kind, Kind::Http(http) if http.has_placeholders()));
    if places && !imports.iter().any(|import| import == secrets::INTERFACE) {
        return misuse(
            "`Http::secret` has no effect: the component does not import isopod:secrets, by which it would ask for placeholders; see `Http::bearer`, `header` and `query`".to_owned(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::{Args, Env};

    struct Nobody;

    impl Caller for Nobody {
        fn call(&self, _: functions::Ask) -> std::pin::Pin<Box<dyn Future<Output = functions::Answer> + Send + '_>> {
            Box::pin(std::future::ready(functions::Answer { result: Err(functions::Failure::Missing), fuel: 0 }))
        }
    }

    #[test]
    fn grants_without_effect_are_refused() {
        let imports = ["wasi:cli/environment@0.2.6".to_owned()];
        let (function, clock, wires) = ("f".into(), Clock::new(), Wires::new(None, Vec::new()).unwrap());
        let (audit, limits) = (Arc::default(), crate::Limits::default().resolve().unwrap());
        let caller: Arc<dyn Caller> = Arc::new(Nobody);
        let store = Store::memory();
        let disk = files::disk::Disk::default();
        let (clocks, random) = (Clocks::default(), Random::default());
        let to = || Binding {
            function: &function,
            imports: &imports,
            limits: &limits,
            clock: &clock,
            wires: &wires,
            store: &store,
            disk: &disk,
            audit: &audit,
            secrets: &[],
            clocks: &clocks,
            random: &random,
            sink: None,
            caller: &caller,
            needs: None,
        };
        let bind = |grants: &[Grant]| Bound::bind(grants.to_vec(), to());
        assert_eq!(bind(&[Env::var("A", "1").into()]).unwrap().env, [("A".into(), "1".into())]);
        let refused = |grants: &[Grant]| bind(grants).err().unwrap().to_string();
        assert!(refused(&[Clocks::fine().into()]).contains("the grant Clocks has no effect"));
        assert!(refused(&[Env::var("A", "1").into(), Env::var("A", "2").into()]).contains("twice"));
        assert!(refused(&[Args::new(["a"]).into(), Args::new(["b"]).into()]).contains("twice"));
        assert!(refused(&[Env::from_host("ISOPOD_TEST_NEVER_SET").into()]).contains("ISOPOD_TEST_NEVER_SET"));
    }
}
