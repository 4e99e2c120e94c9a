//! Requests that guests send: real guests of both WASI generations, real servers on loopback.

use crate::server::{self, Names, Server};
use crate::support::{alone, built, text};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use isopod::{BoxFuture, CallOptions, ErrorKind, Function, Host, Http, Limits, Network, Reply, Secret, Stream, ms};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio_rustls::TlsAcceptor;

const GUESTS: [&str; 2] = ["http-client-p2", "http-client-p3"];

#[derive(Clone, Serialize)]
struct Request {
    method: &'static str,
    scheme: &'static str,
    authority: String,
    path: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
    copies: u32,
}

#[derive(Debug, Deserialize)]
struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
}

type Fetched = Result<Response, String>;

fn get(scheme: &'static str, authority: impl ToString, path: &'static str) -> Request {
    let authority = authority.to_string();
    Request { method: "GET", scheme, authority, path, headers: Vec::new(), body: Vec::new(), copies: 1 }
}

async fn fetch(function: &Function, request: Request) -> Reply<Fetched> {
    function.call::<Fetched>("fetch", (request,)).await.unwrap_or_else(|e| panic!("{e:?}"))
}

/// Whether it failed so. An error of a body is a text to guests of WASI 0.2.
fn is(reply: &Reply<Fetched>, code: &str, text: &str) -> bool {
    reply.value.as_ref().is_err_and(|error| error == code || error.contains(text))
}

async fn load(host: &Host, guest: &str, grants: impl IntoIterator<Item = Http>) -> Function {
    let builder = host.function("client").component_file(built(guest)).limits(Limits::default().deadline(ms(5_000)));
    grants.into_iter().fold(builder, |builder, grant| builder.grant(grant)).load().await.unwrap()
}

/// A server that answers each request with what it saw of it.
async fn serve(tls: Option<TlsAcceptor>) -> Server {
    server::serve(tls, |parts, body| {
        let host = parts.headers.get("host").map_or("-", |host| host.to_str().unwrap());
        let saw = format!("{:?} {} {} host={host} body={}", parts.version, parts.method, parts.uri, body.len());
        let status = if parts.uri.path() == "/moved" { 302 } else { 200 };
        let body = if parts.uri.path() == "/large" { Bytes::from(vec![b'x'; 100_000]) } else { saw.into() };
        let response = http::Response::builder().status(status).header("location", "http://127.0.0.1:1/");
        response.body(Full::new(body).boxed_unsync()).unwrap()
    })
    .await
}

#[tokio::test]
async fn requests_go_where_a_grant_says() {
    let server = serve(None).await;
    let address = server.address;
    for guest in GUESTS {
        let host = Host::new().unwrap();
        let origin = format!("http://{address}");
        let grant = Http::to(&origin).get("/v1/*").method("PURGE", "/cache").timeout(std::time::Duration::MAX);
        let client = load(&host, guest, [grant]).await;
        let reply = fetch(&client, get("http", address, "/v1/x?q=1")).await;
        let response = reply.value.as_ref().unwrap();
        let saw = format!("HTTP/1.1 GET /v1/x?q=1 host={address} body=0");
        assert_eq!((response.status, String::from_utf8(response.body.clone()).unwrap()), (200, saw), "{guest}");
        assert!(reply.denials().is_empty() && response.headers.iter().any(|(name, _)| name == "location"));
        let purge = Request { method: "PURGE", body: b"all".to_vec(), ..get("http", address, "/cache") };
        let saw = String::from_utf8(fetch(&client, purge).await.value.unwrap().body).unwrap();
        assert_eq!(saw, format!("HTTP/1.1 PURGE /cache host={address} body=3"), "{guest}");

        let before = server.connections.load(Ordering::SeqCst);
        for (refused, why) in [
            (get("http", address, "/v2/x"), format!("the rule for {origin} does not allow GET /v2/x")),
            (get("https", address, "/v1/x"), format!("the rule for {origin} does not allow https")),
            (get("http", "127.0.0.1:1", "/v1/x"), format!("the rule for {origin} does not allow port 1")),
            (get("http", "example.com", "/v1/x"), "no rule is for example.com".to_owned()),
            (get("http", format!("0x7f.1:{}", address.port()), "/v1/x"), "another spelling of".to_owned()),
        ] {
            let reply = fetch(&client, refused).await;
            assert_eq!(reply.value.as_ref().unwrap_err(), "HttpRequestDenied", "{guest}");
            let explained = reply.denials()[0].explain();
            assert!(reply.denials().len() == 1 && explained.contains(&why), "{guest}: {explained}");
        }
        assert_eq!(server.connections.load(Ordering::SeqCst), before, "a refused request went out");
    }
}

