//! Secrets: used by guests, never seen by them, and nowhere in what the library says.

use crate::server::{self, Body, Names, Server};
use crate::support::{Journal, built, host, said_alone, text};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::header::HeaderName;
use http::request::Parts;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use isopod::{
    BoxFuture, CallOptions, ErrorKind, Function, Host, Http, LogRecord, LogSink, Meter, Receipt, Reply, Secret,
    SecretSource, SecretValue, Secrets, ms,
};
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};

const VALUE: &str = "c4nary-V4lue/with+odd=chars";

type Told = Result<String, String>;

/// Every form in which a value could stand somewhere.
fn forms(value: &str) -> Vec<String> {
    let hex: String = value.bytes().map(|b| format!("{b:02x}")).collect();
    let url: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
    let lower = url.replace("%2F", "%2f").replace("%2B", "%2b").replace("%3D", "%3d");
    let aligned = |before: usize| {
        let encoded = STANDARD.encode([&b"xx"[..before], value.as_bytes()].concat());
        let skip = [0, 2, 3][before];
        encoded[skip..(before + value.len()) * 8 / 6].to_owned()
    };
    let mut forms = vec![value.to_owned(), hex.to_uppercase(), hex, lower, url];
    forms.extend((0..3).map(aligned));
    forms.push(URL_SAFE_NO_PAD.encode(value));
    forms
}

fn assert_clean(what: &str, text: &str) {
    for form in forms(VALUE) {
        assert!(!text.contains(&form), "{what} has the secret as {form}: {text}");
    }
    // In names of headers it would be in lower case.
    assert!(!text.to_lowercase().contains(&VALUE.to_lowercase()), "{what} has the secret in another case: {text}");
}

/// Answers with all that came in, in every form and place.
fn echo(parts: Parts, _: Bytes) -> http::Response<Body> {
    let mut came = format!("{} {}\n", parts.method, parts.uri);
    for (name, value) in &parts.headers {
        came += &format!("{name}: {}\n", value.to_str().unwrap());
    }
    let secret = |text: &str| text.contains(VALUE).then(|| VALUE.to_owned());
    let found = parts.headers.values().find_map(|value| secret(value.to_str().unwrap())).unwrap_or_default();
    let mut response = http::Response::builder();
    let written = if found.is_empty() { Vec::new() } else { forms(&found) };
    for (index, form) in written.iter().enumerate() {
        came += &format!("{form} {}\n", STANDARD.encode(format!("user:{form}")));
        response = response.header(format!("x-echo-{index}"), format!("it is {form}."));
    }
    if let Some(url) = written.get(3) {
        response = response.header("location", format!("https://evil.example/?stolen={url}"));
    }
    // By one byte each, and trailers after.
    let frames = came.into_bytes().into_iter().map(|byte| Ok::<_, Infallible>(Frame::data(Bytes::from(vec![byte]))));
    let trailers =
        http::HeaderMap::from_iter([(HeaderName::from_static("x-trailer"), format!("t {found}").parse().unwrap())]);
    let frames = frames.chain([Ok(Frame::trailers(trailers))]);
    response.body(BodyExt::boxed_unsync(StreamBody::new(futures_util::stream::iter(frames)))).unwrap()
}

/// What the guest is told, beside what the server was sent.
struct Rig {
    host: Host,
    server: Server,
    came: Arc<Mutex<Vec<String>>>,
}

impl Rig {
    async fn new(more: impl FnOnce(isopod::HostBuilder) -> isopod::HostBuilder) -> Rig {
        let came: Arc<Mutex<Vec<String>>> = Arc::default();
        let write = Arc::clone(&came);
        let (tls, root) = server::tls();
        let server = server::serve(Some(tls), move |parts, body| {
            let mut all = format!("{}\n", parts.uri);
            for (name, value) in &parts.headers {
                all += &format!("{name}: {}\n", value.to_str().unwrap());
            }
            write.lock().unwrap().push(all);
            echo(parts, body)
        })
        .await;
        let mut names = Names::new([&["93.184.216.34"]]);
        names.instead = Some(server.address);
        let host = names.host(|host| more(host.tls_root(root)));
        Rig { host, server, came }
    }

    fn came(&self) -> String {
        self.came.lock().unwrap().pop().unwrap()
    }

    async fn guest(&self, grants: Vec<isopod::Grant>) -> Function {
        let builder = self.host.function("user").component_file(built("secrets"));
        grants.into_iter().fold(builder, |builder, grant| builder.grant(grant)).load().await.unwrap()
    }
}

