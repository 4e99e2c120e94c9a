//! Snapshots of scripts: the top level runs once, calls begin with what it left, and nothing of one call is in another.

use isopod::{
    BoxFuture, Clocks, Config, ErrorKind, Function, Host, Interpreter, KIB, KeyValue, Language, Limits, ScriptBuilder,
    TimeSource,
};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

/// One for all tests: the interpreter is compiled once.
static HOST: LazyLock<Host> = LazyLock::new(|| Host::new().unwrap());

fn script(source: &str) -> ScriptBuilder {
    HOST.script("rule", Language::JavaScript, source).snapshot()
}

async fn loaded(source: &str) -> Function {
    script(source).load().await.unwrap()
}

async fn give(rule: &Function, input: Value) -> Value {
    rule.call::<Value>("default", (input,)).await.unwrap().value
}

#[tokio::test]
async fn calls_begin_where_the_top_level_ended_and_leave_nothing() {
    let source = r#"
        let calls = 0;
        const table = new Map(), weak = new WeakMap(), key = {};
        for (let i = 0; i < 1000; i++) table.set("key" + i, { square: i * i, big: BigInt(i) ** 20n });
        weak.set(key, 7);
        class Tax { #rate = 0.5; static count = 3; apply(x) { return x * this.#rate } }
        const tax = new Tax(), pattern = /^(\d+)-(\w+)$/u, list = [1, 2, 3];
        const counter = (function* () { for (let i = 0; ; i++) yield i })();
        counter.next();
        await null;
        export default function ({ n }) {
            calls++;
            list.push(4);
            table.delete("key1");
            Array.prototype.stolen = Object.prototype.stolen = 1;
            return [calls, list.length, table.size, table.get("key" + n).square, String(table.get("key3").big), tax.apply(8),
                Tax.count++, pattern.exec("12-ab")[2], counter.next().value, weak.get(key), typeof {}.stolen];
        }"#;
    let rule = loaded(source).await;
    let expected = json!([1, 4, 999, 998_001, "3486784401", 4, 3, "ab", 1, 7, "number"]);
    for _ in 0..3 {
        assert_eq!(give(&rule, json!({"n": 999})).await, expected);
    }
    // The same as without one.
    let plain = HOST.script("rule", Language::JavaScript, source).load().await.unwrap();
    assert_eq!(give(&plain, json!({"n": 999})).await, expected);
}

#[tokio::test]
async fn a_state_for_which_memory_grew_is_kept() {
    let source = r#"
        const texts = Array.from({ length: 5000 }, (_, i) => "text " + i);
        const bytes = new Uint8Array(1 << 20).fill(7);
        export default (i) => {
            const more = Array.from({ length: 5000 }, (_, i) => [i]);
            return [texts[i], texts.length, bytes.indexOf(0), bytes.lastIndexOf(7), more.length];
        }"#;
    let rule = loaded(source).await;
    for i in [0, 4_999] {
        assert_eq!(give(&rule, json!(i)).await, json!([format!("text {i}"), 5_000, -1, (1 << 20) - 1, 5_000]));
    }
    let memory = rule.call::<Value>("default", (0,)).await.unwrap().usage.peak_memory;
    let error = script(source).limits(Limits::default().memory(memory / 4)).load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    assert!(error.to_string().contains("Limits::memory"), "{error}");
}

#[tokio::test]
async fn a_state_that_lies_scattered_is_kept() {
    let source = r#"
        const bytes = new Uint8Array(2 << 20);
        for (let at = 0; at < bytes.length; at += 512) bytes[at] = 1;
        export default () => [bytes.reduce((sum, byte) => sum + byte), bytes.lastIndexOf(1)];"#;
    assert_eq!(give(&loaded(source).await, json!(0)).await, json!([4096, (2 << 20) - 512]));
}

/// A clock that the test sets.
struct Hand(Arc<AtomicU64>);

impl TimeSource for Hand {
    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.monotonic()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::Relaxed))
    }

    fn sleep_until(&self, _: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

#[tokio::test]
async fn what_the_top_level_saw_is_frozen_and_the_rest_is_not() {
    let seconds = Arc::new(AtomicU64::new(1_000));
    let source = "const then = Date.now(), drawn = Math.random(), id = crypto.randomUUID();
        export default () => [then, Date.now(), drawn, id, Math.random(), crypto.randomUUID()]";
    let rule = script(source).grant(Clocks::by(Hand(Arc::clone(&seconds)))).load().await.unwrap();
    seconds.store(1_005, Ordering::Relaxed);
    let mut seen = HashSet::new();
    let first = give(&rule, Value::Null).await;
    assert_eq!((&first[0], &first[1]), (&json!(1_000_000), &json!(1_005_000)));
    for _ in 0..20 {
        let next = give(&rule, Value::Null).await;
        assert_eq!((&next[0], &next[2], &next[3]), (&first[0], &first[2], &first[3]), "the top level runs once");
        assert!(seen.insert(next[4].to_string()) && seen.insert(next[5].to_string()), "{next}");
    }
}

#[tokio::test]
async fn calls_and_scripts_draw_numbers_of_their_own() {
    let mut seen = HashSet::new();
    for source in ["export default () => Math.random()", "const one = 1; export default () => Math.random() * one"] {
        let rule = loaded(source).await;
        for _ in 0..3 {
            assert!(seen.insert(give(&rule, Value::Null).await.to_string()), "{seen:?}");
        }
    }
}

#[tokio::test]
async fn a_top_level_that_sleeps_holds_up_no_other_script() {
    let host = Host::new().unwrap();
    let load = |source: &'static str| host.script("rule", Language::JavaScript, source);
    load("export default () => 1").snapshot().load().await.unwrap();
    let sleeping = "await new Promise(done => setTimeout(done, 1e9)); export default () => 1";
    let mut sleepers = futures_util::future::select_all((0..8).map(|_| Box::pin(load(sleeping).snapshot().load())));
    let other = async { load("export default () => 2").load().await?.call::<u32>("default", ()).await };
    tokio::select! {
        _ = &mut sleepers => panic!("one that sleeps ended before one that does not was loaded"),
        reply = other => assert_eq!(reply.unwrap().value, 2),
    }
    let error = sleepers.await.0.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert!(error.to_string().contains("remove `.snapshot()`"), "{error}");
}

#[tokio::test]
async fn the_top_level_reaches_nothing_and_the_function_what_it_is_granted() {
    let granted = |source: &str| script(source).grant(KeyValue::bucket("state")).grant(Config::var("vat", "0.19"));
    let rule = granted("const vat = config.get('vat'); export default () => [vat, config.get('vat')]").load().await;
    assert_eq!(give(&rule.unwrap(), json!(0)).await, json!(["0.19", "0.19"]), "the settings are always the same");
    let error = granted("const x = await kv.get('a');\nexport default () => x").load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Thrown, "{error}");
    assert!(error.to_string().contains("the top level, which a snapshot runs ahead of all calls"), "{error}");
    assert_eq!(error.exception().unwrap().line(), Some(1), "{error}");
    let rule = granted("export default async () => kv.increment('n')").load().await.unwrap();
    assert_eq!((give(&rule, Value::Null).await, give(&rule, Value::Null).await), (json!(1), json!(2)));
}

