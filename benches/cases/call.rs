//! What one call costs: on a fresh instance, on one that was made ahead, on one that served others.

use crate::cases::bare::{self, Bare};
use crate::cases::guests::{ECHO, Echo, EchoFunction, IMPORT, big};
use crate::cases::{Case, Group, Groups, STOCK, in_chunks, now, runtime, time};
use isopod::{Function, FunctionBuilder, Host, Reuse, block_on};
use serde_bytes::{ByteBuf, Bytes};
use std::hint::black_box;
use std::time::Instant;
use wasmtime::StoreContextMut;

pub fn groups() -> Groups {
    vec![
        || fresh("fresh_64B", 64),
        || fresh("fresh_4KiB", 4096),
        fresh_big16,
        prewarmed_64b,
        prewarmed_sustained_64b,
        || warm("warm_64B", 64),
        || warm("warm_4KiB", 4096),
        dynamic_4kib,
        host_import,
        dirty_big16,
    ]
}

/// The bytes that go in and come out; a static, as both sides are to borrow them.
fn data(len: usize) -> &'static [u8] {
    static DATA: [u8; 4096] = [7; 4096];
    &DATA[..len]
}

pub fn echo(host: &Host, how: impl FnOnce(FunctionBuilder) -> FunctionBuilder) -> EchoFunction {
    block_on(how(host.function("echo").component_wat(ECHO)).load_typed::<Echo>()).unwrap()
}

fn dynamic(host: &Host, how: impl FnOnce(FunctionBuilder) -> FunctionBuilder) -> Function {
    how(host.function("echo").component_wat(ECHO)).load_blocking().unwrap()
}

fn fresh(name: &str, len: usize) -> Group {
    let data = data(len);
    let (bare, sync) = (Bare::new(ECHO, "echo"), Bare::new(ECHO, "echo"));
    let host = Host::new().unwrap();
    let (typed, blocking) = (echo(&host, |f| f), echo(&host, |f| f));
    let cases = vec![
        Case::new("bare", move || {
            black_box(now(async { bare.make::<_, Vec<u8>>().await.call((data,)).await }));
        }),
        Case::new("bare_sync", move || {
            black_box(sync.make_sync::<_, Vec<u8>>().call_sync((data,)));
        }),
        Case::new("isopod", move || {
            black_box(now(typed.echo(data)).unwrap());
        }),
        Case::new("isopod_blocking", move || {
            black_box(block_on(blocking.echo(data)).unwrap());
        }),
    ];
    Group {
        name: name.into(),
        note: "A new instance, one call with that many bytes in and out, the instance dropped. Dearer: memory that the call writes (about 40 ns a page), instances that begin with much, components of many parts, host functions that the guest calls; many functions in turn (`functions_*`).",
        cases,
    }
}

fn touch(host: &Host) -> Function {
    host.function("big").component_wat(big()).load_blocking().unwrap()
}

fn fresh_big16() -> Group {
    let bare = Bare::new(&big(), "touch");
    let sync = bare.clone();
    let isopod = touch(&Host::new().unwrap());
    let cases = vec![
        Case::new("bare", move || {
            black_box(now(async { bare.make::<_, u32>().await.call((16u32,)).await }));
        }),
        Case::new("bare_sync", move || {
            black_box(sync.make_sync::<_, u32>().call_sync((16u32,)));
        }),
        Case::new("isopod", move || {
            black_box(now(isopod.call::<u32>("touch", (16,))).unwrap());
        }),
    ];
    Group {
        name: "fresh_big16".into(),
        note: "The same with a memory of 16 MiB that begins with 1 MiB of data, of which the call writes 16 pages. Dearer: more pages; above 64 of them (`Profile::Latency`) each costs a page fault.",
        cases,
    }
}

