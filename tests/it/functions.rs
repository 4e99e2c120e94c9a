//! Calls of functions by functions: what they are granted, what they inherit, where they end.

use crate::support::{Book, alone, built, resident, text};
use isopod::{CallOptions, ErrorKind, Function, Functions, Host, Limits, Meter, Receipt, Reply, ms};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

type Answer = Result<String, String>;

async fn caller(host: &Host, name: &str, limits: Limits, grants: &[&str]) -> Function {
    let builder = host.function(name).component_file(built("caller")).limits(limits).callable();
    grants.iter().fold(builder, |builder, grant| builder.grant(Functions::named(*grant))).load().await.unwrap()
}

async fn call(function: &Function, callee: &str, export: &str, args: Value, times: u32) -> Reply<Answer> {
    let args = (callee, export, args.to_string(), times);
    function.call::<Answer>("call", args).await.unwrap_or_else(|e| panic!("{e:?}"))
}

/// Arguments for `call` that make it call `export` of `callee` in turn.
fn then(callee: &str, export: &str, args: Value, times: u32) -> Value {
    json!([callee, export, args.to_string(), times])
}

/// The function, the tenant, the depth, and whether it is a root.
type Entry = (String, String, u32, bool);

#[derive(Clone, Default)]
struct Tree(Arc<Mutex<Vec<Entry>>>);

impl Meter for Tree {
    fn record(&self, receipt: &Receipt<'_>) {
        let rooted = receipt.call_id == receipt.root_id;
        let entry = (receipt.function.to_owned(), receipt.tenant.to_owned(), receipt.depth, rooted);
        self.0.lock().unwrap().push(entry);
    }
}

#[tokio::test]
async fn a_function_calls_another_for_the_same_tenant() {
    let tree = Tree::default();
    let host = Host::builder().meter(tree.clone()).build().unwrap();
    let stats = host.function("stats").component_file(built("json-transform")).callable().load().await.unwrap();
    let export = stats.exports()[0].name().to_owned();
    let first = caller(&host, "first", Limits::default(), &["stats", "work"]).await;
    let _work = caller(&host, "work", Limits::default(), &["stats"]).await;

    let args = json!([r#"{"a":{"b":1}}"#]);
    let reply = call(&first.tenant("acme"), "stats", &export, args.clone(), 1).await;
    let answer: Value = serde_json::from_str(reply.value.as_ref().unwrap()).unwrap();
    assert!(answer.to_string().contains("a.b"), "{answer}");
    assert!(reply.denials().is_empty() && reply.usage.host_calls >= 1);
    let told = std::mem::take(&mut *tree.0.lock().unwrap());
    let entry = |name: &str, depth, rooted| (name.to_owned(), "acme".to_owned(), depth, rooted);
    assert_eq!(told, [entry("stats", 1, false), entry("first", 0, true)]);

    let two_deep = then("stats", &export, args, 1);
    let reply = call(&first, "work", "call", two_deep, 1).await;
    assert!(reply.value.unwrap().contains("a.b"));
    let depths: Vec<u32> = tree.0.lock().unwrap().iter().map(|entry| entry.2).collect();
    assert_eq!(depths, [2, 1, 0]);
}

#[tokio::test]
async fn only_what_is_granted_can_be_called() {
    let host = Host::new().unwrap();
    let secret = caller(&host, "secret", Limits::default(), &["secret"]).await;
    let first = caller(&host, "first", Limits::default(), &["secrets", "gone"]).await;
    let reply = call(&first, "secret", "work", json!([1]), 1).await;
    assert!(reply.value.as_ref().unwrap_err().contains("Denied"), "{:?}", reply.value);
    let denial = &reply.denials()[0];
    assert!(denial.rule().contains("the nearest is \"secrets\""), "{}", denial.explain());
    assert_eq!(denial.allow_toml(), Some("functions = [\"secret\"]"));
    assert_eq!(host.denials().len(), 1);

    let reply = call(&first, "gone", "work", json!([1]), 1).await;
    assert!(reply.value.unwrap_err().contains("has no callable function \\\"gone\\\" now"));
    drop(secret);
    let _hidden = host.function("gone").component_file(built("json-transform")).load().await.unwrap();
    let reply = call(&first, "gone", "work", json!([1]), 1).await;
    assert!(reply.value.unwrap_err().contains("no callable function"), "its name alone lets nobody call it");
    let error = host.function("f").component_file(built("caller")).load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UngrantedImport);
    assert!(text(&error).contains("Functions::named"), "{error}");
    let twice = host.function("f").component_file(built("caller"));
    let twice = twice.grant(Functions::named("a")).grant(Functions::named("a")).load().await.unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::Misuse);
}

