//! Texts of components around the few lines that make a guest hostile.

/// A component around one core module that exports `run`.
pub(super) fn runner(body: &str) -> String {
    exporting("", body, "")
}

/// A component around one core module whose `run` has that type, with these options of its lifting. The module's memory,
/// if it is exported as `m`, is `$mem` in them.
pub(super) fn exporting(ty: &str, body: &str, options: &str) -> String {
    format!(
        r#"(component
            (core module $m {body})
            (core instance $i (instantiate $m))
            (func (export "run") {ty} (canon lift (core func $i "run") {options})))"#
    )
}

/// A guest whose `run` gives a `ty` from 64 KiB of memory: `stores` fills it, and the result is read from address 0.
pub(super) fn gives(ty: &str, stores: &str) -> String {
    gives_from(2, ty, stores)
}

/// [`gives`] with that many pages of memory.
pub(super) fn gives_from(pages: u64, ty: &str, stores: &str) -> String {
    let body = format!(
        r#"(memory (export "m") {pages}) (data (i32.const 64) "\ff\fe\fd\00\d8\00\dc")
            (func (export "run") (result i32) {stores} (i32.const 0))"#
    );
    exporting(&format!("(result {ty})"), &body, r#"(memory (core memory $i "m"))"#)
}

/// Writes a pointer and a length to addresses 0 and 4.
pub(super) fn slice(pointer: u64, length: u64) -> String {
    format!("(i32.store (i32.const 0) (i32.const {pointer})) (i32.store (i32.const 4) (i32.const {length}))")
}

/// Runs `body` `times` over, with the number of the round in `$n`, which the function must have.
pub(super) fn times(times: u64, body: &str) -> String {
    let times = times.min(u64::from(u32::MAX));
    format!(
        "(local.set $n (i32.const 0)) (loop $again {body} (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $n) (i32.const {times}))))"
    )
}

/// A host function that a guest calls: its name in the core module, where the component has it, and its core type.
pub(super) type Import<'a> = (&'a str, &'a str, &'a str);

