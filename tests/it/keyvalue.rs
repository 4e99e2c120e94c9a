//! Key-value: what stores promise, and what guests may do with the buckets that they are granted.

use crate::support::{Journal, built, host, text};
use isopod::store::{Batch, Committed, Durability, Entry, Kv, Refused, Size, Space};
use isopod::testkit::conformance;
use isopod::{BoxFuture, CallOptions, ErrorKind, Function, Host, KeyValue, Limit, Limits, Reply, Store, ms};
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_bytes::{ByteBuf, Bytes};
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::task::JoinSet;

/// A folder of its own, removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("isopod-keyvalue-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_in_memory_keeps_its_promises() {
    conformance::kv(Store::memory).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_store_keeps_its_promises() {
    let folder = Folder::new();
    let next = AtomicU32::new(0);
    let make = || Store::embedded(folder.file(&next.fetch_add(1, Ordering::Relaxed).to_string())).unwrap();
    conformance::kv(make).await;
}

const GUESTS: [&str; 2] = ["keyvalue", "keyvalue-draft"];

async fn load(host: &Host, guest: &str, grants: impl IntoIterator<Item = KeyValue>) -> Function {
    let builder = host.function("keeper").component_file(built(guest)).limits(Limits::default().deadline(ms(10_000)));
    grants.into_iter().fold(builder, |builder, grant| builder.grant(grant)).load().await.unwrap()
}

/// What an operation of the guest gave.
type Did<T> = Result<T, String>;

async fn ask<T: DeserializeOwned>(function: &Function, operation: &str, args: impl Serialize) -> Reply<Did<T>> {
    let reply = function.call(&format!("operations#{operation}"), args).await;
    reply.unwrap_or_else(|e| panic!("{operation}: {e:?}"))
}

async fn ok<T: DeserializeOwned>(function: &Function, operation: &str, args: impl Serialize) -> T {
    ask(function, operation, args).await.value.unwrap_or_else(|e| panic!("{operation}: {e}"))
}

async fn refused(function: &Function, operation: &str, args: impl Serialize) -> String {
    ask::<IgnoredAny>(function, operation, args).await.value.expect_err(operation)
}

async fn get(function: &Function, key: &str) -> Option<String> {
    let value: Option<ByteBuf> = ok(function, "get", ("state", key)).await;
    value.map(|value| String::from_utf8(value.into_vec()).unwrap())
}

async fn set(function: &Function, key: &str, value: &str) {
    ok(function, "set", ("state", key, Bytes::new(value.as_bytes()))).await
}

async fn refused_set(function: &Function, key: &str, value: &str) -> String {
    refused(function, "set", ("state", key, Bytes::new(value.as_bytes()))).await
}

fn state() -> KeyValue {
    KeyValue::bucket("state")
}

#[tokio::test]
async fn guests_of_both_drafts_read_and_write() {
    for guest in GUESTS {
        let keeper = load(&host(), guest, [state()]).await;
        assert_eq!(get(&keeper, "a").await, None, "{guest}");
        set(&keeper, "a", "1").await;
        set(&keeper, "", "").await;
        set(&keeper, "é/\0", "odd").await;
        assert_eq!(get(&keeper, "a").await.as_deref(), Some("1"), "{guest}");
        assert_eq!(get(&keeper, "").await.as_deref(), Some(""));
        assert_eq!(get(&keeper, "é/\0").await.as_deref(), Some("odd"));
        let exists = async |key: &str| ok::<bool>(&keeper, "exists", ("state", key)).await;
        assert_eq!((exists("a").await, exists("b").await, exists("").await), (true, false, true));
        assert_eq!(ok::<Vec<Vec<String>>>(&keeper, "keys", ("state", false)).await, [["", "a", "é/\0"]]);
        ok::<()>(&keeper, "delete", ("state", "a")).await;
        ok::<()>(&keeper, "delete", ("state", "never")).await;
        assert_eq!(get(&keeper, "a").await, None);
        for sum in [5, 10] {
            assert_eq!(ok::<i64>(&keeper, "increment", ("state", "n", 5, 1)).await, sum, "{guest}");
        }
        assert_eq!(get(&keeper, "n").await.as_deref(), Some("10"), "a number is decimal text");
        assert_eq!(refused(&keeper, "increment", ("state", "é/\0", 1, 1)).await, "other: the value is no number");
        assert_eq!(
            refused(&keeper, "increment", ("state", "n", i64::MAX, 1)).await,
            "other: the sum does not fit 64 bits"
        );
        assert_eq!(get(&keeper, "n").await.as_deref(), Some("10"));
        let reply = ask::<bool>(&keeper, "exists", ("state", "n")).await;
        assert_eq!(reply.usage.host_calls, 3, "open, exists, and the handle's end");
        assert!(reply.denials().is_empty());
    }
}

