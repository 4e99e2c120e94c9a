//! isopod by a typed handle, with its default limits.

use super::{case, check, component};
use crate::cases::{Case, STOCK, in_chunks, now, runtime, time};
use isopod::{FunctionBuilder, Host, Reuse, block_on};
use std::hint::black_box;

isopod::world!({
    world: "plugin",
    inline: "package bench:others; world plugin { export transform: func(text: list<u8>) -> list<u8>; }",
});

pub fn cases(text: &'static [u8]) -> Vec<Case> {
    let host = Host::new().unwrap();
    let load = |how: fn(FunctionBuilder) -> FunctionBuilder| {
        block_on(how(host.function("plugin").component_wat(component())).load_typed::<Plugin>()).unwrap()
    };
    let fresh = load(|f| f);
    let prewarmed = load(|f| f.prewarm(STOCK));
    let reused = load(|f| f.reuse(Reuse::within_tenant().at_most(u32::MAX)));
    check("isopod_prewarmed", text, &now(prewarmed.transform(text)).unwrap().value);
    vec![
        case("isopod_fresh", text, move |text| now(fresh.transform(text)).unwrap().value),
        Case::timed("isopod_prewarmed", move |times| {
            in_chunks(times, |calls| {
                runtime().block_on(prewarmed.as_ref().restock());
                time(calls, || {
                    black_box(now(prewarmed.transform(text)).unwrap());
                })
            })
        }),
        case("isopod_reuse", text, move |text| now(reused.transform(text)).unwrap().value),
    ]
}
