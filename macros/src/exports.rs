//! The exports: the handle, the session, one of each for every exported interface, and the exported resources.
//!
//! A method of a session checks the arguments' size, calls, and checks the result's. A method of a handle opens a session
//! for that one call; that of an `async func` without resources makes it in an instance that it shares, where the function
//! was loaded so.

use crate::bindings::Bindings;
use crate::types::{Face, Types};
use crate::world::{Group, Model, camel_ident, definition, has_resource, snake, snake_ident};
use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote};
use std::collections::{HashMap, HashSet};
use syn::{Error, Item, Result};
use wit_parser::{Function, FunctionKind, Type, TypeDefKind, TypeId, TypeOwner};

/// Puts wrappers where the generator has aliases of wasmtime's handles.
pub(crate) fn add_resources(model: &Model<'_>, bindings: &mut Bindings) -> Result<()> {
    for group in &model.exports {
        let supers: Vec<TokenStream> = group.path.iter().map(|_| quote!(super)).collect();
        for resource in &group.resources {
            let def = &model.resolve.types[*resource];
            let name = camel_ident(def.name.as_deref().unwrap_or_default());
            let docs = def.docs.contents.iter().map(|docs| quote!(#[doc = #docs]));
            let about = "\nA resource of the component's, good within its session. Whatever is left is dropped as the session ends; \
                 [`drop`](Self::drop) does it sooner.";
            let module = bindings.module(&group.path)?;
            module.retain(|item| !matches!(item, Item::Type(alias) if alias.ident == name));
            module.push(syn::parse_quote! {
                #(#docs)*
                #[doc = #about]
                pub struct #name(pub(in #(#supers)::*) #(#supers::)* __Handle);
            });
            module.push(syn::parse_quote! {
                impl ::core::fmt::Debug for #name {
                    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                        f.debug_struct(::core::stringify!(#name)).finish_non_exhaustive()
                    }
                }
            });
        }
    }
    Ok(())
}

/// All that stands at the root of the macro's module.
pub(crate) fn handles(model: &Model<'_>) -> Result<TokenStream> {
    let accessors = accessors(model)?;
    let root = root(model, &accessors);
    let groups =
        model.exports.iter().filter(|group| group.key.is_some()).map(|group| interface(model, group, &accessors));
    let resources =
        model.exports.iter().flat_map(|group| group.resources.iter().map(move |id| resource(model, group, *id)));
    let support = support(model);
    Ok(quote! { #root #(#groups)* #(#resources)* #support })
}

/// The name by which each exported interface is reached: the short one where it is free.
fn accessors(model: &Model<'_>) -> Result<HashMap<String, String>> {
    let mut taken: HashSet<String> = HashSet::from(["session".to_owned()]);
    let mut shorts: HashMap<&str, usize> = HashMap::new();
    for group in &model.exports {
        if group.key.is_none() {
            taken.extend(group.functions.iter().map(|function| method_name(function).to_string()));
        } else {
            *shorts.entry(&group.short).or_default() += 1;
        }
    }
    let mut names = HashMap::new();
    for group in &model.exports {
        let Some(key) = &group.key else { continue };
        let free = shorts.get(&*group.short) == Some(&1) && !taken.contains(&group.short);
        let name = if free { &group.short } else { &group.long };
        if !free && !taken.insert(name.clone()) {
            let text = format!(
                "the exported interface `{key}` and another export are both called `{name}`; rename one of them"
            );
            return Err(Error::new(Span::call_site(), text));
        }
        names.insert(key.clone(), name.clone());
    }
    Ok(names)
}

fn handle_name(model: &Model<'_>, accessor: &str, what: &str) -> Ident {
    format_ident!("{}{}{}", model.camel, camel_ident(accessor), what)
}

fn root(model: &Model<'_>, accessors: &HashMap<String, String>) -> TokenStream {
    let isopod = model.isopod;
    let world = &model.camel;
    let (function, session) = (format_ident!("{world}Function"), format_ident!("{world}Session"));
    let indices = format_ident!("{world}Indices");
    let full_name = &model.full_name;
    let provided = model.provided;
    let functions = |on: On| -> TokenStream {
        let groups = model.exports.iter().filter(|group| group.key.is_none());
        groups
            .flat_map(|group| group.functions.iter().filter_map(move |function| method(model, group, function, on)))
            .collect()
    };
    let (calls, session_calls) = (functions(On::Function), functions(On::Session));
    let accessor = |what: &'static str, by_ref: TokenStream, make: TokenStream| -> TokenStream {
        let groups = model.exports.iter().filter(|group| has_functions(model, group, what == "Function"));
        groups
            .filter_map(|group| {
                let key = group.key.as_ref()?;
                let name = accessors.get(key)?;
                let (method, ty) = (snake_ident(name), handle_name(model, name, what));
                let docs = match group.docs {
                    Some(docs) => format!("The functions of `{key}`.\n\n{docs}"),
                    None => format!("The functions of `{key}`."),
                };
                Some(quote!(#[doc = #docs] pub fn #method(#by_ref) -> #ty<'_> { #ty(#make) }))
            })
            .collect()
    };
    let interfaces = accessor("Function", quote!(&self), quote!(&self.0));
    let session_interfaces = accessor("Session", quote!(&mut self), quote!(self.0.reborrow()));
    let function_docs = format!(
        "A component loaded as the world `{full_name}`: a cheap handle with a method for each export. Each call of one has a fresh instance, unless `reuse` says otherwise."
    );
    let session_docs =
        format!("One instance of the world `{full_name}`, for several calls. See [`{function}::session`].");
    quote! {
        impl #isopod::__private::World for #world {
            type Indices = #indices;
            type Handle = #function;
            const NAME: &'static str = #full_name;
            const IMPORTS: &'static [&'static str] = &[#(#provided),*];
            fn indices(
                pre: &#isopod::__private::wasmtime::component::InstancePre<#isopod::__private::State>,
            ) -> #isopod::__private::wasmtime::Result<Self::Indices> {
                #indices::new(pre)
            }
            fn load(
                indices: &Self::Indices,
                store: &mut #isopod::__private::wasmtime::Store<#isopod::__private::State>,
                instance: &#isopod::__private::wasmtime::component::Instance,
            ) -> #isopod::__private::wasmtime::Result<Self> {
                indices.load(store, instance)
            }
            fn handle(function: #isopod::__private::TypedFunction<Self>) -> Self::Handle {
                #function(function)
            }
        }

        #[doc = #function_docs]
        #[derive(Clone)]
        pub struct #function(#isopod::__private::TypedFunction<#world>);

        impl #function {
            /// Several calls in one instance, a fresh one unless `reuse` says otherwise; together they are one call, with
            /// one set of limits and one receipt.
            pub async fn session<R>(
                &self,
                body: impl ::core::ops::AsyncFnOnce(&mut #session<'_>) -> #isopod::Result<R>,
            ) -> #isopod::Result<#isopod::Reply<R>> {
                __run(&self.0, body).await
            }
            #calls
            #interfaces
        }

        impl #isopod::CallOptions for #function {
            fn options(&self) -> &#isopod::Options {
                self.0.options()
            }
            fn with_options(&self, options: #isopod::Options) -> Self {
                #function(self.0.with_options(options))
            }
        }

        /// The function behind the handle, for calls by name.
        impl ::core::convert::AsRef<#isopod::Function> for #function {
            fn as_ref(&self) -> &#isopod::Function {
                self.0.function()
            }
        }

        impl ::core::fmt::Debug for #function {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.debug_tuple(::core::stringify!(#function)).field(self.0.function()).finish()
            }
        }

        #[doc = #session_docs]
        pub struct #session<'a>(__Core<'a>);

        impl #session<'_> {
            #session_calls
            #session_interfaces
        }

        impl ::core::fmt::Debug for #session<'_> {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.debug_struct(::core::stringify!(#session)).finish_non_exhaustive()
            }
        }
    }
}

