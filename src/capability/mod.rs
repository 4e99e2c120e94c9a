//! What a guest may reach. Nothing by default, but for what carries no power.
//!
//! A capability has three moments. `link` puts its interfaces into an engine's linker, once. `bind` turns a function's
//! grants into what its calls need, once per function; it may read the environment and may fail. `view` makes one
//! call's share of it when the guest first touches WASI; it does no I/O and cannot fail.
//!
//! Linked for everybody, as it carries no power: `wasi:io`, clocks at 1 ms, exit, empty environment and arguments,
//! terminals (none), stdio into the call's bounded output, secure randomness, a filesystem without a single directory,
//! the types of `wasi:http`.

pub(crate) mod cli;
pub(crate) mod clocks;
pub(crate) mod http;
pub(crate) mod keyvalue;
pub(crate) mod random;

pub use cli::{Args, Env, Stdin};
pub use clocks::Clocks;
use http::Http;
pub use keyvalue::KeyValue;
pub use random::Random;

use crate::clock::Clock;
use crate::denial::{Audit, Denials};
use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;
use http::{Egress, Outgoing, Wires};
use keyvalue::Buckets;
use std::sync::Arc;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// Permission for one capability, narrowed. Made by the capability's own type: [`Clocks`], [`Random`], [`Stdin`],
/// [`Env`], [`Args`], [`Http`], [`KeyValue`].
///
/// Every guest has what carries no power, without a grant: clocks of 1 ms, secure randomness, exit, empty stdin,
/// arguments and environment, stdout and stderr into the reply's [`Output`](crate::Output), a filesystem without a
/// directory, the types of `wasi:http`.
///
/// ```
/// # async fn run(host: isopod::Host) -> isopod::Result<()> {
/// use isopod::{Clocks, Env, Random};
///
/// let function = host
///     .function("report")
///     .component_file("report.wasm")
///     .grant(Clocks::fine())
///     .grant(Random::seeded(7))
///     .grant(Env::var("LANG", "C"))
///     .load()
///     .await?;
/// # Ok(()) }
/// ```
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
    KeyValue(KeyValue),
}

impl Kind {
    /// How the grant is called in messages, and the interfaces without which it has no effect.
    fn serves(&self) -> (&'static str, &'static [&'static str]) {
        match self {
            Kind::Clocks(_) => ("Clocks", &["wasi:clocks/"]),
            Kind::Random(_) => ("Random", &["wasi:random/"]),
            Kind::Stdin(_) => ("Stdin", &["wasi:cli/stdin@"]),
            Kind::Env(_) => ("Env", &["wasi:cli/environment@"]),
            Kind::Args(_) => ("Args", &["wasi:cli/environment@"]),
            Kind::Http(_) => ("Http", &["wasi:http/outgoing-handler@", "wasi:http/client@"]),
            Kind::KeyValue(_) => ("KeyValue", &["wasi:keyvalue/"]),
        }
    }
}

macro_rules! grant {
    ($($kind:ident),*) => { $(impl From<$kind> for Grant {
        fn from(grant: $kind) -> Grant { Grant(Kind::$kind(grant)) }
    })* };
}
grant!(Clocks, Random, Stdin, Env, Args, Http, KeyValue);

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
    pub buckets: Option<Arc<Buckets>>,
    audit: Arc<Audit>,
}

/// What grants are bound to.
pub(crate) struct Binding<'a> {
    pub function: &'a Arc<str>,
    pub imports: &'a [String],
    pub max_random: u64,
    pub clock: &'a Clock,
    pub wires: &'a Wires,
    pub store: &'a Store,
    pub audit: &'a Arc<Audit>,
}

impl Bound {
    /// Checks the grants against what the component imports, and reads what they refer to.
    pub(crate) fn bind(grants: &[Grant], to: Binding<'_>) -> Result<Bound> {
        let mut bound = Bound {
            function: Arc::clone(to.function),
            clock: to.clock.clone(),
            clocks: Clocks::default(),
            random: Random::default(),
            stdin: Stdin::default(),
            env: Vec::new(),
            args: Vec::new(),
            max_random: to.max_random,
            egress: None,
            buckets: None,
            audit: Arc::clone(to.audit),
        };
        let mut once: Vec<&str> = Vec::new();
        let mut origins = Vec::new();
        let mut buckets = Vec::new();
        for Grant(kind) in grants {
            let (name, interfaces) = kind.serves();
            if !to.imports.iter().any(|import| interfaces.iter().any(|interface| import.starts_with(interface))) {
                return Err(Error::new(
                    ErrorKind::Misuse,
                    format!(
                        "the grant {name} has no effect: the component imports no {}; remove it",
                        interfaces.join(" or ")
                    ),
                ));
            }
            if !matches!(kind, Kind::Env(_) | Kind::Http(_) | Kind::KeyValue(_)) {
                if once.contains(&name) {
                    return Err(Error::new(
                        ErrorKind::Misuse,
                        format!("the grant {name} was given twice; only the last could take effect, so give it once"),
                    ));
                }
                once.push(name);
            }
            match kind.clone() {
                Kind::Clocks(clocks) => bound.clocks = clocks,
                Kind::Random(random) => bound.random = random,
                Kind::Stdin(stdin) => bound.stdin = stdin,
                Kind::Env(env) => bound.env.push(env.bind()?),
                Kind::Args(args) => bound.args = args.0,
                Kind::Http(origin) => origins.push(origin),
                Kind::KeyValue(bucket) => buckets.push(bucket),
            }
        }
        if !origins.is_empty() {
            bound.egress = Some(Arc::new(Egress::bind(&origins, to.wires)?));
        }
        if !buckets.is_empty() {
            bound.buckets = Some(Arc::new(Buckets::bind(buckets, to.store)?));
        }
        Ok(bound)
    }

