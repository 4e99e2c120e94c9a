//! The walk over a component's sections: counts its parts with their multiplicity, and what is in them.

use super::effort::Signatures;
use super::{Bounds, Facts, Refusal, within};
use wasmparser::{
    CanonicalFunction, CanonicalOption, ComponentAlias, ComponentDefinedType, ComponentExternalKind, ComponentInstance,
    ComponentOuterAliasKind, ComponentType, ComponentTypeDeclaration, ComponentTypeRef, ConstExpr, DataKind,
    ElementItems, ElementKind, Encoding, Instance, InstanceTypeDeclaration, Operator, Payload, TableInit, TypeBounds,
};

/// A memory's image takes up to a MiB even if there is next to nothing in it, which is as much as this many values.
const IMAGE: u64 = 1 << 18;

/// What was seen so far. Sections come in order, nested ones between their header and their end.
pub(super) struct Survey {
    bounds: Bounds,
    pub(super) facts: Facts,
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
    /// Core functions, imports and globals.
    defined: u64,
    /// Core types.
    types: u64,
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
    types: Vec<Type>,
    instances: Vec<u64>,
}

#[derive(Clone, Copy)]
struct Type {
    weight: u64,
    /// Whether it is the type of a function. Among what a component exports, wasmtime does not tell it from one.
    function: bool,
}

impl Type {
    fn new(weight: u64) -> Type {
        Type { weight, function: false }
    }

    /// A type that has a name for others to see.
    fn named(self, name: &str) -> Result<Type, Refusal> {
        let text =
            || format!("\"{name}\" is the type of a function, which is not for others; name the function itself");
        if self.function { Err(Refusal::Invalid(text())) } else { Ok(self) }
    }
}

impl Survey {
    pub(super) fn new(bounds: Bounds) -> Survey {
        Survey {
            bounds,
            facts: Facts::default(),
            scopes: Vec::new(),
            spaces: Vec::new(),
            dearest: Cost::default(),
            heaviest: 1,
            weight: 0,
            defined: 0,
            types: 0,
        }
    }

    /// Takes up the next section.
    pub(super) fn visit(&mut self, payload: Payload<'_>) -> Result<(), Refusal> {
        match payload {
            Payload::Version { encoding, .. } => {
                self.nest(self.scopes.len() as u64)?;
                self.scopes.push(Scope { module: encoding == Encoding::Module, ..Scope::default() });
                self.spaces.push(Space::default());
            }
            Payload::End(_) => self.leave()?,
            Payload::CodeSectionStart { count, .. } => self.define(count)?,
            Payload::CodeSectionEntry(body) => {
                let Some(Scope { signatures, .. }) = self.scopes.last_mut() else { return Ok(()) };
                let effort = signatures.body(&body)?;
                self.nest(effort.loops)?;
                self.take(effort.values)?;
            }
            // Code is compiled for each type, as it is for a function.
            Payload::TypeSection(section) => {
                for group in section {
                    for ty in group?.into_types() {
                        self.types += 1;
                        self.count(self.types)?;
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
                    let table = table?;
                    self.take(table.ty.initial)?;
                    if let TableInit::Expr(init) = table.init {
                        self.begins_with(&init)?;
                    }
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
            Payload::GlobalSection(section) => {
                self.define(section.count())?;
                for global in section {
                    self.begins_with(&global?.init_expr)?;
                }
            }
            Payload::StartSection { .. } => self.facts.starts = true,
            Payload::ElementSection(section) => {
                for element in section {
                    let element = element?;
                    if let ElementKind::Active { offset_expr, .. } = element.kind {
                        self.begins_with(&offset_expr)?;
                    }
                    if let ElementItems::Expressions(_, items) = element.items {
                        for item in items {
                            self.begins_with(&item?)?;
                        }
                    }
                }
            }
            Payload::DataSection(section) => {
                for data in section {
                    let data = data?;
                    self.facts.data = self.facts.data.saturating_add(data.data.len() as u64);
                    if let DataKind::Active { offset_expr, .. } = data.kind {
                        self.begins_with(&offset_expr)?;
                    }
                }
            }
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
                        ComponentInstance::FromExports(exports) => {
                            let mut weight: u64 = 1;
                            for export in exports {
                                weight = weight.saturating_add(match export.kind {
                                    ComponentExternalKind::Instance => self.instance(export.index),
                                    ComponentExternalKind::Type => {
                                        self.ty(0, export.index).named(export.name.name).map(|_| 1)?
                                    }
                                    _ => 1,
                                });
                            }
                            weight
                        }
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
                    let weight = self.declare(import.name.name, import.ty)?;
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
                            let ty = self.ty(0, export.index).named(export.name.name)?;
                            weight = ty.weight;
                            self.space().types.push(ty);
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
                    self.define_type(&ty)?;
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
                self.facts.parts = cost.parts.max(1).try_into().unwrap_or(u32::MAX);
            }
        }
        Ok(())
    }

    /// Takes up what something begins with. More than a constant is worked out by code, as an instance starts.
    fn begins_with(&mut self, init: &ConstExpr<'_>) -> Result<(), Refusal> {
        let mut operators = init.get_operators_reader();
        let constant = matches!(
            operators.read()?,
            Operator::I32Const { .. }
                | Operator::I64Const { .. }
                | Operator::F32Const { .. }
                | Operator::F64Const { .. }
                | Operator::RefFunc { .. }
                | Operator::RefNull { .. }
        );
        self.facts.starts |= !(constant && matches!(operators.read()?, Operator::End));
        Ok(())
    }

    fn define(&mut self, count: u32) -> Result<(), Refusal> {
        self.defined = self.defined.saturating_add(count.into());
        self.count(self.defined)
    }

    fn count(&mut self, functions: u64) -> Result<(), Refusal> {
        self.facts.functions = self.facts.functions.max(functions);
        within("functions", functions, self.bounds.functions.into())
    }

    fn nest(&mut self, depth: u64) -> Result<(), Refusal> {
        self.facts.nesting = self.facts.nesting.max(depth);
        within("nesting", depth, self.bounds.nesting.into())
    }

    fn take(&mut self, values: u64) -> Result<(), Refusal> {
        self.facts.values = self.facts.values.saturating_add(values);
        within("values", self.facts.values, self.bounds.values)
    }

    fn spend(&mut self, more: Cost) -> Result<(), Refusal> {
        let Some(Scope { cost, .. }) = self.scopes.last_mut() else { return Ok(()) };
        *cost = cost.zip(more, u64::saturating_add);
        self.facts.instances = self.facts.instances.max(cost.instances);
        self.facts.adapters = self.facts.adapters.max(cost.adapters);
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
        let scope =
            self.scopes.len().checked_sub((outer as usize).saturating_add(1)).and_then(|at| self.scopes.get(at));
        scope.and_then(|scope| scope.components.get(index as usize)).copied().unwrap_or(self.dearest)
    }

    /// Counts an instance's exports among the component's functions, which is what they cost like.
    fn weigh(&mut self, weight: u64) -> Result<(), Refusal> {
        self.heaviest = self.heaviest.max(weight);
        self.weight = self.weight.saturating_add(weight);
        self.count(self.weight)
    }

    /// What is being filled.
    fn space(&mut self) -> &mut Space {
        if self.spaces.is_empty() {
            self.spaces.push(Space::default());
        }
        let last = self.spaces.len() - 1;
        &mut self.spaces[last]
    }

    /// The type with that index, `outer` spaces up.
    fn ty(&self, outer: u32, index: u32) -> Type {
        let space =
            self.spaces.len().checked_sub((outer as usize).saturating_add(1)).and_then(|at| self.spaces.get(at));
        space.and_then(|space| space.types.get(index as usize)).copied().unwrap_or(Type::new(self.heaviest))
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
                let ty = Type::new(self.instance(instance_index));
                self.space().types.push(ty);
            }
            ComponentAlias::Outer { kind: ComponentOuterAliasKind::Type, count, index } => {
                let ty = self.ty(count, index);
                self.space().types.push(ty);
            }
            _ => {}
        }
    }

