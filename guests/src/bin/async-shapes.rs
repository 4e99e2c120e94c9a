//! Exports of the component model's async ABI. No clock is imported: the delay is a number of turns given to the host.
#![no_main]

wit_bindgen::generate!({ path: "wit/async-shapes.wit", world: "async-shapes" });

/// Enough that the host sees the task suspended more than once.
const TURNS: u32 = 3;

struct AsyncShapes;

impl Guest for AsyncShapes {
    async fn delay_echo(s: String) -> String {
        delay().await;
        s
    }

    async fn delay_bytes(b: Vec<u8>) -> Vec<u8> {
        delay().await;
        b
    }
}

async fn delay() {
    for _ in 0..TURNS {
        wit_bindgen::yield_async().await;
    }
}

export!(AsyncShapes);
