//! Guests that were written to break out of their limits, each as small as it gets, and what becomes of them.

use crate::support::{Book, alone, built, host, resident, runner};
use futures_util::FutureExt;
use isopod::{CallOptions, ErrorKind, Host, Limit, Limits, Trust, ms};
use std::time::{Duration, Instant};

/// How much later than its deadline a call may end on a machine that is busy with other tests.
const SLACK: Duration = Duration::from_millis(400);

/// Some hundred bytes that a compiler would write out as a million exports, and seven kilobytes that it would think
/// about for seconds.
#[tokio::test]
async fn small_components_that_are_large_to_the_compiler() {
    let doubled: String = (1..18)
        .map(|i| format!(r#"(instance $t{i} (export "a" (instance $t{0})) (export "b" (instance $t{0})))"#, i - 1))
        .collect();
    let instances = format!(r#"(component (import "f" (func $f)) (instance $t0 (export "f" (func $f))) {doubled})"#);
    let (open, close) = ("loop ".repeat(1_000), "local.get 0 br_if 0 end ".repeat(1_000));
    let loops = format!("(component (core module (func (param i32) {open} {close})))");
    let host = host();
    for (wat, what) in [(instances, "functions"), (loops, "nesting")] {
        let bytes = wat::parse_str(wat).unwrap();
        assert!(bytes.len() < 10_000);
        for trust in [Trust::Untrusted, Trust::Own] {
            let started = Instant::now();
            let loaded = host.function("bomb").component_bytes(bytes.clone()).trust(trust).deny_at_call().load().await;
            let error = loaded.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TooComplex, "{error:?}");
            assert!(error.to_string().contains(what), "{error}");
            assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        }
    }
}

/// Some kilobytes of code, types or tables that would keep the compiler for half a minute or take gigabytes.
#[tokio::test]
async fn code_that_is_small_in_bytes_and_large_in_values() {
    let module = |body: String| format!("(component (core module {body}))");
    let (thousand, gets) = ("i32 ".repeat(1_000), "local.get 0 ".repeat(1_000));
    let locals = format!("(func (local {}))", "i32 ".repeat(50_000)).repeat(30);
    let calls = format!(
        r#"(type $t (func (param {thousand}) (result {thousand}))) (import "" "" (func $f (type $t)))
            (func (type $t) {gets} {})"#,
        "call $f ".repeat(1_500)
    );
    let kept: String = (1..5_000).map(|i| format!("local.get 0 i32.load offset={i} local.set {i} ")).collect();
    let blocks = "local.get 0 if nop end ".repeat(10_000);
    let uses: String = (1..5_000).map(|i| format!("local.get {i} i32.xor ")).collect();
    let alive = format!(
        "(memory 1) (func (param i32) (result i32) (local {}) {kept} {blocks} i32.const 0 {uses})",
        "i32 ".repeat(5_000)
    );
    let long: String = (0..40_000).map(|i| format!("local.get 0 i32.load offset={i} i32.xor ")).collect();
    let long = format!("(memory 1) (func (param i32) (result i32) i32.const 0 {long})");
    let each = |f: &dyn Fn(u32) -> String| (0..16).map(f).collect::<String>();
    let table = |i| format!("(table $t{i} 1048576 funcref) (elem (table $t{i}) (i32.const 1048575) func $f)");
    let memory = |i| {
        format!(
            r#"(memory $m{i} 16) (data (memory $m{i}) (i32.const 0) "a" ) (data (memory $m{i}) (i32.const 1048575) "a")"#
        )
    };
    let tables = format!("(core module (func $f) {})", each(&table)).repeat(20);
    let memories = format!("(core module {})", each(&memory)).repeat(20);
    let host = host();
    for wat in [module(locals), module(calls), module(alive), module(long)]
        .into_iter()
        .chain([tables, memories].map(|modules| format!("(component {modules})")))
    {
        let bytes = wat::parse_str(wat).unwrap();
        assert!(bytes.len() < 400_000, "{}", bytes.len());
        let started = Instant::now();
        let error = host.function("bomb").component_bytes(bytes).load().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooComplex, "{error:?}");
        assert!(error.to_string().contains("values"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    }
}

/// A component of `parts` components which all wait at once, and one that calls them.
fn waits_in(parts: usize) -> String {
    let each = |f: &dyn Fn(usize) -> String| (0..parts).map(f).collect::<String>();
    format!(
        r#"(component
            (import "wasi:clocks/monotonic-clock@0.3.0" (instance $clock
                (export "wait-for" (func async (param "how-long" u64)))))
            (alias export $clock "wait-for" (func $wait))
            (component $c
                (import "wait" (func $wait async (param "how-long" u64)))
                (core func $wait (canon lower (func $wait)))
                (core module $m (import "w" "wait" (func $wait (param i64)))
                    (func (export "f") (result i32) (call $wait (i64.const -1)) unreachable)
                    (func (export "cb") (param i32 i32 i32) (result i32) unreachable))
                (core instance $w (export "wait" (func $wait)))
                (core instance $i (instantiate $m (with "w" (instance $w))))
                (func (export "f") async (canon lift (core func $i "f") async (callback (core func $i "cb")))))
            {}
            (component $caller
                {}
                (core module $libc (memory (export "m") 1))
                (core instance $libc (instantiate $libc))
                {}
                (core module $m {} (func (export "run") {} (loop $l (br $l))))
                (core instance $w {})
                (core instance $i (instantiate $m (with "w" (instance $w))))
                (func (export "run") async (canon lift (core func $i "run"))))
            (instance $caller (instantiate $caller {}))
            (export "run" (func $caller "run")))"#,
        each(&|i| format!(r#"(instance $c{i} (instantiate $c (with "wait" (func $wait))))"#)),
        each(&|i| format!(r#"(import "f{i}" (func $f{i} async))"#)),
        each(&|i| format!(r#"(core func $f{i} (canon lower (func $f{i}) async (memory (core memory $libc "m"))))"#)),
        each(&|i| format!(r#"(import "w" "f{i}" (func $f{i} (result i32)))"#)),
        each(&|i| format!("(drop (call $f{i}))")),
        each(&|i| format!(r#"(export "f{i}" (func $f{i}))"#)),
        each(&|i| format!(r#"(with "f{i}" (func $c{i} "f"))"#)),
    )
}

/// Every part of a composed component can stand still on a stack of its own: a few such calls would leave no stack to
/// anybody else.
#[tokio::test(flavor = "multi_thread")]
async fn no_guest_takes_the_stacks_of_others() {
    let host = Host::builder().seats(4).build().unwrap();
    let limits = Limits::default().deadline(ms(60)).queue_wait(ms(60));
    let load = |parts| host.function("wide").component_wat(waits_in(parts)).limits(limits.clone()).load();
    let error = load(4).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooComplex, "{error:?}");
    let wide = load(3).await.unwrap();
    let narrow = load(1).await.unwrap();
    let calls = [&wide, &narrow, &wide, &narrow].map(|function| {
        let function = function.clone();
        tokio::spawn(async move { function.call::<()>("run", ()).await.map_err(|error| error.kind()) })
    });
    let mut timed_out = 0;
    for call in calls {
        match call.await.unwrap().unwrap_err() {
            ErrorKind::TimedOut => timed_out += 1,
            kind => assert_eq!(kind, ErrorKind::Overloaded),
        }
    }
    assert!(timed_out > 0);
    assert!(format!("{host:?}").contains("free_seats: 4"), "{host:?}");
}

/// Host calls cost no fuel, so that a guest which only makes them would be looked at every ten thousand of them; and
/// each can take as long as the limits let it.
#[tokio::test]
async fn host_calls_do_not_hide_the_deadline_from_fuel() {
    let wat = r#"(component
        (import "wasi:random/random@0.2.0" (instance $random
            (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))
        (core module $libc (memory (export "m") 2)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096)))
        (core instance $libc (instantiate $libc))
        (core func $f (canon lower (func $random "get-random-bytes") (memory (core memory $libc "m"))
            (realloc (core func $libc "realloc"))))
        (core module $m (import "w" "f" (func $f (param i64 i32)))
            (func (export "run") (loop $l (call $f (i64.const 65536) (i32.const 0)) (br $l))))
        (core instance $w (export "f" (func $f)))
        (core instance $i (instantiate $m (with "w" (instance $w))))
        (func (export "run") (canon lift (core func $i "run"))))"#;
    let limits = Limits::default().deadline(ms(50)).fuel(u64::MAX / 2);
    let function = host().function("random").component_wat(wat).limits(limits).load().await.unwrap();
    let error = function.call::<()>("run", ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error:?}");
    assert!(error.usage().wall < ms(50) + SLACK, "{}", error.usage());
}

/// A guest that makes host calls and no more gives way at each tick as well, however it is metered: else as many of them
/// as there are workers would keep all others from running.
#[tokio::test]
async fn host_calls_do_not_keep_the_thread() {
    let host = host();
    for limits in [Limits::default(), Limits::default().fuel(u64::MAX / 2)] {
        let limits = limits.deadline(ms(1_000)).host_calls(u64::MAX);
        for wat in [crate::limits::clock(u32::MAX), crate::limits::randoms(65_536, u32::MAX)] {
            let function = host.function("calls").component_wat(wat).limits(limits.clone()).load().await.unwrap();
            let mut call = std::pin::pin!(function.call::<()>("run", ()));
            for _ in 0..10 {
                assert!(call.as_mut().now_or_never().is_none(), "it kept the thread to its deadline");
            }
            let error = call.await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{error:?}");
        }
    }
}

/// Nor does text that the parts of a component pass to each other.
#[tokio::test]
async fn text_between_components_does_not_hide_the_deadline_from_fuel() {
    let wat = r#"(component
        (component $c
            (core module $m (memory (export "m") 480)
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 65536))
                (func (export "f") (param i32 i32)))
            (core instance $i (instantiate $m))
            (func (export "f") (param "s" string) (canon lift (core func $i "f") (memory (core memory $i "m"))
                (realloc (core func $i "realloc")))))
        (instance $c (instantiate $c))
        (component $d
            (import "f" (func $f (param "s" string)))
            (core module $libc (memory (export "m") 480))
            (core instance $libc (instantiate $libc))
            (core func $f (canon lower (func $f) (memory (core memory $libc "m"))))
            (core module $m (import "w" "f" (func $f (param i32 i32)))
                (func (export "run") (loop $l (call $f (i32.const 65536) (i32.const 30000000)) (br $l))))
            (core instance $w (export "f" (func $f)))
            (core instance $i (instantiate $m (with "w" (instance $w))))
            (func (export "run") (canon lift (core func $i "run"))))
        (instance $d (instantiate $d (with "f" (func $c "f"))))
        (export "run" (func $d "run")))"#;
    let limits = Limits::default().deadline(ms(50)).fuel(u64::MAX / 2);
    let function = host().function("text").component_wat(wat).limits(limits).load().await.unwrap();
    let error = function.call::<()>("run", ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error:?}");
    assert!(error.usage().wall < ms(50) + SLACK, "{}", error.usage());
}

/// What a guest keeps in the host does not count as its memory, so each thing it can keep there must be small.
#[test]
fn requests_hold_no_megabytes_in_the_host() {
    if !alone("attacks::requests_hold_no_megabytes_in_the_host", "") {
        return;
    }
    let method = r#"(variant (case "get") (case "head") (case "post") (case "put") (case "delete") (case "connect")
        (case "options") (case "trace") (case "patch") (case "other" string))"#;
    let wat = format!(
        r#"(component
            (import "wasi:http/types@0.2.0" (instance $types
                (export "fields" (type $fields (sub resource)))
                (export "outgoing-request" (type $request (sub resource)))
                (type $method' {method}) (export "method" (type $method (eq $method')))
                (export "[constructor]fields" (func (result (own $fields))))
                (export "[constructor]outgoing-request" (func (param "headers" (own $fields)) (result (own $request))))
                (export "[method]outgoing-request.set-method"
                    (func (param "self" (borrow $request)) (param "method" $method) (result (result))))))
            (core module $libc (memory (export "m") 40))
            (core instance $libc (instantiate $libc))
            (core func $fields (canon lower (func $types "[constructor]fields")))
            (core func $new (canon lower (func $types "[constructor]outgoing-request")))
            (core func $set (canon lower (func $types "[method]outgoing-request.set-method")
                (memory (core memory $libc "m"))))
            (core module $m
                (import "l" "m" (memory 40))
                (import "w" "fields" (func $fields (result i32)))
                (import "w" "new" (func $new (param i32) (result i32)))
                (import "w" "set" (func $set (param i32 i32 i32 i32) (result i32)))
                (func $try (param $length i32) (result i32)
                    (call $set (call $new (call $fields)) (i32.const 9) (i32.const 1024) (local.get $length)))
                (func (export "run") (local $n i32)
                    (memory.fill (i32.const 1024) (i32.const 65) (i32.const 2000000))
                    (if (call $try (i32.const 64)) (then unreachable))
                    (loop $l
                        (if (i32.eqz (call $try (i32.const 2000000))) (then unreachable))
                        (local.set $n (i32.add (local.get $n) (i32.const 1)))
                        (br_if $l (i32.lt_u (local.get $n) (i32.const 100))))))
            (core instance $w (export "fields" (func $fields)) (export "set" (func $set)) (export "new" (func $new)))
            (core instance $i (instantiate $m (with "w" (instance $w)) (with "l" (instance $libc))))
            (func (export "run") (canon lift (core func $i "run"))))"#
    );
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let function = host().function("methods").component_wat(wat).load().await.unwrap();
        let before = resident();
        function.call::<()>("run", ()).await.unwrap();
        let grown = resident().saturating_sub(before);
        assert!(grown < 32 * 1024, "{grown} KiB");
    });
}

/// The same for the host that a request is for, which http has no bound for either.
#[test]
fn requests_are_for_no_host_of_megabytes() {
    if !alone("attacks::requests_are_for_no_host_of_megabytes", "") {
        return;
    }
    let wat = r#"(component
        (import "wasi:http/types@0.2.0" (instance $types
            (export "fields" (type $fields (sub resource)))
            (export "outgoing-request" (type $request (sub resource)))
            (export "[constructor]fields" (func (result (own $fields))))
            (export "[constructor]outgoing-request" (func (param "headers" (own $fields)) (result (own $request))))
            (export "[method]outgoing-request.set-authority"
                (func (param "self" (borrow $request)) (param "authority" (option string)) (result (result))))))
        (core module $libc (memory (export "m") 40))
        (core instance $libc (instantiate $libc))
        (core func $fields (canon lower (func $types "[constructor]fields")))
        (core func $new (canon lower (func $types "[constructor]outgoing-request")))
        (core func $set (canon lower (func $types "[method]outgoing-request.set-authority")
            (memory (core memory $libc "m"))))
        (core module $m
            (import "l" "m" (memory 40))
            (import "w" "fields" (func $fields (result i32)))
            (import "w" "new" (func $new (param i32) (result i32)))
            (import "w" "set" (func $set (param i32 i32 i32 i32) (result i32)))
            (func $try (param $length i32) (result i32)
                (call $set (call $new (call $fields)) (i32.const 1) (i32.const 1024) (local.get $length)))
            (func (export "run") (local $n i32)
                (memory.fill (i32.const 1024) (i32.const 97) (i32.const 2000000))
                (if (call $try (i32.const 260)) (then unreachable))
                (loop $l
                    (drop (call $try (i32.const 2000000)))
                    (local.set $n (i32.add (local.get $n) (i32.const 1)))
                    (br_if $l (i32.lt_u (local.get $n) (i32.const 100))))
                (if (i32.eqz (call $try (i32.const 2000000))) (then unreachable))))
        (core instance $w (export "fields" (func $fields)) (export "set" (func $set)) (export "new" (func $new)))
        (core instance $i (instantiate $m (with "w" (instance $w)) (with "l" (instance $libc))))
        (func (export "run") (canon lift (core func $i "run"))))"#;
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let function = host().function("hosts").component_wat(wat).load().await.unwrap();
        let before = resident();
        let ended = function.call::<()>("run", ()).await;
        let grown = resident().saturating_sub(before);
        assert!(grown < 32 * 1024, "{grown} KiB");
        ended.unwrap();
    });
}

