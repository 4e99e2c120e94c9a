//! Whatever is loaded or passed by mistake or malice: a typed error that names the thing, and the host goes on.

use crate::support::{built, host};
use isopod::{ErrorKind, Limits, LoadLimits, Trust};
use serde_json::json;

#[tokio::test]
async fn bytes_that_are_no_component() {
    let host = host();
    let whole = std::fs::read(built("text-stats")).unwrap();
    let cases: [(&[u8], &str); 6] = [
        (b"", "empty"),
        (b"not wasm at all", "not WebAssembly"),
        (b"\0asm\x01\0\0\0", "core WebAssembly module"),
        (b"\0asm\x0c\0\x01\0", "pre-release encoding"),
        (&whole[..whole.len() / 2], "unexpected end"),
        (b"\0asm\x0d\0\x01\0\x63\x01\x00", "component"),
    ];
    for (bytes, expected) in cases {
        let error = host.function("bad").component_bytes(bytes).load().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidComponent, "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.function(), Some("bad"));
    }
    host.function("good").component_bytes(whole).load().await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_not_there() {
    let error = host().function("gone").component_file("no/such/file.wasm").load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidComponent);
    assert!(error.to_string().contains("no/such/file.wasm"), "{error}");
}

/// Nor does anything wait for a pipe that nobody writes to, or read a folder.
#[tokio::test]
async fn a_path_that_is_no_component_file() {
    let folder = std::env::temp_dir().join(format!("isopod-paths-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (empty, pipe) = (folder.join("empty"), folder.join("pipe"));
    std::fs::write(&empty, "").unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for (path, expected) in [(&empty, "the input is empty"), (&pipe, "is not a file"), (&folder, "is not a file")] {
        let error = host().function("odd").component_file(path).load().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidComponent);
        assert!(error.to_string().contains(expected), "{error}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_function_without_a_component() {
    let error = host().function("nothing").load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
}

#[tokio::test]
async fn strangers_components_are_bounded_and_own_ones_less() {
    let host = host();
    let with = |instances: usize| {
        let parts = "(core instance (instantiate $m))".repeat(instances);
        wat::parse_str(format!("(component (core module $m) {parts})")).unwrap()
    };
    host.function("usual").component_bytes(with(20)).load().await.unwrap();
    let bytes = with(30);
    let error = host.function("big").component_bytes(bytes.clone()).load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooComplex);
    assert!(error.to_string().contains("LoadLimits::core_instances"), "{error}");
    host.function("big").component_bytes(bytes.clone()).trust(Trust::Own).load().await.unwrap();
    host.function("big")
        .component_bytes(bytes.clone())
        .load_limits(LoadLimits::from(Trust::Untrusted).core_instances(30))
        .load()
        .await
        .unwrap();
    let error = host
        .function("big")
        .component_bytes(bytes)
        .load_limits(LoadLimits::from(Trust::Own).core_instances(10_000))
        .load()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
}

/// Half a megabyte that would take a minute and a gigabyte to compile: adapters are counted with their multiplicity.
#[tokio::test]
async fn a_small_component_with_many_adapters_is_refused() {
    let (functions, parts) = (200, 9);
    let all = |text: &dyn Fn(usize) -> String| (0..functions).map(text).collect::<String>();
    let libc = r#"(memory (export "m") 1) (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 0)"#;
    let ty = r#"(type $t (func (param "x" (list string)) (result (list string))))"#;
    let wat = format!(
        r#"(component
            (component $a
                (core module $m {libc} {})
                (core instance $i (instantiate $m)) (alias core export $i "m" (core memory $mem))
                (alias core export $i "realloc" (core func $re)) {ty} {})
            (component $b {ty} {} (core module $m {libc}) (core instance $i (instantiate $m))
                (alias core export $i "m" (core memory $mem)) (alias core export $i "realloc" (core func $re)) {})
            (instance $a (instantiate $a)) {})"#,
        all(&|k| format!(r#"(func (export "f{k}") (param i32 i32) (result i32) i32.const 0)"#)),
        all(&|k| format!(
            r#"(func (export "f{k}") (type $t) (canon lift (core func $i "f{k}") (memory $mem) (realloc $re)))"#
        )),
        all(&|k| format!(r#"(import "f{k}" (func $f{k} (type $t)))"#)),
        all(&|k| format!("(core func (canon lower (func $f{k}) (memory $mem) (realloc $re)))")),
        format!("(instance (instantiate $b {}))", all(&|k| format!(r#"(with "f{k}" (func $a "f{k}"))"#))).repeat(parts),
    );
    let bytes = wat::parse_str(wat).unwrap();
    assert!(bytes.len() < 100_000, "{}", bytes.len());
    let error = host().function("adapters").component_bytes(bytes).load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooComplex);
    assert!(error.to_string().contains("LoadLimits::adapters"), "{error}");
}

#[tokio::test]
async fn every_ungranted_import_is_listed_with_its_grant() {
    let wat = r#"(component
        (import "wasi:sockets/tcp@0.2.0" (instance (export "f" (func))))
        (import "acme:app/db@1.0.0" (instance (export "get" (func))))
        (import "note" (func)))"#;
    let error = host().function("needy").component_wat(wat).load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UngrantedImport);
    for part in ["wasi:sockets/tcp@0.2.0", "acme:app/db@1.0.0", "note", ".deny_at_call()", ".imports("] {
        assert!(error.to_string().contains(part), "{part} is missing in: {error}");
    }
}

#[tokio::test]
async fn denied_at_the_call() {
    let wat = r#"(component
        (import "acme:app/db@1.0.0" (instance $db (export "get" (func))))
        (core func $get (canon lower (func $db "get")))
        (core module $m (import "db" "get" (func $get)) (func (export "use") (call $get)) (func (export "leave")))
        (core instance $db' (export "get" (func $get)))
        (core instance $i (instantiate $m (with "db" (instance $db'))))
        (func (export "use") (canon lift (core func $i "use")))
        (func (export "leave") (canon lift (core func $i "leave"))))"#;
    let function = host().function("tried").component_wat(wat).deny_at_call().load().await.unwrap();
    function.call::<()>("leave", ()).await.unwrap();
    let error = function.call::<()>("use", ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    assert_eq!(error.denials()[0].capability(), "acme:app/db@1.0.0#get");
    assert!(error.denials()[0].explain().contains(".imports("), "{}", error.denials()[0].explain());
    assert_eq!(error.usage().host_calls, 1);
}

#[tokio::test]
async fn exports_and_arguments_that_do_not_fit() {
    let function = host().function("stats").component_file(built("text-stats")).load().await.unwrap();
    let error = function.call::<()>("inspct", ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongExport);
    assert!(error.to_string().contains("\"inspect\""), "{error}");
    let error = function.call::<()>("inspect", json!([{ "path": 7, "content": "" }])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongArguments);
    assert!(error.to_string().contains("path") && error.to_string().contains("string"), "{error}");
    assert_eq!(function.command(isopod::Command::new()).await.unwrap_err().kind(), ErrorKind::WrongExport);
    assert_eq!(function.handle(isopod::Event::default()).await.unwrap_err().kind(), ErrorKind::WrongExport);
}

#[tokio::test]
async fn contradictory_limits_are_found_at_load() {
    let builder = host().function("odd").component_wat("(component)");
    let error = builder.limits(Limits::default().fuel(1).busy(isopod::ms(1))).load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
}

#[tokio::test]
async fn blocking_inside_a_runtime_is_misuse() {
    let error = host().function("f").component_wat("(component)").load_blocking().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
}

/// Sockets share the type of a pollable with `wasi:io`, which is linked for everybody: a denied interface must have the
/// same one. And its functions are denied, not merely without effect.
#[tokio::test]
async fn denied_standard_interfaces_share_their_types() {
    let wat = r#"(component
        (import "wasi:io/poll@0.2.0" (instance $poll (export "pollable" (type (sub resource)))))
        (alias export $poll "pollable" (type $pollable))
        (import "wasi:sockets/tcp@0.2.0" (instance $tcp
            (alias outer 1 $pollable (type $p))
            (export "pollable" (type (eq $p)))
            (export "tcp-socket" (type (sub resource)))))
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
    let function = host().function("net").component_wat(wat).deny_at_call().load().await.unwrap();
    let error = function.call::<()>("run", ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    assert_eq!(error.denials()[0].capability(), "wasi:sockets/instance-network@0.2.0#instance-network");
}
