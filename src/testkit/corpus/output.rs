//! Guests that say too much: as a result, to the host, in logs, and in the names that errors show.

use super::compute::REALLOC;
use super::shell::*;
use crate::ErrorKind::{GuestAbi, LimitExceeded, OutputTooLarge, Trapped};
use crate::testkit::case::{Case, Figures};
use crate::testkit::judge::FORGED;
use crate::testkit::promise::Promise::{HostCalls, Input, Log, Output, Random, Resident, Text, Transfer};
use crate::{KIB, Limit, MIB};
use serde_json::json;
use std::future::ready;

/// Bytes that a guest passes at most: a process must survive a limit that is off.
const MOST: u64 = 16 * MIB;

fn most(figures: &Figures, name: &str) -> u64 {
    figures.get(name).min(MOST)
}

/// Bytes that a guest logs, and some more.
fn logged(figures: &Figures) -> u64 {
    figures.get("log_bytes").min(2 * MIB)
}

/// Pages for that many bytes, and some.
fn pages(bytes: u64) -> u64 {
    bytes / (64 * KIB) + 2
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("a result of all it may have", 12, Output, |figures| {
            let bytes = most(figures, "output_bytes");
            gives_from(pages(bytes), "(list u8)", &slice(64, bytes)).into()
        })
        .answers(),
        Case::new("a result of one byte more", 12, Output, |figures| {
            let bytes = most(figures, "output_bytes") + 1;
            gives_from(pages(bytes), "(list u8)", &slice(64, bytes)).into()
        })
        .fails(OutputTooLarge),
        Case::new("text of one byte more", 12, Output, |figures| {
            let bytes = most(figures, "output_bytes") + 1;
            gives_from(pages(bytes), "string", &slice(128, bytes)).into()
        })
        .fails(OutputTooLarge),
        Case::new("the same text a hundred thousand times", 12, Resident, |_| {
            let body = format!(
                "(local $n i32) {} {}",
                times(
                    100_000,
                    "(i32.store (i32.add (i32.const 65536) (i32.mul (local.get $n) (i32.const 8))) (i32.const 1048576))
                    (i32.store offset=4 (i32.add (i32.const 65536) (i32.mul (local.get $n) (i32.const 8))) (i32.const 1048576))"
                ),
                slice(65_536, 100_000)
            );
            gives_from(33, "(list string)", &body).into()
        })
        .fails(OutputTooLarge),
        Case::new("a million flags", 12, Resident, |_| {
            let flags: String = (0..32).map(|n| format!("\"flag-{n}\" ")).collect();
            typed(80, &format!("(flags {flags})"), 1_000_000).into()
        })
        .fails(OutputTooLarge),
        Case::new("a million variants", 12, Resident, |_| {
            gives_from(80, "(list (option (result u8 (error u8))))", &slice(64, 1_000_000)).into()
        })
        .fails(OutputTooLarge),
        Case::new("a million empty lists", 12, Resident, |_| {
            gives_from(130, "(list (list u8))", &slice(128, 1_000_000)).into()
        })
        .fails(OutputTooLarge),
        Case::new("a record whose fields have long names", 12, Resident, |_| {
            let name = "n".repeat(10_000);
            typed(2, &format!(r#"(record (field "{name}" u8))"#), 10_000).into()
        })
        .fails(OutputTooLarge),
        Case::new("arguments of all it may have", 12, Input, |_| takes().into())
            .args(|figures| json!(["x".repeat(most(figures, "input_bytes") as usize)]))
            .gives(|_| json!(null)),
        Case::new("arguments of one byte more", 12, Input, |_| takes().into())
            .args(|figures| json!(["x".repeat(most(figures, "input_bytes") as usize + 1)]))
            .fails(LimitExceeded(Limit::Input)),
        Case::new("passes one byte more to the host", 12, Transfer, |figures| {
            let bytes = most(figures, "transfer_bytes") + 1;
            passes(pages(bytes), &format!("(call $sink (i32.const 0) (i32.const {bytes}))")).into()
        })
        .with(|builder, _| builder.import("", "sink", |_, _: (String,)| ready(())))
        .fails(LimitExceeded(Limit::Transfer)),
        Case::new("calls of the host, as many as it may", 3, HostCalls, |figures| {
            clock(figures.get("host_calls").min(1_000_000)).into()
        })
        .gives(|_| json!(null)),
        Case::new("calls of the host, one more", 3, HostCalls, |figures| {
            clock(figures.get("host_calls").min(1_000_000) + 1).into()
        })
        .fails(LimitExceeded(Limit::HostCalls)),
        Case::new("random bytes, as many as it may", 16, Random, |figures| random(most(figures, "random_bytes")).into())
            .with(|builder, wire| {
                let wire = wire.clone();
                builder.import("", "seen", move |_, (n,): (u64,)| {
                    wire.came(n);
                    ready(())
                })
            })
            .gives(|_| json!(null)),
        Case::new("random bytes, one more", 16, Random, |figures| random(most(figures, "random_bytes") + 1).into())
            .with(|builder, wire| {
                let wire = wire.clone();
                builder.import("", "seen", move |_, (n,): (u64,)| {
                    wire.came(n);
                    ready(())
                })
            })
            .fails(LimitExceeded(Limit::Random)),
        Case::new("a flood on stdout", 15, Log, |figures| {
            let pieces = logged(figures) / 4_096 + 1_000;
            let body = times(pieces, "(call $write (local.get $o) (i32.const 65536) (i32.const 4096) (i32.const 16))");
            let body = format!(r#"(func (export "run") (local $n i32) (local $o i32) (local.set $o (call $stdout)) {body})"#);
            importing(&format!("{STREAMS} {STDOUT}"), &[GET_STDOUT, WRITE], &body).into()
        })
        .room(&[("host_calls", u64::MAX)])
        .gives(|_| json!(null)),
        Case::new("a flood of log records", 15, Log, |figures| {
            let records = logged(figures) / 1_024 + 1_000;
            let log = "(call $log (i32.const 2) (i32.const 0) (i32.const 8) (i32.const 0) (i32.const 1000))";
            let body = format!(r#"(func (export "run") (local $n i32) {})"#, times(records, log));
            importing(LOGGING, &[LOG], &body).into()
        })
        .room(&[("host_calls", u64::MAX)])
        .gives(|_| json!(null)),
        Case::new("a flood of empty log records", 15, Log, |figures| {
            let records = logged(figures) / 64 + 1_000;
            let log = "(call $log (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))";
            let body = format!(r#"(func (export "run") (local $n i32) {})"#, times(records, log));
            importing(LOGGING, &[LOG], &body).into()
        })
        .room(&[("host_calls", u64::MAX)])
        .gives(|_| json!(null)),
        Case::new("names of functions that move the cursor", 36, Text, |_| {
            let name = "\\1b[2J\\e2\\80\\ae\\07".repeat(2_000);
            runner(&format!(
                r#"(func $evil (@name "{name}") unreachable) (func (export "run") (call $evil))"#
            ))
            .into()
        })
        .fails(Trapped),
        Case::new("names of functions that are lines of an error", 36, Text, |_| {
            runner(&format!(
                r#"(func $evil (@name "x\n{FORGED}\n    {FORGED}") unreachable) (func (export "run") (call $evil))"#
            ))
            .into()
        })
        .fails(Trapped),
        Case::new("a name that unfolds to terabytes", 36, Text, |_| {
            runner(&format!(
                r#"(func $deep (@name "{}") (param i32) (if (i32.eqz (local.get 0)) (then unreachable))
                    (call $deep (i32.sub (local.get 0) (i32.const 1))))
                (func (export "run") (call $deep (i32.const 20)))"#,
                unfolding()
            ))
            .into()
        })
        .fails(Trapped),
        Case::new("text in place of a number of a case", 36, Text, |_| {
            let long = "c".repeat(5_000);
            let ty = format!(r#"(variant (case "{long}" string) (case "b{long}"))"#);
            typed(4, &ty, 1_000).into()
        })
        .fails(GuestAbi),
    ]
}

/// A guest that takes text, in 17 MiB.
fn takes() -> String {
    let body = r#"(memory (export "m") 273) (func (export "run") (param i32 i32))
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))"#;
    exporting(r#"(param "s" string)"#, body, REALLOC)
}

/// A guest that gives a list of that many elements of a type, which has a name.
fn typed(pages: u64, ty: &str, count: u64) -> String {
    format!(
        r#"(component
            (type $t' {ty}) (import "t" (type $t (eq $t')))
            (core module $m (memory (export "m") {pages}) (data (i32.const 64) "\09\09\09\09")
                (func (export "run") (result i32) {} (i32.const 0)))
            (core instance $i (instantiate $m))
            (func (export "run") (result (list $t)) (canon lift (core func $i "run") (memory (core memory $i "m")))))"#,
        slice(64, count)
    )
}