fn interface(model: &Model<'_>, group: &Group<'_>, accessors: &HashMap<String, String>) -> TokenStream {
    let isopod = model.isopod;
    let world = &model.camel;
    let Some((key, name)) = group.key.as_ref().and_then(|key| Some((key, accessors.get(key)?))) else {
        return TokenStream::new();
    };
    let handle = |what: &str, on: On, inner: TokenStream| {
        if !has_functions(model, group, what == "Function") {
            return TokenStream::new();
        }
        let ty = handle_name(model, name, what);
        let methods = group.functions.iter().filter_map(|function| method(model, group, function, on));
        let docs = format!("The functions of `{key}`.");
        quote! {
            #[doc = #docs]
            pub struct #ty<'a>(#inner);
            impl #ty<'_> { #(#methods)* }
            impl ::core::fmt::Debug for #ty<'_> {
                fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                    f.debug_struct(::core::stringify!(#ty)).finish_non_exhaustive()
                }
            }
        }
    };
    let accessor = snake_ident(name);
    let function = handle("Function", On::Interface(&accessor), quote!(&'a #isopod::__private::TypedFunction<#world>));
    let session = handle("Session", On::Session, quote!(__Core<'a>));
    quote! { #function #session }
}

fn resource(model: &Model<'_>, group: &Group<'_>, id: TypeId) -> TokenStream {
    let isopod = model.isopod;
    let session = format_ident!("{}Session", model.camel);
    let path = Types::at(model, 0).path(id);
    let functions: Vec<&Function> =
        group.functions.iter().copied().filter(|function| function.kind.resource() == Some(id)).collect();
    let constructed = functions.iter().any(|function| matches!(function.kind, FunctionKind::Constructor(_)));
    let methods = functions.iter().filter_map(|function| method(model, group, function, On::Resource { constructed }));
    quote! {
        impl #path {
            #(#methods)*
            /// Lets go of it now.
            pub async fn drop(self, session: &mut #session<'_>) -> #isopod::Result<()> {
                let __core = session.0.reborrow();
                let __handle = __core.kept.take(self.0);
                __core.kept.check()?;
                let (_, __store) = __core.port.parts();
                let __result = __handle.resource_drop_async(__store).await;
                __finish(&mut *__core.port, &mut *__core.kept, __result, |_| 0)
            }
        }
    }
}

/// Where a method is put.
#[derive(Clone, Copy)]
enum On<'a> {
    /// The handle.
    Function,
    /// The handle of an interface, reached by this accessor.
    Interface(&'a Ident),
    /// A session, or the session's handle of an interface.
    Session,
    /// An exported resource; the name `new` may be taken by its constructor.
    Resource { constructed: bool },
}

/// Whether a handle for the interface would have a method.
fn has_functions(model: &Model<'_>, group: &Group<'_>, single: bool) -> bool {
    group
        .functions
        .iter()
        .any(|function| function.kind.resource().is_none() && !(single && needs_session(model, function)))
}

/// A function that takes or gives a resource of the component's makes sense only while its instance lives.
fn needs_session(model: &Model<'_>, function: &Function) -> bool {
    function.parameter_and_result_types().any(|ty| has_guest_resource(model, &ty))
}

fn has_guest_resource(model: &Model<'_>, ty: &Type) -> bool {
    let Type::Id(id) = ty else { return false };
    match &model.resolve.types[*id].kind {
        TypeDefKind::Handle(wit_parser::Handle::Own(id) | wit_parser::Handle::Borrow(id)) => {
            let id = definition(model.resolve, *id);
            let TypeOwner::Interface(owner) = model.resolve.types[id].owner else { return false };
            model.places.get(&owner).is_some_and(|place| !place.imported)
        }
        kind => crate::world::parts(kind).iter().any(|part| has_guest_resource(model, part)),
    }
}

/// A root export's method; `session` is taken by the handle's own.
fn method_name(function: &Function) -> Ident {
    match snake(function.item_name()).as_str() {
        "session" => format_ident!("session_"),
        name => format_ident!("{name}"),
    }
}

fn method(model: &Model<'_>, group: &Group<'_>, function: &Function, on: On<'_>) -> Option<TokenStream> {
    if function.kind.resource().is_some() != matches!(on, On::Resource { .. }) {
        return None;
    }
    if matches!(on, On::Function | On::Interface(_)) && needs_session(model, function) {
        return None;
    }
    let isopod = model.isopod;
    let types = Types::at(model, 0);
    let docs: Vec<TokenStream> = function.docs.contents.iter().map(|docs| quote!(#[doc = #docs])).collect();
    let result = types.result(function.result.as_ref(), Face::Caller);
    let is_method = matches!(function.kind, FunctionKind::Method(_) | FunctionKind::AsyncMethod(_));
    let names: Vec<Ident> = (function.params.iter().enumerate())
        .map(|(at, param)| match (at, snake(&param.name).as_str()) {
            (0, _) if is_method => format_ident!("self"),
            (_, "session") if matches!(on, On::Resource { .. }) => format_ident!("session_"),
            (_, name) => format_ident!("{name}"),
        })
        .collect();
    let params: Vec<TokenStream> = (function.params.iter().zip(&names))
        .filter(|(_, name)| *name != "self")
        .map(|(param, name)| {
            let ty = types.parameter(&param.ty);
            quote!(#name: #ty)
        })
        .collect();

    let name = method_name(function);
    let session = format_ident!("{}Session", model.camel);
    match on {
        On::Function | On::Interface(_) => {
            let (inner, through) = match on {
                On::Interface(accessor) => (quote!(self.0), quote!(.#accessor())),
                _ => (quote!(&self.0), quote!()),
            };
            let among = among(model, group, function, &names, &inner);
            Some(quote! {
                #(#docs)*
                pub async fn #name(&self, #(#params),*) -> #isopod::Result<#isopod::Reply<#result>> {
                    #among
                    __run(#inner, async |__session: &mut #session<'_>| __session #through.#name(#(#names),*).await).await
                }
            })
        }
        On::Session => {
            let body = body(model, group, function, &names, quote!(self));
            Some(quote! {
                #(#docs)*
                pub async fn #name(&mut self, #(#params),*) -> #isopod::Result<#result> { #body }
            })
        }
        On::Resource { constructed } => {
            let body = body(model, group, function, &names, quote!(session));
            let name = match (&function.kind, name.to_string().as_str()) {
                (FunctionKind::Constructor(_), _) => format_ident!("new"),
                (_, "new") if constructed => format_ident!("new_"),
                (_, "drop") => format_ident!("drop_"),
                _ => snake_ident(function.item_name()),
            };
            let receiver = is_method.then(|| quote!(&self,));
            Some(quote! {
                #(#docs)*
                pub async fn #name(#receiver session: &mut #session<'_>, #(#params),*) -> #isopod::Result<#result> { #body }
            })
        }
    }
}

/// An `async func` in an instance where others may run, if the function was loaded so. What has to do with resources has an
/// instance to itself.
fn among(
    model: &Model<'_>,
    group: &Group<'_>,
    function: &Function,
    names: &[Ident],
    inner: &TokenStream,
) -> Option<TokenStream> {
    let has_resource = |ty: &Type| has_resource(model.resolve, ty);
    if !function.kind.is_async() || function.parameter_and_result_types().any(|ty| has_resource(&ty)) {
        return None;
    }
    let types = Types::at(model, 0);
    let label = group.label(function);
    let sizes = function.params.iter().zip(names).map(|(param, name)| types.size(&param.ty, quote!((&#name))));
    let args = function.params.iter().zip(names).map(|(param, name)| types.own(&param.ty, quote!(#name)));
    let world = &model.camel;
    let exports = match &group.key {
        Some(_) => {
            let accessor = format_ident!("{}", group.long);
            quote!(__world.#accessor())
        }
        None => quote!(__world),
    };
    let name = format_ident!("func_{}", heck::ToSnakeCase::to_snake_case(function.item_name()));
    let (size, value) = match &function.result {
        Some(ty) => {
            let (size, lifted) = (types.size(ty, quote!(__value)), types.lift(ty, quote!(__value)));
            (quote!(|(__value,)| #size), quote!(|(__value,)| #lifted))
        }
        None => (quote!(|()| 0), quote!(|()| ())),
    };
    Some(quote! {
        if (#inner).overlaps() {
            let __bytes = 0 #(+ #sizes)*;
            let __find = |__world: &#world| #exports.#name();
            let __reply = (#inner).among(#label, __bytes, (#(#args,)*), __find, #size).await?;
            return ::core::result::Result::Ok(__reply.map(#value));
        }
    })
}

/// One call in a session, as those of a handle are, but for calls that share an instance.
fn body(
    model: &Model<'_>,
    group: &Group<'_>,
    function: &Function,
    names: &[Ident],
    session: TokenStream,
) -> TokenStream {
    let types = Types::at(model, 0);
    let label = group.label(function);
    let asynchronous = function.kind.is_async();
    let sizes = function.params.iter().zip(names).map(|(param, name)| types.size(&param.ty, quote!((&#name))));
    let mut converted = Vec::new();
    let mut args = Vec::new();
    for (at, (param, name)) in function.params.iter().zip(names).enumerate() {
        let arg = format_ident!("__arg{at}");
        if has_resource(model.resolve, &param.ty) {
            let lowered = types.lower(&param.ty, quote!(#name));
            converted.push(quote!(let #arg = #lowered;));
            args.push(if asynchronous { quote!(#arg) } else { types.borrow(&param.ty, quote!((&#arg))) });
        } else {
            args.push(if asynchronous { types.own(&param.ty, quote!(#name)) } else { quote!(#name) });
        }
    }
    let guest = function.params.iter().any(|param| has_guest_resource(model, &param.ty));
    let check = guest.then(|| quote!(__kept.check()?;));
    let exports = match &group.key {
        Some(_) => {
            let accessor = format_ident!("{}", group.long);
            quote!(__world.#accessor())
        }
        None => quote!(__world),
    };
    let exports = match function.kind.resource().and_then(|id| model.resolve.types[id].name.as_deref()) {
        // The generator's own snake case, which leaves keywords alone.
        Some(resource) => {
            let resource = format_ident!("{}", heck::ToSnakeCase::to_snake_case(resource));
            quote!(#exports.#resource())
        }
        None => exports,
    };
    let raw_name = heck::ToSnakeCase::to_snake_case(function.item_name());
    let call = if asynchronous {
        // Not `run_concurrent`: that one would wait for ever for a guest that can't go on, this one ends it as deadlocked.
        let name = format_ident!("func_{raw_name}");
        let value = if function.result.is_some() { quote!(|(__value,)| __value) } else { quote!(|()| ()) };
        quote!(#exports.#name().call_async(__store, (#(#args,)*)).await.map(#value))
    } else {
        let name = format_ident!("call_{raw_name}");
        quote!(#exports.#name(__store, #(#args),*).await)
    };
    let size = function.result.as_ref().map_or_else(|| quote!(0), |ty| types.size(ty, quote!(__value)));
    let lifted = function.result.as_ref().map_or_else(|| quote!(__value), |ty| types.lift(ty, quote!(__value)));
    quote! {
        let __core = #session.0.reborrow();
        let __kept = __core.kept;
        __core.port.begin(#label, 0 #(+ #sizes)*)?;
        #(#converted)*
        #check
        let (__world, __store) = __core.port.parts();
        let __result = #call;
        let __value = __finish(&mut *__core.port, &mut *__kept, __result, |__value| #size)?;
        ::core::result::Result::Ok(#lifted)
    }
}

/// What sessions are built on: hidden, and the same for every world.
fn support(model: &Model<'_>) -> TokenStream {
    let isopod = model.isopod;
    let world = &model.camel;
    let session = format_ident!("{world}Session");
    let wasmtime = quote!(#isopod::__private::wasmtime);
    quote! {
        /// isopod's session without its second lifetime, which would otherwise be in every signature.
        trait __Port: ::core::marker::Send {
            fn begin(&mut self, export: &'static str, bytes: u64) -> #isopod::Result<()>;
            fn parts(&mut self) -> (&#world, &mut #wasmtime::Store<#isopod::__private::State>);
            fn count(&mut self, bytes: u64) -> #isopod::Result<()>;
            fn fail(&mut self, error: #wasmtime::Error) -> #isopod::Error;
        }

        impl __Port for #isopod::__private::Session<'_, #world> {
            fn begin(&mut self, export: &'static str, bytes: u64) -> #isopod::Result<()> {
                #isopod::__private::Session::begin(self, export, bytes)
            }
            fn parts(&mut self) -> (&#world, &mut #wasmtime::Store<#isopod::__private::State>) {
                #isopod::__private::Session::parts(self)
            }
            fn count(&mut self, bytes: u64) -> #isopod::Result<()> {
                self.end(::core::result::Result::Ok(()), |_| bytes)
            }
            fn fail(&mut self, error: #wasmtime::Error) -> #isopod::Error {
                let result: #wasmtime::Result<::core::convert::Infallible> = ::core::result::Result::Err(error);
                match self.end(result, |never| match *never {}) {
                    ::core::result::Result::Ok(never) => match never {},
                    ::core::result::Result::Err(error) => error,
                }
            }
        }

        fn __finish<R>(
            port: &mut dyn __Port,
            kept: &mut __Kept,
            result: #wasmtime::Result<R>,
            size: impl ::core::ops::FnOnce(&R) -> u64,
        ) -> #isopod::Result<R> {
            match result {
                ::core::result::Result::Ok(value) => port.count(size(&value)).map(|()| value),
                ::core::result::Result::Err(error) => {
                    kept.dead = true;
                    ::core::result::Result::Err(port.fail(error))
                }
            }
        }

        struct __Core<'a> {
            port: &'a mut (dyn __Port + 'a),
            kept: &'a mut __Kept,
        }

        impl __Core<'_> {
            fn reborrow(&mut self) -> __Core<'_> {
                __Core { port: &mut *self.port, kept: &mut *self.kept }
            }
        }

        /// A resource of the component's, and the session that it belongs to.
        struct __Handle {
            raw: #wasmtime::component::ResourceAny,
            session: u64,
        }

        /// The resources that a session still has.
        #[derive(Default)]
        struct __Kept {
            /// Zero until there is a resource.
            session: u64,
            raw: ::std::vec::Vec<#wasmtime::component::ResourceAny>,
            /// A resource of another session was used.
            strange: bool,
            /// A call failed, and no further one can enter the instance: its resources go with it.
            dead: bool,
        }

        impl __Kept {
            fn adopt(&mut self, raw: #wasmtime::component::ResourceAny) -> __Handle {
                static SESSIONS: ::core::sync::atomic::AtomicU64 = ::core::sync::atomic::AtomicU64::new(1);
                if self.session == 0 {
                    self.session = SESSIONS.fetch_add(1, ::core::sync::atomic::Ordering::Relaxed);
                }
                self.raw.push(raw);
                __Handle { raw, session: self.session }
            }
            fn lend(&mut self, handle: &__Handle) -> #wasmtime::component::ResourceAny {
                self.strange |= handle.session != self.session;
                handle.raw
            }
            fn take(&mut self, handle: __Handle) -> #wasmtime::component::ResourceAny {
                let raw = self.lend(&handle);
                self.raw.retain(|other| *other != raw);
                raw
            }
            fn check(&mut self) -> #isopod::Result<()> {
                if ::core::mem::take(&mut self.strange) {
                    return ::core::result::Result::Err(#isopod::__private::misuse(
                        "a resource of one session was used in another; a resource lives as long as its session",
                    ));
                }
                ::core::result::Result::Ok(())
            }
        }

        /// Every call: a session, and the end of what it leaves.
        async fn __run<R>(
            function: &#isopod::__private::TypedFunction<#world>,
            body: impl ::core::ops::AsyncFnOnce(&mut #session<'_>) -> #isopod::Result<R>,
        ) -> #isopod::Result<#isopod::Reply<R>> {
            function
                .session(async |session: &mut #isopod::__private::Session<'_, #world>| {
                    let mut kept = __Kept::default();
                    let value = body(&mut #session(__Core { port: &mut *session, kept: &mut kept })).await?;
                    if kept.dead {
                        return ::core::result::Result::Ok(value);
                    }
                    while let ::core::option::Option::Some(raw) = kept.raw.pop() {
                        let (_, store) = session.parts();
                        let result = raw.resource_drop_async(store).await;
                        session.end(result, |_| 0)?;
                    }
                    ::core::result::Result::Ok(value)
                })
                .await
        }
    }
}
