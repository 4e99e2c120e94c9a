//! The imports of a world as a guest calls them: their names, their types, and how those lie in memory. Read from WIT.

use crate::{Error, ErrorKind, Result};
use std::path::Path;
use wit_parser::abi::{AbiVariant, WasmType};
use wit_parser::{
    Docs, FlagsRepr, Function, FunctionKind, Handle, Int, InterfaceId, LiftLowerAbi, ManglingAndAbi, Param, Resolve,
    ResourceIntrinsic, SizeAlign, Span, Stability, Type, TypeDef, TypeDefKind, TypeId, TypeOwner, WasmImport, WorldId,
    WorldItem, WorldKey,
};

/// The export that reads a script. Its name is like no other's.
pub(super) const RUN: &str = "isopod-fuzz";
/// How core functions are named, for `wit-component` to find them.
pub(super) const NAMES: ManglingAndAbi = ManglingAndAbi::Legacy(LiftLowerAbi::Sync);

/// A world, and what of it is attacked.
pub(super) struct World {
    pub imports: Vec<Import>,
    pub resources: Vec<Resource>,
    pub resolve: Resolve,
    pub id: WorldId,
}

/// A resource that imports have handles of.
pub(super) struct Resource {
    id: TypeId,
    /// Imports that give a handle of it.
    pub from: Vec<usize>,
}

/// Something that a guest calls: a function, or what drops a handle.
pub(super) struct Import {
    /// For people: `acme:db/query#get`.
    pub name: String,
    /// Where a core module finds it.
    pub place: (String, String),
    pub core_params: Vec<WasmType>,
    pub core_result: Option<WasmType>,
    pub params: Vec<Shape>,
    /// The parameters as one record in memory, where they are too many to be passed by themselves.
    pub indirect: Option<Shape>,
    pub result: Option<Shape>,
    /// Whether the result is written to memory, at an address that is the last parameter.
    pub by_address: bool,
}

/// A type, and how its values lie in memory.
#[derive(Clone)]
pub(super) struct Shape {
    pub kind: Kind,
    pub size: u32,
    pub align: u32,
    /// Core values that it has when it is passed by itself.
    pub flat: usize,
}

#[derive(Clone)]
pub(super) enum Kind {
    Bool,
    Char,
    Single,
    Double,
    Int {
        bits: u32,
        signed: bool,
    },
    Text,
    List(Box<Shape>),
    Record(Vec<Field>),
    /// A variant, an enum, an option or a result: bytes of the tag, where the payload begins, the cases.
    Variant {
        tag: u32,
        payload: u32,
        cases: Vec<(String, Option<Shape>)>,
    },
    Flags(Vec<String>),
    Own(usize),
    Borrow(usize),
}

/// A field of a record; one of a tuple has no name.
#[derive(Clone)]
pub(super) struct Field {
    pub name: String,
    pub at: u32,
    pub shape: Shape,
}

impl World {
    /// # Errors
    /// `Misuse` for what cannot be read, for a world without imports, and for one with imports that cannot be attacked.
    pub(super) fn inline(wit: &str, world: &str) -> Result<World> {
        let mut resolve = Resolve::default();
        let package = resolve.push_str("inline.wit", wit);
        let package = package.map_err(|e| unfit("this WIT cannot be read", Some(resolve.render_error(&e))))?;
        World::of(resolve, package, world)
    }

    pub(super) fn path(path: &Path, world: &str) -> Result<World> {
        let mut resolve = Resolve::default();
        let package = resolve.push_path(path);
        let text = || format!("the WIT in {} cannot be read", path.display());
        let (package, _) = package.map_err(|e| unfit(&text(), Some(resolve.render_error(&e))))?;
        World::of(resolve, package, world)
    }

