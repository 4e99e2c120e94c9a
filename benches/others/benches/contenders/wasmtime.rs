//! What isopod is made of, alone: the configuration of the other benches, with epochs at which the guest yields.

use super::{case, component};
use crate::cases::bare::Bare;
use crate::cases::{Case, now};

pub fn cases(text: &'static [u8]) -> Vec<Case> {
    let bare = Bare::new(&component(), "transform");
    let mut warm = now(bare.make::<(&[u8],), Vec<u8>>());
    vec![
        case("wasmtime_fresh", text, move |text| {
            now(async { bare.make::<(&[u8],), Vec<u8>>().await.call((text,)).await })
        }),
        case("wasmtime_warm", text, move |text| now(warm.call((text,)))),
    ]
}
