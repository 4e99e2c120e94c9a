//! A service that runs somebody else's plugin for its tenants: one function, loaded once, called for two of them.
//!
//! ```text
//! cargo run --release --example saas
//! ```
//!
//! The plugin bills orders. It counts them in key-value, writes an invoice into its scratch directory, and sends it to a
//! billing API that wants a token; the host puts the token in, and the plugin never sees it. Then it tells a URL about it
//! that the buyer chose, and two buyers choose badly: one names the address where clouds hand out credentials, the other
//! a name that leads there. Everything is here: the API is a server on loopback with TLS of its own. What is claimed is
//! checked: a claim that does not hold is an error.

use anyhow::{Context as _, anyhow, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use isopod::{
    BoxFuture, CallOptions as _, Denial, Host, Limits, LogRecord, LogSink, MIB, Network, Policy, Secret, Stream, ms,
};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

// The plugin's world, as a typed handle.
isopod::world!({ world: "orders", path: "guests/wit/orders" });

/// All that the plugin may do. The token stands here by its name only, so that this text can lie among others.
const POLICY: &str = r#"
    keyvalue = [{ bucket = "state" }]
    scratch = { guest = "/scratch", max_bytes = 65536 }
    log = { level = "info" }

    [[http]]
    to = "https://api.billing.test"
    allow = ["POST /v1/invoices"]
    bearer = "billing-token"
    network = ["127.0.0.0/8"]       # It is on loopback here. Without this line, only public addresses.

    [[http]]
    to = "https://*.hooks.test"
    allow = ["POST /*"]
"#;
const TOKEN: &str = "a-token-that-nobody-may-see";
/// Where a cloud tells a machine its credentials.
const METADATA: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));

/// Tenant, order, whom to tell, and which order of the tenant's it is.
const CALLS: [(&str, &str, Option<&str>, i64); 3] = [
    ("acme", "3 lamps", None, 1),
    ("globex", "1 desk", Some("http://169.254.169.254/latest/meta-data/"), 1),
    ("acme", "2 chairs", Some("https://turned.hooks.test/billed"), 2),
];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let scratch = std::env::temp_dir().join(format!("isopod-saas-{}", std::process::id()));
    let ended = run(&scratch).await;
    let _ = std::fs::remove_dir_all(&scratch);
    ended
}

async fn run(scratch: &Path) -> anyhow::Result<()> {
    let api = Api::start(scratch).await?;
    let network = Wires { api: api.address, dialled: Arc::default() };
    let host = Host::builder()
        .secret(Secret::value("billing-token", TOKEN.to_owned()))
        .tls_root(api.root.clone())
        .network(network.clone())
        .scratch_dir(scratch)
        .log(Print)
        .build()?;
    let orders = host
        .function("orders")
        .component_file(Path::new(env!("CARGO_MANIFEST_DIR")).join("guests/built/orders.wasm"))
        .limits(Limits::default().deadline(ms(10_000)).memory(16 * MIB))
        .policy(Policy::from_toml(POLICY)?)
        .load_typed::<Orders>()
        .await?;

    for (tenant, order, notify, number) in CALLS {
        println!("{tenant} orders {order}");
        let reply = orders.tenant(tenant).handle(order, notify).await?;
        let refused = || reply.denials().iter().map(Denial::explain).collect::<Vec<_>>().join("\n");
        let billed = reply.value.as_ref().map_err(|error| anyhow!("the plugin says {error}\n{}", refused()))?;
        let seen = api.seen.lock().unwrap().pop().context("nothing came to the API")?;
        let left = invoices(scratch);
        println!("  API got     {}", seen.request);
        println!("  plugin got  {}", billed.answer);
        println!("  scratch     {} files before, {} while the API answered, {left} after", billed.found, seen.invoices);
        println!("  receipt     {}\n", reply.usage);

        ensure!(billed.number == number, "{tenant} has {} orders, not {number}", billed.number);
        ensure!(seen.request.contains(&format!("Bearer {TOKEN}")), "the API was sent another token");
        let masked = billed.answer.contains("Bearer ****") && !billed.answer.contains(TOKEN);
        ensure!(masked, "the plugin was told {}", billed.answer);
        ensure!((billed.found, seen.invoices, left) == (0, 1, 0), "the invoice was not there, or stayed");
    }

    println!("Refused:");
    let denials = host.denials();
    for denial in &denials {
        println!("  {} for {}: {}", denial.function(), denial.tenant().unwrap_or("nobody"), denial.explain());
        let why = denial.rule();
        ensure!(why.contains("169.254.169.254") && why.contains("cloud metadata"), "it says nothing of the address");
    }
    ensure!(denials.iter().map(Denial::tenant).eq([Some("globex"), Some("acme")]), "others were refused");
    let dialled = network.dialled.lock().unwrap();
    let allowed = SocketAddr::from((Ipv4Addr::LOCALHOST, 443));
    ensure!(dialled.iter().all(|address| *address == allowed), "connected to {dialled:?}");
    Ok(())
}

