//! How much work the code of a core module is to the compiler. Pure: function bodies in, numbers out.
//!
//! Bytes say little about it: a call of two bytes passes a thousand values, three bytes declare fifty thousand locals,
//! and a value that is alive over many blocks costs memory for each of them. So the values are counted, by the types of
//! the operators. As with the rest of the pre-check, whether the bytes are valid is left to the validator.

use wasmparser::{
    BinaryReaderError, BlockType, ContType, FrameKind, FuncType, FunctionBody, FunctionSectionReader,
    ImportSectionReader, ModuleArity, Operator, RefType, SubType, TypeRef,
};

/// What is known of a core module by the time its code is read.
#[derive(Default)]
pub(super) struct Signatures {
    types: Vec<SubType>,
    /// The type of each function.
    functions: Vec<u32>,
    /// Those of them that are imported or whose body was read.
    known: usize,
}

/// What one function's body is to the compiler.
#[derive(Debug, Default)]
pub(super) struct Effort {
    /// How deep loops are nested. The compiler's work grows with more than the square of that.
    pub loops: u64,
    /// Values that the compiler keeps account of, roughly, and more for a large function than for many small ones.
    pub values: u64,
}

impl Signatures {
    /// Takes up a type, and gives the number of values that a function of that type passes.
    pub(super) fn add(&mut self, ty: SubType) -> u64 {
        let (params, results) = self.sub_type_arity(&ty).unwrap_or_default();
        self.types.push(ty);
        u64::from(params) + u64::from(results)
    }

    pub(super) fn imports(&mut self, section: ImportSectionReader<'_>) -> Result<(), BinaryReaderError> {
        for import in section.into_imports() {
            if let TypeRef::Func(ty) | TypeRef::FuncExact(ty) = import?.ty {
                self.functions.push(ty);
                self.known += 1;
            }
        }
        Ok(())
    }

    pub(super) fn functions(&mut self, section: FunctionSectionReader<'_>) -> Result<(), BinaryReaderError> {
        for ty in section {
            self.functions.push(ty?);
        }
        Ok(())
    }

    /// Reads the next function's body.
    pub(super) fn body(&mut self, body: &FunctionBody<'_>) -> Result<Effort, BinaryReaderError> {
        let own = self.functions.get(self.known).copied().unwrap_or(u32::MAX);
        self.known += 1;
        let (params, results) = self.sub_type_at(own).and_then(|ty| self.sub_type_arity(ty)).unwrap_or_default();
        let mut locals = u64::from(params);
        for group in body.get_locals_reader()? {
            locals += u64::from(group?.0);
        }
        let outermost = Frame { ty: BlockType::FuncType(own), kind: FrameKind::Block, base: 0 };
        let mut walk = Walk { signatures: self, frames: vec![outermost] };
        let (mut depth, mut height, mut effort) = (0u64, 0u64, Effort::default());
        let (mut passed, mut blocks, mut highest) = (u64::from(results), 1u64, 0u64);
        for operator in body.get_operators_reader()? {
            let operator = operator?;
            let (takes, gives) = operator.operator_arity(&walk).unwrap_or_default();
            let (takes, gives) = (u64::from(takes), u64::from(gives));
            let ways = match &operator {
                Operator::BrTable { targets } => u64::from(targets.len()) + 1,
                Operator::Block { .. } | Operator::Loop { .. } | Operator::Else | Operator::BrIf { .. } => 1,
                Operator::If { .. } => 2,
                _ => 0,
            };
            blocks += ways;
            passed = passed.saturating_add((1 + takes + gives).saturating_mul(ways.max(1)));
            height = height.saturating_sub(takes);
            match operator {
                Operator::Loop { blockty } => {
                    walk.frames.push(Frame { ty: blockty, kind: FrameKind::Loop, base: height });
                    depth += 1;
                    effort.loops = effort.loops.max(depth);
                }
                Operator::Block { blockty } | Operator::If { blockty } => {
                    walk.frames.push(Frame { ty: blockty, kind: FrameKind::Block, base: height });
                }
                Operator::TryTable { .. } | Operator::Try { .. } => {
                    walk.frames.push(Frame { ty: BlockType::Empty, kind: FrameKind::Block, base: height });
                }
                // What stands behind a jump never runs, and leaves no height that means something.
                Operator::Else => height = walk.frames.last().map_or(0, |frame| frame.base),
                Operator::End | Operator::Delegate { .. } => {
                    if let Some(frame) = walk.frames.pop() {
                        height = frame.base;
                        depth -= u64::from(frame.kind == FrameKind::Loop);
                    }
                }
                _ => {}
            }
            height = height.saturating_add(gives);
            highest = highest.max(height);
        }
        let alive = blocks.saturating_mul(locals.saturating_add(highest));
        let values = passed.saturating_add(locals).saturating_add(alive / ALIVE);
        effort.values = values.saturating_add(values.saturating_mul(values) / LARGE);
        Ok(effort)
    }
}

/// Blocks in which a value is alive that cost about as much as a value that is passed.
const ALIVE: u64 = 4;

/// Values from which on a function is more than twice the work of two halves of it: the compiler's work can grow with the
/// square of a function's size.
const LARGE: u64 = 5_000;

/// A block that is open.
struct Frame {
    ty: BlockType,
    kind: FrameKind,
    /// How many values are below it.
    base: u64,
}

/// What the types of operators depend on.
struct Walk<'a> {
    signatures: &'a Signatures,
    frames: Vec<Frame>,
}

impl ModuleArity for Signatures {
    fn sub_type_at(&self, index: u32) -> Option<&SubType> {
        self.types.get(index as usize)
    }
    fn type_index_of_function(&self, index: u32) -> Option<u32> {
        self.functions.get(index as usize).copied()
    }
    // Exceptions, references to functions and the like are off in our engines.
    fn tag_type_arity(&self, _: u32) -> Option<(u32, u32)> {
        None
    }
    fn func_type_of_cont_type(&self, _: &ContType) -> Option<&FuncType> {
        None
    }
    fn sub_type_of_ref_type(&self, _: &RefType) -> Option<&SubType> {
        None
    }
    fn control_stack_height(&self) -> u32 {
        0
    }
    fn label_block(&self, _: u32) -> Option<(BlockType, FrameKind)> {
        None
    }
}

impl ModuleArity for Walk<'_> {
    fn sub_type_at(&self, index: u32) -> Option<&SubType> {
        self.signatures.sub_type_at(index)
    }
    fn type_index_of_function(&self, index: u32) -> Option<u32> {
        self.signatures.type_index_of_function(index)
    }
    fn tag_type_arity(&self, _: u32) -> Option<(u32, u32)> {
        None
    }
    fn func_type_of_cont_type(&self, _: &ContType) -> Option<&FuncType> {
        None
    }
    fn sub_type_of_ref_type(&self, _: &RefType) -> Option<&SubType> {
        None
    }
    fn control_stack_height(&self) -> u32 {
        self.frames.len().try_into().unwrap_or(u32::MAX)
    }
    fn label_block(&self, depth: u32) -> Option<(BlockType, FrameKind)> {
        let at = self.frames.len().checked_sub(1 + depth as usize)?;
        self.frames.get(at).map(|frame| (frame.ty, frame.kind))
    }
}
