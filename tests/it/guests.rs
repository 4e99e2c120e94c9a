//! The built guests, by their kinds, and their manifest.

use crate::support::{built, host};
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use isopod::{Args, Command, Env, Error, ErrorKind, Event, Kind, Stdin, Unhandled};
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
        assert!(!reply.value.is_empty());
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
        let function = host().function(guest).component_file(built(guest)).limits(limits.clone()).load().await.unwrap();
        let answer = function.http(request("GET", "/stream?n=1000", b"")).await.unwrap().into_body().bytes().await;
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::OutputTooLarge, "{guest}");
        let answer = match function.http(request("POST", "/echo", &[b'x'; 5_000])).await {
            Ok(response) => response.into_body().bytes().await.map(drop),
            Err(error) => Err(error),
        };
        assert!(answer.is_err(), "{guest}");
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

/// The committed components are those of the committed sources: see `guests/README.md` for the rule.
#[test]
fn the_manifest_matches_sources_and_components() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests");
    let manifest: Value = serde_json::from_slice(&std::fs::read(root.join("MANIFEST.json")).unwrap()).unwrap();
    let guests = manifest["guests"].as_object().unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for (name, guest) in guests {
        let mut sources = Sha256::new();
        for path in guest["sources"].as_array().unwrap() {
            let path = path.as_str().unwrap();
            let bytes = std::fs::read(root.join(path)).unwrap();
            sources.update(path);
            sources.update([0]);
            sources.update(bytes.len().to_string());
            sources.update([0]);
            sources.update(&bytes);
        }
        assert_eq!(guest["sources_sha256"], hex(&sources.finalize()), "{name}: its sources changed; rebuild it");
        let wasm = std::fs::read(built(name)).unwrap();
        assert_eq!(guest["wasm_sha256"], hex(&Sha256::digest(wasm)), "{name}: built/ and MANIFEST.json differ");
    }
    let mut built: Vec<_> =
        std::fs::read_dir(root.join("built")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    built.sort();
    assert_eq!(built, guests.keys().map(|name| format!("{name}.wasm")).collect::<Vec<_>>());
}
