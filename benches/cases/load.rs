//! What does it cost to load a component: compiled, from the cache, and to the first answer?

use crate::cases::bare::{self, Bare};
use crate::cases::large::component;
use crate::cases::{Case, Group, Groups, now};
use isopod::{Cache, Function, Host, Limits, Trust};
use std::hint::black_box;
use std::path::PathBuf;
use wasmtime::Engine;
use wasmtime::component::{Component, Linker};

pub fn groups() -> Groups {
    vec![compile, load_cached, first_call]
}

/// A directory that is gone with the process' last bench; its name is the process' own.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("isopod-bench-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

const KEY: [u8; 32] = [7; 32];

fn host(name: &str) -> Host {
    Host::builder().cache(Cache::dir(folder(name).join("code")).key(KEY)).code_key(KEY).build().unwrap()
}

fn load(host: &Host, bytes: &[u8]) -> Function {
    host.function("big").component_bytes(bytes).trust(Trust::Own).load_blocking().unwrap()
}

/// wasmtime's own form of compiled code, in a file.
fn serialized(engine: &Engine, bytes: &[u8]) -> PathBuf {
    let file = folder("bare").join("code");
    std::fs::write(&file, Component::new(engine, bytes).unwrap().serialize().unwrap()).unwrap();
    file
}

fn map(engine: &Engine, file: &PathBuf) -> Component {
    // SAFETY: the file was written by this process, and nobody else knows it.
    unsafe { Component::deserialize_file(engine, file).unwrap() }
}

fn compile() -> Group {
    let bytes = component();
    let of_bare = bytes.clone();
    let engine = bare::engine(bare::SLOTS, bare::KEEP);
    let host = Host::new().unwrap();
    let cases = vec![
        Case::new("bare", move || drop(black_box(Component::new(&engine, &of_bare).unwrap()))),
        Case::new("isopod", move || drop(black_box(load(&host, &bytes)))),
    ];
    Group {
        name: "compile".into(),
        note: "A component of 2 000 functions and more than 300 KiB, compiled on all cores; for isopod with the check before it and everything that loading does. Dearer: size; a stranger's is bounded by `LoadLimits`.",
        cases,
    }
}

fn load_cached() -> Group {
    let bytes = component();
    let engine = bare::engine(bare::SLOTS, bare::KEEP);
    let file = serialized(&engine, &bytes);
    let host = host("cached");
    load(&host, &bytes);
    let ahead = folder("ahead").join("code");
    std::fs::write(&ahead, host.precompile_blocking(&bytes, &Limits::default()).unwrap()).unwrap();
    let other = host.clone();
    let cases = vec![
        Case::new("bare", move || drop(black_box(map(&engine, &file)))),
        Case::new("isopod", move || drop(black_box(load(&host, &bytes)))),
        Case::new("isopod_precompiled", move || {
            drop(black_box(other.function("big").component_file(&ahead).load_blocking().unwrap()));
        }),
    ];
    Group {
        name: "load_cached".into(),
        note: "The same component from compiled code; `bare` maps a file that it trusts, isopod copies it, checks its signature and loads the copy, and does everything else that loading does. Dearer: size, about 0.4 µs a KiB of compiled code.",
        cases,
    }
}

fn first_call() -> Group {
    let bytes = component();
    let engine = bare::engine(bare::SLOTS, bare::KEEP);
    let file = serialized(&engine, &bytes);
    let host = host("first");
    load(&host, &bytes);
    let cases = vec![
        Case::new("bare", move || {
            let component = map(&engine, &file);
            let export = component.get_export_index(None, "run").unwrap();
            let pre = Linker::new(&engine).instantiate_pre(&component).unwrap();
            let bare = Bare { engine: engine.clone(), pre, export };
            black_box(now(async { bare.make::<_, u32>().await.call((7u32,)).await }));
        }),
        Case::new("isopod", move || {
            black_box(now(load(&host, &bytes).call::<u32>("run", (7,))).unwrap());
        }),
    ];
    Group {
        name: "first_call".into(),
        note: "The same, with the first call after it, which finds nothing in the processor's caches.",
        cases,
    }
}
