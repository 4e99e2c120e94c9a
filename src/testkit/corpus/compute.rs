//! Guests that do not stop: in every place where a guest's code runs, and in every way to keep a host busy for it.

use super::shell::*;
use crate::ErrorKind::{Denied, TimedOut, Trapped};
use crate::testkit::case::Case;
use crate::testkit::promise::Promise::{Busy, Deadline, Fuel, Grants, Trap};
use serde_json::json;

const LOOP: &str = "(loop $l (br $l))";

/// What takes longest is first, so that it does not stand alone at the end.
pub(super) fn cases() -> Vec<Case> {
    let endless = |name, threat, guest| Case::new(name, threat, Deadline, guest).fails(TimedOut);
    vec![
        endless("loop in an export", 1, |_| runner(&format!(r#"(func (export "run") {LOOP})"#)).into()),
        endless("loop in a start function", 1, |_| {
            runner(&format!(r#"(func $s {LOOP}) (start $s) (func (export "run"))"#)).into()
        }),
        endless("loop by tail calls", 1, |_| runner(r#"(func $f (export "run") (return_call $f))"#).into()),
        endless("loop by indirect tail calls", 1, |_| {
            let body = r#"(type $t (func)) (table 1 funcref) (elem (i32.const 0) $f)
                (func $f (export "run") (return_call_indirect (type $t) (i32.const 0)))"#;
            runner(body).into()
        }),
        endless("loop in a million short calls", 1, |_| {
            runner(r#"(func $f (param i32) (result i32) (local.get 0))
                (func (export "run") (loop $l (drop (call $f (i32.const 1))) (br $l)))"#)
            .into()
        }),
        endless("loop of copies of 60 MiB", 3, |_| {
            // One instruction that takes longer than a tick.
            let body = r#"(memory 1000) (func (export "run") (loop $l
                (memory.copy (i32.const 0) (i32.const 65536) (i32.const 65000000)) (br $l)))"#;
            runner(body).into()
        }),
        endless("loop of filled tables", 3, |_| {
            let body = r#"(table $t 20000 funcref) (func (export "run") (loop $l
                (table.fill $t (i32.const 0) (ref.null func) (i32.const 20000)) (br $l)))"#;
            runner(body).into()
        }),
        endless("loop in realloc", 2, |_| {
            let body = format!(
                r#"(memory (export "m") 1) (func (export "run") (param i32 i32))
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) {LOOP} (i32.const 0))"#
            );
            exporting(r#"(param "s" string)"#, &body, REALLOC).into()
        })
        .args(|_| json!(["x"])),
        endless("loop in post-return", 2, |_| {
            let body =
                format!(r#"(func (export "run") (result i32) (i32.const 7)) (func (export "p") (param i32) {LOOP})"#);
            exporting("(result u32)", &body, r#"(post-return (core func $i "p"))"#).into()
        }),
        endless("loop in the realloc of a part", 2, |_| {
            let callee = format!(
                r#"(memory (export "m") 1) (func (export "f") (param i32 i32))
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) {LOOP} (i32.const 0))"#
            );
            composed(&callee, r#"(func (export "run") (call $f (i32.const 0) (i32.const 9)))"#).into()
        })
        .seats(|_| 2),
        endless("text of 30 MB between parts", 3, |_| {
            let callee = r#"(memory (export "m") 480) (func (export "f") (param i32 i32))
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 65536))"#;
            composed(
                callee,
                r#"(func (export "run") (loop $l (call $f (i32.const 65536) (i32.const 30000000)) (br $l)))"#,
            )
            .into()
        })
        .seats(|_| 2),
        endless("loop of random bytes", 3, |_| {
            let body = r#"(func (export "run") (loop $l (call $bytes (i64.const 65536) (i32.const 0)) (br $l)))"#;
            importing(RANDOM, &[BYTES], body).into()
        }),
        endless("loop of host calls", 3, |_| {
            importing(CLOCK, &[NOW], r#"(func (export "run") (loop $l (drop (call $now)) (br $l)))"#).into()
        }),
        endless("sleep of 584 years", 16, |_| {
            let body = r#"(func (export "run") (call $block (call $after (i64.const -1))))"#;
            importing(CLOCK, &[AFTER, BLOCK], body).into()
        }),
        endless("poll of a sleep of 584 years", 16, |_| {
            let body = r#"(func (export "run") (i32.store (i32.const 0) (call $after (i64.const -1)))
                (call $poll (i32.const 0) (i32.const 1) (i32.const 16)))"#;
            importing(CLOCK, &[AFTER, POLL], body).into()
        }),
        endless("sleeps of nothing", 16, |_| {
            let drop = ("drop", r#"canon resource.drop $pollable"#, "(param i32)");
            let body = r#"(func (export "run") (local $p i32) (loop $l (local.set $p (call $after (i64.const 0)))
                (call $block (local.get $p)) (call $drop (local.get $p)) (br $l)))"#;
            importing(CLOCK, &[AFTER, BLOCK, drop], body).into()
        }),
        endless("async sleep of 584 years", 16, |_| {
            let body = r#"(func (export "run") (call $wait (i64.const -1)))"#;
            importing_async(WAIT, &[WAIT_FOR], body).into()
        }),
        endless("async sleeps of nothing", 16, |_| {
            let body = r#"(func (export "run") (loop $l (call $wait (i64.const 0)) (br $l)))"#;
            importing_async(WAIT, &[WAIT_FOR], body).into()
        }),
        endless("yields for ever", 16, |_| {
            let body = r#"(func (export "run") (loop $l (drop (call $yield)) (br $l)))"#;
            importing_async("", &[("yield", "canon thread.yield", "(result i32)")], body).into()
        }),
        endless("loop after its result", 2, |_| after_result(LOOP).into()),
        Case::new("trap after its result", 2, Trap, |_| after_result("unreachable").into()).fails(Trapped),
        Case::new("computes for ever", 17, Busy, |_| runner(&format!(r#"(func (export "run") {LOOP})"#)).into())
            .spends(),
        Case::new("computes as it starts", 17, Busy, |_| {
            runner(&format!(r#"(func $s {LOOP}) (start $s) (func (export "run"))"#)).into()
        })
        .spends(),
        Case::new("computes between host calls", 17, Busy, |_| {
            let body = r#"(func (export "run") (local $n i32) (loop $l (drop (call $now)) (local.set $n (i32.const 10000))
                (loop $m (br_if $m (local.tee $n (i32.sub (local.get $n) (i32.const 1))))) (br $l)))"#;
            importing(CLOCK, &[NOW], body).into()
        })
        .spends()
        .room(&[("host_calls", u64::MAX)]),
        Case::new("burns fuel for ever", 1, Fuel, |_| runner(&format!(r#"(func (export "run") {LOOP})"#)).into())
            .spends(),
        Case::new("burns fuel as it starts", 1, Fuel, |_| {
            runner(&format!(r#"(func $s {LOOP}) (start $s) (func (export "run"))"#)).into()
        })
        .spends(),
        Case::new("recursion without end", 4, Trap, |_| runner(r#"(func $f (export "run") (call $f))"#).into()),
        Case::new("recursion with large frames", 4, Trap, |_| {
            let locals: String = (0..400).map(|n| format!("(local.set {n} (call $f (i64.const {n})))")).collect();
            let uses: String = (0..400).map(|n| format!("local.get {n} i64.add ")).collect();
            let locals = format!("(local {}) {locals} i64.const 0 {uses}", "i64 ".repeat(400));
            runner(&format!(
                r#"(func $f (param i64) (result i64) {locals}) (func (export "run") (drop (call $f (i64.const 0))))"#
            ))
            .into()
        }),
        Case::new("recursion in realloc", 4, Trap, |_| {
            let body = r#"(memory (export "m") 1) (func (export "run") (param i32 i32))
                (func $r (export "realloc") (param i32 i32 i32 i32) (result i32)
                    (i32.add (call $r (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)) (i32.const 1)))"#;
            exporting(r#"(param "s" string)"#, body, REALLOC).into()
        })
        .args(|_| json!(["x"])),
        Case::new("recursion by destructors", 4, Trap, |_| DESTRUCTORS.into()),
        Case::new("recursion by destructors, in an async function", 4, Trap, |_| {
            DESTRUCTORS.replace("(canon lift", "async (canon lift").into()
        }),
        Case::new("sleeps where nothing was granted", 16, Grants, |_| {
            importing(r#"(import "acme:x/sleep" (instance $s (export "ever" (func))))"#, &[("ever", r#"$s "ever""#, "")],
                r#"(func (export "run") (loop $l (call $ever) (br $l)))"#).into()
        })
        .with(|builder, _| builder.deny_at_call())
        .fails(Denied),
    ]
}

pub(super) const REALLOC: &str = r#"(memory (core memory $i "m")) (realloc (core func $i "realloc"))"#;

/// WASI 0.3's sleep.
const WAIT: &str = r#"(import "wasi:clocks/monotonic-clock@0.3.0" (instance $clock
    (export "wait-for" (func async (param "how-long" u64)))))"#;
const WAIT_FOR: Import<'static> = ("wait", r#"$clock "wait-for""#, "(param i64)");

/// An async export that gives its result and goes on.
fn after_result(code: &str) -> String {
    format!(
        r#"(component
            (core func $return (canon task.return (result u32)))
            (core module $m (import "w" "return" (func $return (param i32)))
                (func (export "run") (result i32) (call $return (i32.const 7)) {code} unreachable)
                (func (export "cb") (param i32 i32 i32) (result i32) (i32.const 1)))
            (core instance $w (export "return" (func $return)))
            (core instance $i (instantiate $m (with "w" (instance $w))))
            (func (export "run") async (result u32)
                (canon lift (core func $i "run") async (callback (core func $i "cb")))))"#
    )
}

/// A destructor that makes and drops a resource of its own type goes through the host at each level.
const DESTRUCTORS: &str = r#"(component
    (core module $d
        (table (export "t") 1 funcref)
        (type $f (func (param i32)))
        (func (export "destroy") (param i32) (call_indirect (type $f) (local.get 0) (i32.const 0))))
    (core instance $d (instantiate $d))
    (type $r (resource (rep i32) (dtor (core func $d "destroy"))))
    (core func $new (canon resource.new $r))
    (core func $drop (canon resource.drop $r))
    (core module $m
        (import "w" "new" (func $new (param i32) (result i32))) (import "w" "drop" (func $drop (param i32)))
        (import "d" "t" (table 1 funcref))
        (func $again (param i32) (call $drop (call $new (i32.const 1))))
        (elem (i32.const 0) $again)
        (func (export "run") (call $again (i32.const 0))))
    (core instance $w (export "new" (func $new)) (export "drop" (func $drop)))
    (core instance $i (instantiate $m (with "w" (instance $w)) (with "d" (instance $d))))
    (func (export "run") (canon lift (core func $i "run"))))"#;
