//! What a guest may reach. Nothing by default, but for what carries no power.
//!
//! A capability has three moments. `link` puts its interfaces into an engine's linker, once. `bind` turns a function's
//! grants into what its calls need, once per function; it may read the environment and may fail. `view` makes one
//! call's share of it when the guest first touches WASI; it does no I/O and cannot fail.
//!
//! Linked for everybody, as it carries no power: `wasi:io`, clocks at 1 ms, exit, empty environment and arguments,
//! terminals (none), stdio and `wasi:logging` into the call's bounded output, secure randomness, a filesystem without a single directory,
//! the types of `wasi:http`.

pub(crate) mod cli;
pub(crate) mod clocks;
pub(crate) mod config;
pub(crate) mod files;
pub(crate) mod functions;
pub(crate) mod http;
pub(crate) mod logging;
pub(crate) mod policy;
pub(crate) mod keyvalue;
pub(crate) mod random;
pub(crate) mod secrets;

pub use cli::{Args, Env, Stdin};
pub use clocks::Clocks;
pub use config::Config;
pub use files::{Dir, Scratch};
pub use functions::Functions;
use http::Http;
pub use keyvalue::KeyValue;
pub use logging::Log;
pub use policy::{Needs, Policy};
pub use random::Random;
pub use secrets::{Secret, SecretSource, SecretValue, Secrets};

use crate::clock::{Clock, Nanos};
use crate::denial::{Audit, Denials};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::Resolved;
use crate::log::LogSink;
use crate::store::Store;
use functions::{Callable, Caller, Tree};
use http::{Egress, Outgoing, Wires};
use keyvalue::Buckets;
use logging::{Capture, Logger};
use policy::Missing;
use secrets::{Keyring, Uses};
use std::sync::Arc;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_config::WasiConfigVariables;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// Permission for one capability, narrowed. Made by the capability's own type: [`Http`], [`Secrets`], [`Dir`], [`Scratch`],
/// [`KeyValue`], [`Functions`], [`Config`], [`Env`], [`Args`], [`Stdin`], [`Log`], [`Clocks`], [`Random`].
///
/// Every guest has what carries no power, without a grant: clocks of 1 ms, secure randomness, exit, empty stdin, arguments
/// and environment, stdout, stderr and `wasi:logging` into the reply's [`Output`](crate::Output), a filesystem without a
/// directory, the types of `wasi:http`.
///
#[doc = include_str!("../guide/capabilities.md")]
#[derive(Clone, Debug)]
pub struct Grant(pub(crate) Kind);

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Clocks(Clocks),
    Random(Random),
    Stdin(Stdin),
    Env(Env),
    Args(Args),
    Http(Http),
    Log(Log),
    Secrets(Secrets),
    Config(Config),
    Functions(Functions),
    KeyValue(KeyValue),
    Dir(Dir),
    Scratch(Scratch),
}

impl Kind {
    /// Whether it has an effect on a component with that import.
    fn is_for(&self, import: &str) -> bool {
        match self {
            Kind::Functions(functions) => functions.is_for(import),
            _ => self.serves().1.iter().any(|interface| import.starts_with(interface)),
        }
    }

    /// Whether several of these are several permissions.
    fn adds_up(&self) -> bool {
        matches!(
            self,
            Kind::Dir(_)
                | Kind::Env(_)
                | Kind::Http(_)
                | Kind::Secrets(_)
                | Kind::Config(_)
                | Kind::Functions(_)
                | Kind::KeyValue(_)
        )
    }