    /// Whether a grant brings that interface, beyond those that are linked for everybody.
    pub(crate) fn provides(&self, import: &str) -> bool {
        self.egress.is_some() && http::is_outgoing(import) || self.buckets.is_some() && keyvalue::is_provided(import)
    }

    /// Links what the grants bring.
    pub(crate) fn link<T: Reach>(&self, linker: &mut Linker<T>, asynchronous: bool) -> wasmtime::Result<()> {
        if self.egress.is_some() {
            http::link(linker, asynchronous)?;
        }
        if self.buckets.is_some() {
            keyvalue::link(linker)?;
        }
        Ok(())
    }

    /// Where one call's refusals are kept.
    pub(crate) fn denials(&self, tenant: Option<Arc<str>>) -> Denials {
        Denials::new(Arc::clone(&self.audit), Arc::clone(&self.function), tenant)
    }

    /// One call's share, made when the guest first touches a capability.
    pub(crate) fn view(&self, call: Call<'_>) -> View {
        let mut wasi = WasiCtxBuilder::new();
        wasi.max_random_size(self.max_random);
        self.clocks.view(&mut wasi);
        self.random.view(&mut wasi);
        let capture = cli::Capture::new(call.max_log);
        cli::view(self, call.invocation, &capture, &mut wasi);
        let mut table = ResourceTable::new();
        table.set_max_capacity(call.max_handles);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(http::MAX_FIELDS);
        let outgoing = Outgoing::new(self.egress.clone(), call.tenant.cloned(), call.denials.clone());
        let keyvalue = keyvalue::Access::new(self.buckets.clone(), call.tenant.cloned(), call.denials);
        View { table, wasi: wasi.build(), http, outgoing, keyvalue, capture }
    }
}

/// What a [`View`] is made for.
pub(crate) struct Call<'a> {
    pub tenant: Option<&'a Arc<str>>,
    pub invocation: Option<&'a cli::Invocation>,
    pub max_log: usize,
    pub max_handles: usize,
    pub denials: Denials,
}

/// One call's share of the capabilities.
pub(crate) struct View {
    pub table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    keyvalue: keyvalue::Access,
    pub capture: cli::Capture,
}

impl View {
    pub(crate) fn wasi(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
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
}

/// Links what every function may use. `asynchronous` engines get WASI 0.3 besides 0.2.
pub(crate) fn link<T: Reach>(linker: &mut Linker<T>, asynchronous: bool) -> wasmtime::Result<()> {
    link_io(linker)?;
    clocks::link(linker, asynchronous)?;
    random::link(linker, asynchronous)?;
    cli::link(linker, asynchronous)?;
    link_filesystem(linker, asynchronous)?;
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

/// A filesystem in which nothing is open.
fn link_filesystem<T: WasiView>(linker: &mut Linker<T>, asynchronous: bool) -> wasmtime::Result<()> {
    use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView};
    use wasmtime_wasi::p2::bindings::filesystem;
    filesystem::types::add_to_linker::<T, WasiFilesystem>(linker, T::filesystem)?;
    filesystem::preopens::add_to_linker::<T, WasiFilesystem>(linker, T::filesystem)?;
    if asynchronous {
        wasmtime_wasi::p3::filesystem::add_to_linker(linker)?;
    }
    Ok(())
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
    let (name, version) = import.split_once('@').unwrap_or((import, ""));
    // A pre-release or an older draft of WASI is another interface of the same name.
    LINKED.contains(&name) && ["0.2.", "0.3."].iter().any(|known| version.starts_with(known)) && !version.contains('-')
}

/// How to let a component have an import that is not linked for everybody: the line of code that grants it.
pub(crate) fn how_to_grant(import: &str) -> String {
    if import.starts_with("wasi:http/") {
        return "`.grant(Http::to(\"https://..\"))` with the origin that it may send requests to".into();
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
        ];
        for (import, linked) in cases {
            assert_eq!(is_linked(import), linked, "{import}");
        }
    }

    #[test]
    fn grants_without_effect_are_refused() {
        let imports = ["wasi:cli/environment@0.2.6".to_owned()];
        let (function, clock, wires) = ("f".into(), Clock::new(), Wires::new(None, Vec::new()).unwrap());
        let (audit, store) = (Arc::default(), Store::memory());
        let to = || Binding {
            function: &function,
            imports: &imports,
            max_random: 1,
            clock: &clock,
            wires: &wires,
            store: &store,
            audit: &audit,
        };
        let bind = |grants: &[Grant]| Bound::bind(grants, to());
        assert_eq!(bind(&[Env::var("A", "1").into()]).unwrap().env, [("A".into(), "1".into())]);
        let refused = |grants: &[Grant]| bind(grants).err().unwrap().to_string();
        assert!(refused(&[Clocks::fine().into()]).contains("the grant Clocks has no effect"));
        assert!(refused(&[Args::new(["a"]).into(), Args::new(["b"]).into()]).contains("twice"));
        assert!(refused(&[Env::from_host("ISOPOD_TEST_NEVER_SET").into()]).contains("ISOPOD_TEST_NEVER_SET"));
    }
}
