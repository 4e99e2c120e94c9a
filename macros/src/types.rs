//! WIT types as Rust types, in the user's words and in wasmtime's, and the way from one to the other.
//!
//! They differ in handles only: the user has `isopod::Resource<Cursor>` and `Counter` where wasmtime has
//! `Resource<Cursor>` and `ResourceAny`. A type without handles is the same on both sides and is passed on as it is.

use crate::world::{Model, camel_ident, definition, has_resource, snake_ident};
use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};
use wit_parser::{Handle, Resolve, Type, TypeDefKind, TypeId, TypeOwner};

/// Whose words.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Face {
    /// A parameter or result of a host trait.
    Host,
    /// A parameter or result of an exported function, for its caller.
    Caller,
    Wasmtime,
}

/// Whether strings, lists and what holds them are borrowed, as in the parameters of exported functions.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Mode {
    Owned,
    Borrowed,
}

/// What a handle refers to.
enum Target {
    /// A resource of the host's, and the path of its marker type.
    Host(TokenStream),
    /// A resource of the component's, and the path of its wrapper.
    Guest(TokenStream),
}

/// Prints types as seen from a module that lies `depth` below the macro's own.
#[derive(Clone, Copy)]
pub(crate) struct Types<'a> {
    model: &'a Model<'a>,
    depth: usize,
}

