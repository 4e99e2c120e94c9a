//! The corpus of hostile guests, and whether the harness sees it when something is not held.

use crate::support;
use isopod::testkit::{Attempted, Case, Promise, Prove, Report, corpus, prove};
use isopod::{
    CallOptions, Clocks, CompileWorker, Env, ErrorKind, Function, FunctionBuilder, Grant, Host, Http, KeyValue,
    Language, Limits, LoadLimits, Meter, Receipt, Reuse, Trust, UNLIMITED, ms,
};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

#[test]
fn the_corpus_is_a_table() {
    let corpus = corpus();
    let names: BTreeSet<&str> = corpus.iter().map(Case::name).collect();
    assert_eq!(names.len(), corpus.len(), "two cases have one name");
    assert!(corpus.len() >= 60, "{}", corpus.len());
    let threats: BTreeSet<u32> = corpus.iter().map(Case::threat).collect();
    // All that there is yet: not what is kept and goes on, and how we are built.
    for row in (1..=33).chain([36]) {
        assert!(threats.contains(&row), "no guest is of row {row}");
    }
}

fn is_script(case: &Case) -> bool {
    case.name().starts_with("script: ")
}

#[test]
fn the_corpus_has_scripts() {
    let scripts: Vec<Case> = corpus().into_iter().filter(is_script).collect();
    assert!(scripts.len() >= 25, "{}", scripts.len());
    let promises: BTreeSet<Promise> = scripts.iter().map(Case::promise).collect();
    assert!(promises.len() >= 15, "{promises:?}");
}

/// Runs a test in a process of its own, and one after the other: they measure time and memory.
fn alone(test: &str) -> bool {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    support::alone(&format!("proof::{test}"), "")
}

/// With a program that compiles, as `main` of a test is not ours to begin.
fn host() -> Host {
    let worker = CompileWorker::program(env!("CARGO_BIN_EXE_isopod-compile-worker"));
    Host::builder().compile_worker(worker).build().unwrap()
}

/// Times that are short, so that a test is.
fn quick() -> Limits {
    Limits::default().deadline(ms(200)).busy(ms(100))
}

fn run(proof: Prove) -> Report {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let report = runtime.block_on(async { proof.await }).unwrap();
    println!("{report}");
    report
}

/// What was not held, but for times and memory that were measured: that is for a run of `examples/prove.rs` on a machine
/// that has nothing else to do.
fn broken(report: &Report) -> Vec<Promise> {
    let firm = report.findings.iter().filter(|finding| !finding.held && !finding.measured);
    firm.map(|finding| finding.promise).collect()
}

#[test]
fn everything_is_held() {
    if alone("everything_is_held") {
        let by_fuel = Limits::default().deadline(ms(200)).fuel(20_000_000);
        for (limits, rounds) in [(quick(), 3), (by_fuel, 1)] {
            let report = run(prove(&host()).limits(limits).rounds(rounds));
            assert_eq!(broken(&report), []);
            assert!(report.benign > 5 * report.attacks, "{report}");
        }
    }
}

/// A guest by itself ends as it must, time and again; and is found to, or not to.
#[tokio::test]
async fn guests_are_run_one_by_one() {
    let host = Host::new().unwrap();
    let runs = async |promise, limits: Limits| -> [Attempted; 2] {
        let case = corpus().into_iter().find(|case| case.promise() == promise).unwrap();
        let attempt = case.load(&host, &limits).await.unwrap();
        [attempt.run().await, attempt.run().await]
    };
    for (promise, kind) in [(Promise::Deadline, ErrorKind::TimedOut), (Promise::ComponentBytes, ErrorKind::TooComplex)]
    {
        for attempted in runs(promise, quick()).await {
            assert_eq!(attempted.kind, Some(kind), "{attempted:?}");
            assert!(attempted.broken.iter().all(|(promise, _)| *promise == Promise::Punctual), "{attempted:?}");
        }
    }
    for attempted in runs(Promise::Log, quick().log(UNLIMITED)).await {
        assert_eq!(attempted.broken[0].0, Promise::Log, "{attempted:?}");
    }
}

/// One guest for each promise, and all for that one.
fn few(promise: Promise) -> impl Fn(&Case) -> bool + Send + 'static {
    let corpus = corpus();
    let first = move |case: &Case| corpus.iter().find(|other| other.promise() == case.promise()).map(Case::name);
    move |case| case.promise() == promise || first(case) == Some(case.name())
}

