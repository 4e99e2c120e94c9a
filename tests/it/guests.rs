//! The built guests, by their kinds, and their manifest.

use crate::support::{Book, built, host};
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use isopod::{Args, Command, Env, Error, ErrorKind, Event, Host, Kind, Limit, Stdin, Unhandled};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::Path;

type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

fn request(method: &str, path: &str, body: &[u8]) -> http::Request<Body> {
    let body = Full::new(Bytes::copy_from_slice(body)).boxed_unsync();
    http::Request::builder().method(method).uri(path).body(body).unwrap()
}

#[tokio::test]
async fn http_guests_of_both_generations_stream() {
    let host = host();
    for guest in ["http-hello-p2", "http-hello-p3"] {
        let function = host.function(guest).component_file(built(guest)).load().await.unwrap();
        assert_eq!(function.kind(), Kind::Http);
        let response = function.http(request("GET", "/hello", b"")).await.unwrap();
        assert_eq!(response.status(), 200, "{guest}");
        let reply = response.into_body().bytes().await.unwrap();
        assert!(!reply.value.is_empty() && reply.usage.host_calls > 0);
        assert_eq!(reply.usage.bytes_out, reply.value.len() as u64);
        let sent = vec![b'x'; 200_000];
        let response = function.http(request("POST", "/echo", &sent)).await.unwrap();
        let reply = response.into_body().bytes().await.unwrap();
        assert_eq!(reply.value, sent, "{guest}");
        assert_eq!((reply.usage.bytes_in, reply.usage.bytes_out), (200_000, 200_000));
        let response = function.http(request("GET", "/status?code=418", b"")).await.unwrap();
        assert_eq!(response.status(), 418);
        response.into_body().bytes().await.unwrap();
        // The trap comes after the head: it is the body's error.
        let response = function.http(request("GET", "/trap", b"")).await.unwrap();
        let error: Error = response.into_body().bytes().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Trapped, "{guest}: {error:?}");
        // A body that nobody reads to its end is a call that is cancelled.
        drop(function.http(request("GET", "/stream?n=100000", b"")).await.unwrap());
    }
    assert!(format!("{host:?}").contains("free_seats: 1000"), "{host:?}");
}

#[tokio::test]
async fn http_bodies_are_bounded() {
    let limits = isopod::Limits::default().input(1_000).output(1_000);
    for guest in ["http-hello-p2", "http-hello-p3"] {
        let book = Book::default();
        let host = Host::builder().meter(book.clone()).build().unwrap();
        let function = host.function(guest).component_file(built(guest)).limits(limits.clone()).load().await.unwrap();
        let answer = function.http(request("GET", "/stream?n=1000", b"")).await.unwrap().into_body().bytes().await;
        let error = answer.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutputTooLarge, "{guest}: {error:?}");
        assert!(error.usage().bytes_out > 1_000 && error.function() == Some(guest), "{guest}: {error:?}");
        let answer = match function.http(request("POST", "/echo", &[b'x'; 5_000])).await {
            Ok(response) => response.into_body().bytes().await.map(drop),
            Err(error) => Err(error),
        };
        let error = answer.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded(Limit::Input), "{guest}: {error:?}");
        // A client that goes away.
        drop(function.http(request("GET", "/stream?n=1000", b"")).await.unwrap());
        let kinds: Vec<_> = book.take().into_iter().map(|(_, kind)| kind).collect();
        let expected = [ErrorKind::OutputTooLarge, ErrorKind::LimitExceeded(Limit::Input), ErrorKind::Cancelled];
        assert_eq!(kinds, expected.map(Some), "{guest}");
    }
}

#[tokio::test]
async fn a_command_has_args_env_stdin_and_a_status() {
    let host = host();
    let load = || host.function("command").component_file(built("command"));
    let function = load().load().await.unwrap();
    assert_eq!(function.kind(), Kind::Command);
    let command = Command::new().args(["command", "--exit", "7"]).env("WHO", "isopod").stdin("hello");
    let reply = function.command(command).await.unwrap();
    // WASI 0.2 carries success or failure only, not the number.
    assert_eq!(reply.value, 1, "{:?}", String::from_utf8_lossy(&reply.output().stderr));
    let stdout = String::from_utf8_lossy(&reply.output().stdout).into_owned();
    assert!(stdout.contains("HELLO") && stdout.contains("WHO") && stdout.contains("--exit"), "{stdout}");
    assert!(!reply.output().stderr.is_empty());
    let granted = load()
        .grant(Args::new(["command"]))
        .grant(Env::var("FROM", "grant"))
        .grant(Stdin::bytes("granted"))
        .load()
        .await
        .unwrap();
    let reply = granted.command(Command::new()).await.unwrap();
    let stdout = String::from_utf8_lossy(&reply.output().stdout).into_owned();
    assert!(reply.value == 0 && stdout.contains("GRANTED") && stdout.contains("FROM"), "{stdout}");
    let bare = function.command(Command::new().arg("command")).await.unwrap();
    assert!(!String::from_utf8_lossy(&bare.output().stdout).contains("PATH"), "the host's environment leaked");
}

#[tokio::test]
async fn output_is_truncated_and_the_guest_does_not_notice() {
    let limits = isopod::Limits::default().log(10);
    let function = host().function("command").component_file(built("command")).limits(limits).load().await.unwrap();
    let reply = function.command(Command::new().arg("command").stdin("x".repeat(5_000))).await.unwrap();
    assert_eq!(reply.value, 0);
    assert_eq!(reply.usage.log_bytes, 10);
    assert!(reply.usage.log_dropped >= 4_990, "{:?}", reply.usage);
}

