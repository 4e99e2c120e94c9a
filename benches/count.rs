//! How many instructions does a fresh call take? Run by callgrind, twice: the difference is that of the calls alone.
//!
//! ```text
//! for n in 10000 30000; do
//!     valgrind --tool=callgrind --callgrind-out-file=/dev/null target/release/deps/count-* $n 2>&1 | grep Collected
//! done
//! ```
//!
//! With a word besides the number, the calls are for a tenant of that name.

use isopod::{CallOptions, Host, ms};

mod echo;
use echo::{ECHO, Echo};

fn main() {
    // `cargo bench` and `cargo test` pass flags of their own.
    let calls = std::env::args().skip(1).find_map(|arg| arg.parse::<u32>().ok()).unwrap_or(10);
    let tenant = std::env::args().skip(1).find(|arg| !arg.starts_with('-') && arg.parse::<u32>().is_err());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // One seat, as valgrind has no room for a pool of many; and a slow tick, as it is slow itself.
        let host = Host::builder().seats(1).tick(ms(100)).build().unwrap();
        let echo = host.function("echo").component_wat(ECHO).load_typed::<Echo>().await.unwrap();
        let echo = tenant.map_or_else(|| echo.clone(), |name| echo.tenant(name));
        for _ in 0..calls {
            assert_eq!(echo.echo(&[7; 64]).await.unwrap().value, [7; 64]);
        }
    });
}