/// Engines come in four flavours: components of WASI 0.3 have one of their own, and so has fuel.
#[tokio::test]
async fn engines_of_every_flavour_have_buckets() {
    for (newer, fuel) in [(false, false), (false, true), (true, false), (true, true)] {
        let import = if newer { r#"(import "wasi:clocks/types@0.3.0" (instance))"# } else { "" };
        let wat = format!(
            r#"(component {import}
                (import "wasi:keyvalue/store@0.2.0-draft2" (instance $store
                    (export "bucket" (type $bucket (sub resource)))
                    (type $e (variant (case "no-such-store") (case "access-denied") (case "other" string)))
                    (export "error" (type $error (eq $e)))
                    (export "open" (func (param "identifier" string) (result (result (own $bucket) (error $error)))))
                    (export "[method]bucket.exists"
                        (func (param "self" (borrow $bucket)) (param "key" string) (result (result bool (error $error)))))))
                (core module $libc (memory (export "m") 1) (data (i32.const 0) "state")
                    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
                (core instance $libc (instantiate $libc))
                (alias core export $libc "m" (core memory $mem))
                (alias core export $libc "realloc" (core func $realloc))
                (core func $open (canon lower (func $store "open") (memory $mem) (realloc $realloc)))
                (core func $exists
                    (canon lower (func $store "[method]bucket.exists") (memory $mem) (realloc $realloc)))
                (core module $m
                    (import "libc" "m" (memory 1))
                    (import "w" "open" (func $open (param i32 i32 i32)))
                    (import "w" "exists" (func $exists (param i32 i32 i32 i32)))
                    (func (export "run") (result i32)
                        (call $open (i32.const 0) (i32.const 5) (i32.const 16))
                        (if (i32.load8_u (i32.const 16)) (then (return (i32.const 9))))
                        (call $exists (i32.load (i32.const 20)) (i32.const 0) (i32.const 5) (i32.const 32))
                        (i32.load8_u (i32.const 36))))
                (core instance $w (export "open" (func $open)) (export "exists" (func $exists)))
                (core instance $i (instantiate $m (with "libc" (instance $libc)) (with "w" (instance $w))))
                (func (export "run") (result u32) (canon lift (core func $i "run"))))"#
        );
        let folder = Folder::new();
        let store = Store::embedded(folder.file("state")).unwrap();
        store.kv().commit(Batch::new().set(&Space::new(None, "state"), "state", "")).await.unwrap();
        let host = Host::builder().store(store).build().unwrap();
        let limits = if fuel { Limits::default().fuel(1_000_000) } else { Limits::default() };
        let function = host.function("f").component_wat(wat).grant(state()).limits(limits).load().await.unwrap();
        assert_eq!(function.call::<u32>("run", ()).await.unwrap().value, 1, "newer {newer}, fuel {fuel}");
    }
}

/// The older draft has no negative numbers.
#[tokio::test]
async fn numbers_may_be_negative_where_the_draft_has_them() {
    let host = host();
    let (new, old) = (load(&host, GUESTS[0], [state()]).await, load(&host, GUESTS[1], [state()]).await);
    assert_eq!(ok::<i64>(&new, "increment", ("state", "n", -7, 2)).await, -14);
    assert!(refused(&old, "increment", ("state", "n", 4, 1)).await.contains("the sum is -10"));
    assert!(refused(&old, "increment", ("state", "n", -1, 1)).await.contains("does not fit"));
    assert_eq!(ok::<i64>(&old, "increment", ("state", "n", 11, 1)).await, 1);
}

#[tokio::test]
async fn lists_are_whole_by_pages() {
    for guest in GUESTS {
        let store = Store::memory();
        let host = Host::builder().store(store.clone()).build().unwrap();
        let space = Space::new(None, "state");
        let all: Vec<String> = (0..1_234).map(|n| format!("{n:04}")).collect();
        let batch = all.iter().fold(Batch::new(), |batch, key| batch.set(&space, key.clone(), ""));
        store.kv().commit(batch).await.unwrap();
        let keeper = load(&host, guest, [state()]).await;
        let pages: Vec<Vec<String>> = ok(&keeper, "keys", ("state", false)).await;
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [500, 500, 234], "{guest}");
        assert_eq!(pages.concat(), all);
        if guest == "keyvalue" {
            assert_eq!(ok::<Vec<String>>(&keeper, "keys-from", ("state", "1230x")).await, ["1231", "1232", "1233"]);
        } else {
            assert!(refused(&keeper, "keys-from", ("state", "1")).await.contains("cursor"));
        }
        // Removing what was listed moves no page.
        let pages: Vec<Vec<String>> = ok(&keeper, "keys", ("state", true)).await;
        assert_eq!(pages.concat(), all, "{guest}");
        assert_eq!(ok::<Vec<Vec<String>>>(&keeper, "keys", ("state", false)).await, [[""; 0]]);
    }
}

