//! Guests that send requests: to where they may not, and in ways that would be read as other requests.

use super::shell::*;
use crate::ErrorKind::{LimitExceeded, TimedOut};
use crate::testkit::case::Case;
use crate::testkit::promise::Promise::{Deadline, Network};
use crate::{Http, Limit};
use serde_json::json;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("other names of this machine", 22, Network, |_| asks(AUTHORITIES).into())
            .with(|builder, _| builder.grant(Http::to("http://prove.invalid")))
            .gives(|_| json!(AUTHORITIES.len() * 100)),
        Case::new("names that hide another", 23, Network, |_| asks(HIDING).into())
            .with(|builder, _| builder.grant(Http::to("http://prove.invalid")))
            .gives(|_| json!(HIDING.len() * 100)),
        Case::new("a granted name that leads to this machine", 21, Network, |_| asks(LOCAL).into())
            .with(|builder, _| builder.grant(Http::to("http://localhost")))
            .gives(|_| json!(LOCAL.len() * 100)),
        Case::new("paths that are whole requests", 19, Network, |_| asks(PATHS).into())
            .with(|builder, _| builder.grant(Http::to("http://prove.invalid").get("/v1/*")))
            .gives(|_| json!(PATHS.len() * 100)),
        Case::new("headers that begin another request", 24, Network, |_| appends(BROKEN).into())
            .with(|builder, _| builder.grant(Http::to("http://prove.invalid")))
            .gives(|_| json!(BROKEN.len())),
        Case::new("headers that are the connection's", 24, Network, |_| appends(CONNECTION).into())
            .with(|builder, _| builder.grant(Http::to("http://prove.invalid")))
            .gives(|_| json!(CONNECTION.len())),
        Case::new("a megabyte of headers", 19, Network, |_| {
            let append = "(call $append (local.get $d) (i32.const 512) (i32.const 1) (i32.const 65536) (i32.const 1024) (i32.const 8))";
            let fill = "(memory.fill (i32.const 65536) (i32.const 120) (i32.const 1024))";
            let body = format!("{fill} (local.set $d (call $fields)) {} (i32.const 0)", times(1_000, append));
            counts_with(&types(), &[FIELDS, APPEND], r#"(data (i32.const 512) "x")"#, &body).into()
        })
        .with(|builder, _| builder.grant(Http::to("http://prove.invalid")))
        .fails(LimitExceeded(Limit::Headers)),
        Case::new("a body without end that nobody takes", 20, Deadline, |_| {
            let body = "(local.set $d (call $request (call $fields)))
                (call $body (local.get $d) (i32.const 8)) (call $stream (i32.load (i32.const 12)) (i32.const 16))
                (loop $l (call $write (i32.load (i32.const 20)) (i32.const 65536) (i32.const 4096) (i32.const 32)) (br $l))
                unreachable";
            counts(&types(), &[FIELDS, REQUEST, BODY, STREAM, WRITE], body).into()
        })
        .with(|builder, _| builder.grant(Http::to("http://prove.invalid")))
        .fails(TimedOut),
    ]
}

/// Where `prove.invalid` is granted.
const HIDING: &[(&str, &str)] = &[
    ("user@prove.invalid", "/"),
    ("user:password@prove.invalid", "/"),
    ("prove.invalid@127.0.0.1", "/"),
    ("prove.invalid:81", "/"),
    ("x.prove.invalid", "/"),
    ("prove.invalid.x", "/"),
    ("xprove.invalid", "/"),
    ("prove.invalid..", "/"),
    ("*.invalid", "/"),
];

const LOCAL: &[(&str, &str)] = &[("localhost", "/"), ("localhost:80", "/")];

/// Of a host that is granted below `/v1/`.
const PATHS: &[(&str, &str)] = &[
    ("prove.invalid", "http://127.0.0.1/v1/x"),
    ("prove.invalid", "//127.0.0.1/v1/x"),
    ("prove.invalid", "*"),
    ("prove.invalid", "/v1/../admin"),
    ("prove.invalid", "/v1/%2e%2e/admin"),
    ("prove.invalid", "/v1/x HTTP/1.1"),
    ("prove.invalid", "/v1/x\\0d\\0ahost: evil"),
    ("prove.invalid", "/v1/\\00"),
    ("prove.invalid", "/V1/x"),
    ("prove.invalid", "/v1x"),
];

/// Names and values that no header has.
const BROKEN: &[(&str, &str)] = &[
    ("x", "a\r\nhost: evil"),
    ("x", "a\nb"),
    ("x", "a\rb"),
    ("x", "a\0b"),
    ("x\r\ny", "a"),
    ("x: y", "a"),
    ("x y", "a"),
    ("", "a"),
    ("\u{e9}", "a"),
];

/// What a connection is made of, which is the host's.
const CONNECTION: &[(&str, &str)] = &[
    ("host", "evil"),
    ("Host", "evil"),
    ("connection", "x"),
    ("keep-alive", "x"),
    ("proxy-connection", "x"),
    ("proxy-authenticate", "x"),
    ("proxy-authorization", "x"),
    ("transfer-encoding", "chunked"),
    ("upgrade", "x"),
    ("http2-settings", "x"),
];

