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
///
/// ```ignore
/// isopod::world!({ world: "greeter", path: "wit" });
///
/// #[derive(Clone)]
/// struct MyImports { rows: Arc<Rows> }
///
/// impl acme::app::db::Host for MyImports {                      // `import db;` of package acme:app
///     async fn get(&mut self, key: String) -> Option<String> { self.rows.get(&key) }
/// }
///
/// let greeter = host.function("greeter").component_file("greeter.wasm")
///     .imports(MyImports { rows }).load_typed::<Greeter>().await?;
/// let reply = greeter.greet("world").await?;                    // `export greet: func(name: string) -> string;`
/// ```
///
/// # Arguments
/// * `world`: its name in the package; needed where the package has several.
/// * `path`: a `.wit` file or a folder, seen from the crate's `Cargo.toml`; a list of them, the later ones using the
///   earlier. Without `path` and `inline`: the folder `wit`. A change of a file makes the crate compile again.
/// * `inline`: WIT text instead of files, or on top of them.
/// * `crate`: the path of isopod, where the dependency was renamed: `crate: sandbox`.
///
/// # What it makes
/// For a world `greeter`:
/// * the records, variants, enums, flags and aliases, in modules named like their packages: `acme::app::db::Row` for
///   imported interfaces, `exports::acme::app::shapes::Item` for exported ones;
/// * for each imported interface a trait `Host`, for the functions imported at the root of the world the trait
///   `GreeterImports`. All methods are `async fn(&mut self, ..)`. A type that implements all of them is what
///   `.imports(..)` takes; `load_typed::<Greeter>()` does not compile without. `wasi:` interfaces are not in it: isopod
///   provides those itself, as far as they are granted;
/// * `Greeter`, to be named in `load_typed::<Greeter>()`;
/// * `GreeterFunction`, what that gives: a cheap handle with a method for each exported function. The functions of an
///   exported interface `shapes` are behind `greeter.shapes()`. Each method is one call of a fresh instance and gives a
///   `Reply`. A trait, `CallOptions`, has the options, so an export named `tenant` is the export. An export named
///   `session` is called `session_`;
/// * `GreeterSession`, for several calls in one instance: the same methods, giving the plain result.
///   ```ignore
///   let reply = greeter.session(async |s| { s.greet("a").await?; s.shapes().area(&square).await }).await?;
///   ```
///
/// # Resources
/// A resource that the component exports is a type of its own, used within a session:
/// ```ignore
/// use exports::acme::app::types::Counter;
/// let reply = counters.session(async |s| {
///     let counter = Counter::new(s, 5).await?;     // constructor
///     counter.add(s, 2).await?;                    // method
///     Counter::sum(s, &counter, &counter).await?;  // static function with two borrow<counter>
///     counter.drop(s).await                        // or left alone: whatever is left is dropped as the session ends
/// }).await?;
/// ```
/// It belongs to its session; in another one it is an error. Functions that take or give such a resource exist only in
/// sessions. A static function called `new` next to a constructor is `new_`, a method called `drop` is `drop_`.
///
/// A resource that the component imports is `isopod::Resource<Cursor>`: a number that the host chooses. Its trait
/// `HostCursor` has the constructor `new`, the methods, and `drop`, which is called once the guest lets go of it.
///
/// # What it refuses
/// Imported `async func`s, streams and futures; records and variants that hold a resource (outside of them, resources
/// may stand in `option`, `list`, `result` and `tuple`); resources of `wasi:` interfaces in interfaces of your own. Each
/// is an error that names the place.
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