    /// How the grant is called in messages, and the interfaces without which it has no effect.
    fn serves(&self) -> (&'static str, &'static [&'static str]) {
        match self {
            Kind::Clocks(_) => ("Clocks", &["wasi:clocks/"]),
            Kind::Random(_) => ("Random", &["wasi:random/"]),
            Kind::Stdin(_) => ("Stdin", &["wasi:cli/stdin@"]),
            Kind::Env(_) => ("Env", &["wasi:cli/environment@"]),
            Kind::Args(_) => ("Args", &["wasi:cli/environment@"]),
            Kind::Http(_) => ("Http", &["wasi:http/outgoing-handler@", "wasi:http/client@"]),
            Kind::Log(_) => ("Log", &["wasi:cli/stdout@", "wasi:cli/stderr@", "wasi:logging/logging@"]),
            Kind::Secrets(_) => ("Secrets", &[secrets::INTERFACE]),
            Kind::Config(_) => ("Config", &[config::INTERFACE]),
            Kind::Functions(_) => ("Functions", &[]),
            Kind::KeyValue(_) => ("KeyValue", &["wasi:keyvalue/"]),
            Kind::Dir(_) => ("Dir", &["wasi:filesystem/preopens@"]),
            Kind::Scratch(_) => ("Scratch", &["wasi:filesystem/preopens@"]),
        }
    }
}

macro_rules! grant {
    ($($kind:ident),*) => { $(impl From<$kind> for Grant {
        fn from(grant: $kind) -> Grant { Grant(Kind::$kind(grant)) }
    })* };
}
grant!(Clocks, Random, Stdin, Env, Args, Http, Log, Secrets, Config, Functions, KeyValue, Dir, Scratch);

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
    config: WasiConfigVariables,
    has_config: bool,
    callable: Option<Callable>,
    pub max_depth: u32,
    pub max_calls: u32,
    logger: Arc<Logger>,
    pub buckets: Option<Arc<Buckets>>,
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
    pub scratches: &'a files::scratch::Scratches,
    pub audit: &'a Arc<Audit>,
    pub secrets: &'a [Secret],
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
            clocks: Clocks::default(),
            random: Random::default(),
            stdin: Stdin::default(),
            env: Vec::new(),
            args: Vec::new(),
            max_random: to.limits.random,
            egress: None,
            keyring: None,
            config: WasiConfigVariables::new(),
            has_config: false,
            callable: None,
            max_depth: to.limits.depth,
            max_calls: to.limits.calls,
            logger: Arc::new(to.logger(Log::default())),
            buckets: None,
            files: None,
            audit: Arc::clone(to.audit),
            missing: Vec::new(),
            dropped: Vec::new(),
        };
        let mut once: Vec<&str> = Vec::new();
        let (mut dirs, mut scratch) = (Vec::new(), None);
        let (mut origins, mut settings, mut callable) = (Vec::new(), Vec::new(), Vec::new());
        let mut keyring = Keyring::default();
        let mut buckets = Vec::new();
        for Grant(kind) in &grants {
            let (name, interfaces) = kind.serves();
            if !to.imports.iter().any(|import| kind.is_for(import)) {
                return Err(Error::new(
                    ErrorKind::Misuse,
                    format!(
                        "the grant {name} has no effect: the component imports no {}; remove it",
                        interfaces.join(" or ")
                    ),
                ));
            }
            if !kind.adds_up() {
                if once.contains(&name) {
                    return Err(Error::new(
                        ErrorKind::Misuse,
                        format!("the grant {name} was given twice; only the last could take effect, so give it once"),
                    ));
                }
                once.push(name);
            }
        }
        let mut grants: Vec<Kind> = grants.into_iter().map(|Grant(kind)| kind).collect();
        let places = grants.iter().any(|kind| matches!(kind, Kind::Http(http) if http.has_placeholders()));
        if places && !to.imports.iter().any(|import| import == secrets::INTERFACE) {
            let text = "`Http::secret` has no effect: the component does not import isopod:secrets, by which it would ask for placeholders; see `Http::bearer`, `header` and `query`";
            return Err(Error::new(ErrorKind::Misuse, text));
        }
        if let Some(needs) = to.needs {
            let narrowed = needs.narrow(grants)?;
            (grants, bound.missing) = (narrowed.kept, narrowed.missing);
            bound.dropped = narrowed.dropped;
        }
        for kind in grants {
            match kind {
                Kind::Clocks(clocks) => bound.clocks = clocks,
                Kind::Random(random) => bound.random = random,
                Kind::Stdin(stdin) => bound.stdin = stdin,
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
        bound.has_config = !settings.is_empty();
        bound.config = config::bind(&settings)?;
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
            bound.files = Some(files::Granted::bind(&dirs, scratch.as_ref(), to.scratches)?);
        }
        Ok(bound)
    }

    /// Whether a grant brings that interface, beyond those that are linked for everybody.
    pub(crate) fn provides(&self, import: &str) -> bool {
        (self.egress.is_some() && http::is_outgoing(import))
            || (self.has_named_secrets() && import == secrets::INTERFACE)
            || (self.has_config && import == config::INTERFACE)
            || (self.calls_by_name() && import == functions::INTERFACE)
            || (self.buckets.is_some() && keyvalue::is_provided(import))
    }

    /// Links what the grants bring.
    pub(crate) fn link<T: Reach>(&self, linker: &mut Linker<T>, asynchronous: bool) -> wasmtime::Result<()> {
        if self.egress.is_some() {
            http::link(linker, asynchronous)?;
        }
        if self.has_named_secrets() {
            secrets::link(linker)?;
        }
        if self.has_config {
            config::link(linker)?;
        }
        if self.calls_by_name() {
            functions::link(linker)?;
        }
        if self.buckets.is_some() {
            keyvalue::link(linker)?;
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

    fn has_named_secrets(&self) -> bool {
        self.keyring.as_ref().is_some_and(|keyring| keyring.has_named())
    }

    /// Where one call's refusals are kept.
    pub(crate) fn denials(&self, tenant: Option<Arc<str>>) -> Denials {
        Denials::new(Arc::clone(&self.audit), Arc::clone(&self.function), tenant)
    }

    /// One call's share, made when the guest first touches a capability.
    pub(crate) fn view(self: &Arc<Bound>, call: Call<'_>) -> View {
        let mut wasi = WasiCtxBuilder::new();
        wasi.max_random_size(self.max_random);
        self.clocks.view(&mut wasi);
        self.random.view(&mut wasi);
        let capture = Capture::new(Arc::clone(&self.logger), call.tenant.cloned(), call.call_id, call.max_log);
        cli::view(self, call.invocation, &capture, &mut wasi);
        let mut table = ResourceTable::new();
        table.set_max_capacity(call.max_handles);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(http::MAX_FIELDS);
        let (tenant, denials) = (call.tenant.cloned(), call.denials);
        let outgoing = Outgoing::new(self.egress.clone(), self.keyring.clone(), tenant.clone(), denials.clone());
        let keyvalue = keyvalue::Access::new(self.buckets.clone(), tenant.clone(), denials.clone());
        let files = self.files.as_ref().map(|granted| granted.view(denials.clone())).unwrap_or_default();
        let bound = Arc::clone(self);
        View { bound, tenant, table, wasi: wasi.build(), http, outgoing, keyvalue, files, capture, denials }
    }
}

/// What a [`View`] is made for.
pub(crate) struct Call<'a> {
    pub tenant: Option<&'a Arc<str>>,
    pub call_id: u64,
    pub invocation: Option<&'a cli::Invocation>,
    pub max_log: usize,
    pub max_handles: usize,
    pub denials: Denials,
}

