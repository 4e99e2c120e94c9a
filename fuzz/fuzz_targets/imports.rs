//! Hostile guests for host functions, made of any bytes by the kit that embedders have. The functions are right: a script
//! brings none of them to a panic, keeps nothing, goes on no longer than it may and tells no tenant of another.
#![no_main]

use desk::fuzz::it::notes::{self, Cursor};
use isopod::testkit::fuzz::Fuzz;
use isopod::{Context, Function, Host, Limits, Resource, Resources, block_on, ms};
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

const WIT: &str = include_str!("imports.wit");
/// Whatever a guest passes as one.
const THERE: &str = "a handle leads to what is there";

mod desk {
    isopod::world!({ world: "desk", path: "fuzz_targets/imports.wit" });
}

type Notes = Arc<Mutex<BTreeMap<(String, String), Vec<u8>>>>;

/// What one call is served by.
struct Desk {
    tenant: String,
    notes: Notes,
    cursors: Resources<Open>,
    open: Arc<AtomicU64>,
}

/// Keys of a cursor, which is counted as long as it lives.
struct Open {
    keys: Vec<String>,
    open: Arc<AtomicU64>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl notes::Host for Desk {
    async fn put(&mut self, key: String, value: Vec<u8>) -> Result<(), String> {
        let mut notes = self.notes.lock().unwrap();
        if notes.len() >= 100 || key.len() + value.len() > 1_000 {
            return Err("too much".to_owned());
        }
        notes.insert((self.tenant.clone(), key), value);
        Ok(())
    }

    async fn get(&mut self, key: String) -> Option<Vec<u8>> {
        self.notes.lock().unwrap().get(&(self.tenant.clone(), key)).cloned()
    }

    async fn cut(&mut self, text: String, bytes: u32) -> String {
        text.get(..bytes as usize).unwrap_or(&text).to_owned()
    }
}

impl notes::HostCursor for Desk {
    async fn new(&mut self, prefix: String) -> Resource<Cursor> {
        let notes = self.notes.lock().unwrap();
        let keys = notes.keys().filter(|(tenant, key)| *tenant == self.tenant && key.starts_with(&prefix));
        let keys = keys.map(|(_, key)| key.clone()).collect();
        self.open.fetch_add(1, Ordering::Relaxed);
        self.cursors.insert(Open { keys, open: Arc::clone(&self.open) })
    }

    async fn next(&mut self, cursor: Resource<Cursor>) -> Option<String> {
        self.cursors.get_mut(&cursor).expect(THERE).keys.pop()
    }

    async fn join(&mut self, one: Resource<Cursor>, other: Resource<Cursor>) -> Resource<Cursor> {
        let more = self.cursors.get(&other).expect(THERE).keys.clone();
        let mut joined = self.cursors.remove(&one).expect(THERE);
        joined.keys.extend(more);
        joined.keys.truncate(1_000);
        self.cursors.insert(joined)
    }

    async fn drop(&mut self, cursor: Resource<Cursor>) {
        self.cursors.remove(&cursor).expect(THERE);
    }
}

static DESK: LazyLock<(Fuzz, Function)> = LazyLock::new(|| {
    let limits = Limits::default().deadline(ms(500)).busy(ms(200));
    let (notes, open) = (Notes::default(), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&open);
    let fuzz = Fuzz::inline(WIT, "desk").unwrap();
    let fuzz = fuzz.words(["a", "b"]).count("cursors", move || counted.load(Ordering::Relaxed));
    let imports = move |context: Context| Desk {
        tenant: context.tenant().unwrap_or_default().to_owned(),
        notes: Arc::clone(&notes),
        cursors: Resources::default(),
        open: Arc::clone(&open),
    };
    let host = Host::builder().seats(4).build().unwrap();
    let builder = host.function("desk").component_bytes(fuzz.guest()).limits(limits).imports_with(imports);
    let function = block_on(builder.load_typed::<desk::Desk>()).unwrap().as_ref().clone();
    (fuzz, function)
});

fuzz_target!(|input: &[u8]| {
    let (fuzz, function) = &*DESK;
    let report = block_on(fuzz.once(function, input)).unwrap();
    assert!(report.held(), "{report}");
});
