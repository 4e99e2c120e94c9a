//! What `world!` makes, against real components: every shape of value, host traits, resources both ways, sessions.

use crate::support::{built, host, text};
use isopod::{CallOptions, ErrorKind, FunctionBuilder, Limit, Limits, Resource, Resources};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

mod shapes {
    isopod::world!({ world: "shapes", path: "guests/wit/shapes.wit" });
}

mod async_shapes {
    isopod::world!({ world: "async-shapes", path: "guests/wit/async-shapes.wit" });
}

use async_shapes::AsyncShapes;
use shapes::exports::test::shapes::types::{Color, Counter, Item, Permissions, Point, Shape};
use shapes::test::shapes::db::{self, Cursor, LookupError, Row};
use shapes::{Shapes, ShapesFunction, ShapesImports, ShapesSession};

/// The embedder's side of the world `shapes`.
#[derive(Clone, Default)]
struct Rows {
    rows: Arc<BTreeMap<&'static str, &'static str>>,
    cursors: Resources<Vec<Row>>,
    notes: Arc<AtomicU32>,
    dropped: Arc<AtomicU32>,
}

impl Rows {
    fn new() -> Rows {
        Rows { rows: Arc::new([("a1", "x"), ("a2", "y"), ("b", "z")].into()), ..Rows::default() }
    }

    fn starting_with(&self, prefix: &str) -> Vec<Row> {
        let row = |(key, value): (&&str, &&str)| Row { key: key.to_string(), value: value.to_string(), version: 1 };
        self.rows.iter().filter(|(key, _)| key.starts_with(prefix)).map(row).collect()
    }
}

impl ShapesImports for Rows {
    async fn note(&mut self, text: String) {
        assert_ne!(text, "panic", "the host function was asked to");
        self.notes.fetch_add(1, Ordering::Relaxed);
    }
}

impl db::Host for Rows {
    async fn get(&mut self, key: String) -> Result<Row, LookupError> {
        tokio::task::yield_now().await;
        match key.as_str() {
            "denied" => Err(LookupError::Denied("no".into())),
            "busy" => Err(LookupError::Busy(7)),
            _ => self.starting_with(&key).pop().ok_or(LookupError::NotFound),
        }
    }
}

impl db::HostCursor for Rows {
    async fn new(&mut self, prefix: String) -> Resource<Cursor> {
        let mut rows = self.starting_with(&prefix);
        rows.reverse();
        self.cursors.insert(rows)
    }

    async fn next(&mut self, cursor: Resource<Cursor>) -> Option<Row> {
        self.cursors.get_mut(&cursor)?.pop()
    }

    async fn total(&mut self, prefix: String) -> u32 {
        self.starting_with(&prefix).len() as u32
    }

