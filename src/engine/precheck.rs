//! Looks at a component's bytes before anything is compiled. Pure: bytes in, facts or a refusal out.
//!
//! Compiling cannot be interrupted, and a component of a kilobyte can ask for gigabytes of code by instantiating its
//! parts over and over, or by exporting them over and over. So the parts are counted here with their multiplicity, in
//! one pass over the sections. Whether the bytes are *valid* is left to the compiler's validator; this only has to be
//! right about what is large, and must end quickly and without a panic on any bytes at all.

use super::effort::Signatures;
use wasmparser::{
    CanonicalFunction, CanonicalOption, ComponentAlias, ComponentDefinedType, ComponentExternalKind, ComponentInstance,
    ComponentOuterAliasKind, ComponentType, ComponentTypeDeclaration, ComponentTypeRef, Encoding, Instance,
    InstanceTypeDeclaration, Parser, Payload, TypeBounds,
};

/// What a component may look like; see [`LoadLimits`](crate::LoadLimits).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub bytes: u64,
    pub functions: u32,
    pub instances: u32,
    pub adapters: u32,
    pub nesting: u32,
    pub values: u64,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Facts {
    /// Whether it needs component-model async: `async` functions, streams, futures, or any WASI 0.3 interface.
    pub asynchronous: bool,
    /// Core functions, imports and globals.
    pub functions: u32,
    /// Core instances that one instance of the component consists of.
    pub instances: u32,
    /// Parts and adapters of one instance of the component.
    pub adapters: u32,
    /// Parts of one instance of the component that have code of their own, at least 1. With component-model async each
    /// of them can stand still in the middle of a call, on a stack that nobody else can use meanwhile.
    pub parts: u32,
}

/// Why the bytes are not even tried.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Refusal {
    /// Not a component; the text says what it is instead.
    Invalid(String),
    /// A component beyond a bound: its name, what was found, the bound.
    TooComplex { what: &'static str, found: u64, limit: u64 },
}

impl From<wasmparser::BinaryReaderError> for Refusal {
    fn from(error: wasmparser::BinaryReaderError) -> Refusal {
        Refusal::Invalid(format!("{} (at byte {})", error.message(), error.offset()))
    }
}

/// Checks the outside of the bytes, then counts what is inside.
pub(crate) fn inspect(bytes: &[u8], bounds: Bounds) -> Result<Facts, Refusal> {
    within("component_bytes", bytes.len() as u64, bounds.bytes)?;
    recognise(bytes)?;
    let mut survey = Survey {
        bounds,
        facts: Facts::default(),
        scopes: Vec::new(),
        spaces: Vec::new(),
        dearest: Cost::default(),
        heaviest: 1,
        weight: 0,
        types: 0,
        values: 0,
    };
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        if let Payload::ComponentTypeSection(section) = &payload {
            bound_type_nesting(&bytes[section.range()])?;
        }
        survey.visit(payload)?;
    }
    Ok(survey.facts)
}

/// Types within types that a section may have. Real components have a handful.
const TYPE_NESTING: u64 = 250;

/// wasmparser reads a type within a type by recursion, without a bound of its own: a few hundred kilobytes of it
/// overflow the native stack and end the process. Each level takes a declaration of a type (1) that is a component or
/// instance type (0x41, 0x42), so those pairs of bytes are at least as many as the levels. Names of one letter look the
/// same; nobody has hundreds of those in a section.
fn bound_type_nesting(section: &[u8]) -> Result<(), Refusal> {
    let levels = section.windows(2).filter(|pair| pair[0] == 1 && matches!(pair[1], 0x41 | 0x42)).count();
    within("nesting", levels as u64, TYPE_NESTING)
}

/// A memory's image takes up to a MiB even if there is next to nothing in it, which is as much as this many values.
const IMAGE: u64 = 1 << 18;

fn within(what: &'static str, found: u64, limit: u64) -> Result<(), Refusal> {
    if found > limit { Err(Refusal::TooComplex { what, found, limit }) } else { Ok(()) }
}

