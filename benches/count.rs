//! How many instructions does a fresh call take? Run by callgrind, twice: the difference is that of the calls alone.
//!
//! ```text
//! for n in 1000 2000; do
//!     valgrind --tool=callgrind --callgrind-out-file=/dev/null target/release/deps/count-* $n 2>&1 | grep Collected
//! done
//! ```

use isopod::{Host, ms};

/// Answers with the bytes it was given, without looking at them.
const ECHO: &str = r#"(component
    (core module $m (memory (export "m") 2) (global $top (mut i32) (i32.const 1024))
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) (global.get $top))
        (func (export "echo") (param i32 i32) (result i32)
            (i32.store (i32.const 0) (local.get 0)) (i32.store (i32.const 4) (local.get 1)) (i32.const 0)))
    (core instance $i (instantiate $m))
    (alias core export $i "m" (core memory $mem))
    (alias core export $i "realloc" (core func $realloc))
    (func (export "echo") (param "data" (list u8)) (result (list u8))
        (canon lift (core func $i "echo") (memory $mem) (realloc $realloc))))"#;

isopod::world!({
    world: "echo",
    inline: "package bench:echo; world echo { export echo: func(data: list<u8>) -> list<u8>; }",
});

fn main() {
    // `cargo bench` and `cargo test` pass flags of their own.
    let calls = std::env::args().skip(1).find_map(|arg| arg.parse::<u32>().ok()).unwrap_or(10);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // One seat, as valgrind has no room for a pool of many; and a slow tick, as it is slow itself.
        let host = Host::builder().seats(1).tick(ms(100)).build().unwrap();
        let echo = host.function("echo").component_wat(ECHO).load_typed::<Echo>().await.unwrap();
        for _ in 0..calls {
            assert_eq!(echo.echo(&[7; 64]).await.unwrap().value, [7; 64]);
        }
    });
}