/// Prints what the plugin logs, as it does so.
struct Print;

impl LogSink for Print {
    fn log(&self, record: &LogRecord<'_>) {
        println!("  log         {}: {}", record.level, record.message);
    }
}

/// The invoices that lie on this machine's disk.
fn invoices(scratch: &Path) -> usize {
    let files = ignore::WalkBuilder::new(scratch).standard_filters(false).build();
    files.flatten().filter(|entry| entry.file_name() == "invoice.txt").count()
}

// ---- The network, as the host sees it: one name leads to the API, all others to the metadata.

#[derive(Clone)]
struct Wires {
    api: SocketAddr,
    /// Where the host wanted to connect to.
    dialled: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Network for Wires {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        let address = if name == "api.billing.test" { self.api.ip() } else { METADATA };
        Box::pin(async move { Ok(vec![address]) })
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        self.dialled.lock().unwrap().push(address);
        Box::pin(async {
            // 443 is not for everybody to listen at.
            let stream = TcpStream::connect(self.api).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

// ---- The billing API.

struct Api {
    address: SocketAddr,
    /// The authority that vouches for it, as DER.
    root: Vec<u8>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

struct Seen {
    request: String,
    /// How many lay on the disk when it came.
    invoices: usize,
}

impl Api {
    async fn start(scratch: &Path) -> anyhow::Result<Api> {
        let (tls, root) = tls()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (address, seen) = (listener.local_addr()?, Arc::default());
        tokio::spawn(serve(listener, tls, Arc::clone(&seen), scratch.to_owned()));
        Ok(Api { address, root, seen })
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, seen: Arc<Mutex<Vec<Seen>>>, scratch: PathBuf) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, seen, scratch) = (tls.clone(), Arc::clone(&seen), scratch.clone());
        tokio::spawn(async move {
            stream.set_nodelay(true)?;
            let stream = TokioIo::new(tls.accept(stream).await?);
            let service = service_fn(|request| answer(request, &seen, &scratch));
            hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await?;
            anyhow::Ok(())
        });
    }
}

/// Answers with what it was sent, the token included: a server that gives away what it knows.
async fn answer(
    request: http::Request<Incoming>,
    seen: &Mutex<Vec<Seen>>,
    scratch: &Path,
) -> anyhow::Result<http::Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let authorization = head.headers.get("authorization").map_or("nothing", |value| value.to_str().unwrap_or("?"));
    let request = format!("{} {}, {authorization}, {}", head.method, head.uri.path(), String::from_utf8_lossy(&body));
    seen.lock().unwrap().push(Seen { request: request.clone(), invoices: invoices(scratch) });
    Ok(http::Response::new(request.into()))
}

/// TLS for the API, and the authority that vouches for it.
fn tls() -> anyhow::Result<(TlsAcceptor, Vec<u8>)> {
    let mut authority = rcgen::CertificateParams::new([])?;
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate()?;
    let root = authority.self_signed(&key)?.der().to_vec();
    let issuer = rcgen::Issuer::new(authority, key);
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::new(["api.billing.test".to_owned()])?.signed_by(&key, &issuer)?;
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    Ok((Arc::new(config).into(), root))
}

#[test]
fn its_claims_hold() -> anyhow::Result<()> {
    main()
}
