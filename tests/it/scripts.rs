//! Scripts: what they give, how they fail, what they cannot reach, and what is left of one for the next.

use futures_util::FutureExt;
use isopod::{
    CallOptions, Clocks, Env, Error, ErrorKind, Function, Functions, Host, KeyValue, Kind, Language, Level, Limit,
    Limits, MIB, Random, ScriptBuilder, ms,
};
use serde_bytes::{ByteBuf, Bytes};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::pin::pin;
use std::sync::LazyLock;
use std::time::SystemTime;

/// One for all tests: the interpreter is compiled once.
static HOST: LazyLock<Host> = LazyLock::new(|| Host::new().unwrap());

fn script(source: impl Into<Vec<u8>>) -> ScriptBuilder {
    HOST.script("rule", Language::JavaScript, source)
}

async fn loaded(source: impl Into<Vec<u8>>) -> Function {
    script(source).load().await.unwrap()
}

async fn run(source: &str, input: Value) -> Result<Value, Error> {
    Ok(loaded(source).await.call::<Value>("default", (input,)).await?.value)
}

/// What it gives without input.
async fn value(source: &str) -> Value {
    run(source, Value::Null).await.unwrap()
}

/// What an expression gives.
async fn eval(expression: &str) -> Value {
    value(&format!("export default () => {{ return {expression} }}")).await
}

async fn failure(source: &str) -> Error {
    run(source, Value::Null).await.unwrap_err()
}

async fn refusal(source: impl Into<Vec<u8>>) -> Error {
    script(source).load().await.map(drop).unwrap_err()
}

#[tokio::test]
async fn json_goes_in_and_out() {
    let source =
        "export default function (order) { return { total: order.items.reduce((sum, i) => sum + i.price, 0) } }";
    let rule = loaded(source).await;
    assert_eq!(rule.kind(), Kind::Script);
    assert!(rule.exports().is_empty());
    let reply = rule.call::<Value>("default", (json!({"items": [{"price": 3}, {"price": 4.5}]}),)).await.unwrap();
    assert_eq!(reply.value, json!({"total": 7.5}));
    assert!(reply.usage.cold && reply.usage.bytes_in > 30 && reply.usage.bytes_out > 10, "{:?}", reply.usage);
    assert!(reply.usage.peak_memory >= MIB / 2, "{:?}", reply.usage);
    assert_eq!(
        value("export default async () => { await null; return [1, 'é', null, true] }").await,
        json!([1, "é", null, true])
    );
    assert_eq!(run("export default x => x", json!("a\u{0}b")).await.unwrap(), json!("a\u{0}b"));
    assert_eq!(rule.call::<Value>("default", json!([{"items": []}])).await.unwrap().value, json!({"total": 0}));
}