#[tokio::test]
async fn batches_of_guests() {
    for guest in GUESTS {
        let keeper = load(&host(), guest, [state().max_value_bytes(1_000_000).max_keys(600)]).await;
        let pairs = |pairs: &[(&'static str, usize)]| -> Vec<(&'static str, ByteBuf)> {
            pairs.iter().map(|(key, bytes)| (*key, ByteBuf::from(vec![b'x'; *bytes]))).collect()
        };
        ok::<()>(&keeper, "set-many", ("state", pairs(&[("a", 1), ("b", 2), ("a", 3)]))).await;
        type Gotten = Vec<Option<(String, ByteBuf)>>;
        let gotten: Gotten = ok(&keeper, "get-many", ("state", ["b", "none", "a"])).await;
        let gotten: Vec<_> =
            gotten.iter().map(|one| one.as_ref().map(|(key, value)| (&key[..], value.len()))).collect();
        assert_eq!(gotten, [Some(("b", 2)), None, Some(("a", 3))], "{guest}");
        let too_large = refused(&keeper, "set-many", ("state", pairs(&[("c", 1), ("d", 1_000_001)]))).await;
        assert_eq!(too_large, "other: the value has 1000001 bytes, more than the 1000000 allowed");
        assert_eq!(get(&keeper, "c").await, None, "all or nothing");
        ok::<()>(&keeper, "delete-many", ("state", ["a", "none", "b"])).await;
        assert_eq!(ok::<Vec<Vec<String>>>(&keeper, "keys", ("state", false)).await, [[""; 0]]);

        let names: Vec<String> = (0..501).map(|n| n.to_string()).collect();
        let many: Vec<_> = names.iter().map(|name| (name, ByteBuf::new())).collect();
        for (operation, refusal) in [
            ("get-many", refused(&keeper, "get-many", ("state", &names)).await),
            ("delete-many", refused(&keeper, "delete-many", ("state", &names)).await),
            ("set-many", refused(&keeper, "set-many", ("state", &many)).await),
        ] {
            assert_eq!(refusal, "other: 501 keys at once are more than the 500 allowed", "{guest} {operation}");
        }
        ok::<()>(&keeper, "set-many", ("state", &many[..500])).await;
        assert_eq!(ok::<Gotten>(&keeper, "get-many", ("state", &names[..500])).await.len(), 500);
        ok::<()>(&keeper, "delete-many", ("state", &names[..500])).await;

        // Values that are small enough each, and too much together.
        for key in ["a", "b", "c", "d", "e"] {
            ok::<()>(&keeper, "set-many", ("state", pairs(&[(key, 1_000_000)]))).await;
        }
        let read = async |keys: &[&str]| refused(&keeper, "get-many", ("state", keys)).await;
        let too_much = "other: the values have more than 4194304 bytes; get fewer at once";
        assert_eq!(read(&["a", "b", "c", "d", "e"]).await, too_much, "{guest}");
        assert_eq!(read(&["a"; 500]).await, too_much, "{guest}");
    }
}

#[tokio::test]
async fn buckets_are_shared_by_functions_and_not_by_tenants() {
    let host = host();
    let one = load(&host, GUESTS[0], [state(), KeyValue::bucket("other")]).await;
    let two = load(&host, GUESTS[1], [state().max_total_bytes(10)]).await;
    let tenants = ["acme", "acme/", "", "\0acme", "ACME"];
    set(&one, "who", "nobody").await;
    for tenant in tenants {
        assert_eq!(get(&two.tenant(tenant), "who").await, None, "{tenant:?}");
        set(&two.tenant(tenant), "who", tenant).await;
        ok::<i64>(&one.tenant(tenant), "increment", ("other", "n", 1, 1)).await;
    }
    for tenant in tenants {
        assert_eq!(get(&one.tenant(tenant), "who").await.as_deref(), Some(tenant));
        assert_eq!(ok::<Vec<Vec<String>>>(&one.tenant(tenant), "keys", ("state", false)).await, [["who"]]);
        assert_eq!(get(&one.tenant(tenant), "n").await, None, "buckets are apart as well");
    }
    assert_eq!(get(&two, "who").await.as_deref(), Some("nobody"));
    ok::<()>(&one.tenant("acme"), "delete", ("state", "who")).await;
    assert_eq!(get(&one.tenant("ACME"), "who").await.as_deref(), Some("ACME"));
}

#[tokio::test]
async fn a_prefix_and_reading_only_narrow_a_grant() {
    for guest in GUESTS {
        let host = host();
        let owner = load(&host, guest, [state()]).await;
        for key in ["acme", "acme/1", "acme/2", "acmf"] {
            set(&owner, key, key).await;
        }
        let narrow = load(&host, guest, [state().prefix("acme/")]).await;
        assert_eq!(get(&narrow, "acme/1").await.as_deref(), Some("acme/1"), "keys are named in full");
        set(&narrow, "acme/3", "new").await;
        assert_eq!(ok::<Vec<Vec<String>>>(&narrow, "keys", ("state", false)).await, [["acme/1", "acme/2", "acme/3"]]);
        if guest == "keyvalue" {
            for cursor in ["", "a", "acme/2", "zzz"] {
                let found: Vec<String> = ok(&narrow, "keys-from", ("state", cursor)).await;
                assert!(found.iter().all(|key| key.starts_with("acme/")), "{cursor}: {found:?}");
            }
        }
        let many = [("acme/1", ByteBuf::new()), ("acmf", ByteBuf::new())];
        for refusal in [
            ask(&narrow, "get", ("state", "acme")).await.map(|done: Did<IgnoredAny>| done.err()),
            ask(&narrow, "exists", ("state", "acmf")).await.map(|done: Did<IgnoredAny>| done.err()),
            ask(&narrow, "set", ("state", "other", ByteBuf::new())).await.map(|done: Did<()>| done.err()),
            ask(&narrow, "delete", ("state", "acme")).await.map(|done: Did<()>| done.err()),
            ask(&narrow, "increment", ("state", "", 1, 1)).await.map(|done: Did<i64>| done.err()),
            ask(&narrow, "get-many", ("state", ["acme/1", "acmf"])).await.map(|done: Did<IgnoredAny>| done.err()),
            ask(&narrow, "set-many", ("state", &many)).await.map(|done: Did<()>| done.err()),
            ask(&narrow, "delete-many", ("state", ["acme/1", "acmf"])).await.map(|done: Did<()>| done.err()),
        ] {
            assert_eq!(refusal.value.as_deref(), Some("access-denied"), "{guest}");
            let explained = refusal.denials()[0].explain();
            assert!(explained.contains("is for keys that begin with \"acme/\""), "{explained}");
        }

        let reader = load(&host, guest, [state().read_only()]).await;
        assert_eq!(get(&reader, "acme/1").await.as_deref(), Some("acme/1"), "nothing was written above");
        assert_eq!(ok::<Vec<Vec<String>>>(&reader, "keys", ("state", false)).await[0].len(), 5);
        for refusal in [
            refused_set(&reader, "acme", "x").await,
            refused(&reader, "delete", ("state", "acme")).await,
            refused(&reader, "increment", ("state", "n", 1, 1)).await,
            refused(&reader, "set-many", ("state", &many)).await,
            refused(&reader, "delete-many", ("state", ["acme"])).await,
        ] {
            assert_eq!(refusal, "access-denied", "{guest}");
        }
        let refusal = ask::<()>(&reader, "delete", ("state", "acme")).await;
        assert_eq!(
            refusal.denials()[0].explain(),
            "keyvalue delete \"acme\" in \"state\" was denied: the rule for bucket \"state\" allows only reading; to \
             allow it: `.grant(KeyValue::bucket(\"state\"))` in place of that one, or in a policy: keyvalue = [{ \
             bucket = \"state\", mode = \"rw\" }]"
        );
        assert_eq!(get(&owner, "acme").await.as_deref(), Some("acme"));
    }
}

/// Nothing to write is no reason to pass a grant, nor to wait for a disk.
#[tokio::test]
async fn empty_batches_are_refused_like_others_and_cost_no_commit() {
    for guest in GUESTS {
        let store = Store::memory();
        let host = Host::builder().store(store.clone()).build().unwrap();
        let version = async || {
            let batch = Batch::new().set(&Space::new(None, "other"), "a", "");
            store.kv().commit(batch).await.unwrap().version.0
        };
        let before = version().await;
        let none: [(&str, ByteBuf); 0] = [];
        let keeper = load(&host, guest, [state().prefix("a/")]).await;
        ok::<()>(&keeper, "set-many", ("state", &none)).await;
        ok::<()>(&keeper, "delete-many", ("state", [""; 0])).await;
        let reader = load(&host, guest, [state().read_only()]).await;
        for reply in [
            ask::<()>(&reader, "set-many", ("state", &none)).await,
            ask::<()>(&reader, "delete-many", ("state", [""; 0])).await,
        ] {
            assert_eq!(reply.value.as_ref().unwrap_err(), "access-denied", "{guest}");
            assert!(reply.denials()[0].rule().contains("allows only reading"), "{:?}", reply.denials());
        }
        assert_eq!(version().await, before + 1, "{guest}");
    }
}

#[tokio::test]
async fn swaps_are_narrowed_as_well() {
    let host = host();
    let swap = async |grant: KeyValue, key: &str| {
        let keeper = load(&host, GUESTS[0], [grant]).await;
        keeper.call::<Did<u32>>("swap-add", ("state", key, 1)).await.unwrap().value
    };
    assert_eq!(swap(state(), "n").await, Ok(0));
    assert_eq!(swap(state().read_only(), "n").await.unwrap_err(), "access-denied");
    assert_eq!(swap(state().prefix("a/"), "n").await.unwrap_err(), "access-denied");
    assert!(swap(state().max_total_bytes(2), "x").await.unwrap_err().contains("full"));
    assert_eq!(swap(state().max_keys(1), "x").await.unwrap_err(), "other: the bucket is full: its quota is 1 keys");
    assert!(swap(state(), &"k".repeat(1_025)).await.unwrap_err().contains("1025 bytes"));
    assert_eq!(swap(state().max_keys(1), "n").await, Ok(0));
}

#[tokio::test]
async fn quotas_hold_to_the_byte() {
    let folder = Folder::new();
    for (at, store) in [Store::memory(), Store::embedded(folder.file("state")).unwrap()].into_iter().enumerate() {
        let host = Host::builder().store(store).build().unwrap();
        let grant = state().max_value_bytes(8).max_total_bytes(20).max_keys(3);
        let keeper = load(&host, GUESTS[at], [grant]).await;
        let full = |what: &str| format!("other: the bucket is full: its quota is {what}");
        assert_eq!(
            refused_set(&keeper, "a", "123456789").await,
            "other: the value has 9 bytes, more than the 8 allowed"
        );
        assert!(refused_set(&keeper, &"k".repeat(1_025), "").await.contains("a key has 1025 bytes"));
        set(&keeper, "a", "12345678").await;
        set(&keeper, "bb", "12345678").await;
        assert_eq!(refused_set(&keeper, "c", "1").await, full("20 bytes"), "19 bytes are there");
        set(&keeper, "c", "").await;
        assert_eq!(refused_set(&keeper, "", "").await, full("3 keys"), "20 bytes are there, and 3 keys");
        assert_eq!(refused(&keeper, "increment", ("state", "n", 1, 1)).await, full("20 bytes"));
        assert_eq!(refused_set(&keeper, "c", "1").await, full("20 bytes"));
        // Another tenant has room of its own, and so has another bucket's function.
        set(&keeper.tenant("acme"), "a", "12345678").await;
        let other = load(&host, GUESTS[0], [KeyValue::bucket("other")]).await;
        ok::<()>(&other, "set", ("other", "a", ByteBuf::from(vec![0; 60_000]))).await;
        // What is removed or becomes shorter gives room back, to the byte.
        set(&keeper, "a", "1234567").await;
        set(&keeper, "c", "1").await;
        assert_eq!(refused_set(&keeper, "c", "12").await, full("20 bytes"));
        ok::<()>(&keeper, "delete", ("state", "bb")).await;
        ok::<()>(&keeper, "set-many", ("state", [("c", ByteBuf::from(vec![b'1'; 8])), ("d", ByteBuf::from("12"))]))
            .await;
        assert_eq!(refused_set(&keeper, "d", "123").await, full("20 bytes"));
        let many = [("a", ByteBuf::new()), ("d", ByteBuf::from(vec![0; 8])), ("e", ByteBuf::new())];
        assert_eq!(refused(&keeper, "set-many", ("state", many)).await, full("3 keys"));
        assert_eq!(get(&keeper, "a").await.as_deref(), Some("1234567"), "nothing of it was written");
        let reply = ask::<()>(&keeper, "set", ("state", "z", ByteBuf::new())).await;
        assert!(reply.value.is_err() && reply.denials().is_empty(), "a full bucket is no denial");
    }
}

/// A grant that was narrowed later: nothing is lost, and what is there can be removed.
#[tokio::test]
async fn a_bucket_that_is_fuller_than_its_bound_can_be_emptied() {
    let host = host();
    let wide = load(&host, GUESTS[0], [state()]).await;
    for key in ["a", "b", "c"] {
        set(&wide, key, &"x".repeat(1_000)).await;
    }
    let narrow = load(&host, GUESTS[0], [state().max_total_bytes(100).max_keys(1).max_value_bytes(10)]).await;
    assert_eq!(get(&narrow, "a").await.unwrap().len(), 1_000);
    assert!(refused_set(&narrow, "d", "").await.contains("full"));
    set(&narrow, "a", "short").await;
    for key in ["a", "b", "c"] {
        ok::<()>(&narrow, "delete", ("state", key)).await;
    }
    set(&narrow, "d", "").await;
}

#[tokio::test]
async fn a_bucket_that_is_not_granted_is_denied_and_explained() {
    for guest in GUESTS {
        let host = host();
        let keeper = load(&host, guest, [state(), KeyValue::bucket("settings")]).await.tenant("acme");
        let reply = ask::<IgnoredAny>(&keeper, "get", ("State", "a")).await;
        assert_eq!(reply.value.as_ref().unwrap_err(), "access-denied", "{guest}");
        assert_eq!(reply.usage.host_calls, 1, "a refusal is one host call as well");
        assert_eq!(
            reply.denials()[0].explain(),
            "keyvalue open \"State\" was denied: no bucket of that name is granted; the nearest is \"state\"; to allow \
             it: `.grant(KeyValue::bucket(\"State\"))`, or in a policy: keyvalue = [{ bucket = \"State\" }]"
        );
        let audit = host.denials();
        assert_eq!(audit, reply.denials());
        assert_eq!((audit[0].function(), audit[0].tenant()), ("keeper", Some("acme")));
        let long = "x".repeat(100_000);
        for name in ["", "secrets", "state\n\u{202e}", long.as_str()] {
            let reply = ask::<IgnoredAny>(&keeper, "get", (name, "a")).await;
            assert_eq!(reply.value.as_ref().unwrap_err(), "access-denied");
            let explained = reply.denials()[0].explain();
            assert!(explained.len() < 1_000 && !explained.contains(['\n', '\u{202e}']), "{explained}");
        }
    }
}

#[tokio::test]
async fn without_a_grant_it_does_not_load_or_is_denied_at_the_call() {
    for guest in GUESTS {
        let builder = || host().function("keeper").component_file(built(guest));
        let error = builder().load().await.unwrap_err();
        assert_eq!((error.kind(), error.denials().len()), (ErrorKind::UngrantedImport, 3), "{error}");
        assert!(error.to_string().contains("`.grant(KeyValue::bucket(\"..\"))`"), "{error}");
        let keeper = builder().deny_at_call().load().await.unwrap();
        let error = keeper.call::<Did<Option<ByteBuf>>>("operations#get", ("state", "a")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
        assert!(error.denials()[0].explain().contains("KeyValue::bucket("), "{error:?}");
    }
    let unknown = r#"(component (import "wasi:keyvalue/store@0.3.0" (instance (export "f" (func)))))"#;
    let error = host().function("newer").component_wat(unknown).grant(state()).load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UngrantedImport);
    assert!(error.to_string().contains("0.2.0-draft2"), "{error}");
    let error = host().function("none").component_wat("(component)").grant(state()).load().await.unwrap_err();
    assert!(error.to_string().contains("the grant KeyValue has no effect"), "{error}");
}

#[tokio::test]
async fn grants_that_cannot_be_kept_are_refused() {
    let wrong = [
        vec![KeyValue::bucket("")],
        vec![KeyValue::bucket("two\nlines")],
        vec![KeyValue::bucket("x".repeat(257))],
        vec![state().max_keys(0)],
        vec![state().max_value_bytes(0)],
        vec![state().read_only().max_total_bytes(9)],
        vec![state().prefix("p".repeat(1_025))],
        vec![state().prefix("a/"), KeyValue::bucket("other"), state().prefix("b/")],
    ];
    for grants in wrong {
        let builder = host().function("keeper").component_file(built(GUESTS[0]));
        let shown = format!("{grants:?}");
        let error = grants.into_iter().fold(builder, |builder, grant| builder.grant(grant)).load().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse, "{shown}");
        assert!(error.to_string().contains("KeyValue::bucket("), "{error}");
    }
}

