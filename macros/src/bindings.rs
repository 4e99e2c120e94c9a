//! Runs wasmtime's generator and makes its output fit: types and the code that finds exports stay, hidden where they are
//! plumbing; host traits, linking and pre-instantiation go, since `imports` and isopod itself have their own.

use crate::world::{Model, World, camel_ident};
use proc_macro2::Span;
use quote::quote;
use std::collections::HashSet;
use syn::{Error, Expr, ImplItem, Item, ItemImpl, Result, Stmt, Type, Visibility, parse_quote};
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
