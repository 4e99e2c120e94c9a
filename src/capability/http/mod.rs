//! `wasi:http` outwards, 0.2 and 0.3: which requests a guest may send, and sending them.
//!
//! [`egress`] decides, [`connect`] resolves and dials, [`send`] does one exchange. What was decided about a name is
//! what is dialled: an address is looked up once, checked, and connected to.

mod connect;
mod egress;
mod send;
pub(super) mod types;

pub use connect::{Network, Stream};
pub(crate) use send::Outgoing;

use crate::error::{Error, ErrorKind, Result};
use connect::Clients;
pub(crate) use connect::Wires;
use egress::Rule;
use http::Method;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use wasmtime::component::Linker;
use wasmtime_wasi_http::{WasiHttp, WasiHttpView};

/// Permission to send http requests to one origin.
///
/// A guest's request passes if one of the function's `Http` grants has its scheme, host and port, and its method and
/// path. Without a method, a grant allows every method and path. Names must resolve to public addresses only, unless
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
    requests: Vec<(Method, String)>,
    networks: Vec<String>,
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
            self.allow(Method::$method, path)
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
            bounds: HttpBounds::default(),
            wrong: None,
        }
    }

    methods!(get GET, head HEAD, post POST, put PUT, patch PATCH, delete DELETE, options OPTIONS);

    /// Allows that method of that path. In a path, a segment `*` stands for any one segment, and as the last one for
    /// all that follows. The query is free.
    pub fn method(mut self, method: &str, path: &str) -> Http {
        match Method::from_bytes(method.as_bytes()) {
            Ok(method) => self.allow(method, path),
            Err(_) => {
                self.wrong.get_or_insert_with(|| format!("\"{method}\" is no http method"));
                self
            }
        }
    }

    fn allow(mut self, method: Method, path: &str) -> Http {
        self.requests.push((method, path.to_owned()));
        self
    }

    /// Lets the origin's name resolve to addresses of that network, such as `10.1.0.0/16`, though they are not public.
    pub fn network(mut self, network: impl Into<String>) -> Http {
        self.networks.push(network.into());
        self
    }

    /// Requests that one call may have under way at once. Default 8; more fail as `connection-limit-reached`.
    pub fn in_flight(mut self, requests: u32) -> Http {
        self.bounds.in_flight = requests;
        self
    }

    /// Bytes of a request's body. Default 4 MiB.
    pub fn request_bytes(mut self, bytes: u64) -> Http {
        self.bounds.request_bytes = bytes;
        self
    }

    /// Bytes of a response's body. Default 16 MiB.
    pub fn response_bytes(mut self, bytes: u64) -> Http {
        self.bounds.response_bytes = bytes;
        self
    }

    /// From the request to the end of the response's body. Default 30 s, at most a year; the call's own deadline holds
    /// besides.
    pub fn timeout(mut self, timeout: Duration) -> Http {
        // More is more than a clock can add to the time of day.
        self.bounds.timeout = timeout.min(Duration::from_secs(365 * 24 * 3600));
        self
    }

    /// The origin, without what could be a password.
    fn shown(&self) -> &str {
        self.origin.rsplit('@').next().unwrap_or_default()
    }

    fn rule(&self) -> Result<Rule, String> {
        if let Some(wrong) = &self.wrong {
            return Err(wrong.clone());
        }
        if self.bounds.in_flight == 0 || self.bounds.timeout.is_zero() {
            return Err("nothing could be sent without a request in flight, or in no time".to_owned());
        }
        let mut rule = Rule::to(&self.origin)?;
        for (method, path) in &self.requests {
            rule.allow(Some(method.clone()), path)?;
        }
        for network in &self.networks {
            rule.network(network.parse().map_err(|_| format!("\"{network}\" is no network such as 10.1.0.0/16"))?);
        }
        Ok(rule)
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("to", &self.shown()).field("requests", &self.requests).finish_non_exhaustive()
    }
}

/// Bytes of one set of headers or trailers.
pub(super) const MAX_FIELDS: usize = 32 * 1024;

/// All `Http` grants of one function, and its connections.
pub(crate) struct Egress {
    rules: Arc<[Rule]>,
    bounds: Vec<HttpBounds>,
    clients: Clients,
}

impl Egress {
    pub(super) fn bind(grants: &[Http], wires: &Wires) -> Result<Egress> {
        let misuse = |grant: &Http, why: String| {
            Error::new(ErrorKind::Misuse, format!("the grant Http::to(\"{}\") cannot be kept: {why}", grant.shown()))
        };
        let rules = grants.iter().map(|grant| grant.rule().map_err(|why| misuse(grant, why)));
        let rules: Arc<[Rule]> = rules.collect::<Result<Vec<_>>>()?.into();
        Ok(Egress {
            bounds: grants.iter().map(|grant| grant.bounds).collect(),
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