#[tokio::test]
async fn a_refusal_says_what_would_allow_it() {
    let host = Host::new().unwrap();
    let client = load(&host, GUESTS[0], [Http::to("https://api.example.com").get("/v1/*")]).await.tenant("acme");
    let reply = fetch(&client, get("https", "api.example.com", "/v2/items")).await;
    assert_eq!(
        reply.denials()[0].explain(),
        "http GET https://api.example.com/v2/items was denied: the rule for https://api.example.com does not allow \
         GET /v2/items; to allow it: `.grant(Http::to(\"https://api.example.com\").get(\"/v2/items\"))`, or in a \
         policy: http = [{ to = \"https://api.example.com\", allow = [\"GET /v2/items\"] }]"
    );
    let audit = host.denials();
    assert_eq!(audit, reply.denials(), "the host keeps them as well");
    assert_eq!((audit[0].function(), audit[0].tenant()), ("client", Some("acme")));
}

#[tokio::test]
async fn without_a_grant_it_does_not_load() {
    for guest in GUESTS {
        let error = Host::new().unwrap().function("client").component_file(built(guest)).load().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UngrantedImport);
        assert!(error.to_string().contains("Http::to("), "{error}");
    }
}

#[tokio::test]
async fn grants_that_cannot_be_kept_are_refused() {
    let wrong = [
        Http::to("ftp://example.com"),
        Http::to("https://user:hunter2@example.com"),
        Http::to("https://127.1"),
        Http::to("https://*.com"),
        Http::to("https://example.com").get("v1"),
        Http::to("https://example.com").method("BAD METHOD", "/"),
        Http::to("https://example.com").network("10.0.0.0/40"),
        Http::to("https://example.com").in_flight(0),
        Http::to("https://example.com").timeout(ms(0)),
    ];
    for grant in wrong {
        let shown = format!("{grant:?}");
        let builder = Host::new().unwrap().function("client").component_file(built(GUESTS[0])).grant(grant);
        let error = builder.load().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse, "{shown}");
        assert!(!text(&error).contains("hunter2") && !shown.contains("hunter2"), "{error:?} {shown}");
    }
}

/// What a name resolves to is decided after the grant, and before the connection.
#[tokio::test]
async fn names_lead_only_to_public_addresses() {
    for guest in GUESTS {
        for (answer, class) in [
            (&["127.0.0.1"][..], "loopback"),
            (&["93.184.216.34", "10.0.0.1"], "private"),
            (&["169.254.169.254"], "cloud metadata"),
            (&["::ffff:93.184.216.34"], "IPv4-mapped"),
        ] {
            let names = Names::new([answer]);
            let client = load(&names.host(|host| host), guest, [Http::to("http://api.test")]).await;
            let reply = fetch(&client, get("http", "api.test", "/")).await;
            assert_eq!(reply.value.as_ref().unwrap_err(), "DestinationIpProhibited", "{guest} {class}");
            let explained = reply.denials()[0].explain();
            assert!(explained.contains(class) && explained.contains(".network("), "{explained}");
            assert!(names.dialled.lock().unwrap().is_empty(), "{guest}: a connection was made");
        }
    }
}

/// The answer that was checked is the one that is dialled; another answer later is checked again.
#[tokio::test]
async fn a_name_that_moves_is_not_followed() {
    let server = serve(None).await;
    for guest in GUESTS {
        let mut names = Names::new([&["93.184.216.34"], &["127.0.0.1"]]);
        names.instead = Some(server.address);
        let client = load(&names.host(|host| host), guest, [Http::to("http://api.test")]).await;
        assert_eq!(fetch(&client, get("http", "api.test", "/")).await.value.unwrap().status, 200);
        assert_eq!(*names.dialled.lock().unwrap(), ["93.184.216.34:80".parse().unwrap()], "{guest}");
        // Another tenant has no connection to use again.
        let reply = fetch(&client.tenant("other"), get("http", "api.test", "/")).await;
        assert_eq!(reply.value.as_ref().unwrap_err(), "DestinationIpProhibited", "{guest}");
        assert_eq!(names.dialled.lock().unwrap().len(), 1, "{guest}");
    }
}