/// One call's share of the capabilities.
pub(crate) struct View {
    bound: Arc<Bound>,
    tenant: Option<Arc<str>>,
    // Before the files: what is open in them is closed before they go.
    pub table: ResourceTable,
    files: files::Files,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    keyvalue: keyvalue::Access,
    pub capture: Capture,
    denials: Denials,
}

impl View {
    pub(crate) fn wasi(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }

    fn files(&mut self) -> files::Access<'_> {
        files::Access::new(&mut self.files, &mut self.table)
    }

    pub(crate) fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.outgoing, table: &mut self.table, ctx: &mut self.http }
    }

    pub(crate) fn keyvalue(&mut self) -> keyvalue::Host<'_> {
        keyvalue::Host { access: &mut self.keyvalue, table: &mut self.table }
    }
}

/// What holds a call's [`View`]. The linkers' functions fetch theirs by it.
pub(crate) trait Reach: WasiView + WasiHttpView {
    /// Counts a host call of the guest's.
    fn view(&mut self) -> &mut View;

    /// The view, where the host call is counted already.
    fn own_view(&mut self) -> &mut View;

    /// Where the call stands in its tree of calls, and its deadline.
    fn place(&mut self) -> (Tree, Nanos);
}

/// Links what every function may use. `asynchronous` engines get WASI 0.3 besides 0.2.
pub(crate) fn link<T: Reach>(linker: &mut Linker<T>, asynchronous: bool) -> wasmtime::Result<()> {
    link_io(linker)?;
    clocks::link(linker, asynchronous)?;
    random::link(linker, asynchronous)?;
    cli::link(linker, asynchronous)?;
    logging::link(linker)?;
    files::link(linker, asynchronous)?;
    http::types::link(linker, asynchronous)
}