/// A guest that passes bytes to the host.
fn passes(pages: u64, call: &str) -> String {
    importing_from(
        pages,
        r#"(import "sink" (func $sink (param "data" string)))"#,
        &[("sink", "$sink", "(param i32 i32)")],
        &format!(r#"(func (export "run") {call})"#),
        "",
    )
}

fn clock(calls: u64) -> String {
    let body = format!(r#"(func (export "run") (local $n i32) {})"#, times(calls, "(drop (call $now))"));
    importing(CLOCK, &[NOW], &body)
}

/// Asks for that many random bytes, and says that it got them.
fn random(bytes: u64) -> String {
    let body = format!(
        r#"(func (export "run") (call $bytes (i64.const {bytes}) (i32.const 0)) (call $seen (i64.const {bytes})))"#
    );
    importing_from(pages(bytes) + 2, &format!("{RANDOM} {SEEN}"), &[BYTES, TELL], &body, "")
}

/// WASI 0.2's standard output, as `$stdout`.
const STDOUT: &str = r#"
    (import "wasi:cli/stdout@0.2.0" (instance $stdout
        (alias outer 1 $out (type $o'))
        (export "output-stream" (type $o (eq $o')))
        (export "get-stdout" (func (result (own $o))))))"#;
const GET_STDOUT: Import<'static> = ("stdout", r#"$stdout "get-stdout""#, "(result i32)");

const LOGGING: &str = r#"(import "wasi:logging/logging@0.1.0-draft" (instance $logging
    (type $l' (enum "trace" "debug" "info" "warn" "error" "critical"))
    (export "level" (type $l (eq $l')))
    (export "log" (func (param "level" $l) (param "context" string) (param "message" string)))))"#;
const LOG: Import<'static> = ("log", r#"$logging "log""#, "(param i32 i32 i32 i32 i32)");

/// A mangled name of some hundred bytes for a tuple of a million million parts.
fn unfolding() -> String {
    // Each tuple is twice the one before, by reference to where that stands in the name.
    let (mut name, mut at) = ("INvC1a1f".to_owned(), None);
    for _ in 0..40 {
        let here = name.len();
        name += &match at {
            None => "ThhE".to_owned(),
            Some(at) => format!("T{0}{0}E", reference(at)),
        };
        at = Some(here);
    }
    format!("_R{name}E")
}

/// A back reference as Rust mangles it: its number in base 62, less one.
fn reference(at: usize) -> String {
    const DIGITS: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let (mut rest, mut digits) = (at - 1, String::new());
    while rest > 0 || digits.is_empty() {
        digits.insert(0, char::from(DIGITS[rest % 62]));
        rest /= 62;
    }
    format!("B{digits}_")
}
