//! The test kit: real guests in its host, and what it says of them.

use crate::support::built;
use isopod::store::{Batch, Space};
use isopod::testkit::Host;
use isopod::{CallOptions, Clocks, Config, ErrorKind, Function, Http, KeyValue, Level, Limits, block_on, ms};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use serde_json::json;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, SystemTime};

fn said(work: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(work)).unwrap_err();
    payload.downcast_ref::<String>().unwrap().clone()
}

/// Asks `acme:db/query` for a key, and tells `log` its number.
const ASKS: &str = r#"(component
    (import "acme:db/query@1.2.0" (instance $db (export "get" (func (param "key" string) (result string)))))
    (import "log" (func $log (param "level" u32)))
    (core module $libc (memory (export "m") 1)
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
    (core instance $libc (instantiate $libc))
    (core func $get (canon lower (func $db "get") (memory (core memory $libc "m")) (realloc (core func $libc "realloc"))))
    (core func $log' (canon lower (func $log)))
    (core module $m
        (import "" "get" (func $get (param i32 i32 i32)))
        (import "" "log" (func $log (param i32)))
        (func (export "ask") (param i32 i32) (result i32)
            (call $get (local.get 0) (local.get 1) (i32.const 8)) (i32.const 8))
        (func (export "log") (param i32) (call $log (local.get 0))))
    (core instance $i (instantiate $m (with "" (instance (export "get" (func $get)) (export "log" (func $log'))))))
    (func (export "ask") (param "key" string) (result string)
        (canon lift (core func $i "ask") (memory (core memory $libc "m")) (realloc (core func $libc "realloc"))))
    (func (export "log") (param "level" u32) (canon lift (core func $i "log"))))"#;

async fn asks(host: &Host) -> Function {
    host.function("asks").component_wat(ASKS).load().await.unwrap()
}

#[tokio::test]
async fn mocks_answer_by_arguments_in_order_and_so_often() {
    let host = Host::new().unwrap();
    host.on("acme:db/query#get").with(("k",)).times(2).gives("first");
    host.on("acme:db/query@1.2.0#get").answers(|arguments| json!(format!("any {}", arguments[0].as_str().unwrap())));
    host.on("log").with((7,)).gives(());
    let function = asks(&host).await;
    let ask = async |key: &str| function.call::<String>("ask", (key,)).await.unwrap().value;
    let unmet = said(|| host.verify());
    assert_eq!(unmet, r#"acme:db/query#get with ["k"] was called 0 of 2 times"#);
    assert_eq!(
        (ask("k").await, ask("other").await, ask("k").await),
        ("first".into(), "any other".into(), "first".into())
    );
    assert_eq!(ask("k").await, "any k", "the first is used up");
    function.call::<()>("log", (7,)).await.unwrap();
    host.verify();
    let asked: Vec<String> = host.asked().iter().map(ToString::to_string).collect();
    assert_eq!((asked.len(), &*asked[1], &*asked[4]), (5, r#"acme:db/query@1.2.0#get("other")"#, "log(7)"));
}

/// A host call that the test does not expect fails the call, with what was asked and what to write; and the test as well.
#[tokio::test]
async fn a_call_that_nobody_expects_says_what_was_asked() {
    let host = Host::new().unwrap();
    host.on("log").with((7,)).gives(());
    let function = asks(&host).await;
    let error = function.call::<()>("log", (8,)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HostPanic, "{error:?}");
    assert!(error.to_string().contains("expects no call log(8); say what it gives by `.on(\"log\")`"), "{error}");
    let error = function.call::<String>("ask", ("k",)).await.unwrap_err();
    assert!(
        error.to_string().contains(r#"acme:db/query@1.2.0#get("k"); say what it gives by `.on("acme:db/query#get")`"#)
    );
    let unmet = said(|| host.verify());
    assert_eq!(unmet, r#"the call log(8) was not expected; the call acme:db/query@1.2.0#get("k") was not expected"#);
    assert_eq!((host.used().len(), host.used()[0].error), (2, Some(ErrorKind::HostPanic)));
}

#[derive(Serialize)]
struct Request<'a> {
    method: &'a str,
    scheme: &'a str,
    authority: &'a str,
    path: &'a str,
    headers: Vec<(&'a str, &'a str)>,
    body: ByteBuf,
    copies: u32,
}

#[derive(Debug, Deserialize)]
struct Response {
    status: u16,
    body: ByteBuf,
}

async fn fetch(client: &Function, method: &str, url: &str) -> Result<(u16, String), String> {
    let (scheme, rest) = url.split_once("://").unwrap();
    let (authority, path) = rest.split_at(rest.find('/').unwrap());
    let body = ByteBuf::from(if method == "POST" { "sent" } else { "" });
    let request = Request { method, scheme, authority, path, headers: Vec::new(), body, copies: 1 };
    let reply = client.call::<Result<Response, String>>("fetch", (request,)).await.unwrap();
    reply.value.map(|response| (response.status, String::from_utf8(response.body.into_vec()).unwrap()))
}

const CLIENTS: [&str; 2] = ["http-client-p2", "http-client-p3"];

async fn client(host: &Host, guest: &str) -> Function {
    host.function("client")
        .component_file(built(guest))
        .limits(Limits::default().deadline(ms(10_000)))
        .grant(Http::to("https://api.example.com").timeout(ms(2_000)))
        .grant(Http::to("http://plain.example.com:8080"))
        .load()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn scripted_http_goes_the_whole_way_but_out() {
    for guest in CLIENTS {
        let host = Host::new().unwrap();
        host.http("GET", "https://api.example.com/v1/items?page=2").times(1).replies(200, "second");
        host.http("GET", "https://api.example.com/v1/items").replies(404, "none");
        host.http("POST", "http://plain.example.com:8080/in").answers(|request| {
            http::Response::builder().status(201).body([b"got ", &request.body()[..]].concat().into()).unwrap()
        });
        let client = client(&host, guest).await;
        let fetch = async |method, url| fetch(&client, method, url).await;
        assert_eq!(fetch("GET", "https://api.example.com/v1/items?page=1").await.unwrap(), (404, "none".into()));
        assert_eq!(fetch("GET", "https://api.example.com/v1/items?page=2").await.unwrap(), (200, "second".into()));
        assert_eq!(fetch("POST", "http://plain.example.com:8080/in").await.unwrap(), (201, "got sent".into()));
        host.verify();
        let requests = host.requests();
        assert_eq!(
            (requests.len(), requests[1].uri().to_string()),
            (3, "https://api.example.com/v1/items?page=2".into())
        );
        assert_eq!(requests[2].body(), "sent");

        // What was not granted is refused as ever, and what nobody expects is a finding.
        assert_eq!(fetch("GET", "https://other.example.com/").await.unwrap_err(), "HttpRequestDenied");
        let (status, text) = fetch("GET", "https://api.example.com/v2").await.unwrap();
        assert!(status == 501 && text.contains("expects no request GET https://api.example.com/v2"), "{text}");
        let unmet = said(|| host.verify());
        assert_eq!(unmet, "the request GET https://api.example.com/v2 was not expected");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_machines_hang_break_off_and_are_not_there() {
    for guest in CLIENTS {
        let host = Host::new().unwrap();
        host.http("GET", "https://api.example.com/hangs").hangs();
        host.http("GET", "https://api.example.com/breaks").cuts("begin");
        host.http("GET", "https://api.example.com/works").replies(200, "");
        let client = client(&host, guest).await;
        let fetch = async |path: &str| fetch(&client, "GET", &format!("https://api.example.com/{path}")).await;
        assert!(fetch("hangs").await.unwrap_err().contains("Timeout"));
        fetch("breaks").await.unwrap_err();
        // Connections are kept: those that are open go on.
        host.network_faults().percent(100);
        let fresh = self::client(&host, guest).await;
        self::fetch(&fresh, "GET", "https://api.example.com/works").await.unwrap_err();
        host.network_faults().percent(0);
        assert_eq!(self::fetch(&fresh, "GET", "https://api.example.com/works").await.unwrap().0, 200);
        host.network_faults().next(1);
        let fresh = self::client(&host, guest).await;
        self::fetch(&fresh, "GET", "https://api.example.com/works").await.unwrap_err();
        self::fetch(&fresh, "GET", "https://api.example.com/works").await.unwrap();
    }
}

/// Of commits that fail, some happened: whoever repeats them must bear that.
#[tokio::test]
async fn stores_fail_before_and_after_a_commit() {
    let host = Host::new().unwrap();
    let builder = host.function("keeper").component_file(built("keyvalue")).grant(KeyValue::bucket("state"));
    let keeper = builder.load().await.unwrap();
    let add = async || {
        let reply = keeper.call::<Result<i64, String>>("operations#increment", ("state", "n", 1, 1)).await;
        reply.unwrap().value
    };
    assert_eq!(add().await.unwrap(), 1);
    for _ in 0..20 {
        host.store_faults().next(1);
        add().await.unwrap_err();
    }
    let sum = add().await.unwrap();
    assert!((5..=19).contains(&sum), "{sum} of 22 were added");
    host.store_faults().percent(50);
    let mut failed = 0;
    for _ in 0..100 {
        failed += u32::from(add().await.is_err());
    }
    assert!((25..=75).contains(&failed), "{failed}");
}

/// Sleeps for the seconds that it is told, and gives the time by both clocks when it is up again.
const SLEEPS: &str = r#"(component
    (import "wasi:io/poll@0.2.0" (instance $poll
        (export "pollable" (type $p (sub resource)))
        (export "[method]pollable.block" (func (param "self" (borrow $p))))))
    (alias export $poll "pollable" (type $pollable))
    (import "wasi:clocks/wall-clock@0.2.0" (instance $wall
        (type $t' (record (field "seconds" u64) (field "nanoseconds" u32)))
        (export "datetime" (type $t (eq $t')))
        (export "now" (func (result $t)))))
    (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
        (alias outer 1 $pollable (type $q))
        (export "pollable" (type $p (eq $q)))
        (export "now" (func (result u64)))
        (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
    (core module $libc (memory (export "m") 1))
    (core instance $libc (instantiate $libc))
    (core func $today (canon lower (func $wall "now") (memory (core memory $libc "m"))))
    (core func $now (canon lower (func $clock "now")))
    (core func $after (canon lower (func $clock "subscribe-duration")))
    (core func $block (canon lower (func $poll "[method]pollable.block")))
    (core module $m
        (import "libc" "m" (memory 1))
        (import "" "today" (func $today (param i32)))
        (import "" "now" (func $now (result i64)))
        (import "" "after" (func $after (param i64) (result i32)))
        (import "" "block" (func $block (param i32)))
        (func (export "run") (param i64) (result i32)
            (call $block (call $after (i64.mul (local.get 0) (i64.const 1000000000))))
            (call $today (i32.const 0))
            (i64.store (i32.const 8) (call $now))
            (i32.const 0)))
    (core instance $i (instantiate $m (with "libc" (instance $libc)) (with "" (instance
        (export "today" (func $today)) (export "now" (func $now))
        (export "after" (func $after)) (export "block" (func $block))))))
    (func (export "run") (param "seconds" u64) (result (tuple u64 u64))
        (canon lift (core func $i "run") (memory (core memory $libc "m")))))"#;

/// The year 2026 by its first second, and an hour.
const START: u64 = 1_767_225_600;
const HOUR: u64 = 3_600;

#[tokio::test]
async fn time_stands_still_until_the_test_moves_it() {
    let host = Host::new().unwrap();
    let limits = Limits::default().deadline(ms(20_000));
    let function = host.function("sleeps").component_wat(SLEEPS).limits(limits).load().await.unwrap();
    let sleep = async |seconds: u64| function.call::<(u64, u64)>("run", (seconds,)).await.unwrap().value;
    assert_eq!(sleep(0).await, (START, 0));
    host.clock().advance(Duration::from_secs(5));
    assert_eq!(sleep(0).await, (START + 5, 5_000_000_000));
    // Two that sleep wake in their order, and nobody waits for an hour.
    let moves = async {
        host.clock().asleep(2).await;
        let first = host.clock().advance_to_next_sleep().await;
        (first, host.clock().advance_to_next_sleep().await)
    };
    let (long, short, moved) = tokio::join!(sleep(HOUR), sleep(60), moves);
    assert_eq!((long.0, short.0), (START + 5 + HOUR, START + 65));
    assert_eq!(moved, (Duration::from_secs(60), Duration::from_secs(HOUR - 60)));
    assert_eq!(host.clock().now(), SystemTime::UNIX_EPOCH + Duration::from_secs(START + 5 + HOUR));
    // What is granted by itself holds.
    let clocks = Clocks::simulated(SystemTime::UNIX_EPOCH);
    let own = host.function("own").component_wat(SLEEPS).grant(clocks).load().await.unwrap();
    assert_eq!(own.call::<(u64, u64)>("run", (HOUR,)).await.unwrap().value, (HOUR, HOUR * 1_000_000_000));
}

#[tokio::test]
async fn records_and_receipts_are_kept() {
    let host = Host::new().unwrap();
    let builder = host.function("guest").component_file(built("ambient")).grant(Config::var("a", "1"));
    let guest = builder.load().await.unwrap().tenant("acme");
    guest.call::<()>("log", ("context", "message", 2)).await.unwrap();
    guest.call::<()>("log", ("context",)).await.unwrap_err();
    let logged = host.logged();
    assert_eq!((logged.len(), logged[1].level, &*logged[1].message), (2, Level::Debug, "message"), "{logged:?}");
    assert_eq!((&*logged[0].function, &*logged[0].tenant, &*logged[0].context), ("guest", "acme", "context"));
    let used = host.used();
    assert_eq!((used.len(), used[0].usage.host_calls, used[0].error, &*used[0].tenant), (1, 2, None, "acme"));
}

/// Two hosts of one seed give guests the same, and fail the same operations.
#[test]
fn a_seed_repeats_what_is_random() {
    let random = r#"(component
        (import "wasi:random/random@0.2.0" (instance $w (export "get-random-u64" (func (result u64)))))
        (core func $f (canon lower (func $w "get-random-u64")))
        (core module $m (import "" "f" (func $f (result i64))) (func (export "run") (result i64) (call $f)))
        (core instance $i (instantiate $m (with "" (instance (export "f" (func $f))))))
        (func (export "run") (result u64) (canon lift (core func $i "run"))))"#;
    let seen = |seed| {
        let host = Host::build(isopod::Host::builder().seats(2), seed).unwrap();
        let bits = host.function("f").component_wat(random).load_blocking().unwrap();
        let bits = bits.call_blocking::<u64>("run", ()).unwrap().value;
        host.store_faults().percent(50);
        let space = Space::new(None, "bucket");
        let store = host.store();
        let commit = || {
            let batch = Batch::new().set(&space, "k", "v");
            block_on(async { Ok(store.kv().commit(batch).await.is_ok()) }).unwrap()
        };
        (bits, (0..64).map(|_| commit()).collect::<Vec<_>>())
    };
    assert_eq!(seen(1), seen(1));
    let (one, other) = (seen(1), seen(2));
    assert!(one.0 != other.0 && one.1 != other.1);
}