#[tokio::test]
async fn an_event_handler_answers_or_says_why_not() {
    let function = host().function("events").component_file(built("event-handler")).load().await.unwrap();
    assert_eq!(function.kind(), Kind::Event);
    let event = |data: &'static str| Event {
        id: "1".into(),
        source: "/test".into(),
        kind: "test".into(),
        data: Some(Bytes::from_static(data.as_bytes())),
        ..Event::default()
    };
    let handled = function.handle(event("abc")).await.unwrap().value.unwrap();
    assert!(handled.data.is_some_and(|data| !data.is_empty()));
    assert!(matches!(function.handle(event("retry")).await.unwrap().value, Err(Unhandled::Retry(_))));
    assert!(matches!(function.handle(event("permanent")).await.unwrap().value, Err(Unhandled::Permanent(_))));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hash of the sources that a manifest lists.
fn sources(root: &Path, entry: &Value) -> String {
    let mut hash = Sha256::new();
    for path in entry["sources"].as_array().unwrap() {
        let path = path.as_str().unwrap();
        let bytes = std::fs::read(root.join(path)).unwrap();
        hash.update(format!("{path}\0{}\0", bytes.len()));
        hash.update(&bytes);
    }
    hex(&hash.finalize())
}

/// The guest that is not in `built/`, as isopod itself carries it.
const CARRIED: &str = "typescript";

/// The committed components are those of the committed sources: see `guests/README.md` for the rule.
#[test]
fn the_manifest_matches_sources_and_components() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests");
    let manifest: Value = serde_json::from_slice(&std::fs::read(root.join("MANIFEST.json")).unwrap()).unwrap();
    let guests = manifest["guests"].as_object().unwrap();
    for (name, guest) in guests {
        assert_eq!(guest["sources_sha256"], sources(&root, guest), "{name}: its sources changed; rebuild it");
        let wasm =
            std::fs::read(if name == CARRIED { root.join(format!("../src/script/{name}.wasm")) } else { built(name) });
        let digest = hex(&Sha256::digest(wasm.unwrap()));
        assert_eq!(guest["wasm_sha256"], digest, "{name}: the component and MANIFEST.json differ");
    }
    let mut built: Vec<_> =
        std::fs::read_dir(root.join("built")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    built.sort();
    let mut named: Vec<_> = guests.keys().filter(|name| *name != CARRIED).map(|name| format!("{name}.wasm")).collect();
    named.sort();
    assert_eq!(built, named);
}

#[test]
fn the_interpreter_is_what_its_sources_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(root.join("src/script/MANIFEST.json")).unwrap()).unwrap();
    assert_eq!(manifest["sources_sha256"], sources(root, &manifest), "its sources changed; rebuild it");
    let wasm = std::fs::read(root.join("src/script/javascript.wasm")).unwrap();
    assert_eq!(manifest["wasm_sha256"], hex(&Sha256::digest(wasm)), "the component and MANIFEST.json differ");
}

#[tokio::test]
async fn json_is_transformed_or_refused() {
    let function = host().function("json").component_file(built("json-transform")).load().await.unwrap();
    let transform =
        async |text: &str| -> Result<String, String> { function.call("transform", (text,)).await.unwrap().value };
    let flat = transform(r#"{"b": {"c": [1, {"d": null}]}, "a": "x"}"#).await.unwrap();
    let flat: Value = serde_json::from_str(&flat).unwrap();
    assert_eq!(flat["a"], "x");
    assert!(flat.as_object().unwrap().keys().any(|key| key.starts_with("b.c")), "{flat}");
    assert!(transform("{").await.unwrap_err().contains("EOF"));
}

/// A PNG of one colour: eight bits of grey, uncompressed.
fn grey_png(side: u32) -> Vec<u8> {
    fn crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
        })
    }
    let rows = vec![0u8; (side * (side + 1)) as usize];
    let (a, b) = rows.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65521;
        (a, (b + a) % 65521)
    });
    let length = u16::try_from(rows.len()).unwrap();
    let mut data = vec![0x78, 0x01, 1];
    data.extend([length.to_le_bytes(), (!length).to_le_bytes()].concat());
    data.extend(&rows);
    data.extend((b << 16 | a).to_be_bytes());
    let header = [&side.to_be_bytes()[..], &side.to_be_bytes(), &[8, 0, 0, 0, 0]].concat();
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, body) in [(b"IHDR", header), (b"IDAT", data), (b"IEND", Vec::new())] {
        let chunk = [&kind[..], &body].concat();
        png.extend((body.len() as u32).to_be_bytes());
        png.extend(&chunk);
        png.extend(crc(&chunk).to_be_bytes());
    }
    png
}

#[tokio::test]
async fn pictures_become_smaller_and_bombs_an_error() {
    isopod::world!({ world: "thumbnailer", path: "guests/wit/thumbnail.wit" });
    let builder = host().function("thumbnail").component_file(built("thumbnail"));
    let function = builder.load_typed::<Thumbnailer>().await.unwrap();
    let small = function.thumbnail(&grey_png(200), 50).await.unwrap().value.unwrap();
    assert_eq!((&small[..8], &small[16..24]), (&b"\x89PNG\r\n\x1a\n"[..], &[0, 0, 0, 50, 0, 0, 0, 50][..]));
    assert!(function.thumbnail(b"no picture", 50).await.unwrap().value.is_err());
    // A header that promises four gigabytes of pixels.
    let mut bomb = grey_png(1);
    bomb[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    assert!(function.thumbnail(&bomb, 50).await.unwrap().value.is_err());
}
