//! Flattens JSON: `{"a":{"b":[1,2]}}` becomes `{"a.b.0":1,"a.b.1":2}`, keys sorted.
#![no_main]

use std::collections::BTreeMap;

use serde_json::Value;

wit_bindgen::generate!({ path: "wit/json-transform.wit", world: "json-transform" });

struct JsonTransform;

impl Guest for JsonTransform {
    fn transform(input: String) -> Result<String, String> {
        let value: Value = serde_json::from_str(&input).map_err(|e| format!("not JSON: {e}"))?;
        let mut flat = BTreeMap::new();
        flatten(String::new(), value, &mut flat)?;
        serde_json::to_string(&flat).map_err(|e| e.to_string())
    }
}

/// Puts the leaves of `value` into `flat`. Empty objects and arrays are leaves, else they would vanish. serde_json
/// limits the nesting of its input to 128, which bounds this recursion.
fn flatten(path: String, value: Value, flat: &mut BTreeMap<String, Value>) -> Result<(), String> {
    let inner = |key: &str| if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            fields.into_iter().try_for_each(|(key, value)| flatten(inner(&key), value, flat))
        }
        Value::Array(items) if !items.is_empty() => {
            items.into_iter().enumerate().try_for_each(|(at, value)| flatten(inner(&at.to_string()), value, flat))
        }
        // `{"a.b":1,"a":{"b":2}}` has two leaves of the same path: say so rather than lose one.
        leaf => match flat.insert(path.clone(), leaf) {
            Some(_) => Err(format!("two values at `{path}`")),
            None => Ok(()),
        },
    }
}

export!(JsonTransform);