impl<'a> Types<'a> {
    pub(crate) fn at(model: &'a Model<'a>, depth: usize) -> Types<'a> {
        Types { model, depth }
    }

    fn resolve(&self) -> &'a Resolve {
        self.model.resolve
    }

    /// A parameter of an exported function, for its caller: borrowed where that is enough.
    pub(crate) fn parameter(&self, ty: &Type) -> TokenStream {
        let nested = has_resource(self.resolve(), ty);
        self.print(ty, Face::Caller, if nested { Mode::Owned } else { Mode::Borrowed })
    }

    pub(crate) fn result(&self, ty: Option<&Type>, face: Face) -> TokenStream {
        ty.map_or_else(|| quote!(()), |ty| self.print(ty, face, Mode::Owned))
    }

    pub(crate) fn print(&self, ty: &Type, face: Face, mode: Mode) -> TokenStream {
        let id = match ty {
            Type::Bool => return quote!(bool),
            Type::U8 => return quote!(u8),
            Type::U16 => return quote!(u16),
            Type::U32 => return quote!(u32),
            Type::U64 => return quote!(u64),
            Type::S8 => return quote!(i8),
            Type::S16 => return quote!(i16),
            Type::S32 => return quote!(i32),
            Type::S64 => return quote!(i64),
            Type::F32 => return quote!(f32),
            Type::F64 => return quote!(f64),
            Type::Char => return quote!(char),
            Type::String if mode == Mode::Borrowed => return quote!(&str),
            Type::String => return quote!(::std::string::String),
            // Refused before anything is printed.
            Type::ErrorContext => return quote!(()),
            Type::Id(id) => *id,
        };
        let def = &self.resolve().types[id];
        if def.name.is_some() && !has_resource(self.resolve(), ty) {
            let path = self.path(id);
            return if mode == Mode::Borrowed && has_list(self.resolve(), ty) { quote!(&#path) } else { path };
        }
        let inner = |ty: &Type| self.print(ty, face, mode);
        match &def.kind {
            TypeDefKind::Handle(handle) => self.handle(handle, face),
            TypeDefKind::Type(ty) => inner(ty),
            TypeDefKind::Option(ty) => {
                let ty = inner(ty);
                quote!(::core::option::Option<#ty>)
            }
            TypeDefKind::List(ty) => {
                let ty = self.print(ty, face, Mode::Owned);
                if mode == Mode::Borrowed { quote!(&[#ty]) } else { quote!(::std::vec::Vec<#ty>) }
            }
            TypeDefKind::Result(result) => {
                let ok = result.ok.as_ref().map_or_else(|| quote!(()), inner);
                let err = result.err.as_ref().map_or_else(|| quote!(()), inner);
                quote!(::core::result::Result<#ok, #err>)
            }
            TypeDefKind::Tuple(tuple) => {
                let types = tuple.types.iter().map(inner);
                quote!((#(#types,)*))
            }
            _ => self.path(id),
        }
    }

    /// The path of a named type.
    pub(crate) fn path(&self, id: TypeId) -> TokenStream {
        let def = &self.resolve().types[id];
        let name = camel_ident(def.name.as_deref().unwrap_or_default());
        let module = match def.owner {
            TypeOwner::Interface(owner) => self.model.places.get(&owner).map_or(&[][..], |place| &place.path),
            _ => &[],
        };
        let module = self.module(module);
        quote!(#module #name)
    }

    /// The path of a module of the generator's, ending in `::`.
    pub(crate) fn module(&self, path: &[String]) -> TokenStream {
        let supers = (0..self.depth).map(|_| quote!(super::));
        let names = path.iter().map(|name| format_ident!("{name}"));
        quote!(#(#supers)* #(#names::)*)
    }

    fn target(&self, handle: &Handle) -> (Target, bool) {
        let (id, owned) = match handle {
            Handle::Own(id) => (*id, true),
            Handle::Borrow(id) => (*id, false),
        };
        let id = definition(self.resolve(), id);
        let path = self.path(id);
        let exported = match self.resolve().types[id].owner {
            TypeOwner::Interface(owner) => self.model.places.get(&owner).is_some_and(|place| !place.imported),
            _ => false,
        };
        (if exported { Target::Guest(path) } else { Target::Host(path) }, owned)
    }

    fn handle(&self, handle: &Handle, face: Face) -> TokenStream {
        let isopod = self.model.isopod;
        match (self.target(handle), face) {
            ((Target::Host(path), _), Face::Wasmtime) => {
                quote!(#isopod::__private::wasmtime::component::Resource<#path>)
            }
            ((Target::Guest(_), _), Face::Wasmtime) => quote!(#isopod::__private::wasmtime::component::ResourceAny),
            ((Target::Host(path), false), Face::Caller) => quote!(&#isopod::Resource<#path>),
            ((Target::Host(path), _), _) => quote!(#isopod::Resource<#path>),
            ((Target::Guest(path), false), _) => quote!(&#path),
            ((Target::Guest(path), true), _) => path,
        }
    }

    /// From the user's owned value to wasmtime's. Handles of guest resources need a `__kept` in scope.
    pub(crate) fn lower(&self, ty: &Type, value: TokenStream) -> TokenStream {
        self.convert(ty, value, &|handle, value| {
            let isopod = self.model.isopod;
            match self.target(handle) {
                (Target::Host(path), owned) => {
                    let new = if owned { quote!(new_own) } else { quote!(new_borrow) };
                    quote!(#isopod::__private::wasmtime::component::Resource::<#path>::#new(#value.rep()))
                }
                (Target::Guest(_), true) => quote!(__kept.take(#value.0)),
                (Target::Guest(_), false) => quote!(__kept.lend(&#value.0)),
            }
        })
    }

    /// From wasmtime's owned value to the user's.
    pub(crate) fn lift(&self, ty: &Type, value: TokenStream) -> TokenStream {
        self.convert(ty, value, &|handle, value| {
            let isopod = self.model.isopod;
            match self.target(handle) {
                (Target::Host(path), _) => quote!(#isopod::Resource::<#path>::new(#value.rep())),
                (Target::Guest(path), _) => quote!(#path(__kept.adopt(#value))),
            }
        })
    }

    fn convert(
        &self,
        ty: &Type,
        value: TokenStream,
        handle: &dyn Fn(&Handle, TokenStream) -> TokenStream,
    ) -> TokenStream {
        if !has_resource(self.resolve(), ty) {
            return value;
        }
        self.walk(ty, value, &mut Names::default(), &mut |_, ty, value| match self.kind(ty) {
            Some(TypeDefKind::Handle(found)) => Some(handle(found, value)),
            _ if !has_resource(self.resolve(), ty) => Some(value),
            _ => None,
        })
    }

    /// From a reference to wasmtime's owned value to the form in which parameters are passed.
    pub(crate) fn borrow(&self, ty: &Type, value: TokenStream) -> TokenStream {
        self.walk(ty, value, &mut Names::default(), &mut |types, ty, value| {
            let isopod = types.model.isopod;
            if let Some(TypeDefKind::Handle(handle)) = types.kind(ty) {
                return Some(match types.target(handle) {
                    (Target::Guest(_), _) => quote!(*#value),
                    (Target::Host(path), owned) => {
                        let new = if owned { quote!(new_own) } else { quote!(new_borrow) };
                        quote!(#isopod::__private::wasmtime::component::Resource::<#path>::#new(#value.rep()))
                    }
                });
            }
            match ty {
                Type::String => Some(quote!(#value.as_str())),
                Type::Id(id) if types.resolve().types[*id].name.is_some() && has_list(types.resolve(), ty) => {
                    Some(value)
                }
                Type::Id(id) if matches!(types.resolve().types[*id].kind, TypeDefKind::List(_)) => {
                    Some(quote!(#value.as_slice()))
                }
                _ if !has_resource(types.resolve(), ty) && !has_list(types.resolve(), ty) => Some(quote!(*#value)),
                _ => None,
            }
        })
    }

    /// From a borrowed parameter without handles to an owned value.
    pub(crate) fn own(&self, ty: &Type, value: TokenStream) -> TokenStream {
        self.walk(ty, value, &mut Names::default(), &mut |types, ty, value| match ty {
            _ if !has_list(types.resolve(), ty) => Some(value),
            Type::Id(id) if types.resolve().types[*id].name.is_some() => {
                Some(quote!(::core::clone::Clone::clone(#value)))
            }
            Type::Id(id) if matches!(types.resolve().types[*id].kind, TypeDefKind::List(_)) => {
                Some(quote!(#value.to_vec()))
            }
            Type::Id(_) => None,
            _ => Some(quote!(::std::borrow::ToOwned::to_owned(#value))),
        })
    }

    /// The bytes of the value behind a reference. A handle counts as the four bytes that it is passed as.
    pub(crate) fn size(&self, ty: &Type, value: TokenStream) -> TokenStream {
        self.size_of(ty, value, &mut Names::default())
    }

    fn size_of(&self, ty: &Type, value: TokenStream, names: &mut Names) -> TokenStream {
        let isopod = self.model.isopod;
        if !has_resource(self.resolve(), ty) {
            return quote!(#isopod::__private::Size::size(#value));
        }
        match self.kind(ty) {
            Some(TypeDefKind::Option(ty)) => {
                let name = names.next();
                let size = self.size_of(ty, quote!(#name), names);
                quote!(match #value { ::core::option::Option::Some(#name) => 1 + #size, ::core::option::Option::None => 1 })
            }
            Some(TypeDefKind::List(ty)) => {
                let name = names.next();
                let size = self.size_of(ty, quote!(#name), names);
                quote!(#value.iter().map(|#name| ::core::cmp::max(#size, 1u64)).sum::<u64>())
            }
            Some(TypeDefKind::Result(result)) => {
                let name = names.next();
                let mut side = |ty: &Option<Type>| match ty {
                    Some(ty) => self.size_of(ty, quote!(#name), names),
                    None => quote!(0),
                };
                let (ok, err) = (side(&result.ok), side(&result.err));
                quote!(match #value { ::core::result::Result::Ok(#name) => 1 + #ok, ::core::result::Result::Err(#name) => 1 + #err })
            }
            Some(TypeDefKind::Tuple(tuple)) => {
                let fields: Vec<Ident> = tuple.types.iter().map(|_| names.next()).collect();
                let sizes = tuple.types.iter().zip(&fields).map(|(ty, name)| self.size_of(ty, quote!(#name), names));
                let sizes: Vec<TokenStream> = sizes.collect();
                quote!({ let (#(#fields,)*) = #value; 0 #(+ #sizes)* })
            }
            _ => quote!(4u64),
        }
    }

    /// A type's kind behind aliases.
    fn kind(&self, ty: &Type) -> Option<&'a TypeDefKind> {
        let Type::Id(id) = ty else { return None };
        Some(&self.resolve().types[definition(self.resolve(), *id)].kind)
    }

    /// Rebuilds a value: `leaf` answers for the types it wants to convert itself, the others are taken apart.
    fn walk(
        &self,
        ty: &Type,
        value: TokenStream,
        names: &mut Names,
        leaf: &mut dyn FnMut(&Types<'a>, &Type, TokenStream) -> Option<TokenStream>,
    ) -> TokenStream {
        if let Some(done) = leaf(self, ty, value.clone()) {
            return done;
        }
        match self.kind(ty) {
            Some(TypeDefKind::Option(ty)) => {
                let name = names.next();
                let some = self.walk(ty, quote!(#name), names, leaf);
                quote!(match #value {
                    ::core::option::Option::Some(#name) => ::core::option::Option::Some(#some),
                    ::core::option::Option::None => ::core::option::Option::None,
                })
            }
            Some(TypeDefKind::List(ty)) => {
                let name = names.next();
                let item = self.walk(ty, quote!(#name), names, leaf);
                quote!(#value.into_iter().map(|#name| #item).collect::<::std::vec::Vec<_>>())
            }
            Some(TypeDefKind::Result(result)) => {
                let name = names.next();
                let mut side = |ty: &Option<Type>| match ty {
                    Some(ty) => self.walk(ty, quote!(#name), names, leaf),
                    None => quote!(()),
                };
                let (ok, err) = (side(&result.ok), side(&result.err));
                quote!(match #value {
                    ::core::result::Result::Ok(#name) => ::core::result::Result::Ok(#ok),
                    ::core::result::Result::Err(#name) => ::core::result::Result::Err(#err),
                })
            }
            Some(TypeDefKind::Tuple(tuple)) => {
                let fields: Vec<Ident> = tuple.types.iter().map(|_| names.next()).collect();
                let values: Vec<TokenStream> = tuple
                    .types
                    .iter()
                    .zip(&fields)
                    .map(|(ty, name)| self.walk(ty, quote!(#name), names, leaf))
                    .collect();
                quote!({ let (#(#fields,)*) = #value; (#(#values,)*) })
            }
            _ => value,
        }
    }
}

/// Fresh names for what a conversion takes apart.
#[derive(Default)]
struct Names(usize);

impl Names {
    fn next(&mut self) -> Ident {
        self.0 += 1;
        format_ident!("__v{}", self.0)
    }
}

/// Whether a type holds a string or a list, by the generator's rule for what is borrowed.
fn has_list(resolve: &Resolve, ty: &Type) -> bool {
    match ty {
        Type::String => true,
        Type::Id(id) => match &resolve.types[*id].kind {
            TypeDefKind::List(_) => true,
            TypeDefKind::Handle(_) => false,
            kind => crate::world::parts(kind).iter().any(|part| has_list(resolve, part)),
        },
        _ => false,
    }
}

/// `Size` for every type that the world defines: what limits on input and output count.
pub(crate) fn sizes(model: &Model<'_>) -> TokenStream {
    let types = Types::at(model, 0);
    let of_interfaces = model.places.keys().flat_map(|id| model.resolve.interfaces[*id].types.values());
    let mut ids: Vec<TypeId> = of_interfaces.chain(&model.world_types).copied().collect();
    ids.sort_by_key(|id| id.index());
    let impls = ids.into_iter().filter_map(|id| size(&types, id));
    quote! {
        /// The sum, if all have one.
        const fn __fixed(parts: &[::core::option::Option<u64>]) -> ::core::option::Option<u64> {
            let mut sum = 0;
            let mut at = 0;
            while at < parts.len() {
                match parts[at] {
                    ::core::option::Option::Some(part) => sum += part,
                    ::core::option::Option::None => return ::core::option::Option::None,
                }
                at += 1;
            }
            ::core::option::Option::Some(sum)
        }
        #(#impls)*
    }
}

fn size(types: &Types<'_>, id: TypeId) -> Option<TokenStream> {
    if has_resource(types.resolve(), &Type::Id(id)) {
        return None;
    }
    let isopod = types.model.isopod;
    let size = quote!(#isopod::__private::Size);
    let (fixed, body) = match &types.resolve().types[id].kind {
        TypeDefKind::Record(record) => {
            let tys = record.fields.iter().map(|field| types.print(&field.ty, Face::Wasmtime, Mode::Owned));
            let fields = record.fields.iter().map(|field| snake_ident(&field.name));
            (quote!(__fixed(&[#(<#tys as #size>::FIXED),*])), quote!(0 #(+ #size::size(&self.#fields))*))
        }
        TypeDefKind::Variant(variant) => {
            let cases = variant.cases.iter().map(|case| {
                let name = camel_ident(&case.name);
                match case.ty {
                    Some(_) => quote!(Self::#name(value) => 1 + #size::size(value)),
                    None => quote!(Self::#name => 1),
                }
            });
            (quote!(::core::option::Option::None), quote!(match self { #(#cases,)* }))
        }
        TypeDefKind::Enum(_) => (quote!(::core::option::Option::Some(1)), quote!(1)),
        TypeDefKind::Flags(_) => (quote!(::core::option::Option::Some(4)), quote!(4)),
        _ => return None,
    };
    let path = types.path(id);
    Some(quote! {
        impl #size for #path {
            const FIXED: ::core::option::Option<u64> = #fixed;
            #[inline]
            fn size(&self) -> u64 { #body }
        }
    })
}
