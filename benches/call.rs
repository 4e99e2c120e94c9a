//! What does one call cost, against bare wasmtime in its best configuration? `cargo bench --bench call`.

mod cases;
#[path = "cases/call.rs"]
mod call;

fn main() {
    cases::criterion(call::groups());
}