    fn of(mut resolve: Resolve, package: wit_parser::PackageId, world: &str) -> Result<World> {
        let id = resolve.select_world(&[package], Some(world));
        let id = id.map_err(|e| unfit(&format!("there is no world {world}"), Some(format!("{e:#}"))))?;
        let mut sizes = SizeAlign::default();
        sizes.fill(&resolve);
        let mut reader =
            Reader { resolve: &resolve, sizes, imports: Vec::new(), resources: Vec::new(), cannot: Vec::new() };
        reader.world(id);
        let Reader { imports, resources, cannot, .. } = reader;
        if !cannot.is_empty() {
            let list = cannot.join(", ");
            return Err(unfit(
                &format!("a generated guest cannot call {list}; give a world without them, and attack them otherwise"),
                None,
            ));
        }
        if imports.is_empty() {
            let text = format!("the world {world} imports no function but of wasi:, so there is nothing to attack");
            return Err(unfit(&text, None));
        }
        let is_async = imports.iter().any(|(_, is_async)| *is_async);
        let imports = imports.into_iter().map(|(import, _)| import).collect();
        let run = run(&mut resolve, is_async);
        resolve.worlds[id].exports.insert(WorldKey::Name(RUN.into()), WorldItem::Function(run));
        Ok(World { imports, resources, resolve, id })
    }
}

pub(super) fn unfit(text: &str, because: Option<String>) -> Error {
    Error::new(ErrorKind::Misuse, text).because(because)
}

/// `isopod-fuzz: func(script: list<u8>) -> list<u8>`. It may wait where an import may.
fn run(resolve: &mut Resolve, is_async: bool) -> Function {
    let bytes = resolve.types.alloc(TypeDef {
        name: None,
        kind: TypeDefKind::List(Type::U8),
        owner: TypeOwner::None,
        docs: Docs::default(),
        stability: Stability::default(),
        span: Span::default(),
        external_id: None,
    });
    Function {
        name: RUN.into(),
        kind: if is_async { FunctionKind::AsyncFreestanding } else { FunctionKind::Freestanding },
        params: vec![Param { name: "script".into(), ty: Type::Id(bytes), span: Span::default() }],
        result: Some(Type::Id(bytes)),
        docs: Docs::default(),
        stability: Stability::default(),
        span: Span::default(),
        external_id: None,
    }
}

struct Reader<'a> {
    resolve: &'a Resolve,
    sizes: SizeAlign,
    /// Each with whether it is an `async func`.
    imports: Vec<(Import, bool)>,
    resources: Vec<Resource>,
    cannot: Vec<String>,
}

