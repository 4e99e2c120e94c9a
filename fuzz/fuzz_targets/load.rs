//! Any bytes, loaded as a stranger's component: an error for people, or a function whose exports take what their schemas
//! say and end as a value or an error for people. What passes the pre-check is compiled, so that the seeds are components;
//! `inspect` is the one for bytes at large.
#![no_main]

use isopod::{Error, ErrorKind, Host, Limits, LoadLimits, MIB, Trust, ms};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

/// As many as one call takes at most.
const SEATS: u32 = 4;
static HOST: LazyLock<Host> = LazyLock::new(|| Host::builder().seats(SEATS).build().unwrap());

/// A value that the schema allows.
fn any(schema: &Value) -> Value {
    if let Some(inner) = schema["anyOf"].get(0).or(schema["oneOf"].get(0)) {
        return any(inner);
    }
    if let Some(value) = schema["enum"].get(0).or(schema.get("const")).or(schema.get("minimum")) {
        return value.clone();
    }
    match schema["type"].as_str() {
        Some("boolean") => json!(true),
        Some("string") if schema["contentEncoding"] == "base64" => json!("/w=="),
        Some("string") => json!("ß"),
        Some("number") => json!(-0.5),
        Some("array") => match schema["prefixItems"].as_array() {
            Some(items) => items.iter().map(any).collect(),
            None => json!([any(&schema["items"])]),
        },
        Some("object") => {
            let properties = schema["properties"].as_object().into_iter().flatten();
            properties.map(|(name, schema)| (name.clone(), any(schema))).collect::<Map<_, _>>().into()
        }
        _ => Value::Null,
    }
}

/// Nobody's fault but the guest's, and fit to show.
fn check(error: &Error) {
    use ErrorKind::{Cancelled, HostPanic, Internal, Misuse, Overloaded, Store};
    assert!(!matches!(error.kind(), Internal | HostPanic | Misuse | Overloaded | Cancelled | Store), "{error:?}");
    let shown = format!("{error:?}");
    let odd = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}');
    assert!(shown.len() <= 4096 && !shown.contains(odd), "{shown:?}");
    for denial in error.denials() {
        assert!(!denial.explain().contains(char::is_control), "{denial:?}");
    }
}

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits::default().deadline(ms(20)).memory(16 * MIB);
    // What compiles within a second or two, in a build with sanitisers.
    let bounds = LoadLimits::from(Trust::Untrusted).values(100_000);
    let builder = HOST.function("f").component_bytes(bytes).load_limits(bounds).limits(limits).deny_at_call();
    match builder.load_blocking() {
        Ok(function) => {
            for export in function.exports().iter().take(8) {
                let schema = export.json_schema();
                let called = function.call_blocking::<Value>(export.name(), any(&schema["parameters"]));
                if let Err(error) = called {
                    check(&error);
                    let cut = schema["parameters"].to_string().contains("$comment");
                    assert!(error.kind() != ErrorKind::WrongArguments || cut, "{error:?}");
                }
            }
        }
        Err(error) => check(&error),
    }
    assert_eq!(HOST.free_seats(), SEATS);
});