#[tokio::test]
async fn handles_and_host_calls_are_counted() {
    let builder = |limits: Limits| {
        host().function("keeper").component_file(built(GUESTS[0])).grant(state()).limits(limits.deadline(ms(10_000)))
    };
    let end = async |limits: Limits, times: u32| {
        let keeper = builder(limits).load().await.unwrap();
        keeper.call::<Did<()>>("operations#hoard", ("state", times)).await.map(|_| ()).map_err(|error| error.kind())
    };
    assert_eq!(end(Limits::default().handles(50), 40).await, Ok(()));
    assert_eq!(end(Limits::default().handles(50), 60).await, Err(ErrorKind::LimitExceeded(Limit::Handles)));
    assert_eq!(end(Limits::default().host_calls(50), 60).await, Err(ErrorKind::LimitExceeded(Limit::HostCalls)));
    let keeper = builder(Limits::default().host_calls(100)).load().await.unwrap();
    let endless = keeper.call::<Did<i64>>("operations#increment", ("state", "n", 1, 1_000_000)).await.unwrap_err();
    assert_eq!(endless.kind(), ErrorKind::LimitExceeded(Limit::HostCalls));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_side_by_side_lose_no_increment_and_no_swap() {
    let folder = Folder::new();
    for store in [Store::memory(), Store::embedded(folder.file("state")).unwrap()] {
        let host = Host::builder().store(store).build().unwrap();
        let keeper = load(&host, GUESTS[0], [state().max_total_bytes(40)]).await.tenant("acme");
        let mut calls = JoinSet::new();
        for _ in 0..20 {
            let keeper = keeper.clone();
            calls.spawn(async move { ok::<i64>(&keeper, "increment", ("state", "n", 2, 25)).await });
        }
        assert_eq!(calls.join_all().await.into_iter().max(), Some(1_000));
        let mut calls = JoinSet::new();
        for _ in 0..4 {
            let keeper = keeper.clone();
            calls.spawn(async move { keeper.call::<Did<u32>>("swap-add", ("state", "s", 25)).await.unwrap().value });
        }
        assert!(calls.join_all().await.iter().all(Result::is_ok));
        assert_eq!(get(&keeper, "s").await.as_deref(), Some("100"));
        let between: ByteBuf = keeper.call::<Did<ByteBuf>>("swap-late", ("state", "l")).await.unwrap().value.unwrap();
        assert_eq!((&between[..], get(&keeper, "l").await.as_deref()), (&b"between"[..], Some("in time")));
    }
}

#[tokio::test]
async fn an_embedded_store_outlives_its_host() {
    let folder = Folder::new();
    let path = folder.file("state");
    for round in 1..=3 {
        let store = Store::embedded(&path).unwrap();
        assert_eq!(store.kv().durability(), Durability::Disk);
        let host = Host::builder().store(store).build().unwrap();
        let keeper = load(&host, GUESTS[0], [state().max_total_bytes(14)]).await.tenant("acme");
        assert_eq!(ok::<i64>(&keeper, "increment", ("state", "rounds", 1, 1)).await, round);
        assert_eq!(get(&keeper, "kept").await.is_some(), round > 1, "round {round}");
        if round == 1 {
            set(&keeper, "kept", "1").await;
        }
        assert!(refused_set(&keeper, "kept", "12345").await.contains("full"), "quotas outlive it as well");
    }
}

/// A store whose answers are of one kind.
#[derive(Clone, Copy)]
enum Broken {
    Fails,
    Hangs,
    Panics,
}

impl Broken {
    fn answer<T: Send + 'static>(self) -> BoxFuture<'static, io::Result<T>> {
        match self {
            Broken::Fails => Box::pin(async { Err(io::Error::other("/srv/secret/path: no such device\n")) }),
            Broken::Hangs => Box::pin(std::future::pending()),
            Broken::Panics => panic!("the store panicked"),
        }
    }
}

impl Kv for Broken {
    fn durability(&self) -> Durability {
        Durability::Memory
    }
    fn get_many<'a>(
        &'a self,
        _: &'a Space,
        _: &'a [bytes::Bytes],
        _: usize,
    ) -> BoxFuture<'a, io::Result<Vec<Option<Entry>>>> {
        self.answer()
    }
    fn list<'a>(
        &'a self,
        _: &'a Space,
        _: &'a [u8],
        _: Option<&'a [u8]>,
        _: usize,
    ) -> BoxFuture<'a, io::Result<Vec<bytes::Bytes>>> {
        self.answer()
    }
    fn size<'a>(&'a self, _: &'a Space) -> BoxFuture<'a, io::Result<Size>> {
        self.answer()
    }
    fn commit(&self, _: Batch) -> BoxFuture<'_, Result<Committed, Refused>> {
        let answer = self.answer();
        Box::pin(async { answer.await.map_err(Refused::Failed) })
    }
}

