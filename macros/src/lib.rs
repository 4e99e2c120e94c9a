//! The `world!` macro of [isopod](https://docs.rs/isopod): a WIT world as Rust types, host traits and a typed handle.
//!
//! wasmtime's own generator makes the types and finds the exports; its text is parsed, its plumbing is hidden and its
//! host traits are left out. On top stand our own: traits for the imports, a handle and a session for the exports. So
//! the user of the macro sees no type of wasmtime's, and needs no dependency on it.
//!
//! `input` reads the macro's arguments and the WIT. `world` is the model: what is imported, what is exported, and what
//! has to be refused. `bindings` runs the generator and prunes its output. `types` prints WIT types as Rust types and
//! converts between ours and wasmtime's. `imports` and `exports` write the code.

mod bindings;
mod exports;
mod imports;
mod input;
mod types;
mod world;

#[cfg(test)]
mod tests;

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use world::World;

/// Makes a WIT world into Rust: its types, a trait for each imported interface, and a typed handle.
#[proc_macro]
pub fn world(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    expand(input.into()).unwrap_or_else(|error| error.to_compile_error()).into()
}

fn expand(input: TokenStream) -> syn::Result<TokenStream> {
    let input: input::Input = syn::parse2(input)?;
    let source = input.load()?;
    // A change of a file that was read makes the crate compile again.
    let files: Vec<TokenStream> = source
        .files
        .iter()
        .map(|file| {
            quote!(
                const _: &[u8] = ::core::include_bytes!(#file);
            )
        })
        .collect();
    let mut world = World::new(source, input.isopod)?;
    let text = bindings::generate(&mut world)?;
    let model = world.model()?;

    let mut bindings = bindings::Bindings::parse(&text, &model)?;
    imports::add_traits(&model, &mut bindings)?;
    exports::add_resources(&model, &mut bindings)?;
    let items = bindings.finish();
    let sizes = types::sizes(&model);
    let imports = imports::link(&model);
    let exports = exports::handles(&model)?;
    let module = format_ident!("__isopod_{}", world::snake(&model.name));
    Ok(quote! {
        #[allow(
            warnings,
            missing_docs,
            missing_debug_implementations,
            missing_copy_implementations,
            unreachable_pub,
            unnameable_types,
            unused_qualifications,
            unused_results,
            single_use_lifetimes,
            let_underscore_drop,
            clippy::all,
            clippy::pedantic,
            clippy::nursery,
            clippy::restriction
        )]
        mod #module {
            #(#items)*
            #sizes
            #imports
            #exports
            #(#files)*
        }
        #[allow(unused_imports, unreachable_pub)]
        pub use #module::*;
    })
}
