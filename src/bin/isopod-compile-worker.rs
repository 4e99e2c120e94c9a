//! Compiles components for hosts that were given this program by `isopod::CompileWorker::program`.

fn main() {
    isopod::compile_worker();
    eprintln!(
        "this compiles components for a program that embeds isopod, which starts it; there is nothing to do here"
    );
    std::process::exit(2);
}
