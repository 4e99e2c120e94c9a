//! Every shape of WIT in one guest, for tests of typed and dynamic calls: see wit/shapes.wit.
#![no_main]

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};

use exports::test::shapes::types::{self, Color, Counter, CounterBorrow, GuestCounter, Item, Permissions, Shape};
use test::shapes::db::{self, LookupError};

wit_bindgen::generate!({ path: "wit/shapes.wit", world: "shapes" });

/// Tells a fresh instance from one used before.
static CALLS: AtomicU32 = AtomicU32::new(0);

struct Shapes;

impl Guest for Shapes {
    fn greet(name: String) -> String {
        format!("Hello, {name}!")
    }

    fn count() -> u32 {
        CALLS.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn echo_bytes(b: Vec<u8>) -> Vec<u8> {
        b
    }

    fn lookup(key: String) -> Result<String, String> {
        note(&key);
        db::get(&key).map(|row| row.value).map_err(|error| match error {
            LookupError::NotFound => "not-found".to_string(),
            LookupError::Denied(why) => format!("denied: {why}"),
            LookupError::Busy(seconds) => format!("busy: {seconds}"),
        })
    }

    fn list_keys(prefix: String) -> Vec<String> {
        let cursor = db::Cursor::new(&prefix);
        let mut keys = Vec::new();
        while let Some(row) = cursor.next() {
            keys.push(row.key);
        }
        assert_eq!(keys.len() as u32, db::Cursor::total(&prefix));
        keys
    }
}

impl types::Guest for Shapes {
    type Counter = Count;

    fn echo_item(i: Item) -> Item {
        i
    }

    fn echo_shape(s: Shape) -> Shape {
        s
    }

    fn echo_color(c: Color) -> Color {
        c
    }

    fn echo_permissions(p: Permissions) -> Permissions {
        p
    }

    fn echo_outcome(r: Result<(), Color>) -> Result<(), Color> {
        r
    }

    fn make_counter(start: u32) -> Counter {
        Counter::new(Count::new(start))
    }

    fn consume(c: Counter) -> u32 {
        c.into_inner::<Count>().value()
    }
}

struct Count(Cell<u32>);

impl GuestCounter for Count {
    fn new(start: u32) -> Self {
        Self(Cell::new(start))
    }

    fn add(&self, n: u32) -> u32 {
        self.0.set(self.0.get().checked_add(n).expect("the counter overflowed"));
        self.value()
    }

    fn value(&self) -> u32 {
        self.0.get()
    }

    fn sum(a: CounterBorrow<'_>, b: CounterBorrow<'_>) -> u32 {
        a.get::<Count>().value() + b.get::<Count>().value()
    }
}

export!(Shapes);
