//! Reads its settings and logs: see the world `ambient`.
#![no_main]

use wasi::config::store;
use wasi::logging::logging::{Level, log};

wit_bindgen::generate!({ path: "wit/ambient", world: "ambient", generate_all });

const LEVELS: [Level; 6] = [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error, Level::Critical];

struct Ambient;

impl Guest for Ambient {
    fn setting(key: String) -> Option<String> {
        store::get(&key).expect("settings can be read")
    }

    fn settings() -> Vec<(String, String)> {
        store::get_all().expect("settings can be read")
    }

    fn log(context: String, message: String, times: u32) {
        (0..times).zip(LEVELS.iter().cycle()).for_each(|(_, level)| log(*level, &context, &message));
    }
}

export!(Ambient);