#[tokio::test]
async fn a_store_that_fails_hangs_or_panics_takes_nothing_down() {
    let none = || ByteBuf::from("x");
    for guest in GUESTS {
        let host = Host::builder().store(Store::new(Broken::Fails)).build().unwrap();
        let keeper = load(&host, guest, [state()]).await;
        for refusal in [
            refused(&keeper, "get", ("state", "a")).await,
            refused(&keeper, "exists", ("state", "a")).await,
            refused(&keeper, "set", ("state", "a", none())).await,
            refused(&keeper, "delete", ("state", "a")).await,
            refused(&keeper, "keys", ("state", false)).await,
            refused(&keeper, "increment", ("state", "a", 1, 1)).await,
            refused(&keeper, "get-many", ("state", ["a"])).await,
            refused(&keeper, "set-many", ("state", [("a", none())])).await,
            refused(&keeper, "delete-many", ("state", ["a"])).await,
        ] {
            assert_eq!(refusal, "other: the store failed", "{guest}: what failed is not the guest's business");
        }
        for (broken, kind) in [(Broken::Hangs, ErrorKind::TimedOut), (Broken::Panics, ErrorKind::HostPanic)] {
            let host = Host::builder().store(Store::new(broken)).seats(1).build().unwrap();
            let keeper = load(&host, guest, [state()]).await.deadline(ms(100));
            for _ in 0..2 {
                let started = std::time::Instant::now();
                let get = keeper.call::<Did<Option<ByteBuf>>>("operations#get", ("state", "a")).await.unwrap_err();
                let set = keeper.call::<Did<()>>("operations#set", ("state", "a", none())).await.unwrap_err();
                assert_eq!((get.kind(), set.kind()), (kind, kind), "{guest}: {get:?} {set:?}");
                assert!(started.elapsed() < ms(5_000), "a hanging store held a call beyond its deadline");
            }
        }
    }
    let host = Host::builder().store(Store::new(Broken::Fails)).build().unwrap();
    let keeper = load(&host, GUESTS[0], [state()]).await;
    let swap = keeper.call::<Did<u32>>("swap-add", ("state", "a", 1)).await.unwrap().value;
    assert_eq!(swap.unwrap_err(), "other: the store failed");
}