/// Tells what people pass instead of a component.
fn recognise(bytes: &[u8]) -> Result<(), Refusal> {
    let invalid = |text: &str| Err(Refusal::Invalid(text.to_owned()));
    match bytes {
        [] => invalid("the input is empty"),
        [0, b'a', b's', b'm', version @ ..] => match version {
            [1, 0, 0, 0, ..] => invalid(
                "this is a core WebAssembly module, not a component; make it one with `wasm-tools component new`",
            ),
            [0x0d, 0, 1, 0, ..] => Ok(()),
            [version, _, 1, 0, ..] => Err(Refusal::Invalid(format!(
                "this component has the pre-release encoding {version:#x}; rebuild it with a current toolchain"
            ))),
            _ => invalid("the WebAssembly header is cut off or of an unknown version"),
        },
        [0x7f, b'E', b'L', b'F', ..] => invalid(
            "this is an ELF file: a native program, or code that wasmtime compiled before; load the .wasm component itself",
        ),
        _ => invalid("this is not WebAssembly: the first four bytes must be \"\\0asm\""),
    }
}

/// The walk over a component's sections, which come in order, nested ones between their header and their end.
struct Survey {
    bounds: Bounds,
    facts: Facts,
    /// One entry for each component that is being read, outermost first; a core module is a scope too, as it has an end.
    scopes: Vec<Scope>,
    /// One entry for each of those, and for each type within them that is being read: an alias can name what is in any.
    spaces: Vec<Space>,
    /// The largest counts of any component read so far: stand in for one whose identity can't be told here.
    dearest: Cost,
    /// The same for the weight of a type or an instance.
    heaviest: u64,
    /// Weights of all instances together.
    weight: u64,
    /// Core types.
    types: u64,
    /// Values in the code of all core modules together; see [`Effort`](super::effort::Effort).
    values: u64,
}

/// What one instance of a component is made of, its parts included.
#[derive(Clone, Copy, Default)]
struct Cost {
    /// Core instances.
    instances: u64,
    /// Component instances, and core functions made of component functions: wasmtime inlines the former and compiles
    /// code for the latter, once for each time they are instantiated.
    adapters: u64,
    /// Components that have core instances.
    parts: u64,
    /// Exports, those of exported instances included.
    exports: u64,
}

#[derive(Default)]
struct Scope {
    module: bool,
    /// Of a module's functions.
    signatures: Signatures,
    /// What one instance of this component costs.
    cost: Cost,
    /// Whether it has core instances of its own.
    code: bool,
    /// The costs of each entry of this component's index space of components.
    components: Vec<Cost>,
}

/// Weights of what an index space holds: the exports that an instance has, with those of the instances among them. An
/// instance that exports another one twice is a few bytes, and doubles what the compiler writes out.
#[derive(Default)]
struct Space {
    types: Vec<u64>,
    instances: Vec<u64>,
}

