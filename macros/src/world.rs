//! The model of a world: which interfaces it imports and exports, where the generator puts them, and what is refused.
//!
//! `wasi:` imports are isopod's own business: they are taken out before anything is generated. Where an interface of
//! the user's names a plain type of theirs, the interface stays, without functions, for its types.

use crate::input::Source;
use heck::{ToSnakeCase, ToUpperCamelCase};
use proc_macro2::{Ident, Span, TokenStream};
use quote::format_ident;
use std::collections::{HashMap, HashSet};
use syn::{Error, Result};
use wit_parser::{
    Function, Handle, InterfaceId, Resolve, Type, TypeDefKind, TypeId, TypeOwner, WorldId, WorldItem, WorldKey,
};

pub(crate) struct World {
    pub resolve: Resolve,
    pub id: WorldId,
    pub isopod: TokenStream,
    /// What the user's imports have to provide, by the names the linker knows.
    provided: Vec<String>,
}

/// What is generated for; made after the generator has run, since that rewrites the ids.
pub(crate) struct Model<'a> {
    pub resolve: &'a Resolve,
    pub isopod: &'a TokenStream,
    /// The world's name in kebab case, in camel case, and in full.
    pub name: String,
    pub camel: Ident,
    pub full_name: String,
    pub provided: &'a [String],
    pub imports: Vec<Group<'a>>,
    pub exports: Vec<Group<'a>>,
    pub places: HashMap<InterfaceId, Place>,
    pub world_types: Vec<TypeId>,
}

/// Where the generator puts an interface.
pub(crate) struct Place {
    pub path: Vec<String>,
    pub imported: bool,
}

/// An interface, or the root of the world: functions that are linked, or found, together.
pub(crate) struct Group<'a> {
    /// `ns:pkg/iface@1.0.0`, or the plain name of an interface written inside the world. None at the root.
    pub key: Option<String>,
    pub path: Vec<String>,
    /// `iface`, and `ns_pkg_iface` where that is not enough. Empty at the root.
    pub short: String,
    pub long: String,
    pub docs: Option<&'a str>,
    pub functions: Vec<&'a Function>,
    pub resources: Vec<TypeId>,
}

impl World {
    pub(crate) fn new(source: Source, isopod: TokenStream) -> Result<World> {
        let mut world = World { resolve: source.resolve, id: source.world, isopod, provided: Vec::new() };
        world.check()?;
        world.trim_wasi();
        Ok(world)
    }

    /// All refusals at once.
    fn check(&mut self) -> Result<()> {
        let mut check = Check { resolve: &self.resolve, errors: None, seen: HashSet::new() };
        let world = &self.resolve.worlds[self.id];
        for (key, item) in &world.imports {
            let name = self.resolve.name_world_key(key);
            match item {
                WorldItem::Interface { .. } if is_wasi(&self.resolve, key) => {}
                WorldItem::Interface { id, .. } => {
                    if matches!(key, WorldKey::Name(_)) && self.resolve.interfaces[*id].name.is_some() {
                        check.refuse(format!(
                            "`{name}` imports an interface under another name; import the interface by its own name"
                        ));
                    }
                    check.interface(*id, &name, true);
                    self.provided.push(name);
                }
                WorldItem::Function(function) => {
                    check.function(function, &world.name, true);
                    self.provided.push(name);
                }
                WorldItem::Type { id, .. } => {
                    check.definition(*id, &world.name);
                    if matches!(self.resolve.types[*id].kind, TypeDefKind::Resource) {
                        self.provided.push(name);
                    }
                }
            }
        }
        for (key, item) in &world.exports {
            match item {
                WorldItem::Interface { id, .. } => check.interface(*id, &self.resolve.name_world_key(key), false),
                WorldItem::Function(function) => check.function(function, &world.name, false),
                WorldItem::Type { id, .. } => check.definition(*id, &world.name),
            }
        }
        check.errors.map_or(Ok(()), Err)
    }

