//! Guests whose values are not what their types say, and guests that trap.

use super::compute::REALLOC;
use super::shell::*;
use crate::ErrorKind::{Exited, GuestAbi, HostPanic, Trapped};
use crate::testkit::case::Case;
use crate::testkit::promise::Promise::{Abi, Panic, Trap};
use serde_json::json;
use std::future::ready;

pub(super) fn cases() -> Vec<Case> {
    let lie = |name, guest| Case::new(name, 13, Abi, guest).fails(GuestAbi);
    let trap = |name, guest| Case::new(name, 13, Trap, guest).fails(Trapped);
    vec![
        lie("text that is no UTF-8", |_| gives("string", &slice(64, 3)).into()),
        lie("text that is half of a pair in UTF-16", |_| {
            let body = format!(
                r#"(memory (export "m") 2) (data (i32.const 64) "\00\d8\00\d8")
                (func (export "run") (result i32) {} (i32.const 0))"#,
                slice(64, 2)
            );
            exporting("(result string)", &body, r#"(memory (core memory $i "m")) string-encoding=utf16"#).into()
        }),
        lie("text beyond its memory", |_| gives("string", &slice(4_000_000_000, 8)).into()),
        lie("text that ends beyond its memory", |_| gives("string", &slice(131_064, 9)).into()),
        lie("text whose end wraps around", |_| gives("string", &slice(4_294_967_288, 16)).into()),
        lie("bytes beyond its memory", |_| gives("(list u8)", &slice(131_000, 100)).into()),
        lie("an empty list beyond its memory", |_| gives("(list u8)", &slice(0xffff_fff0, 0)).into()),
        lie("a list whose length wraps around", |_| gives("(list u64)", &slice(64, 0x2000_0001)).into()),
        lie("a list that is not aligned", |_| gives("(list u32)", &slice(65, 1)).into()),
        lie("a result that is not aligned", |_| {
            let body = r#"(memory (export "m") 2) (func (export "run") (result i32) (i32.const 2))"#;
            exporting("(result (tuple u32 u32))", body, r#"(memory (core memory $i "m"))"#).into()
        }),
        lie("a result beyond its memory", |_| {
            let body = r#"(memory (export "m") 1) (func (export "run") (result i32) (i32.const 65534))"#;
            exporting("(result (tuple u8 u32))", body, r#"(memory (core memory $i "m"))"#).into()
        }),
        lie("a case that there is not", |_| gives("(result u32 (error u32))", STORE_9).into()),
        lie("neither some nor none", |_| gives("(option u32)", STORE_9).into()),
        lie("a surrogate as a character", |_| scalar("char", "(i32.const 0xd800)").into()),
        lie("a character beyond Unicode", |_| scalar("char", "(i32.const 0x110000)").into()),
        lie("a handle that it made up", |_| {
            let body = r#"(func (export "run") (call $block (i32.const 77)))"#;
            importing(CLOCK, &[BLOCK], body).into()
        }),
        lie("a handle that it dropped", |_| {
            let drop = ("drop", "canon resource.drop $pollable", "(param i32)");
            let body = r#"(func (export "run") (local $p i32) (local.set $p (call $after (i64.const 0)))
                (call $drop (local.get $p)) (call $block (local.get $p)))"#;
            importing(CLOCK, &[AFTER, BLOCK, drop], body).into()
        }),
        lie("a handle dropped twice", |_| {
            let (new, drop) = (
                ("new", "canon resource.new $r", "(param i32) (result i32)"),
                ("drop", "canon resource.drop $r", "(param i32)"),
            );
            let body = r#"(func (export "run") (local $p i32) (local.set $p (call $new (i32.const 1)))
                (call $drop (local.get $p)) (call $drop (local.get $p)))"#;
            importing("(type $r (resource (rep i32)))", &[new, drop], body).into()
        }),
        lie("a handle of another type", |_| {
            let (new, rep) = (
                ("new", "canon resource.new $r", "(param i32) (result i32)"),
                ("rep", "canon resource.rep $s", "(param i32) (result i32)"),
            );
            let body = r#"(func (export "run") (drop (call $rep (call $new (i32.const 1)))))"#;
            importing("(type $r (resource (rep i32))) (type $s (resource (rep i32)))", &[new, rep], body).into()
        }),
        lie("text for the host that is no UTF-8", |_| {
            let body =
                r#"(data (i32.const 64) "\ff\fe") (func (export "run") (call $say (i32.const 64) (i32.const 2)))"#;
            importing(SAY, &[SAYS], body).into()
        })
        .with(|builder, _| builder.import("", "say", |_, _: (String,)| ready(()))),
        lie("text for the host from beyond its memory", |_| {
            let body = r#"(func (export "run") (call $say (i32.const -9) (i32.const 20)))"#;
            importing(SAY, &[SAYS], body).into()
        })
        .with(|builder, _| builder.import("", "say", |_, _: (String,)| ready(()))),
        lie("a place for its arguments beyond its memory", |_| realloc("(i32.const -8)").into())
            .args(|_| json!(["0123456789"])),
        lie("a place for its arguments that is not aligned", |_| {
            let body = r#"(memory (export "m") 1) (func (export "run") (param i32 i32))
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1025))"#;
            exporting(r#"(param "x" (list u32))"#, body, REALLOC).into()
        })
        .args(|_| json!([[1, 2, 3]])),
        lie("a call of the host while its arguments are placed", |_| {
            let libc = r#"(component
                (import "say" (func $say (param "s" string)))
                (core module $mem (memory (export "m") 1))
                (core instance $mem (instantiate $mem))
                (core func $say (canon lower (func $say) (memory (core memory $mem "m"))))
                (core module $m (import "w" "say" (func $say (param i32 i32)))
                    (func (export "run") (param i32 i32))
                    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
                        (call $say (i32.const 0) (i32.const 0)) (i32.const 1024)))
                (core instance $w (export "say" (func $say)))
                (core instance $i (instantiate $m (with "w" (instance $w))))
                (func (export "run") (param "s" string) (canon lift (core func $i "run")
                    (memory (core memory $mem "m")) (realloc (core func $i "realloc")))))"#;
            libc.into()
        })
        .with(|builder, _| builder.import("", "say", |_, _: (String,)| ready(())))
        .args(|_| json!(["x"])),
        lie("a result given twice", |_| {
            r#"(component
                (core func $return (canon task.return (result u32)))
                (core module $m (import "w" "return" (func $return (param i32)))
                    (func (export "run") (result i32)
                        (call $return (i32.const 1)) (call $return (i32.const 2)) (i32.const 0))
                    (func (export "cb") (param i32 i32 i32) (result i32) (i32.const 0)))
                (core instance $w (export "return" (func $return)))
                (core instance $i (instantiate $m (with "w" (instance $w))))
                (func (export "run") async (result u32)
                    (canon lift (core func $i "run") async (callback (core func $i "cb")))))"#
                .into()
        }),
        lie("no result at all", |_| {
            r#"(component
                (core module $m
                    (func (export "run") (result i32) (i32.const 0))
                    (func (export "cb") (param i32 i32 i32) (result i32) (i32.const 0)))
                (core instance $i (instantiate $m))
                (func (export "run") async (result u32)
                    (canon lift (core func $i "run") async (callback (core func $i "cb")))))"#
                .into()
        }),
        lie("a code of no meaning to the scheduler", |_| {
            r#"(component
                (core func $return (canon task.return))
                (core module $m (import "w" "return" (func $return))
                    (func (export "run") (result i32) (call $return) (i32.const 15))
                    (func (export "cb") (param i32 i32 i32) (result i32) (i32.const 0)))
                (core instance $w (export "return" (func $return)))
                (core instance $i (instantiate $m (with "w" (instance $w))))
                (func (export "run") async
                    (canon lift (core func $i "run") async (callback (core func $i "cb")))))"#
                .into()
        }),
        Case::new("a truth of nine", 13, Abi, |_| scalar("bool", "(i32.const 9)").into()).gives(|_| json!(true)),
        Case::new("a byte of a thousand", 13, Abi, |_| scalar("u8", "(i32.const 1000)").into()).gives(|_| json!(232)),
        trap("unreachable", |_| runner(r#"(func (export "run") unreachable)"#).into()),
        trap("division by zero", |_| {
            runner(r#"(func (export "run") (drop (i32.div_u (i32.const 1) (i32.const 0))))"#).into()
        }),
        trap("a number too large for its type", |_| {
            runner(r#"(func (export "run") (drop (i32.trunc_f64_u (f64.const inf))))"#).into()
        }),
        trap("a read beyond its memory", |_| {
            runner(r#"(memory 1) (func (export "run") (drop (i64.load offset=4294967295 (i32.const -1))))"#).into()
        }),
        trap("a copy beyond its memory", |_| {
            runner(r#"(memory 1) (func (export "run") (memory.copy (i32.const 65530) (i32.const 0) (i32.const 100)))"#)
                .into()
        }),
        trap("a call of nothing", |_| {
            runner(r#"(table 1 funcref) (func (export "run") (call_indirect (i32.const 0)))"#).into()
        }),
        trap("a call of another type", |_| {
            let body = r#"(table 1 funcref) (elem (i32.const 0) $f) (func $f (param i64))
                (func (export "run") (call_indirect (i32.const 0)))"#;
            runner(body).into()
        }),
        trap("a trap as it starts", |_| runner(r#"(func $s unreachable) (start $s) (func (export "run"))"#).into()),
        trap("a trap after its result", |_| {
            let body =
                r#"(func (export "run") (result i32) (i32.const 7)) (func (export "p") (param i32) unreachable)"#;
            exporting("(result u32)", body, r#"(post-return (core func $i "p"))"#).into()
        }),
        Case::new("exit", 32, Trap, |_| {
            let exit = r#"(import "wasi:cli/exit@0.2.0" (instance $e (export "exit" (func (param "s" (result))))))"#;
            let body = r#"(func (export "run") (call $exit (i32.const 1)))"#;
            importing(exit, &[("exit", r#"$e "exit""#, "(param i32)")], body).into()
        })
        .fails(Exited),
        Case::new("a host function that panics", 32, Panic, |_| panics().into())
            .with(|builder, _| {
                builder.import("", "say", async |_, _: (String,)| {
                    tokio::task::yield_now().await;
                    panics_quietly()
                })
            })
            .fails(HostPanic),
        Case::new("a host function that panics at once", 32, Panic, |_| panics().into())
            .with(|builder, _| {
                builder.import("", "say", |_, _: (String,)| {
                    panics_quietly();
                    ready(())
                })
            })
            .fails(HostPanic),
    ]
}

/// A panic whose message no hook prints: it is on purpose.
fn panics_quietly() {
    std::panic::resume_unwind(Box::new("on purpose"))
}

const STORE_9: &str = "(i32.store (i32.const 0) (i32.const 9))";

/// A host function that takes text.
const SAY: &str = r#"(import "say" (func $say (param "s" string)))"#;
const SAYS: Import<'static> = ("say", "$say", "(param i32 i32)");

fn panics() -> String {
    importing(SAY, &[SAYS], r#"(func (export "run") (call $say (i32.const 0) (i32.const 0)))"#)
}

/// A guest that gives one number as a value of that type.
fn scalar(ty: &str, number: &str) -> String {
    exporting(&format!("(result {ty})"), &format!(r#"(func (export "run") (result i32) {number})"#), "")
}

/// A guest that takes text, and places it there.
fn realloc(place: &str) -> String {
    let body = format!(
        r#"(memory (export "m") 1) (func (export "run") (param i32 i32))
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) {place})"#
    );
    exporting(r#"(param "s" string)"#, &body, REALLOC)
}
