//! What the macro says to worlds that it cannot make, and that it makes the others. That what it makes also compiles and
//! runs is tested in isopod, against real components.

use quote::quote;

fn error(wit: &str) -> String {
    match crate::expand(quote!({ inline: #wit })) {
        Ok(_) => String::new(),
        Err(error) => error.into_iter().map(|error| error.to_string()).collect::<Vec<_>>().join("\n"),
    }
}

#[track_caller]
fn refused(wit: &str, parts: &[&str]) {
    let found = error(wit);
    assert!(!found.is_empty(), "accepted");
    for part in parts {
        assert!(found.contains(part), "{part:?} is not in: {found}");
    }
}

#[track_caller]
fn accepted(wit: &str) -> String {
    match crate::expand(quote!({ inline: #wit })) {
        Ok(made) => made.to_string(),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn arguments() {
    let error = |tokens| crate::expand(tokens).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error(quote!({ word: "x" })).contains("`word` is not an argument of `world!`"));
    assert!(error(quote!({ path: "nowhere" })).contains("there is no WIT at"));
    assert!(error(quote!({ world: "a", world: "b" })).contains("`world` is given twice"));
    assert!(error(quote!({ inline: "package a:b; world w { import x" })).contains("--> inline:1:"));
    assert!(error(quote!({ inline: "package a:b; world w {} world v {}" })).contains("name one by `world: \"..\"`"));
    let made = crate::expand(quote!(inline: "package a:b; world w { import f: func(); }", crate: sandbox::inner))
        .expect("makes it");
    assert!(made.to_string().contains("sandbox :: inner :: __private") && !made.to_string().contains(":: isopod ::"));
}

#[test]
fn async_imports() {
    let parts = ["the imported function `go` of `w` is an `async func`", "declare it as"];
    refused("package a:b; world w { import go: async func(); }", &parts);
    refused("package a:b; interface i { go: async func(); } world w { import i; }", &["`go` of `a:b/i`"]);
    accepted("package a:b; world w { export go: async func(); }");
}

#[test]
fn streams() {
    refused(
        "package a:b; world w { export go: func() -> stream<u8>; }",
        &["the function `go` of `w` uses a `stream`", "pass a `list`"],
    );
    refused(
        "package a:b; interface i { record r { a: list<future<u8>> } go: func(r: r); } world w { import i; }",
        &["the record `r` of `a:b/i` uses a `future`"],
    );
}

#[test]
fn resources_in_records() {
    let interface = "package a:b; interface i { resource node; record pair { left: u8, right: option<node> } variant v { x, y(node) } }";
    let parts = [
        "the record `pair` of `a:b/i` holds a resource in its field `right`",
        "the variant `v` of `a:b/i`",
        "case `y`",
    ];
    refused(&format!("{interface} world w {{ import i; }}"), &parts);
    refused(&format!("{interface} world w {{ export i; }}"), &parts);
}

const WASI: &str = "package wasi:io@0.2.12 { interface streams { resource input-stream { read: func() -> u8; } record info { a: u8 } } \
                    interface poll { poll: func(); } }";

#[test]
fn wasi_resources() {
    refused(
        &format!(
            "package a:b; {WASI} interface i {{ use wasi:io/streams@0.2.12.{{input-stream}}; go: func(s: input-stream); }} world w {{ export i; }}"
        ),
        &[
            "the function `go` of `a:b/i` uses the resource `input-stream` of `wasi:io/streams@0.2.12`",
            "pass its content",
        ],
    );
}

#[test]
fn wasi_imports_are_left_out() {
    let made = accepted(&format!(
        "package a:b; {WASI} interface i {{ use wasi:io/streams@0.2.12.{{info}}; go: func(s: info); }} world w {{ \
         import wasi:io/streams@0.2.12; import wasi:io/poll@0.2.12; import i; }}"
    ));
    assert!(made.contains("const IMPORTS : & 'static [& 'static str] = & [\"a:b/i\"]"), "{made}");
    assert!(made.contains("struct Info") && !made.contains("mod poll"), "{made}");
    assert!(!made.contains("wasi :: io :: streams :: Host"), "{made}");
}

#[test]
fn names_that_clash() {
    refused(
        "package a:b; interface i { resource r { drop: func(); } } world w { import i; }",
        &["`[method]r.drop` of `a:b/i` is named like the resource's destructor"],
    );
    let made = accepted(
        "package a:b; package c:d { interface i { x: func(); } } interface i { x: func(); } interface run { x: func(); } \
         world w { export i; export c:d/i; export run; export run: func(); export session: func(); }",
    );
    for name in ["fn a_b_i", "fn c_d_i", "fn a_b_run", "async fn run", "async fn session_"] {
        assert!(made.contains(name), "{name}: {made}");
    }
}

#[test]
fn single_calls_have_no_resources_of_the_component() {
    let made = accepted(
        "package a:b; interface i { resource r { constructor(); } make: func() -> r; count: func() -> u8; } world w { export i; }",
    );
    let (function, session) = made.split_once("struct WISession").expect("a session");
    assert!(function.contains("async fn count") && !function.contains("async fn make"));
    assert!(session.contains("async fn count") && session.contains("async fn make"));
}

/// The generator's code is rewritten by its looks: this is the test that fails when a new version looks otherwise.
#[test]
fn types_are_checked_once() {
    let made = accepted(
        "package a:b; interface i { resource r { constructor(a: string); } f: func(a: u8) -> string; } world w { export i; export g: func(); }",
    );
    assert!(!made.contains("get_typed_func"), "{made}");
    assert_eq!(made.matches(". typecheck ::").count(), 3, "{made}");
}
