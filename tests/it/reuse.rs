//! Instances that serve several calls: within a tenant, never after an abnormal end, with the limits of each call.

use crate::support::{built, host, load, until};
use isopod::{CallOptions, Context, ErrorKind, Function, FunctionBuilder, Host, Limits, Reuse, ms};
use std::sync::Arc;

const COUNT: &str = r#"(component
    (core module $m (global $n (mut i32) (i32.const 0)) (memory (export "m") 1)
        (func (export "count") (result i32) (global.set $n (i32.add (global.get $n) (i32.const 1))) (global.get $n))
        (func (export "work") (param i32) (result i32) (loop $l
            (local.set 0 (i32.sub (local.get 0) (i32.const 1))) (br_if $l (i32.gt_s (local.get 0) (i32.const 0))))
            (global.set $n (i32.add (global.get $n) (i32.const 1))) (global.get $n))
        (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
        (func (export "long") (result i32) (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 5000)) (i32.const 0))
        (func (export "trap") unreachable)
        (func (export "spin") (loop $l (br $l))))
    (core instance $i (instantiate $m))
    (alias core export $i "m" (core memory $mem))
    (func (export "count") (result u32) (canon lift (core func $i "count")))
    (func (export "work") (param "times" s32) (result u32) (canon lift (core func $i "work")))
    (func (export "grow") (param "pages" u32) (result s32) (canon lift (core func $i "grow")))
    (func (export "long") (result string) (canon lift (core func $i "long") (memory $mem)))
    (func (export "trap") (canon lift (core func $i "trap")))
    (func (export "spin") (canon lift (core func $i "spin"))))"#;

isopod::world!({
    world: "counter",
    inline: "package acme:reuse; world counter { export count: func() -> u32; export trap: func(); export spin: func(); }",
});

fn builder(host: &Host) -> FunctionBuilder {
    host.function("counter").component_wat(COUNT)
}

async fn reused(host: &Host, reuse: Reuse, limits: Limits) -> Function {
    load(builder(host).reuse(reuse), limits).await
}

async fn count(function: &Function) -> u32 {
    function.call::<u32>("count", ()).await.unwrap().value
}

#[tokio::test]
async fn an_instance_stays_within_its_tenant() {
    let function = reused(&host(), Reuse::within_tenant(), Limits::default()).await;
    let [a, b, nobody] = [function.tenant("a"), function.tenant("b"), function.clone()];
    let first = a.call::<u32>("count", ()).await.unwrap();
    let second = a.call::<u32>("count", ()).await.unwrap();
    assert_eq!((first.value, first.usage.cold, second.value, second.usage.cold), (1, true, 2, false));
    assert_eq!([count(&b).await, count(&nobody).await, count(&a).await, count(&b).await], [1, 1, 3, 2]);
    assert_eq!(function.idle(), 3);
    // Another load of the same component is another function.
    let again = reused(&host(), Reuse::within_tenant(), Limits::default()).await;
    assert_eq!(count(&again.tenant("a")).await, 1);
}

