//! Guests that reach for what was not granted, or for more of it than was, and what one call leaves for the next.

use super::shell::*;
use crate::ErrorKind::Denied;
use crate::testkit::case::{Attack, Case};
use crate::testkit::promise::Promise::{Calls, Depth, Fresh, Grants, Quota};
use crate::{Dir, Functions, KeyValue, MIB, Reuse, Scratch, Secret, Secrets};
use serde_json::json;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("the machine's network", 18, Grants, |_| NETWORK.into())
            .with(|builder, _| builder.deny_at_call())
            .fails(Denied),
        Case::new("a function of the host's that was not granted", 32, Grants, |_| {
            let body = r#"(func (export "run") (call $get))"#;
            importing(r#"(import "acme:app/db@1.0.0" (instance $db (export "get" (func))))"#, &[("get", r#"$db "get""#, "")], body)
                .into()
        })
        .with(|builder, _| builder.deny_at_call())
        .fails(Denied),
        Case::new("an async function that was not granted", 32, Grants, |_| {
            let body = r#"(func (export "run") (loop $l (call $get) (br $l)))"#;
            let types = r#"(import "acme:app/db@1.0.0" (instance $db (export "get" (func async))))"#;
            importing_async(types, &[("get", r#"$db "get""#, "")], body).into()
        })
        .with(|builder, _| builder.deny_at_call())
        .fails(Denied),
        Case::new("the host's environment", 28, Grants, |_| {
            let types = r#"(import "wasi:cli/environment@0.2.0" (instance $env
                (export "get-environment" (func (result (list (tuple string string)))))
                (export "get-arguments" (func (result (list string))))))"#;
            let list = "(param i32)";
            counts(
                types,
                &[("vars", r#"$env "get-environment""#, list), ("args", r#"$env "get-arguments""#, list)],
                "(call $vars (i32.const 8)) (call $args (i32.const 16))
                (i32.add (i32.load (i32.const 12)) (i32.load (i32.const 20)))",
            )
            .into()
        })
        .gives(|_| json!(0)),
        Case::new("directories that nobody granted", 25, Grants, |_| {
            counts(FILES, &[DIRECTORIES], "(call $directories (i32.const 8)) (i32.load (i32.const 12))").into()
        })
        .gives(|_| json!(0)),
        Case::new("a clock that counts cycles", 30, Grants, |_| {
            let body = "(i32.wrap_i64 (i64.rem_u (call $now) (i64.const 1000000)))";
            counts(CLOCK, &[NOW], body).into()
        })
        .gives(|_| json!(0)),
        Case::new("a secret's value", 28, Grants, |_| {
            // Asks for one that was granted, without `reveal`, and for one that was not.
            counts(
                SECRETS,
                &[GET_SECRET, REVEAL],
                r#"(call $get (i32.const 1024) (i32.const 6) (i32.const 8))
                (if (i32.load8_u (i32.const 8)) (then unreachable))
                (call $reveal (i32.load (i32.const 12)) (i32.const 16))
                (if (i32.eqz (i32.load8_u (i32.const 16))) (then unreachable))
                (call $get (i32.const 1024) (i32.const 5) (i32.const 32))
                (if (i32.eqz (i32.load8_u (i32.const 32))) (then unreachable))
                (i32.add (i32.mul (i32.load8_u (i32.const 20)) (i32.const 10)) (i32.load8_u (i32.const 36)))"#,
            )
            .into()
        })
        .with(|builder, _| builder.grant(Secrets::of(Secret::value("canary", String::from("the canary's own value")))))
        .gives(|_| json!(20)),
        Case::new("paths that lead out", 25, Quota, |_| opens(OUT).into())
            .with(|builder, _| builder.grant(Scratch::at("/s")))
            .gives(|_| json!(OUT.len())),
        Case::new("devices", 26, Quota, |_| opens(DEVICES).into())
            .with(|builder, _| builder.grant(Dir::read_only("/dev", "/d")))
            .gives(|_| json!(DEVICES.len())),
        Case::new("a link that leads out", 25, Quota, |_| {
            let texts = r#"(data (i32.const 1024) "/etc") (data (i32.const 1032) "l") (data (i32.const 1040) "l/passwd")"#;
            let body = format!(
                r#"{FIRST}
                (call $symlink (local.get $d) (i32.const 1024) (i32.const 4) (i32.const 1032) (i32.const 1) (i32.const 16))
                (call $open (local.get $d) (i32.const 1) (i32.const 1040) (i32.const 8) (i32.const 0) (i32.const 1) (i32.const 32))
                (i32.load8_u (i32.const 32))"#
            );
            counts_with(FILES, &[DIRECTORIES, OPEN, SYMLINK], texts, &body).into()
        })
        .with(|builder, _| builder.grant(Scratch::at("/s")))
        .gives(|_| json!(1)),
        Case::new("a file of a terabyte", 27, Quota, |_| {
            let body = format!(
                r#"{FIRST}
                (call $open (local.get $d) (i32.const 0) (i32.const 1024) (i32.const 1) (i32.const 1) (i32.const 3) (i32.const 16))
                (if (i32.load8_u (i32.const 16)) (then unreachable))
                (call $size (i32.load (i32.const 20)) (i64.const 1099511627776) (i32.const 32))
                (if (i32.eqz (i32.load8_u (i32.const 32))) (then unreachable))
                (i32.load8_u (i32.const 33))"#
            );
            counts_with(FILES, &[DIRECTORIES, OPEN, SET_SIZE], r#"(data (i32.const 1024) "f")"#, &body).into()
        })
        .with(|builder, _| builder.grant(Scratch::at("/s").max_bytes(MIB)))
        // `insufficient-space`.
        .gives(|_| json!(23)),
        Case::new("a thousand directories", 27, Quota, |_| {
            let body = format!(
                "{FIRST} {} (local.get $made)",
                times(
                    1_000,
                    "(i32.store (i32.const 1024) (i32.add (i32.const 0x30303030) (i32.add
                        (i32.and (local.get $n) (i32.const 31))
                        (i32.shl (i32.shr_u (local.get $n) (i32.const 5)) (i32.const 8)))))
                    (call $mkdir (local.get $d) (i32.const 1024) (i32.const 4) (i32.const 16))
                    (local.set $made (i32.add (local.get $made) (i32.eqz (i32.load8_u (i32.const 16)))))"
                )
            );
            counts(FILES, &[DIRECTORIES, MKDIR], &body).into()
        })
        .with(|builder, _| builder.grant(Scratch::at("/s").max_entries(100)))
        .gives(|_| json!(100)),
        Case::new("keys without end", 27, Quota, |_| {
            let key = "(i32.store (i32.const 1024) (i32.add (i32.const 0x30303030) (i32.add
                (i32.and (local.get $n) (i32.const 31)) (i32.shl (i32.shr_u (local.get $n) (i32.const 5)) (i32.const 8)))))";
            let set = format!(
                "{key} (call $set (local.get $d) (i32.const 1024) (i32.const 4) (i32.const 0) (i32.const 16) (i32.const 16))
                (local.set $made (i32.add (local.get $made) (i32.eqz (i32.load8_u (i32.const 16)))))"
            );
            let delete = format!("{key} (call $delete (local.get $d) (i32.const 1024) (i32.const 4) (i32.const 16))");
            let body = format!("{BUCKET} {} {} (local.get $made)", times(300, &set), times(300, &delete));
            counts_with(KEYS, &[OPEN_BUCKET, SET, DELETE], r#"(data (i32.const 512) "isopod-prove")"#, &body).into()
        })
        .with(|builder, _| builder.grant(KeyValue::bucket("isopod-prove").max_keys(100)))
        .gives(|_| json!(100)),
        Case::new("more bytes than a bucket holds", 27, Quota, |_| {
            let body = format!(
                "{BUCKET} (call $set (local.get $d) (i32.const 1024) (i32.const 4) (i32.const 0) (i32.const 60000) (i32.const 16))
                (i32.load8_u (i32.const 16))"
            );
            counts_with(KEYS, &[OPEN_BUCKET, SET], r#"(data (i32.const 512) "isopod-prove") (data (i32.const 1024) "key0")"#, &body)
                .into()
        })
        .with(|builder, _| builder.grant(KeyValue::bucket("isopod-prove").max_total_bytes(50_000)))
        .gives(|_| json!(1)),
        Case::new("another bucket", 27, Quota, |_| {
            let open = "(call $open (i32.const 512) (i32.const 13) (i32.const 8)) (i32.load8_u (i32.const 8))";
            counts_with(KEYS, &[OPEN_BUCKET], r#"(data (i32.const 512) "isopod-secret")"#, open).into()
        })
        .with(|builder, _| builder.grant(KeyValue::bucket("isopod-prove")))
        .gives(|_| json!(1)),
        Case::new("calls itself", 33, Depth, |_| calls_itself().into())
            .with(|builder, _| builder.grant(Functions::named("calls itself")).callable())
            .room(&[("host_calls", u64::MAX), ("calls", u32::MAX as u64)])
            .gives(|figures| json!(figures.get("depth")))
            .seats(|figures| figures.get("depth").min(64) + 1),
        Case::new("calls another over and over", 33, Calls, |figures| {
            calls_often("calls another over and over", figures.get("calls").saturating_add(5).min(20_000)).into()
        })
        .with(|builder, _| builder.grant(Functions::named("calls another over and over")).callable())
        .room(&[("host_calls", u64::MAX)])
        .gives(|figures| json!(figures.get("calls")))
        .seats(|_| 2),
        Case::new("marks for the next call", 29, Fresh, |_| marks("").into()).attack(Attack::Again).gives(|_| json!(0)),
        Case::new("marks and traps, where instances are kept", 29, Fresh, |_| marks(&if_first("unreachable")).into())
            .with(|builder, _| builder.reuse(Reuse::within_tenant()))
            .attack(Attack::Again)
            .gives(|_| json!(0)),
        Case::new("marks and loops, where instances are kept", 29, Fresh, |_| {
            marks(&if_first("(loop $l (br $l))")).into()
        })
        .with(|builder, _| builder.reuse(Reuse::within_tenant()))
        .attack(Attack::Again)
        .gives(|_| json!(0)),
        Case::new("marks and recurses, where instances are ready", 29, Fresh, |_| {
            marks(&if_first("(call $deep)")).into()
        })
        .with(|builder, _| builder.prewarm(2))
        .attack(Attack::Again)
        .gives(|_| json!(0))
        .seats(|_| 2),
    ]
}