/// What the host's people need to know is in the log, on one line.
#[test]
fn a_failure_of_the_store_is_logged() {
    let journal = Journal::default();
    tracing::subscriber::with_default(journal.clone(), || {
        isopod::block_on(async {
            let host = Host::builder().store(Store::new(Broken::Fails)).build()?;
            let keeper = load(&host, GUESTS[0], [state()]).await;
            refused(&keeper, "get", ("state", "a")).await;
            Ok(())
        })
        .unwrap();
    });
    let text = journal.text();
    let line = text.lines().find(|line| line.contains("the key-value store failed")).unwrap();
    assert!(line.contains("/srv/secret/path: no such device"), "{text}");
}

fn opening(path: impl AsRef<Path>) -> String {
    let error = Store::embedded(path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    text(&error)
}

#[tokio::test]
async fn a_file_that_is_no_store_is_refused() {
    let folder = Folder::new();
    let space = Space::new(None, "s");
    let file = folder.file("text");
    std::fs::write(&file, "not a database, but something that somebody needs").unwrap();
    assert!(opening(&file).contains("something else"), "{}", opening(&file));
    assert_eq!(std::fs::read(&file).unwrap(), b"not a database, but something that somebody needs");
    assert!(opening(folder.file("none/state")).contains("cannot be used"));
    assert!(opening(&folder.0).contains("cannot be opened"), "a folder");

    let file = folder.file("theirs");
    let theirs = redb::Database::create(&file).unwrap();
    let write = theirs.begin_write().unwrap();
    write.open_table(redb::TableDefinition::<u64, u64>::new("theirs")).unwrap();
    write.commit().unwrap();
    assert!(opening(&file).contains("open already"), "{}", opening(&file));
    drop(theirs);
    assert!(opening(&file).contains("another program"), "{}", opening(&file));

    let file = folder.file("newer");
    drop(Store::embedded(&file).unwrap());
    let newer = redb::Database::create(&file).unwrap();
    let write = newer.begin_write().unwrap();
    write.open_table(redb::TableDefinition::<&str, u64>::new("isopod.meta")).unwrap().insert("format", 2).unwrap();
    write.commit().unwrap();
    drop(newer);
    assert!(opening(&file).contains("a newer isopod"), "{}", opening(&file));

    // Damage anywhere in the file is found, or was of a page that nobody reads.
    let file = folder.file("state");
    let store = Store::embedded(&file).unwrap();
    let keys: Vec<bytes::Bytes> = (0..200).map(|n| n.to_string().into()).collect();
    let batch = keys.iter().fold(Batch::new(), |batch, key| batch.set(&space, key.clone(), vec![b'v'; 500]));
    store.kv().commit(batch).await.unwrap();
    drop(store);
    let whole = std::fs::read(&file).unwrap();
    let mut refusals = 0;
    for at in (0..whole.len()).step_by(4_096) {
        let damaged = folder.file("damaged");
        let mut bytes = whole.clone();
        bytes[at..at + 64].fill([0xa5, 0, 2][at / 4_096 % 3]);
        std::fs::write(&damaged, &bytes).unwrap();
        match Store::embedded(&damaged) {
            Ok(store) => {
                let read = store.kv().get_many(&space, &keys, usize::MAX).await.unwrap();
                assert!(read.iter().all(|entry| entry.as_ref().is_some_and(|e| e.value == vec![b'v'; 500])), "{at}");
                store.kv().commit(Batch::new().delete(&space, "7")).await.unwrap();
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Store, "{error:?}");
                refusals += 1;
            }
        }
    }
    assert!(refusals > 20, "{refusals} of {} pages", whole.len() / 4_096);
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    assert!(opening(&file).contains("cannot be opened"), "cut in half");
}

