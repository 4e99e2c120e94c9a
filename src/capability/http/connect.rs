//! From a checked target to a connection: resolve once, check every address, dial one of them.

use super::egress::{self, Rule};
use crate::error::{Error, ErrorKind, Result};
use crate::future::BoxFuture;
use http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower_service::Service;
use wasmtime_wasi_http::WasiBody;

/// A connection, before any TLS.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

/// How a host reaches other machines: names to addresses, and addresses to connections. The default asks the operating
/// system for both. Replace it to use another resolver, or a proxy.
///
/// Which addresses a guest may reach is decided in between, whatever this answers.
pub trait Network: Send + Sync + 'static {
    /// All addresses of a name. A guest's request fails if one of them may not be reached.
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }

    /// A connection to that address, which was checked. Small requests go out at once only over a TCP stream without delay
    /// (`set_nodelay`), as the default makes it.
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

/// The operating system's resolver and sockets.
pub(crate) struct System;

impl Network for System {}

/// What all connections of a host are made with.
pub(crate) struct Wires {
    network: Arc<dyn Network>,
    tls: rustls::ClientConfig,
    lookups: Arc<Semaphore>,
}

/// Names that are looked up at once by a host, and for one tenant of one function. A lookup of the operating system's takes
/// a thread for as long as a name server likes, also where nobody waits for it any more.
const MAX_LOOKUPS: usize = 64;
const MAX_OWN_LOOKUPS: usize = 8;

impl Wires {
    /// `roots` are trusted besides those of the web.
    pub(crate) fn new(network: Option<Arc<dyn Network>>, roots: Vec<CertificateDer<'static>>) -> Result<Wires> {
        let mut store = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        for root in roots {
            store.add(root).map_err(|e| {
                Error::new(ErrorKind::Misuse, format!("a root certificate cannot be read: {e}; pass it as DER"))
            })?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::new(ErrorKind::Internal, format!("TLS cannot be set up: {e}; please report this")))?
            .with_root_certificates(store)
            .with_no_client_auth();
        let lookups = Arc::new(Semaphore::new(MAX_LOOKUPS));
        Ok(Wires { network: network.unwrap_or_else(|| Arc::new(System)), tls, lookups })
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum Unreachable {
    Resolve(io::Error),
    NoAddress,
    Prohibited(IpAddr),
    Connect(io::Error),
    TooMany,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreachable::Resolve(error) => write!(f, "the name cannot be resolved: {error}"),
            Unreachable::NoAddress => f.write_str("the name has no address"),
            Unreachable::Prohibited(address) => write!(f, "no grant allows the address {address}"),
            Unreachable::Connect(error) => write!(f, "no connection: {error}"),
            Unreachable::TooMany => f.write_str("too many connections are open"),
        }
    }
}

impl std::error::Error for Unreachable {}

/// Clients of one function: one for each tenant, so that no tenant's request goes over another's connection.
pub(super) struct Clients {
    network: Arc<dyn Network>,
    tls: rustls::ClientConfig,
    lookups: Arc<Semaphore>,
    rules: Arc<[Rule]>,
    /// Those used last come first.
    open: Mutex<VecDeque<(Option<Arc<str>>, HttpClient)>>,
}

pub(super) type HttpClient = Client<HttpsConnector<Connector>, WasiBody>;

/// Tenants whose connections are kept.
const MAX_CLIENTS: usize = 64;
/// Idle connections that are kept for each tenant and origin, and for how long.
const MAX_IDLE: usize = 4;
const IDLE: Duration = Duration::from_secs(30);
/// Connections of one tenant to all origins together, idle ones included: a grant with a wildcard is for any number of
/// names, and each connection is an open file.
const MAX_CONNECTIONS: usize = 64;
/// Bytes of the head of a response.
pub(super) const MAX_HEAD: usize = 64 * 1024;

impl Clients {
    pub(super) fn new(wires: &Wires, rules: Arc<[Rule]>) -> Clients {
        let (network, lookups) = (Arc::clone(&wires.network), Arc::clone(&wires.lookups));
        Clients { network, tls: wires.tls.clone(), lookups, rules, open: Mutex::default() }
    }

    pub(super) fn of(&self, tenant: Option<&Arc<str>>) -> HttpClient {
        let mut open = self.open.lock();
        if let Some(at) = open.iter().position(|(known, _)| known.as_ref() == tenant) {
            if let Some(found) = open.remove(at) {
                open.push_front(found);
            }
        } else {
            open.truncate(MAX_CLIENTS - 1);
            open.push_front((tenant.cloned(), self.client()));
        }
        open[0].1.clone()
    }

    fn client(&self) -> HttpClient {
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(self.tls.clone())
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(Connector {
                network: Arc::clone(&self.network),
                rules: Arc::clone(&self.rules),
                places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
                lookups: [Arc::new(Semaphore::new(MAX_OWN_LOOKUPS)), Arc::clone(&self.lookups)],
            });
        Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_IDLE)
            .http1_max_buf_size(MAX_HEAD)
            .http2_max_header_list_size(MAX_HEAD as u32)
            .build(connector)
    }
}

#[derive(Clone)]
pub(super) struct Connector {
    network: Arc<dyn Network>,
    rules: Arc<[Rule]>,
    places: Arc<Semaphore>,
    /// The tenant's own, then the host's.
    lookups: [Arc<Semaphore>; 2],
}

impl Connector {
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let mut permits = Vec::new();
        for lookups in &self.lookups {
            permits.push(Arc::clone(lookups).acquire_owned().await.map_err(io::Error::other)?);
        }
        let (network, host) = (Arc::clone(&self.network), host.to_owned());
        // On a task of its own, so that it is counted until it ends.
        let lookup = tokio::spawn(async move {
            let _permits = permits;
            network.resolve(&host).await
        });
        lookup.await.map_err(io::Error::other)?
    }

    async fn dial(self, uri: Uri) -> Result<TokioIo<Wire>, Unreachable> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Unreachable::TooMany)?;
        let host = uri.host().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(if uri.scheme() == Some(&http::uri::Scheme::HTTP) { 80 } else { 443 });
        let addresses = match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => self.resolve(host).await.map_err(Unreachable::Resolve)?,
        };
        let (scheme, authority) = (uri.scheme_str().unwrap_or_default(), uri.authority().map_or("", |a| a.as_str()));
        if let Some(address) = egress::refused(&self.rules, scheme, authority, &addresses) {
            return Err(Unreachable::Prohibited(address));
        }
        let mut last = Unreachable::NoAddress;
        for address in addresses {
            match self.network.connect(SocketAddr::new(address, port)).await {
                Ok(stream) => return Ok(TokioIo::new(Wire { stream, _place: place })),
                Err(error) => last = Unreachable::Connect(error),
            }
        }
        Err(last)
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Wire>;
    type Error = Unreachable;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Unreachable>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Unreachable>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().dial(uri))
    }
}

/// A [`Stream`] in the form that hyper wants.
pub(super) struct Wire {
    stream: Box<dyn Stream>,
    _place: OwnedSemaphorePermit,
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