const NETWORK: &str = r#"(component
    (import "wasi:sockets/network@0.2.0" (instance $network (export "network" (type (sub resource)))))
    (alias export $network "network" (type $network-type))
    (import "wasi:sockets/instance-network@0.2.0" (instance $net
        (alias outer 1 $network-type (type $t))
        (export "network" (type $n (eq $t)))
        (export "instance-network" (func (result (own $n))))))
    (core func $f (canon lower (func $net "instance-network")))
    (core module $m (import "w" "f" (func $f (result i32))) (func (export "run") (drop (call $f))))
    (core instance $w (export "f" (func $f)))
    (core instance $i (instantiate $m (with "w" (instance $w))))
    (func (export "run") (canon lift (core func $i "run"))))"#;

const SECRETS: &str = r#"(import "isopod:secrets/secrets@0.1.0" (instance $secrets
    (type $e' (enum "unknown" "unavailable" "hidden")) (export "error" (type $e (eq $e')))
    (export "secret" (type $s (sub resource)))
    (export "[method]secret.reveal" (func (param "self" (borrow $s)) (result (result (list u8) (error $e)))))
    (export "get" (func (param "name" string) (result (result (own $s) (error $e)))))))"#;
const GET_SECRET: Import<'static> = ("get", r#"$secrets "get""#, "(param i32 i32 i32)");
const REVEAL: Import<'static> = ("reveal", r#"$secrets "[method]secret.reveal""#, "(param i32 i32)");