fn canary() -> Secret {
    Secret::value("token", VALUE.to_owned())
}

async fn fetch(guest: &Function, path: &str, headers: &[(&str, &str)]) -> Reply<Told> {
    guest.call::<Told>("fetch", ("https", "api.test", path, headers)).await.unwrap_or_else(|e| panic!("{e:?}"))
}

#[tokio::test]
async fn a_secret_goes_to_its_place_and_does_not_come_back() {
    let rig = Rig::new(|host| host).await;
    let url: String = url::form_urlencoded::byte_serialize(VALUE.as_bytes()).collect();
    let basic = STANDARD.encode(format!("me:{VALUE}"));
    let api = || Http::to("https://api.test");
    // What the guest says of its own stays, but for what has the secret's place.
    let [path, auth, key] = ["/v1/x?key=own&a=1", "authorization: guest's own", "x-api-key: guest's own"];
    for (grant, expected, own) in [
        (api().bearer(canary()), format!("authorization: Bearer {VALUE}\n"), [path, key]),
        (api().basic("me", canary()), format!("authorization: Basic {basic}\n"), [path, key]),
        (api().header("X-Api-Key", canary()), format!("x-api-key: {VALUE}\n"), [path, auth]),
        (api().query("key", canary()), format!("/v1/x?a=1&key={url}\n"), [auth, key]),
    ] {
        let guest =
            rig.guest(vec![grant.into(), Secrets::of(Secret::value("other", "12345678".to_owned())).into()]).await;
        let headers = [("authorization", "guest's own"), ("x-api-key", "guest's own"), ("accept-encoding", "gzip")];
        let reply = fetch(&guest, path, &headers).await;
        let came = rig.came();
        assert!(came.contains(&expected), "{expected}: {came}");
        let owned = came.lines().filter(|line| line.contains("own")).collect::<Vec<_>>();
        assert!(owned.len() == 2 && own.iter().all(|line| owned.iter().any(|own| own.ends_with(line))), "{owned:?}");
        assert!(!came.contains("accept-encoding"), "{came}");
        let told = reply.value.unwrap();
        assert_clean(&expected, &told);
        assert!(told.starts_with("200\n") && told.contains("****"), "{told}");
    }
}

#[tokio::test]
async fn requests_of_other_grants_get_none() {
    let rig = Rig::new(|host| host).await;
    let grants = vec![
        Http::to("https://api.test").get("/private/*").bearer(canary()).into(),
        Http::to("https://api.test").get("/public/*").into(),
        Secrets::of(Secret::value("other", "12345678".to_owned())).into(),
    ];
    let guest = rig.guest(grants).await;
    fetch(&guest, "/public/x", &[]).await.value.unwrap();
    assert!(!rig.came().contains("authorization"));
    fetch(&guest, "/private/x", &[]).await.value.unwrap();
    assert!(rig.came().contains(VALUE));
    // A server that keeps what it was sent and answers with it elsewhere.
    let told = fetch(&guest, "/public/x", &[("x-back", VALUE)]).await.value.unwrap();
    assert!(rig.came().contains(VALUE), "the guest knows it by other ways, in this test");
    assert_clean("another path", &told);
}