/// `wasi:io`: streams and polling over what other interfaces hand out.
fn link_io<T: WasiView>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    use wasmtime_wasi::p2::bindings::io;
    struct Table;
    impl wasmtime::component::HasData for Table {
        type Data<'a> = &'a mut wasmtime::component::ResourceTable;
    }
    io::error::add_to_linker::<T, Table>(linker, |t| t.ctx().table)?;
    io::poll::add_to_linker::<T, Table>(linker, |t| t.ctx().table)?;
    io::streams::add_to_linker::<T, Table>(linker, |t| t.ctx().table)
}

/// The standard interfaces that are not granted yet: for their resource types, which other interfaces share. Whoever links
/// these replaces every function by a denial.
pub(crate) fn link_types_of_denied<T: Reach>(linker: &mut Linker<T>, asynchronous: bool) -> wasmtime::Result<()> {
    use wasmtime_wasi::p2::bindings::sockets;
    use wasmtime_wasi::sockets::{WasiSockets, WasiSocketsView};
    sockets::network::add_to_linker::<T, WasiSockets>(linker, &Default::default(), T::sockets)?;
    sockets::instance_network::add_to_linker::<T, WasiSockets>(linker, T::sockets)?;
    sockets::ip_name_lookup::add_to_linker::<T, WasiSockets>(linker, T::sockets)?;
    sockets::tcp::add_to_linker::<T, WasiSockets>(linker, T::sockets)?;
    sockets::tcp_create_socket::add_to_linker::<T, WasiSockets>(linker, T::sockets)?;
    sockets::udp::add_to_linker::<T, WasiSockets>(linker, T::sockets)?;
    sockets::udp_create_socket::add_to_linker::<T, WasiSockets>(linker, T::sockets)?;
    if asynchronous {
        wasmtime_wasi::p3::sockets::add_to_linker(linker)?;
    }
    http::link(linker, asynchronous)
}

/// The name under which [`link_types_of_denied`] has the interface: the versions that wasmtime 48 provides. Were one wrong,
/// the call would reach wasmtime's own implementation, which is given no network and refuses as well.
pub(crate) fn linked_name(import: &str) -> String {
    match import.split_once('@') {
        Some((name, version)) if version.starts_with("0.2.") => format!("{name}@0.2.12"),
        Some((name, version)) if version.starts_with("0.3.") => format!("{name}@0.3.0"),
        _ => import.to_owned(),
    }
}

/// Whether [`link_types_of_denied`] has the interface.
pub(crate) fn is_denied_standard(import: &str) -> bool {
    import.starts_with("wasi:sockets/") || http::is_outgoing(import)
}

/// Interfaces that [`link`] provides, without their versions. What a component imports beyond these needs a grant.
const LINKED: &[&str] = &[
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:clocks/types",
    "wasi:clocks/wall-clock",
    "wasi:clocks/system-clock",
    "wasi:clocks/monotonic-clock",
    "wasi:random/random",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:cli/types",
    "wasi:cli/exit",
    "wasi:cli/environment",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/stderr",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:cli/terminal-stderr",
    "wasi:filesystem/types",
    "wasi:filesystem/preopens",
    "wasi:http/types",
];

