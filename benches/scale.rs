//! What does a fresh call cost where many functions are called in turn? `cargo bench --bench scale`.

mod cases;
#[path = "cases/scale.rs"]
mod scale;

fn main() {
    cases::criterion(scale::groups());
}