/// With one limit off and all others on, that one is found not held, and no other.
#[test]
fn each_limit_that_is_off_is_found() {
    if !alone("each_limit_that_is_off_is_found") {
        return;
    }
    let ever = Duration::MAX;
    for (promise, limits) in [
        (Promise::Deadline, quick().deadline(ever).queue_wait(ms(200))),
        (Promise::Fuel, Limits::default().deadline(ms(200)).fuel(UNLIMITED)),
        (Promise::Memory, quick().memory(UNLIMITED)),
        (Promise::Input, quick().input(UNLIMITED)),
        (Promise::Transfer, quick().transfer(UNLIMITED)),
        (Promise::Log, quick().log(UNLIMITED)),
        (Promise::Handles, quick().handles(u32::MAX)),
        (Promise::HostCalls, quick().host_calls(UNLIMITED)),
        (Promise::Random, quick().random_bytes(UNLIMITED)),
        (Promise::Concurrency, quick().concurrency(u32::MAX)),
        (Promise::Queue, quick().queue(u32::MAX)),
        (Promise::Depth, quick().depth(u32::MAX)),
        (Promise::Calls, quick().calls(u32::MAX)),
    ] {
        let report = run(prove(&host()).limits(limits).only(few(promise)));
        assert_eq!(broken(&report), [promise]);
    }
    // These cannot be off while others are on, which are left out.
    for (promise, others, limits) in [
        (Promise::Busy, [Promise::Deadline, Promise::QueueWait], quick().deadline(ever).busy(ever)),
        (Promise::QueueWait, [Promise::Deadline, Promise::Busy], quick().deadline(ever)),
        (Promise::Output, [Promise::Transfer; 2], quick().output(UNLIMITED)),
    ] {
        let few = few(promise);
        let only = move |case: &Case| few(case) && !others.contains(&case.promise());
        assert_eq!(broken(&run(prove(&host()).limits(limits).only(only))), [promise]);
    }
}

#[test]
fn each_load_limit_that_is_off_is_found() {
    if !alone("each_load_limit_that_is_off_is_found") {
        return;
    }
    let strict = || LoadLimits::from(Trust::Untrusted);
    for (promise, limits) in [
        (Promise::ComponentBytes, strict().component_bytes(UNLIMITED)),
        (Promise::Functions, strict().functions(u32::MAX)),
        (Promise::CoreInstances, strict().core_instances(LoadLimits::MAX_INSTANCES)),
        (Promise::Adapters, strict().adapters(u32::MAX)),
        (Promise::Nesting, strict().nesting(u32::MAX)),
        (Promise::Values, strict().values(UNLIMITED)),
    ] {
        let proof = prove(&host()).limits(quick()).load_limits(limits).only(few(promise));
        assert_eq!(broken(&run(proof)), [promise]);
    }
}

/// What the engine holds cannot be off. Found is a guest that comes through with what it tried: here, one that does
/// nothing has its place.
#[test]
fn guests_that_nothing_stops_are_found() {
    if !alone("guests_that_nothing_stops_are_found") {
        return;
    }
    const ANSWERS: &str = r#"(component
        (core module $m (func (export "run") (result i32) (i32.const 7)))
        (core instance $i (instantiate $m))
        (func (export "run") (result u32) (canon lift (core func $i "run"))))"#;
    const PANICS: &str = r#"(component
        (import "say" (func (param "s" string)))
        (core module $m (func (export "run")))
        (core instance $i (instantiate $m))
        (func (export "run") (canon lift (core func $i "run"))))"#;
    for (promise, wat) in
        [(Promise::Invalid, "(component)"), (Promise::Abi, ANSWERS), (Promise::Trap, ANSWERS), (Promise::Panic, PANICS)]
    {
        let proof = prove(&host()).limits(quick()).only(few(promise));
        let through = move |case: &Case, builder: FunctionBuilder| match case.promise() == promise {
            true => builder.component_wat(wat),
            false => builder,
        };
        let report = run(proof.with(through));
        assert_eq!(broken(&report), [promise], "{report}");
    }
}

