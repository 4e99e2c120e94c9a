//! Who takes part, and what they share: the text, the check, the limits, the loop of the guests of wasm.

mod extism;
mod isopod;
mod lua;
mod process;
mod quickjs;
mod wasmi;
mod wasmtime;

use crate::cases::Case;
use std::hint::black_box;
use std::time::Duration;

/// What a call may use, where it can be limited: the defaults of isopod.
const MEMORY: usize = 64 << 20;
const TIME: Duration = Duration::from_secs(5);

/// All of them, for a text of that length: a multiple of eight, up to 64 KiB.
pub fn all(length: usize) -> Vec<Case> {
    let text: Vec<u8> = b"Pack my box with five dozen liquor jugs; ".iter().copied().cycle().take(length).collect();
    let text = text.leak();
    let contenders =
        [isopod::cases, wasmtime::cases, extism::cases, wasmi::cases, lua::cases, quickjs::cases, process::cases];
    contenders.iter().flat_map(|cases| cases(text)).collect()
}

/// A contender whose whole call is measured.
fn case(id: &'static str, text: &'static [u8], mut call: impl FnMut(&'static [u8]) -> Vec<u8> + 'static) -> Case {
    check(id, text, &call(text));
    Case::new(id, move || {
        black_box(call(text));
    })
}

fn check(id: &str, text: &[u8], answer: &[u8]) {
    assert_eq!(answer, text.to_ascii_uppercase(), "{id}");
}

/// The function of wasm that does the work, from an address up to another.
const UPPER: &str = "(func $upper (param $at i32) (param $end i32) (local $byte i32)
    (block $done
        (loop $next
            (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
            (local.set $byte (i32.load8_u (local.get $at)))
            (if (i32.lt_u (i32.sub (local.get $byte) (i32.const 97)) (i32.const 26))
                (then (i32.store8 (local.get $at) (i32.sub (local.get $byte) (i32.const 32)))))
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (br $next))))";

/// The component of isopod and of wasmtime.
fn component() -> String {
    format!(
        r#"(component
    (core module $m (memory (export "m") 2) {UPPER}
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
        (func (export "transform") (param $at i32) (param $length i32) (result i32)
            (call $upper (local.get $at) (i32.add (local.get $at) (local.get $length)))
            (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (local.get $length)) (i32.const 0)))
    (core instance $i (instantiate $m))
    (alias core export $i "m" (core memory $mem))
    (alias core export $i "realloc" (core func $realloc))
    (func (export "transform") (param "text" (list u8)) (result (list u8))
        (canon lift (core func $i "transform") (memory $mem) (realloc $realloc))))"#
    )
}