#[tokio::test]
async fn a_guest_puts_a_secret_where_it_may() {
    let rig = Rig::new(|host| host).await;
    let other = Secret::value("other", "other-value-1".to_owned());
    let grants = vec![
        Http::to("https://api.test").get("/v1/*").secret(canary()).into(),
        Http::to("https://api.test").get("/v2/*").into(),
        Secrets::of(other).into(),
    ];
    let guest = rig.guest(grants).await;
    let header = [("authorization", "token {token}; again {token}")];
    let told = fetch(&guest, "/v1/x", &header).await.value.unwrap();
    assert!(rig.came().contains(&format!("authorization: token {VALUE}; again {VALUE}\n")));
    assert_clean("an answer", &told);

    let before = rig.server.connections.load(std::sync::atomic::Ordering::SeqCst);
    for (path, header) in [("/v2/x", "{token}"), ("/v1/x", "{other}")] {
        let reply = fetch(&guest, path, &[("x-key", header)]).await;
        assert!(reply.value.as_ref().unwrap_err().contains("HttpRequestDenied"));
        let explained = reply.denials()[0].explain();
        assert!(
            explained.contains("is not granted the secret") && explained.contains(".secret(Secret::of_host"),
            "{explained}"
        );
    }
    let unknown = fetch(&guest, "/v1/x", &[("x-key", "{unknown}")]).await;
    assert!(unknown.value.as_ref().unwrap_err().contains("name: \"unknown\""));
    assert_eq!(unknown.denials()[0].allow_toml(), Some("secrets = [\"unknown\"]"));
    let near: Reply<Told> = guest.call("placeholder", ("tokens",)).await.unwrap();
    assert!(near.denials()[0].rule().contains("the nearest is \"token\""), "{}", near.denials()[0].rule());
    assert_eq!(rig.server.connections.load(std::sync::atomic::Ordering::SeqCst), before, "nothing was sent");

    // It means nothing in another call.
    let stale: Told = guest.call("placeholder", ("token",)).await.unwrap().value;
    let stale = stale.unwrap();
    assert!(stale.starts_with("isopod-secret-") && stale.len() == 46);
    fetch(&guest, "/v1/x", &[("x-key", &stale)]).await.value.unwrap();
    assert!(rig.came().contains(&format!("x-key: {stale}\n")));
}

#[tokio::test]
async fn a_secret_is_compared_and_read_only_where_granted() {
    let rig = Rig::new(|host| host.secret(canary())).await;
    let https = || Http::to("https://api.test").into();
    let hidden = rig.guest(vec![https(), Secrets::of(Secret::of_host("token")).into()]).await;
    for (candidate, same) in [(VALUE, true), ("wrong", false), ("", false)] {
        let answer: Reply<Result<bool, String>> = hidden.call("equals", ("token", candidate.as_bytes())).await.unwrap();
        assert_eq!(answer.value, Ok(same));
    }
    let placed = rig.guest(vec![Http::to("https://api.test").secret(canary()).into()]).await;
    let oracle: Reply<Result<bool, String>> = placed.call("equals", ("token", VALUE.as_bytes())).await.unwrap();
    assert!(oracle.value.unwrap_err().contains("name: \"hidden\""), "what may be placed may not be compared");
    let refused: Reply<Result<Vec<u8>, String>> = hidden.call("reveal", ("token",)).await.unwrap();
    assert!(refused.value.as_ref().unwrap_err().contains("name: \"hidden\""));
    assert_eq!(refused.denials()[0].allow_toml(), Some("reveal = [\"token\"]"));
    let shown = rig.guest(vec![https(), Secrets::of(Secret::of_host("token")).reveal().into()]).await;
    let read: Reply<Result<Vec<u8>, String>> = shown.call("reveal", ("token",)).await.unwrap();
    assert_eq!(read.value.unwrap(), VALUE.as_bytes());
}

/// A source that answers as it is told to, and where it is told nothing, not before it is told something.
#[derive(Clone, Default)]
struct Answers(Arc<Mutex<Option<Result<&'static str, &'static str>>>>);

impl Answers {
    fn tell(&self, answer: Option<Result<&'static str, &'static str>>) {
        *self.0.lock().unwrap() = answer;
    }
}

impl SecretSource for Answers {
    fn is_by_tenant(&self) -> bool {
        false
    }

    fn read(&self, _: Option<Arc<str>>) -> BoxFuture<'_, io::Result<SecretValue>> {
        Box::pin(async move {
            loop {
                let told = *self.0.lock().unwrap();
                match told {
                    Some(Ok(value)) => return Ok(SecretValue::from(value.to_owned())),
                    Some(Err(why)) => return Err(io::Error::other(why)),
                    None => tokio::time::sleep(ms(5)).await,
                }
            }
        })
    }
}