/// A name server on loopback that gives its answers one after the other, the last for ever; and how often it was asked.
async fn name_server(answers: &'static [&'static [Ipv4Addr]]) -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (address, asked) = (socket.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut packet = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut packet).await {
            let answer = answers[counted.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1)];
            // The question comes back as it was: an answer, with as many records as there are addresses.
            let mut reply = packet[..length].to_vec();
            reply[2..4].copy_from_slice(&[0x81, 0x80]);
            reply[7] = answer.len() as u8;
            for address in answer {
                // The name of the question, type A, class IN, no time to live, four bytes.
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                reply.extend(address.octets());
            }
            socket.send_to(&reply, from).await.unwrap();
        }
    });
    (address, asked)
}

/// Asks that server for each name, by DNS.
struct Resolver {
    server: SocketAddr,
    names: Names,
}

impl Network for Resolver {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let mut query = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            for label in name.split('.') {
                query.push(label.len() as u8);
                query.extend(label.as_bytes());
            }
            query.extend([0, 0, 1, 0, 1]);
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            socket.send_to(&query, self.server).await?;
            let mut reply = [0; 512];
            let length = socket.recv(&mut reply).await?;
            let records = reply[query.len()..length].chunks(16);
            Ok(records.map(|record| IpAddr::from([record[12], record[13], record[14], record[15]])).collect())
        })
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        self.names.connect(address)
    }
}

#[tokio::test]
async fn a_name_server_that_changes_its_mind_moves_nothing() {
    const PUBLIC: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 34);
    const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    let server = serve(None).await;
    for guest in GUESTS {
        let rig = async |answers| {
            let (name_server, asked) = name_server(answers).await;
            let mut names = Names::new([]);
            names.instead = Some(server.address);
            let dialled = Arc::clone(&names.dialled);
            let host = Host::builder().network(Resolver { server: name_server, names }).build().unwrap();
            (load(&host, guest, [Http::to("http://api.test")]).await, asked, dialled)
        };
        let (client, asked, dialled) = rig(&[&[PUBLIC], &[Ipv4Addr::LOCALHOST]]).await;
        assert_eq!(fetch(&client, get("http", "api.test", "/")).await.value.unwrap().status, 200);
        assert_eq!(asked.load(Ordering::SeqCst), 1, "{guest}: asked once, and what it said was dialled");
        let moved = fetch(&client.tenant("other"), get("http", "api.test", "/")).await;
        assert_eq!(moved.value.as_ref().unwrap_err(), "DestinationIpProhibited");
        assert!(moved.denials()[0].rule().contains("127.0.0.1, which is not public (loopback)"));
        assert_eq!(*dialled.lock().unwrap(), [SocketAddr::from((PUBLIC, 80))], "{guest}");

        let (client, asked, dialled) = rig(&[&[PUBLIC, PRIVATE]]).await;
        let mixed = fetch(&client, get("http", "api.test", "/")).await;
        assert_eq!(mixed.value.unwrap_err(), "DestinationIpProhibited", "{guest}: one of two is private");
        assert!(asked.load(Ordering::SeqCst) == 1 && dialled.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn connections_are_kept_for_each_tenant_apart() {
    let server = serve(None).await;
    let client = load(&Host::new().unwrap(), GUESTS[0], [Http::to(format!("http://{}", server.address))]).await;
    for (tenant, connections) in [("a", 1), ("a", 1), ("b", 2), ("a", 2), ("b", 2)] {
        assert_eq!(fetch(&client.tenant(tenant), get("http", server.address, "/")).await.value.unwrap().status, 200);
        assert_eq!(server.connections.load(Ordering::SeqCst), connections, "{tenant}");
    }
    let host = Host::new().unwrap();
    for connections in [3, 4] {
        // Another function, of the same host too, and for the same tenant.
        let other = load(&host, GUESTS[0], [Http::to(format!("http://{}", server.address))]).await.tenant("a");
        assert_eq!(fetch(&other, get("http", server.address, "/")).await.value.unwrap().status, 200);
        assert_eq!(server.connections.load(Ordering::SeqCst), connections, "each function has its own");
    }
}

/// A network whose lookups never end; how many there are.
struct Stuck(Arc<AtomicUsize>);

impl Network for Stuck {
    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::pending())
    }
}

