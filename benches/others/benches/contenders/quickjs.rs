//! JavaScript in QuickJS by rquickjs, with all of the language's own library.

use super::{MEMORY, TIME, case};
use crate::cases::Case;
use rquickjs::{Context, Function, Persistent, Runtime};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

pub fn cases(text: &'static [u8]) -> Vec<Case> {
    let warm = Realm::new();
    vec![
        case("quickjs_fresh", text, |text| Realm::new().call(text)),
        case("quickjs_warm", text, move |text| warm.call(text)),
    ]
}

/// The function is dropped before what it lives in.
struct Realm {
    transform: Persistent<Function<'static>>,
    context: Context,
    deadline: Rc<Cell<Instant>>,
}

impl Realm {
    fn new() -> Realm {
        let runtime = Runtime::new().unwrap();
        runtime.set_memory_limit(MEMORY);
        runtime.set_max_stack_size(256 << 10);
        let deadline = Rc::new(Cell::new(Instant::now() + TIME));
        let until = deadline.clone();
        runtime.set_interrupt_handler(Some(Box::new(move || Instant::now() > until.get())));
        let context = Context::full(&runtime).unwrap();
        let transform = context.with(|ctx| {
            let transform: Function = ctx.eval("(text) => text.toUpperCase()").unwrap();
            Persistent::save(&ctx, transform)
        });
        Realm { transform, context, deadline }
    }

    fn call(&self, text: &[u8]) -> Vec<u8> {
        self.deadline.set(Instant::now() + TIME);
        let text = std::str::from_utf8(text).unwrap();
        self.context.with(|ctx| {
            let transform = self.transform.clone().restore(&ctx).unwrap();
            transform.call::<_, String>((text,)).unwrap().into_bytes()
        })
    }
}
