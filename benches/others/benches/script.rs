//! What does one call of a customer's rule cost: in isopod's sandbox, and in a native QuickJS or Lua without one that is made
//! anew for each call?
//!
//! `cargo bench --bench script` measures by criterion, with `-- --table` all contenders in turn, as a table, and what
//! ten thousand scripts take. An order goes in as text of JSON, and a price comes out as that, or in Lua as a value. `isopod`
//! has every limit on, of time, memory, input, output and calls; `rquickjs_new_context` has limits of memory, stack and time,
//! and makes a runtime and a context with the language's own library, compiles the rule and calls it; `mlua_new_state` is
//! the same with a small rule in Lua. `isopod_snapshot` is a script with `ScriptBuilder::snapshot`.

#[path = "../../cases/mod.rs"]
mod cases;

use cases::{Case, Group, STOCK, in_chunks, now, runtime, time};
use isopod::{Function, Host, Language, block_on};
use mlua::{HookTriggers, Lua, LuaOptions, LuaSerdeExt, StdLib, VmState};
use rquickjs::{CatchResultExt, Context, Function as Native, Module, Runtime};
use serde_json::Value;
use serde_json::value::RawValue;
use std::hint::black_box;
use std::time::{Duration, Instant};

const ORDER: &str = r#"{"id":"o-1","code":"SAVE-10-DE","customer":{"tier":"gold","country":"DE","spent":700},"items":[
    {"sku":"pen","price":1.5,"count":10},{"sku":"book","price":20,"count":2,"kind":"reduced"},{"sku":"ink","price":7,"count":3}]}"#;
const SMALL: &str = include_str!("rules/small.js");
const LONG: &str = include_str!("rules/long.js");
const LUA: &str = include_str!("rules/small.lua");

fn main() {
    let groups: cases::Groups = vec![
        || fresh("script_fresh", SMALL, Some(LUA)),
        || fresh("script_fresh_64_lines", LONG, None),
        || prewarmed("script_prewarmed", SMALL),
        || prewarmed("script_prewarmed_64_lines", LONG),
        many,
    ];
    if !std::env::args().any(|arg| arg == "--table") {
        return cases::criterion(groups);
    }
    for group in groups {
        println!("{}", cases::table::measure(group()));
    }
    registered();
}

fn fresh(name: &str, rule: &'static str, lua: Option<&'static str>) -> Group {
    let host = Host::new().unwrap();
    let kind = |id, snapshot: bool| {
        let script = host.script("rule", Language::JavaScript, rule);
        let function = block_on(if snapshot { script.snapshot() } else { script }.load()).unwrap();
        check(&function, rule);
        let order = order();
        Case::new(id, move || {
            black_box(call(&function, &order));
        })
    };
    let mut cases = vec![native(rule), kind("isopod", false), kind("isopod_snapshot", true)];
    cases.extend(lua.map(|rule| {
        assert_eq!(new_state(rule)["total"], serde_json::from_str::<Value>(&new_context(SMALL)).unwrap()["total"]);
        Case::new("mlua_new_state", move || {
            black_box(new_state(rule));
        })
    }));
    Group { name: name.into(), note: "A rule in an instance that nobody used before.", cases }
}

fn prewarmed(name: &str, rule: &'static str) -> Group {
    let (host, order) = (Host::new().unwrap(), order());
    let function = block_on(host.script("rule", Language::JavaScript, rule).prewarm(STOCK).load()).unwrap();
    check(&function, rule);
    let isopod = Case::timed("isopod", move |times| {
        in_chunks(times, |calls| {
            runtime().block_on(function.restock());
            time(calls, || {
                black_box(call(&function, &order));
            })
        })
    });
    let note = "The same with the interpreter made ahead, which is left out; the native one is made in the call.";
    Group { name: name.into(), note, cases: vec![native(rule), isopod] }
}

/// Scripts that are called in turn.
const MANY: usize = 1_000;

