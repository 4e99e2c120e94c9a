//! `wasi:http` outwards, 0.2 and 0.3: which requests a guest may send, and sending them.
//!
//! [`egress`] decides, [`connect`] resolves and dials, [`send`] does one exchange. What was decided about a name is
//! what is dialled: an address is looked up once, checked, and connected to.

mod connect;
mod egress;
mod inject;
mod send;
pub(super) mod types;

pub use connect::{Network, Stream};
pub(crate) use send::Outgoing;

use super::policy::Missing;
use super::secrets::{Keyring, Secret, Uses};
use crate::error::{Error, ErrorKind, Result};
use crate::text::{quoted, sanitise};
use connect::Clients;
pub(crate) use connect::Wires;
use egress::Rule;
use http::Method;
use inject::{Injection, Place};
use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::Duration;
use wasmtime::component::Linker;
use wasmtime_wasi_http::{WasiHttp, WasiHttpView};

/// Permission to send http requests to one origin.
///
/// A guest's request passes if one of the function's `Http` grants has its scheme, host and port, and its method and
/// path. Without a method, a grant allows every method and path. Of several that allow it, the first gives the secrets and
/// the bounds; one that an earlier one covers fails the load. [Networks](Http::network) are those of all grants for an
/// origin together. Names must resolve to public addresses only, unless
/// [`network`](Http::network) says otherwise. Redirects are the guest's to follow, and are requests like others. No
/// proxy is used, whatever the environment says.
///
/// ```
/// use isopod::Http;
///
/// let api = Http::to("https://api.example.com").get("/v1/*").post("/v1/items");
/// let local = Http::to("http://127.0.0.1:8080");
/// ```
#[derive(Clone)]
pub struct Http {
    origin: String,
    /// None stands for every method.
    requests: Vec<(Option<Method>, String)>,
    networks: Vec<String>,
    secrets: Vec<(Place, Secret)>,
    pub(super) bounds: HttpBounds,
    wrong: Option<String>,
}

/// What the exchanges with one origin may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HttpBounds {
    pub in_flight: u32,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub timeout: Duration,
}

impl Default for HttpBounds {
    fn default() -> HttpBounds {
        HttpBounds {
            in_flight: 8,
            request_bytes: 4 * crate::MIB,
            response_bytes: 16 * crate::MIB,
            timeout: Duration::from_secs(30),
        }
    }
}

macro_rules! methods {
    ($($name:ident $method:ident),*) => { $(
        #[doc = concat!("Allows `", stringify!($method), "` of that path; see [`method`](Http::method).")]
        pub fn $name(self, path: &str) -> Http {
            self.allow(Some(Method::$method), path)
        }
    )* };
}

impl Http {
    /// Requests to that origin: `https://api.example.com`, `https://*.example.com` for exactly one label before
    /// `example.com`, `http://127.0.0.1:8080`. The port is the scheme's where none is given.
    ///
    /// An origin that cannot be read fails the load, as [`ErrorKind::Misuse`].
    pub fn to(origin: impl Into<String>) -> Http {
        Http {
            origin: origin.into(),
            requests: Vec::new(),
            networks: Vec::new(),
            secrets: Vec::new(),
            bounds: HttpBounds::default(),
            wrong: None,
        }
    }

    methods!(get GET, head HEAD, post POST, put PUT, patch PATCH, delete DELETE, options OPTIONS);

    /// Allows that method of that path. In a path, a segment `*` stands for any one segment, and as the last one for
    /// all that follows. The query is free.
    pub fn method(mut self, method: &str, path: &str) -> Http {
        match Method::from_bytes(method.as_bytes()) {
            Ok(method) => self.allow(Some(method), path),
            Err(_) => {
                self.wrong.get_or_insert_with(|| format!("\"{method}\" is no http method"));
                self
            }
        }
    }

    /// Allows every method of that path; see [`method`](Http::method).
    pub fn any(self, path: &str) -> Http {
        self.allow(None, path)
    }

    fn allow(mut self, method: Option<Method>, path: &str) -> Http {
        self.requests.push((method, path.to_owned()));
        self
    }

    /// Lets the origin's name resolve to addresses of that network, such as `10.1.0.0/16`, though they are not public.
    pub fn network(mut self, network: impl Into<String>) -> Http {
        self.networks.push(network.into());
        self
    }