#[tokio::test]
async fn json_that_is_text_stays_text() {
    let rule = loaded("export default x => x").await;
    let text = RawValue::from_string(r#"{"b":[1.0,"é"], "a":null}"#.into()).unwrap();
    let reply = rule.call::<Box<RawValue>>("default", (&text,)).await.unwrap();
    assert_eq!(reply.value.get(), r#"{"b":[1,"é"],"a":null}"#);
    let error = rule.call::<Box<RawValue>>("default", (&text, &text)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongArguments, "{error}");
}

#[tokio::test]
async fn bytes_go_in_and_out() {
    let rule =
        loaded("export default bytes => { if (!(bytes instanceof Uint8Array)) throw 1; return bytes.reverse() }").await;
    let reply = rule.call::<ByteBuf>("default", (Bytes::new(&[0, 255, 7]),)).await.unwrap();
    assert_eq!(reply.value.as_slice(), [7, 255, 0]);
    let reply = rule.call::<Value>("default", (Bytes::new(&[0, 255, 7]),)).await.unwrap();
    assert_eq!(reply.value, json!("B/8A"), "as text where text is asked for");
}

#[tokio::test]
async fn arguments_that_are_not_one_are_refused() {
    let rule = loaded("export default x => x").await;
    for args in [json!([1, 2]), json!({"input": 1}), json!("x")] {
        let error = rule.call::<Value>("default", &args).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongArguments, "{args}");
        assert!(error.to_string().contains(r#"call("default", (input,))"#), "{error}");
    }
    let error = rule.call::<Value>("run", (1,)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongExport);
    assert!(error.to_string().contains("\"default\""), "{error}");
    let error = rule.call::<u32>("default", ("text",)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Thrown, "{error}");
    assert!(error.to_string().contains("is not what the host asked for: invalid type: string"), "{error}");
    let small = script("export default x => x").limits(Limits::default().input(10)).load().await.unwrap();
    let error = small.call::<Value>("default", ("x".repeat(9),)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded(Limit::Input));
    assert!(small.call::<Value>("default", ("x".repeat(8),)).await.is_ok());
}

#[tokio::test]
async fn sources_that_cannot_run_say_what_to_write() {
    for (source, says) in [
        ("", "the source is empty; write `export default function (input) { .. }`"),
        (" \r\n\u{feff}\n", "no default export"),
        ("\u{feff}  \n", "the source is empty"),
        ("function f() {}", "no default export; write `export default function"),
        ("export const f = () => 1", "no default export"),
        ("import x from 'fs'; export default () => 1", "imports no other"),
        ("export default await import('fs')", "imports no other"),
        ("export default () => {", "SyntaxError"),
    ] {
        let error = match script(source).load().await {
            Err(error) => error,
            // Only running it shows that.
            Ok(rule) => rule.call::<Value>("default", ()).await.unwrap_err(),
        };
        let text = error.to_string();
        assert!(text.starts_with("function \"rule\": ") && text.contains(says), "{source:?}: {text}");
    }
    let error = refusal(vec![b'a', b'\n', 0xff]).await;
    assert_eq!(error.kind(), ErrorKind::InvalidScript);
    assert!(error.to_string().contains("not UTF-8: byte 2, in line 2"), "{error}");
    let error = refusal(format!("export default () => 1 //{}", "x".repeat(10 << 20))).await;
    assert_eq!(error.kind(), ErrorKind::InvalidScript);
    assert!(error.to_string().contains("more than 1048576"), "{error}");
}

#[tokio::test]
async fn a_syntax_error_has_its_place() {
    let error = refusal("\u{feff}const a = 1;\r\nexport default () => {\r\n  const é = ;\r\n}").await;
    assert_eq!(error.kind(), ErrorKind::InvalidScript);
    let exception = error.exception().unwrap();
    assert_eq!((exception.name(), exception.line()), ("SyntaxError", Some(3)), "{error}");
    assert_eq!(exception.excerpt(), "const é = ;");
}

#[tokio::test]
async fn a_default_export_that_is_no_function_fails_the_call() {
    for what in ["7", "{}", "(class {}).prototype", "null"] {
        let error = failure(&format!("export default {what}")).await;
        assert_eq!(error.kind(), ErrorKind::InvalidScript, "{what}");
        assert!(error.to_string().contains("no function; write `export default function"), "{error}");
    }
}

#[tokio::test]
async fn what_is_thrown_has_its_place() {
    let source = "const low = x => {\n    throw new RangeError('too low: ' + x);\n};\nexport default (x) => low(3);\n";
    for source in [source.to_owned(), source.replace("(x) => low", "async (x) => low"), source.replace('\n', "\r\n")] {
        let error = failure(&source).await;
        assert_eq!(error.kind(), ErrorKind::Thrown);
        let exception = error.exception().unwrap();
        assert_eq!((exception.name(), exception.message()), ("RangeError", "too low: 3"));
        assert_eq!((exception.line(), exception.excerpt()), (Some(2), "throw new RangeError('too low: ' + x);"));
        assert!(exception.column().is_some() && exception.stack()[0].starts_with("low (script:2:"), "{exception:?}");
        assert!(error.to_string().contains("RangeError: too low: 3, at line 2"), "{error}");
        assert!(error.usage().busy > ms(0) && error.usage().peak_memory > 0);
    }
    for (thrown, says) in [
        ("'a text'", "threw \"a text\""),
        ("7", "threw \"7\""),
        ("null", "threw \"null\""),
        ("{ message: 'mine' }", "mine"),
        ("{ toString() { throw 1 } }", "it cannot be shown"),
        ("Symbol('x')", "it cannot be shown"),
        ("new Proxy({}, { get() { throw 1 } })", "it cannot be shown"),
    ] {
        let error = failure(&format!("export default () => {{ throw {thrown} }}")).await;
        assert_eq!(error.kind(), ErrorKind::Thrown, "{thrown}");
        assert!(error.to_string().contains(says), "{thrown}: {error}");
    }
    let error = failure("throw new Error('at the top'); export default () => 1").await;
    assert_eq!((error.kind(), error.exception().unwrap().line()), (ErrorKind::Thrown, Some(1)));
}

#[tokio::test]
async fn results_without_a_form_in_json_are_refused() {
    for (result, says) in [
        ("undefined", "undefined"),
        ("1n", "BigInt"),
        ("{ a: 1n }", "BigInt"),
        ("() => 1", "a function or a symbol"),
        ("Symbol('x')", "a function or a symbol"),
        ("(() => { const a = {}; a.a = a; return a })()", "circular"),
        ("{ toJSON() { throw new Error('no') } }", "no"),
    ] {
        let error = failure(&format!("export default () => ({result})")).await;
        assert_eq!(error.kind(), ErrorKind::Thrown, "{result}");
        assert!(error.to_string().contains(says) && error.to_string().contains("give null, a boolean"), "{error}");
    }
    assert_eq!(eval("{ a: undefined, b: () => 1, c: NaN }").await, json!({"c": null}), "as JSON.stringify has it");
}

#[tokio::test]
async fn a_result_takes_no_more_of_the_host_than_it_may() {
    for what in ["({'': 0})", "[]", "[{}]", "0"] {
        let source = format!("const o = {what}; export default () => Array(500000).fill(o)");
        let limits = Limits::default().busy(ms(10_000)).deadline(ms(20_000));
        let rule = script(source).limits(limits).load().await.unwrap();
        let error = rule.call::<Value>("default", (0,)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutputTooLarge, "{what}: {error}");
    }
    assert_eq!(value("export default () => '[{,:'.repeat(500000).length").await, json!(2_000_000));
    // Text is no more than it is.
    let text = value("export default () => '[{,:'.repeat(500000)").await;
    assert_eq!(text.as_str().unwrap().len(), 2_000_000);
}

#[tokio::test]
async fn what_the_host_does_not_read_is_the_scripts_fault() {
    for result in ["'\\ud800'", "(() => { let a = 1; for (let i = 0; i < 200; i++) a = [a]; return a })()"] {
        let error = failure(&format!("export default () => {result}")).await;
        assert_eq!(error.kind(), ErrorKind::Thrown, "{result}: {error}");
        assert!(error.to_string().contains("does not read"), "{error}");
    }
}

#[tokio::test]
async fn a_long_message_leaves_room_for_what_to_do() {
    let error = failure("export default () => ({ toJSON() { throw new Error('x'.repeat(4000)) } })").await;
    assert!(error.to_string().ends_with("or a Uint8Array"), "{error}");
}

#[tokio::test]
async fn the_usual_limits_hold() {
    let ended = async |source: &str, limits: Limits| {
        let rule = script(source).limits(limits).load().await.unwrap();
        rule.call::<Value>("default", ()).await.unwrap_err()
    };
    let busy = Limits::default().busy(ms(30));
    for source in [
        "export default () => { for (;;); }",
        "for (;;); export default () => 1",
        "export default async () => { for (;;) await null }",
        "export default () => /^(a+)+$/.test('a'.repeat(40) + 'b')",
        "export default () => ({ toJSON() { for (;;); } })",
        "export default () => { throw { get message() { for (;;); } } }",
    ] {
        assert_eq!(ended(source, busy.clone()).await.kind(), ErrorKind::TimedOut, "{source}");
    }
    let error = ended("export default () => { for (;;); }", Limits::default().fuel(5_000_000)).await;
    assert_eq!(error.kind(), ErrorKind::OutOfFuel, "{error}");
    let error =
        ended("export default () => new Promise(() => setTimeout(() => 1, 1e9))", Limits::default().deadline(ms(50)))
            .await;
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    let memory = Limits::default().memory(8 * MIB);
    for (source, kind) in [
        ("export default () => { const all = []; for (;;) all.push(new Array(1000).fill(1)) }", ErrorKind::OutOfMemory),
        ("export default () => new Uint8Array(1e9)", ErrorKind::OutOfMemory),
        // Of a string made of strings only their places are kept; its length has an end of its own.
        ("export default () => { let s = 'x'; for (;;) s += s }", ErrorKind::Thrown),
    ] {
        let error = ended(source, memory.clone()).await;
        assert_eq!(error.kind(), kind, "{source}: {error}");
    }
    let error = ended("export default () => 'x'.repeat(2000)", Limits::default().output(1000)).await;
    assert_eq!(error.kind(), ErrorKind::OutputTooLarge, "{error}");
    let error = script("export default () => 1").limits(Limits::default().memory(MIB / 2)).load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
}

/// Whatever the interpreter throws then, or a library around it; and not because somebody says so.
#[tokio::test]
async fn what_ran_out_of_memory_says_so() {
    let limits = || Limits::default().memory(8 * MIB);
    for source in [
        "export default async () => { for (;;) Promise.resolve().then(() => {}) }",
        "export default () => { let p = []; for (;;) p = new Proxy(p, {}) }",
        "export default () => '\\ufdfa'.repeat(1e5).normalize('NFKD')",
        "export default () => /^(a|aa)+$/.test('a'.repeat(2e5) + 'b')",
        "export default () => { for (const all = [];;) all.push(structuredClone(['x'.repeat(1e6)])) }",
        "export default () => ({ toJSON: () => 'x'.repeat(1e7) })",
        "await new Uint8Array(1e7); export default () => 1",
    ] {
        let rule = script(source).limits(limits()).load().await.unwrap();
        let error = rule.call::<Value>("default", ()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{source}: {error}");
        assert!(error.to_string().contains("raise `Limits::memory`") && error.exception().is_some(), "{error}");
    }
    let says = "throw Object.assign(new Error('out of memory'), { name: 'InternalError' }); export default () => 1";
    assert_eq!(failure(says).await.kind(), ErrorKind::Thrown);
    let goes_on = "export default () => { try { new Uint8Array(1e9) } catch { return 1 } }";
    assert_eq!(value(goes_on).await, json!(1));
}

#[tokio::test]
async fn garbage_is_collected_within_little_memory() {
    let source = "export default () => { for (let n = 0; n < 50_000; n++) { const a = {}; a.b = { a } } return 1 }";
    let rule = script(source).limits(Limits::default().memory(7 * MIB / 4)).load().await.unwrap();
    assert_eq!(rule.call::<u32>("default", ()).await.unwrap().value, 1);
}

#[tokio::test]
async fn compiling_is_bounded_as_calls_are_metered() {
    let names: String = (0..60_000).map(|n| format!("#v{n};")).collect();
    let source = format!("export default class {{ {names} }}");
    assert_eq!(refusal(source.clone()).await.kind(), ErrorKind::TimedOut);
    let by_fuel = script(source).limits(Limits::default().fuel(1_000_000)).load().await.map(drop).unwrap_err();
    assert_eq!(by_fuel.kind(), ErrorKind::OutOfFuel);
    assert!(by_fuel.to_string().contains("shorter or less nested"), "{by_fuel}");
}

/// What it threw after it was to stop does not count.
#[tokio::test]
async fn a_script_that_throws_beyond_a_limit_ends_by_the_limit() {
    let source = "export default () => { for (let n = 0; n < 11; n++) Date.now(); throw new Error('mine') }";
    let rule = script(source).limits(Limits::default().host_calls(10)).load().await.unwrap();
    let error = rule.call::<Value>("default", ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded(Limit::HostCalls), "{error}");
}

#[tokio::test]
async fn recursion_without_end_ends_the_script_or_the_call() {
    for source in [
        "const f = () => f() + 1; export default f",
        "export default () => { const f = () => [1, 2].sort(f); f() }",
        "export default () => { const f = () => 'a'.replace(/a/, f); f() }",
        "export default () => { const p = new Proxy({}, { get() { return p.x } }); return p.x }",
        "const o = { toString() { return '' + this } }; export default () => String(o)",
    ] {
        let error = failure(source).await;
        let exception = error.exception().unwrap_or_else(|| panic!("{source}: {error}"));
        assert_eq!((error.kind(), exception.name()), (ErrorKind::Thrown, "RangeError"), "{source}: {error}");
    }
    // In native code of the interpreter, without a check of its own or with a late one.
    for source in [
        "const o = {}; o.toJSON = () => JSON.stringify(o); export default () => JSON.stringify(o)",
        "export default () => { class A { get x() { return this.x } } return new A().x }",
        "export default () => JSON.parse('['.repeat(1e5))",
        "export default () => { let a = []; for (let i = 0; i < 1e5; i++) a = [a]; return JSON.stringify(a) }",
        "export default () => { let a = []; for (let i = 0; i < 1e5; i++) a = [a]; return a.flat(Infinity).length }",
        "export default () => new RegExp('(?:'.repeat(1e5))",
        "export default () => { let f = () => 1; for (let i = 0; i < 3e3; i++) f = f.bind(null); return f() }",
        "export default () => { let p = {}; for (let i = 0; i < 1e5; i++) p = new Proxy(p, {}); return p.x }",
    ] {
        let error = failure(source).await;
        assert!(matches!(error.kind(), ErrorKind::Thrown | ErrorKind::Trapped), "{source}: {error}");
    }
    let caught = "const f = () => f(); export default () => { try { f() } catch (e) { return e.name } }";
    assert_eq!(value(caught).await, json!("RangeError"));
    let deep = "const f = n => n && f(n - 1) + 1; export default () => f(500)";
    assert_eq!(value(deep).await, json!(500));
}

#[tokio::test]
async fn a_promise_that_nothing_settles_ends_the_call() {
    for source in ["export default () => new Promise(() => {})", "await new Promise(() => {}); export default () => 1"]
    {
        let error = failure(source).await;
        assert_eq!(error.kind(), ErrorKind::Thrown);
        assert!(error.to_string().contains("nothing can settle"), "{error}");
    }
}

#[tokio::test]
async fn calls_leave_nothing_for_each_other() {
    let source = r#"
        let count = 0;
        export default (mark) => {
            const seen = [globalThis.mark, Object.prototype.mark, Array.prototype.mark, count, Math.mark, console.mark, crypto.mark];
            count += 1;
            globalThis.mark = Object.prototype.mark = Array.prototype.mark = Math.mark = console.mark = crypto.mark = mark;
            JSON.stringify = Promise.prototype.then = Array.prototype.map = null;
            return [...seen, Math.random()];
        }"#;
    let rule = loaded(source).await;
    let mut drawn = Vec::new();
    for n in 0..20 {
        let reply = rule.tenant(format!("tenant {}", n % 2)).call::<Value>("default", (n,)).await.unwrap();
        let mut seen = reply.value.as_array().unwrap().clone();
        drawn.push(seen.pop().unwrap().as_f64().unwrap());
        assert_eq!(Value::from(seen), json!([null, null, null, 0, null, null, null]));
    }
    drawn.sort_by(f64::total_cmp);
    drawn.dedup();
    assert_eq!(drawn.len(), 20, "random numbers are drawn anew");
}

#[tokio::test]
async fn texts_are_code_only_where_that_is_granted() {
    for source in [
        "export default () => eval('1 + 1')",
        "export default () => (0, eval)('1 + 1')",
        "export default () => new Function('return 2')()",
        "export default () => (() => {}).constructor('return 2')()",
        "export default async () => (async () => {}).constructor('return 2')()",
        "export default () => { let out = 0; setTimeout('out = 2'); return out }",
    ] {
        assert_eq!(failure(source).await.kind(), ErrorKind::Thrown, "{source}");
    }
    let rule = script("export default () => eval('1 + 1') + new Function('return 2')()").eval().load().await.unwrap();
    assert_eq!(rule.call::<u32>("default", ()).await.unwrap().value, 4);
}

#[tokio::test]
async fn what_it_says_is_in_the_calls_log() {
    let source = r#"export default () => {
        console.log("a", 1, { b: [1n, null, undefined], "c d": "e" }, [ , 2], new Map([[1, { a: new Set([2]) }]]));
        console.debug(new Error("no"), () => 1, Symbol("s"), new Date(0), /x/g, new Uint8Array(2), -0);
        console.warn("warned"); console.error("failed"); console.info("told"); console.trace("seen");
        console.assert(false, "why"); console.assert(true, "not");
        const round = {}; round.round = round; console.log(round, { get x() { return 1 } });
        console.log(new Proxy({}, { ownKeys() { throw 1 } }), "\u001b[31m");
        return 1;
    }"#;
    let reply = loaded(source).await.call::<Value>("default", ()).await.unwrap();
    let lines: Vec<(Level, &str)> = reply.output().log.iter().map(|line| (line.level, &*line.message)).collect();
    assert_eq!(
        lines,
        [
            (Level::Info, r#"a 1 { b: [1n, null, undefined], "c d": "e" } [empty, 2] Map {1 => { a: Set {2} }}"#),
            (
                Level::Debug,
                "Error: no [function without a name] Symbol(s) 1970-01-01T00:00:00.000Z /x/g Uint8Array [0, 0] -0"
            ),
            (Level::Warn, "warned"),
            (Level::Error, "failed"),
            (Level::Info, "told"),
            (Level::Trace, "seen"),
            (Level::Error, "assertion failed why"),
            (Level::Info, "{ round: [circular] } { x: [getter] }"),
            (Level::Info, r"[cannot be shown] \u{1b}[31m"),
        ]
    );
}

#[tokio::test]
async fn timers_and_clocks_follow_the_host() {
    let start = SystemTime::UNIX_EPOCH + ms(1_000_000_000_000);
    let source = r#"
        const sleep = ms => new Promise(done => setTimeout(done, ms));
        export default async () => {
            const [began, order] = [Date.now(), []];
            setTimeout((...rest) => order.push("late", ...rest), 3_600_000, 1, 2);
            const gone = setTimeout(() => order.push("never"), 5);
            clearTimeout(gone);
            let times = 0;
            const every = setInterval(() => { order.push(++times); if (times === 3) clearInterval(every) }, 1000);
            await Promise.all([sleep(7_200_000), sleep(10).then(() => order.push("soon"))]);
            return { began, took: Date.now() - began, order, date: new Date(began).toISOString() };
        }"#;
    let rule = script(source).grant(Clocks::simulated(start)).load().await.unwrap();
    let reply = rule.call::<Value>("default", ()).await.unwrap();
    assert_eq!(
        reply.value,
        json!({
            "began": 1_000_000_000_000u64, "took": 7_200_000, "order": ["soon", 1, 2, 3, "late", 1, 2],
            "date": "2001-09-09T01:46:40.000Z"
        })
    );
    let now = eval("Date.now()").await.as_f64().unwrap();
    let real = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as f64;
    assert!((now - real).abs() < 60_000.0, "{now} {real}");
    // What is still to come when there is a result never does.
    assert_eq!(value("export default () => { setTimeout(() => { for (;;); }, 0); return 1 }").await, json!(1));
}

#[tokio::test]
async fn what_is_under_way_is_bounded() {
    let source = "export default () => { for (;;) setTimeout(() => 1, 1e9) }";
    let rule = script(source).limits(Limits::default().handles(50)).load().await.unwrap();
    let error = rule.call::<Value>("default", ()).await.unwrap_err();
    assert!(error.to_string().contains("RangeError: too much is under way at once"), "{error}");
    let rule = script(source).limits(Limits::default().host_calls(20)).load().await.unwrap();
    let error = rule.call::<Value>("default", ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded(Limit::HostCalls), "{error}");
}

#[tokio::test]
async fn texts_bytes_and_copies() {
    for (expression, expected) in [
        ("[...new TextEncoder().encode('aé€😀')]", json!([97, 195, 169, 226, 130, 172, 240, 159, 152, 128])),
        ("new TextEncoder().encodeInto('aé€', new Uint8Array(4))", json!({"read": 2, "written": 3})),
        ("new TextDecoder().decode(new Uint8Array([0xef, 0xbb, 0xbf, 97, 0xff]))", json!("a\u{fffd}")),
        ("new TextDecoder('utf-8', { ignoreBOM: true }).decode(new Uint8Array([0xef, 0xbb, 0xbf]))", json!("\u{feff}")),
        ("new TextDecoder().decode(new Uint16Array([97]).buffer)", json!("a\u{0}")),
        (
            "(() => { try { new TextDecoder('utf-8', { fatal: true }).decode(new Uint8Array([0xc0, 0x80])) } catch (e) { return e.name } })()",
            json!("TypeError"),
        ),
        ("(() => { try { new TextDecoder('latin1') } catch (e) { return e.name } })()", json!("RangeError")),
        ("btoa('hi') + atob('aGk=')", json!("aGk=hi")),
        (
            "(() => { const a = { d: new Date(5), m: new Map([[1, 2]]), r: [1, 'x'] }; a.self = a; const b = structuredClone(a); return [b !== a, b.self === b, b.d.getTime(), b.m.get(1), b.r[1]] })()",
            json!([true, true, 5, 2, "x"]),
        ),
        ("(() => { try { structuredClone(() => 1) } catch (e) { return e.name } })()", json!("DataCloneError")),
        ("crypto.getRandomValues(new Uint8Array(8)).some(Boolean)", json!(true)),
        (
            "/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(crypto.randomUUID())",
            json!(true),
        ),
        (
            "(() => { try { crypto.getRandomValues(new Uint8Array(65537)) } catch (e) { return e.name } })()",
            json!("QuotaExceededError"),
        ),
        ("2n ** 64n === 18446744073709551616n", json!(true)),
        ("'ä'.match(/\\p{L}/u)?.[0]", json!("ä")),
        ("typeof Intl + typeof WebAssembly + typeof SharedArrayBuffer", json!("undefinedundefinedundefined")),
    ] {
        assert_eq!(eval(expression).await, expected, "{expression}");
    }
}

#[tokio::test]
async fn the_context_says_whose_call_it_is() {
    let source = "export default (x, context) => [context.function, context.tenant ?? null, typeof context.callId]";
    let rule = loaded(source).await;
    let reply = rule.tenant("acme").call::<Value>("default", ()).await.unwrap();
    assert_eq!(reply.value, json!(["rule", "acme", "number"]));
    assert_eq!(rule.call::<Value>("default", ()).await.unwrap().value[1], Value::Null);
    let alike = script(source).limits(Limits::default().fuel(50_000_000)).deterministic(1).load().await.unwrap();
    assert_eq!(alike.call::<Value>("default", ()).await.unwrap().value[2], json!("undefined"));
}

#[tokio::test]
async fn halves_of_characters_do_no_harm() {
    let source = r#"export default name => {
        console.log(name.slice(0, 2));
        return [...new TextEncoder().encode("\ud800")];
    }"#;
    let reply = loaded(source).await.call::<Value>("default", ("a😀",)).await.unwrap();
    assert_eq!(reply.value, json!([0xef, 0xbf, 0xbd]));
    assert_eq!(reply.output().log[0].message, "a\u{fffd}");
    let error = failure("export default () => { throw new Error('a\\ud800') }").await;
    assert_eq!((error.kind(), error.exception().unwrap().message()), (ErrorKind::Thrown, "a\u{fffd}"));
}

#[tokio::test]
async fn timers_keep_nothing_when_they_are_over() {
    let source = r#"export default async () => {
        for (let n = 0; n < 200; n++) {
            const page = new Uint8Array(1e6);
            await new Promise(done => setTimeout(() => done(page.length), 1));
        }
        for (let n = 0; n < 5000; n++) clearTimeout(setTimeout(() => 1, 1e9));
        return 1;
    }"#;
    let rule = script(source).grant(Clocks::simulated(SystemTime::UNIX_EPOCH)).load().await.unwrap();
    let reply = rule.call::<u32>("default", ()).await.unwrap();
    assert!(reply.usage.peak_memory < 16 * MIB, "{:?}", reply.usage);
    let error =
        failure("export default () => { clearTimeout(setTimeout(() => 1, 1e9)); return new Promise(() => {}) }").await;
    assert!(error.to_string().contains("nothing can settle"), "{error}");
}

#[tokio::test]
async fn the_shortest_timer_is_over_first() {
    let source = r#"export default async () => {
        const seen = [];
        setTimeout(() => { seen.push(10); setTimeout(() => seen.push("then"), 0) }, 10);
        setTimeout(() => seen.push(Date.now()), 0);
        await new Promise(done => setTimeout(done, 20));
        return seen;
    }"#;
    let rule = script(source).grant(Clocks::simulated(SystemTime::UNIX_EPOCH)).load().await.unwrap();
    assert_eq!(rule.call::<Value>("default", ()).await.unwrap().value, json!([0, 10, "then"]));
}

#[tokio::test]
async fn the_last_of_updates_at_once_stays() {
    let rule = loaded("export default () => 0").await;
    let slow = format!("export default () => 1; {}", "(() => [1, 2, 3]); ".repeat(10_000));
    let (first, second) = tokio::join!(rule.update(slow), rule.update("export default () => 2"));
    first.and(second).unwrap();
    assert_eq!(rule.call::<u32>("default", ()).await.unwrap().value, 2);
}

#[tokio::test]
async fn bytes_that_are_detached_are_no_empty_ones() {
    let detached = "const u = new Uint8Array(8).fill(1); u.buffer.transfer();";
    for use_of_it in [
        "new TextDecoder().decode(Object.create(Uint8Array.prototype))",
        "new TextDecoder().decode(Object.setPrototypeOf(new Float64Array(2), Uint8Array.prototype))",
        "await kv.set('key', u)",
        "return u",
    ] {
        let source = format!("export default async () => {{ {detached} {use_of_it}; return 1 }}");
        let rule = script(source).grant(KeyValue::bucket("state")).load().await.unwrap();
        let error = rule.call::<Value>("default", ()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Thrown, "{use_of_it}: {error}");
    }
    let empty = "export default async () => { await kv.set('key', new Uint8Array()); return new Uint8Array() }";
    let rule = script(empty).grant(KeyValue::bucket("state")).load().await.unwrap();
    assert_eq!(rule.call::<ByteBuf>("default", ()).await.unwrap().value.len(), 0);
}

#[tokio::test]
async fn an_update_is_for_calls_that_begin_after_it() {
    let slow = "export default async () => { await new Promise(done => setTimeout(done, 300)); return 'old' }";
    let rule = loaded(slow).await;
    let other_handle = rule.tenant("x");
    let call = other_handle.call::<String>("default", ());
    let mut running = pin!(call);
    for _ in 0..10 {
        // A tick may fall between its first poll and its sleep.
        assert!(running.as_mut().now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    let error = rule.update("export default () => {").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidScript);
    rule.update("export default () => 'new'").await.unwrap();
    assert_eq!(rule.call::<String>("default", ()).await.unwrap().value, "new");
    assert_eq!(running.await.unwrap().value, "old");
}

#[tokio::test]
async fn a_deterministic_script_gives_the_same_twice() {
    let source = r#"export default async () => {
        console.log(Math.random());
        await new Promise(done => setTimeout(done, 10));
        return [Date.now(), Math.random(), crypto.randomUUID(), [...new Set([{}, 1, 'a'])].length, 0 / 0 === 0 / 0];
    }"#;
    let limits = Limits::default().fuel(50_000_000);
    let rule = script(source).limits(limits.clone()).deterministic(7).load().await.unwrap();
    let run = async || {
        let reply = rule.call::<Value>("default", ()).await.unwrap();
        (reply.value.clone(), reply.usage.fuel, reply.output().log[0].message.clone())
    };
    let first = run().await;
    assert_eq!(first.0[0], json!(10));
    assert_eq!(run().await, first);
    let other = script(source).limits(limits).deterministic(8).load().await.unwrap();
    assert_ne!(other.call::<Value>("default", ()).await.unwrap().value, first.0);
    let error = script(source).deterministic(7).load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
    let fuelled = Limits::default().fuel(1_000_000);
    let error = script(source).limits(fuelled).deterministic(7).grant(Clocks::fine()).load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
}

#[tokio::test]
async fn randomness_can_be_granted() {
    let rule = script("export default () => [Math.random(), crypto.randomUUID()]")
        .grant(Random::seeded(1))
        .load()
        .await
        .unwrap();
    let first = rule.call::<Value>("default", ()).await.unwrap().value;
    assert_eq!(rule.call::<Value>("default", ()).await.unwrap().value, first);
}

#[tokio::test]
async fn grants_without_effect_fail_the_load() {
    let error = script("export default () => 1").grant(Env::var("A", "1")).load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
    let error = loaded("export default () => 1").await.update("").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidScript);
    let component = HOST.function("c").component_wat("(component)").load().await.unwrap();
    assert_eq!(component.update("export default () => 1").await.unwrap_err().kind(), ErrorKind::Misuse);
}