impl Survey {
    fn visit(&mut self, payload: Payload<'_>) -> Result<(), Refusal> {
        match payload {
            Payload::Version { encoding, .. } => {
                within("nesting", self.scopes.len() as u64, self.bounds.nesting.into())?;
                self.scopes.push(Scope { module: encoding == Encoding::Module, ..Scope::default() });
                self.spaces.push(Space::default());
            }
            Payload::End(_) => self.leave()?,
            Payload::CodeSectionStart { count, .. } => self.define(count)?,
            Payload::CodeSectionEntry(body) => {
                let Some(Scope { signatures, .. }) = self.scopes.last_mut() else { return Ok(()) };
                let effort = signatures.body(&body)?;
                within("nesting", effort.loops, self.bounds.nesting.into())?;
                self.take(effort.values)?;
            }
            // Code is compiled for each type, as it is for a function.
            Payload::TypeSection(section) => {
                for group in section {
                    for ty in group?.into_types() {
                        self.types += 1;
                        within("functions", self.types, self.bounds.functions.into())?;
                        let Some(Scope { signatures, .. }) = self.scopes.last_mut() else { return Ok(()) };
                        let values = signatures.add(ty);
                        self.take(values)?;
                    }
                }
            }
            Payload::FunctionSection(section) => {
                let Some(Scope { signatures, .. }) = self.scopes.last_mut() else { return Ok(()) };
                signatures.functions(section)?;
            }
            // The compiler writes out what is in a table from its start to its last known function.
            Payload::TableSection(section) => {
                for table in section {
                    self.take(table?.ty.initial)?;
                }
            }
            // And an image of what a memory begins with.
            Payload::MemorySection(section) => self.take(u64::from(section.count()) * IMAGE)?,
            // Each takes room in every instance, which nothing else bounds where there is no pool.
            Payload::ImportSection(section) => {
                self.define(section.count())?;
                let Some(Scope { signatures, .. }) = self.scopes.last_mut() else { return Ok(()) };
                signatures.imports(section)?;
            }
            Payload::GlobalSection(section) => self.define(section.count())?,
            Payload::InstanceSection(section) => {
                for instance in section {
                    if let Instance::Instantiate { .. } = instance? {
                        if let Some(scope) = self.scopes.last_mut() {
                            scope.code = true;
                        }
                        self.spend(Cost { instances: 1, ..Cost::default() })?;
                    }
                }
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section {
                    let weight = match instance? {
                        ComponentInstance::Instantiate { component_index, .. } => {
                            let cost = self.cost(0, component_index);
                            self.spend(Cost { adapters: cost.adapters.saturating_add(1), exports: 0, ..cost })?;
                            cost.exports.saturating_add(1)
                        }
                        ComponentInstance::FromExports(exports) => exports.iter().fold(1, |weight: u64, export| {
                            weight.saturating_add(match export.kind {
                                ComponentExternalKind::Instance => self.instance(export.index),
                                _ => 1,
                            })
                        }),
                    };
                    self.weigh(weight)?;
                    self.space().instances.push(weight);
                }
            }
            Payload::ComponentAliasSection(section) => {
                for alias in section {
                    let alias = alias?;
                    self.alias(&alias);
                    match alias {
                        ComponentAlias::Outer { kind: ComponentOuterAliasKind::Component, count, index } => {
                            let cost = self.cost(count, index);
                            self.name(cost);
                        }
                        ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. } => {
                            self.name(self.dearest)
                        }
                        _ => {}
                    }
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section {
                    let import = import?;
                    if let ComponentTypeRef::Component(_) = import.ty {
                        return Err(Refusal::Invalid(format!(
                            "it imports the component \"{}\"; compose it into one component first",
                            import.name.name
                        )));
                    }
                    self.facts.asynchronous |= self.scopes.len() == 1 && is_wasi_03(import.name.name);
                    let weight = self.declare(import.ty);
                    self.weigh(weight)?;
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    let export = export?;
                    let mut weight = 1;
                    match export.kind {
                        ComponentExternalKind::Component => {
                            let cost = self.cost(0, export.index);
                            self.name(cost);
                        }
                        ComponentExternalKind::Instance => {
                            weight = self.instance(export.index);
                            self.space().instances.push(weight);
                        }
                        ComponentExternalKind::Type => {
                            let weight = self.ty(0, export.index);
                            self.space().types.push(weight);
                        }
                        _ => {}
                    }
                    if let Some(scope) = self.scopes.last_mut() {
                        scope.cost.exports = scope.cost.exports.saturating_add(weight);
                    }
                    self.facts.asynchronous |= self.scopes.len() == 1 && is_wasi_03(export.name.name);
                }
            }
            Payload::ComponentTypeSection(section) => {
                for ty in section {
                    let ty = ty?;
                    self.facts.asynchronous |= is_async(&ty);
                    let weight = self.type_weight(&ty);
                    self.space().types.push(weight);
                }
            }
            Payload::ComponentCanonicalSection(section) => {
                for function in section {
                    let function = function?;
                    self.facts.asynchronous |= needs_async(&function);
                    if !matches!(function, CanonicalFunction::Lift { .. }) {
                        self.spend(Cost { adapters: 1, ..Cost::default() })?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The scope's end: what it costs is known, and its parent may name it.
    fn leave(&mut self) -> Result<(), Refusal> {
        let Some(scope) = self.scopes.pop() else { return Ok(()) };
        self.spaces.pop();
        let mut cost = scope.cost;
        cost.parts = cost.parts.saturating_add(scope.code.into());
        match self.scopes.last_mut() {
            Some(_) if scope.module => {}
            Some(parent) => {
                parent.components.push(cost);
                self.dearest = self.dearest.zip(cost, u64::max);
                self.heaviest = self.heaviest.max(cost.exports);
            }
            None => {
                self.facts.instances = cost.instances.try_into().unwrap_or(u32::MAX);
                self.facts.adapters = cost.adapters.try_into().unwrap_or(u32::MAX);
                self.facts.parts = cost.parts.max(1).try_into().unwrap_or(u32::MAX);
            }
        }
        Ok(())
    }

    fn define(&mut self, count: u32) -> Result<(), Refusal> {
        self.facts.functions = self.facts.functions.saturating_add(count);
        within("functions", self.facts.functions.into(), self.bounds.functions.into())
    }

    fn take(&mut self, values: u64) -> Result<(), Refusal> {
        self.values = self.values.saturating_add(values);
        within("values", self.values, self.bounds.values)
    }

    fn spend(&mut self, more: Cost) -> Result<(), Refusal> {
        let Some(Scope { cost, .. }) = self.scopes.last_mut() else { return Ok(()) };
        *cost = cost.zip(more, u64::saturating_add);
        within("core_instances", cost.instances, self.bounds.instances.into())?;
        within("adapters", cost.adapters, self.bounds.adapters.into())
    }

    fn name(&mut self, cost: Cost) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.components.push(cost);
        }
    }

    /// The cost of the component with that index, `outer` scopes up. An index out of range is for the validator.
    fn cost(&self, outer: u32, index: u32) -> Cost {
        let scope = self.scopes.len().checked_sub(1 + outer as usize).and_then(|at| self.scopes.get(at));
        scope.and_then(|scope| scope.components.get(index as usize)).copied().unwrap_or(self.dearest)
    }

    /// Counts an instance's exports among the component's functions, which is what they cost like.
    fn weigh(&mut self, weight: u64) -> Result<(), Refusal> {
        self.heaviest = self.heaviest.max(weight);
        self.weight = self.weight.saturating_add(weight);
        within("functions", self.weight, self.bounds.functions.into())
    }

    /// What is being filled.
    fn space(&mut self) -> &mut Space {
        if self.spaces.is_empty() {
            self.spaces.push(Space::default());
        }
        let last = self.spaces.len() - 1;
        &mut self.spaces[last]
    }

    /// The weight of the type with that index, `outer` spaces up.
    fn ty(&self, outer: u32, index: u32) -> u64 {
        let space = self.spaces.len().checked_sub(1 + outer as usize).and_then(|at| self.spaces.get(at));
        space.and_then(|space| space.types.get(index as usize)).copied().unwrap_or(self.heaviest)
    }

    /// The weight of the instance with that index.
    fn instance(&self, index: u32) -> u64 {
        let space = self.spaces.last();
        space.and_then(|space| space.instances.get(index as usize)).copied().unwrap_or(self.heaviest)
    }

    /// Takes up what an alias names. A part of an instance weighs no more than the whole.
    fn alias(&mut self, alias: &ComponentAlias<'_>) {
        match *alias {
            ComponentAlias::InstanceExport { kind: ComponentExternalKind::Instance, instance_index, .. } => {
                let weight = self.instance(instance_index);
                self.space().instances.push(weight);
            }
            ComponentAlias::InstanceExport { kind: ComponentExternalKind::Type, instance_index, .. } => {
                let weight = self.instance(instance_index);
                self.space().types.push(weight);
            }
            ComponentAlias::Outer { kind: ComponentOuterAliasKind::Type, count, index } => {
                let weight = self.ty(count, index);
                self.space().types.push(weight);
            }
            _ => {}
        }
    }

    /// Takes up an import, or an export in a type, and gives its weight.
    fn declare(&mut self, ty: ComponentTypeRef) -> u64 {
        match ty {
            ComponentTypeRef::Instance(index) => {
                let weight = self.ty(0, index);
                self.space().instances.push(weight);
                weight
            }
            ComponentTypeRef::Component(index) => self.ty(0, index),
            ComponentTypeRef::Type(bounds) => {
                let weight = match bounds {
                    TypeBounds::Eq(index) => self.ty(0, index),
                    TypeBounds::SubResource => 1,
                };
                self.space().types.push(weight);
                1
            }
            ComponentTypeRef::Module(_) | ComponentTypeRef::Func(_) | ComponentTypeRef::Value(_) => 1,
        }
    }

    /// The weight of a type. As deep as the type, which [`bound_type_nesting`] bounds.
    fn type_weight(&mut self, ty: &ComponentType<'_>) -> u64 {
        let mut weight: u64 = 1;
        self.spaces.push(Space::default());
        match ty {
            ComponentType::Instance(declarations) => {
                for declaration in declarations {
                    match declaration {
                        InstanceTypeDeclaration::Type(ty) => self.nested(ty),
                        InstanceTypeDeclaration::Alias(alias) => self.alias(alias),
                        InstanceTypeDeclaration::Export { ty, .. } => weight = weight.saturating_add(self.declare(*ty)),
                        InstanceTypeDeclaration::CoreType(_) => {}
                    }
                }
            }
            ComponentType::Component(declarations) => {
                for declaration in declarations {
                    match declaration {
                        ComponentTypeDeclaration::Type(ty) => self.nested(ty),
                        ComponentTypeDeclaration::Alias(alias) => self.alias(alias),
                        ComponentTypeDeclaration::Export { ty, .. } => {
                            weight = weight.saturating_add(self.declare(*ty))
                        }
                        ComponentTypeDeclaration::Import(import) => {
                            weight = weight.saturating_add(self.declare(import.ty))
                        }
                        ComponentTypeDeclaration::CoreType(_) => {}
                    }
                }
            }
            ComponentType::Defined(_) | ComponentType::Func(_) | ComponentType::Resource { .. } => {}
        }
        self.spaces.pop();
        self.heaviest = self.heaviest.max(weight);
        weight
    }

    fn nested(&mut self, ty: &ComponentType<'_>) {
        let weight = self.type_weight(ty);
        self.space().types.push(weight);
    }
}

impl Cost {
    fn zip(self, other: Cost, with: fn(u64, u64) -> u64) -> Cost {
        Cost {
            instances: with(self.instances, other.instances),
            adapters: with(self.adapters, other.adapters),
            parts: with(self.parts, other.parts),
            exports: with(self.exports, other.exports),
        }
    }
}

fn is_wasi_03(name: &str) -> bool {
    name.starts_with("wasi:") && name.contains("@0.3.")
}

fn is_async(ty: &ComponentType<'_>) -> bool {
    match ty {
        ComponentType::Func(function) => function.async_,
        ComponentType::Defined(ty) => matches!(ty, ComponentDefinedType::Stream(_) | ComponentDefinedType::Future(_)),
        ComponentType::Component(declarations) => {
            declarations.iter().any(|d| matches!(d, ComponentTypeDeclaration::Type(ty) if is_async(ty)))
        }
        ComponentType::Instance(declarations) => {
            declarations.iter().any(|d| matches!(d, InstanceTypeDeclaration::Type(ty) if is_async(ty)))
        }
        ComponentType::Resource { .. } => false,
    }
}

fn needs_async(function: &CanonicalFunction) -> bool {
    match function {
        CanonicalFunction::Lift { options, .. } | CanonicalFunction::Lower { options, .. } => {
            options.iter().any(|option| matches!(option, CanonicalOption::Async | CanonicalOption::Callback(_)))
        }
        CanonicalFunction::ResourceNew { .. }
        | CanonicalFunction::ResourceDrop { .. }
        | CanonicalFunction::ResourceRep { .. } => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds =
        Bounds { bytes: 1 << 20, functions: 10, instances: 20, adapters: 50, nesting: 5, values: 10_000 };

    fn look(wat: &str) -> Result<Facts, Refusal> {
        inspect(&wat::parse_str(wat).unwrap(), BOUNDS)
    }

    #[test]
    fn what_is_not_a_component_is_named() {
        let cases: [(&[u8], &str); 8] = [
            (b"", "empty"),
            (b"hello", "not WebAssembly"),
            (b"\0as", "not WebAssembly"),
            (b"\0asm", "cut off"),
            (b"\0asm\x01\0\0\0", "core WebAssembly module"),
            (b"\0asm\x0c\0\x01\0", "pre-release encoding 0xc"),
            (b"\x7fELF\x02\x01\x01\0", "ELF"),
            (b"\0asm\x0d\0\x01\0\x01\xff", "unexpected end"),
        ];
        for (bytes, expected) in cases {
            match inspect(bytes, BOUNDS) {
                Err(Refusal::Invalid(text)) => assert!(text.contains(expected), "{bytes:?}: {text}"),
                other => panic!("{bytes:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn async_is_seen_wherever_it_hides() {
        let asynchronous = [
            r#"(component (import "wasi:clocks/monotonic-clock@0.3.0" (instance)))"#,
            r#"(component (type (func async)))"#,
            r#"(component (type (instance (type (stream u8)))))"#,
            r#"(component (core func (canon task.cancel)))"#,
        ];
        for wat in asynchronous {
            assert!(look(wat).unwrap().asynchronous, "{wat}");
        }
        assert!(
            !look(r#"(component (import "wasi:cli/environment@0.2.0" (instance)) (type (func)))"#)
                .unwrap()
                .asynchronous
        );
    }

    #[test]
    fn instances_are_counted_with_their_multiplicity() {
        let twice =
            |inner: &str| format!("(component $c {inner}) (instance (instantiate $c)) (instance (instantiate $c))");
        let leaf = "(core module $m) (core instance (instantiate $m)) (core instance (instantiate $m))".to_owned();
        let eight = format!("(component {})", twice(&twice(&leaf)));
        assert_eq!(look(&eight).unwrap().instances, 8);
        let thirty_two = format!("(component {})", twice(&twice(&twice(&twice(&leaf)))));
        assert_eq!(look(&thirty_two), Err(Refusal::TooComplex { what: "core_instances", found: 32, limit: 20 }));
        let by_alias = r#"(component $root (component $c (core module $m) (core instance (instantiate $m)) (core instance (instantiate $m)))
            (component $d (alias outer $root $c (component $e)) (instance (instantiate $e)) (instance (instantiate $e)))
            (instance (instantiate $d)))"#;
        assert_eq!(look(by_alias).unwrap().instances, 4);
    }

    #[test]
    fn bounds_name_what_is_too_large() {
        let nested = format!("{}{}", "(component ".repeat(7), ")".repeat(7));
        assert_eq!(look(&nested), Err(Refusal::TooComplex { what: "nesting", found: 6, limit: 5 }));
        for part in ["(func)", r#"(import "" "" (func))"#, "(global i32 (i32.const 0))"] {
            let eleven = format!("(component (core module {}))", part.repeat(11));
            assert_eq!(look(&eleven), Err(Refusal::TooComplex { what: "functions", found: 11, limit: 10 }));
        }
        let big = vec![0; (1 << 20) + 1];
        assert!(matches!(inspect(&big, BOUNDS), Err(Refusal::TooComplex { what: "component_bytes", .. })));
    }

    /// Neither has a core instance of its own; compiled, both are as large as they are nested.
    #[test]
    fn parts_and_adapters_are_counted_with_their_multiplicity() {
        let nest = |import: &str, leaf: &str, with: &str| {
            let parts = format!("(instance (instantiate $c {with}))").repeat(3);
            let nested = (0..3).fold(leaf.to_owned(), |inner, _| format!("(component $c {import} {inner}) {parts}"));
            let bytes = wat::parse_str(format!("(component {import} {nested})")).unwrap();
            inspect(&bytes, Bounds { functions: 100, ..BOUNDS })
        };
        let empty = nest("", "", "").unwrap();
        assert_eq!((empty.instances, empty.adapters), (0, 3 + 9 + 27));
        let lowering =
            nest(r#"(import "f" (func $f))"#, "(core func (canon lower (func $f)))", r#"(with "f" (func $f))"#);
        assert_eq!(lowering, Err(Refusal::TooComplex { what: "adapters", found: 3 + 9 + 27 + 27, limit: 50 }));
    }

    /// Twelve instances, each of which exports the one before twice: some hundred bytes that stand for thousands.
    #[test]
    fn exports_of_instances_are_counted_with_their_multiplicity() {
        let double = |first: &str, next: &dyn Fn(usize) -> String| {
            let rest: String = (1..12).map(next).collect();
            look(&format!("(component {first} {rest})"))
        };
        let by_value = double(r#"(import "f" (func $f)) (instance $t0 (export "f" (func $f)))"#, &|i| {
            let inner = i - 1;
            format!(r#"(instance $t{i} (export "a" (instance $t{inner})) (export "b" (instance $t{inner})))"#)
        });
        let by_type = |last: &str| {
            look(&format!(
                r#"(component (type $t0 (instance (export "f" (func)))) {} {last})"#,
                (1..12)
                    .map(|i| format!(
                        r#"(type $t{i} (instance (alias outer 1 $t{} (type $p))
                            (export "a" (instance (type $p))) (export "b" (instance (type $p)))))"#,
                        i - 1
                    ))
                    .collect::<String>()
            ))
        };
        for refused in [by_value, by_type(r#"(import "x" (instance (type $t11)))"#)] {
            assert!(matches!(refused, Err(Refusal::TooComplex { what: "functions", .. })), "{refused:?}");
        }
        assert!(by_type("").is_ok(), "a type that nothing has costs nothing");
    }

    #[test]
    fn loops_are_counted_and_blocks_are_not() {
        let nested = |what: &str, depth: usize| {
            let body = format!("{}{}", format!("{what} ").repeat(depth), "end ".repeat(depth));
            look(&format!("(component (core module (func {body} loop end loop end)))"))
        };
        assert!(nested("block", 1_000).is_ok() && nested("loop", 5).is_ok());
        assert_eq!(nested("loop", 6), Err(Refusal::TooComplex { what: "nesting", found: 6, limit: 5 }));
    }

    /// Each is some bytes to the validator, and thousands of values to the compiler.
    #[test]
    fn values_are_counted_that_bytes_do_not_tell() {
        let hundred = "i32 ".repeat(100);
        let wide = format!("(type $t (func (param {hundred}) (result {hundred})))");
        let passed = "local.get 0 ".repeat(100);
        let alive = "i32.load local.get 0 ".repeat(100) + &"if end local.get 0 ".repeat(200);
        for body in [
            format!("(func (local {}))", "i32 ".repeat(10_001)),
            format!(r#"{wide} (import "" "" (func $f (type $t))) (func (type $t) {passed} {})"#, "call $f ".repeat(50)),
            format!("{wide} (func (type $t) {passed} {})", "local.get 0 br_if 0 ".repeat(50)),
            format!("{wide} (func (type $t) {passed} local.get 0 br_table {})", "0 ".repeat(50)),
            format!("(memory 1) (func (param i32) local.get 0 {alive} drop)"),
            "(table 10001 funcref)".to_owned(),
            "(memory 1)".to_owned(),
        ] {
            let refused = look(&format!("(component (core module {body}))"));
            assert!(matches!(refused, Err(Refusal::TooComplex { what: "values", .. })), "{body}: {refused:?}");
        }
        let types = look(&format!("(component (core module {}))", "(type (func))".repeat(11)));
        assert_eq!(types, Err(Refusal::TooComplex { what: "functions", found: 11, limit: 10 }));
        let harmless = look("(component (core module (func (param i32) (local i32 i32) (if (local.get 0) (then)))))");
        assert!(harmless.is_ok(), "{harmless:?}");
    }

    #[test]
    fn parts_are_the_components_with_code() {
        let code = "(core module $m) (core instance (instantiate $m)) (core instance (instantiate $m))";
        assert_eq!(look("(component)").unwrap().parts, 1);
        assert_eq!(look(&format!("(component {code})")).unwrap().parts, 1);
        let composed = format!(
            "(component $c {code}) (component $d) (instance (instantiate $c)) (instance (instantiate $c)) (instance (instantiate $d))"
        );
        assert_eq!(look(&format!("(component {composed})")).unwrap().parts, 2);
        assert_eq!(look(&format!("(component {composed} {code})")).unwrap().parts, 3);
    }

    /// Without its bound, this test ends the process.
    #[test]
    fn deeply_nested_types_do_not_overflow_the_stack() {
        for depth in [100, 250, 10_000, 300_000] {
            let mut bytes = b"\0asm\x0d\0\x01\0\x07".to_vec();
            let body: Vec<u8> = std::iter::once(1)
                .chain(std::iter::repeat_n([0x42u8, 1, 1], depth).flatten())
                .chain([0x42, 0])
                .collect();
            let mut length = body.len();
            while length >= 0x80 {
                bytes.push((length as u8 & 0x7f) | 0x80);
                length >>= 7;
            }
            bytes.push(length as u8);
            bytes.extend(body);
            let refused = inspect(&bytes, Bounds { bytes: 1 << 24, ..BOUNDS });
            assert_eq!(refused.is_ok(), depth < 250, "{depth} levels: {refused:?}");
        }
    }
}
