//! What a guest may reach. Nothing by default, but for what carries no power.
//!
//! A capability has three moments. `link` puts its interfaces into an engine's linker, once. `bind` turns a function's
//! grants into what its calls need, once per function; it may read the environment and may fail. `view` makes one
//! call's share of it when the guest first touches WASI; it does no I/O and cannot fail.
//!
//! Linked for everybody, as it carries no power: `wasi:io`, clocks at 1 ms, exit, empty environment and arguments,
//! terminals (none), stdio and `wasi:logging` into the call's bounded output, secure randomness, a filesystem without a
//! single directory, the types of `wasi:http`.

mod bound;
pub(crate) mod cli;
pub(crate) mod clocks;
pub(crate) mod config;
pub(crate) mod files;
pub(crate) mod functions;
mod grant;
pub(crate) mod http;
pub(crate) mod logging;
pub(crate) mod policy;
pub(crate) mod keyvalue;
pub(crate) mod random;
pub(crate) mod script;
pub(crate) mod secrets;

pub(crate) use bound::{Binding, Bound};
pub use cli::{Args, Env, Stdin};
pub use clocks::{Clocks, TimeSource};
pub use config::Config;
pub use files::{Dir, Scratch};
pub use functions::Functions;
pub use grant::Grant;
use grant::Kind;
use http::Http;
pub use keyvalue::KeyValue;
pub use logging::Log;
pub use policy::{Needs, Policy};
pub use random::Random;
pub use secrets::{Secret, SecretSource, SecretValue, Secrets};

use crate::clock::Nanos;
use crate::denial::Denials;
use functions::Tree;
use http::Outgoing;
use logging::Capture;
use std::sync::Arc;
use wasmtime::component::{HasData, Linker, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

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
    call_id: u64,
    max_handles: usize,
    // Before the files: what is open in them is closed before they go.
    pub table: ResourceTable,
    watch: clocks::Watch,
    files: files::Files,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    keyvalue: keyvalue::Access,
    tasks: script::Tasks,
    pub capture: Capture,
    denials: Denials,
}

impl View {
    /// Another call begins in the same instance: what the guest holds stays, and what belongs to a call is that one's.
    pub(crate) fn begin(&mut self, bound: &Arc<Bound>, call: Call<'_>) {
        let (tenant, denials) = (call.tenant.cloned(), call.denials);
        self.capture.begin(tenant.clone(), call.call_id);
        if Arc::ptr_eq(bound, &self.bound) {
            self.outgoing.begin(&denials);
            self.keyvalue.begin(&denials);
            self.files.begin(&denials);
        } else {
            // Until now it was bound to nothing.
            self.outgoing = bound.outgoing(&tenant, &denials);
            self.keyvalue = bound.keyvalue(&tenant, &denials);
            self.files = bound.files(&denials);
            self.bound = Arc::clone(bound);
        }
        (self.tenant, self.denials) = (tenant, denials);
        self.call_id = call.call_id;
    }

    pub(crate) fn wasi(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }

    fn clocks(&mut self) -> clocks::Access<'_> {
        clocks::Access { watch: &self.watch, table: &mut self.table }
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

/// For linkers: a host function that gets the whole view.
struct Whole;

impl HasData for Whole {
    type Data<'a> = &'a mut View;
}

/// What holds a call's [`View`]. The linkers' functions fetch theirs by it.
pub(crate) trait Reach: WasiView + WasiHttpView {
    /// Counts a host call of the guest's, which only a call can answer.
    fn view(&mut self) -> &mut View;

    /// Counts a host call of the guest's that needs no call, such as one that writes a log.
    fn log_view(&mut self) -> &mut View;

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
    impl HasData for Table {
        type Data<'a> = &'a mut ResourceTable;
    }
    io::error::add_to_linker::<T, Table>(linker, |t| t.ctx().table)?;
    io::poll::add_to_linker::<T, Table>(linker, |t| t.ctx().table)?;
    io::streams::add_to_linker::<T, Table>(linker, |t| t.ctx().table)
}

/// The standard interfaces that are not granted: for their resource types, which other interfaces share. Whoever links
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

/// Whether an import answers a guest that starts before there is a call: it gives nothing that a call would have a say in.
pub(crate) fn answers_early(import: &str) -> bool {
    let parts = ["wasi:io/", "wasi:clocks/", "wasi:random/", "wasi:cli/"];
    is_linked(import) && (import == logging::INTERFACE || parts.iter().any(|part| import.starts_with(part)))
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
    if import.starts_with("isopod:secrets/") && import != secrets::INTERFACE {
        return "rebuild the component for isopod:secrets 0.1.0, which isopod provides".into();
    }
    if import == secrets::INTERFACE {
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
        "`.import(..)`, or `.imports(..)` and `.load_typed(..)` with a type that implements this {kind} (see `world!`), or another function that exports it (see `Functions::serving`)"
    )
}

/// The line of a policy that lets a component have an import.
pub(crate) fn policy_line(import: &str) -> Option<&'static str> {
    match import {
        _ if http::is_outgoing(import) => Some("http = [{ to = \"https://..\" }]"),
        _ if keyvalue::is_provided(import) => Some("keyvalue = [{ bucket = \"..\" }]"),
        config::INTERFACE => Some("config = { \"..\" = \"..\" }"),
        functions::INTERFACE => Some("functions = [\"..\"]"),
        secrets::INTERFACE => Some("secrets = [\"..\"]"),
        _ => None,
    }
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
}
