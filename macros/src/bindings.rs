//! Runs wasmtime's generator and makes its output fit: types and the code that finds exports stay, hidden where they are
//! plumbing; host traits, linking and pre-instantiation go, since `imports` and isopod itself have their own.
//!
//! One thing is moved: the generator compares the types of an interface's functions each time an instance is made. Here
//! it is done once, when the function is loaded: that is when a wrong component should be found, and a call is faster.

use crate::world::{Model, World, camel_ident};
use proc_macro2::Span;
use quote::{ToTokens, quote};
use std::collections::{HashMap, HashSet};
use syn::{
    AngleBracketedGenericArguments, Error, Expr, ExprMethodCall, ImplItem, Item, ItemImpl, Lit, Local, Pat, Result,
    Stmt, Type, UnOp, Visibility, parse_quote,
};
use wasmtime_internal_wit_bindgen::{FunctionConfig, FunctionFilter, FunctionFlags, Opts};

/// The generator's text.
pub(crate) fn generate(world: &mut World) -> Result<String> {
    let isopod = world.isopod.to_string().replace(' ', "");
    let config = || {
        let mut config = FunctionConfig::new();
        config.push(FunctionFilter::Default, FunctionFlags::ASYNC);
        config
    };
    let options = Opts {
        wasmtime_crate: Some(format!("{isopod}::__private::wasmtime")),
        imports: config(),
        exports: config(),
        require_store_data_send: true,
        ..Opts::default()
    };
    options.generate(&mut world.resolve, world.id).map_err(|error| Error::new(Span::call_site(), format!("{error:?}")))
}

/// The generator's items, pruned.
pub(crate) struct Bindings(Vec<Item>);

impl Bindings {
    pub(crate) fn parse(text: &str, model: &Model<'_>) -> Result<Bindings> {
        let file: syn::File = syn::parse_str(text).map_err(|error| {
            Error::new(
                Span::call_site(),
                format!("wasmtime's bindings cannot be read ({error}); please report this to isopod"),
            )
        })?;
        let mut items = file.items;
        let names = Names {
            pre: format!("{}Pre", model.camel),
            world: model.camel.to_string(),
            indices: format!("{}Indices", model.camel),
        };
        prune(&mut items, 0, &names, model);
        Ok(Bindings(items))
    }

    /// The items of the module at `path`.
    pub(crate) fn module(&mut self, path: &[String]) -> Result<&mut Vec<Item>> {
        let mut items = &mut self.0;
        for name in path {
            items = (items.iter_mut())
                .find_map(|item| match item {
                    Item::Mod(module) if module.ident == name => module.content.as_mut().map(|(_, items)| items),
                    _ => None,
                })
                .ok_or_else(|| {
                    let text =
                        format!("wasmtime's bindings have no module {}; please report this to isopod", path.join("::"));
                    Error::new(Span::call_site(), text)
                })?;
        }
        Ok(items)
    }

    pub(crate) fn finish(self) -> Vec<Item> {
        self.0
    }
}

struct Names {
    pre: String,
    world: String,
    indices: String,
}

