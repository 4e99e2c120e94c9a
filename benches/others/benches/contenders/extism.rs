//! Extism: a module that reads and writes by its kernel, eight bytes at a time, as its kits for plugins do.

use super::{MEMORY, TIME, UPPER, case};
use crate::cases::Case;
use extism::{CompiledPlugin, Manifest, Plugin, PluginBuilder, Wasm};

pub fn cases(text: &'static [u8]) -> Vec<Case> {
    let manifest = Manifest::new([Wasm::data(wat::parse_str(module()).unwrap())])
        .with_timeout(TIME)
        .with_memory_max((MEMORY >> 16) as u32);
    let compiled = CompiledPlugin::new(PluginBuilder::new(manifest).with_cache_disabled()).unwrap();
    let mut warm = Plugin::new_from_compiled(&compiled).unwrap();
    vec![
        case("extism_fresh", text, move |text| {
            Plugin::new_from_compiled(&compiled).unwrap().call("transform", text).unwrap()
        }),
        case("extism_warm", text, move |text| warm.call("transform", text).unwrap()),
    ]
}

fn module() -> String {
    format!(
        r#"(module
    (import "extism:host/env" "input_length" (func $input_length (result i64)))
    (import "extism:host/env" "input_load_u64" (func $input_load (param i64) (result i64)))
    (import "extism:host/env" "alloc" (func $alloc (param i64) (result i64)))
    (import "extism:host/env" "store_u64" (func $store (param i64 i64)))
    (import "extism:host/env" "output_set" (func $output_set (param i64 i64)))
    (memory 2) {UPPER}
    (func (export "transform") (result i32) (local $length i64) (local $at i64) (local $out i64)
        (local.set $length (call $input_length))
        (loop $next
            (i64.store (i32.wrap_i64 (local.get $at)) (call $input_load (local.get $at)))
            (local.set $at (i64.add (local.get $at) (i64.const 8)))
            (br_if $next (i64.lt_u (local.get $at) (local.get $length))))
        (call $upper (i32.const 0) (i32.wrap_i64 (local.get $length)))
        (local.set $out (call $alloc (local.get $length)))
        (local.set $at (i64.const 0))
        (loop $next
            (call $store
                (i64.add (local.get $out) (local.get $at))
                (i64.load (i32.wrap_i64 (local.get $at))))
            (local.set $at (i64.add (local.get $at) (i64.const 8)))
            (br_if $next (i64.lt_u (local.get $at) (local.get $length))))
        (call $output_set (local.get $out) (local.get $length))
        (i32.const 0)))"#
    )
}