    async fn drop(&mut self, cursor: Resource<Cursor>) {
        assert!(self.cursors.remove(&cursor).is_some());
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

async fn load(rows: Rows, limits: Limits) -> ShapesFunction {
    let builder = host().function("shapes").component_file(built("shapes")).limits(limits);
    builder.imports(rows).load_typed::<Shapes>().await.unwrap()
}

async fn shapes() -> ShapesFunction {
    load(Rows::new(), Limits::default()).await
}

#[tokio::test]
async fn every_shape_of_value_comes_back_as_it_was() {
    let shapes = shapes().await;
    let types = shapes.types();
    let place = Point { x: i32::MIN, y: i32::MAX };
    let item = Item {
        flag: true,
        byte: u8::MAX,
        short: u16::MAX,
        int: u32::MAX,
        long: u64::MAX,
        sbyte: i8::MIN,
        sshort: i16::MIN,
        sint: i32::MIN,
        slong: i64::MIN,
        single: 1.5,
        double: -2.25,
        letter: 'ß',
        text: "ä\0🦀".into(),
        maybe: Some(None),
        place,
        names: vec!["a".into(), String::new()],
        blob: vec![0, 255],
        pair: (1, "p".into()),
        outcome: Err("e".into()),
    };
    let same = |a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| assert_eq!(format!("{a:?}"), format!("{b:?}"));
    for (maybe, outcome) in [(None, Ok(3)), (Some(None), Err("e".to_owned())), (Some(Some(9)), Ok(0))] {
        let item = Item { maybe, outcome, ..item.clone() };
        same(&types.echo_item(&item).await.unwrap().value, &item);
    }
    let named = Shape::Named(("n".into(), place));
    for shape in [Shape::Empty, Shape::Circle(f64::MAX), Shape::Path(vec![place, Point { x: 0, y: 1 }]), named] {
        same(&types.echo_shape(&shape).await.unwrap().value, &shape);
    }
    for color in [Color::Red, Color::Green, Color::DeepBlue] {
        assert_eq!(types.echo_color(color).await.unwrap().value, color);
        assert_eq!(types.echo_outcome(Err(color)).await.unwrap().value, Err(color));
    }
    assert_eq!(types.echo_outcome(Ok(())).await.unwrap().value, Ok(()));
    for permissions in [Permissions::empty(), Permissions::READ | Permissions::RUN_AS_ROOT, Permissions::all()] {
        assert_eq!(types.echo_permissions(permissions).await.unwrap().value, permissions);
    }
    assert_eq!(shapes.greet("world").await.unwrap().value, "Hello, world!");
    assert_eq!(shapes.echo_bytes(&[1, 2, 3]).await.unwrap().value, [1, 2, 3]);
}

#[tokio::test]
async fn host_traits_answer_the_imports() {
    let rows = Rows::new();
    let shapes = load(rows.clone(), Limits::default()).await;
    for (key, answer) in [
        ("a2", Ok("y".to_owned())),
        ("c", Err("not-found".to_owned())),
        ("denied", Err("denied: no".to_owned())),
        ("busy", Err("busy: 7".to_owned())),
    ] {
        let reply = shapes.lookup(key).await.unwrap();
        assert_eq!(reply.value, answer);
        assert_eq!(reply.usage.host_calls, 2);
    }
    assert_eq!(rows.notes.load(Ordering::Relaxed), 4);
    assert_eq!(shapes.list_keys("a").await.unwrap().value, ["a1", "a2"]);
    assert_eq!(shapes.list_keys("").await.unwrap().value, ["a1", "a2", "b"]);
    assert_eq!(rows.dropped.load(Ordering::Relaxed), 2);
    let error = shapes.lookup("panic").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HostPanic);
    assert_eq!(shapes.lookup("a1").await.unwrap().value, Ok("x".to_owned()));
}

#[tokio::test]
async fn single_calls_are_fresh_and_a_session_is_one_instance() {
    let shapes = shapes().await;
    for _ in 0..2 {
        assert_eq!(shapes.count().await.unwrap().value, 1);
    }
    let reply = shapes.session(async |s| Ok([s.count().await?, s.count().await?, s.count().await?])).await.unwrap();
    assert_eq!(reply.value, [1, 2, 3]);
    assert_eq!(reply.usage.bytes_out, 12);
    let reply = shapes.session(async |s| Ok((s.greet("a").await?, s.types().echo_color(Color::Red).await?))).await;
    assert_eq!(reply.unwrap().value, ("Hello, a!".to_owned(), Color::Red));
}

/// A helper of the embedder's, which has to be able to name a session.
async fn twice(session: &mut ShapesSession<'_>, counter: &Counter) -> isopod::Result<u32> {
    counter.add(session, 1).await?;
    counter.add(session, 1).await
}

#[tokio::test]
async fn exported_resources_live_in_their_session() {
    let shapes = shapes().await;
    let reply = shapes
        .session(async |s| {
            let five = Counter::new(s, 5).await?;
            assert_eq!(five.add(s, 2).await?, 7);
            assert_eq!(twice(s, &five).await?, 9);
            let ten = s.types().make_counter(10).await?;
            assert_eq!(Counter::sum(s, &five, &ten).await?, 19);
            assert_eq!(Counter::sum(s, &ten, &ten).await?, 20);
            five.drop(s).await?;
            assert_eq!(s.types().consume(ten).await?, 10);
            Counter::new(s, 1).await
        })
        .await
        .unwrap();
    // It has outlived its session, so it is nothing any more: neither in a session without resources, nor in one where
    // another resource has its place.
    let stale = reply.value;
    for other in [false, true] {
        let error = shapes
            .session(async |s| {
                if other {
                    Counter::new(s, 3).await?;
                }
                stale.value(s).await.map(drop)
            })
            .await
            .unwrap_err();
        assert!(text(&error).contains("a resource of one session was used in another"), "{}", text(&error));
    }
}

#[tokio::test]
async fn a_trap_ends_the_instance_but_not_the_embedder() {
    let shapes = shapes().await;
    let error = shapes
        .session(async |s| {
            let counter = Counter::new(s, u32::MAX).await?;
            counter.add(s, 1).await
        })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Trapped);
    // Whoever goes on after a trap is told; what is left of the instance's resources goes without a word.
    let reply = shapes
        .session(async |s| {
            let counter = Counter::new(s, u32::MAX).await?;
            assert!(counter.add(s, 1).await.is_err());
            assert!(counter.value(s).await.is_err());
            Ok(1)
        })
        .await
        .unwrap();
    assert_eq!(reply.value, 1);
}