/// A lookup goes on when the call is over, on a thread of the operating system's resolver.
#[tokio::test]
async fn lookups_that_hang_are_bounded() {
    let stuck = Arc::new(AtomicUsize::new(0));
    let host = Host::builder().network(Stuck(Arc::clone(&stuck))).build().unwrap();
    for (guest, most) in GUESTS.into_iter().zip([16, 32]) {
        let client = load(&host, guest, [Http::to("http://*.many.test")]).await.deadline(ms(100));
        for tenant in ["loud", "other"] {
            for at in 0..3 {
                let request = Request { copies: 6, ..get("http", format!("n{at}.many.test"), "/") };
                let error = client.tenant(tenant).call::<Fetched>("fetch", (request,)).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::TimedOut, "{guest}: {error:?}");
            }
        }
        assert_eq!(stuck.load(Ordering::SeqCst), most, "{guest}: eight for each tenant");
    }
}

/// A wildcard stands for any number of names, and each connection is an open file.
#[tokio::test]
async fn connections_of_a_tenant_are_bounded() {
    let server = serve(None).await;
    let mut names = Names::new([&["93.184.216.34"]]);
    names.instead = Some(server.address);
    let client = load(&names.host(|host| host), GUESTS[0], [Http::to("http://*.many.test")]).await;
    for at in 0..64 {
        assert!(fetch(&client, get("http", format!("n{at}.many.test"), "/")).await.value.is_ok(), "{at}");
    }
    let one_more = get("http", "one-more.many.test", "/");
    assert_eq!(fetch(&client, one_more.clone()).await.value.unwrap_err(), "ConnectionLimitReached");
    assert!(fetch(&client, get("http", "n7.many.test", "/")).await.value.is_ok(), "one that is open");
    assert!(fetch(&client.tenant("other"), one_more).await.value.is_ok(), "another tenant");
}

/// A redirect is an answer like others.
#[tokio::test]
async fn redirects_are_the_guests() {
    let server = serve(None).await;
    for guest in GUESTS {
        let client = load(&Host::new().unwrap(), guest, [Http::to(format!("http://{}", server.address))]).await;
        let reply = fetch(&client, get("http", server.address, "/moved")).await;
        assert_eq!(reply.value.unwrap().status, 302, "{guest}");
    }
}

async fn serve_tls() -> (Server, Vec<u8>) {
    let (tls, root) = server::tls();
    (serve(Some(tls)).await, root)
}

#[tokio::test]
async fn tls_checks_the_name_that_was_asked_for() {
    let (server, root) = serve_tls().await;
    for guest in GUESTS {
        let mut names = Names::new([&["93.184.216.34"]]);
        names.instead = Some(server.address);
        let grants = || [Http::to("https://api.test"), Http::to("https://other.test")];
        let trusting = load(&names.host(|host| host.tls_root(root.clone())), guest, grants()).await;
        let response = fetch(&trusting, get("https", "API.test", "/")).await.value.unwrap();
        let saw = String::from_utf8(response.body).unwrap();
        assert!(saw.starts_with("HTTP/2.0 GET https://api.test/ "), "{guest}: {saw}");
        let other = fetch(&trusting, get("https", "other.test", "/")).await;
        assert_eq!(other.value.unwrap_err(), "TlsCertificateError", "{guest}");
        let wary = load(&names.host(|host| host), guest, grants()).await;
        assert_eq!(fetch(&wary, get("https", "api.test", "/")).await.value.unwrap_err(), "TlsCertificateError");
    }
    let error = Host::builder().tls_root(b"no certificate".to_vec()).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
}

