//! Components that are no components, ask for what is off, or are small in bytes and large to whoever compiles them.
//!
//! What is too large is so by [`Trust::Untrusted`](crate::Trust::Untrusted), and by little: where a limit is off, it
//! compiles in little time all the same.

use super::shell::*;
use crate::ErrorKind::{InvalidComponent, TooComplex, UngrantedImport, WrongExport};
use crate::testkit::case::{Case, Guest};
use crate::testkit::promise::Promise::{
    Abi, Adapters, ComponentBytes, CoreInstances, Functions, Grants, Invalid, Nesting, Text, Values,
};

pub(super) fn cases() -> Vec<Case> {
    let invalid = |name, threat, guest| Case::new(name, threat, Invalid, guest).refused(InvalidComponent);
    let complex = |name, threat, promise, guest| Case::new(name, threat, promise, guest).refused(TooComplex);
    let ungranted = |name, threat, guest| Case::new(name, threat, Grants, guest).refused(UngrantedImport);
    vec![
        invalid("no bytes", 11, |_| Guest::Bytes(Vec::new())),
        invalid("bytes of something else", 11, |_| Guest::Bytes(b"#!/bin/sh\nexit 1\n".into())),
        invalid("a core module", 11, |_| "(module)".into()),
        invalid("half a component", 11, |_| {
            let mut bytes = wat::parse_str(runner(r#"(memory 1) (func (export "run"))"#)).unwrap_or_default();
            bytes.truncate(bytes.len() / 2);
            Guest::Bytes(bytes)
        }),
        invalid("native code that nobody signed", 31, |_| Guest::Bytes([b"\x8bisopod\n", &[0; 4_096][..]].concat())),
        invalid("a section of 4 GiB", 11, |_| Guest::Bytes(b"\0asm\x0d\0\x01\0\x01\xff\xff\xff\xff\x0f".into())),
        invalid("a vector of 4 G elements", 11, |_| {
            Guest::Bytes(b"\0asm\x0d\0\x01\0\x07\x05\xff\xff\xff\xff\x0f".into())
        }),
        invalid("code that is not valid", 11, |_| runner(r#"(func (export "run") (drop (i32.add (i32.const 1))))"#).into()),
        invalid("a type in place of a function", 13, |_| r#"(component (type $f (func)) (export "run" (type $f)))"#.into()),
        invalid("a memory of 64 bits", 11, |_| runner(r#"(memory i64 0x100000000) (func (export "run"))"#).into()),
        invalid("a shared memory", 11, |_| runner(r#"(memory 1 10 shared) (func (export "run"))"#).into()),
        invalid("pages of one byte", 11, |_| runner(r#"(memory 1 (pagesize 1)) (func (export "run"))"#).into()),
        invalid("garbage-collected types", 11, |_| {
            runner(r#"(type $a (array i8)) (func (export "run") (drop (array.new_default $a (i32.const 1))))"#).into()
        }),
        invalid("exceptions", 1, |_| {
            runner(r#"(tag $t) (func (export "run") (loop $l (try_table (catch_all $l) (throw $t))))"#).into()
        }),
        invalid("types of a million parts", 8, |_| doubled(20).into()),
        Case::new("a type of a hundred thousand parts", 8, Abi, |_| doubled(16).into()).described(),
        complex("8 MiB and one byte", 10, ComponentBytes, |_| {
            let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
            // A custom section of that many bytes, with an empty name.
            bytes.extend(b"\0\x81\x80\x80\x04\0");
            bytes.resize(bytes.len() + (8 << 20), 0);
            Guest::Bytes(bytes)
        }),
        complex("sixty thousand types", 10, Functions, |_| {
            format!("(component (core module {}))", "(type (func))".repeat(60_000)).into()
        }),
        complex("sixty thousand globals", 7, Functions, |_| {
            format!("(component (core module {}))", "(global i32 (i32.const 0))".repeat(60_000)).into()
        }),
        complex("exports that double", 10, Functions, |_| {
            let doubled: String = (1..17)
                .map(|i| {
                    format!(r#"(instance $t{i} (export "a" (instance $t{0})) (export "b" (instance $t{0})))"#, i - 1)
                })
                .collect();
            format!(r#"(component (import "wasi:cli/exit@0.2.0" (instance $e)) (instance $t0 (export "e" (instance $e))) {doubled})"#).into()
        }),
        complex("loops within loops", 10, Nesting, |_| {
            let (open, close) = ("loop ".repeat(60), "end ".repeat(60));
            format!("(component (core module (func {open} {close})))").into()
        }),
        complex("components within components", 10, Nesting, |_| {
            format!("{}{}", "(component ".repeat(60), ")".repeat(60)).into()
        }),
        complex("thirty core instances", 6, CoreInstances, |_| {
            format!("(component (core module $m) {})", "(core instance (instantiate $m))".repeat(30)).into()
        }),
        complex("parts that double", 6, Adapters, |_| {
            let nested = (0..11).fold(String::new(), |inner, n| {
                let twice = if n == 0 { String::new() } else { "(instance (instantiate $c))".repeat(2) };
                format!("(component $c {inner} {twice})")
            });
            format!("(component {nested} (instance (instantiate $c)))").into()
        }),
        complex("functions that pass through", 9, Adapters, |_| {
            format!(
                r#"(component (core module $m (func (export "f"))) (core instance $i (instantiate $m))
                    (func $f (canon lift (core func $i "f"))) {})"#,
                "(core func (canon lower (func $f)))".repeat(1_100)
            )
            .into()
        }),
        complex("calls that pass a thousand values", 10, Values, |_| {
            // What is never reached is counted, and compiles to nothing.
            let thousand = "i32 ".repeat(1_000);
            format!(
                r#"(component (core module (type $t (func (param {thousand}) (result {thousand})))
                    (import "" "" (func $f (type $t))) (func unreachable {} unreachable)))"#,
                "call $f ".repeat(15_000)
            )
            .into()
        }),
        complex("more memories than a call has", 6, Invalid, |_| {
            format!("(component (core module $m {}) (core instance (instantiate $m)))", "(memory 0)".repeat(5)).into()
        }),
        complex("more tables than a call has", 6, Invalid, |_| {
            format!("(component (core module $m {}) (core instance (instantiate $m)))", "(table 0 funcref)".repeat(17)).into()
        }),
        Case::new("a standard export of another type", 13, Invalid, |_| {
            r#"(component (instance $i) (export "wasi:http/incoming-handler@0.2.0" (instance $i)))"#.into()
        })
        .refused(WrongExport),
        ungranted("sockets", 18, |_| r#"(component (import "wasi:sockets/tcp@0.2.0" (instance)))"#.into()),
        ungranted("requests", 21, |_| r#"(component (import "wasi:http/outgoing-handler@0.2.0" (instance)))"#.into()),
        ungranted("secrets", 28, |_| r#"(component (import "isopod:secrets/secrets@0.1.0" (instance)))"#.into()),
        ungranted("keys and values", 27, |_| r#"(component (import "wasi:keyvalue/store@0.2.0-draft2" (instance)))"#.into()),
        ungranted("other functions", 33, |_| r#"(component (import "isopod:function/functions@0.1.0" (instance)))"#.into()),
        Case::new("a thousand imports with long names", 36, Text, |_| {
            let name = |n| format!(r#"(import "a{n}-{}" (func))"#, "x".repeat(1_000));
            format!("(component {})", (0..1_000).map(name).collect::<String>()).into()
        })
        .refused(UngrantedImport),
        Case::new("an export with a long name", 36, Text, |_| {
            let name = "x".repeat(50_000);
            format!(r#"(component (core module $m (func (export "f"))) (core instance $i (instantiate $m))
                (func (export "run") (canon lift (core func $i "f"))) (func (export "a-{name}") (canon lift (core func $i "f"))))"#).into()
        })
        .described(),
    ]
}

/// An export that gives a type of 2 to the `times` parts.
fn doubled(times: u32) -> String {
    let types: String = (1..=times).map(|n| format!("(type $t{n} (tuple $t{0} $t{0}))", n - 1)).collect();
    format!(
        r#"(component (type $t0 (tuple u8)) {types}
            (core module $m (memory (export "m") 1) (func (export "run") (result i32) (i32.const 0)))
            (core instance $i (instantiate $m))
            (func (export "run") (result $t{times}) (canon lift (core func $i "run") (memory (core memory $i "m")))))"#
    )
}
