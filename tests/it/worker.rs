//! Strangers' components are compiled in a process of their own: what it may take, what it sees, and what becomes of one
//! that fails, hangs or lies.

use crate::cache::Folder;
use crate::support::{built, until};
use isopod::{Cache, CompileWorker, Error, ErrorKind, Function, Host, Limits, MIB, Profile, Trust, ms};
use std::fmt::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

fn worker() -> CompileWorker {
    CompileWorker::program(env!("CARGO_BIN_EXE_isopod-compile-worker"))
}

fn host(worker: CompileWorker) -> Host {
    Host::builder().compile_worker(worker).build().unwrap()
}

/// A component whose `run` gives its sum of so many functions, each of which is some work to compile.
fn component(functions: u32) -> Vec<u8> {
    let mut text = String::from("(component (core module $m (memory 1)");
    for n in 0..functions {
        let steps = (0..20).fold(String::from("local.get 0"), |steps, step| {
            format!("{steps} i32.const {} i32.add i32.const {} i32.xor", n * 131 + step * 7, n * 17 + step)
        });
        write!(text, "(func $f{n} (param i32) (result i32) {steps})").unwrap();
    }
    text += r#"(func (export "run") (param i32) (result i32) (i32.add (local.get 0) (i32.const 1))))
        (core instance $i (instantiate $m))
        (func (export "run") (param "n" u32) (result u32) (canon lift (core func $i "run"))))"#;
    wat::parse_str(text).unwrap()
}

async fn load(host: &Host, bytes: &[u8]) -> Result<Function, Error> {
    host.function("stranger").component_bytes(bytes).load().await
}

async fn refusal(worker: CompileWorker, bytes: &[u8]) -> Error {
    load(&host(worker), bytes).await.map(drop).unwrap_err()
}