#[tokio::test]
async fn a_new_value_is_used_without_a_reload() {
    let (rig, answers) = (Rig::new(|host| host).await, Answers::default());
    answers.tell(Some(Ok("value-one")));
    let grants = vec![
        Http::to("https://api.test").bearer(Secret::from_source("vault", answers.clone())).into(),
        Secrets::of(Secret::value("other", "12345678".to_owned())).into(),
    ];
    let guest = rig.guest(grants).await;
    // A value counts for a second; then the source is asked again.
    for value in ["value-one", "value-two"] {
        answers.tell(Some(Ok(value)));
        loop {
            let told = fetch(&guest, "/", &[("x-old", "value-one")]).await.value.unwrap();
            assert!(!told.contains("value-one") && !told.contains("value-two"), "{told}");
            if rig.came().contains(&format!("Bearer {value}\n")) {
                break;
            }
        }
    }
    answers.tell(Some(Err("sealed")));
    let sealed = loop {
        match fetch(&guest, "/", &[]).await.value {
            Ok(told) => assert!(told.starts_with("200\n")),
            Err(sealed) => break sealed,
        }
    };
    assert!(sealed.contains("ConfigurationError"));
    // What failed counts for a second as well; then the source hangs, and the call ends at its deadline.
    answers.tell(None);
    let (started, hurried, none) = (std::time::Instant::now(), guest.deadline(ms(2_000)), [("x-none", "")]);
    let hangs = loop {
        match hurried.call::<Told>("fetch", ("https", "api.test", "/", none)).await {
            Ok(reply) => assert!(reply.value.unwrap_err().contains("ConfigurationError")),
            Err(hangs) => break hangs,
        }
    };
    assert_eq!(hangs.kind(), ErrorKind::TimedOut);
    assert!(started.elapsed() < ms(20_000));
}

/// Threads without a runtime share a function's connections and secrets, and none waits for another that is gone.
#[test]
fn callers_without_async_share_what_they_ask_for() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (rig, answers) = (runtime.block_on(Rig::new(|host| host)), Answers::default());
    answers.tell(Some(Ok("value-one")));
    let grants = vec![
        Http::to("https://api.test").bearer(Secret::from_source("vault", answers.clone())).into(),
        Secrets::of(Secret::value("other", "12345678".to_owned())).into(),
    ];
    let guest = runtime.block_on(rig.guest(grants));
    let fetch = |deadline| {
        let none: &[(&str, &str)] = &[];
        let guest = guest.deadline(ms(deadline));
        guest.call_blocking::<Told>("fetch", ("https", "api.test", "/", none))
    };
    let by_thread = || std::thread::scope(|scope| scope.spawn(|| fetch(4_000)).join().unwrap());
    assert!(by_thread().unwrap().value.is_ok(), "a thread that ends leaves a connection");
    assert!(fetch(4_000).unwrap().value.is_ok() && by_thread().unwrap().value.is_ok());
    // This thread gives up on a source that hangs; when it answers, others hear of it.
    answers.tell(None);
    while fetch(300).is_ok() {}
    answers.tell(Some(Ok("value-two")));
    let started = std::time::Instant::now();
    while !matches!(by_thread(), Ok(reply) if reply.value.is_ok()) {
        assert!(started.elapsed() < ms(20_000), "nobody hears of what was asked for by a thread that gave up");
    }
}

#[tokio::test]
async fn each_tenant_has_a_value_of_its_own() {
    let rig = Rig::new(|host| host).await;
    let source = async |tenant: Option<Arc<str>>| match tenant.as_deref() {
        Some("locked") => Err(io::Error::other("no token for it")),
        tenant => Ok(SecretValue::from(format!("token of {}", tenant.unwrap_or("nobody")))),
    };
    let grants = vec![
        Http::to("https://api.test").bearer(Secret::from_source("token", source)).into(),
        Secrets::of(Secret::value("other", "12345678".to_owned())).into(),
    ];
    let guest = rig.guest(grants).await;
    for tenant in ["acme", "globex", "acme"] {
        let told = fetch(&guest.tenant(tenant), "/", &[]).await.value.unwrap();
        assert!(rig.came().contains(&format!("Bearer token of {tenant}\n")));
        assert!(!told.contains(tenant), "{told}");
    }
    let locked = fetch(&guest.tenant("locked"), "/", &[]).await;
    assert!(locked.value.unwrap_err().contains("ConfigurationError"));
}

#[tokio::test]
async fn secrets_that_cannot_be_had_fail_the_load() {
    let load = async |secret: Secret| {
        let builder = host().function("f").component_file(built("http-client-p2"));
        builder.grant(Http::to("https://a.example").bearer(secret)).load().await.unwrap_err()
    };
    for (secret, why) in [
        (Secret::env("ISOPOD_TEST_NEVER_SET"), "is not set"),
        (Secret::file("/nonexistent/token"), "No such file"),
        (Secret::value("short", "1234567".to_owned()), "it has 7 bytes"),
        (Secret::of_host("unknown"), "the host has no secret named \"unknown\", it has none"),
    ] {
        let error = load(secret).await;
        assert_eq!(error.kind(), ErrorKind::Misuse);
        assert!(text(&error).contains(why), "{error}");
    }
    let error = host().function("f").component_file(built("secrets")).load().await.unwrap_err();
    assert!(error.kind() == ErrorKind::UngrantedImport && text(&error).contains("Secrets::of("), "{error}");
    let unused = host().function("f").component_file(built("command")).grant(Secrets::of(canary())).load().await;
    assert!(text(&unused.unwrap_err()).contains("has no effect"));
}

