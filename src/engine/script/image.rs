//! Snapshots: the state that a script's top level leaves, as a module of nothing but data. The interpreter imports it, and
//! it is written over the memory of each new instance. So all scripts share one compiled interpreter, and its image.

use super::workshop::{Fit, Runtime, unfit};
use super::{Blame, Language, wit};
use crate::bindings::snapshots::SnapshotsIndices;
use crate::engine::lease::Lease;
use crate::engine::trap::Fault;
use crate::engine::{Linker, Pre, compiler};
use crate::error::{Error, ErrorKind, Result};
use std::ops::Range;
use std::sync::Arc;
use wasm_encoder::{
    BlockType, CodeSection, ComponentImportSection, ComponentSection, ComponentTypeRef, ConstExpr, CoreTypeSection,
    DataCountSection, DataSection, EntityType, ExportKind, Function, FunctionSection, ImportSection, InstanceSection,
    MemoryType, Module, ModuleArg, ModuleType, StartSection, TypeSection,
};
use wasmparser::{Parser, Payload};

/// The name of the import.
const IMAGE: &str = "image";
/// In modules, as in the interpreter's own.
const MEMORY: MemoryType =
    MemoryType { minimum: 0, maximum: None, memory64: false, shared: false, page_size_log2: None };
const PAGE: usize = 64 * 1024;
/// Bytes that did not change are written too, where they lie between others and are no more: a piece costs about as much.
const GAP: usize = 128;

/// An interpreter that begins with the state of a script.
pub(crate) struct Snapshots {
    pub runtime: Runtime,
    linker: Linker,
    indices: SnapshotsIndices,
}

impl Snapshots {
    /// The component to be loaded for [`new`](Snapshots::new).
    pub(crate) fn component(interpreter: &[u8]) -> Result<Vec<u8>> {
        open(interpreter).map_err(|error| unfit(error.into()))
    }

    pub(crate) fn new(fit: Fit) -> Result<Snapshots> {
        let nothing = compiler::module(&fit.engine, &module(0, &[], &[]))?;
        let (runtime, linker) = Runtime::with(fit, |linker| linker.root().module(IMAGE, &nothing), &[IMAGE])?;
        let indices = SnapshotsIndices::new(runtime.pre()).map_err(unfit)?;
        Ok(Snapshots { runtime, linker, indices })
    }

    /// Runs the top level of a compiled source, and gives a module of what that changed.
    pub(crate) async fn run(
        &self,
        lease: &mut Lease,
        (source, code): (&str, &[u8]),
        language: &Language,
        options: wit::Options,
    ) -> Result<Frozen, Fault> {
        lease.start(self.runtime.pre()).await?;
        let guest = self.runtime.guest(lease)?;
        let instance = lease.instance()?;
        let snapshots = self.indices.load(&mut lease.store, &instance)?;
        let (seed, salt) = lease.store.data_mut().bound.random.insecure();
        let before = snapshots.call_image(&mut lease.store).await?;
        let loaded = guest.call_load(&mut lease.store, code, options, seed, salt).await?;
        let who = "the top level, which a snapshot runs ahead of all calls, where nothing but settings is granted,";
        let blame = Blame { who, source, language };
        loaded.map_err(|failure| blame.error(failure, lease))?;
        let after = snapshots.call_image(&mut lease.store).await?;
        let (Some((at, before)), Some((again, after))) = (before, after) else {
            let text = "the top level leaves something under way, such as a timer, which a snapshot cannot keep; await it there, or begin it in the function";
            return Err(Error::new(ErrorKind::InvalidScript, text).into());
        };
        if again != at || after.len() < before.len() || !(at as usize + before.len()).is_multiple_of(PAGE) {
            let text = "the interpreter does not give its memory to the end; this is a fault of isopod";
            return Err(Error::new(ErrorKind::Internal, text).into());
        }
        Ok(Frozen { at, before, after })
    }

    /// What calls begin with; to be called where blocking is allowed.
    pub(crate) fn keep(self: &Arc<Self>, frozen: &Frozen) -> Result<Image> {
        let blueprint = &self.runtime.workshop.blueprint;
        let module = module(frozen.at, &frozen.before, &frozen.after);
        let module = compiler::module(&blueprint.engine, &module)?;
        let mut linker = self.linker.clone();
        linker.allow_shadowing(true).root().module(IMAGE, &module).map_err(unfit)?;
        let pre = linker.instantiate_pre(&self.runtime.workshop.component).map_err(unfit)?;
        Ok(Image { pre, snapshots: Arc::clone(self) })
    }
}

