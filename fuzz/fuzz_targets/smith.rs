//! A core module by wasm-smith as a component, under tight limits: it loads, its calls end in time as a value or a typed
//! error and twice alike, and the next call of another function finds every seat free and each slot as new.
#![no_main]

use isopod::{ErrorKind, Function, Host, Limits, MIB, ms};
use libfuzzer_sys::arbitrary::Unstructured;
use libfuzzer_sys::{Corpus, fuzz_target};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use wasm_encoder::{ComponentBuilder, ComponentExportKind, ExportKind, PrimitiveValType};

/// As many as one call takes at most, of which each memory takes one. There are seven slots for memories then.
const SEATS: u32 = 3;
static HOST: LazyLock<Host> = LazyLock::new(|| Host::builder().seats(SEATS).build().unwrap());
/// What each module exports, whatever else it does.
static EXPORTS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    wat::parse_str(r#"(module (func (export "run") (param i32 i64) (result i32) unreachable))"#).unwrap()
});
/// Each adds to its argument the number of words that are not zero in its memories, and of elements that are not null in
/// its table, to which it never writes. By time, and by fuel: each has slots of its own. A component has the slots that it
/// had before, if nobody else had them since, and otherwise those that were left first. So there are more of these than
/// are asked after a guest, and so many are asked that they have been in all slots.
static BENIGN: LazyLock<[Vec<Function>; 2]> = LazyLock::new(|| {
    let memory = r#"
        (drop (memory.grow MEMORY (i32.const 30)))
        (local.set $at (i32.shl (memory.size MEMORY) (i32.const 16)))
        (loop $each
            (local.set $at (i32.sub (local.get $at) (i32.const 8)))
            (local.set $n (i32.add (local.get $n) (i64.ne (i64.load MEMORY (local.get $at)) (i64.const 0))))
            (br_if $each (local.get $at)))"#;
    let memories: String = ["$a", "$b", "$c"].iter().map(|name| memory.replace("MEMORY", name)).collect();
    let wat = |n: usize| {
        format!(
            r#"(component
            (core module $m
                (func (export "is-{n}"))
                (memory $a 2) (memory $b 2) (memory $c 2) (table $t 1000 funcref)
                (func (export "run") (param $n i32) (result i32) (local $at i32)
                    {memories}
                    (local.set $at (i32.const 1000))
                    (loop $each
                        (local.set $at (i32.sub (local.get $at) (i32.const 1)))
                        (local.set $n (i32.add (local.get $n)
                            (i32.eqz (ref.is_null (table.get $t (local.get $at))))))
                        (br_if $each (local.get $at)))
                    (local.get $n)))
            (core instance $i (instantiate $m))
            (func (export "run") (param "n" s32) (result s32) (canon lift (core func $i "run"))))"#
        )
    };
    [Limits::default(), Limits::default().fuel(100_000_000)].map(|limits| {
        let load = |n| HOST.function("benign").component_wat(wat(n)).limits(limits.clone()).load_blocking().unwrap();
        (0..3 * ASKED).map(load).collect()
    })
});
const ASKED: usize = 3;

/// A component whose `run` is the module's.
fn shell(module: &[u8]) -> Vec<u8> {
    let mut shell = ComponentBuilder::default();
    let module = shell.core_module_raw(None, module);
    let instance = shell.core_instantiate(None, module, []);
    let run = shell.core_alias_export(None, instance, "run", ExportKind::Func);
    let (ty, mut function) = shell.type_function(None);
    let params = [("a", PrimitiveValType::S32), ("b", PrimitiveValType::S64)];
    function.params(params).result(Some(PrimitiveValType::S32.into()));
    let run = shell.lift_func(None, run, ty, []);
    shell.export("run", ComponentExportKind::Func, run, None);
    shell.finish()
}

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let mut input = Unstructured::new(bytes);
    let (fuel, a, b) = input.arbitrary().unwrap_or((false, 0_i32, 0_i64));
    // What the engines have, so that every module is one that loads.
    let config = wasm_smith::Config {
        exports: Some(EXPORTS.clone()),
        max_imports: 0,
        max_memories: 3,
        max_memory32_bytes: MIB,
        max_tables: 4,
        max_table_elements: 10_000,
        exceptions_enabled: false,
        gc_enabled: false,
        memory64_enabled: false,
        relaxed_simd_enabled: false,
        threads_enabled: false,
        ..wasm_smith::Config::default()
    };
    let Ok(module) = wasm_smith::Module::new(config, &mut input) else { return Corpus::Reject };
    let limits = Limits::default().deadline(ms(20)).memory(2 * MIB);
    let limits = if fuel { limits.fuel(100_000) } else { limits };
    let function =
        match HOST.function("smith").component_bytes(shell(&module.to_bytes())).limits(limits).load_blocking() {
            Ok(function) => function,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error:?}");
                return Corpus::Reject;
            }
        };
    let ends = [(); 2].map(|()| {
        let begun = Instant::now();
        let end = function.call_blocking::<i32>("run", (a, b));
        // A hundred deadlines, as sanitisers and a busy machine take their time.
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        match end {
            Ok(reply) => (Ok(reply.value), reply.usage.fuel),
            Err(error) => {
                use ErrorKind::{OutOfFuel, OutOfMemory, TimedOut, Trapped};
                assert!(matches!(error.kind(), Trapped | TimedOut | OutOfMemory | OutOfFuel), "{error:?}");
                (Err(error.kind()), error.usage().fuel)
            }
        }
    });
    // The clock may end one of them and not the other; nothing else is another time otherwise.
    if !ends.iter().any(|(end, _)| *end == Err(ErrorKind::TimedOut)) {
        assert_eq!(ends[0], ends[1]);
    }
    assert_eq!(HOST.free_seats(), SEATS);
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let (benign, turn) = (&BENIGN[usize::from(fuel)], TURN.fetch_add(ASKED, Ordering::Relaxed));
    for n in turn..turn + ASKED {
        assert_eq!(benign[n % benign.len()].call_blocking::<i32>("run", (a,)).unwrap().value, a);
    }
    Corpus::Keep
});
