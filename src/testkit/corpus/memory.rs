//! Guests that take memory: their own, by every way to it, and the host's, by handles.

use super::shell::*;
use crate::ErrorKind::{LimitExceeded, OutOfMemory, TimedOut};
use crate::Limit;
use crate::testkit::case::{Case, Figures};
use crate::testkit::promise::Promise::{Deadline, Handles, Memory, Resident};
use serde_json::json;

/// Pages that a guest writes to at most: a process must survive a limit that is off.
const TOUCHED: u64 = 2_048;
/// Handles that a guest takes at most.
const MOST: u64 = 200_000;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("grows memory page by page", 5, Memory, |_| {
            let body = format!(
                r#"(memory 1) (func (export "run") (local $p i32) (loop $l
                    (if (i32.eq (local.tee $p (memory.grow (i32.const 1))) (i32.const -1)) (then unreachable))
                    (if (i32.lt_u (local.get $p) (i32.const {TOUCHED}))
                        (then (i32.store (i32.mul (local.get $p) (i32.const 65536)) (i32.const 1))))
                    (br_if $l (i32.lt_u (local.get $p) (i32.const 60000)))))"#
            );
            runner(&body).into()
        })
        .fails(OutOfMemory),
        Case::new("grows memory as it starts", 5, Memory, |_| {
            let body = r#"(memory 1) (start $s) (func (export "run"))
                (func $s (if (i32.eq (memory.grow (i32.const 60000)) (i32.const -1)) (then unreachable)))"#;
            runner(body).into()
        })
        .fails(OutOfMemory),
        Case::new("grows a table, and goes on when it cannot", 5, Memory, |_| {
            let body = r#"(table $t 1 funcref) (func (export "run") (result i32) (loop $l
                (if (i32.eq (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1))
                    (then (return (i32.const 7))))
                (br_if $l (i32.lt_u (table.size $t) (i32.const 100000000)))) (i32.const 8))"#;
            exporting("(result u32)", body, "").into()
        })
        .gives(|_| json!(7)),
        Case::new("grows many memories in turn", 6, Memory, |_| {
            let memory = |n| format!("(memory $m{n} 1)");
            let grow =
                |n| format!("(if (i32.eq (memory.grow $m{n} (i32.const 100)) (i32.const -1)) (then unreachable))");
            let each = |text: &dyn Fn(u32) -> String| (0..4).map(text).collect::<String>();
            runner(&format!(r#"{} (func (export "run") (local $n i32) {})"#, each(&memory), times(200, &each(&grow))))
                .into()
        })
        .fails(OutOfMemory)
        .seats(|_| 4),
        Case::new("grows the memories of all its parts", 6, Memory, |_| {
            let part = |n| format!(r#"(core instance $i{n} (instantiate $m))"#);
            let parts: String = (0..3).map(part).collect();
            format!(
                r#"(component (core module $m (memory 400) (func (export "run") (local $n i32) (loop $l
                        (if (i32.eq (memory.grow (i32.const 100)) (i32.const -1)) (then unreachable))
                        (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 600))))))
                    {parts} (func (export "run") (canon lift (core func $i0 "run"))))"#
            )
            .into()
        })
        .fails(OutOfMemory)
        .seats(|_| 3),
        Case::new("begins with more than it may have", 6, Memory, |figures| {
            let pages = (figures.get("memory_bytes") / 65_536 + 1).min(65_536);
            runner(&format!(r#"(memory {pages}) (func (export "run"))"#)).into()
        })
        .fails(OutOfMemory),
        Case::new("is refused memory and goes on", 5, Memory, |figures| {
            let pages = (figures.get("memory_bytes") / 65_536 + 1).min(65_535);
            exporting(
                "(result u32)",
                &format!(
                    r#"(memory 1) (func (export "run") (result i32)
                (i32.add (memory.grow (i32.const {pages})) (i32.const 8)))"#
                ),
                "",
            )
            .into()
        })
        .gives(|_| json!(7)),
        Case::new("writes to all it may have", 29, Memory, |figures| {
            let pages = (figures.get("memory_bytes") / 65_536).clamp(1, TOUCHED);
            exporting(
                "(result u32)",
                &format!(
                    r#"(memory {pages}) (func (export "run") (result i32)
                (memory.fill (i32.const 0) (i32.const 0x5a) (i32.mul (i32.const 65536) (i32.const {pages})))
                (i32.load8_u (i32.const 9)))"#
                ),
                "",
            )
            .into()
        })
        .gives(|_| json!(0x5a)),
        Case::new("grows and grows, with nothing to grow", 5, Deadline, |_| {
            runner(r#"(memory 1) (func (export "run") (loop $l (drop (memory.grow (i32.const 65535))) (br $l)))"#)
                .into()
        })
        .fails(TimedOut),
        Case::new("resources of its own", 14, Handles, |figures| own_resources(beyond(figures)).into())
            .with(|builder, wire| {
                let wire = wire.clone();
                builder.import("", "seen", move |_, (n,): (u64,)| {
                    wire.came(n);
                    std::future::ready(())
                })
            })
            .room(&[("host_calls", u64::MAX)])
            .fails(LimitExceeded(Limit::Handles)),
        Case::new("resources of its own, dropped", 14, Handles, |_| {
            let body = format!(
                r#"(func (export "run") (local $n i32) {})"#,
                times(100_000, "(call $drop (call $new (i32.const 1)))")
            );
            importing("(type $r (resource (rep i32)))", &[NEW, DROP], &body).into()
        })
        .gives(|_| json!(null)),
        Case::new("pollables", 14, Handles, |figures| {
            let body = times(beyond(figures), "(drop (call $after (i64.const -1)))");
            importing(CLOCK, &[AFTER], &format!(r#"(func (export "run") (local $n i32) {body})"#)).into()
        })
        .room(&[("host_calls", u64::MAX)])
        .fails(LimitExceeded(Limit::Handles)),
        Case::new("one handle many times in a list", 14, Handles, |_| {
            let body = r#"(func (export "run") (local $n i32) (local $h i32)
                (local.set $h (call $after (i64.const 0)))
                (loop $l
                    (i32.store offset=65536 (i32.mul (local.get $n) (i32.const 4)) (local.get $h))
                    (local.set $n (i32.add (local.get $n) (i32.const 1)))
                    (br_if $l (i32.lt_u (local.get $n) (i32.const 200000))))
                (call $poll (i32.const 65536) (i32.const 200000) (i32.const 16)))"#;
            importing(CLOCK, &[AFTER, POLL], body).into()
        })
        .fails(LimitExceeded(Limit::Handles)),
        Case::new("async tasks that wait", 14, Resident, |figures| tasks(beyond(figures)).into())
            .fails(LimitExceeded(Limit::Handles))
            .seats(|_| 2),
        Case::new("streams that nobody reads", 14, Resident, |figures| {
            let body = times(beyond(figures), "(drop (call $stream))");
            let body = format!(r#"(func (export "run") (local $n i32) {body})"#);
            importing_async("(type $s (stream u8))", &[("stream", "canon stream.new $s", "(result i64)")], &body).into()
        })
        .fails(LimitExceeded(Limit::Handles)),
        Case::new("sets of waitables", 14, Resident, |figures| {
            let body = times(beyond(figures), "(drop (call $set))");
            let body = format!(r#"(func (export "run") (local $n i32) {body})"#);
            importing_async("", &[("set", "canon waitable-set.new", "(result i32)")], &body).into()
        })
        .fails(LimitExceeded(Limit::Handles)),
    ]
}

/// More handles than it may have.
fn beyond(figures: &Figures) -> u64 {
    figures.get("handles").saturating_add(10).min(MOST)
}

const NEW: Import<'static> = ("new", "canon resource.new $r", "(param i32) (result i32)");
const DROP: Import<'static> = ("drop", "canon resource.drop $r", "(param i32)");

/// Takes that many handles, and says how many it has.
fn own_resources(count: u64) -> String {
    let body = times(
        count,
        "(drop (call $new (i32.const 1))) (call $seen (i64.extend_i32_u (i32.add (local.get $n) (i32.const 1))))",
    );
    let types = format!("(type $r (resource (rep i32))) {SEEN}");
    importing(&types, &[NEW, TELL], &format!(r#"(func (export "run") (local $n i32) {body})"#))
}

/// A component of two: one whose async export returns and waits for nothing, and one that calls it over and over.
fn tasks(count: u64) -> String {
    let wait = "(i32.or (i32.const 2) (i32.shl (global.get $s) (i32.const 4)))";
    let body = times(count, "(drop (call $f))");
    format!(
        r#"(component
            (component $c
                (core func $return (canon task.return))
                (core func $set (canon waitable-set.new))
                (core module $m (import "w" "return" (func $return)) (import "w" "set" (func $set (result i32)))
                    (global $s (mut i32) (i32.const 0))
                    (func $start (global.set $s (call $set))) (start $start)
                    (func (export "f") (result i32) (call $return) {wait})
                    (func (export "cb") (param i32 i32 i32) (result i32) {wait}))
                (core instance $w (export "return" (func $return)) (export "set" (func $set)))
                (core instance $i (instantiate $m (with "w" (instance $w))))
                (func (export "f") async (canon lift (core func $i "f") async (callback (core func $i "cb")))))
            (instance $c (instantiate $c))
            (component $d
                (import "f" (func $f async))
                (core module $libc (memory (export "m") 1))
                (core instance $libc (instantiate $libc))
                (core func $f (canon lower (func $f) async (memory (core memory $libc "m"))))
                (core module $m (import "w" "f" (func $f (result i32))) (func (export "run") (local $n i32) {body}))
                (core instance $w (export "f" (func $f)))
                (core instance $i (instantiate $m (with "w" (instance $w))))
                (func (export "run") async (canon lift (core func $i "run"))))
            (instance $d (instantiate $d (with "f" (func $c "f"))))
            (export "run" (func $d "run")))"#
    )
}
