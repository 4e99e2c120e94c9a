//! What does it cost to load a component? `cargo bench --bench load`.

mod cases;
#[path = "cases/load.rs"]
mod load;

fn main() {
    cases::criterion(load::groups());
}