/// A test of this name runs in a process of its own, with a file to work on.
const FILE: &str = "ISOPOD_TEST_KEYVALUE_FILE";

fn child(test: &str, file: &Path) -> std::process::Command {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", &format!("keyvalue::{test}"), "--nocapture"]).env(FILE, file);
    child
}

#[tokio::test]
async fn one_process_has_a_file_to_itself() {
    if let Some(file) = std::env::var_os(FILE) {
        assert!(opening(file).contains("in another process"));
        return;
    }
    let folder = Folder::new();
    let file = folder.file("state");
    let store = Store::embedded(&file).unwrap();
    assert!(opening(&file).contains("it is open already"), "{}", opening(&file));
    let ended = child("one_process_has_a_file_to_itself", &file).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
    // Hosts of one process share the store.
    let space = Space::new(None, "state");
    for _ in 0..2 {
        let host = Host::builder().store(store.clone()).build().unwrap();
        set(&load(&host, GUESTS[0], [state()]).await, "a", "1").await;
    }
    assert_eq!(store.kv().size(&space).await.unwrap(), Size { bytes: 2, keys: 1 });
    drop(store);
    assert!(Store::embedded(&file).is_ok(), "it is free again");
}

/// Writes until it is killed, and says what was acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn writes_until_it_is_killed() {
    let Some(file) = std::env::var_os(FILE) else { return };
    let store = Store::embedded(file).unwrap();
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let store = store.clone();
        writers.spawn(async move {
            let space = Space::new(None, "state");
            loop {
                let done =
                    store.kv().commit(Batch::new().add(&space, "n", 1).add(&space, format!("n{writer}"), 1)).await;
                println!("\nacknowledged {}", done.unwrap().sums[0]);
            }
        });
    }
    writers.join_all().await;
}

