//! Takes the types out of TypeScript, by swc: blanks take their place, so that errors have the lines and columns of the
//! source. It runs in the sandbox, as a parser that strangers feed should.

use std::cell::RefCell;

use swc_common::errors::{DiagnosticBuilder, Emitter, HANDLER, Handler};
use swc_common::sync::Lrc;
use swc_common::{GLOBALS, Globals, SourceMap};
use swc_ts_fast_strip::{Mode, Options, operate};

wit_bindgen::generate!({ path: "../../wit/script", world: "isopod:script/typescript" });

struct Typescript;
export!(Typescript);

/// What swc says first.
#[derive(Clone)]
struct First {
    map: Lrc<SourceMap>,
    said: Lrc<RefCell<Option<Refusal>>>,
}

impl Emitter for First {
    fn emit(&mut self, diagnostic: &mut DiagnosticBuilder<'_>) {
        let place = diagnostic.span.primary_span().map(|span| self.map.lookup_char_pos(span.lo));
        let (line, column) = place.map_or((0, 0), |place| (place.line as u32, place.col.0 as u32 + 1));
        self.said.borrow_mut().get_or_insert_with(|| Refusal { message: diagnostic.message(), line, column });
    }
}

impl Guest for Typescript {
    fn strip(source: String) -> Result<String, Refusal> {
        let map = Lrc::<SourceMap>::default();
        let first = First { map: Lrc::clone(&map), said: Lrc::default() };
        let handler = Handler::with_emitter(true, false, Box::new(first.clone()));
        let options = Options { module: Some(true), mode: Mode::StripOnly, ..Options::default() };
        let stripped =
            GLOBALS.set(&Globals::new(), || HANDLER.set(&handler, || operate(&map, &handler, source, options)));
        stripped.map(|stripped| stripped.code).map_err(|error| {
            let said = first.said.take();
            said.unwrap_or(Refusal { message: error.message, line: 0, column: 0 })
        })
    }
}