/// A name is a claim: what it names may be anything.
#[tokio::test]
async fn exports_that_are_not_what_their_names_say() {
    let host = host();
    for name in [
        "wasi:cli/run@0.2.0",
        "wasi:cli/run@0.3.0",
        "wasi:http/incoming-handler@0.2.0",
        "wasi:http/handler@0.3.0",
        "isopod:function/handler@9.0.0",
    ] {
        let wat = format!(r#"(component (instance $i) (export "{name}" (instance $i)))"#);
        let error = host.function("fake").component_wat(wat).load().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongExport, "{error:?}");
    }
}

/// The client's bytes are not the guest's fault.
#[tokio::test]
async fn a_host_header_that_is_no_text_is_not_blamed_on_the_guest() {
    let host = host();
    for guest in ["http-hello-p2", "http-hello-p3"] {
        let function = host.function(guest).component_file(built(guest)).load().await.unwrap();
        let request = http::Request::builder()
            .uri("/hello")
            .header("host", http::HeaderValue::from_bytes(b"\xff\xfe").unwrap())
            .body(http_body_util::Empty::<bytes::Bytes>::new())
            .unwrap();
        let error = function.http(request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongArguments, "{error:?}");
    }
}

/// A body that comes in pieces of nothing, as fast as they are asked for, is no input and takes its time.
#[tokio::test]
async fn endless_pieces_of_nothing_end_at_the_deadline() {
    struct Nothing;
    impl http_body::Body for Nothing {
        type Data = bytes::Bytes;
        type Error = std::io::Error;
        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<std::io::Result<http_body::Frame<bytes::Bytes>>>> {
            std::task::Poll::Ready(Some(Ok(http_body::Frame::data(bytes::Bytes::new()))))
        }
    }
    let host = host();
    for guest in ["http-hello-p2", "http-hello-p3"] {
        let function = host.function(guest).component_file(built(guest)).load().await.unwrap();
        let request = http::Request::builder().method("POST").uri("/echo").body(Nothing).unwrap();
        let error = match function.deadline(ms(50)).http(request).await {
            Ok(response) => response.into_body().bytes().await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{guest}: {error:?}");
        assert!(error.usage().wall < ms(50) + SLACK, "{guest}: {}", error.usage());
    }
}

/// Arguments are read before the call's time begins: names that are looked for among thousands of long ones must not
/// make that long.
#[tokio::test]
async fn arguments_with_thousands_of_names_are_bounded_work() {
    let name = |i: usize| format!("a{}-x{i:05}", "b".repeat(100));
    let names: String = (0..9_000).map(|i| format!("{:?} ", name(i))).collect();
    let wat = format!(
        r#"(component
            (type $e' (enum {names})) (export $e "e" (type $e'))
            (core module $m (memory (export "m") 20)
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
                (func (export "f") (param i32 i32)))
            (core instance $i (instantiate $m))
            (func (export "f") (param "x" (list $e))
                (canon lift (core func $i "f") (memory (core memory $i "m")) (realloc (core func $i "realloc")))))"#
    );
    let function = host().function("names").component_wat(wat).load().await.unwrap();
    // What is found at once is not much work, and what is looked for among thousands ten thousand times is too much.
    function.call::<()>("f", &[vec![name(0); 10_000]]).await.unwrap();
    let error = function.call::<()>("f", &[vec![name(8_999); 10_000]]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded(Limit::Input), "{error:?}");
}

