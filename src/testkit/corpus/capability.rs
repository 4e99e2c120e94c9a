//! Guests that reach for what was not granted, or for more of it than was, and what one call leaves for the next.

use super::shell::*;
use crate::ErrorKind::Denied;
use crate::testkit::case::{Attack, Case};
use crate::testkit::promise::Promise::{Calls, Depth, Fresh, Grants, Network, Quota};
use crate::{Functions, Http, KeyValue, MIB, Reuse, Scratch, Secret, Secrets};
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
        Case::new("other names of this machine", 22, Network, |_| asks(AUTHORITIES).into())
            .with(|builder, _| builder.grant(Http::to("http://prove.invalid")))
            .gives(|_| json!(AUTHORITIES.len() * 100)),
        Case::new("a granted name that leads to this machine", 21, Network, |_| asks(&["localhost", "localhost:80"]).into())
            .with(|builder, _| builder.grant(Http::to("http://localhost")))
            .gives(|_| json!(2 * 100)),
        Case::new("paths that lead out", 25, Quota, |_| opens(OUT).into())
            .with(|builder, _| builder.grant(Scratch::at("/s")))
            .gives(|_| json!(OUT.len())),
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
            .gives(|figures| json!(figures.get("depth"))),
        Case::new("calls another over and over", 33, Calls, |figures| {
            calls_often("calls another over and over", figures.get("calls").saturating_add(5).min(20_000)).into()
        })
        .with(|builder, _| builder.grant(Functions::named("calls another over and over")).callable())
        .room(&[("host_calls", u64::MAX)])
        .gives(|figures| json!(figures.get("calls"))),
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
        .gives(|_| json!(0)),
    ]
}

