//! The imports: a trait for each interface, and the code that links a type which has them all.

use crate::bindings::Bindings;
use crate::types::{Face, Mode, Types};
use crate::world::{Group, Model, camel_ident, snake_ident};
use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};
use syn::Result;
use wit_parser::{Function, FunctionKind, TypeId};

/// Puts the traits where the interfaces' types are.
pub(crate) fn add_traits(model: &Model<'_>, bindings: &mut Bindings) -> Result<()> {
    for group in &model.imports {
        let types = Types::at(model, group.path.len());
        let module = bindings.module(&group.path)?;
        for resource in &group.resources {
            let name = resource_name(model, *resource);
            let docs = format!(
                "What the component may do with its `{name}`s. A handle is the number that was given to `Resource::new`; `drop` is the last call for it."
            );
            let drop = drop_method(model, &types, *resource);
            module.push(host_trait(model, group, Some(*resource), &docs, quote!(::core::marker::Send), Some(drop)));
        }
        if group.is_provided() {
            let supertraits = group.resources.iter().map(|resource| host_name(model, group, Some(*resource)));
            let docs = match (&group.key, group.docs) {
                (Some(_), Some(docs)) => docs.to_owned(),
                (Some(key), None) => format!("What `{key}` provides."),
                (None, _) => format!("The functions that the world `{}` imports outside of interfaces.", model.name),
            };
            module.push(host_trait(model, group, None, &docs, quote!(#(#supertraits +)* ::core::marker::Send), None));
        }
    }
    Ok(())
}

impl Group<'_> {
    /// Whether there is anything to implement; an interface of types alone needs no trait.
    fn is_provided(&self) -> bool {
        !self.functions.is_empty() || !self.resources.is_empty()
    }

    fn of(&self, resource: Option<TypeId>) -> impl Iterator<Item = &Function> {
        self.functions.iter().copied().filter(move |function| function.kind.resource() == resource)
    }
}

fn resource_name<'a>(model: &'a Model<'_>, resource: TypeId) -> &'a str {
    model.resolve.types[resource].name.as_deref().unwrap_or_default()
}

/// `Host`, `HostCursor`, or `GreeterImports`.
fn host_name(model: &Model<'_>, group: &Group<'_>, resource: Option<TypeId>) -> Ident {
    match (resource, &group.key) {
        (Some(resource), _) => format_ident!("Host{}", camel_ident(resource_name(model, resource))),
        (None, Some(_)) => format_ident!("Host"),
        (None, None) => format_ident!("{}Imports", model.camel),
    }
}

fn host_trait(
    model: &Model<'_>,
    group: &Group<'_>,
    resource: Option<TypeId>,
    docs: &str,
    supertraits: TokenStream,
    drop: Option<TokenStream>,
) -> syn::Item {
    let types = Types::at(model, group.path.len());
    let name = host_name(model, group, resource);
    let methods = group.of(resource).map(|function| {
        let docs = function.docs.contents.iter().map(|docs| quote!(#[doc = #docs]));
        let name = method_name(function);
        let params = function.params.iter().map(|param| {
            let (name, ty) = (snake_ident(&param.name), types.print(&param.ty, Face::Host, Mode::Owned));
            quote!(#name: #ty)
        });
        let result = types.result(function.result.as_ref(), Face::Host);
        quote! {
            #(#docs)*
            fn #name(&mut self, #(#params),*) -> impl ::core::future::Future<Output = #result> + ::core::marker::Send;
        }
    });
    let what = match &group.key {
        Some(key) => format!("`{key}`"),
        None => format!("the functions that the world `{}` imports", model.name),
    };
    let message = format!("`{{Self}}` does not provide {what}");
    let label = format!("what is given to `.imports(..)` has to implement the trait `{name}` that `world!` made of it");
    syn::parse_quote! {
        #[doc = #docs]
        #[diagnostic::on_unimplemented(message = #message, label = #label)]
        pub trait #name: #supertraits {
            #(#methods)*
            #drop
        }
    }
}

fn drop_method(model: &Model<'_>, types: &Types<'_>, resource: TypeId) -> TokenStream {
    let isopod = model.isopod;
    let path = types.path(resource);
    quote! {
        /// The component has let go of it.
        fn drop(&mut self, resource: #isopod::Resource<#path>) -> impl ::core::future::Future<Output = ()> + ::core::marker::Send;
    }
}

fn method_name(function: &Function) -> Ident {
    match function.kind {
        FunctionKind::Constructor(_) => format_ident!("new"),
        _ => snake_ident(function.item_name()),
    }
}

/// `impl Link<U>`, for every `U` that has the traits.
pub(crate) fn link(model: &Model<'_>) -> TokenStream {
    let isopod = model.isopod;
    let world = &model.camel;
    let types = Types::at(model, 0);
    let provided = || model.imports.iter().filter(|group| group.is_provided());
    let bounds = provided().map(|group| {
        let (module, name) = (types.module(&group.path), host_name(model, group, None));
        quote!(+ #module #name)
    });
    let send = provided().next().map(|_| quote!(+ ::core::marker::Send));
    let groups = model.imports.iter().map(|group| link_group(model, group));
    quote! {
        impl<U: 'static #send #(#bounds)*> #isopod::__private::Link<U> for #world {
            fn link(
                __linker: &mut #isopod::__private::wasmtime::component::Linker<#isopod::__private::State>,
            ) -> #isopod::__private::wasmtime::Result<()> {
                #(#groups)*
                ::core::result::Result::Ok(())
            }
        }
    }
}

fn link_group(model: &Model<'_>, group: &Group<'_>) -> TokenStream {
    let isopod = model.isopod;
    let wasmtime = quote!(#isopod::__private::wasmtime);
    let types = Types::at(model, 0);
    let module = types.module(&group.path);
    let instance = match &group.key {
        Some(key) => quote!(__linker.instance(#key)?),
        None => quote!(__linker.root()),
    };
    let resources = group.resources.iter().map(|resource| {
        let name = resource_name(model, *resource);
        let host = host_name(model, group, Some(*resource));
        let path = types.path(*resource);
        quote! {
            __instance.resource_async(
                #name,
                #wasmtime::component::ResourceType::host::<#path>(),
                |mut __caller, __rep| ::std::boxed::Box::new(async move {
                    let __host = #isopod::__private::slot::<U>(__caller.data_mut())?;
                    #module #host::drop(__host, #isopod::Resource::new(__rep)).await;
                    ::core::result::Result::Ok(())
                }),
            )?;
        }
    });
    let functions = group.functions.iter().map(|function| {
        let name = &function.name;
        let host = host_name(model, group, function.kind.resource());
        let method = method_name(function);
        let args: Vec<Ident> = (0..function.params.len()).map(|at| format_ident!("__arg{at}")).collect();
        let tys = function.params.iter().map(|param| types.print(&param.ty, Face::Wasmtime, Mode::Owned));
        let lifted = function.params.iter().zip(&args).map(|(param, arg)| types.lift(&param.ty, quote!(#arg)));
        let result = match &function.result {
            Some(ty) => {
                let lowered = types.lower(ty, quote!(__result));
                quote!((#lowered,))
            }
            None => quote!(__result),
        };
        quote! {
            __instance.func_wrap_async(
                #name,
                |mut __caller: #wasmtime::StoreContextMut<'_, #isopod::__private::State>, (#(#args,)*): (#(#tys,)*)| {
                    ::std::boxed::Box::new(async move {
                        let __host = #isopod::__private::slot::<U>(__caller.data_mut())?;
                        let __result = #module #host::#method(__host, #(#lifted),*).await;
                        ::core::result::Result::Ok(#result)
                    })
                },
            )?;
        }
    });
    quote! {
        {
            let mut __instance = #instance;
            #(#resources)*
            #(#functions)*
        }
    }
}