/// A guest that was refused memory once, took it well, and then does something else wrong.
#[tokio::test]
async fn memory_is_not_blamed_for_what_comes_after() {
    let wat = r#"(component
        (core module $m (memory (export "m") 1) (data (i32.const 16) "\ff")
            (func (export "f") (result i32)
                (drop (memory.grow (i32.const 60000)))
                (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 1)) (i32.const 0)))
        (core instance $i (instantiate $m))
        (func (export "f") (result string) (canon lift (core func $i "f") (memory (core memory $i "m")))))"#;
    let function = host().function("f").component_wat(wat).load().await.unwrap();
    let error = function.call::<String>("f", ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GuestAbi, "{error:?}");
}

/// A mangled name of some hundred bytes can stand for a tuple of a million. Nobody waits for it to be written out.
#[tokio::test]
async fn names_that_unfold_cost_nothing() {
    // Each tuple is twice the one before, by reference to where that stands in the name.
    let (mut name, mut at) = ("INvC1a1f".to_owned(), None);
    for _ in 0..40 {
        let here = name.len();
        name += &match at {
            None => "ThhE".to_owned(),
            Some(at) => format!("T{0}{0}E", reference(at)),
        };
        at = Some(here);
    }
    let body = format!(
        r#"(func $deep (@name "_R{name}E") (param i32)
                (if (i32.eqz (local.get 0)) (then unreachable))
                (call $deep (i32.sub (local.get 0) (i32.const 1))))
            (func (export "run") (call $deep (i32.const 20)))"#
    );
    let function = host().function("names").component_wat(runner(&body)).load().await.unwrap();
    let started = Instant::now();
    let error = function.call::<()>("run", ()).await.unwrap_err();
    assert_eq!((error.kind(), error.guest_backtrace().len()), (ErrorKind::Trapped, 8), "{error:?}");
    assert!(error.guest_backtrace()[0].contains("(u8, u8)"), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

/// A back reference as Rust mangles it: its number in base 62, less one.
fn reference(at: usize) -> String {
    const DIGITS: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let (mut rest, mut digits) = (at - 1, String::new());
    while rest > 0 || digits.is_empty() {
        digits.insert(0, char::from(DIGITS[rest % 62]));
        rest /= 62;
    }
    format!("B{digits}_")
}

/// Sleeping is a host call in both generations of WASI.
#[tokio::test]
async fn sleeping_counts_as_a_host_call() {
    let wat = r#"(component
        (import "wasi:clocks/monotonic-clock@0.3.0" (instance $clock
            (export "wait-for" (func async (param "how-long" u64)))))
        (core func $wait (canon lower (func $clock "wait-for")))
        (core module $m (import "w" "wait" (func $wait (param i64)))
            (func (export "run") (loop $l (call $wait (i64.const 0)) (br $l))))
        (core instance $w (export "wait" (func $wait)))
        (core instance $i (instantiate $m (with "w" (instance $w))))
        (func (export "run") async (canon lift (core func $i "run"))))"#;
    let limits = Limits::default().host_calls(10);
    let function = host().function("sleeper").component_wat(wat).limits(limits).load().await.unwrap();
    let error = function.call::<()>("run", ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded(Limit::HostCalls), "{error:?}");
}