/// kill -9 at any moment: what was acknowledged is there, and nothing is there by half.
#[tokio::test]
async fn no_acknowledged_write_is_lost_by_a_kill() {
    let folder = Folder::new();
    let file = folder.file("state");
    let space = Space::new(None, "state");
    let mut before = 0;
    for round in 0..5 {
        let mut writer = child("writes_until_it_is_killed", &file).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = io::BufReader::new(writer.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut acknowledged: i64 = 0;
        let mut note = |line: String| {
            if let Some(sum) = line.strip_prefix("acknowledged ") {
                acknowledged = acknowledged.max(sum.parse().unwrap_or(0));
            }
            acknowledged
        };
        // Some way into its writes, further each time.
        for line in lines.by_ref() {
            if note(line) > before + 10 + 17 * round {
                break;
            }
        }
        writer.kill().unwrap();
        // What it said before it died counts as well.
        for line in lines {
            note(line);
        }
        writer.wait().unwrap();
        assert!(acknowledged > before, "it wrote nothing");

        let store = Store::embedded(&file).unwrap();
        let keys: Vec<bytes::Bytes> = ["n", "n0", "n1", "n2", "n3"].map(Into::into).to_vec();
        let found = store.kv().get_many(&space, &keys, 1_000).await.unwrap();
        let numbers = found.iter().map(|entry| entry.as_ref().map_or("0", |e| std::str::from_utf8(&e.value).unwrap()));
        let numbers: Vec<i64> = numbers.map(|number| number.parse().unwrap()).collect();
        assert!(numbers[0] >= acknowledged, "{} of {acknowledged} acknowledged writes are there", numbers[0]);
        assert_eq!(numbers[0], numbers[1..].iter().sum::<i64>(), "half of a batch");
        before = numbers[0];
    }
}

/// The guests' world and the host's are of the same interfaces.
#[test]
fn guests_and_host_have_the_same_wit() {
    for draft in ["keyvalue-0.2.0-draft", "keyvalue-0.2.0-draft2"] {
        let [host, guests] = ["wit/deps", "guests/wit/keyvalue/deps"].map(|deps| {
            let root = Path::new(env!("CARGO_MANIFEST_DIR"));
            std::fs::read_to_string(root.join(deps).join(draft).join("keyvalue.wit")).unwrap()
        });
        assert_eq!(host, guests, "{draft}");
    }
}