/// Whether an import is linked for everybody.
pub(crate) fn is_linked(import: &str) -> bool {
    if import == logging::INTERFACE {
        return true;
    }
    let (name, version) = import.split_once('@').unwrap_or((import, ""));
    // A pre-release or an older draft of WASI is another interface of the same name.
    LINKED.contains(&name) && ["0.2.", "0.3."].iter().any(|known| version.starts_with(known)) && !version.contains('-')
}

/// How to let a component have an import that is not linked for everybody: the line of code that grants it.
pub(crate) fn how_to_grant(import: &str) -> String {
    if import.starts_with("wasi:http/") {
        return "`.grant(Http::to(\"https://..\"))` with the origin that it may send requests to".into();
    }
    if import == config::INTERFACE {
        return "`.grant(Config::var(\"..\", \"..\"))` with a setting that it may read".into();
    }
    if import == functions::INTERFACE {
        return "`.grant(Functions::named(\"..\"))` with a function that it may call".into();
    }
    if import.starts_with("isopod:secrets/") {
        return "`.grant(Secrets::of(Secret::env(\"..\")))` with the secret that it may use".into();
    }
    if keyvalue::is_provided(import) {
        return "`.grant(KeyValue::bucket(\"..\"))` with the name of the bucket that it may open".into();
    }
    if import.starts_with("wasi:keyvalue/") {
        return "rebuild the component for the store, atomics and batch of wasi:keyvalue 0.2.0-draft2, or 0.2.0-draft"
            .into();
    }
    if import.starts_with("wasi:sockets/") {
        return "nothing can, as isopod has no grant for sockets".into();
    }
    let name = import.split_once('@').map_or(import, |(name, _)| name);
    if LINKED.contains(&name) {
        return "rebuild the component for WASI 0.2 or 0.3, which isopod provides this interface of".into();
    }
    if import.starts_with("wasi:") {
        return "nothing can, as isopod does not provide this interface".into();
    }
    let kind = if import.contains('/') { "interface" } else { "function" };
    format!(
        "`.import(..)`, or `.imports(..)` and `.load_typed(..)` with a type that implements this {kind} (see `world!`)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_powerless_interfaces_are_linked_for_everybody() {
        let cases = [
            ("wasi:cli/environment@0.2.6", true),
            ("wasi:clocks/monotonic-clock@0.3.0", true),
            ("wasi:cli/environment@0.3.0-rc-2025-09-16", false),
            ("wasi:sockets/tcp@0.2.0", false),
            ("wasi:http/types@0.2.12", true),
            ("wasi:http/outgoing-handler@0.2.0", false),
            ("wasi:clocks/timezone@0.2.0", false),
            ("wasi:cli/environment", false),
            ("acme:cli/environment@0.2.0", false),
            ("wasi:logging/logging@0.1.0-draft", true),
            ("wasi:logging/logging@0.2.0", false),
        ];
        for (import, linked) in cases {
            assert_eq!(is_linked(import), linked, "{import}");
        }
    }

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
        let scratches = files::scratch::Scratches::default();
        let to = || Binding {
            function: &function,
            imports: &imports,
            limits: &limits,
            clock: &clock,
            wires: &wires,
            store: &store,
            scratches: &scratches,
            audit: &audit,
            secrets: &[],
            sink: None,
            caller: &caller,
            needs: None,
        };
        let bind = |grants: &[Grant]| Bound::bind(grants.to_vec(), to());
        assert_eq!(bind(&[Env::var("A", "1").into()]).unwrap().env, [("A".into(), "1".into())]);
        let refused = |grants: &[Grant]| bind(grants).err().unwrap().to_string();
        assert!(refused(&[Clocks::fine().into()]).contains("the grant Clocks has no effect"));
        assert!(refused(&[Args::new(["a"]).into(), Args::new(["b"]).into()]).contains("twice"));
        assert!(refused(&[Env::from_host("ISOPOD_TEST_NEVER_SET").into()]).contains("ISOPOD_TEST_NEVER_SET"));
    }
}