/// Files of WASI 0.2, as `$files` and `$preopens`.
const FILES: &str = r#"(import "wasi:filesystem/types@0.2.0" (instance $files
        (export "descriptor" (type $d (sub resource)))
        (type $e' (enum "access" "would-block" "already" "bad-descriptor" "busy" "deadlock" "quota" "exist"
            "file-too-large" "illegal-byte-sequence" "in-progress" "interrupted" "invalid" "io" "is-directory" "loop"
            "too-many-links" "message-size" "name-too-long" "no-device" "no-entry" "no-lock" "insufficient-memory"
            "insufficient-space" "not-directory" "not-empty" "not-recoverable" "unsupported" "no-tty" "no-such-device"
            "overflow" "not-permitted" "pipe" "read-only" "invalid-seek" "text-file-busy" "cross-device"))
        (export "error-code" (type $e (eq $e')))
        (type $f' (flags "read" "write" "file-integrity-sync" "data-integrity-sync" "requested-write-sync"
            "mutate-directory"))
        (export "descriptor-flags" (type $f (eq $f')))
        (type $p' (flags "symlink-follow")) (export "path-flags" (type $p (eq $p')))
        (type $o' (flags "create" "directory" "exclusive" "truncate")) (export "open-flags" (type $o (eq $o')))
        (export "[method]descriptor.open-at" (func (param "self" (borrow $d)) (param "path-flags" $p)
            (param "path" string) (param "open-flags" $o) (param "flags" $f) (result (result (own $d) (error $e)))))
        (export "[method]descriptor.symlink-at" (func (param "self" (borrow $d)) (param "old-path" string)
            (param "new-path" string) (result (result (error $e)))))
        (export "[method]descriptor.create-directory-at" (func (param "self" (borrow $d)) (param "path" string)
            (result (result (error $e)))))
        (export "[method]descriptor.set-size" (func (param "self" (borrow $d)) (param "size" u64)
            (result (result (error $e)))))))
    (alias export $files "descriptor" (type $descriptor))
    (import "wasi:filesystem/preopens@0.2.0" (instance $preopens
        (alias outer 1 $descriptor (type $d'))
        (export "descriptor" (type $d (eq $d')))
        (export "get-directories" (func (result (list (tuple (own $d) string)))))))"#;
const DIRECTORIES: Import<'static> = ("directories", r#"$preopens "get-directories""#, "(param i32)");
const OPEN: Import<'static> = ("open", r#"$files "[method]descriptor.open-at""#, "(param i32 i32 i32 i32 i32 i32 i32)");
const SYMLINK: Import<'static> =
    ("symlink", r#"$files "[method]descriptor.symlink-at""#, "(param i32 i32 i32 i32 i32 i32)");
const MKDIR: Import<'static> =
    ("mkdir", r#"$files "[method]descriptor.create-directory-at""#, "(param i32 i32 i32 i32)");
const SET_SIZE: Import<'static> = ("size", r#"$files "[method]descriptor.set-size""#, "(param i32 i64 i32)");
/// The first directory that there is, as `$d`.
const FIRST: &str = "(call $directories (i32.const 8)) (local.set $d (i32.load (i32.load (i32.const 8))))";

/// Paths out of the directory that a guest was granted.
const OUT: &[&str] = &[
    "..",
    "../..",
    "/",
    "/etc/passwd",
    "a/../../..",
    "./../x",
    "/proc/self/environ",
    "//etc/passwd",
    "..//..",
    "\\00",
];

/// Of which some are never read to their end, and some wait for somebody.
const DEVICES: &[&str] = &["null", "zero", "full", "random", "tty", "stdin", "fd/0"];

/// A guest that opens these, and counts what it was refused.
fn opens(paths: &[&str]) -> String {
    let mut body = FIRST.to_owned();
    let mut data = String::new();
    for (n, path) in paths.iter().enumerate() {
        let at = 1_024 + 64 * n;
        let length = if path.starts_with('\\') { 1 } else { path.len() };
        data += &format!(r#"(data (i32.const {at}) "{path}")"#);
        body += &format!(
            "(call $open (local.get $d) (i32.const 1) (i32.const {at}) (i32.const {length}) (i32.const 0) (i32.const 1) (i32.const 32))
            (local.set $made (i32.add (local.get $made) (i32.load8_u (i32.const 32))))"
        );
    }
    counts_with(FILES, &[DIRECTORIES, OPEN], &data, &format!("{body} (local.get $made)"))
}

/// Keys and values, as `$store`.
const KEYS: &str = r#"(import "wasi:keyvalue/store@0.2.0-draft2" (instance $store
    (type $e' (variant (case "no-such-store") (case "access-denied") (case "other" string)))
    (export "error" (type $e (eq $e')))
    (export "bucket" (type $b (sub resource)))
    (export "open" (func (param "identifier" string) (result (result (own $b) (error $e)))))
    (export "[method]bucket.set" (func (param "self" (borrow $b)) (param "key" string) (param "value" (list u8))
        (result (result (error $e)))))
    (export "[method]bucket.delete" (func (param "self" (borrow $b)) (param "key" string)
        (result (result (error $e)))))))"#;
const OPEN_BUCKET: Import<'static> = ("open", r#"$store "open""#, "(param i32 i32 i32)");
const SET: Import<'static> = ("set", r#"$store "[method]bucket.set""#, "(param i32 i32 i32 i32 i32 i32)");
const DELETE: Import<'static> = ("delete", r#"$store "[method]bucket.delete""#, "(param i32 i32 i32 i32)");
/// The bucket, as `$d`.
const BUCKET: &str = "(call $open (i32.const 512) (i32.const 12) (i32.const 8))
    (if (i32.load8_u (i32.const 8)) (then unreachable)) (local.set $d (i32.load (i32.const 12)))";

const FUNCTIONS: &str = r#"(import "isopod:function/functions@0.1.0" (instance $functions
    (type $e' (variant (case "denied" string) (case "invalid" string) (case "failed" string) (case "timed-out" string)
        (case "exceeded" string) (case "overloaded" string)))
    (export "error" (type $e (eq $e')))
    (export "call" (func (param "function" string) (param "export" string) (param "arguments" string)
        (result (result string (error $e)))))))"#;
const CALL: Import<'static> = ("call", r#"$functions "call""#, "(param i32 i32 i32 i32 i32 i32 i32)");

/// Calls itself, and gives one more than what that gave; 0 where that failed.
fn calls_itself() -> String {
    let data = r#"(data (i32.const 512) "calls itself") (data (i32.const 540) "run") (data (i32.const 544) "[]")"#;
    counts_with(
        FUNCTIONS,
        &[CALL],
        data,
        "(call $call (i32.const 512) (i32.const 12) (i32.const 540) (i32.const 3) (i32.const 544) (i32.const 2) (i32.const 8))
        (if (i32.load8_u (i32.const 8)) (then (return (i32.const 0))))
        (loop $digits
            (local.set $made (i32.add (i32.mul (local.get $made) (i32.const 10))
                (i32.sub (i32.load8_u (i32.add (i32.load (i32.const 12)) (local.get $n))) (i32.const 48))))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $digits (i32.lt_u (local.get $n) (i32.load (i32.const 16)))))
        (i32.add (local.get $made) (i32.const 1))",
    )
}

/// Calls a function that it exports itself, as another function, and counts the answers.
fn calls_often(name: &str, calls: u64) -> String {
    let call = format!(
        "(call $call (i32.const 512) (i32.const {}) (i32.const 572) (i32.const 4) (i32.const 580) (i32.const 2) (i32.const 8))
        (local.set $made (i32.add (local.get $made) (i32.eqz (i32.load8_u (i32.const 8)))))",
        name.len()
    );
    let data = format!(
        r#"(data (i32.const 512) "{name}") (data (i32.const 572) "leaf") (data (i32.const 580) "[]") (func (export "leaf"))"#
    );
    let text = counts_with(FUNCTIONS, &[CALL], &data, &format!("{} (local.get $made)", times(calls, &call)));
    let end = text.rfind(')').unwrap_or(text.len());
    format!(r#"{} (func (export "leaf") (canon lift (core func $i "leaf"))))"#, &text[..end])
}

/// Gives what an earlier call left in its memory, a global and a table; leaves as much; then does that.
fn marks(then: &str) -> String {
    let body = format!(
        r#"(memory 1) (global $g (mut i32) (i32.const 0)) (table $t 1 funcref) (elem declare func $f) (func $f)
        (func $deep (call $deep))
        (func (export "run") (param $first i32) (result i32) (local $found i32)
            (local.set $found (i32.add (i32.load (i32.const 60000)) (i32.add (global.get $g)
                (i32.eqz (ref.is_null (table.get $t (i32.const 0)))))))
            (i32.store (i32.const 60000) (i32.const 1)) (global.set $g (i32.const 1))
            (table.set $t (i32.const 0) (ref.func $f))
            {then}
            (local.get $found))"#
    );
    exporting(r#"(param "first" u32) (result u32)"#, &body, "")
}

fn if_first(then: &str) -> String {
    format!("(if (local.get $first) (then {then}))")
}