/// A program that does what the script says. `$WORKER` stands for the real one, started as a host starts it.
fn script(folder: &Folder, name: &str, text: &str) -> CompileWorker {
    let path = folder.0.join(name);
    let real = format!("exec -a isopod-compile-worker {}", env!("CARGO_BIN_EXE_isopod-compile-worker"));
    std::fs::write(&path, format!("#!/bin/bash\n{}\n", text.replace("$WORKER", &real))).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    CompileWorker::program(path)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_compiled_runs_on_every_engine() {
    for profile in [Profile::Latency, Profile::Density] {
        let host = Host::builder().profile(profile).seats(4).instances(4).compile_worker(worker()).build().unwrap();
        assert!(host.compile_worker().is_some());
        for limits in [Limits::default(), Limits::default().fuel(1_000_000)] {
            let function = host.function("stranger").component_bytes(component(1)).limits(limits.clone()).load().await;
            assert_eq!(function.unwrap().call::<u32>("run", (41,)).await.unwrap().value, 42);
            // Async, and memories that begin with much.
            for name in ["async-shapes", "text-stats"] {
                let bytes = std::fs::read(built(name)).unwrap();
                host.function(name).component_bytes(bytes).limits(limits.clone()).load().await.unwrap();
            }
        }
    }
}

/// The same error as where it is compiled in this process.
#[tokio::test]
async fn what_is_no_component_is_refused_with_the_compilers_reasons() {
    let mut bytes = wat::parse_str("(component (core module (func (result i32) i32.const 0)))").unwrap();
    // `i32.const` becomes `i64.const`.
    let at = bytes.windows(3).position(|window| window == [0x41, 0, 0x0b]).unwrap();
    bytes[at] = 0x42;
    let here = load(&Host::new().unwrap(), &bytes).await.map(drop).unwrap_err();
    let apart = refusal(worker(), &bytes).await;
    assert_eq!((apart.kind(), format!("{apart:?}")), (ErrorKind::InvalidComponent, format!("{here:?}")));
}

#[tokio::test(flavor = "multi_thread")]
async fn compiling_is_bounded_in_time_and_memory() {
    let heavy = component(20_000);
    let started = Instant::now();
    let error = refusal(worker().time(ms(100)), &heavy).await;
    assert_eq!(error.kind(), ErrorKind::TooComplex);
    assert!(error.to_string().contains("`CompileWorker::time`"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    let error = refusal(worker().memory(64 * MIB), &heavy).await;
    assert_eq!(error.kind(), ErrorKind::TooComplex);
    assert!(error.to_string().contains("`CompileWorker::memory`"), "{error}");
    let small = load(&host(worker().memory(64 * MIB)), &component(1)).await.unwrap();
    assert_eq!(small.call::<u32>("run", (1,)).await.unwrap().value, 2);
}

/// What the kernel says of a worker that is at work: limits that nothing raises again, no files, no environment.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_has_nothing_of_this_process() {
    // As a library in another language may have opened it: inherited by whatever is started.
    let leaked = std::fs::File::open("/etc/passwd").unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let host = host(worker().memory(900 * MIB).time(Duration::from_secs(60)));
    let loading = tokio::spawn(async move { load(&host, &component(30_000)).await.map(drop) });
    let read = |child: &PathBuf, what: &str| std::fs::read_to_string(child.join(what)).unwrap_or_default();
    let mut seen = None;
    until("a worker is at work", || {
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
        let parent = format!("PPid:\t{}\n", std::process::id());
        for child in processes.filter(|path| read(path, "status").contains(&parent)) {
            let (limits, environment) = (read(&child, "limits"), read(&child, "environ"));
            if limits.contains(&format!("{} ", 900 * MIB)) {
                let descriptors = std::fs::read_dir(child.join("fd")).into_iter().flatten();
                let descriptors: Vec<_> =
                    descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok()).collect();
                let directory = std::fs::read_link(child.join("cwd")).unwrap_or_default();
                seen = Some((limits, environment, descriptors, directory));
            }
        }
        seen.is_some() || loading.is_finished()
    });
    let (limits, environment, descriptors, directory) = seen.expect("it was seen");
    for (name, most) in [("Max core file size", "0 "), ("Max file size", "0 "), ("Max open files", "16 ")] {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        assert_eq!(line[name.len()..].trim_start().matches(most).count(), 2, "{line}");
    }
    let seconds = limits.lines().find(|line| line.starts_with("Max cpu time")).unwrap();
    assert!(!seconds.contains("unlimited"), "{seconds}");
    assert!(environment.is_empty() || environment.starts_with("LD_LIBRARY_PATH="), "{environment}");
    assert_eq!(directory, PathBuf::from("/"));
    assert!(!descriptors.iter().any(|path| path.ends_with("passwd")), "{descriptors:?}");
    assert!(leaked.as_raw_fd() > 2);
    loading.await.unwrap().unwrap();
}

/// The embedder's own are compiled here, and so is what a cache has not; what it has starts nobody.
#[tokio::test(flavor = "multi_thread")]
async fn only_strangers_are_compiled_apart_and_once() {
    let folder = Folder::new("worker");
    let host = |worker| {
        let cache = Cache::dir(folder.dir()).key([7; 32]);
        Host::builder().cache(cache).compile_worker(worker).build().unwrap()
    };
    let lame = || CompileWorker::program("/bin/false");
    let bytes = component(1);
    let error = load(&host(lame()), &bytes).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
    assert!(error.to_string().contains("compile worker"), "{error}");
    host(lame()).function("own").component_bytes(component(2)).trust(Trust::Own).load().await.unwrap();
    host(lame()).function("own").component_file(built("text-stats")).load().await.unwrap();
    load(&host(worker()), &bytes).await.unwrap();
    let cached = host(lame());
    let function = load(&cached, &bytes).await.unwrap();
    assert_eq!(function.call::<u32>("run", (1,)).await.unwrap().value, 2);
    assert_eq!(cached.cache_stats().hits, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_lies_hangs_or_floods_is_an_error() {
    let folder = Folder::new("liars");
    let bytes = component(1);
    let other = Host::builder().code_key([1; 32]).build().unwrap();
    let signed = folder.0.join("signed");
    std::fs::write(&signed, other.precompile(&bytes, &Limits::default()).await.unwrap()).unwrap();
    // What another worker said to another order.
    let said = folder.0.join("said");
    let eavesdropper = script(&folder, "tee", &format!("$WORKER > >(/usr/bin/tee {})", said.display()));
    load(&host(eavesdropper), &bytes).await.unwrap();
    for (name, text) in [
        ("silent", "true".to_owned()),
        ("echo", "cat".to_owned()),
        ("nonsense", "printf cccccccccccccccccccccccccc".to_owned()),
        ("reasons", "printf 'r[1'".to_owned()),
        ("signed", format!("printf c; /bin/cat {}", signed.display())),
        ("replayed", format!("/bin/cat {}", said.display())),
        ("flood", "while :; do printf '%01000000d' 0; done".to_owned()),
    ] {
        let error = refusal(script(&folder, name, &text), &bytes).await;
        assert_eq!(error.kind(), ErrorKind::Misuse, "{name}: {error:?}");
    }
    let error = refusal(script(&folder, "hangs", "exec /bin/sleep 1000").time(ms(200)), &bytes).await;
    assert_eq!(error.kind(), ErrorKind::TooComplex, "{error:?}");
    // One that never reads what it is to compile, which is more than a pipe holds.
    let error = refusal(script(&folder, "deaf", "exec /bin/sleep 1000").time(ms(200)), &component(3_000)).await;
    assert_eq!(error.kind(), ErrorKind::TooComplex, "{error:?}");
    let error = refusal(script(&folder, "panics", "printf 'pat the disco\\x1b[2J'"), &bytes).await;
    assert_eq!(error.kind(), ErrorKind::Internal, "{error:?}");
    assert!(!format!("{error:?}").contains('\x1b'), "{error:?}");
}

#[tokio::test]
async fn a_worker_that_cannot_be_one_is_an_error() {
    for (worker, part) in [
        (CompileWorker::this_program(), "isopod::compile_worker()"),
        (CompileWorker::program("/no/such/worker"), "/no/such/worker"),
        (CompileWorker::program("/"), "not a program"),
        (worker().memory(MIB), "memory"),
        (worker().time(Duration::ZERO), "time"),
    ] {
        let error = Host::builder().compile_worker(worker).build().unwrap_err();
        assert!(error.kind() == ErrorKind::Misuse && error.to_string().contains(part), "{error}");
    }
    assert!(Host::new().unwrap().compile_worker().is_none(), "this program's main does not begin with it");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_load_waits_for_a_worker_for_ever() {
    let folder = Folder::new("busy");
    let host = host(script(&folder, "hangs", "exec /bin/sleep 1000").time(ms(200)));
    let cores = std::thread::available_parallelism().unwrap().get();
    let loads: Vec<_> = (0..4 * cores)
        .map(|_| {
            let host = host.clone();
            tokio::spawn(async move { load(&host, &component(1)).await.map(drop).unwrap_err().kind() })
        })
        .collect();
    let mut kinds = Vec::new();
    for load in loads {
        kinds.push(load.await.unwrap());
    }
    assert!(kinds.contains(&ErrorKind::TooComplex) && kinds.contains(&ErrorKind::Overloaded), "{kinds:?}");
}

/// More loads than there are workers all come to their end.
#[tokio::test(flavor = "multi_thread")]
async fn loads_wait_for_a_worker() {
    // For as long as they must.
    let host = host(worker().time(Duration::MAX));
    let loads: Vec<_> = (0..12)
        .map(|n| {
            let host = host.clone();
            tokio::spawn(async move { load(&host, &component(n)).await.map(drop) })
        })
        .collect();
    for load in loads {
        load.await.unwrap().unwrap();
    }
}
