//! The macro's arguments, and the WIT they lead to.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use std::path::PathBuf;
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Error, Ident, LitStr, Result, Token, bracketed, token};
use wit_parser::{Resolve, WorldId};

/// `{ world: "..", path: "..", inline: "..", crate: .. }`
pub(crate) struct Input {
    world: Option<LitStr>,
    paths: Vec<LitStr>,
    inline: Option<LitStr>,
    /// How the generated code names isopod.
    pub isopod: TokenStream,
}

/// Parsed WIT.
pub(crate) struct Source {
    pub resolve: Resolve,
    pub world: WorldId,
    /// Absolute paths of what was read.
    pub files: Vec<String>,
}

impl Parse for Input {
    fn parse(input: ParseStream<'_>) -> Result<Input> {
        let content;
        let fields = if input.peek(token::Brace) {
            syn::braced!(content in input);
            &content
        } else {
            input
        };
        let (mut world, mut inline, mut isopod) = (None, None, None);
        let mut paths = Vec::new();
        while !fields.is_empty() {
            let key = fields.call(Ident::parse_any)?;
            fields.parse::<Token![:]>()?;
            let repeated = match key.to_string().as_str() {
                "world" => world.replace(fields.parse::<LitStr>()?).is_some(),
                "inline" => inline.replace(fields.parse::<LitStr>()?).is_some(),
                "crate" => {
                    let path = fields.call(syn::Path::parse_mod_style)?;
                    isopod.replace(quote!(#path)).is_some()
                }
                "path" if fields.peek(token::Bracket) => {
                    let list;
                    bracketed!(list in fields);
                    paths.extend(Punctuated::<LitStr, Token![,]>::parse_terminated(&list)?);
                    false
                }
                "path" => {
                    paths.push(fields.parse()?);
                    false
                }
                other => {
                    let text = format!(
                        "`{other}` is not an argument of `world!`; it takes `world`, `path`, `inline` and `crate`"
                    );
                    return Err(Error::new(key.span(), text));
                }
            };
            if repeated {
                return Err(Error::new(key.span(), format!("`{key}` is given twice; leave one out")));
            }
            if !fields.is_empty() {
                fields.parse::<Token![,]>()?;
            }
        }
        Ok(Input { world, paths, inline, isopod: isopod.unwrap_or_else(|| quote!(::isopod)) })
    }
}

impl Input {
    pub(crate) fn load(&self) -> Result<Source> {
        let mut resolve = Resolve { all_features: true, ..Resolve::default() };
        let mut packages = Vec::new();
        let mut files = Vec::new();
        let default = LitStr::new("wit", Span::call_site());
        let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
        let paths = match (&self.paths[..], &self.inline) {
            ([], None) => std::slice::from_ref(&default),
            (paths, _) => paths,
        };
        for path in paths {
            let full = root.join(path.value());
            if !full.exists() {
                let text = format!(
                    "there is no WIT at {}; `path` is seen from the folder of the crate's Cargo.toml, and `inline` takes the text itself",
                    full.display()
                );
                return Err(Error::new(path.span(), text));
            }
            let full = std::fs::canonicalize(&full).unwrap_or(full);
            let pushed = resolve.push_path(&full);
            let (package, sources) = pushed.map_err(|error| {
                let text = format!("the WIT at {} is not valid: {}", full.display(), resolve.render_error(&error));
                Error::new(path.span(), text)
            })?;
            packages.push(package);
            files.extend(sources.paths().map(|path| path.display().to_string()));
        }
        if let Some(inline) = &self.inline {
            let pushed = resolve.push_str("inline", &inline.value());
            let package = pushed.map_err(|error| {
                Error::new(inline.span(), format!("this WIT is not valid: {}", resolve.render_error(&error)))
            })?;
            packages = vec![package];
        }
        let name = self.world.as_ref().map(LitStr::value);
        let world = resolve.select_world(&packages, name.as_deref()).map_err(|error| {
            let span = self.world.as_ref().map_or_else(Span::call_site, LitStr::span);
            Error::new(span, format!("the world cannot be found; name one by `world: \"..\"`: {error:#}"))
        })?;
        Ok(Source { resolve, world, files })
    }
}