#[tokio::test]
async fn bytes_in_and_out_are_counted_and_bounded() {
    let shapes = shapes().await;
    let reply = shapes.echo_bytes(&[0; 1000]).await.unwrap();
    assert_eq!((reply.usage.bytes_in, reply.usage.bytes_out), (1000, 1000));
    let reply = shapes.types().echo_shape(&Shape::Path(vec![Point { x: 1, y: 2 }; 10])).await.unwrap();
    assert_eq!((reply.usage.bytes_in, reply.usage.bytes_out), (81, 81));

    let shapes = load(Rows::new(), Limits::default().input(100).output(50)).await;
    let error = shapes.echo_bytes(&[0; 101]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded(Limit::Input));
    assert!(error.to_string().contains("\"echo-bytes\""), "{error}");
    assert_eq!(shapes.echo_bytes(&[0; 51]).await.unwrap_err().kind(), ErrorKind::OutputTooLarge);
    // A session has one account.
    let error = shapes
        .session(async |s| {
            s.echo_bytes(&[0; 40]).await?;
            s.echo_bytes(&[0; 10]).await?;
            s.echo_bytes(&[0; 1]).await
        })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutputTooLarge);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typed_calls_may_run_on_tasks_of_their_own() {
    let shapes = shapes().await;
    let (one, two) = (shapes.tenant("acme"), shapes.clone());
    let greeting = tokio::spawn(async move { one.greet("task").await });
    let sum = tokio::spawn(async move {
        let session = two.session(async |s| {
            let counter = Counter::new(s, 1).await?;
            let item = s.types().echo_color(Color::Green).await?;
            Ok((counter.add(s, 1).await?, item))
        });
        session.await
    });
    assert_eq!(greeting.await.unwrap().unwrap().value, "Hello, task!");
    assert_eq!(sum.await.unwrap().unwrap().value, (2, Color::Green));
}

#[tokio::test]
async fn async_exports_are_methods_like_others() {
    let builder = host().function("async").component_file(built("async-shapes"));
    let function = builder.load_typed::<AsyncShapes>().await.unwrap();
    assert_eq!(function.delay_echo("hi").await.unwrap().value, "hi");
    let spawned = function.clone();
    let task = tokio::spawn(async move { spawned.delay_bytes(&[7; 1000]).await });
    let reply = task.await.unwrap().unwrap();
    assert_eq!(reply.value, [7; 1000]);
    assert_eq!((reply.usage.bytes_in, reply.usage.bytes_out), (1000, 1000));
    let reply = function.session(async |s| Ok((s.delay_echo("a").await?, s.delay_echo("b").await?))).await.unwrap();
    assert_eq!(reply.value, ("a".to_owned(), "b".to_owned()));
}

