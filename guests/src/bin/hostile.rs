//! A scan plugin that does what a host must survive. The content chooses: `memory` takes all memory it can get and then
//! gives up, `stack` recurses without end, `trap` panics, `flood` answers with 16 MiB of text; anything else loops.
#![no_main]

use std::hint::black_box;

wit_bindgen::generate!({ path: "wit/plugin.wit", world: "plugin" });

const PAGE: usize = 64 * 1024;

struct Hostile;

impl Guest for Hostile {
    fn inspect(file: File) -> Result<Report, String> {
        match file.content.trim_ascii() {
            b"memory" => eat_memory(),
            b"stack" => drop(black_box(recurse(0))),
            b"trap" => panic!("hostile"),
            b"flood" => return Err("x".repeat(16 * 1024 * 1024)),
            _ => {}
        }
        // Not an empty loop: that one might be compiled to something else than a loop.
        let mut turns = 0u64;
        loop {
            turns = black_box(turns.wrapping_add(1));
        }
    }
}

/// Grows page by page and writes to each, so that the memory is really used, not only reserved.
fn eat_memory() -> ! {
    loop {
        let pages = core::arch::wasm32::memory_grow::<0>(1);
        if pages == usize::MAX {
            core::arch::wasm32::unreachable();
        }
        // SAFETY: the page was just made by memory_grow and belongs to nobody else.
        unsafe { ((pages * PAGE) as *mut u8).write_volatile(1) };
    }
}

/// Not a tail call: the result is used after the call comes back. The end is out of reach of any stack.
fn recurse(depth: u64) -> u64 {
    if depth == u64::MAX { 0 } else { black_box(recurse(black_box(depth + 1))) + 1 }
}

export!(Hostile);