/// From the call to its result. Making instances and dropping them is left out for all alike.
fn prewarmed_64b() -> Group {
    let data = data(64);
    let (bare, sync) = (Bare::new(ECHO, "echo"), Bare::new(ECHO, "echo"));
    let host = Host::new().unwrap();
    let stocked = |f: FunctionBuilder| f.prewarm(STOCK);
    let (typed, blocking) = (echo(&host, stocked), echo(&host, stocked));
    let cases = vec![
        Case::timed("bare", move |times| {
            in_chunks(times, |calls| {
                let mut made: Vec<_> = (0..calls).map(|_| now(bare.make::<_, Vec<u8>>())).collect();
                let mut next = made.iter_mut();
                time(calls, || {
                    black_box(now(next.next().unwrap().call((data,))));
                })
            })
        }),
        Case::timed("bare_sync", move |times| {
            in_chunks(times, |calls| {
                let mut made: Vec<_> = (0..calls).map(|_| sync.make_sync::<_, Vec<u8>>()).collect();
                let mut next = made.iter_mut();
                time(calls, || {
                    black_box(next.next().unwrap().call_sync((data,)));
                })
            })
        }),
        Case::timed("isopod", move |times| {
            in_chunks(times, |calls| {
                runtime().block_on(typed.as_ref().restock());
                time(calls, || {
                    black_box(now(typed.echo(data)).unwrap());
                })
            })
        }),
        Case::timed("isopod_blocking", move |times| {
            in_chunks(times, |calls| {
                runtime().block_on(blocking.as_ref().restock());
                time(calls, || {
                    black_box(block_on(blocking.echo(data)).unwrap());
                })
            })
        }),
    ];
    Group {
        name: "prewarmed_64B".into(),
        note: "From the call to its result, on an instance that was made ahead with `prewarm` and used by nobody; making and dropping instances is left out for all alike. Dearer: an empty stock makes it `fresh_64B`.",
        cases,
    }
}

/// Call after call without a pause: what is made ahead, and by whom, is part of it.
fn prewarmed_sustained_64b() -> Group {
    let data = data(64);
    let bare = Bare::new(ECHO, "echo");
    let host = Host::new().unwrap();
    let stocked = |f: FunctionBuilder| f.prewarm(64);
    let (typed, blocking) = (echo(&host, stocked), echo(&host, stocked));
    let cases = vec![
        Case::new("bare", move || {
            black_box(now(async { bare.make::<_, Vec<u8>>().await.call((data,)).await }));
        }),
        Case::new("isopod", move || {
            black_box(now(typed.echo(data)).unwrap());
        }),
        Case::new("isopod_blocking", move || {
            black_box(block_on(blocking.echo(data)).unwrap());
        }),
    ];
    Group {
        name: "prewarmed_sustained_64B".into(),
        note: "The same, call after call without a pause, so that what is made ahead is all part of it; `bare` makes each instance when it is called. Dearer: other load on the processor that the host's refiller would use.",
        cases,
    }
}

/// One instance for all calls: with isopod by `Reuse`, each call with its limits and its receipt, and in one session.
fn warm(name: &str, len: usize) -> Group {
    let data = data(len);
    let (bare, sync) = (Bare::new(ECHO, "echo"), Bare::new(ECHO, "echo"));
    let (mut made, mut made_sync) = (now(bare.make::<_, Vec<u8>>()), sync.make_sync::<_, Vec<u8>>());
    let host = Host::new().unwrap();
    let reused = |f: FunctionBuilder| f.reuse(Reuse::within_tenant().at_most(u32::MAX));
    let (typed, blocking, session) = (echo(&host, reused), echo(&host, reused), echo(&host, |f| f));
    let cases = vec![
        Case::new("bare", move || {
            black_box(now(made.call((data,))));
        }),
        Case::new("bare_sync", move || {
            black_box(made_sync.call_sync((data,)));
        }),
        Case::new("isopod", move || {
            black_box(now(typed.echo(data)).unwrap());
        }),
        Case::new("isopod_blocking", move || {
            black_box(block_on(blocking.echo(data)).unwrap());
        }),
        Case::timed("isopod_session", move |times| {
            in_chunks(times, |calls| {
                let work = session.session(async |session| {
                    let started = Instant::now();
                    for _ in 0..calls {
                        black_box(session.echo(data).await?);
                    }
                    Ok(started.elapsed())
                });
                now(work).unwrap().value
            })
        }),
    ];
    Group {
        name: name.into(),
        note: "An instance that served others before: by `Reuse`, one call each with limits and receipt, and in one session. Dearer: tenants, as instances are kept for each apart.",
        cases,
    }
}

