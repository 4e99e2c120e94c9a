//! How many instructions does one call take? Run by callgrind, twice: the difference is that of the calls alone.
//!
//! ```text
//! for n in 10000 30000; do
//!     valgrind --tool=callgrind --callgrind-out-file=/dev/null target/release/deps/count-* $n fresh 2>&1 | grep Collected
//! done
//! ```
//!
//! Besides `fresh` there are `tenant` (the same for a named tenant), `stock` (prewarmed, what is made ahead included), `reuse`
//! and `bare`, which is wasmtime alone; and `cached`, which loads a component from its compiled code instead of calling it.

use isopod::{Cache, CallOptions, Host, Reuse, Trust, ms};

#[path = "cases/bare.rs"]
#[allow(dead_code)]
mod bare;
#[path = "cases/guests.rs"]
mod guests;
#[path = "cases/large.rs"]
mod large;
use guests::{ECHO, Echo};

fn main() {
    // `cargo bench` and `cargo test` pass flags of their own.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let calls = args.first().and_then(|arg| arg.parse::<u32>().ok()).unwrap_or(10);
    let mode = args.get(1).map_or("fresh", String::as_str);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        if mode == "bare" {
            let bare = bare::Bare::on(&bare::engine(1, bare::KEEP), ECHO, "echo", |_| {});
            for _ in 0..calls {
                let answer = bare.make::<_, Vec<u8>>().await.call((&[7u8; 64][..],)).await;
                assert_eq!(answer, [7; 64]);
            }
            return;
        }
        if mode == "cached" {
            let folder = std::env::temp_dir().join(format!("isopod-count-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            let cache = Cache::dir(folder.join("code")).key([7; 32]);
            let host = Host::builder().seats(1).tick(ms(100)).cache(cache).build().unwrap();
            let bytes = large::component();
            for _ in 0..calls {
                host.function("large").component_bytes(bytes.as_slice()).trust(Trust::Own).load().await.unwrap();
            }
            assert!(host.cache_stats().hits + 1 == u64::from(calls));
            std::fs::remove_dir_all(folder).unwrap();
            return;
        }
        // One seat, as valgrind has no room for a pool of many; and a slow tick, as it is slow itself.
        let host = Host::builder().seats(1).tick(ms(100)).build().unwrap();
        let builder = host.function("echo").component_wat(ECHO);
        let builder = match mode {
            "stock" => builder.prewarm(1),
            "reuse" => builder.reuse(Reuse::within_tenant().at_most(u32::MAX)),
            _ => builder,
        };
        let mut echo = builder.load_typed::<Echo>().await.unwrap();
        if mode == "tenant" {
            echo = echo.tenant("acme");
        }
        for _ in 0..calls {
            assert_eq!(echo.echo(&[7; 64]).await.unwrap().value, [7; 64]);
            if mode == "stock" {
                echo.as_ref().restock().await;
            }
        }
    });
}