    fn trim_wasi(&mut self) {
        let resolve = &self.resolve;
        let world = &resolve.worlds[self.id];
        let mut kept = HashSet::new();
        let mut todo = Vec::new();
        for (key, item) in world.imports.iter().filter(|(key, _)| !is_wasi(resolve, key)).chain(&world.exports) {
            match (key, item) {
                (_, WorldItem::Interface { id, .. }) => todo.push(*id),
                (_, WorldItem::Function(function)) => {
                    function.parameter_and_result_types().for_each(|ty| owners(resolve, ty, &mut todo))
                }
                (_, WorldItem::Type { id, .. }) => owners(resolve, Type::Id(*id), &mut todo),
            }
        }
        while let Some(id) = todo.pop() {
            if kept.insert(id) {
                let interface = &resolve.interfaces[id];
                interface.types.values().for_each(|id| owners(resolve, Type::Id(*id), &mut todo));
                let types = interface.functions.values().flat_map(Function::parameter_and_result_types);
                types.for_each(|ty| owners(resolve, ty, &mut todo));
            }
        }
        let wasi: Vec<(WorldKey, InterfaceId)> = (world.imports.iter())
            .filter_map(|(key, item)| match item {
                WorldItem::Interface { id, .. } if is_wasi(resolve, key) => Some((key.clone(), *id)),
                _ => None,
            })
            .collect();
        let gone: HashSet<InterfaceId> = wasi.iter().map(|(_, id)| *id).filter(|id| !kept.contains(id)).collect();
        let exported: HashSet<InterfaceId> = (world.exports.values())
            .filter_map(|item| if let WorldItem::Interface { id, .. } = item { Some(*id) } else { None })
            .collect();
        for (_, id) in wasi {
            if kept.contains(&id) && !exported.contains(&id) {
                self.resolve.interfaces[id].functions.clear();
            }
        }
        let imports = &mut self.resolve.worlds[self.id].imports;
        imports.retain(|_, item| !matches!(item, WorldItem::Interface { id, .. } if gone.contains(id)));
    }

    /// The model, once the generator has run.
    pub(crate) fn model(&self) -> Result<Model<'_>> {
        let resolve = &self.resolve;
        let world = &resolve.worlds[self.id];
        let mut places = HashMap::new();
        let mut imports = vec![Group::root()];
        let mut exports = vec![Group::root()];
        let mut world_types = Vec::new();
        for (items, imported, groups) in [(&world.imports, true, &mut imports), (&world.exports, false, &mut exports)] {
            for (key, item) in items {
                match item {
                    WorldItem::Function(function) => groups[0].functions.push(function),
                    WorldItem::Type { id, .. } => {
                        world_types.push(*id);
                        if matches!(resolve.types[*id].kind, TypeDefKind::Resource) {
                            groups[0].resources.push(*id);
                        }
                    }
                    WorldItem::Interface { id, .. } => {
                        let group = self.group(key, *id, imported);
                        places.insert(*id, Place { path: group.path.clone(), imported });
                        // What is left of `wasi:` here, is left for its types.
                        if !(imported && is_wasi(resolve, key)) {
                            groups.push(group);
                        }
                    }
                }
            }
        }
        let full_name = match world.package {
            Some(package) => {
                let package = &resolve.packages[package].name;
                format!("{}:{}/{}", package.namespace, package.name, world.name)
            }
            None => world.name.clone(),
        };
        let camel = format_ident!(
            "{}",
            if world.name == "host" { "Host_".to_owned() } else { world.name.to_upper_camel_case() }
        );
        Ok(Model {
            resolve,
            isopod: &self.isopod,
            name: world.name.clone(),
            camel,
            full_name,
            provided: &self.provided,
            imports,
            exports,
            places,
            world_types,
        })
    }

    fn group(&self, key: &WorldKey, id: InterfaceId, imported: bool) -> Group<'_> {
        let resolve = &self.resolve;
        let interface = &resolve.interfaces[id];
        let mut path = Vec::new();
        if !imported {
            path.push("exports".to_owned());
        }
        let (short, long) = match (key, &interface.name, interface.package) {
            (WorldKey::Interface(_), Some(name), Some(package)) => {
                let namespace = resolve.packages[package].name.namespace.to_snake_case();
                let module = package_module(resolve, package);
                let (name, long) = (snake(name), format!("{namespace}_{module}_{}", snake(name)));
                path.extend([namespace, module, name.clone()]);
                (name, long)
            }
            _ => {
                let name = snake(&resolve.name_world_key(key));
                path.push(name.clone());
                (name.clone(), name)
            }
        };
        Group {
            key: Some(resolve.name_world_key(key)),
            path,
            short,
            long,
            docs: interface.docs.contents.as_deref(),
            functions: interface.functions.values().collect(),
            resources: (interface.types.values().copied())
                .filter(|id| matches!(resolve.types[*id].kind, TypeDefKind::Resource))
                .collect(),
        }
    }
}

impl Group<'_> {
    fn root() -> Self {
        Group {
            key: None,
            path: Vec::new(),
            short: String::new(),
            long: String::new(),
            docs: None,
            functions: Vec::new(),
            resources: Vec::new(),
        }
    }

    /// A function's name in errors, as dynamic calls write it.
    pub(crate) fn label(&self, function: &Function) -> String {
        match &self.key {
            Some(key) => format!("{key}#{}", function.name),
            None => function.name.clone(),
        }
    }
}

