//! The guest: a component whose one function of its own does what a script says. It is made once for a world.
//!
//! A script is bytes: a head, data, and steps of four words each. The guest finds it where its heap begins, so the data
//! can hold addresses of itself. What imports are called with is in the data, as the guest passes it to a core
//! function: it may be anything.

use super::world::{NAMES, RUN, World, unfit};
use crate::Result;
use std::fmt::Write;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::abi::WasmType;
use wit_parser::{WasmExport, WasmExportKind, WorldItem, WorldKey};

/// Where the guest keeps handles, and how many.
const HANDLES: u32 = 0x200;
pub(super) const SLOTS: usize = 64;
/// Where a result lies that is passed by itself.
pub(super) const ONE: u32 = 0x100;
/// Where results are written to.
pub(super) const RESULT: u32 = 0x400;
/// Zeros that nothing is written to unless the heap grows so far, and how many they are.
pub(super) const ZEROS: u32 = 0x4_0000;
pub(super) const ZERO_BYTES: u32 = 0x4_0000;
/// In a script, what must not be found is not written out.
pub(super) const MASK: u64 = 0x5aa5_c33c_9669_f00f;
/// Bytes of a script's head.
pub(super) const HEAD: u32 = 16;

/// A step of a script.
#[derive(Clone, Copy)]
pub(super) enum Op {
    /// Calls an import with the words at an address; then looks at what it was given.
    Call { import: u32, args: u32, number: u32 },
    /// Writes a handle to an address.
    Put { slot: u32, to: u32 },
    /// Looks at an address.
    At { address: u32 },
    /// Looks at the item of a list that the address looked at is the head of; skips steps if there is none.
    Item { offset: u32, index: u32, skip: u32 },
    /// Looks further on.
    Ahead { bytes: u32 },
    /// Skips steps unless there is that value.
    Unless { mask: u32, value: u32, skip: u32 },
    /// Keeps the handle that is there.
    Keep { slot: u32 },
    /// Skips steps if no handle is kept in the slot.
    Needs { slot: u32, skip: u32 },
    /// Keeps the handle no longer.
    Forget { slot: u32 },
    /// Goes on at a step, as often as the word at an address says.
    Repeat { count: u32, step: u32 },
    /// From now on, asked for memory, it answers so: 0 rightly, 1 beyond the end, 2 unaligned, 3 not at all.
    Memory { mode: u32 },
    /// Uses the memory of results again.
    Rewind,
    /// Asks for pages, and writes to each.
    Grow { pages: u32 },
}

impl Op {
    pub(super) fn words(self) -> [u32; 4] {
        match self {
            Op::Call { import, args, number } => [1, import, args, number],
            Op::Put { slot, to } => [2, slot, to, 0],
            Op::At { address } => [3, address, 0, 0],
            Op::Item { offset, index, skip } => [4, offset, index, skip],
            Op::Ahead { bytes } => [5, bytes, 0, 0],
            Op::Unless { mask, value, skip } => [6, mask, value, skip],
            Op::Keep { slot } => [7, slot, 0, 0],
            Op::Needs { slot, skip } => [8, slot, 0, skip],
            Op::Forget { slot } => [9, slot, 0, 0],
            Op::Repeat { count, step } => [10, count, step, 0],
            Op::Memory { mode } => [11, mode, 0, 0],
            Op::Rewind => [12, 0, 0, 0],
            Op::Grow { pages } => [13, pages, 0, 0],
        }
    }
}

impl World {
    /// Where the script lies.
    pub(super) fn heap(&self) -> u32 {
        (RESULT + self.result_bytes()).next_multiple_of(16)
    }

    fn result_bytes(&self) -> u32 {
        let results = self.imports.iter().filter(|import| import.by_address).flat_map(|import| &import.result);
        results.map(|shape| shape.size).max().unwrap_or(0).next_multiple_of(8)
    }

    /// The component.
    pub(super) fn guest(&self) -> Result<Vec<u8>> {
        let encode = || -> Result<Vec<u8>, String> {
            let mut module = wat::parse_str(self.module()).map_err(|e| e.to_string())?;
            embed_component_metadata(&mut module, &self.resolve, self.id, StringEncoding::UTF8)
                .map_err(|e| format!("{e:#}"))?;
            let encoder = ComponentEncoder::default().module(&module).map_err(|e| format!("{e:#}"))?;
            encoder.validate(true).encode().map_err(|e| format!("{e:#}"))
        };
        encode().map_err(|text| unfit("no guest can be made for this world", Some(text)))
    }

    fn module(&self) -> String {
        let mut wat = String::from("(module (type $call (func (param i32)))\n");
        for (n, import) in self.imports.iter().enumerate() {
            let (module, name) = &import.place;
            let params: String = import.core_params.iter().map(|ty| format!(" {}", word(*ty))).collect();
            let result = import.core_result.map_or("", word);
            let _ = writeln!(wat, "(import {module:?} {name:?} (func $f{n} (param{params}) (result {result})))");
        }
        let calls: String = (0..self.imports.len()).map(|n| format!(" $c{n}")).collect();
        let _ = writeln!(wat, "(table funcref (elem{calls}))");
        for (n, import) in self.imports.iter().enumerate() {
            let load =
                |(at, ty): (usize, &WasmType)| format!("({}.load offset={} (local.get $args))", word(*ty), at * 8);
            let args: String = import.core_params.iter().enumerate().map(load).collect();
            let call = format!("(call $f{n} {args})");
            let call = match import.core_result {
                Some(ty) => format!("({}.store (i32.const {ONE}) {call})", word(ty)),
                None => call,
            };
            let _ = writeln!(wat, "(func $c{n} (param $args i32) {call})");
        }
        let settings = [
            ("ONE", ONE),
            ("HANDLES", HANDLES),
            ("RESULT_END", RESULT + self.result_bytes()),
            ("RESULT", RESULT),
            ("HEAP", self.heap()),
            ("PAGES", (ZEROS + ZERO_BYTES) >> 16),
        ];
        let mut text = format!(include_str!("guest.wat"), mask = MASK);
        settings.iter().for_each(|(name, value)| text = text.replace(&format!("${name}$"), &value.to_string()));
        wat.push_str(&text);
        self.unused(&mut wat);
        wat.push(')');
        wat
    }

    /// The world's own exports, so that it loads as that world. Nobody calls them.
    fn unused(&self, wat: &mut String) {
        let mut export = |interface: Option<&WorldKey>, function: &wit_parser::Function| {
            let signature = self.resolve.wasm_signature(NAMES.export_variant(), function);
            let export = WasmExport::Func { interface, func: function, kind: WasmExportKind::Normal };
            let name = self.resolve.wasm_export_name(NAMES, export);
            let list = |types: &[WasmType]| types.iter().map(|ty| format!(" {}", word(*ty))).collect::<String>();
            let (params, results) = (list(&signature.params), list(&signature.results));
            let _ = writeln!(wat, "(func (export {name:?}) (param{params}) (result{results}) unreachable)");
        };
        for (key, item) in &self.resolve.worlds[self.id].exports {
            match item {
                WorldItem::Function(function) if function.name != RUN => export(None, function),
                WorldItem::Interface { id, .. } => {
                    self.resolve.interfaces[*id].functions.values().for_each(|function| export(Some(key), function));
                }
                _ => {}
            }
        }
    }
}

fn word(ty: WasmType) -> &'static str {
    match ty {
        WasmType::I32 | WasmType::Pointer | WasmType::Length => "i32",
        WasmType::I64 | WasmType::PointerOrI64 => "i64",
        WasmType::F32 => "f32",
        WasmType::F64 => "f64",
    }
}