#[tokio::test]
async fn what_no_snapshot_can_keep_is_refused() {
    let cases = [
        ("setTimeout(() => {}, 1); export default () => 1", ErrorKind::InvalidScript, "under way"),
        ("throw new RangeError('no'); export default () => 1", ErrorKind::Thrown, "RangeError: no"),
        ("export default 7", ErrorKind::InvalidScript, "no function"),
        ("for (;;); export default () => 1", ErrorKind::TimedOut, "more"),
        (
            "let x = 1; const all = new Uint8Array(4 << 20).fill(++x); export default () => all",
            ErrorKind::OutputTooLarge,
            "4 MiB",
        ),
    ];
    for (source, kind, text) in cases {
        let error = script(source).load().await.map(drop).unwrap_err();
        assert_eq!(error.kind(), kind, "{source}: {error}");
        assert!(error.to_string().contains(text), "{source}: {error}");
    }
    let error = script("export default () => 1").prewarm(1).load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
}

#[tokio::test]
async fn an_update_runs_the_new_top_level() {
    let rule = loaded("const x = 1; export default () => x").await;
    assert_eq!(give(&rule, Value::Null).await, json!(1));
    rule.update("const x = 2; export default () => x").await.unwrap();
    assert_eq!(give(&rule, Value::Null).await, json!(2));
    let error = rule.update("throw 1; export default () => x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Thrown);
    assert_eq!(give(&rule, Value::Null).await, json!(2));
}

#[tokio::test]
async fn limits_and_errors_are_those_of_other_scripts() {
    let rule = script("export default ({ deep }) => {\n  if (deep) return deep.x.y;\n  for (;;);\n}");
    let rule = rule.limits(Limits::default().busy(Duration::from_millis(50))).load().await.unwrap();
    let error = rule.call::<Value>("default", (json!({"deep": {}}),)).await.unwrap_err();
    assert_eq!((error.kind(), error.exception().unwrap().line()), (ErrorKind::Thrown, Some(2)), "{error}");
    let error = rule.call::<Value>("default", (json!({}),)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");

    let source =
        "const m = new Map([['a', Math.random()]]); export default () => [m.get('a'), Math.random(), Date.now()]";
    let same = || script(source).deterministic(7).limits(Limits::default().fuel(50_000_000));
    let (first, second) = (same().load().await.unwrap(), same().load().await.unwrap());
    let [a, b, c] = [
        first.call::<Value>("default", (0,)).await.unwrap(),
        first.call::<Value>("default", (0,)).await.unwrap(),
        second.call::<Value>("default", (0,)).await.unwrap(),
    ];
    assert_eq!((&a.value, a.usage.fuel), (&b.value, b.usage.fuel));
    assert_eq!((&a.value, a.usage.fuel), (&c.value, c.usage.fuel));
}

#[tokio::test]
async fn an_interpreter_of_ones_own_runs_scripts() {
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/src/script/javascript.wasm")).unwrap();
    let own = Language::Of(Interpreter::new(bytes.clone()));
    assert_eq!(own, Language::Of(Interpreter::new(bytes)));
    let rule = HOST.script("own", own.clone(), "export default (x) => x + 1").load().await.unwrap();
    assert_eq!(give(&rule, json!(1)).await, json!(2));
    rule.update("export default (x) => x + 2").await.unwrap();
    assert_eq!(give(&rule, json!(1)).await, json!(3));
    let error = HOST.script("own", own.clone(), "").load().await.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().contains("export default")),
        (ErrorKind::InvalidScript, false),
        "{error}"
    );
    let error = HOST.script("own", own, "export default () => 1").snapshot().load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");

    let other = |bytes: Vec<u8>| HOST.script("own", Language::Of(Interpreter::new(bytes)), "x").load();
    assert_eq!(other(b"no".to_vec()).await.unwrap_err().kind(), ErrorKind::InvalidComponent);
    let stats = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/guests/built/text-stats.wasm")).unwrap();
    let error = other(stats).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongExport, "{error}");
    assert!(error.to_string().contains("isopod:script/interpreter"), "{error}");
    // One that takes less memory than it starts with.
    let small =
        HOST.script("rule", Language::JavaScript, "export default () => 1").limits(Limits::default().memory(64 * KIB));
    assert_eq!(small.snapshot().load().await.unwrap_err().kind(), ErrorKind::OutOfMemory);
}
