//! More calls at once than may be, and than may wait.

use crate::ErrorKind::Overloaded;
use crate::testkit::case::{Attack, Case};
use crate::testkit::promise::Promise::{self, Concurrency, Queue, QueueWait};
use serde_json::json;

/// Comes to the gate, and waits there.
const WAITS: &str = r#"(component
    (import "wait" (func $wait))
    (core func $wait' (canon lower (func $wait)))
    (core module $m (import "" "wait" (func $w)) (func (export "run") (call $w)))
    (core instance $i (instantiate $m (with "" (instance (export "wait" (func $wait'))))))
    (func (export "run") (canon lift (core func $i "run"))))"#;

pub(super) fn cases() -> Vec<Case> {
    let waits = |name, promise: Promise, attack| {
        Case::new(name, 17, promise, |_| WAITS.into()).attack(attack).with(|builder, wire| {
            let gate = wire.clone();
            builder.import("", "wait", move |_, ()| gate.clone().wait())
        })
    };
    vec![
        waits("calls at once", Concurrency, Attack::Crowd).gives(|_| json!(null)),
        waits("calls that wait", Queue, Attack::Queue).room(&[("concurrency", 1)]).fails(Overloaded),
        waits("a call that waits in vain", QueueWait, Attack::Wait).room(&[("concurrency", 1)]).fails(Overloaded),
    ]
}