/// A response that nobody reads keeps its guest, and with it a seat, until the call's deadline and no longer.
#[tokio::test]
async fn a_slow_reader_keeps_no_seat() {
    for guest in ["http-hello-p2", "http-hello-p3"] {
        let host = Host::builder().seats(1).build().unwrap();
        let function = host.function("slow").component_file(built(guest)).load().await.unwrap();
        let request =
            |path: &str| http::Request::builder().uri(path).body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
        let slow = function.deadline(ms(50));
        let response = slow.http(request("/stream?n=100000")).await.unwrap();
        // Waits for the one seat that there is.
        function.http(request("/hello")).await.unwrap();
        let error = response.into_body().bytes().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{guest}: {error:?}");
        assert!(error.usage().wall < ms(50) + SLACK, "{guest}: {}", error.usage());
    }
}

/// A component of two: one whose async export `f` returns at once and goes on as `code` says, and one whose `run` calls
/// it `times` over and then does `then`.
fn lingering(code: &str, times: u32, then: &str) -> String {
    format!(
        r#"(component
            (component $c
                (core func $return (canon task.return))
                (core func $set (canon waitable-set.new))
                (core module $m (import "w" "return" (func $return)) (import "w" "set" (func $set (result i32)))
                    (global $s (mut i32) (i32.const 0))
                    (func $start (global.set $s (call $set))) (start $start)
                    (func (export "f") (result i32) (call $return) {code})
                    (func (export "cb") (param i32 i32 i32) (result i32) {code}))
                (core instance $w (export "return" (func $return)) (export "set" (func $set)))
                (core instance $i (instantiate $m (with "w" (instance $w))))
                (func (export "f") async (canon lift (core func $i "f") async (callback (core func $i "cb")))))
            (instance $c (instantiate $c))
            (component $d
                (import "f" (func $f async))
                (core module $libc (memory (export "m") 1))
                (core instance $libc (instantiate $libc))
                (core func $f (canon lower (func $f) async (memory (core memory $libc "m"))))
                (core func $yield (canon thread.yield))
                (core module $m (import "w" "f" (func $f (result i32))) (import "w" "yield" (func $yield (result i32)))
                    (func (export "run") (local $n i32)
                        (loop $l
                            (drop (call $f))
                            (local.set $n (i32.add (local.get $n) (i32.const 1)))
                            (br_if $l (i32.lt_u (local.get $n) (i32.const {times}))))
                        {then}))
                (core instance $w (export "f" (func $f)) (export "yield" (func $yield)))
                (core instance $i (instantiate $m (with "w" (instance $w))))
                (func (export "run") async (canon lift (core func $i "run"))))
            (instance $d (instantiate $d (with "f" (func $c "f"))))
            (export "run" (func $d "run")))"#
    )
}