#[derive(Clone, Default)]
struct Heard(Arc<Mutex<String>>);

impl Heard {
    fn add(&self, text: impl std::fmt::Display) {
        self.0.lock().unwrap().push_str(&format!("{text}\n"));
    }
}

impl LogSink for Heard {
    fn log(&self, record: &LogRecord<'_>) {
        self.add(format!("{record:?}"));
    }
}

impl Meter for Heard {
    fn record(&self, receipt: &Receipt<'_>) {
        self.add(format!("{receipt:?}"));
    }
}

/// Everything that the library can say, with guests that misbehave, at the finest level of tracing; in a process of its
/// own, whose whole output is looked at too.
#[tokio::test]
async fn nothing_says_a_secret() {
    if let Some(said) = said_alone("secrets::nothing_says_a_secret", "") {
        return assert_clean("the process's output", &said);
    }
    let (heard, journal) = (Heard::default(), Journal::default());
    tracing::subscriber::set_global_default(journal.clone()).unwrap();
    let rig = Rig::new(|host| host.log(heard.clone()).meter(heard.clone()).secret(canary())).await;
    let http = Http::to("https://api.test").get("/v1/*").bearer(canary()).query("key", canary()).secret(canary());
    let secrets = Secrets::of(Secret::of_host("token"));
    heard.add(format!("{http:?} {secrets:?} {:?} {:?}", isopod::Grant::from(http.clone()), rig.host));
    let guest = rig.guest(vec![http.into()]).await;
    heard.add(format!("{guest:?} {:?}", guest.options()));
    let long = "x".repeat(5_000);
    for (path, headers) in [
        ("/v1/x", vec![("x-key", "{token}")]),
        ("/v1/x?key={token}", vec![("accept-encoding", "gzip, br"), ("range", "bytes=0-3")]),
        ("/v1/x", vec![("{token}", "in a name")]),
        ("/v1/x", vec![("x-key", "{token}\r\nx-evil: 1")]),
        ("/v2/{token}", vec![("x-key", "{token}")]),
        ("/v1/x", vec![("x-key", long.as_str())]),
    ] {
        let args = ("https", "api.test", path, headers);
        match guest.tenant("acme").call::<Told>("fetch", args).await {
            Ok(reply) => {
                heard.add(format!("{:?} {:?} {:?}", reply.value, reply.usage, reply.output()));
                reply.denials().iter().for_each(|denial| heard.add(format!("{denial:?} {}", denial.explain())));
                // What the guest was told, it says wherever it can.
                let told = reply.value.unwrap_or_else(|e| e);
                let error = guest.call::<()>("blurt", (&told,)).await.unwrap_err();
                heard.add(format!("{error:?} {error} {:?}", error.guest_backtrace()));
                heard.add(String::from_utf8_lossy(&error.output().stdout));
            }
            Err(error) => heard.add(format!("{error:?}")),
        }
    }
    let calls = rig.came.lock().unwrap().clone();
    assert!(calls.len() >= 3 && calls.iter().all(|came| came.contains(VALUE)), "it was sent: {}", calls.len());
    heard.add(format!("{:?}", rig.host.denials()));
    let wrong = rig.host.function("f").component_file(built("http-client-p2"));
    let wrong = wrong.grant(Http::to("http://plain.example").bearer(canary())).load().await.unwrap_err();
    heard.add(format!("{wrong:?}"));
    let bad = Secret::value("bad", format!("{VALUE}\n"));
    let bad = rig.guest(vec![Http::to("https://api.test").bearer(bad.clone()).into(), Secrets::of(bad).into()]).await;
    heard.add(format!("{:?}", fetch(&bad, "/", &[]).await.value));
    let said = heard.0.lock().unwrap().clone();
    assert!(said.len() > 5_000 && said.contains("****"), "the guest did say what it was told");
    assert_clean("the library", &said);
    let traced = journal.text();
    assert!(traced.len() > 1_000, "{}", traced.len());
    assert_clean("tracing", &traced);
}