mod names {
    isopod::world!({ inline: "
        package test:names;
        world names {
            export tenant: func() -> u32;
            export session: func() -> u32;
            export clone: func() -> u32;
        }
    " });
}

const NAMES: &str = r#"(component
    (core module $m (func (export "n") (result i32) (i32.const 3)))
    (core instance $i (instantiate $m))
    (func $f (result u32) (canon lift (core func $i "n")))
    (export "tenant" (func $f))
    (export "session" (func $f))
    (export "clone" (func $f)))"#;

fn names() -> FunctionBuilder {
    host().function("names").component_wat(NAMES)
}

#[tokio::test]
async fn an_export_wins_over_an_option_of_the_same_name() {
    let names = names().load_typed::<names::Names>().await.unwrap();
    assert_eq!(names.tenant().await.unwrap().value, 3);
    assert_eq!(names.session_().await.unwrap().value, 3);
    assert_eq!(names.clone().await.unwrap().value, 3);
    let acme = CallOptions::tenant(&names, "acme");
    assert_eq!(acme.options().tenant(), Some("acme"));
    assert_eq!(acme.tenant().await.unwrap().value, 3);
    assert_eq!(isopod::Function::name(acme.as_ref()), "names");
}

#[tokio::test]
async fn another_world_is_refused_when_it_is_loaded() {
    let error = names().imports(Rows::new()).load_typed::<Shapes>().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongExport);
    assert!(text(&error).contains("test:shapes/shapes"), "{}", text(&error));
    let error = wrong().load_typed::<numbers::Numbers>().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongExport);
    assert!(text(&error).contains("type-checking export func `two`"), "{}", text(&error));
    let shapes = host().function("shapes").component_file(built("shapes"));
    let error = shapes.load_typed::<names::Names>().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UngrantedImport);
    assert!(text(&error).contains("test:shapes/db@0.1.0"), "{}", text(&error));
}

