//! Hosts that are best at one thing or another: the same promises, and settings that contradict each other.

use crate::support::{alone, load, resident, runner};
use isopod::{Error, ErrorKind, Host, HostBuilder, Limits, MIB, Profile};

fn refusal(builder: HostBuilder) -> Error {
    builder.build().expect_err("it contradicts itself")
}

#[test]
fn settings_that_contradict_each_other_are_errors() {
    for (builder, expected) in [
        (Host::builder().profile(Profile::Density).profile(Profile::Latency), ["Density", "Latency"]),
        (Host::builder().seats(10).instances(9), ["9 instances", "10 seats"]),
        (Host::builder().instances(999), ["999 instances", "1000 seats"]),
        (Host::builder().profile(Profile::Density).instances(25_000), ["25000 instances", "mappings"]),
    ] {
        let error = refusal(builder);
        assert_eq!(error.kind(), ErrorKind::Misuse);
        assert!(expected.iter().all(|part| error.to_string().contains(part)), "{error}");
    }
    Host::builder().profile(Profile::Density).profile(Profile::Density).seats(1).build().unwrap();
}

const GROW: &str = r#"(memory (export "m") 1)
    (func (export "run") (drop (memory.grow (i32.const 31))) (i32.store (i32.const 2097148) (i32.const 1))
        (if (i32.ne (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable)))"#;

#[tokio::test]
async fn a_dense_host_keeps_memories_within_their_bounds() {
    let host = Host::builder().profile(Profile::Density).seats(10).instances(10).build().unwrap();
    let function = |body: &str| host.function("f").component_wat(runner(body));
    let grow = load(function(GROW), Limits::default().memory(2 * MIB)).await;
    assert_eq!(grow.call::<()>("run", ()).await.unwrap().usage.peak_memory, 2 * MIB);
    for address in ["65536", "67108864", "2147483644", "4294967292"] {
        let body = format!(r#"(memory 1) (func (export "run") (i32.store (i32.const {address}) (i32.const 1)))"#);
        let error = load(function(&body), Limits::default()).await.call::<()>("run", ()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Trapped, "{address}: {error}");
    }
    let error = function(GROW).limits(Limits::default().memory(65 * MIB)).load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert!(error.to_string().contains("Density"), "{error}");
}

/// Two for each of ten thousand customers, or as many of one.
#[tokio::test]
async fn a_dense_host_has_twenty_thousand_instances_that_wait() {
    if !alone("profiles::a_dense_host_has_twenty_thousand_instances_that_wait", "") {
        return;
    }
    const MANY: u32 = 20_000;
    let host = Host::builder().profile(Profile::Density).build().unwrap();
    let before = resident();
    let wat = r#"(component
        (core module $m (memory 2) (global $n (mut i32) (i32.const 0)) (data (i32.const 8) "what the guest begins with")
            (func (export "count") (result i32) (global.set $n (i32.add (global.get $n) (i32.const 1))) (global.get $n)))
        (core instance $i (instantiate $m))
        (func (export "count") (result u32) (canon lift (core func $i "count"))))"#;
    let limits = Limits::default().deadline(std::time::Duration::from_secs(60)).busy(isopod::ms(60_000));
    let function = load(host.function("many").component_wat(wat).prewarm(MANY), limits).await;
    assert_eq!(function.idle(), MANY as usize);
    let each = (resident() - before) * 1024 / u64::from(MANY);
    assert!(each < 32 << 10, "{each} bytes for each");
    for _ in 0..100 {
        let reply = function.call::<u32>("count", ()).await.unwrap();
        assert_eq!((reply.value, reply.usage.cold), (1, false));
    }
}