/// A guest that gives a request these headers, and counts those that are refused.
fn appends(headers: &[(&str, &str)]) -> String {
    let text = |text: &str| text.bytes().map(|byte| format!("\\{byte:02x}")).collect::<String>();
    let (mut data, mut body) = (String::new(), "(local.set $d (call $fields))".to_owned());
    for (n, (name, value)) in headers.iter().enumerate() {
        let at = 1_100 + 64 * n;
        data +=
            &format!(r#"(data (i32.const {at}) "{}") (data (i32.const {}) "{}")"#, text(name), at + 32, text(value));
        body += &format!(
            "(call $append (local.get $d) (i32.const {at}) (i32.const {}) (i32.const {}) (i32.const {}) (i32.const 8))
            (local.set $made (i32.add (local.get $made) (i32.load8_u (i32.const 8))))",
            name.len(),
            at + 32,
            value.len()
        );
    }
    counts_with(&types(), &[FIELDS, APPEND], &data, &format!("{body} (local.get $made)"))
}

fn types() -> String {
    format!("{CLOCK} {STREAMS} {HTTP}")
}

const FIELDS: Import<'static> = ("fields", r#"$types "[constructor]fields""#, "(result i32)");
const APPEND: Import<'static> = ("append", r#"$types "[method]fields.append""#, "(param i32 i32 i32 i32 i32 i32)");
const REQUEST: Import<'static> = ("request", r#"$types "[constructor]outgoing-request""#, "(param i32) (result i32)");
const BODY: Import<'static> = ("body", r#"$types "[method]outgoing-request.body""#, "(param i32 i32)");
const STREAM: Import<'static> = ("stream", r#"$types "[method]outgoing-body.write""#, "(param i32 i32)");

/// Ways to name this machine, and others that nobody granted.
const AUTHORITIES: &[(&str, &str)] = &[
    ("127.0.0.1", "/"),
    ("127.1", "/"),
    ("0x7f.1", "/"),
    ("0x7f000001", "/"),
    ("2130706433", "/"),
    ("0177.0.0.1", "/"),
    ("[::1]", "/"),
    ("[::ffff:127.0.0.1]", "/"),
    ("0.0.0.0", "/"),
    ("localhost", "/"),
    ("169.254.169.254", "/"),
    ("10.0.0.1", "/"),
    ("[fd00::1]", "/"),
    ("100.64.0.1", "/"),
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
        (type $h' (variant (case "invalid-syntax") (case "forbidden") (case "immutable")))
        (export "header-error" (type $h (eq $h')))
        (export "[method]fields.append" (func (param "self" (borrow $fields)) (param "name" string)
            (param "value" (list u8)) (result (result (error $h)))))
        (export "outgoing-body" (type $body (sub resource)))
        (alias outer 1 $out (type $o')) (export "output-stream" (type $o (eq $o')))
        (export "[method]outgoing-request.body" (func (param "self" (borrow $request)) (result (result (own $body)))))
        (export "[method]outgoing-body.write" (func (param "self" (borrow $body)) (result (result (own $o)))))
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
fn asks(urls: &[(&str, &str)]) -> String {
    let (mut data, mut body) = (String::new(), String::new());
    for (n, (authority, path)) in urls.iter().enumerate() {
        let at = 1_024 + 128 * n;
        data += &format!(r#"(data (i32.const {at}) "{authority}") (data (i32.const {}) "{path}")"#, at + 64);
        body += &format!("(call $ask (i32.const {at}) (i32.const {}) (i32.const {}))", authority.len(), path.len());
    }
    // The codes `destination-IP-prohibited`, `HTTP-request-denied` and `HTTP-request-URI-invalid`.
    let ask = r#"(global $count (mut i32) (i32.const 0))
        (func $code (param $c i32) (global.set $count (i32.add (global.get $count)
            (select (i32.const 100) (i32.const 1)
                (i32.or (i32.eq (local.get $c) (i32.const 4))
                    (i32.or (i32.eq (local.get $c) (i32.const 15)) (i32.eq (local.get $c) (i32.const 19))))))))
        (func $ask (param $at i32) (param $length i32) (param $path i32) (local $r i32) (local $f i32)
            (local.set $r (call $request (call $fields)))
            (drop (call $scheme (local.get $r) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0)))
            (if (call $path (local.get $r) (i32.const 1) (i32.add (local.get $at) (i32.const 64)) (local.get $path))
                (then (call $code (i32.const 15)) (return)))
            (if (call $authority (local.get $r) (i32.const 1) (local.get $at) (local.get $length))
                (then (call $code (i32.const 15)) (return)))
            (call $handle (local.get $r) (i32.const 0) (i32.const 0) (i32.const 64))
            (if (i32.load8_u (i32.const 64)) (then (call $code (i32.load8_u (i32.const 72))) (return)))
            (local.set $f (i32.load (i32.const 72)))
            (call $block (call $subscribe (local.get $f)))
            (call $get (local.get $f) (i32.const 128))
            (if (i32.eqz (i32.load8_u (i32.const 144))) (then unreachable))
            (call $code (i32.load8_u (i32.const 152))))"#;
    let lowered = [
        BLOCK,
        FIELDS,
        REQUEST,
        ("scheme", r#"$types "[method]outgoing-request.set-scheme""#, "(param i32 i32 i32 i32 i32) (result i32)"),
        ("path", r#"$types "[method]outgoing-request.set-path-with-query""#, "(param i32 i32 i32 i32) (result i32)"),
        ("authority", r#"$types "[method]outgoing-request.set-authority""#, "(param i32 i32 i32 i32) (result i32)"),
        ("handle", r#"$handler "handle""#, "(param i32 i32 i32 i32)"),
        ("subscribe", r#"$types "[method]future-incoming-response.subscribe""#, "(param i32) (result i32)"),
        ("get", r#"$types "[method]future-incoming-response.get""#, "(param i32 i32)"),
    ];
    counts_with(&types(), &lowered, &format!("{data} {ask}"), &format!("{body} (global.get $count)"))
}