impl Reader<'_> {
    fn world(&mut self, id: WorldId) {
        let resolve = self.resolve;
        for (key, item) in &resolve.worlds[id].imports {
            match item {
                WorldItem::Function(function) => self.function(None, function),
                WorldItem::Type { id, .. } => self.drops(None, *id),
                WorldItem::Interface { id, .. } if self.is_wasi(*id) => {}
                WorldItem::Interface { id, .. } => {
                    resolve.interfaces[*id].functions.values().for_each(|function| self.function(Some(key), function));
                    resolve.interfaces[*id].types.values().for_each(|id| self.drops(Some(key), *id));
                }
            }
        }
        for (n, (import, _)) in self.imports.iter().enumerate() {
            let mut gives = Vec::new();
            if let Some(result) = &import.result {
                result.gives(&mut gives);
            }
            gives.into_iter().for_each(|resource| self.resources[resource].from.push(n));
        }
    }

    /// Those are isopod's own, and not the embedder's.
    fn is_wasi(&self, id: InterfaceId) -> bool {
        let package = self.resolve.interfaces[id].package;
        package.is_some_and(|id| self.resolve.packages[id].name.namespace == "wasi")
    }

    fn name(&self, interface: Option<&WorldKey>, name: &str) -> String {
        // `[method]cursor.next` is `cursor.next`; which kind of function it is, its arguments show.
        let name = name.rsplit(']').next().unwrap_or(name);
        interface.map_or_else(|| name.to_owned(), |key| format!("{}#{name}", self.resolve.name_world_key(key)))
    }

    fn function(&mut self, interface: Option<&WorldKey>, function: &Function) {
        let mut name = self.name(interface, &function.name);
        if matches!(function.kind, FunctionKind::Constructor(_)) {
            name = format!("new {name}");
        }
        let params: Result<Vec<Shape>, &str> = function.params.iter().map(|param| self.shape(&param.ty)).collect();
        let result = function.result.as_ref().map(|ty| self.shape(ty)).transpose();
        let (params, result) = match (params, result) {
            (Ok(params), Ok(result)) => (params, result),
            (Err(what), _) | (_, Err(what)) => return self.cannot.push(format!("{name} (a {what})")),
        };
        let signature = self.resolve.wasm_signature(AbiVariant::GuestImport, function);
        let indirect = signature.indirect_params.then(|| {
            let types: Vec<Type> = function.params.iter().map(|param| param.ty).collect();
            let info = self.sizes.params(&types);
            let fields = self.sizes.field_offsets(&types).into_iter().zip(&params);
            let fields = fields.map(|((at, _), shape)| field("", at.size_wasm32(), shape.clone())).collect();
            shape(Kind::Record(fields), info.size.size_wasm32(), info.align.align_wasm32(), 0)
        });
        let import = Import {
            name,
            place: self.resolve.wasm_import_name(NAMES, WasmImport::Func { interface, func: function }),
            core_params: signature.params,
            core_result: signature.results.first().copied(),
            params,
            indirect,
            result,
            by_address: signature.retptr,
        };
        self.imports.push((import, function.kind.is_async()));
    }

    /// What drops handles of it, if it is a resource.
    fn drops(&mut self, interface: Option<&WorldKey>, id: TypeId) {
        let TypeDef { kind: TypeDefKind::Resource, name: Some(name), .. } = &self.resolve.types[id] else { return };
        let intrinsic = ResourceIntrinsic::ImportedDrop;
        let import = Import {
            name: format!("drop {}", self.name(interface, name)),
            place: self
                .resolve
                .wasm_import_name(NAMES, WasmImport::ResourceIntrinsic { interface, resource: id, intrinsic }),
            core_params: vec![WasmType::I32],
            core_result: None,
            params: vec![shape(Kind::Own(self.resource(id)), 4, 4, 1)],
            indirect: None,
            result: None,
            by_address: false,
        };
        self.imports.push((import, false));
    }

    fn resource(&mut self, mut id: TypeId) -> usize {
        while let TypeDefKind::Type(Type::Id(of)) = self.resolve.types[id].kind {
            id = of;
        }
        self.resources.iter().position(|resource| resource.id == id).unwrap_or_else(|| {
            self.resources.push(Resource { id, from: Vec::new() });
            self.resources.len() - 1
        })
    }

    /// # Errors
    /// What it is, if values of it cannot be made.
    fn shape(&mut self, ty: &Type) -> Result<Shape, &'static str> {
        let resolve = self.resolve;
        let int = |bits, signed| (Kind::Int { bits, signed }, 1);
        let (kind, flat) = match ty {
            Type::Bool => (Kind::Bool, 1),
            Type::U8 => int(8, false),
            Type::U16 => int(16, false),
            Type::U32 => int(32, false),
            Type::U64 => int(64, false),
            Type::S8 => int(8, true),
            Type::S16 => int(16, true),
            Type::S32 => int(32, true),
            Type::S64 => int(64, true),
            Type::F32 => (Kind::Single, 1),
            Type::F64 => (Kind::Double, 1),
            Type::Char => (Kind::Char, 1),
            Type::String => (Kind::Text, 2),
            Type::ErrorContext => return Err("error-context"),
            Type::Id(id) => match &resolve.types[*id].kind {
                TypeDefKind::Type(ty) => return self.shape(ty),
                TypeDefKind::Handle(Handle::Own(id)) => (Kind::Own(self.resource(*id)), 1),
                TypeDefKind::Handle(Handle::Borrow(id)) => (Kind::Borrow(self.resource(*id)), 1),
                TypeDefKind::List(of) => (Kind::List(Box::new(self.shape(of)?)), 2),
                TypeDefKind::Record(record) => {
                    self.record(record.fields.iter().map(|field| (field.name.as_str(), &field.ty)))?
                }
                TypeDefKind::Tuple(tuple) => self.record(tuple.types.iter().map(|ty| ("", ty)))?,
                TypeDefKind::Flags(flags) => {
                    let names = flags.flags.iter().map(|flag| flag.name.clone()).collect();
                    let words = if let FlagsRepr::U32(words) = flags.repr() { words } else { 1 };
                    (Kind::Flags(names), words)
                }
                TypeDefKind::Enum(of) => {
                    self.variant(of.tag(), of.cases.iter().map(|case| (case.name.as_str(), None)))?
                }
                TypeDefKind::Variant(of) => {
                    self.variant(of.tag(), of.cases.iter().map(|case| (case.name.as_str(), case.ty.as_ref())))?
                }
                TypeDefKind::Option(some) => self.variant(Int::U8, [("none", None), ("some", Some(some))])?,
                TypeDefKind::Result(of) => {
                    self.variant(Int::U8, [("ok", of.ok.as_ref()), ("error", of.err.as_ref())])?
                }
                other => return Err(other.as_str()),
            },
        };
        Ok(shape(kind, self.sizes.size(ty).size_wasm32(), self.sizes.align(ty).align_wasm32(), flat))
    }

    fn record<'t>(&mut self, fields: impl Iterator<Item = (&'t str, &'t Type)>) -> Result<(Kind, usize), &'static str> {
        let (names, types): (Vec<&str>, Vec<&Type>) = fields.unzip();
        let mut all = Vec::new();
        for (name, (at, ty)) in names.into_iter().zip(self.sizes.field_offsets(types)) {
            all.push(field(name, at.size_wasm32(), self.shape(ty)?));
        }
        let flat = all.iter().map(|field| field.shape.flat).sum();
        Ok((Kind::Record(all), flat))
    }

    fn variant<'t>(
        &mut self,
        tag: Int,
        cases: impl IntoIterator<Item = (&'t str, Option<&'t Type>)>,
    ) -> Result<(Kind, usize), &'static str> {
        let (names, types): (Vec<&str>, Vec<Option<&Type>>) = cases.into_iter().unzip();
        let payload = self.sizes.payload_offset(tag, types.iter().copied()).size_wasm32() as u32;
        let mut all = Vec::new();
        for (name, ty) in names.into_iter().zip(types) {
            all.push((name.to_owned(), ty.map(|ty| self.shape(ty)).transpose()?));
        }
        let flat = all.iter().flat_map(|(_, shape)| shape).map(|shape| shape.flat).max().unwrap_or(0);
        let tag = match tag {
            Int::U8 => 1,
            Int::U16 => 2,
            Int::U32 | Int::U64 => 4,
        };
        Ok((Kind::Variant { tag, payload, cases: all }, 1 + flat))
    }
}

fn shape(kind: Kind, size: usize, align: usize, flat: usize) -> Shape {
    Shape { kind, size: size as u32, align: align as u32, flat }
}

fn field(name: &str, at: usize, shape: Shape) -> Field {
    Field { name: name.into(), at: at as u32, shape }
}

impl Shape {
    /// The resources of which a value may hold handles that become the guest's.
    fn gives(&self, all: &mut Vec<usize>) {
        match &self.kind {
            Kind::Own(resource) if !all.contains(resource) => all.push(*resource),
            Kind::List(of) => of.gives(all),
            Kind::Record(fields) => fields.iter().for_each(|field| field.shape.gives(all)),
            Kind::Variant { cases, .. } => {
                cases.iter().flat_map(|(_, shape)| shape).for_each(|shape| shape.gives(all));
            }
            _ => {}
        }
    }
}