    /// Takes up an import, or an export in a type, and gives its weight.
    fn declare(&mut self, name: &str, ty: ComponentTypeRef) -> Result<u64, Refusal> {
        Ok(match ty {
            ComponentTypeRef::Instance(index) => {
                let weight = self.ty(0, index).weight;
                self.space().instances.push(weight);
                weight
            }
            ComponentTypeRef::Component(index) => self.ty(0, index).weight,
            ComponentTypeRef::Type(bounds) => {
                let ty = match bounds {
                    TypeBounds::Eq(index) => self.ty(0, index).named(name)?,
                    TypeBounds::SubResource => Type::new(1),
                };
                self.space().types.push(ty);
                1
            }
            ComponentTypeRef::Module(_) | ComponentTypeRef::Func(_) | ComponentTypeRef::Value(_) => 1,
        })
    }

    /// Takes up a type. As deep as the type, which [`bound_type_nesting`](super::bound_type_nesting) bounds.
    fn define_type(&mut self, ty: &ComponentType<'_>) -> Result<(), Refusal> {
        let mut weight: u64 = 1;
        self.spaces.push(Space::default());
        match ty {
            ComponentType::Instance(declarations) => {
                for declaration in declarations {
                    match declaration {
                        InstanceTypeDeclaration::Type(ty) => self.define_type(ty)?,
                        InstanceTypeDeclaration::Alias(alias) => self.alias(alias),
                        InstanceTypeDeclaration::Export { name, ty } => {
                            weight = weight.saturating_add(self.declare(name.name, *ty)?)
                        }
                        InstanceTypeDeclaration::CoreType(_) => {}
                    }
                }
            }
            ComponentType::Component(declarations) => {
                for declaration in declarations {
                    match declaration {
                        ComponentTypeDeclaration::Type(ty) => self.define_type(ty)?,
                        ComponentTypeDeclaration::Alias(alias) => self.alias(alias),
                        ComponentTypeDeclaration::Export { name, ty } => {
                            weight = weight.saturating_add(self.declare(name.name, *ty)?)
                        }
                        ComponentTypeDeclaration::Import(import) => {
                            weight = weight.saturating_add(self.declare(import.name.name, import.ty)?)
                        }
                        ComponentTypeDeclaration::CoreType(_) => {}
                    }
                }
            }
            ComponentType::Defined(_) | ComponentType::Func(_) | ComponentType::Resource { .. } => {}
        }
        self.spaces.pop();
        self.heaviest = self.heaviest.max(weight);
        self.space().types.push(Type { weight, function: matches!(ty, ComponentType::Func(_)) });
        Ok(())
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
