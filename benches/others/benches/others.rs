//! What does one call of a plugin cost, with isopod and with others that do the same work?
//!
//! `cargo bench` measures by criterion, `cargo bench -- --table` all contenders in turn, as a table. Text goes in as bytes
//! and comes out as bytes in upper case; each contender does that in the way of its own language, and is checked once.
//! `_fresh` makes a new instance for each call and drops it, `_warm` keeps one for all calls. Code of wasm is compiled
//! before; the scripts are a line of source, which a fresh call compiles.
//!
//! Limits, as far as each has them; what is said here to be missing is not there, or not switched on:
//!
//! | | time of a call | memory | missing |
//! |---|---|---|---|
//! | `isopod` | wall clock and busy time, also while others run | linear memories, tables | nothing: input, output, handles, host calls, lines are bounded, and a receipt is made |
//! | `wasmtime` | none; epochs make it yield | size of a slot | all else |
//! | `extism` | wall clock | pages of all memories | output, tables |
//! | `lua` | a hook each 10 000 instructions looks at the clock | allocations | time within functions of C, output |
//! | `quickjs` | a handler of interrupts looks at the clock | allocations, stack | time within functions of C, output |
//! | `wasmi` | fuel | linear memories, tables | time, output |
//! | `process` | processor time by rlimit, in seconds, if fresh; none if warm | address space by rlimit | wall clock, output, a sandbox; it may do what the user may |
//!
//! Each is configured as it comes, but for these limits; extism therefore without a pool of instances.
//!
//! `isopod_prewarmed` is from the call to its result, on a fresh instance that was made ahead: making and dropping it is
//! left out there, and nowhere else.

#[path = "../../cases/mod.rs"]
mod cases;
mod contenders;

fn main() {
    let groups: cases::Groups = vec![|| group("transform_64B", 64), || group("transform_4KiB", 4096)];
    if !std::env::args().any(|arg| arg == "--table") {
        return cases::criterion(groups);
    }
    for group in groups {
        println!("{}", cases::table::measure(group()));
    }
}

fn group(name: &str, length: usize) -> cases::Group {
    let note = "Text of that length in and out, in upper case.";
    cases::Group { name: name.into(), note, cases: contenders::all(length) }
}