mod numbers {
    isopod::world!({ inline: "
        package test:numbers;
        interface all { one: func() -> u32; two: func() -> u32; }
        world numbers { export all; }
    " });
}

/// Exports the interface of `numbers`, with another type for `two`.
fn wrong() -> FunctionBuilder {
    host().function("numbers").component_wat(
        r#"(component
            (core module $m (func (export "n") (result i32) (i32.const 3)))
            (core instance $i (instantiate $m))
            (func $one (result u32) (canon lift (core func $i "n")))
            (func $two (result s32) (canon lift (core func $i "n")))
            (instance $all (export "one" (func $one)) (export "two" (func $two)))
            (export "test:numbers/all" (instance $all)))"#,
    )
}

mod handles {
    isopod::world!({ inline: "
        package test:handles;
        interface things {
            resource thing;
        }
        world handles {
            use things.{thing};
            export pass: func(t: thing) -> thing;
            export many: func(a: list<thing>) -> list<thing>;
            export mixed: func(a: tuple<thing, string>, b: option<borrow<thing>>) -> result<thing, u32>;
        }
    " });
}

use handles::test::handles::things::Thing;

/// Gives back the handles that it was given; drops what was lent.
const HANDLES: &str = r#"(component
    (import "test:handles/things" (instance $things (export "thing" (type (sub resource)))))
    (alias export $things "thing" (type $thing))
    (core func $drop (canon resource.drop $thing))
    (core module $m
        (import "" "drop" (func $drop (param i32)))
        (memory (export "memory") 1)
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
        (func (export "pass") (param i32) (result i32) (local.get 0))
        (func (export "many") (param i32 i32) (result i32)
            (i32.store (i32.const 16) (local.get 0)) (i32.store (i32.const 20) (local.get 1)) (i32.const 16))
        (func (export "mixed") (param $own i32) (param i32 i32) (param $some i32) (param $lent i32) (result i32)
            (if (local.get $some) (then (call $drop (local.get $lent))))
            (i32.store (i32.const 16) (i32.const 0)) (i32.store (i32.const 20) (local.get $own)) (i32.const 16)))
    (core instance $i (instantiate $m (with "" (instance (export "drop" (func $drop))))))
    (alias core export $i "memory" (core memory $memory))
    (alias core export $i "realloc" (core func $realloc))
    (func (export "pass") (param "t" (own $thing)) (result (own $thing)) (canon lift (core func $i "pass")))
    (func (export "many") (param "a" (list (own $thing))) (result (list (own $thing)))
        (canon lift (core func $i "many") (memory (core memory $memory)) (realloc (core func $realloc))))
    (func (export "mixed") (param "a" (tuple (own $thing) string)) (param "b" (option (borrow $thing)))
        (result (result (own $thing) (error u32)))
        (canon lift (core func $i "mixed") (memory (core memory $memory)) (realloc (core func $realloc)))))"#;

#[derive(Clone)]
struct Things(Arc<AtomicU32>);

impl handles::test::handles::things::Host for Things {}

impl handles::test::handles::things::HostThing for Things {
    async fn drop(&mut self, thing: Resource<Thing>) {
        self.0.fetch_add(thing.rep(), Ordering::Relaxed);
    }
}

#[tokio::test]
async fn resources_of_the_host_pass_through_exports() {
    let dropped = Things(Arc::default());
    let builder = host().function("handles").component_wat(HANDLES).imports(dropped.clone());
    let function = builder.load_typed::<handles::Handles>().await.unwrap();
    let thing = |rep| Resource::<Thing>::new(rep);
    let reply = function.pass(thing(7)).await.unwrap();
    assert_eq!((reply.value.rep(), reply.usage.bytes_in, reply.usage.bytes_out), (7, 4, 4));
    let many = function.many(vec![thing(1), thing(2), thing(3)]).await.unwrap().value;
    assert_eq!(many.iter().map(Resource::rep).collect::<Vec<_>>(), [1, 2, 3]);
    let lent = thing(5);
    for lent in [None, Some(&lent)] {
        let reply = function.mixed((thing(4), "text".to_owned()), lent).await.unwrap();
        assert_eq!(reply.value.map(|thing| thing.rep()), Ok(4));
    }
    assert_eq!(dropped.0.load(Ordering::Relaxed), 0);
}

/// Worlds that need only compile: every place where a resource may stand, names that are keywords or clash, flags and
/// resources of the world itself, and code that is strict about what it compiles.
#[forbid(unsafe_code)]
#[deny(warnings, missing_docs, missing_debug_implementations, unreachable_pub, unused_qualifications)]
mod strict {
    mod names_and_resources {
        isopod::world!({ inline: r#"
            package acme:tricky@1.0.0;
            interface res {
                resource thing {
                    constructor(a: option<thing>);
                    get: func(t: list<thing>) -> tuple<thing, string>;
                    %type: func();
                    make: static func() -> result<thing, string>;
                }
                type things = list<thing>;
                type name = string;
                give: func(a: things, b: tuple<borrow<thing>, string>, n: name) -> option<thing>;
                flags f { a, b }
            }
            interface both {
                record r { a: u32, f: list<string> }
                enum err { no, yes }
                go: func(r: r) -> result<r, err>;
            }
            interface out {
                use res.{thing};
                use both.{r};
                resource node {
                    constructor(session: u32, t: borrow<thing>);
                    new: static func() -> node;
                    drop: func(n: option<borrow<node>>);
                    child: func(a: own<node>, s: string) -> result<list<node>, node>;
                    async-one: async func(a: list<string>, o: option<string>);
                }
                type nodes = list<node>;
                use-all: func(a: thing, b: borrow<thing>, c: tuple<own<thing>, string, list<u8>>, d: nodes,
                    e: option<tuple<node, list<string>>>, s: option<string>, r: r, l: list<r>) -> result<tuple<node, thing>, string>;
                only-host: func(a: list<borrow<thing>>) -> list<thing>;
                many: async func(a: option<string>, b: tuple<string, r>, c: result<string, u32>, d: list<node>,
                    e: option<own<thing>>) -> node;
                session: func();
                clone: func();
            }
            interface clone { x: func(); }
            world tricky {
                flags rootflags { x, y, z }
                resource rooted { constructor(); m: func() -> string; }
                enum level { lo, hi }
                import res;
                import both;
                import log: func(l: level, f: rootflags);
                import inl: interface { record q { a: string } z: func(q: q) -> q; }
                export out;
                export both;
                export clone;
                export session: func(a: level) -> rootflags;
                export tenant: func(s: string) -> option<string>;
                export self-test: func(%self: u32, %world: string, store: list<string>, core: u8);
                export clone: func();
                export inl2: interface { record q { a: string } z: func(q: q) -> q; }
            }
        "# });
    }

    /// What of WASI is in the world is isopod's to provide; its plain types may be used.
    mod wasi {
        isopod::world!({ path: "guests/wit/http-p2", inline: "
            package test:wasi;
            interface files {
                use wasi:clocks/wall-clock@0.2.12.{datetime};
                use wasi:filesystem/types@0.2.12.{descriptor-stat};
                when: func(d: descriptor-stat) -> datetime;
            }
            world files-only {
                include wasi:cli/imports@0.2.12;
                import files;
                export files;
                export wasi:cli/run@0.2.12;
            }
        " });

        const _: () = assert!(<FilesOnly as isopod::__private::World>::IMPORTS.len() == 1);
    }
}