/// State that is to be kept: the memory from `at` on, before and after.
pub(crate) struct Frozen {
    at: u32,
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Frozen {
    /// Bytes of memory that calls start with.
    pub(crate) fn memory(&self) -> u64 {
        u64::from(self.at) + self.after.len() as u64
    }
}

/// The interpreter with the state of one script.
pub(crate) struct Image {
    pre: Pre,
    snapshots: Arc<Snapshots>,
}

impl Image {
    /// An instance that is ready to run.
    pub(super) async fn begin(&self, lease: &mut Lease) -> wasmtime::Result<wit::Interpreter> {
        lease.start(&self.pre).await?;
        self.snapshots.runtime.guest(lease)
    }
}

/// The same component with a module for an import, which is instantiated last, over its memory.
fn open(component: &[u8]) -> Result<Vec<u8>, wasmparser::BinaryReaderError> {
    let (mut depth, mut modules, mut instances, mut types) = (0_u32, 0, 0, 0);
    for payload in Parser::new(0).parse_all(component) {
        match payload? {
            Payload::ModuleSection { .. } => {
                modules += u32::from(depth == 0);
                depth += 1;
            }
            Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::InstanceSection(section) if depth == 0 => instances += section.count(),
            Payload::CoreTypeSection(section) if depth == 0 => types += section.count(),
            _ => {}
        }
    }
    let mut taken = ModuleType::new();
    taken.import("env", "memory", EntityType::Memory(MEMORY));
    let mut module = CoreTypeSection::new();
    module.ty().module(&taken);
    let mut imports = ComponentImportSection::new();
    imports.import(IMAGE, ComponentTypeRef::Module(types));
    let mut made = InstanceSection::new();
    // Which its functions use: there is one.
    made.export_items([("memory", ExportKind::Memory, 0)]);
    made.instantiate(modules, [("env", ModuleArg::Instance(instances))]);
    let mut bytes = component.to_vec();
    [&module as &dyn ComponentSection, &imports, &made]
        .iter()
        .for_each(|section| section.append_to_component(&mut bytes));
    Ok(bytes)
}

/// A module that makes the memory from `at` on, which is as it was before, as it was after. Its code is the same for all.
fn module(at: u32, before: &[u8], after: &[u8]) -> Vec<u8> {
    let (there, beyond) = after.split_at(before.len().min(after.len()));
    let mut data = DataSection::new();
    for piece in pieces(before, there) {
        let start = ConstExpr::i32_const((at as usize + piece.start) as i32);
        data.active(0, &start, there[piece].iter().copied());
    }
    let mut imports = ImportSection::new();
    imports.import("env", "memory", MEMORY);
    let mut module = Module::new();
    if beyond.is_empty() {
        module.section(&imports).section(&data);
        return module.finish();
    }
    // What lies beyond where the memory ended is one piece, which is written once the memory has grown.
    let pages = beyond.len().div_ceil(PAGE) as i32;
    let used = beyond.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let (mut types, mut functions, mut code) = (TypeSection::new(), FunctionSection::new(), CodeSection::new());
    types.ty().function([], []);
    functions.function(0);
    let place = (at as usize + there.len()) as i32;
    code.function(&grow(pages, place, data.len(), used as i32));
    data.passive(beyond[..used].iter().copied());
    module.section(&types).section(&imports).section(&functions);
    module.section(&StartSection { function_index: 0 });
    module.section(&DataCountSection { count: data.len() }).section(&code).section(&data);
    module.finish()
}

/// Grows the memory by a number of pages, and then writes data to a place in it.
fn grow(pages: i32, place: i32, data_index: u32, len: i32) -> Function {
    let mut grow = Function::new([]);
    let mut code = grow.instructions();
    code.i32_const(pages).memory_grow(0).i32_const(0).i32_lt_s().if_(BlockType::Empty).unreachable().end();
    code.i32_const(place).i32_const(0).i32_const(len).memory_init(0, data_index).end();
    grow
}

/// Where two of equal length differ.
fn pieces(before: &[u8], after: &[u8]) -> Vec<Range<usize>> {
    let mut pieces: Vec<Range<usize>> = Vec::new();
    for at in (0..after.len()).filter(|at| after[*at] != before[*at]) {
        match pieces.last_mut() {
            Some(last) if at - last.end <= GAP => last.end = at + 1,
            _ => pieces.push(at..at + 1),
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_where_something_changed() {
        let before = vec![7; 4 * GAP];
        let mut after = before.clone();
        assert_eq!(pieces(&before, &after), []);
        for at in [1, GAP, 3 * GAP, 4 * GAP - 1] {
            after[at] = 8;
        }
        assert_eq!(pieces(&before, &after), [1..GAP + 1, 3 * GAP..4 * GAP]);
    }

    #[test]
    fn the_code_of_a_module_does_not_grow_with_the_state() {
        let before = vec![0; PAGE];
        let after: Vec<u8> = (0..8 * PAGE).map(|at| u8::from(at % (2 * GAP) == 0)).collect();
        let module = module(1024, &before, &after);
        wasmparser::validate(&module).unwrap();
        let code = Parser::new(0).parse_all(&module).find_map(|payload| match payload.unwrap() {
            Payload::CodeSectionStart { size, .. } => Some(size),
            _ => None,
        });
        assert!(code.is_some_and(|size| size < 64), "{code:?}");
    }
}