/// The same for scripts: each limit off, and one that does nothing in the place of others.
#[test]
fn scripts_that_nothing_stops_are_found() {
    if !alone("scripts_that_nothing_stops_are_found") {
        return;
    }
    let host = host();
    let scripts = |promise| move |case: &Case| is_script(case) && case.promise() == promise;
    let ever = Duration::MAX;
    for (promise, limits) in [
        (Promise::Deadline, quick().deadline(ever).busy(ever)),
        (Promise::Memory, quick().memory(UNLIMITED)),
        (Promise::Transfer, quick().transfer(UNLIMITED)),
        (Promise::Log, quick().log(UNLIMITED)),
        (Promise::HostCalls, quick().host_calls(UNLIMITED)),
        (Promise::Depth, quick().depth(u32::MAX)),
    ] {
        let report = run(prove(&host).limits(limits).only(scripts(promise)));
        assert_eq!(broken(&report), [promise], "{report}");
    }
    let ours = [Promise::Output, Promise::Sources, Promise::Trap, Promise::Text, Promise::Fresh, Promise::Resident];
    let proof = prove(&host).limits(quick()).only(move |case| is_script(case) && ours.contains(&case.promise()));
    let harmless = "export default () => 1";
    let report = run(proof.with_script(move |_, _| host.script("harmless", Language::JavaScript, harmless)));
    assert_eq!(broken(&report), ours, "{report}");
}

#[test]
fn instances_that_are_used_again_are_found() {
    if alone("instances_that_are_used_again_are_found") {
        let proof = prove(&host()).limits(quick()).reuse(Reuse::within_tenant());
        assert_eq!(broken(&run(proof.only(few(Promise::Fresh)))), [Promise::Fresh]);
    }
}

#[test]
fn a_host_without_a_compile_worker_is_found() {
    if alone("a_host_without_a_compile_worker_is_found") {
        let proof = prove(&Host::new().unwrap()).limits(quick());
        let report = run(proof.only(few(Promise::Trap)));
        assert_eq!(broken(&report), [Promise::Compiling]);
        let finding = report.findings.iter().find(|finding| finding.promise == Promise::Compiling).unwrap();
        assert!(finding.faults[0].contains("`isopod::compile_worker()`"), "{report}");
    }
}

#[test]
fn components_that_are_ones_own_are_found() {
    if alone("components_that_are_ones_own_are_found") {
        let proof = prove(&host()).limits(quick()).load_limits(Trust::Own.into());
        let found = broken(&run(proof.only(few(Promise::Trap))));
        assert!(found.contains(&Promise::Compiling), "{found:?}");
    }
}

/// A host with one seat, one of which others have some, and one that is full.
#[test]
fn hosts_that_are_small_or_busy_are_told_the_truth() {
    if !alone("hosts_that_are_small_or_busy_are_told_the_truth") {
        return;
    }
    let worker = || CompileWorker::program(env!("CARGO_BIN_EXE_isopod-compile-worker"));
    let host = |seats| Host::builder().compile_worker(worker()).seats(seats).build().unwrap();
    let report = run(prove(&host(1)).limits(quick()));
    assert_eq!(broken(&report), []);
    for promise in [Promise::Concurrency, Promise::Depth, Promise::Calls] {
        assert_eq!(report.about(promise).unwrap().cases, 0, "{report}");
    }
    assert_eq!(report.to_string().matches("not tried").count(), 3, "{report}");

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for (taken, expected) in [(3, vec![]), (8, vec![Promise::Neighbours])] {
        let host = host(8);
        let limits = Limits::default().concurrency(taken).deadline(Duration::MAX);
        let others = host.function("others").component_wat(support::WAITS).limits(limits);
        let others = others.import("", "wait", async |_, ()| std::future::pending::<()>().await);
        let others = others.load_blocking().unwrap();
        for n in 0..taken {
            let others = others.tenant(format!("tenant {n}"));
            runtime.spawn(async move { others.call::<()>("run", ()).await });
        }
        while host.free_seats() > 8 - taken {
            std::thread::yield_now();
        }
        let report = run(prove(&host).limits(quick()).only(few(Promise::Trap)));
        assert_eq!(broken(&report), expected);
        assert_eq!(report.rounds, u32::from(expected.is_empty()));
    }
}