/// Mirrors the generator: the version is in a package's module only where there are several.
fn package_module(resolve: &Resolve, id: wit_parser::PackageId) -> String {
    let name = &resolve.packages[id].name;
    let same = resolve.packages.iter().filter(|(_, p)| p.name.namespace == name.namespace && p.name.name == name.name);
    let base = name.name.to_snake_case();
    match &name.version {
        Some(version) if same.count() > 1 => {
            format!("{base}{}", version.to_string().replace(['.', '-', '+'], "_").to_snake_case())
        }
        _ => base,
    }
}

fn is_wasi(resolve: &Resolve, key: &WorldKey) -> bool {
    match key {
        WorldKey::Interface(id) => in_wasi(resolve, *id),
        WorldKey::Name(_) => false,
    }
}

fn in_wasi(resolve: &Resolve, id: InterfaceId) -> bool {
    resolve.interfaces[id].package.is_some_and(|package| resolve.packages[package].name.namespace == "wasi")
}

/// The types that a type is made of, one step down.
pub(crate) fn parts(kind: &TypeDefKind) -> Vec<Type> {
    match kind {
        TypeDefKind::Record(record) => record.fields.iter().map(|field| field.ty).collect(),
        TypeDefKind::Tuple(tuple) => tuple.types.clone(),
        TypeDefKind::Variant(variant) => variant.cases.iter().filter_map(|case| case.ty).collect(),
        TypeDefKind::Option(ty)
        | TypeDefKind::List(ty)
        | TypeDefKind::Type(ty)
        | TypeDefKind::FixedLengthList(ty, _) => vec![*ty],
        TypeDefKind::Result(result) => result.ok.into_iter().chain(result.err).collect(),
        TypeDefKind::Map(key, value) => vec![*key, *value],
        TypeDefKind::Future(ty) | TypeDefKind::Stream(ty) => ty.iter().copied().collect(),
        TypeDefKind::Handle(Handle::Own(id) | Handle::Borrow(id)) => vec![Type::Id(*id)],
        TypeDefKind::Resource | TypeDefKind::Flags(_) | TypeDefKind::Enum(_) | TypeDefKind::Unknown => Vec::new(),
    }
}

/// The interfaces whose types a type names.
fn owners(resolve: &Resolve, ty: Type, found: &mut Vec<InterfaceId>) {
    if let Type::Id(id) = ty {
        if let TypeOwner::Interface(owner) = resolve.types[id].owner {
            found.push(owner);
        }
        parts(&resolve.types[id].kind).into_iter().for_each(|part| owners(resolve, part, found));
    }
}

/// Follows `use` and `type a = b` to the definition.
pub(crate) fn definition(resolve: &Resolve, mut id: TypeId) -> TypeId {
    while let TypeDefKind::Type(Type::Id(next)) = resolve.types[id].kind {
        id = next;
    }
    id
}

pub(crate) fn has_resource(resolve: &Resolve, ty: &Type) -> bool {
    let Type::Id(id) = ty else { return false };
    match &resolve.types[*id].kind {
        TypeDefKind::Handle(_) => true,
        kind => parts(kind).iter().any(|part| has_resource(resolve, part)),
    }
}

/// Looks for what cannot be had.
struct Check<'a> {
    resolve: &'a Resolve,
    errors: Option<Error>,
    seen: HashSet<TypeId>,
}