/// Tasks that return and stay, waiting for nothing or yielding for ever, are handles like others; and yielding for ever
/// is no way around the clock or the fuel.
#[tokio::test]
async fn tasks_in_the_background_are_bounded() {
    let wait = "(i32.or (i32.const 2) (i32.shl (global.get $s) (i32.const 4)))";
    let (go_on, exit) = ("(i32.const 1)", "(i32.const 0)");
    let host = host();
    for code in [wait, go_on] {
        let function = host.function("many").component_wat(lingering(code, u32::MAX, "")).load().await.unwrap();
        let error = function.call::<()>("run", ()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded(Limit::Handles), "{error:?}");
    }
    let ever = "(loop $e (drop (call $yield)) (br $e))";
    for (code, limits) in [
        (exit, Limits::default().deadline(ms(30))),
        (go_on, Limits::default().busy(ms(30))),
        (go_on, Limits::default().deadline(ms(30)).fuel(u64::MAX / 2)),
    ] {
        let wat = lingering(code, 5, ever);
        let function = host.function("ever").component_wat(wat).limits(limits).load().await.unwrap();
        let error = function.call::<()>("run", ()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error:?}");
        assert!(error.usage().busy < ms(30) + SLACK, "{}", error.usage());
    }
}

/// What goes on after the result was given, is the call's until the guest gives way.
#[tokio::test]
async fn computing_after_the_result_is_under_the_deadline() {
    let guest = |code: &str| {
        format!(
            r#"(component
                (core func $return (canon task.return (result u32)))
                (core module $m (import "w" "return" (func $return (param i32)))
                    (func (export "f") (result i32) (call $return (i32.const 7)) {code})
                    (func (export "cb") (param i32 i32 i32) (result i32) (i32.const 1)))
                (core instance $w (export "return" (func $return)))
                (core instance $i (instantiate $m (with "w" (instance $w))))
                (func (export "f") async (result u32)
                    (canon lift (core func $i "f") async (callback (core func $i "cb")))))"#
        )
    };
    let host = host();
    let limits = Limits::default().deadline(ms(30));
    let load = |code| host.function("after").component_wat(guest(code)).limits(limits.clone()).load();
    assert_eq!(load("(i32.const 1)").await.unwrap().call::<u32>("f", ()).await.unwrap().value, 7);
    let error = load("(loop $l (br $l)) unreachable").await.unwrap().call::<u32>("f", ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error:?}");
    let error = load("unreachable").await.unwrap().call::<u32>("f", ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Trapped, "{error:?}");
}

