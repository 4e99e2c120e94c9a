//! Any bytes as the source of a script, and as the body of its function, under tight limits: it is refused for a reason
//! that is its own, or its calls end in time as a value or an error for people, twice alike, and every seat is free again.
#![no_main]

use isopod::{Error, ErrorKind, Function, Host, KeyValue, Language, Limits, MIB, Reply, ms};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

const SEATS: u32 = 4;
static HOST: LazyLock<Host> = LazyLock::new(|| Host::builder().seats(SEATS).build().unwrap());
const MEMORY: u64 = 8 * MIB;
const FUEL: u64 = 50_000_000;
const OUTPUT: u64 = 64 * 1024;
/// Its fuel is some hundredths of a second. What compiles it takes about a second at most.
const SOON: Duration = Duration::from_secs(5);

/// Nobody's fault but the script's, and fit to show.
fn check(error: &Error) {
    use ErrorKind::{
        Denied, InvalidScript, LimitExceeded, OutOfFuel, OutOfMemory, OutputTooLarge, Thrown, TimedOut, Trapped,
    };
    let known = matches!(
        error.kind(),
        Denied
            | InvalidScript
            | LimitExceeded(_)
            | OutOfFuel
            | OutOfMemory
            | OutputTooLarge
            | Thrown
            | TimedOut
            | Trapped
    );
    assert!(known, "{error:?}");
    let shown = format!("{error:?}");
    let odd = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}');
    assert!(shown.len() <= 4096 && !shown.contains(odd), "{shown:?}");
    for denial in error.denials() {
        assert!(!denial.explain().contains(char::is_control), "{denial:?}");
    }
}

/// What is the same whenever it is called.
fn ended(reply: &Result<Reply<Value>, Error>) -> (Option<ErrorKind>, Value, Option<u64>) {
    let (kind, value, usage) = match reply {
        Ok(reply) => (None, reply.value.clone(), reply.usage),
        Err(error) => {
            check(error);
            (Some(error.kind()), json!(error.to_string()), error.usage())
        }
    };
    assert!(usage.peak_memory <= MEMORY && usage.bytes_out <= OUTPUT || kind.is_some(), "{usage:?}");
    assert!(usage.fuel.is_none_or(|fuel| fuel <= FUEL), "{usage:?}");
    (kind, value, usage.fuel)
}

fn load(source: Vec<u8>) -> Result<Function, Error> {
    let limits = Limits::default().deadline(ms(5_000)).fuel(FUEL).memory(MEMORY).output(OUTPUT).host_calls(1_000);
    let builder = HOST.script("f", Language::JavaScript, source).limits(limits).deterministic(7).eval();
    builder.grant(KeyValue::bucket("b").read_only()).load_blocking()
}

fn run(source: Vec<u8>) {
    let started = Instant::now();
    match load(source) {
        Ok(script) => {
            let input = json!([{ "a": [1, "ß", null, { "b": 0.5 }] }]);
            let [first, second] = [0, 1].map(|_| ended(&script.call_blocking::<Value>("default", &input)));
            assert_eq!(first, second);
        }
        Err(error) => check(&error),
    }
    assert!(started.elapsed() < SOON, "it took {:?}", started.elapsed());
    assert_eq!(HOST.free_seats(), SEATS);
}

/// The first script has the interpreter compiled, which takes long where the compiler is watched.
fn begin() {
    load(b"export default () => 1".to_vec()).unwrap();
}

fuzz_target!(init: begin(), |bytes: &[u8]| {
    run(bytes.to_vec());
    run([b"export default async (input, context) => {\n", bytes, b"\n}"].concat());
});
