//! [`Exchange`]: what other machines answer in a test. Nothing leaves the process: names have addresses that are made up,
//! and connections end in a server of the test's, with TLS by an authority of the test's.

use super::faults::{Fault, Faults};
use crate::{BoxFuture, Error, ErrorKind, Network, Result, Stream};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, Request, Response, Uri};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio_rustls::LazyConfigAcceptor;

/// What another machine answers to one request. Made by [`Host::http`](super::Host::http).
///
/// Of several that fit a request, the first that was made and is not used up answers.
#[must_use = "it answers nothing until it is told what, by `replies`, `answers`, `hangs` or `cuts`"]
pub struct Exchange<'a> {
    exchanges: &'a Exchanges,
    rule: Rule,
}

impl Exchange<'_> {
    /// Exactly so often: [`verify`](super::Host::verify) panics if it was less, and one more is a request that nothing
    /// answers. Without it: any number of times, also none.
    pub fn times(mut self, times: u32) -> Self {
        self.rule.times = Some(times);
        self
    }

    /// Replies with that status and body.
    ///
    /// # Panics
    /// If http has no such status.
    pub fn replies(self, status: u16, body: impl Into<Bytes>) {
        let body = body.into();
        let response = Response::builder().status(status).body(body).unwrap_or_else(|e| panic!("{e}: {status}"));
        self.answers(move |_| response.clone());
    }

    /// Replies with what `answer` makes of the request.
    pub fn answers(self, answer: impl Fn(&Request<Bytes>) -> Response<Bytes> + Send + Sync + 'static) {
        self.then(Answer::Whole(Arc::new(answer)));
    }

    /// Never replies.
    pub fn hangs(self) {
        self.then(Answer::Nothing);
    }

    /// Replies with status 200 and the beginning of a body, and breaks the connection there.
    pub fn cuts(self, beginning: impl Into<Bytes>) {
        self.then(Answer::Part(beginning.into()));
    }

    fn then(mut self, answer: Answer) {
        self.rule.answer = answer;
        self.exchanges.state.lock().rules.push(self.rule);
    }
}

type Make = dyn Fn(&Request<Bytes>) -> Response<Bytes> + Send + Sync;

#[derive(Clone)]
enum Answer {
    Whole(Arc<Make>),
    Part(Bytes),
    Nothing,
}

struct Rule {
    method: Method,
    url: Uri,
    times: Option<u32>,
    used: u32,
    answer: Answer,
}

impl Rule {
    fn fits(&self, request: &Request<Bytes>) -> bool {
        let (asked, own) = (request.uri(), &self.url);
        let query = own.query().is_none_or(|query| asked.query() == Some(query));
        self.method == request.method() && origin(asked) == origin(own) && asked.path() == own.path() && query
    }
}

/// Scheme, host and port.
fn origin(url: &Uri) -> (Option<&str>, Option<&str>, u16) {
    let usual = if url.scheme_str() == Some("https") { 443 } else { 80 };
    (url.scheme_str(), url.host(), url.port_u16().unwrap_or(usual))
}

/// All that other machines answer to a test's functions, and were asked.
pub(super) struct Exchanges {
    state: Mutex<State>,
    faults: Faults,
    issuer: Issuer<'static, KeyPair>,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    requests: Vec<Request<Bytes>>,
    unexpected: Vec<String>,
    /// Names that were looked up; the place of each is its address.
    names: Vec<String>,
}

/// A network that is nobody's and no test's, and counts as public.
const MADE_UP: [u8; 2] = [11, 22];
/// Bytes under way in one direction of a connection.
const UNDER_WAY: usize = 64 << 10;

impl Exchanges {
    /// And the authority's certificate, as DER.
    pub(super) fn new(faults: Faults) -> Result<(Exchanges, Vec<u8>)> {
        let failed = |e: rcgen::Error| {
            Error::new(ErrorKind::Internal, format!("a certificate cannot be made: {e}; please report this"))
        };
        let mut authority = CertificateParams::new([]).map_err(failed)?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().map_err(failed)?;
        let root = authority.self_signed(&key).map_err(failed)?.der().to_vec();
        Ok((Exchanges { state: Mutex::default(), faults, issuer: Issuer::new(authority, key) }, root))
    }