/// A guest whose `run` gives a number that `body` computes, with `$n`, `$d` and `$made` to count in.
fn counts(types: &str, lowered: &[Import<'_>], body: &str) -> String {
    counts_with(types, lowered, "", body)
}

fn counts_with(types: &str, lowered: &[Import<'_>], data: &str, body: &str) -> String {
    let data = format!(r#"(data (i32.const 1024) "canary") {data}"#);
    let body =
        format!(r#"{data} (func (export "run") (result i32) (local $n i32) (local $d i32) (local $made i32) {body})"#);
    importing_to("(result u32)", types, lowered, &body)
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

/// Ways to name this machine, and others that nobody granted.
const AUTHORITIES: &[&str] = &[
    "127.0.0.1",
    "127.1",
    "0x7f.1",
    "0x7f000001",
    "2130706433",
    "0177.0.0.1",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "0.0.0.0",
    "localhost",
    "169.254.169.254",
    "10.0.0.1",
    "user@prove.invalid",
    "prove.invalid@127.0.0.1",
    "prove.invalid:81",
    "x.prove.invalid",
    "prove.invalid.x",
    "[fd00::1]",
    "100.64.0.1",
];

/// WASI 0.2's outgoing requests, as `$types` and `$handler`.
const HTTP: &str = r#"(import "wasi:http/types@0.2.0" (instance $types
        (alias outer 1 $pollable (type $p')) (export "pollable" (type $p (eq $p')))
        (export "fields" (type $fields (sub resource)))
        (export "outgoing-request" (type $request (sub resource)))
        (export "request-options" (type $options (sub resource)))
        (export "incoming-response" (type $response (sub resource)))
        (export "future-incoming-response" (type $future (sub resource)))
        (type $s' (variant (case "HTTP") (case "HTTPS") (case "other" string))) (export "scheme" (type $s (eq $s')))
        (type $d' (record (field "rcode" (option string)) (field "info-code" (option u16))))
        (export "DNS-error-payload" (type $d (eq $d')))
        (type $t' (record (field "alert-id" (option u8)) (field "alert-message" (option string))))
        (export "TLS-alert-received-payload" (type $t (eq $t')))
        (type $f' (record (field "field-name" (option string)) (field "field-size" (option u32))))
        (export "field-size-payload" (type $f (eq $f')))
        (type $e' (variant (case "DNS-timeout") (case "DNS-error" $d) (case "destination-not-found")
            (case "destination-unavailable") (case "destination-IP-prohibited") (case "destination-IP-unroutable")
            (case "connection-refused") (case "connection-terminated") (case "connection-timeout")
            (case "connection-read-timeout") (case "connection-write-timeout") (case "connection-limit-reached")
            (case "TLS-protocol-error") (case "TLS-certificate-error") (case "TLS-alert-received" $t)
            (case "HTTP-request-denied") (case "HTTP-request-length-required")
            (case "HTTP-request-body-size" (option u64)) (case "HTTP-request-method-invalid")
            (case "HTTP-request-URI-invalid") (case "HTTP-request-URI-too-long")
            (case "HTTP-request-header-section-size" (option u32)) (case "HTTP-request-header-size" (option $f))
            (case "HTTP-request-trailer-section-size" (option u32)) (case "HTTP-request-trailer-size" $f)
            (case "HTTP-response-incomplete") (case "HTTP-response-header-section-size" (option u32))
            (case "HTTP-response-header-size" $f) (case "HTTP-response-body-size" (option u64))
            (case "HTTP-response-trailer-section-size" (option u32)) (case "HTTP-response-trailer-size" $f)
            (case "HTTP-response-transfer-coding" (option string)) (case "HTTP-response-content-coding" (option string))
            (case "HTTP-response-timeout") (case "HTTP-upgrade-failed") (case "HTTP-protocol-error")
            (case "loop-detected") (case "configuration-error") (case "internal-error" (option string))))
        (export "error-code" (type $e (eq $e')))
        (export "[constructor]fields" (func (result (own $fields))))
        (export "[constructor]outgoing-request" (func (param "headers" (own $fields)) (result (own $request))))
        (export "[method]outgoing-request.set-scheme"
            (func (param "self" (borrow $request)) (param "scheme" (option $s)) (result (result))))
        (export "[method]outgoing-request.set-path-with-query"
            (func (param "self" (borrow $request)) (param "path" (option string)) (result (result))))
        (export "[method]outgoing-request.set-authority"
            (func (param "self" (borrow $request)) (param "authority" (option string)) (result (result))))
        (export "[method]future-incoming-response.subscribe" (func (param "self" (borrow $future)) (result (own $p))))
        (export "[method]future-incoming-response.get" (func (param "self" (borrow $future))
            (result (option (result (result (own $response) (error $e)))))))))
    (alias export $types "outgoing-request" (type $outgoing))
    (alias export $types "request-options" (type $request-options))
    (alias export $types "future-incoming-response" (type $incoming))
    (alias export $types "error-code" (type $code))
    (import "wasi:http/outgoing-handler@0.2.0" (instance $handler
        (alias outer 1 $outgoing (type $r')) (export "outgoing-request" (type $r (eq $r')))
        (alias outer 1 $request-options (type $o')) (export "request-options" (type $o (eq $o')))
        (alias outer 1 $incoming (type $f')) (export "future-incoming-response" (type $f (eq $f')))
        (alias outer 1 $code (type $e')) (export "error-code" (type $e (eq $e')))
        (export "handle" (func (param "request" (own $r)) (param "options" (option (own $o)))
            (result (result (own $f) (error $e)))))))"#;

/// A guest that sends a request to each, and counts a hundred for each that was denied before anything was sent, and one
/// for each that failed otherwise.
fn asks(authorities: &[&str]) -> String {
    let (mut data, mut body) = (r#"(data (i32.const 1000) "/")"#.to_owned(), String::new());
    for (n, authority) in authorities.iter().enumerate() {
        let at = 1_024 + 64 * n;
        data += &format!(r#"(data (i32.const {at}) "{authority}")"#);
        body += &format!("(call $ask (i32.const {at}) (i32.const {}))", authority.len());
    }
    // The codes `destination-IP-prohibited` and `HTTP-request-denied`.
    let ask = r#"(global $count (mut i32) (i32.const 0))
        (func $code (param $c i32) (global.set $count (i32.add (global.get $count)
            (select (i32.const 100) (i32.const 1)
                (i32.or (i32.eq (local.get $c) (i32.const 4)) (i32.eq (local.get $c) (i32.const 15)))))))
        (func $ask (param $at i32) (param $length i32) (local $r i32) (local $f i32)
            (local.set $r (call $request (call $fields)))
            (drop (call $scheme (local.get $r) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0)))
            (drop (call $path (local.get $r) (i32.const 1) (i32.const 1000) (i32.const 1)))
            (if (call $authority (local.get $r) (i32.const 1) (local.get $at) (local.get $length))
                (then (call $code (i32.const 15)) (return)))
            (call $handle (local.get $r) (i32.const 0) (i32.const 0) (i32.const 64))
            (if (i32.load8_u (i32.const 64)) (then (call $code (i32.load8_u (i32.const 72))) (return)))
            (local.set $f (i32.load (i32.const 72)))
            (call $block (call $subscribe (local.get $f)))
            (call $get (local.get $f) (i32.const 128))
            (if (i32.eqz (i32.load8_u (i32.const 144))) (then unreachable))
            (call $code (i32.load8_u (i32.const 152))))"#;
    let types = format!("{CLOCK} {HTTP}");
    let lowered = [
        BLOCK,
        ("fields", r#"$types "[constructor]fields""#, "(result i32)"),
        ("request", r#"$types "[constructor]outgoing-request""#, "(param i32) (result i32)"),
        ("scheme", r#"$types "[method]outgoing-request.set-scheme""#, "(param i32 i32 i32 i32 i32) (result i32)"),
        ("path", r#"$types "[method]outgoing-request.set-path-with-query""#, "(param i32 i32 i32 i32) (result i32)"),
        ("authority", r#"$types "[method]outgoing-request.set-authority""#, "(param i32 i32 i32 i32) (result i32)"),
        ("handle", r#"$handler "handle""#, "(param i32 i32 i32 i32)"),
        ("subscribe", r#"$types "[method]future-incoming-response.subscribe""#, "(param i32) (result i32)"),
        ("get", r#"$types "[method]future-incoming-response.get""#, "(param i32 i32)"),
    ];
    counts_with(&types, &lowered, &format!("{data} {ask}"), &format!("{body} (global.get $count)"))
}

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