#[tokio::test]
async fn what_does_not_fit_is_an_error_to_the_guest() {
    let host = Host::new().unwrap();
    let first = caller(&host, "first", Limits::default(), &["first"]).await;
    for (export, args, says) in [
        ("work", json!(["no number"]), "Invalid"),
        ("work", json!([]), "Invalid"),
        ("missing", json!([]), "Invalid"),
        ("fail", json!([]), "Failed"),
    ] {
        let error = call(&first, "first", export, args, 1).await.value.unwrap_err();
        assert!(error.contains(says), "{export}: {error}");
    }
    let bomb = format!("[[{}0]]", "0,".repeat(20_000));
    let bomb: Answer = first.call("call", ("first", "work", bomb, 1)).await.unwrap().value;
    assert!(bomb.unwrap_err().contains("more than 16384 values"));
    let no_json: Answer = first.call("call", ("first", "work", "{", 1)).await.unwrap().value;
    assert!(no_json.unwrap_err().contains("the arguments are no JSON"));
}

#[tokio::test]
async fn cycles_end_at_the_depth() {
    let host = Host::new().unwrap();
    let book = Book::default();
    let metered = Host::builder().meter(book.clone()).build().unwrap();
    let a = caller(&metered, "a", Limits::default(), &["a", "b"]).await;
    let _b = caller(&metered, "b", Limits::default(), &["a"]).await;
    let nest = |callees: &[&str]| {
        callees.iter().rev().fold(json!([1]), |inner, callee| {
            let export = if inner == json!([1]) { "work" } else { "call" };
            then(callee, export, inner, 1)
        })
    };
    // The default is 8 below the first.
    for (callees, ends) in [(vec!["a"; 8], true), (vec!["a"; 9], false), (["b", "a"].repeat(5), false)] {
        let reply = call(&a, callees[0], "call", nest(&callees[1..]), 1).await;
        let deepest = reply.value.unwrap_or_else(|e| e);
        assert_eq!(!deepest.contains("Exceeded"), ends, "{}: {deepest}", callees.len());
        book.take();
    }
    let shallow = caller(&host, "a", Limits::default().depth(0), &["a"]).await;
    let error = call(&shallow, "a", "work", json!([1]), 1).await.value.unwrap_err();
    assert!(error.contains("Exceeded") && error.contains("Limits::depth"), "{error}");
}

#[tokio::test]
async fn fan_out_ends_at_the_calls_of_the_tree() {
    let book = Book::default();
    let host = Host::builder().meter(book.clone()).build().unwrap();
    let limits = Limits::default().calls(10);
    let a = caller(&host, "a", limits, &["a"]).await;
    // Three calls that make five calls each would be 18.
    let five = then("a", "work", json!([1]), 5);
    let error = call(&a, "a", "call", five, 3).await.value.unwrap_or_else(|e| e);
    assert!(error.contains("Exceeded") && error.contains("Limits::calls"), "{error}");
    assert_eq!(book.take().len(), 11, "ten calls and their first");
    let exact = call(&a, "a", "work", json!([1]), 10).await;
    assert!(exact.value.is_ok(), "the next tree has calls of its own");
}