/// What is granted beyond what a guest is to have is found: that is what the assertions look at.
#[test]
fn what_is_granted_by_mistake_is_found() {
    if !alone("what_is_granted_by_mistake_is_found") {
        return;
    }
    for (promise, name, grant) in [
        (Promise::Grants, "the host's environment", Grant::from(Env::var("A", "1"))),
        (Promise::Grants, "a clock that counts cycles", Clocks::fine().into()),
        (Promise::Network, "other names of this machine", Http::to("http://127.0.0.1").into()),
        (Promise::Quota, "another bucket", KeyValue::bucket("isopod-secret").into()),
    ] {
        let proof = prove(&host()).limits(quick()).only(move |case| case.name() == name);
        let report = run(proof.with(move |_, builder| builder.grant(grant.clone())));
        assert_eq!(broken(&report), [promise], "{name}");
    }
    for (promise, name, grant) in [
        (Promise::Grants, "script: keys that nobody granted", Grant::from(KeyValue::bucket("x"))),
        (Promise::Network, "script: other names of this machine", Http::to("http://127.0.0.1").into()),
        (Promise::Quota, "script: another bucket", KeyValue::bucket("isopod-secret").into()),
    ] {
        let proof = prove(&host()).limits(quick()).only(move |case| case.name() == name);
        let report = run(proof.with_script(move |_, builder| builder.grant(grant.clone())));
        assert_eq!(broken(&report), [promise], "{name}");
    }
    let proof = prove(&host()).limits(quick()).only(|case| case.name() == "script: code of texts");
    assert_eq!(broken(&run(proof.with_script(|_, builder| builder.eval()))), [Promise::Grants]);
}

/// What an embedder's own code does to the calls of a host: told of each call's end, it does harm.
struct Harm(Box<dyn Fn(&Receipt<'_>) + Send + Sync>);

impl Meter for Harm {
    fn record(&self, receipt: &Receipt<'_>) {
        (self.0)(receipt);
    }
}

fn harmed(harm: impl Fn(&Receipt<'_>) + Send + Sync + 'static) -> Host {
    let worker = CompileWorker::program(env!("CARGO_BIN_EXE_isopod-compile-worker"));
    Host::builder().compile_worker(worker).meter(Harm(Box::new(harm))).build().unwrap()
}

/// Each of these is found by what the harness measures beside the guests, whatever they do.
#[test]
fn what_holds_threads_memory_and_seats_is_found() {
    if !alone("what_holds_threads_memory_and_seats_is_found") {
        return;
    }
    let traps = |case: &Case| case.name().contains("trap") && case.promise() == Promise::Trap;
    let blocked = harmed(|receipt| match receipt.error {
        Some(ErrorKind::TimedOut) => std::thread::sleep(ms(300)),
        Some(_) => std::thread::sleep(ms(50)),
        None => {}
    });
    let many = |case: &Case| case.promise() == Promise::Abi || case.name() == "loop in an export";
    let found = run(prove(&blocked).limits(quick()).only(many)).broken();
    assert!(found.contains(&Promise::Punctual) && found.contains(&Promise::Neighbours), "{found:?}");

    let kept = Mutex::new(Vec::new());
    let leaks = harmed(move |receipt| {
        let mut kept = kept.lock().unwrap();
        if receipt.error.is_some() && kept.len() < 20 {
            kept.push(vec![1_u8; 80 << 20]);
        }
    });
    let found = run(prove(&leaks).limits(quick()).only(traps)).broken();
    assert!(found.contains(&Promise::Resident), "{found:?}");

    // A call that fails starts another, which takes its seat and does not end.
    let function = Arc::new(OnceLock::<Function>::new());
    let waits = Arc::clone(&function);
    let host = harmed(move |receipt| {
        if let Some(function) = waits.get().cloned()
            && receipt.error == Some(ErrorKind::Trapped)
        {
            tokio::spawn(async move { function.call::<()>("run", ()).await });
        }
    });
    let builder = host.function("waits").component_wat(support::WAITS).limits(Limits::default().concurrency(1_000));
    let builder = builder.import("", "wait", async |_, ()| std::future::pending::<()>().await);
    function.set(builder.load_blocking().unwrap()).unwrap();
    let found = run(prove(&host).limits(quick()).only(traps)).broken();
    assert!(found.contains(&Promise::Seats), "{found:?}");
}