/// By names and serde values, on an instance that is there already.
fn dynamic_4kib() -> Group {
    let data = data(4096);
    let bare = Bare::new(ECHO, "echo");
    let mut made = now(bare.make::<_, Vec<u8>>());
    let host = Host::new().unwrap();
    let reused = dynamic(&host, |f| f.reuse(Reuse::within_tenant().at_most(u32::MAX)));
    let stocked = dynamic(&host, |f| f.prewarm(STOCK));
    let cases = vec![
        Case::new("bare", move || {
            black_box(now(made.call((data,))));
        }),
        Case::new("isopod", move || {
            black_box(now(reused.call::<ByteBuf>("echo", (Bytes::new(data),))).unwrap());
        }),
        Case::timed("isopod_prewarmed", move |times| {
            in_chunks(times, |calls| {
                runtime().block_on(stocked.restock());
                time(calls, || {
                    black_box(now(stocked.call::<ByteBuf>("echo", (Bytes::new(data),))).unwrap());
                })
            })
        }),
    ];
    Group {
        name: "dynamic_4KiB".into(),
        note: "By name and with serde values, 4 KiB of bytes in and out, on an instance that is there; `bare` is the typed call. Dearer: `Vec<u8>` instead of `serde_bytes`, base64 in JSON, and types other than bytes and strings, which become a value of 40 bytes for each element of a list.",
        cases,
    }
}

mod counter {
    isopod::world!({
        world: "counter",
        inline: "package bench:counter; world counter { import next: func(n: u32) -> u32; export sum: func(times: u32) -> u32; }",
    });
}

#[derive(Clone)]
struct Next;

impl counter::CounterImports for Next {
    async fn next(&mut self, n: u32) -> u32 {
        n + 1
    }
}

/// A thousand calls of the guest into the host; divide by that.
fn host_import() -> Group {
    let bare = Bare::on(&bare::engine(bare::SLOTS, bare::KEEP), IMPORT, "sum", |linker| {
        let next = linker
            .root()
            .func_wrap_async("next", |_: StoreContextMut<'_, ()>, (n,): (u32,)| Box::new(async move { Ok((n + 1,)) }));
        next.unwrap();
    });
    let host = Host::new().unwrap();
    let typed = host.function("import").component_wat(IMPORT).imports(Next).load_typed::<counter::Counter>();
    let typed = block_on(typed).unwrap();
    let cases = vec![
        Case::new("bare", move || {
            black_box(now(async { bare.make::<_, u32>().await.call((1000u32,)).await }));
        }),
        Case::new("isopod", move || {
            black_box(now(typed.sum(1000)).unwrap());
        }),
    ];
    Group {
        name: "host_import".into(),
        note: "A thousand calls of an async host function in a loop, of a fresh instance. Dearer: strings and lists as arguments, and closures (`import`) instead of `world!`.",
        cases,
    }
}

/// The same work as `fresh_big16` after a call that wrote 8 MiB, which is what the slot remembers.
fn dirty_big16() -> Group {
    let clean = touch(&Host::new().unwrap());
    let dirty = touch(&Host::new().unwrap());
    let dirty_bare = |keep| {
        let bare = Bare::on(&bare::engine(bare::SLOTS, keep), &big(), "touch", |_| {});
        let mut first = now(bare.make::<_, u32>());
        now(first.call((2048u32,)));
        drop(first);
        move || {
            black_box(now(async { bare.make::<_, u32>().await.call((16u32,)).await }));
        }
    };
    now(dirty.call::<u32>("touch", (2048,))).unwrap();
    let cases = vec![
        Case::new("bare_keep_64MiB", dirty_bare(bare::KEEP)),
        Case::new("bare_keep_256KiB", dirty_bare(256 << 10)),
        Case::new("bare_keep_none", dirty_bare(0)),
        Case::new("isopod_clean", move || {
            black_box(now(clean.call::<u32>("touch", (16,))).unwrap());
        }),
        Case::new("isopod", move || {
            black_box(now(dirty.call::<u32>("touch", (16,))).unwrap());
        }),
    ];
    Group {
        name: "dirty_big16".into(),
        note: "`fresh_big16` on a slot where an earlier call wrote 8 MiB. What a slot once wrote is copied back later, up to what the profile keeps.",
        cases,
    }
}