    pub(super) fn on(&self, method: &str, url: &str) -> Exchange<'_> {
        let method = method.parse().unwrap_or_else(|_| panic!("\"{method}\" is no http method"));
        let url: Uri = url.parse().unwrap_or_else(|e| panic!("\"{url}\" cannot be read: {e}"));
        assert!(
            url.scheme().is_some() && url.host().is_some(),
            "\"{url}\" is no whole URL, as https://api.example.com/v1"
        );
        let rule = Rule { method, url, times: None, used: 0, answer: Answer::Nothing };
        Exchange { exchanges: self, rule }
    }

    pub(super) fn requests(&self) -> Vec<Request<Bytes>> {
        self.state.lock().requests.clone()
    }

    /// What was not as the test said, in words.
    pub(super) fn unmet(&self) -> Vec<String> {
        let state = self.state.lock();
        let unexpected = state.unexpected.iter().map(|request| format!("the request {request} was not expected"));
        let missed = state.rules.iter().filter_map(|rule| {
            let times = rule.times.filter(|times| rule.used < *times)?;
            Some(format!("{} {} was sent {} of {times} times", rule.method, rule.url, rule.used))
        });
        unexpected.chain(missed).collect()
    }

    /// The name behind an address that was made up for it.
    fn name(&self, address: IpAddr) -> String {
        let known = match address {
            IpAddr::V4(v4) if v4.octets()[..2] == MADE_UP => {
                let [.., high, low] = v4.octets();
                self.state.lock().names.get(usize::from(u16::from_be_bytes([high, low]))).cloned()
            }
            _ => None,
        };
        known.unwrap_or_else(|| address.to_string())
    }

    /// Serves one connection to its end.
    async fn serve(self: Arc<Exchanges>, stream: impl Stream, address: SocketAddr) {
        if address.port() == 443 || self.is_https(address) {
            let name = self.name(address.ip());
            let Ok(start) = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await else { return };
            let name = start.client_hello().server_name().map_or(name, str::to_owned);
            let Some(config) = self.tls(name) else { return };
            if let Ok(stream) = start.into_stream(config).await {
                self.exchange(stream, address, "https").await;
            }
        } else {
            self.exchange(stream, address, "http").await;
        }
    }

    /// Whether the test says https of that port.
    fn is_https(&self, address: SocketAddr) -> bool {
        let name = self.name(address.ip());
        let is_it = |url: &Uri| origin(url) == (Some("https"), Some(name.as_str()), address.port());
        self.state.lock().rules.iter().any(|rule| is_it(&rule.url))
    }

    fn tls(&self, name: String) -> Option<Arc<ServerConfig>> {
        let key = KeyPair::generate().ok()?;
        let certificate = CertificateParams::new([name]).ok()?.signed_by(&key, &self.issuer).ok()?;
        let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().ok()?.with_no_client_auth();
        builder.with_single_cert(vec![certificate.der().clone()], key.into()).ok().map(Arc::new)
    }

    async fn exchange(self: Arc<Exchanges>, stream: impl Stream, address: SocketAddr, scheme: &'static str) {
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let exchanges = Arc::clone(&self);
            async move {
                let (mut parts, body) = request.into_parts();
                let host = parts.headers.get("host").and_then(|host| host.to_str().ok()).map(str::to_owned);
                let host = host.unwrap_or_else(|| format!("{}:{}", exchanges.name(address.ip()), address.port()));
                let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
                parts.uri = format!("{scheme}://{host}{path}").parse().map_err(io::Error::other)?;
                let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
                exchanges.reply(Request::from_parts(parts, body)).await
            }
        });
        // How it ends is for the guest to see.
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    async fn reply(&self, request: Request<Bytes>) -> io::Result<Response<UnsyncBoxBody<Bytes, io::Error>>> {
        let answer = {
            let State { rules, requests, unexpected, .. } = &mut *self.state.lock();
            requests.push(request.clone());
            let spent = |rule: &Rule| rule.times.is_some_and(|times| rule.used >= times);
            match rules.iter_mut().find(|rule| rule.fits(&request) && !spent(rule)) {
                Some(rule) => {
                    rule.used += 1;
                    rule.answer.clone()
                }
                None => {
                    let asked = format!("{} {}", request.method(), request.uri());
                    unexpected.push(asked.clone());
                    let text = format!("the test expects no request {asked}; say what it gives by `.http(..)`");
                    let response = Response::builder().status(501).body(Bytes::from(text)).map_err(io::Error::other)?;
                    Answer::Whole(Arc::new(move |_| response.clone()))
                }
            }
        };
        match answer {
            Answer::Whole(answer) => {
                Ok(answer(&request).map(|body| Full::new(body).map_err(|e| match e {}).boxed_unsync()))
            }
            Answer::Part(beginning) => {
                let cut = io::Error::from(io::ErrorKind::ConnectionReset);
                let frames = stream::iter([Ok(Frame::data(beginning)), Err(cut)]);
                // What was sent has gone before the connection does.
                let frames = frames.then(|frame| async {
                    tokio::task::yield_now().await;
                    frame
                });
                Ok(Response::new(StreamBody::new(frames).boxed_unsync()))
            }
            Answer::Nothing => std::future::pending().await,
        }
    }
}

/// The network of a test's host.
pub(super) struct Wires(pub(super) Arc<Exchanges>);

impl Network for Wires {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        let mut state = self.0.state.lock();
        let known = state.names.iter().position(|known| known == name);
        let at = known.unwrap_or_else(|| {
            state.names.push(name.to_owned());
            state.names.len() - 1
        });
        let [high, low] = u16::try_from(at).unwrap_or(u16::MAX).to_be_bytes();
        let [first, second] = MADE_UP;
        Box::pin(std::future::ready(Ok(vec![Ipv4Addr::new(first, second, high, low).into()])))
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        let exchanges = Arc::clone(&self.0);
        Box::pin(async move {
            let (near, far) = tokio::io::duplex(UNDER_WAY);
            match exchanges.faults.strike() {
                Some(Fault::Before) => return Err(io::ErrorKind::ConnectionRefused.into()),
                // There is a connection, and nobody at its other end.
                Some(Fault::After) => drop(far),
                None => drop(tokio::spawn(exchanges.serve(far, address))),
            }
            Ok(Box::new(near) as Box<dyn Stream>)
        })
    }
}
