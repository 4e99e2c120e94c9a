//! Calls other functions: see the world `caller`.
#![no_main]

use isopod::function::functions;

wit_bindgen::generate!({ path: "wit/caller", world: "caller", generate_all });

struct Caller;

impl Guest for Caller {
    fn call(function: String, name: String, arguments: String, times: u32) -> Result<String, String> {
        let mut answer = Err("none was made".to_owned());
        for _ in 0..times {
            answer = Ok(functions::call(&function, &name, &arguments).map_err(|error| format!("{error:?}"))?);
        }
        answer
    }

    fn spin() {
        loop {
            std::hint::black_box(0);
        }
    }

    fn work(rounds: u32) -> u32 {
        (0..rounds).fold(1, |sum, n| std::hint::black_box(sum ^ n.wrapping_mul(2_654_435_761)))
    }

    fn fail() {
        panic!("asked to fail");
    }
}

export!(Caller);