#[tokio::test(flavor = "multi_thread")]
async fn prewarmed_scripts_answer_from_the_stock() {
    let rule = script("export default x => x + 1").prewarm(3).load().await.unwrap();
    assert!(rule.idle() > 0);
    let reply = rule.call::<u32>("default", (1,)).await.unwrap();
    assert_eq!((reply.value, reply.usage.cold), (2, false));
    rule.update("export default x => x + 2").await.unwrap();
    assert_eq!(rule.call::<u32>("default", (1,)).await.unwrap().value, 3);
    let error = script("export default x => x").prewarm(0).load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
}

#[tokio::test]
async fn other_functions_may_call_a_script() {
    let source = "export default (name) => `hello ${name}`";
    let _greet = HOST.script("greet-js", Language::JavaScript, source).callable().load().await.unwrap();
    let caller =
        HOST.function("caller").component_file(crate::support::built("caller")).grant(Functions::named("greet-js"));
    let caller = caller.load().await.unwrap();
    let arguments = json!(["you"]).to_string();
    let reply = caller.call::<Value>("call", ("greet-js", "default", arguments, 1)).await.unwrap();
    assert!(reply.value.to_string().contains("hello you"), "{:?}", reply.value);
}

#[tokio::test]
async fn many_scripts_load_at_once() {
    let loads = (0..100).map(|n| async move {
        let rule = script(format!("export default () => {n}")).load().await.unwrap();
        assert_eq!(rule.call::<u32>("default", ()).await.unwrap().value, n);
    });
    futures_util::future::join_all(loads).await;
}

#[tokio::test]
async fn a_source_that_takes_too_much_to_compile_is_refused() {
    let deep = format!("export default () => {}1", "[".repeat(500_000));
    let error = refusal(deep).await;
    assert!(matches!(error.kind(), ErrorKind::InvalidScript | ErrorKind::Trapped), "{error}");
    // Each is looked for among all before it.
    let names: String = (0..120_000).map(|n| format!("a{n:x},")).collect();
    let error = refusal(format!("export default () => {{ let {names}z; }}")).await;
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert!(error.to_string().contains("make it shorter"), "{error}");
}
