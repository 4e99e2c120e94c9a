//! How do fresh calls scale from one thread to two? `cargo bench --bench throughput`.

mod cases;
#[path = "cases/throughput.rs"]
mod throughput;

fn main() {
    cases::criterion(throughput::groups());
}