    /// Sends the secret with every request of this grant, as `authorization: Bearer`. The guest's own header of that name
    /// is dropped, and the value taken out of the answer; the guest is not told of it. A secret goes over https only, or
    /// to a loopback address: loading fails as [`ErrorKind::Misuse`] otherwise, and where the value cannot be had. One that
    /// cannot be had later fails the request as `configuration-error`.
    ///
    /// Of an answer's headers and body, the value is taken out in plain, base64, hex, JSON and URL form; of all answers to
    /// the function, also those of other grants. A server that you let a guest talk to can transform it in other ways. For
    /// that, `accept-encoding`, `te` and `range` of the guest are dropped, an answer that is compressed or partial all the
    /// same is an error, and the end of what came of a body waits for up to 100 ms for more.
    pub fn bearer(self, secret: Secret) -> Http {
        self.with(Place::Bearer, secret)
    }

    /// As [`bearer`](Http::bearer), as the password of `authorization: Basic` for that user.
    pub fn basic(self, user: impl Into<String>, secret: Secret) -> Http {
        self.with(Place::Basic(user.into()), secret)
    }

    /// As [`bearer`](Http::bearer), as the value of that header.
    pub fn header(self, name: impl Into<String>, secret: Secret) -> Http {
        self.with(Place::Header(name.into()), secret)
    }

    /// As [`bearer`](Http::bearer), as that parameter of the query.
    pub fn query(self, name: impl Into<String>, secret: Secret) -> Http {
        self.with(Place::Query(name.into()), secret)
    }

    /// Lets the guest say in which headers of these requests the secret stands: it asks `isopod:secrets` for a
    /// placeholder, and the value takes its place on the way out.
    pub fn secret(self, secret: Secret) -> Http {
        self.with(Place::Placeholder, secret)
    }

    fn with(mut self, place: Place, secret: Secret) -> Http {
        self.secrets.push((place, secret));
        self
    }

    /// Requests that one call may have under way at once. Default 8; more fail as `connection-limit-reached`.
    pub fn in_flight(mut self, requests: u32) -> Http {
        self.bounds.in_flight = requests;
        self
    }

    /// Bytes of a request's body. Default 4 MiB; more fails as `HTTP-request-body-size`.
    pub fn request_bytes(mut self, bytes: u64) -> Http {
        self.bounds.request_bytes = bytes;
        self
    }

    /// Bytes of a response's body. Default 16 MiB; more fails as `HTTP-response-body-size`.
    pub fn response_bytes(mut self, bytes: u64) -> Http {
        self.bounds.response_bytes = bytes;
        self
    }

    /// From the request to the end of the response's body. Default 30 s, at most a year; more fails as
    /// `HTTP-response-timeout`. The call's own deadline holds besides.
    pub fn timeout(mut self, timeout: Duration) -> Http {
        // More is more than a clock can add to the time of day.
        self.bounds.timeout = timeout.min(Duration::from_secs(365 * 24 * 3600));
        self
    }

    /// The origin, without what could be a password.
    pub(super) fn shown(&self) -> &str {
        self.origin.rsplit('@').next().unwrap_or_default()
    }

    fn misuse(&self, why: &str) -> Error {
        Error::new(ErrorKind::Misuse, format!("the grant Http::to(\"{}\") cannot be kept: {why}", self.shown()))
    }

    /// Whether the guest may put the secret of that name into headers.
    pub(super) fn lets_put(&self, name: &str) -> bool {
        self.secrets.iter().any(|(place, secret)| *place == Place::Placeholder && secret.name() == name)
    }

    /// Whether the guest may put any secret into headers.
    pub(super) fn has_placeholders(&self) -> bool {
        self.secrets.iter().any(|(place, _)| *place == Place::Placeholder)
    }

    /// Takes away every secret that the guest may put into headers and does not need.
    pub(super) fn keep_placeholders(&mut self, needed: impl Fn(&str) -> bool) {
        self.secrets.retain(|(place, secret)| *place != Place::Placeholder || needed(secret.name()));
    }

    /// Whether one of the grants allows all that this one would.
    pub(super) fn is_covered_by(&self, grants: &[&Http]) -> Result<bool> {
        let need = self.rule().map_err(|why| self.misuse(&why))?;
        let rules = grants.iter().map(|grant| grant.rule().map_err(|why| grant.misuse(&why)));
        Ok(rules.collect::<Result<Vec<_>>>()?.iter().any(|rule| rule.covers(&need)))
    }

    /// As something that was not granted.
    pub(super) fn missing(&self) -> Missing {
        let to = quoted(&sanitise(self.shown(), 256));
        let (mut rust, mut toml) = (String::new(), Vec::new());
        for (method, path) in &self.requests {
            let (path, method) = (sanitise(path, 256), method.as_ref().map(Method::as_str));
            let _ = match method {
                Some(method) => write!(rust, ".method({}, {})", quoted(method), quoted(&path)),
                None => write!(rust, ".any({})", quoted(&path)),
            };
            toml.push(quoted(&format!("{} {path}", method.unwrap_or("*"))));
        }
        let allow = if toml.is_empty() { String::new() } else { format!(", allow = [{}]", toml.join(", ")) };
        Missing {
            what: format!("http to {}", sanitise(self.shown(), 128)),
            rust: format!("`.grant(Http::to({to}){rust})`"),
            toml: format!("http = [{{ to = {to}{allow} }}]"),
        }
    }

