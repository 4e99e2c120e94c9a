//! A component that is worth keeping compiled.

use std::fmt::Write;

const FUNCTIONS: u32 = 2_000;

/// A component of more than 300 KiB: as many functions, each some arithmetic that no other has, and one export.
pub fn component() -> Vec<u8> {
    let mut functions = String::new();
    for n in 0..FUNCTIONS {
        let steps = (0..20).fold(String::from("local.get 0"), |steps, step| {
            format!("{steps} i32.const {} i32.add i32.const {} i32.xor", n * 131 + step * 7, n * 17 + step)
        });
        writeln!(functions, r#"(func $f{n} (param i32) (result i32) {steps})"#).unwrap();
    }
    let calls = (0..FUNCTIONS).fold(String::from("local.get 0"), |calls, n| format!("{calls} call $f{n}"));
    let text = format!(
        r#"(component
        (core module $m {functions} (func (export "run") (param i32) (result i32) {calls}))
        (core instance $i (instantiate $m))
        (func (export "run") (param "n" u32) (result u32) (canon lift (core func $i "run"))))"#
    );
    let bytes = wat::parse_str(text).unwrap();
    assert!(bytes.len() > 300 << 10, "{}", bytes.len());
    bytes
}