#[tokio::test]
async fn bodies_and_requests_under_way_are_bounded() {
    let server = serve(None).await;
    let origin = format!("http://{}", server.address);
    for guest in GUESTS {
        let grant = Http::to(&origin).request_bytes(1_000).response_bytes(10_000);
        let client = load(&Host::new().unwrap(), guest, [grant]).await;
        let large = fetch(&client, get("http", server.address, "/large")).await;
        assert!(is(&large, "HttpResponseBodySize", "response body size"), "{guest}: {:?}", large.value);
        let send = |bytes| Request { method: "POST", body: vec![0; bytes], ..get("http", server.address, "/") };
        assert!(fetch(&client, send(1_000)).await.value.is_ok(), "{guest}");
        assert_eq!(fetch(&client, send(1_001)).await.value.unwrap_err(), "HttpRequestBodySize", "{guest}");
    }
    let client = load(&Host::new().unwrap(), GUESTS[0], [Http::to(&origin).in_flight(2)]).await;
    let copies = |copies| Request { copies, ..get("http", server.address, "/") };
    assert!(fetch(&client, copies(2)).await.value.is_ok());
    assert_eq!(fetch(&client, copies(3)).await.value.unwrap_err(), "ConnectionLimitReached");
}

/// A server that does as it is told with each connection, and then waits for the client to hang up.
async fn raw(say: impl Fn(u32) -> Vec<u8> + Send + 'static) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let hung_up = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        for turn in 0.. {
            let said = say(turn);
            if said.is_empty() {
                break;
            }
            if stream.write_all(&said).await.is_err() {
                return;
            }
        }
        while stream.read(&mut request).await.is_ok_and(|read| read > 0) {}
    });
    (address, hung_up)
}

/// Servers that hang, drip, hang up or never come to the point.
#[tokio::test]
async fn servers_that_misbehave_hold_nobody() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc";
    for guest in GUESTS {
        // Nothing more comes: the grant's time ends the request, the call's deadline the call.
        for head in ["", HEAD] {
            let (address, hung_up) = raw(move |turn| if turn == 0 { head.into() } else { Vec::new() }).await;
            let client =
                load(&Host::new().unwrap(), guest, [Http::to(format!("http://{address}")).timeout(ms(50))]).await;
            let reply = fetch(&client, get("http", address, "/")).await;
            assert!(is(&reply, "HttpResponseTimeout", "response timeout"), "{guest} {head}: {:?}", reply.value);
            hung_up.await.unwrap();

            let (address, hung_up) = raw(move |turn| if turn == 0 { head.into() } else { Vec::new() }).await;
            let client = load(&Host::new().unwrap(), guest, [Http::to(format!("http://{address}"))]).await;
            let call = client.deadline(ms(50));
            let error = call.call::<Fetched>("fetch", (get("http", address, "/"),)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{guest}: {error:?}");
            assert!(error.usage().wall < ms(450), "{}", error.usage());
            hung_up.await.unwrap();
        }
        // A byte now and then, for ever: the pace keeps no timer of the whole from running out.
        for (timeout, deadline) in [(ms(200), ms(5_000)), (ms(5_000), ms(200))] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let address = listener.local_addr().unwrap();
            let drips = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await;
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n").await.unwrap();
                let mut pace = tokio::time::interval(ms(10));
                while stream.write_all(b"x").await.is_ok() {
                    pace.tick().await;
                }
            });
            let client =
                load(&Host::new().unwrap(), guest, [Http::to(format!("http://{address}")).timeout(timeout)]).await;
            match client.deadline(deadline).call::<Fetched>("fetch", (get("http", address, "/"),)).await {
                Ok(reply) => assert!(timeout < deadline && is(&reply, "HttpResponseTimeout", "response timeout")),
                Err(error) => assert!(deadline < timeout && error.kind() == ErrorKind::TimedOut, "{guest}: {error:?}"),
            }
            // It finds that nobody listens any more.
            drips.await.unwrap();
        }
        // A head without end.
        let endless = |turn| {
            if turn == 0 {
                b"HTTP/1.1 200 OK\r\n".to_vec()
            } else {
                format!("x{turn}: {}\r\n", "y".repeat(1_000)).into()
            }
        };
        let (address, hung_up) = raw(endless).await;
        let client = load(&Host::new().unwrap(), guest, [Http::to(format!("http://{address}"))]).await;
        let reply = fetch(&client, get("http", address, "/")).await;
        assert_eq!(reply.value.as_ref().unwrap_err(), "HttpResponseHeaderSectionSize", "{guest}");
        hung_up.await.unwrap();
        // Something that is no http, or half of it.
        for said in ["SSH-2.0-OpenSSH\r\n", "HTTP/1.1 200 OK\r\n"] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await;
                stream.write_all(said.as_bytes()).await.unwrap();
            });
            let client = load(&Host::new().unwrap(), guest, [Http::to(format!("http://{address}"))]).await;
            let error = fetch(&client, get("http", address, "/")).await.value.unwrap_err();
            assert!(["HttpProtocolError", "HttpResponseIncomplete"].contains(&&*error), "{guest} {said}: {error}");
        }
        // Nobody is there.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
        let client = load(&Host::new().unwrap(), guest, [Http::to(format!("http://{address}"))]).await;
        assert_eq!(fetch(&client, get("http", address, "/")).await.value.unwrap_err(), "ConnectionRefused", "{guest}");
    }
}