    /// Hands its secrets over to the function's keyring.
    fn inject(&self, keyring: &mut Keyring, hosts: &[Secret]) -> Result<Vec<Injection>> {
        let inject = |(place, secret): &(Place, Secret)| {
            let uses = Uses { place: *place == Place::Placeholder, ..Uses::default() };
            let secret = keyring.add(secret, hosts, uses)?;
            Ok(Injection { place: place.clone(), secret })
        };
        self.secrets.iter().map(inject).collect()
    }

    fn rule(&self) -> Result<Rule, String> {
        if let Some(wrong) = &self.wrong {
            return Err(wrong.clone());
        }
        if self.bounds.in_flight == 0 || self.bounds.timeout.is_zero() {
            return Err("nothing could be sent without a request in flight, or in no time".to_owned());
        }
        let mut rule = Rule::to(&self.origin)?;
        if !self.secrets.is_empty() && !rule.is_confidential() {
            return Err("a secret is sent over https only, or to a loopback address".to_owned());
        }
        for (index, (place, _)) in self.secrets.iter().enumerate() {
            place.check()?;
            if self.secrets[..index].iter().any(|(other, _)| other.excludes(place)) {
                return Err("two secrets have the same place in a request".to_owned());
            }
        }
        for (method, path) in &self.requests {
            rule.allow(method.clone(), path)?;
        }
        for network in &self.networks {
            rule.network(network.parse().map_err(|_| format!("\"{network}\" is no network such as 10.1.0.0/16"))?);
        }
        Ok(rule)
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secrets: Vec<(&Place, &str)> = self.secrets.iter().map(|(place, secret)| (place, secret.name())).collect();
        f.debug_struct("Http")
            .field("to", &self.shown())
            .field("requests", &self.requests)
            .field("secrets", &secrets)
            .finish_non_exhaustive()
    }
}

/// Bytes of one set of headers or trailers.
pub(crate) const MAX_FIELDS: usize = 32 * 1024;

/// All `Http` grants of one function, and its connections.
pub(crate) struct Egress {
    rules: Arc<[Rule]>,
    bounds: Vec<HttpBounds>,
    /// For each rule.
    injections: Vec<Vec<Injection>>,
    /// What the component says that it needs, if it says so.
    needs: Option<Vec<Rule>>,
    clients: Clients,
}

impl Egress {
    /// Hands the grants' secrets over to the function's `keyring`, which may find them among those of the host.
    pub(super) fn bind(
        grants: &[Http],
        needs: Option<&[Http]>,
        keyring: &mut Keyring,
        hosts: &[Secret],
        wires: &Wires,
    ) -> Result<Egress> {
        let rule = |need: &Http| need.rule().map_err(|why| need.misuse(&why));
        let rules = grants.iter().map(|grant| grant.rule().map_err(|why| grant.misuse(&why)));
        let rules: Arc<[Rule]> = rules.collect::<Result<Vec<_>>>()?.into();
        for (index, (rule, grant)) in rules.iter().zip(grants).enumerate() {
            // The first that allows a request is the one that counts.
            if grant.networks.is_empty() && rules[..index].iter().any(|earlier| earlier.covers(rule)) {
                return Err(grant.misuse("an earlier one allows all of it; put the narrower one first"));
            }
        }
        Ok(Egress {
            bounds: grants.iter().map(|grant| grant.bounds).collect(),
            needs: needs.map(|needs| needs.iter().map(rule).collect::<Result<_>>()).transpose()?,
            injections: grants.iter().map(|grant| grant.inject(keyring, hosts)).collect::<Result<_>>()?,
            clients: Clients::new(wires, Arc::clone(&rules)),
            rules,
        })
    }
}

/// Whether requests leave by that interface.
pub(super) fn is_outgoing(import: &str) -> bool {
    matches!(import.split_once('@'), Some(("wasi:http/outgoing-handler" | "wasi:http/client", _)))
}

/// Links the interfaces by which requests leave.
pub(super) fn link<T: WasiHttpView>(linker: &mut Linker<T>, asynchronous: bool) -> wasmtime::Result<()> {
    wasmtime_wasi_http::p2::bindings::http::outgoing_handler::add_to_linker::<T, WasiHttp>(linker, T::http)?;
    if asynchronous {
        wasmtime_wasi_http::p3::bindings::http::client::add_to_linker::<T, WasiHttp>(linker, T::http)?;
    }
    Ok(())
}
