//! `wasi:clocks`: what time it is for a guest. At 1 ms unless granted otherwise, so that no guest can time the machine.

use std::time::{Duration, Instant, SystemTime};
use wasmtime::component::Linker;
use wasmtime_wasi::clocks::{WasiClocks, WasiClocksView};
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtxBuilder, WasiView};

/// Which time a guest is told. Without this grant: [`Clocks::coarse`] at 1 ms.
#[derive(Clone, Debug)]
pub struct Clocks(Source);

#[derive(Clone, Copy, Debug)]
enum Source {
    Fine,
    Coarse(Duration),
    Fixed(Duration),
}

impl Default for Clocks {
    fn default() -> Clocks {
        Clocks::coarse(Duration::from_millis(1))
    }
}

impl Clocks {
    /// The machine's clocks, in nanoseconds. A guest can then measure caches and neighbours.
    pub fn fine() -> Clocks {
        Clocks(Source::Fine)
    }

    /// The machine's clocks, rounded down to a multiple of `step`.
    pub fn coarse(step: Duration) -> Clocks {
        Clocks(Source::Coarse(step.max(Duration::from_nanos(1))))
    }

    /// Clocks that stand still: the wall clock at `time`, the monotonic clock at zero. Sleeping still takes its time.
    /// A time before 1970 is taken as 1970.
    pub fn fixed(time: SystemTime) -> Clocks {
        Clocks(Source::Fixed(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()))
    }

    /// Whether a guest can tell more by them than without a grant.
    pub(super) fn is_finer_than_default(&self) -> bool {
        match (self.0, Clocks::default().0) {
            (Source::Fine, _) => true,
            (Source::Coarse(step), Source::Coarse(default)) => step < default,
            _ => false,
        }
    }

    pub(super) fn view(&self, wasi: &mut WasiCtxBuilder) {
        wasi.wall_clock(Wall(self.0)).monotonic_clock(Monotonic(self.0, Instant::now()));
    }
}

pub(super) fn link<T: WasiView>(linker: &mut Linker<T>, asynchronous: bool) -> wasmtime::Result<()> {
    use wasmtime_wasi::p2::bindings::clocks;
    clocks::wall_clock::add_to_linker::<T, WasiClocks>(linker, T::clocks)?;
    clocks::monotonic_clock::add_to_linker::<T, WasiClocks>(linker, T::clocks)?;
    if asynchronous {
        wasmtime_wasi::p3::clocks::add_to_linker(linker)?;
        link_counted_sleep(linker)?;
    }
    Ok(())
}

/// wasmtime's `wait-for` never asks for the call's state, by which host calls are counted. Replaces it.
fn link_counted_sleep<T: WasiView>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker.instance(&super::linked_name("wasi:clocks/monotonic-clock@0.3.0"))?.func_wrap_concurrent(
        "wait-for",
        |accessor, (how_long,): (u64,)| {
            Box::pin(async move {
                accessor.with(|mut access| {
                    let _ = access.get().ctx();
                });
                if how_long > 0 {
                    tokio::time::sleep(Duration::from_nanos(how_long)).await;
                }
                Ok(())
            })
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

fn round_down(time: Duration, step: Duration) -> Duration {
    let step = step.as_nanos();
    Duration::from_nanos((time.as_nanos() / step * step).try_into().unwrap_or(u64::MAX))
}

impl Source {
    fn resolution(self) -> Duration {
        match self {
            Source::Fine => Duration::from_nanos(1),
            Source::Coarse(step) => step,
            Source::Fixed(_) => Duration::from_secs(1),
        }
    }
}

struct Wall(Source);

impl HostWallClock for Wall {
    fn resolution(&self) -> Duration {
        self.0.resolution()
    }

    fn now(&self) -> Duration {
        let real = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        match self.0 {
            Source::Fine => real(),
            Source::Coarse(step) => round_down(real(), step),
            Source::Fixed(time) => time,
        }
    }
}

struct Monotonic(Source, Instant);

impl HostMonotonicClock for Monotonic {
    fn resolution(&self) -> u64 {
        self.0.resolution().as_nanos().try_into().unwrap_or(u64::MAX)
    }

    fn now(&self) -> u64 {
        let now = match self.0 {
            Source::Fine => self.1.elapsed(),
            Source::Coarse(step) => round_down(self.1.elapsed(), step),
            Source::Fixed(_) => Duration::ZERO,
        };
        now.as_nanos().try_into().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coarse_clocks_move_in_steps_and_fixed_ones_do_not() {
        let step = Duration::from_millis(250);
        assert_eq!(Wall(Source::Coarse(step)).now().as_nanos() % step.as_nanos(), 0);
        assert_eq!(Monotonic(Source::Coarse(step), Instant::now()).now() % 250_000_000, 0);
        let Clocks(fixed) = Clocks::fixed(SystemTime::UNIX_EPOCH + Duration::from_secs(7));
        assert_eq!(Wall(fixed).now(), Duration::from_secs(7));
        assert_eq!(Monotonic(fixed, Instant::now()).now(), 0);
    }
}
