//! Servers on loopback for the requests of guests: real sockets, http and TLS.

use bytes::Bytes;
use http::request::Parts;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use isopod::{BoxFuture, Host, HostBuilder, Network, Stream};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A body of a response.
pub(crate) type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
}

/// A server that answers as told, and goes with the test's runtime.
pub(crate) async fn serve(
    tls: Option<TlsAcceptor>,
    answer: impl Fn(Parts, Bytes) -> http::Response<Body> + Clone + Send + Sync + 'static,
) -> Server {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            stream.set_nodelay(true).unwrap();
            let (tls, answer) = (tls.clone(), answer.clone());
            tokio::spawn(async move {
                match tls {
                    None => exchange(stream, answer).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            exchange(stream, answer).await;
                        }
                    }
                }
            });
        }
    });
    Server { address, connections }
}

/// Answers on one connection, until it ends.
pub(crate) async fn exchange(
    stream: impl Stream,
    answer: impl Fn(Parts, Bytes) -> http::Response<Body> + Clone + Send + Sync + 'static,
) {
    let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let answer = answer.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            Ok::<_, Infallible>(answer(parts, body))
        }
    });
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

/// TLS for `api.test` by an authority of its own; and that authority.
pub(crate) fn tls() -> (TlsAcceptor, Vec<u8>) {
    let mut authority = rcgen::CertificateParams::new([]).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let root = authority.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(authority, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["api.test".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (Arc::new(config).into(), root.der().to_vec())
}

/// Answers for names as told, one answer after the other, and writes down where it was asked to connect.
#[derive(Clone, Default)]
pub(crate) struct Names {
    answers: Arc<Mutex<Vec<Vec<IpAddr>>>>,
    pub(crate) dialled: Arc<Mutex<Vec<SocketAddr>>>,
    /// Where connections really go, if not where they were asked to.
    pub(crate) instead: Option<SocketAddr>,
}

impl Names {
    /// The last answer is given for ever.
    pub(crate) fn new<const N: usize>(answers: [&[&str]; N]) -> Names {
        let parse = |answer: &&[&str]| answer.iter().map(|address| address.parse().unwrap()).collect();
        Names { answers: Arc::new(Mutex::new(answers.iter().rev().map(parse).collect())), ..Names::default() }
    }

    pub(crate) fn host(&self, more: impl FnOnce(HostBuilder) -> HostBuilder) -> Host {
        more(Host::builder().network(self.clone())).build().unwrap()
    }
}

impl Network for Names {
    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop() } else { answers.last().cloned() };
        Box::pin(async move { answer.ok_or_else(|| io::Error::other("no such name")) })
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        self.dialled.lock().unwrap().push(address);
        Box::pin(async move {
            let stream = TcpStream::connect(self.instead.unwrap_or(address)).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}