fn prune(items: &mut Vec<Item>, depth: usize, names: &Names, model: &Model<'_>) {
    let traits: HashSet<String> = items
        .iter()
        .filter_map(|item| if let Item::Trait(item) = item { Some(item.ident.to_string()) } else { None })
        .collect();
    items.retain_mut(|item| match item {
        Item::Trait(_) | Item::Fn(_) => false,
        Item::Struct(item) if item.ident == "LinkOptions" || (depth == 0 && item.ident == names.pre) => false,
        Item::Struct(item) => {
            let name = item.ident.to_string();
            let plumbing = name == "Guest" || name == "GuestIndices" || is_guest_resource(&name, model);
            if (depth == 0 && name == names.indices) || (depth > 0 && plumbing) {
                item.attrs.push(parse_quote!(#[doc(hidden)]));
            } else if depth == 0 && name == names.world {
                item.attrs.retain(|attribute| !attribute.path().is_ident("doc"));
                let docs = format!("The world `{}`: what `load_typed` is told to load.", model.full_name);
                item.attrs.push(parse_quote!(#[doc = #docs]));
            }
            true
        }
        Item::Impl(item) => keep_impl(item, depth, &traits, names, model),
        Item::Const(item) if item.ident == "_" => {
            if let Expr::Block(block) = &mut *item.expr {
                block.block.stmts.retain_mut(|statement| match statement {
                    Stmt::Item(Item::Impl(item)) => keep_impl(item, depth, &traits, names, model),
                    Stmt::Item(Item::Trait(_)) => false,
                    _ => true,
                });
            }
            true
        }
        Item::Type(alias) if is_wasmtime(&alias.ty) => {
            alias.attrs.push(parse_quote!(#[doc(hidden)]));
            true
        }
        Item::Mod(module) => {
            if let Some((_, items)) = &mut module.content {
                prune(items, depth + 1, names, model);
            }
            true
        }
        _ => true,
    });
    // `flags!` ignores the path it is given and says `wasmtime::` where it is called.
    let flags = |item: &Item| matches!(item, Item::Macro(item) if item.mac.path.segments.last().is_some_and(|last| last.ident == "flags"));
    if items.iter().any(flags) {
        let isopod = model.isopod;
        items.insert(0, parse_quote!(use #isopod::__private::wasmtime;));
    }
}

fn keep_impl(item: &mut ItemImpl, depth: usize, traits: &HashSet<String>, names: &Names, model: &Model<'_>) -> bool {
    let target = last_ident(&item.self_ty);
    if let Some((_, path, _)) = &item.trait_ {
        let name = path.segments.last().map(|last| last.ident.to_string()).unwrap_or_default();
        return !traits.contains(&name) && target != "LinkOptions" && !(depth == 0 && target == names.pre);
    }
    if target == "LinkOptions" || (depth == 0 && target == names.pre) {
        return false;
    }
    if target == "GuestIndices" || (depth == 0 && target == names.indices) {
        check_once(item, model);
    }
    let root = depth == 0 && target == names.world;
    if root {
        const OURS: &[&str] = &["instantiate", "instantiate_async", "new", "add_to_linker", "add_to_linker_imports"];
        item.items.retain(
            |member| !matches!(member, ImplItem::Fn(member) if OURS.iter().any(|name| member.sig.ident == name)),
        );
    }
    if root || target == "Guest" || target == "GuestIndices" || (depth > 0 && is_guest_resource(&target, model)) {
        // Reached from the macro's own module only, which is `depth` modules up.
        let visibility: Visibility = match depth {
            0 => Visibility::Inherited,
            _ => {
                let supers = (0..depth).map(|_| quote!(super));
                parse_quote!(pub(in #(#supers)::*))
            }
        };
        for member in &mut item.items {
            if let ImplItem::Fn(member) = member {
                member.vis = visibility.clone();
            }
        }
    }
    true
}

/// Moves type checks from `load`, which runs for each instance, to `new`, which runs once. What does not look as it is
/// known to look stays as it is, and is right if slower.
fn check_once(item: &mut ItemImpl, model: &Model<'_>) {
    let isopod = model.isopod;
    let wasmtime = quote!(#isopod::__private::wasmtime);
    let checks: HashMap<String, AngleBracketedGenericArguments> = (locals(item, "load").into_iter())
        .filter_map(|(name, local)| Some((name, typed_func(local)?.turbofish.clone()?)))
        .collect();
    let mut checked = HashSet::new();
    for (name, local) in locals(item, "new") {
        let (Some(signature), Some(init)) = (checks.get(&name), &mut local.init) else { continue };
        if let Some(export) = looked_up(&init.expr) {
            *init.expr = parse_quote! {{
                let index = lookup(#export)?;
                let item = _instance_pre.component().get_export(::core::option::Option::Some(&instance), #export);
                let ::core::option::Option::Some((#wasmtime::component::types::ComponentItem::ComponentFunc(func), _)) = item else {
                    return ::core::result::Result::Err(#wasmtime::format_err!("export `{}` is not a function", #export));
                };
                #wasmtime::error::Context::with_context(func.typecheck #signature (&_instance_pre.instance_type()), || {
                    ::std::format!("type-checking export func `{}`", #export)
                })?;
                index
            }};
            checked.insert(name);
        } else if init.expr.to_token_stream().to_string().contains("typecheck") {
            checked.insert(name);
        }
    }
    for (name, local) in locals(item, "load") {
        if !checked.contains(&name) {
            continue;
        }
        let Some(args) = typed_func(local).map(|call| call.args.clone()) else { continue };
        if let Some(init) = &mut local.init {
            *init.expr = parse_quote! {
                _instance.get_func(#args).ok_or_else(|| #wasmtime::Error::msg("an export is gone that was there at load"))?
            };
        }
    }
}

/// The `let name = ..;` of a method.
fn locals<'a>(item: &'a mut ItemImpl, method: &str) -> Vec<(String, &'a mut Local)> {
    let methods = item.items.iter_mut().filter_map(|member| match member {
        ImplItem::Fn(member) if member.sig.ident == method => Some(member),
        _ => None,
    });
    let statements = methods.flat_map(|method| &mut method.block.stmts);
    let locals = statements.filter_map(|statement| match statement {
        Stmt::Local(local) => match &local.pat {
            Pat::Ident(pat) => Some((pat.ident.to_string(), local)),
            _ => None,
        },
        _ => None,
    });
    locals.collect()
}

/// `get_typed_func` in `*_instance.get_typed_func::<..>(&mut store, &self.name)?.func()`.
fn typed_func(local: &Local) -> Option<&ExprMethodCall> {
    let Expr::Unary(outer) = &*local.init.as_ref()?.expr else { return None };
    let (UnOp::Deref(_), Expr::MethodCall(func)) = (&outer.op, &*outer.expr) else { return None };
    let Expr::Try(tried) = &*func.receiver else { return None };
    let Expr::MethodCall(call) = &*tried.expr else { return None };
    (func.method == "func" && call.method == "get_typed_func").then_some(call)
}

/// The name in `lookup("name")?`.
fn looked_up(expr: &Expr) -> Option<String> {
    let Expr::Try(tried) = expr else { return None };
    let Expr::Call(call) = &*tried.expr else { return None };
    match (&*call.func, call.args.first()?) {
        (Expr::Path(path), Expr::Lit(lit)) if path.path.is_ident("lookup") => match &lit.lit {
            Lit::Str(name) => Some(name.value()),
            _ => None,
        },
        _ => None,
    }
}

/// Whether a name is `Guest` and then an exported resource.
fn is_guest_resource(name: &str, model: &Model<'_>) -> bool {
    let Some(resource) = name.strip_prefix("Guest") else { return false };
    let mut resources = model.exports.iter().flat_map(|group| &group.resources);
    resources.any(|id| model.resolve.types[*id].name.as_deref().is_some_and(|name| camel_ident(name) == resource))
}

fn last_ident(ty: &Type) -> String {
    match ty {
        Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()).unwrap_or_default(),
        _ => String::new(),
    }
}

/// Whether a type names a handle of wasmtime's somewhere.
fn is_wasmtime(ty: &Type) -> bool {
    let text = quote!(#ty).to_string();
    text.contains(":: ResourceAny") || text.contains("component :: Resource <")
}