#[tokio::test]
async fn an_instance_serves_only_so_many_calls() {
    let function = reused(&host(), Reuse::within_tenant().at_most(3), Limits::default()).await;
    let mut counts = Vec::new();
    for _ in 0..7 {
        counts.push(count(&function).await);
    }
    assert_eq!(counts, [1, 2, 3, 1, 2, 3, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_waits_for_too_long_goes() {
    let function = reused(&host(), Reuse::within_tenant().idle(ms(20)), Limits::default()).await;
    count(&function).await;
    until("none waits", || function.idle() == 0);
    assert_eq!(count(&function).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_instance_is_kept_after_an_abnormal_end() {
    let limits = Limits::default().output(4_000).deadline(ms(2_000));
    let function = reused(&host(), Reuse::within_tenant(), limits).await;
    count(&function).await;
    for (export, kind) in
        [("trap", ErrorKind::Trapped), ("spin", ErrorKind::TimedOut), ("long", ErrorKind::OutputTooLarge)]
    {
        let narrow = function.deadline(if export == "spin" { ms(30) } else { ms(2_000) });
        let error = narrow.call::<serde_json::Value>(export, ()).await.unwrap_err();
        assert_eq!((error.kind(), error.usage().cold), (kind, false), "{error}");
        assert_eq!((function.idle(), count(&function).await), (0, 1), "after {export}");
    }
    // Cancelled in the middle.
    tokio::time::timeout(ms(5), function.call::<()>("spin", ())).await.unwrap_err();
    assert_eq!((function.idle(), count(&function).await), (0, 1));
    // What was wrong before the guest ran costs no instance.
    function.call::<u32>("count", ("too many",)).await.unwrap_err();
    assert_eq!(count(&function).await, 2);
    // A session whose body fails leaves the guest in a state that the body alone knows.
    let failed = function.session(async |session| {
        session.call::<u32>("count", ()).await?;
        session.call::<u32>("nothing", ()).await
    });
    assert_eq!(failed.await.unwrap_err().kind(), ErrorKind::WrongExport);
    assert_eq!(count(&function).await, 1);
    // One that is content although a call in it trapped, or was given up half way.
    let content = function.session(async |session| {
        assert_eq!(session.call::<()>("trap", ()).await.unwrap_err().kind(), ErrorKind::Trapped);
        Ok(())
    });
    content.await.unwrap();
    assert_eq!((function.idle(), count(&function).await), (0, 1));
    let hasty = function.session(async |session| {
        tokio::time::timeout(ms(5), session.call::<()>("spin", ())).await.unwrap_err();
        Ok(())
    });
    hasty.await.unwrap();
    assert_eq!((function.idle(), count(&function).await), (0, 1));
    // And by a typed handle.
    let typed = builder(&host()).reuse(Reuse::within_tenant()).load_typed::<Counter>().await.unwrap();
    for way in ["well", "trap", "spin"] {
        let session = typed.session(async |session| {
            match way {
                "trap" => drop(session.trap().await.unwrap_err()),
                "spin" => drop(tokio::time::timeout(ms(5), session.spin()).await.unwrap_err()),
                _ => drop(session.count().await.unwrap()),
            }
            Ok(())
        });
        session.await.unwrap();
        assert_eq!(typed.as_ref().idle(), usize::from(way == "well"), "after {way}");
    }
}

/// A program has its arguments once.
#[tokio::test]
async fn a_program_is_not_started_twice() {
    let builder = host().function("command").component_file(built("command")).reuse(Reuse::within_tenant());
    let error = builder.load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert!(error.to_string().contains("`reuse`"), "{error}");
}

#[tokio::test]
async fn each_call_has_its_own_limits_and_receipt() {
    let function = reused(&host(), Reuse::within_tenant(), Limits::default().fuel(100_000)).await;
    let mut fuel = Vec::new();
    for _ in 0..20 {
        fuel.push(function.call::<u32>("work", (5_000,)).await.unwrap().usage.fuel.unwrap());
    }
    assert!(fuel[0] > 20_000 && fuel[1..].iter().all(|used| *used == fuel[1]), "{fuel:?}");
    let function = reused(&host(), Reuse::within_tenant(), Limits::default().memory(4 << 20)).await;
    assert_eq!(function.call::<i32>("grow", (31,)).await.unwrap().usage.peak_memory, 2 << 20);
    let reply = function.call::<i32>("grow", (32,)).await.unwrap();
    assert_eq!((reply.value, reply.usage.peak_memory), (32, 4 << 20), "what it has it keeps");
    assert_eq!(function.call::<i32>("grow", (1,)).await.unwrap().value, -1, "for all calls together");
}

/// Counts the calls that are in it, while one waits for the host.
const INSIDE: &str = r#"(component
    (import "wait" (func $wait))
    (core func $wait' (canon lower (func $wait)))
    (core module $m (import "" "wait" (func $wait)) (global $n (mut i32) (i32.const 0))
        (func (export "run") (result i32) (local $seen i32)
            (global.set $n (i32.add (global.get $n) (i32.const 1)))
            (call $wait)
            (local.set $seen (global.get $n))
            (global.set $n (i32.sub (global.get $n) (i32.const 1)))
            (local.get $seen)))
    (core instance $i (instantiate $m (with "" (instance (export "wait" (func $wait'))))))
    (func (export "run") (result u32) (canon lift (core func $i "run"))))"#;

#[tokio::test]
async fn no_two_calls_share_an_instance_at_once() {
    const CALLS: usize = 20;
    let all = Arc::new(tokio::sync::Barrier::new(CALLS));
    let builder = host().function("inside").component_wat(INSIDE).reuse(Reuse::within_tenant());
    let builder = builder.import("", "wait", move |_: Context, ()| {
        let all = Arc::clone(&all);
        // Until all calls are here.
        async move {
            all.wait().await;
        }
    });
    let function = load(builder, Limits::default()).await;
    for cold in [true, false, false] {
        let calls = (0..CALLS).map(|_| function.call::<u32>("run", ()));
        for reply in futures_util::future::try_join_all(calls).await.unwrap() {
            assert_eq!((reply.value, reply.usage.cold), (1, cold));
        }
        assert_eq!(function.idle(), CALLS);
    }
}

#[tokio::test]
async fn kept_instances_give_way() {
    let host = Host::builder().seats(4).build().unwrap();
    let kept = reused(&host, Reuse::within_tenant(), Limits::default()).await;
    for tenant in 0..100 {
        assert_eq!(count(&kept.tenant(format!("t{tenant}"))).await, 1);
        assert!(kept.idle() <= 4, "{}", kept.idle());
    }
    let plain = load(builder(&host), Limits::default()).await;
    for _ in 0..10 {
        assert_eq!(count(&plain).await, 1);
    }
    assert_eq!(count(&kept.tenant("t99")).await, 2, "the longest waiting go first");
}

#[tokio::test]
async fn a_reuse_that_reuses_nothing_is_an_error() {
    for (reuse, expected) in [
        (Reuse::within_tenant().at_most(1), "at_most"),
        (Reuse::within_tenant().at_most(0), "at_most"),
        (Reuse::within_tenant().idle(ms(0)), "idle"),
    ] {
        let error = builder(&host()).reuse(reuse).load().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// A stock fills where nothing is kept.
#[tokio::test]
async fn reuse_and_prewarm_go_together() {
    let function = load(builder(&host()).reuse(Reuse::within_tenant()).prewarm(2), Limits::default()).await;
    let reply = function.tenant("a").call::<u32>("count", ()).await.unwrap();
    assert_eq!((reply.value, reply.usage.cold), (1, false));
    assert_eq!([count(&function.tenant("a")).await, count(&function.tenant("b")).await], [2, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_instance_answers_again() {
    let host = host();
    for guest in ["http-hello-p2", "http-hello-p3"] {
        let builder = host.function("hello").component_file(built(guest)).reuse(Reuse::within_tenant());
        let hello = builder.load().await.unwrap();
        for call in 0..5 {
            let request = http::Request::post("/echo").body(http_body_util::Full::new(format!("call {call}").into()));
            let response = hello.http(request.unwrap()).await.unwrap_or_else(|e| panic!("{guest} {call}: {e:?}"));
            let reply = response.into_body().bytes().await.unwrap();
            assert_eq!((&reply.value[..], reply.usage.cold), (format!("call {call}").as_bytes(), call == 0), "{guest}");
            assert_eq!((reply.usage.bytes_in, reply.usage.bytes_out), (6, 6), "{guest} {call}: those of this call");
        }
        // A reader that goes away ends the call, and its instance.
        let response =
            hello.http(http::Request::get("/stream?n=1000").body(http_body_util::Empty::new()).unwrap()).await;
        drop(response.unwrap());
        assert_eq!(hello.idle(), 0, "{guest}");
    }
}