/// A component that imports host functions: `types` are its imports, `lowered` what its core module gets of them. The
/// module has two MiB of memory, and `run` in its body; what the host returns in memory, it returns from 32 KiB on.
pub(super) fn importing(types: &str, lowered: &[Import<'_>], body: &str) -> String {
    importing_from(32, types, lowered, body, "")
}

/// [`importing`] by the async ABI: functions that wait let the instance go on.
pub(super) fn importing_async(types: &str, lowered: &[Import<'_>], body: &str) -> String {
    importing_from(32, types, lowered, body, "async")
}

/// [`importing`] with a result of `run`.
pub(super) fn importing_to(result: &str, types: &str, lowered: &[Import<'_>], body: &str) -> String {
    importing_from(32, types, lowered, body, result)
}

/// [`importing`] with that many pages of memory, and `run` lifted so.
pub(super) fn importing_from(pages: u64, types: &str, lowered: &[Import<'_>], body: &str, run: &str) -> String {
    let each = |text: &dyn Fn(&Import<'_>) -> String| lowered.iter().map(text).collect::<String>();
    format!(
        r#"(component {types}
            (core module $libc (memory (export "m") {pages})
                (global $at (mut i32) (i32.const 32768))
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $to i32)
                    (if (i32.gt_u (i32.add (global.get $at) (local.get 3)) (i32.mul (memory.size) (i32.const 65536)))
                        (then (global.set $at (i32.const 32768))))
                    (local.set $to (global.get $at))
                    (global.set $at (i32.and (i32.add (i32.add (local.get $to) (local.get 3)) (i32.const 7)) (i32.const -8)))
                    (local.get $to)))
            (core instance $libc (instantiate $libc))
            {}
            (core module $m (import "l" "m" (memory {pages})) {} {body})
            (core instance $w {})
            (core instance $i (instantiate $m (with "w" (instance $w)) (with "l" (instance $libc))))
            (func (export "run") {run} (canon lift (core func $i "run"))))"#,
        each(&|(name, path, _)| {
            let canon = if path.starts_with("canon ") {
                format!("({path})")
            } else {
                format!(
                    r#"(canon lower (func {path}) (memory (core memory $libc "m")) (realloc (core func $libc "realloc")))"#
                )
            };
            format!("(core func ${name} {canon})")
        }),
        each(&|(name, _, ty)| format!(r#"(import "w" "{name}" (func ${name} {ty}))"#)),
        each(&|(name, ..)| format!(r#"(export "{name}" (func ${name}))"#)),
    )
}

/// A component of two: the second calls `f` of the first, which has these definitions and takes a `string`.
pub(super) fn composed(callee: &str, body: &str) -> String {
    format!(
        r#"(component
            (component $c
                (core module $m {callee})
                (core instance $i (instantiate $m))
                (func (export "f") (param "s" string) (canon lift (core func $i "f") (memory (core memory $i "m"))
                    (realloc (core func $i "realloc")))))
            (instance $c (instantiate $c))
            (component $d
                (import "f" (func $f (param "s" string)))
                (core module $libc (memory (export "m") 480))
                (core instance $libc (instantiate $libc))
                (core func $f (canon lower (func $f) (memory (core memory $libc "m"))))
                (core module $m (import "w" "f" (func $f (param i32 i32))) {body})
                (core instance $w (export "f" (func $f)))
                (core instance $i (instantiate $m (with "w" (instance $w))))
                (func (export "run") (canon lift (core func $i "run"))))
            (instance $d (instantiate $d (with "f" (func $c "f"))))
            (export "run" (func $d "run")))"#
    )
}

/// WASI 0.2's pollables and the clock that makes them, as `$poll` and `$clock`.
pub(super) const CLOCK: &str = r#"
    (import "wasi:io/poll@0.2.0" (instance $poll
        (export "pollable" (type $p (sub resource)))
        (export "[method]pollable.block" (func (param "self" (borrow $p))))
        (export "poll" (func (param "in" (list (borrow $p))) (result (list u32))))))
    (alias export $poll "pollable" (type $pollable))
    (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
        (alias outer 1 $pollable (type $q))
        (export "pollable" (type $p (eq $q)))
        (export "now" (func (result u64)))
        (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))"#;
pub(super) const NOW: Import<'static> = ("now", r#"$clock "now""#, "(result i64)");
pub(super) const AFTER: Import<'static> = ("after", r#"$clock "subscribe-duration""#, "(param i64) (result i32)");
pub(super) const BLOCK: Import<'static> = ("block", r#"$poll "[method]pollable.block""#, "(param i32)");
pub(super) const POLL: Import<'static> = ("poll", r#"$poll "poll""#, "(param i32 i32 i32)");

/// WASI's randomness, as `$random`.
pub(super) const RANDOM: &str = r#"(import "wasi:random/random@0.2.0" (instance $random
    (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))"#;
pub(super) const BYTES: Import<'static> = ("bytes", r#"$random "get-random-bytes""#, "(param i64 i32)");

/// What a guest tells the harness: how far it came.
pub(super) const SEEN: &str = r#"(import "seen" (func $seen (param "n" u64)))"#;
pub(super) const TELL: Import<'static> = ("seen", "$seen", "(param i64)");

/// A guest whose `run` gives a number that `body` computes, with `$n`, `$d` and `$made` to count in.
pub(super) fn counts(types: &str, lowered: &[Import<'_>], body: &str) -> String {
    counts_with(types, lowered, "", body)
}

pub(super) fn counts_with(types: &str, lowered: &[Import<'_>], data: &str, body: &str) -> String {
    let data = format!(r#"(data (i32.const 1024) "canary") {data}"#);
    let body =
        format!(r#"{data} (func (export "run") (result i32) (local $n i32) (local $d i32) (local $made i32) {body})"#);
    importing_to("(result u32)", types, lowered, &body)
}

/// Streams of WASI 0.2 that are written to, as `$streams` and `$out`.
pub(super) const STREAMS: &str = r#"
    (import "wasi:io/error@0.2.0" (instance $error (export "error" (type (sub resource)))))
    (alias export $error "error" (type $err))
    (import "wasi:io/streams@0.2.0" (instance $streams
        (export "output-stream" (type $o (sub resource)))
        (alias outer 1 $err (type $e'))
        (export "error" (type $e (eq $e')))
        (type $s' (variant (case "last-operation-failed" (own $e)) (case "closed")))
        (export "stream-error" (type $s (eq $s')))
        (export "[method]output-stream.blocking-write-and-flush"
            (func (param "self" (borrow $o)) (param "contents" (list u8)) (result (result (error $s)))))))
    (alias export $streams "output-stream" (type $out))"#;
pub(super) const WRITE: Import<'static> =
    ("write", r#"$streams "[method]output-stream.blocking-write-and-flush""#, "(param i32 i32 i32 i32)");