impl Check<'_> {
    fn refuse(&mut self, text: String) {
        let error = Error::new(Span::call_site(), text);
        match &mut self.errors {
            Some(errors) => errors.combine(error),
            None => self.errors = Some(error),
        }
    }

    fn interface(&mut self, id: InterfaceId, name: &str, imported: bool) {
        let interface = &self.resolve.interfaces[id];
        for id in interface.types.values() {
            self.definition(*id, name);
        }
        for function in interface.functions.values() {
            self.function(function, name, imported);
        }
    }

    fn function(&mut self, function: &Function, place: &str, imported: bool) {
        let name = &function.name;
        if imported && function.kind.is_async() {
            self.refuse(format!(
                "the imported function `{name}` of `{place}` is an `async func`, which isopod cannot provide yet; declare it as \
                 `func`: its Rust side is async all the same"
            ));
        }
        let is_drop = function.kind.resource().is_some() && function.item_name() == "drop";
        if imported && is_drop {
            self.refuse(format!(
                "the imported function `{name}` of `{place}` is named like the resource's destructor; name it otherwise"
            ));
        }
        for ty in function.parameter_and_result_types() {
            self.ty(ty, &format!("the function `{name}` of `{place}`"));
        }
    }

    fn definition(&mut self, id: TypeId, place: &str) {
        if !self.seen.insert(id) {
            return;
        }
        let def = &self.resolve.types[id];
        let name = def.name.as_deref().unwrap_or("?");
        let described = format!("the {} `{name}` of `{place}`", def.kind.as_str());
        let held: Option<(&str, &str)> = match &def.kind {
            TypeDefKind::Record(record) => record
                .fields
                .iter()
                .find(|field| has_resource(self.resolve, &field.ty))
                .map(|field| ("field", &*field.name)),
            TypeDefKind::Variant(variant) => (variant.cases.iter())
                .find(|case| case.ty.is_some_and(|ty| has_resource(self.resolve, &ty)))
                .map(|case| ("case", &*case.name)),
            _ => None,
        };
        if let Some((what, part)) = held {
            self.refuse(format!(
                "{described} holds a resource in its {what} `{part}`, which `world!` cannot make a Rust type of; pass the resource \
                 beside it, as a parameter, a result, or in a `tuple`, `option`, `list` or `result`"
            ));
            return;
        }
        for part in parts(&def.kind) {
            self.ty(part, &described);
        }
    }

    fn ty(&mut self, ty: Type, place: &str) {
        let id = match ty {
            Type::ErrorContext => {
                return self.refuse(format!("{place} uses `error-context`, which isopod does not run; use a record"));
            }
            Type::Id(id) => id,
            _ => return,
        };
        let def = &self.resolve.types[id];
        match &def.kind {
            TypeDefKind::Stream(_) | TypeDefKind::Future(_) => {
                let kind = def.kind.as_str();
                let text = format!(
                    "{place} uses a `{kind}`, which isopod cannot pass yet; pass a `list`, or a resource with a method that gives the next item"
                );
                return self.refuse(text);
            }
            TypeDefKind::Map(..) | TypeDefKind::FixedLengthList(..) => {
                let kind = def.kind.as_str();
                return self.refuse(format!("{place} uses a `{kind}`, which isopod does not run; use a `list`"));
            }
            TypeDefKind::Tuple(tuple) if tuple.types.len() > 12 => {
                return self.refuse(format!(
                    "{place} uses a tuple of {}, more than the 12 that Rust's own traits know; use a record",
                    tuple.types.len()
                ));
            }
            TypeDefKind::Handle(Handle::Own(resource) | Handle::Borrow(resource)) => {
                let resource = definition(self.resolve, *resource);
                let def = &self.resolve.types[resource];
                if let TypeOwner::Interface(owner) = def.owner
                    && in_wasi(self.resolve, owner)
                {
                    let interface = self.resolve.id_of(owner).unwrap_or_default();
                    let name = def.name.as_deref().unwrap_or("?");
                    return self.refuse(format!(
                        "{place} uses the resource `{name}` of `{interface}`, which belongs to isopod and cannot be passed by your own \
                         code; pass its content, such as a `list<u8>`. Components that export `wasi:http` or `wasi:cli` interfaces need \
                         no `world!`: see `Function::http` and `Function::command`"
                    ));
                }
                return;
            }
            _ => {}
        }
        if def.name.is_some() && matches!(def.owner, TypeOwner::Interface(_) | TypeOwner::World(_)) {
            let owner = match def.owner {
                TypeOwner::Interface(owner) => self.resolve.id_of(owner).unwrap_or_else(|| place.to_owned()),
                _ => place.to_owned(),
            };
            self.definition(id, &owner);
        } else {
            parts(&def.kind).into_iter().for_each(|part| self.ty(part, place));
        }
    }
}

/// A WIT name as a Rust identifier in snake case; keywords get an underscore, as the generator gives them.
pub(crate) fn snake(name: &str) -> String {
    const KEYWORDS: &[&str] = &[
        "as", "break", "const", "continue", "crate", "else", "enum", "extern", "false", "fn", "for", "if", "impl",
        "in", "let", "loop", "match", "mod", "move", "mut", "pub", "ref", "return", "self", "static", "struct",
        "super", "trait", "true", "type", "unsafe", "use", "where", "while", "async", "await", "dyn", "abstract",
        "become", "box", "do", "final", "macro", "override", "priv", "typeof", "unsized", "virtual", "yield", "try",
        "gen",
    ];
    if KEYWORDS.contains(&name) { format!("{name}_") } else { name.to_snake_case() }
}

pub(crate) fn snake_ident(name: &str) -> Ident {
    format_ident!("{}", snake(name))
}

pub(crate) fn camel_ident(name: &str) -> Ident {
    format_ident!("{}", name.to_upper_camel_case())
}
