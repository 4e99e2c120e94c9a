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
    Instruction, MemoryType, Module, ModuleArg, ModuleType, StartSection, TypeSection,
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
        let who = "the top level, which a snapshot runs ahead of all calls, where nothing is granted,";
        let blame = Blame { who, source, language };
        loaded.map_err(|failure| blame.error(failure, lease))?;
        let after = snapshots.call_image(&mut lease.store).await?;
        let (Some((at, before)), Some((_, after))) = (before, after) else {
            let text = "the top level leaves something under way, such as a timer, which a snapshot cannot keep; await it there, or begin it in the function";
            return Err(Error::new(ErrorKind::InvalidScript, text).into());
        };
        let memory = at as usize + after.len();
        Ok(Frozen { module: module(at, &before, &after), memory: memory as u64 })
    }

    /// What calls begin with; to be called where blocking is allowed.
    pub(crate) fn keep(self: &Arc<Self>, frozen: &Frozen) -> Result<Image> {
        let blueprint = &self.runtime.workshop.blueprint;
        let module = compiler::module(&blueprint.engine, &frozen.module)?;
        let mut linker = self.linker.clone();
        linker.allow_shadowing(true).root().module(IMAGE, &module).map_err(unfit)?;
        let pre = linker.instantiate_pre(&self.runtime.workshop.component).map_err(unfit)?;
        Ok(Image { pre, snapshots: Arc::clone(self) })
    }
}

/// State that is kept.
pub(crate) struct Frozen {
    module: Vec<u8>,
    /// Bytes of memory that it starts with.
    pub memory: u64,
}

/// The interpreter with the state of one script.
pub(crate) struct Image {
    pre: Pre,
    snapshots: Arc<Snapshots>,
}

impl Image {
    /// An instance that is ready to run.
    pub(super) async fn begin(&self, lease: &mut Lease) -> wasmtime::Result<wit::Interpreter> {
        let Snapshots { runtime, indices, .. } = &*self.snapshots;
        lease.start(&self.pre).await?;
        let instance = lease.instance()?;
        let snapshots = indices.load(&mut lease.store, &instance)?;
        let (seed, _) = lease.store.data_mut().bound.random.insecure();
        snapshots.call_wake(&mut lease.store, seed).await?;
        runtime.guest(lease)
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

/// A module that makes the memory from `at` on, which is as it was before, as it was after.
fn module(at: u32, before: &[u8], after: &[u8]) -> Vec<u8> {
    let mut data = DataSection::new();
    // The memory grows first, and then has what lies beyond.
    let mut grow = Function::new([]);
    let more = (after.len().saturating_sub(before.len()) / PAGE) as i32;
    [
        Instruction::I32Const(more),
        Instruction::MemoryGrow(0),
        Instruction::I32Const(0),
        Instruction::I32LtS,
        Instruction::If(BlockType::Empty),
        Instruction::Unreachable,
        Instruction::End,
    ]
    .iter()
    .for_each(|instruction| {
        grow.instruction(instruction);
    });
    for piece in pieces(before, after) {
        let (start, len) = ((at as usize + piece.start) as i32, piece.len() as i32);
        let is_there = piece.end <= before.len();
        let bytes = after[piece].iter().copied();
        if is_there {
            data.active(0, &ConstExpr::i32_const(start), bytes);
            continue;
        }
        let init = Instruction::MemoryInit { mem: 0, data_index: data.len() };
        data.passive(bytes);
        [Instruction::I32Const(start), Instruction::I32Const(0), Instruction::I32Const(len), init].iter().for_each(
            |instruction| {
                grow.instruction(instruction);
            },
        );
    }
    grow.instruction(&Instruction::End);

    let mut imports = ImportSection::new();
    imports.import("env", "memory", MEMORY);
    let mut module = Module::new();
    let (mut types, mut functions, mut code) = (TypeSection::new(), FunctionSection::new(), CodeSection::new());
    types.ty().function([], []);
    functions.function(0);
    code.function(&grow);
    let grows = more > 0;
    if grows {
        module.section(&types);
    }
    module.section(&imports);
    if grows {
        module.section(&functions).section(&StartSection { function_index: 0 });
        module.section(&DataCountSection { count: data.len() }).section(&code);
    }
    module.section(&data);
    module.finish()
}

/// Where `after` is not what `before` is; beyond that, where it is not zero.
fn pieces(before: &[u8], after: &[u8]) -> Vec<Range<usize>> {
    let mut pieces: Vec<Range<usize>> = Vec::new();
    let changed = |at: &usize| after[*at] != before.get(*at).copied().unwrap_or(0);
    for at in (0..after.len()).filter(changed) {
        match pieces.last_mut() {
            // No piece lies on both sides of where the memory ended.
            Some(last) if at - last.end <= GAP && (last.end <= before.len()) == (at < before.len()) => {
                last.end = at + 1
            }
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
        after.extend([0; 4 * GAP]);
        assert_eq!(pieces(&before, &after), []);
        after[1] = 8;
        after[GAP] = 8;
        after[3 * GAP] = 8;
        after[4 * GAP - 1] = 8;
        after[4 * GAP] = 8;
        let ends = 3 * GAP..4 * GAP;
        assert_eq!(pieces(&before, &after), [1..GAP + 1, ends, 4 * GAP..4 * GAP + 1]);
    }
}