/// The name on the wire is the one that was checked, and nothing of the guest's makes another of it.
#[tokio::test]
async fn the_wire_says_what_was_checked() {
    for guest in GUESTS {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut names = Names::new([&["93.184.216.34"]]);
        names.instead = listener.local_addr().ok();
        let client = load(&names.host(|host| host), guest, [Http::to("http://api.test")]).await;
        let seen = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            String::from_utf8_lossy(&request[..read]).to_lowercase()
        });
        let headers = vec![("x-own", "1")];
        let reply = fetch(&client, Request { headers, ..get("http", "API.Test.", "/p?q") }).await;
        assert_eq!(reply.value.unwrap().status, 204, "{guest}");
        let seen = seen.await.unwrap();
        assert!(seen.starts_with("get /p?q http/1.1\r\n") && seen.contains("x-own: 1\r\n"), "{guest}: {seen}");
        assert_eq!(seen.matches("host:").count(), 1, "{guest}: {seen}");
        assert!(seen.contains("\r\nhost: api.test\r\n"), "{guest}: {seen}");
        // A Host of the guest's own, or a line break, is no header that it can make.
        for header in [("host", "evil.test"), ("x", "a\r\nhost: evil.test")] {
            let refused = fetch(&client, Request { headers: vec![header], ..get("http", "api.test", "/") }).await;
            assert!(refused.value.is_err(), "{guest} {header:?}");
        }
    }
}

/// What a guest says of a message's length and framing never contradicts what is sent.
#[tokio::test]
async fn no_guest_splits_a_message() {
    for guest in GUESTS {
        let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let sender = sender.clone();
                tokio::spawn(async move {
                    let mut all = Vec::new();
                    let mut piece = [0; 4096];
                    // Until the body is there, or the client leaves.
                    while let Ok(read @ 1..) = stream.read(&mut piece).await {
                        all.extend(&piece[..read]);
                        if all.ends_with(b"abc") || all.ends_with(b"0\r\n\r\n") {
                            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
                            break;
                        }
                    }
                    let _ = sender.send(String::from_utf8_lossy(&all).to_lowercase());
                });
            }
        });
        let client = load(&Host::new().unwrap(), guest, [Http::to(format!("http://{address}"))]).await;
        let (client, mut messages) = (client.deadline(ms(3_000)), 0);
        for headers in [
            vec![("content-length", "3")],
            vec![("content-length", "2")],
            vec![("content-length", "40")],
            vec![("content-length", "3"), ("content-length", "40")],
            vec![("content-length", "3, 40")],
            vec![("content-length", "+3")],
            vec![("transfer-encoding", "chunked")],
            vec![("transfer-encoding", "chunked"), ("content-length", "3")],
            vec![("connection", "x-own"), ("x-own", "1")],
            vec![("upgrade", "h2c")],
            vec![("trailer", "x-own")],
        ] {
            let request = Request {
                headers: headers.clone(),
                method: "POST",
                body: b"abc".to_vec(),
                ..get("http", address, "/")
            };
            // It may be refused, it may fail, it may go; what went is checked.
            let _ = client.call::<Fetched>("fetch", (request,)).await;
            while let Ok(went) = seen.try_recv() {
                messages += 1;
                let Some((head, body)) = went.split_once("\r\n\r\n") else { continue };
                let lengths: Vec<&str> =
                    head.lines().filter_map(|line| line.strip_prefix("content-length: ")).collect();
                let chunked = head.contains("transfer-encoding: chunked");
                assert!(
                    !head.contains("upgrade:") && !head.contains("connection: x-own"),
                    "{guest} {headers:?}: {went}"
                );
                assert!(lengths.len() + usize::from(chunked) <= 1, "{guest} {headers:?}: {went}");
                let most = lengths.first().map_or(usize::MAX, |length| length.parse().unwrap());
                assert!(body.len() <= most, "{guest} {headers:?}: {went}");
            }
        }
        assert!(messages >= 2, "{guest}: {messages} went out");
        for path in ["http://evil.test/", "//evil.test/x y", "*", &format!("/{}", "x".repeat(20_000))] {
            let path: &'static str = Box::leak(path.to_owned().into_boxed_str());
            let refused = fetch(&client, get("http", address, path)).await;
            assert!(refused.value.is_err(), "{guest} {path:.30}");
        }
    }
}