/// A denied async import ends the call at the first call of it, by whichever ABI, and is counted and recorded once.
#[tokio::test]
async fn denied_async_imports_are_denied_once() {
    let host = host();
    for (lower, params, args) in [
        ("", "(result i32)", ""),
        (r#"async (memory (core memory $libc "m"))"#, "(param i32) (result i32)", "(i32.const 8)"),
    ] {
        let wat = format!(
            r#"(component
                (import "acme:x/y" (instance $y (export "go" (func async (result u32)))))
                (core module $libc (memory (export "m") 1))
                (core instance $libc (instantiate $libc))
                (core func $go (canon lower (func $y "go") {lower}))
                (core module $m (import "w" "go" (func $go {params}))
                    (func (export "run") (loop $l (drop (call $go {args})) (br $l))))
                (core instance $w (export "go" (func $go)))
                (core instance $i (instantiate $m (with "w" (instance $w))))
                (func (export "run") async (canon lift (core func $i "run"))))"#
        );
        let function = host.function("tries").component_wat(wat).deny_at_call().load().await.unwrap();
        let error = function.call::<()>("run", ()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
        assert_eq!((error.denials().len(), error.usage().host_calls), (1, 1));
    }
}

/// A call that is given up while it waits for a seat has a receipt too, and leaves its place in the line.
#[tokio::test]
async fn giving_up_in_the_line_is_told() {
    let book = Book::default();
    let host = Host::builder().meter(book.clone()).build().unwrap();
    let limits = Limits::default().concurrency(1).queue(1);
    let wat = runner(r#"(func (export "run") (loop $l (br $l)))"#);
    let function = host.function("busy").component_wat(wat).limits(limits).load().await.unwrap();
    let mut holder = std::pin::pin!(function.call::<()>("run", ()));
    assert!(holder.as_mut().now_or_never().is_none());
    for _ in 0..3 {
        assert!(function.call::<()>("run", ()).now_or_never().is_none());
    }
    let waited = function.call::<()>("run", ());
    let waited = async { tokio::time::timeout(ms(20), waited).await.is_err() };
    assert!(waited.await);
    let kinds: Vec<_> = book.take().into_iter().map(|(_, kind)| kind).collect();
    assert_eq!(kinds, [Some(ErrorKind::Cancelled); 4]);
}
