//! `wasi:random`: secure by default, bounded per request; the same bytes in every instance if asked for.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use wasmtime::component::Linker;
use wasmtime_wasi::random::WasiRandom;
use wasmtime_wasi::{WasiCtxBuilder, WasiView};

/// Which randomness a guest is given. Without this grant: that of [`HostBuilder::random`](crate::HostBuilder::random), which
/// is the operating system's through a cryptographic generator unless you say otherwise.
#[derive(Clone, Debug, Default)]
pub struct Random(Option<u64>);

impl Random {
    /// The same bytes in every instance, from `seed`: for guests whose answers must be repeatable. One that is used again
    /// goes on from where it was. Not secure.
    pub fn seeded(seed: u64) -> Random {
        Random(Some(seed))
    }

    pub(crate) fn is_seeded(&self) -> bool {
        self.0.is_some()
    }

    /// For what only has to differ from instance to instance, or to be the same in each where that is asked for.
    pub(crate) fn insecure(&self) -> (u64, u32) {
        match self.0 {
            Some(seed) => StdRng::seed_from_u64(seed.wrapping_add(2)).random(),
            None => rand::random(),
        }
    }

    pub(super) fn view(&self, wasi: &mut WasiCtxBuilder) {
        if let Some(seed) = self.0 {
            wasi.secure_random(StdRng::seed_from_u64(seed))
                .insecure_random(StdRng::seed_from_u64(seed.wrapping_add(1)))
                .insecure_random_seed(seed.into());
        }
    }
}

pub(super) fn link<T: WasiView>(linker: &mut Linker<T>, asynchronous: bool) -> wasmtime::Result<()> {
    use wasmtime_wasi::p2::bindings::random;
    random::random::add_to_linker::<T, WasiRandom>(linker, |t| t.ctx().ctx.random())?;
    random::insecure::add_to_linker::<T, WasiRandom>(linker, |t| t.ctx().ctx.random())?;
    random::insecure_seed::add_to_linker::<T, WasiRandom>(linker, |t| t.ctx().ctx.random())?;
    if asynchronous {
        wasmtime_wasi::p3::random::add_to_linker(linker)?;
    }
    Ok(())
}