fn many() -> Group {
    let host = Host::new().unwrap();
    let load = |n: usize| {
        let rule = format!("{SMALL}\n// {n}");
        block_on(host.script(format!("rule-{n}"), Language::JavaScript, rule).load()).unwrap()
    };
    let functions: Vec<Function> = (0..MANY).map(load).collect();
    let (one, order) = (functions[0].clone(), order());
    let again = order.clone();
    let mut next = 0;
    let cases = vec![
        Case::new("one", move || {
            black_box(call(&one, &order));
        }),
        Case::new("a_thousand_in_turn", move || {
            next = (next + 1) % MANY;
            black_box(call(&functions[next], &again));
        }),
    ];
    Group { name: "script_many".into(), note: "One script again and again, or a thousand in turn.", cases }
}

/// What ten thousand scripts take: not the time of a call.
fn registered() {
    const ALL: usize = 10_000;
    let host = Host::new().unwrap();
    let load = |n: usize, snapshot: bool| {
        let rule = format!("{SMALL}\n// {n}");
        let script = host.script(format!("rule-{n}"), Language::JavaScript, rule);
        block_on(if snapshot { script.snapshot() } else { script }.load()).unwrap()
    };
    for (name, snapshot, count) in [("scripts", false, ALL), ("snapshots", true, ALL / 10)] {
        drop(load(0, snapshot));
        let (started, before) = (Instant::now(), resident());
        let functions: Vec<Function> = (0..count).map(|n| load(n, snapshot)).collect();
        let (took, more) = (started.elapsed(), resident().saturating_sub(before));
        println!(
            "{count} {name}: {:.1} s, {:.0} MiB, {} bytes each",
            took.as_secs_f64(),
            more as f64 / 1048576.0,
            more / functions.len() as u64
        );
    }
}

/// Bytes of memory that this process has.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap() * 4096
}

fn order() -> Box<RawValue> {
    serde_json::from_str(ORDER).unwrap()
}

fn call(function: &Function, order: &RawValue) -> Box<RawValue> {
    now(function.call("default", (order,))).unwrap().value
}

fn check(function: &Function, rule: &str) {
    let price: Value = serde_json::from_str(&new_context(rule)).unwrap();
    assert_eq!(serde_json::from_str::<Value>(call(function, &order()).get()).unwrap(), price);
    assert!(price["total"].as_f64().is_some_and(|total| total > 0.0), "{price}");
}

fn native(rule: &'static str) -> Case {
    Case::new("rquickjs_new_context", move || {
        black_box(new_context(rule));
    })
}

fn new_context(rule: &str) -> String {
    let runtime = Runtime::new().unwrap();
    runtime.set_memory_limit(64 << 20);
    runtime.set_max_stack_size(256 << 10);
    let until = Instant::now() + Duration::from_secs(5);
    runtime.set_interrupt_handler(Some(Box::new(move || Instant::now() > until)));
    let context = Context::full(&runtime).unwrap();
    context.with(|ctx| {
        let (module, done) = Module::declare(ctx.clone(), "rule", rule).unwrap().eval().unwrap();
        done.finish::<()>().catch(&ctx).unwrap();
        let rule: Native = module.get("default").unwrap();
        let order = ctx.json_parse(ORDER).unwrap();
        let price: rquickjs::Value = rule.call((order,)).catch(&ctx).unwrap();
        ctx.json_stringify(price).unwrap().unwrap().to_string().unwrap()
    })
}

fn new_state(rule: &str) -> Value {
    let libraries = StdLib::COROUTINE | StdLib::TABLE | StdLib::STRING | StdLib::UTF8 | StdLib::MATH;
    let lua = Lua::new_with(libraries, LuaOptions::default()).unwrap();
    lua.set_memory_limit(64 << 20).unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    lua.set_global_hook(HookTriggers::new().every_nth_instruction(10_000), move |_, _| match Instant::now() < until {
        true => Ok(VmState::Continue),
        false => Err(mlua::Error::runtime("out of time")),
    })
    .unwrap();
    let rule: mlua::Function = lua.load(rule).eval().unwrap();
    let order: Value = serde_json::from_str(ORDER).unwrap();
    let price: mlua::Value = rule.call(lua.to_value(&order).unwrap()).unwrap();
    lua.from_value(price).unwrap()
}