#[tokio::test]
async fn the_server_is_asked_by_the_name_that_was_checked() {
    let (tls, root) = server::tls();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut names = Names::new([&["93.184.216.34"]]);
    names.instead = listener.local_addr().ok();
    let host = names.host(|host| host.tls_root(root));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let hello =
                tokio_rustls::LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await.unwrap();
            let name = hello.client_hello().server_name().unwrap_or_default().to_owned();
            let stream = hello.into_stream(Arc::clone(tls.config())).await.unwrap();
            server::exchange(stream, move |parts, _| {
                let host = parts.uri.authority().map(|authority| authority.to_string()).unwrap_or_default();
                http::Response::new(Full::new(Bytes::from(format!("{name} {host}"))).boxed_unsync())
            })
            .await;
        }
    });
    for guest in GUESTS {
        let client = load(&host, guest, [Http::to("https://api.test")]).await;
        let told = fetch(&client, get("https", "API.test.", "/")).await.value.unwrap().body;
        assert_eq!(String::from_utf8(told).unwrap(), "api.test api.test", "{guest}");
    }
}

#[tokio::test]
async fn no_proxy_is_used_whatever_the_environment_says() {
    let proxies = ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];
    let shell = proxies.map(|name| format!("export {name}=http://127.0.0.1:9")).join("\n");
    if !alone("egress::no_proxy_is_used_whatever_the_environment_says", &shell) {
        return;
    }
    assert!(std::env::var("http_proxy").is_ok());
    let server = serve(None).await;
    for guest in GUESTS {
        let client = load(&Host::new().unwrap(), guest, [Http::to(format!("http://{}", server.address))]).await;
        assert_eq!(fetch(&client, get("http", server.address, "/")).await.value.unwrap().status, 200, "{guest}");
    }
}

/// The same secret, by both generations of WASI.
#[tokio::test]
async fn secrets_are_sent_and_scrubbed_in_both_generations() {
    const VALUE: &str = "s3cret-of-both-generations";
    let server = server::serve(None, |parts, _| {
        let sent = parts.headers.get("authorization").map_or("-", |value| value.to_str().unwrap()).to_owned();
        let same = sent == format!("Bearer {VALUE}");
        let response = http::Response::builder().header("x-same", same.to_string()).header("x-echo", &sent);
        response.body(Full::new(Bytes::from(format!("you sent {sent}"))).boxed_unsync()).unwrap()
    })
    .await;
    for guest in GUESTS {
        let grant = Http::to(format!("http://{}", server.address)).bearer(Secret::value("t", VALUE.to_owned()));
        let client = load(&Host::new().unwrap(), guest, [grant]).await;
        let headers = vec![("authorization", "mine")];
        let response = fetch(&client, Request { headers, ..get("http", server.address, "/") }).await.value.unwrap();
        let header = |name: &str| response.headers.iter().find(|(known, _)| known == name).unwrap().1.clone();
        let masked = "*".repeat(VALUE.len());
        assert_eq!((header("x-same").as_str(), header("x-echo")), ("true", format!("Bearer {masked}")), "{guest}");
        assert_eq!(String::from_utf8(response.body).unwrap(), format!("you sent Bearer {masked}"), "{guest}");
    }
}