#[tokio::test]
async fn the_time_of_the_first_is_the_time_of_all() {
    let host = Host::new().unwrap();
    let slow = Limits::default().deadline(ms(60_000)).busy(ms(60_000));
    let _spinner = caller(&host, "spinner", slow, &["spinner"]).await;
    let busy = caller(&host, "busy", Limits::default().busy(ms(50)), &["spinner"]).await;
    let error = busy.call::<Answer>("call", ("spinner", "spin", "[]", 1)).await.unwrap_err();
    assert!(error.kind() == ErrorKind::TimedOut && text(&error).contains("busy time"), "{error}");

    let limits = Limits::default().deadline(ms(100)).busy(ms(100));
    let short = caller(&host, "short", limits, &["spinner"]).await;
    let started = std::time::Instant::now();
    let error = short.call::<Answer>("call", ("spinner", "spin", "[]", 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(started.elapsed() < ms(5_000));

    let callee = Limits::default().busy(ms(20));
    let _quick = caller(&host, "quick", callee, &["quick"]).await;
    let first = caller(&host, "first", Limits::default(), &["quick"]).await;
    let error = call(&first, "quick", "spin", json!([]), 1).await.value.unwrap_err();
    assert!(error.contains("TimedOut"), "its own limits hold as well: {error}");
}

#[tokio::test]
async fn the_fuel_of_the_first_is_the_fuel_of_all() {
    let host = Host::new().unwrap();
    let worker = async |name: &str, fuel: u64| caller(&host, name, Limits::default().fuel(fuel), &["worker"]).await;
    let _worker = worker("worker", 50_000_000).await;
    let first = worker("first", 5_000_000).await;
    let small = call(&first, "worker", "work", json!([1_000]), 1).await;
    let large = call(&first, "worker", "work", json!([100_000]), 1).await;
    let used = large.usage.fuel.unwrap() - small.usage.fuel.unwrap();
    assert!(large.value.is_ok() && used > 100_000, "{used}");
    let ended = first.call::<Answer>("call", ("worker", "work", "[4000000]", 1)).await;
    let ended = ended.map(|reply| reply.value);
    assert!(
        matches!(&ended, Err(error) if error.kind() == ErrorKind::OutOfFuel),
        "the callee used up what the first had: {ended:?}"
    );
    // A callee that is metered by time costs the first as well, a unit for each nanosecond.
    let _timed = caller(&host, "worker", Limits::default(), &["worker"]).await;
    let timed = call(&first, "worker", "work", json!([400_000]), 1).await;
    let used = timed.usage.fuel.unwrap() - small.usage.fuel.unwrap().min(timed.usage.fuel.unwrap());
    assert!(used > 50_000, "{used}");
}

#[tokio::test]
async fn a_call_by_a_function_does_not_wait_for_a_seat() {
    let host = Host::builder().seats(1).build().unwrap();
    let a = caller(&host, "a", Limits::default(), &["a"]).await;
    let error = call(&a, "a", "work", json!([1]), 1).await.value.unwrap_err();
    assert!(error.contains("Overloaded"), "{error}");
}

#[tokio::test]
async fn another_tenant_needs_a_grant_and_tells_little() {
    let tree = Tree::default();
    let host = Host::builder().meter(tree.clone()).build().unwrap();
    let _platform = caller(&host, "platform", Limits::default(), &["platform"]).await;
    let builder = host.function("first").component_file(built("caller"));
    let first = builder.grant(Functions::named("platform").for_tenant("us")).load().await.unwrap().tenant("acme");
    let error = call(&first, "platform", "fail", json!([]), 1).await.value.unwrap_err();
    assert_eq!(error, "Error::Failed(\"it ended as Trapped\")");
    let told: Vec<_> = tree.0.lock().unwrap().iter().map(|(name, tenant, ..)| format!("{name} {tenant}")).collect();
    assert_eq!(told, ["platform us", "first acme"]);
}

#[tokio::test]
async fn dropping_the_first_ends_all() {
    let book = Book::default();
    let host = Host::builder().meter(book.clone()).build().unwrap();
    let a = caller(&host, "a", Limits::default(), &["a"]).await;
    let mut call = Box::pin(a.call::<Answer>("call", ("a", "spin", "[]", 1)));
    while !format!("{host:?}").contains("free_seats: 998") {
        let pending = std::future::poll_fn(|cx| std::task::Poll::Ready(call.as_mut().poll(cx).is_pending())).await;
        assert!(pending);
    }
    drop(call);
    let ended: Vec<_> = book.take().into_iter().map(|(_, error)| error).collect();
    assert_eq!(ended, [Some(ErrorKind::Cancelled); 2]);
}

/// A component that imports an interface and hands on what it says.
const ASKS: &str = r#"(component
    (import "acme:tools/sums@0.2.1" (instance $sums
        (export "add" (func (param "a" u32) (param "b" u32) (result u32)))
        (export "fail" (func))))
    (core module $m (import "sums" "add" (func $add (param i32 i32) (result i32))) (import "sums" "fail" (func $fail))
        (func (export "run") (param i32) (result i32) (call $add (local.get 0) (i32.const 40)))
        (func (export "fail") (call $fail)))
    (core func $add (canon lower (func $sums "add")))
    (core func $fail (canon lower (func $sums "fail")))
    (core instance $in (export "add" (func $add)) (export "fail" (func $fail)))
    (core instance $i (instantiate $m (with "sums" (instance $in))))
    (func (export "run") (param "n" u32) (result u32) (canon lift (core func $i "run")))
    (func (export "fail") (canon lift (core func $i "fail"))))"#;

/// A component that exports that interface, of another version.
const SERVES: &str = r#"(component
    (core module $m
        (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
        (func (export "fail") unreachable))
    (core instance $i (instantiate $m))
    (func $add (param "a" u32) (param "b" u32) (result u32) (canon lift (core func $i "add")))
    (func $fail (canon lift (core func $i "fail")))
    (instance $sums (export "add" (func $add)) (export "fail" (func $fail)))
    (export "acme:tools/sums@0.2.0" (instance $sums)))"#;

#[tokio::test]
async fn a_function_serves_an_interface_with_its_types() {
    let tree = Tree::default();
    let host = Host::builder().meter(tree.clone()).build().unwrap();
    let serves = host.function("sums").component_wat(SERVES).callable().load().await.unwrap();
    let load = async |grant: Functions| host.function("asks").component_wat(ASKS).grant(grant).load().await;
    for interface in ["acme:tools/sums", "acme:tools/sums@0.2.1"] {
        let asks = load(Functions::named("sums").serving(interface)).await.unwrap().tenant("acme");
        assert_eq!(asks.call::<u32>("run", (2,)).await.unwrap().value, 42);
    }
    let told = std::mem::take(&mut *tree.0.lock().unwrap());
    assert_eq!(told[0], ("sums".to_owned(), "acme".to_owned(), 1, false));

    let asks = load(Functions::named("sums").serving("acme:tools/sums")).await.unwrap();
    let error = asks.call::<()>("fail", ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Trapped);
    assert!(text(&error).contains("it called another function: function \"sums\""), "{error}");
    drop(serves);
    let error = asks.call::<u32>("run", (2,)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.denials()[0].rule().contains("no callable function"), "{error:?}");

    let twice = host.function("asks").component_wat(ASKS).grant(Functions::named("sums").serving("acme:tools/sums"));
    let twice = twice.grant(Functions::named("other").serving("acme:tools/sums@0.2.1")).load().await.unwrap_err();
    assert!(twice.kind() == ErrorKind::Misuse && text(&twice).contains("from an earlier grant"), "{twice}");
    let other = load(Functions::named("sums").serving("acme:tools/others")).await.unwrap_err();
    assert!(other.kind() == ErrorKind::Misuse && text(&other).contains("no effect"), "{other}");
    let none = host.function("asks").component_wat(ASKS).load().await.unwrap_err();
    assert_eq!(none.kind(), ErrorKind::UngrantedImport);
}

/// The caller's own types must not make gigabytes of a small answer, nor its arguments megabytes of the host's values.
#[tokio::test]
async fn types_of_the_caller_do_not_unfold_the_answer() {
    if !alone("functions::types_of_the_caller_do_not_unfold_the_answer", "") {
        return;
    }
    let host = Host::new().unwrap();
    let wide = |result: &str, lift: &str| {
        format!(
            r#"(component
                (core module $m (memory (export "m") 1) (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
                    (func (export "f") (result i32) (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 1000)) (i32.const 0)))
                (core instance $i (instantiate $m))
                (alias core export $i "m" (core memory $mem))
                {result}
                (func $f (result $list) (canon lift (core func $i "f") (memory $mem) {lift}))
                (instance $lists (export "item" (type $item)) (export "f" (func $f)))
                (export "acme:tools/lists" (instance $lists)))"#
        )
    };
    let serves = wide(r#"(type $item (record (field "a" u8))) (type $list (list $item))"#, "");
    let _serves = host.function("lists").component_wat(serves).callable().load().await.unwrap();
    let names: String = (0..40).map(|n| format!(r#"(field "{}{n}" (option u8))"#, "x".repeat(30_000))).collect();
    let asks = format!(
        r#"(component
            (import "acme:tools/lists" (instance $lists
                (type $item' (record (field "a" u8) {names})) (export "item" (type $item (eq $item')))
                (export "f" (func (result (list $item))))))
            (core module $libc (memory (export "m") 100) (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
            (core instance $libc (instantiate $libc))
            (alias core export $libc "m" (core memory $mem))
            (alias core export $libc "realloc" (core func $realloc))
            (core func $f (canon lower (func $lists "f") (memory $mem) (realloc $realloc)))
            (core module $m (import "l" "f" (func $f (param i32))) (func (export "run") (call $f (i32.const 0))))
            (core instance $in (export "f" (func $f)))
            (core instance $i (instantiate $m (with "l" (instance $in))))
            (func (export "run") (canon lift (core func $i "run"))))"#
    );
    let asks = host.function("asks").component_wat(asks);
    let asks = asks.grant(Functions::named("lists").serving("acme:tools/lists")).load().await.unwrap();
    let before = resident();
    let error = asks.call::<()>("run", ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded(isopod::Limit::Input), "{error}");
    assert!(resident() < before + 100 * 1024, "nothing was unfolded");
}
