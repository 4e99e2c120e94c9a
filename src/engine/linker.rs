//! Wires one function: compares what it imports with what it was granted, and links both.

use super::Engine;
use super::import::{Closure, Others};
use super::served::Served;
use super::state::{State, TooEarly};
use crate::capability::{self, Bound};
use crate::denial::Denial;
use crate::error::{Error, ErrorKind, Result};
use std::borrow::Cow;
use wasmtime::component::types::{ComponentFunc, ComponentItem};
use wasmtime::component::{Component, Linker, LinkerInstance, ResourceType};

/// Names of everything that the component imports, in its order.
pub(crate) fn imports(component: &Component, engine: &Engine) -> Vec<String> {
    component.component_type().imports(&engine.wasmtime).map(|(name, _)| name.to_owned()).collect()
}

/// What the embedder brings for a component's imports.
pub(crate) struct Given<'a, L> {
    /// Names of what `link` brings.
    pub provided: &'a [&'a str],
    /// None if there is nothing to bring.
    pub link: Option<L>,
    pub closures: Vec<Closure>,
    /// For what nothing else is for.
    pub others: Option<Others>,
}

/// A linker for the component: the standard interfaces, then the embedder's, then denials if those were asked for.
pub(crate) fn wire<'a, L: FnOnce(&mut Linker<State>) -> wasmtime::Result<()>>(
    engine: &'a Engine,
    component: &Component,
    bound: &Bound,
    mut given: Given<'_, L>,
    deny_at_call: bool,
) -> Result<Cow<'a, Linker<State>>> {
    let ty = component.component_type();
    let unprovided = |name: &str| {
        let provided = given.provided.iter().any(|known| same_track(known, name));
        !provided && !capability::is_linked(name) && !bound.provides(name)
    };
    if let Some(others) = &given.others {
        let imports =
            ty.imports(&engine.wasmtime).filter(|(name, _)| unprovided(name) && bound.serving(name).is_none());
        let closures = imports.flat_map(|(name, import)| remaining(engine, name, &import.ty, others, &given.closures));
        let closures: Vec<Closure> = closures.collect();
        given.closures.extend(closures);
    }
    let unprovided = ty.imports(&engine.wasmtime).filter(|(name, _)| unprovided(name));
    let (mut missing, mut closed, mut served) = (Vec::new(), Vec::new(), Vec::new());
    for (name, import) in unprovided {
        if let Some(function) = bound.serving(name) {
            served.push(Served::find(engine, name, import.ty, function)?);
            continue;
        }
        match Closed::find(engine, name, import.ty, &given.closures)? {
            Ok(found) => closed.push(found),
            Err(item) => missing.push((name.to_owned(), item)),
        }
    }
    used(&given.closures, &closed)?;
    if let Some(interface) = bound.unserved(served.iter().map(Served::interface)) {
        let text = format!(
            "`Functions::serving(\"{interface}\")` has no effect: the component has that interface from elsewhere, or from an earlier grant; remove it"
        );
        return Err(Error::new(ErrorKind::Misuse, text));
    }
    let members = closed.iter().flat_map(|closed| closed.missing.iter().map(|(member, _)| closed.full_name(member)));
    let names: Vec<String> = missing.iter().map(|(name, _)| name.clone()).chain(members).collect();
    let complete = names.is_empty() && bound.missing.is_empty();
    if !complete && !deny_at_call {
        return Err(ungranted(names.iter().map(String::as_str), bound));
    }
    // Copied only if something is added: a copy takes longer than most of the rest of loading.
    let mut linker = Cow::Borrowed(&engine.linker);
    bound.link(&mut linker, engine.flavour.asynchronous).map_err(|e| wrong_import(&e))?;
    if let Some(link) = given.link {
        link(linker.to_mut()).map_err(|e| wrong_import(&e))?;
    }
    if missing.iter().any(|(name, _)| capability::is_denied_standard(name)) {
        linker.to_mut().allow_shadowing(true);
        capability::link_types_of_denied(linker.to_mut(), engine.flavour.asynchronous).map_err(|e| wrong_import(&e))?;
    }
    for (name, item) in &missing {
        deny(linker.to_mut(), engine, bound, name, item).map_err(|e| wrong_import(&e))?;
    }
    for served in served {
        served.link(linker.to_mut()).map_err(|e| wrong_import(&e))?;
    }
    for closed in closed {
        closed.link(linker.to_mut(), bound).map_err(|e| wrong_import(&e))?;
    }
    Ok(linker)
}

/// The same linker, with every import that needs a call replaced by one that fails and says its name.
pub(crate) fn without_call(
    engine: &Engine,
    component: &Component,
    linker: &Linker<State>,
) -> wasmtime::Result<Linker<State>> {
    let mut linker = linker.clone();
    linker.allow_shadowing(true);
    for (name, import) in component.component_type().imports(&engine.wasmtime) {
        match import.ty {
            _ if capability::answers_early(name) => {}
            ComponentItem::ComponentInstance(interface) => {
                let linked = if capability::is_linked(name) { capability::linked_name(name) } else { name.to_owned() };
                let mut inside = linker.instance(&linked)?;
                for (member, item) in interface.exports(&engine.wasmtime) {
                    if let ComponentItem::ComponentFunc(ty) = item.ty {
                        fail_early(&mut inside, member, &ty, format!("{name}#{member}"))?;
                    }
                }
            }
            ComponentItem::ComponentFunc(ty) => fail_early(&mut linker.root(), name, &ty, name.to_owned())?,
            _ => {}
        }
    }
    Ok(linker)
}

fn fail_early(
    linker: &mut LinkerInstance<'_, State>,
    member: &str,
    ty: &ComponentFunc,
    name: String,
) -> wasmtime::Result<()> {
    let fail = move || TooEarly::at(name.clone()).into();
    if ty.async_() {
        linker.func_new_concurrent(member, move |_, _, _, _| {
            let failure = fail();
            Box::pin(async move { Err(failure) })
        })
    } else {
        linker.func_new(member, move |_, _, _, _| Err(fail()))
    }
}

/// Of an import, the functions for which there is no closure, each with one that is for all others.
fn remaining(engine: &Engine, name: &str, item: &ComponentItem, others: &Others, closures: &[Closure]) -> Vec<Closure> {
    let standard = ["wasi:", "isopod:"].iter().any(|namespace| name.starts_with(namespace));
    let is_free = |interface: &str, function: &str| !closures.iter().any(|closure| closure.is_for(interface, function));
    match item {
        _ if standard => Vec::new(),
        ComponentItem::ComponentFunc(_) if is_free("", name) => vec![others.closure("", name)],
        ComponentItem::ComponentInstance(interface) => {
            let members: Vec<_> = interface.exports(&engine.wasmtime).collect();
            // Which nobody can give but by `world!`.
            if members.iter().any(|(_, member)| matches!(member.ty, ComponentItem::Resource(_))) {
                return Vec::new();
            }
            let functions = members.iter().filter(|(_, member)| matches!(member.ty, ComponentItem::ComponentFunc(_)));
            functions
                .filter(|(member, _)| is_free(name, member))
                .map(|(member, _)| others.closure(name, member))
                .collect()
        }
        _ => Vec::new(),
    }
}

/// An import for which there are closures: an interface, or a function by itself.
struct Closed<'a> {
    interface: Option<String>,
    found: Vec<(&'a Closure, ComponentFunc)>,
    /// Functions of the interface without one.
    missing: Vec<(String, ComponentItem)>,
}

impl<'a> Closed<'a> {
    /// Gives the item back if there is no closure for it.
    fn find(
        engine: &Engine,
        name: &str,
        item: ComponentItem,
        closures: &'a [Closure],
    ) -> Result<std::result::Result<Closed<'a>, ComponentItem>> {
        let find =
            |interface: &str, function: &str| closures.iter().find(|closure| closure.is_for(interface, function));
        let interface = match &item {
            ComponentItem::ComponentInstance(interface) => interface,
            ComponentItem::ComponentFunc(ty) => {
                let found = find("", name).map(|closure| (closure, ty.clone()));
                return Ok(found.map_or(Err(item), |found| {
                    Ok(Closed { interface: None, found: vec![found], missing: Vec::new() })
                }));
            }
            _ => return Ok(Err(item)),
        };
        let mut closed = Closed { interface: Some(name.to_owned()), found: Vec::new(), missing: Vec::new() };
        let mut resources = false;
        for (member, item) in interface.exports(&engine.wasmtime) {
            match &item.ty {
                ComponentItem::ComponentFunc(ty) => match find(name, member) {
                    Some(closure) => closed.found.push((closure, ty.clone())),
                    None => closed.missing.push((member.to_owned(), item.ty)),
                },
                ComponentItem::Resource(_) => resources = true,
                _ => {}
            }
        }
        match closed.found.first() {
            None => Ok(Err(item)),
            Some((closure, _)) if resources => Err(Error::new(
                ErrorKind::Misuse,
                format!("`.import(..)` cannot be for \"{closure}\", as its interface has resources; see `world!`"),
            )),
            Some(_) => Ok(Ok(closed)),
        }
    }

    fn full_name(&self, member: &str) -> String {
        self.interface.as_ref().map_or_else(|| member.to_owned(), |interface| format!("{interface}#{member}"))
    }

    fn link(&self, linker: &mut Linker<State>, bound: &Bound) -> wasmtime::Result<()> {
        let mut inside = match &self.interface {
            Some(interface) => linker.instance(interface)?,
            None => linker.root(),
        };
        self.found.iter().try_for_each(|(closure, ty)| closure.link(&mut inside, ty))?;
        let interface = self.interface.as_deref();
        self.missing.iter().try_for_each(|(member, item)| deny_member(&mut inside, bound, interface, member, item))
    }
}

/// Each closure must be for an import, and for one only once.
fn used(closures: &[Closure], closed: &[Closed<'_>]) -> Result<()> {
    let is_used = |closure: &&Closure| {
        closed.iter().flat_map(|closed| &closed.found).any(|(used, _)| std::ptr::eq(*used, *closure))
    };
    match closures.iter().find(|closure| !is_used(closure)) {
        None => Ok(()),
        Some(unused) => Err(Error::new(
            ErrorKind::Misuse,
            format!(
                "`.import(..)` for \"{unused}\" has no effect: the component imports no such function, or has it from elsewhere; remove it"
            ),
        )),
    }
}

/// Imports that are told apart in an error. Real components have some tens; a hostile one has as many as it likes.
const MAX_UNGRANTED: usize = 256;

/// The error that lists the missing imports, those together that the same line would grant, and then what else the
/// component says that it needs.
fn ungranted<'a>(imports: impl Iterator<Item = &'a str>, bound: &'a Bound) -> Error {
    let mut denials = Vec::new();
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    let imports = imports.map(|name| (name, bound.how_to_grant(name), capability::policy_line(name)));
    let needs =
        bound.missing.iter().map(|missing| (missing.what.as_str(), missing.rust.clone(), Some(missing.toml.as_str())));
    for (name, grant, toml) in imports.chain(needs).take(MAX_UNGRANTED) {
        denials.push(Denial::new(name, "it was not granted").allowed_by(&grant, toml).of(&bound.function, None, 0));
        match groups.iter_mut().find(|(known, _)| *known == grant) {
            Some((_, names)) => names.push(name),
            None => groups.push((grant, vec![name])),
        }
    }
    let groups = groups.into_iter().map(|(grant, names)| format!(". For {}: {grant}", names.join(", ")));
    let text = format!(
        "the component imports or needs what was not granted; grant it, or load it with `.deny_at_call()`, so that only a call that uses it ends{}",
        groups.collect::<String>()
    );
    Error::new(ErrorKind::UngrantedImport, text).denying(denials)
}

pub(crate) fn wrong_import(error: &wasmtime::Error) -> Error {
    Error::new(
        ErrorKind::UngrantedImport,
        "an import of the component has another type than what is provided under its name; build both from the same WIT",
    )
    .because(error.chain().map(|cause| cause.to_string()))
}

/// Whether a provided name satisfies an imported one: equal, or of the same semver track (`1.x`, `0.2.x`).
fn same_track(provided: &str, imported: &str) -> bool {
    fn split(name: &str) -> (&str, Option<[&str; 2]>) {
        let Some((interface, version)) = name.split_once('@') else { return (name, None) };
        let mut parts = version.splitn(3, '.');
        let track = match (parts.next(), parts.next()) {
            _ if version.contains('-') => [version, ""],
            (Some("0"), Some("0")) => [version, ""],
            (Some("0"), Some(minor)) => ["0", minor],
            (Some(major), _) => [major, ""],
            (None, _) => [version, ""],
        };
        (interface, Some(track))
    }
    provided == imported || (split(provided) == split(imported))
}

/// Links an import so that calling it ends the call as [`ErrorKind::Denied`].
fn deny(
    linker: &mut Linker<State>,
    engine: &Engine,
    bound: &Bound,
    name: &str,
    item: &ComponentItem,
) -> wasmtime::Result<()> {
    match item {
        ComponentItem::ComponentInstance(instance) => {
            let linked =
                if capability::is_denied_standard(name) { capability::linked_name(name) } else { name.to_owned() };
            let mut inside = linker.instance(&linked)?;
            for (member, item) in instance.exports(&engine.wasmtime) {
                deny_member(&mut inside, bound, Some(name), member, &item.ty)?;
            }
            Ok(())
        }
        item => deny_member(&mut linker.root(), bound, None, name, item),
    }
}

fn deny_member(
    linker: &mut LinkerInstance<'_, State>,
    bound: &Bound,
    interface: Option<&str>,
    member: &str,
    item: &ComponentItem,
) -> wasmtime::Result<()> {
    match item {
        ComponentItem::ComponentFunc(ty) => {
            let capability = interface.map_or_else(|| member.to_owned(), |interface| format!("{interface}#{member}"));
            let import = interface.unwrap_or(member);
            let rule = "it was not granted, and linked by `.deny_at_call()`";
            let denial = Denial::new(&capability, rule);
            let denial = denial.allowed_by(&bound.how_to_grant(import), capability::policy_line(import));
            deny_function(linker, member, ty, denial)
        }
        // Already there, and the same type as in the interfaces that share it.
        ComponentItem::Resource(_) if interface.is_some_and(capability::is_denied_standard) => Ok(()),
        ComponentItem::Resource(_) => linker.resource(member, ResourceType::host::<Refused>(), |_, _| Ok(())),
        // Types need no definition; what else a component could import, `instantiate_pre` refuses by name.
        _ => Ok(()),
    }
}

fn deny_function(
    linker: &mut LinkerInstance<'_, State>,
    member: &str,
    ty: &ComponentFunc,
    denial: Denial,
) -> wasmtime::Result<()> {
    let refuse = move |state: &mut State| {
        state.count_host_call();
        state.deny(denial.clone());
        Err(Refused.into())
    };
    if ty.async_() {
        linker.func_new_concurrent(member, move |accessor, _, _, _| {
            let refused = accessor.with(|mut access| refuse(access.get()));
            Box::pin(async move { refused })
        })
    } else {
        linker.func_new(member, move |mut store, _, _, _| refuse(store.data_mut()))
    }
}

/// The error that a denied import leaves the guest with, and the type of its resources, of which none ever exists.
#[derive(Debug)]
pub(crate) struct Refused;

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the guest called an import that was not granted")
    }
}

impl std::error::Error for Refused {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Flavour, Profile, config};

    /// A denial replaces a function that is there already, or else it would be in an interface that nobody imports.
    #[test]
    fn denied_interfaces_are_linked_under_the_names_that_denials_use() {
        let engine =
            wasmtime::Engine::new(&config(Flavour { asynchronous: true, fuel: false, image: false }, Profile::Latency))
                .unwrap();
        let mut linker = Linker::<State>::new(&engine);
        capability::link_types_of_denied(&mut linker, true).unwrap();
        for (import, function) in [
            ("wasi:sockets/instance-network@0.2.3", "instance-network"),
            ("wasi:sockets/ip-name-lookup@0.2.0", "resolve-addresses"),
            ("wasi:sockets/tcp@0.2.0", "[method]tcp-socket.start-connect"),
            ("wasi:sockets/tcp-create-socket@0.2.12", "create-tcp-socket"),
            ("wasi:sockets/udp@0.2.0", "[method]udp-socket.start-bind"),
            ("wasi:sockets/udp-create-socket@0.2.0", "create-udp-socket"),
            ("wasi:http/outgoing-handler@0.2.0", "handle"),
            ("wasi:sockets/types@0.3.0", "[static]tcp-socket.create"),
            ("wasi:sockets/ip-name-lookup@0.3.0", "resolve-addresses"),
            ("wasi:http/client@0.3.0", "send"),
        ] {
            assert!(capability::is_denied_standard(import), "{import}");
            let mut inside = linker.instance(&capability::linked_name(import)).unwrap();
            let twice = inside.func_new(function, |_, _, _, _| Ok(())).unwrap_err().to_string();
            assert!(twice.contains("defined twice"), "{import}#{function}: {twice}");
        }
    }

    #[test]
    fn versions_match_by_track() {
        let cases = [
            ("a:b/c@0.1.0", "a:b/c@0.1.7", true),
            ("a:b/c@0.1.0", "a:b/c@0.2.0", false),
            ("a:b/c@1.0.0", "a:b/c@1.9.0", true),
            ("a:b/c@1.0.0", "a:b/c@2.0.0", false),
            ("a:b/c@0.0.1", "a:b/c@0.0.2", false),
            ("a:b/c@1.0.0-rc1", "a:b/c@1.0.0", false),
            ("a:b/c", "a:b/c", true),
            ("a:b/c", "a:b/c@1.0.0", false),
            ("a:b/c@1.0.0", "a:b/d@1.0.0", false),
        ];
        for (provided, imported, same) in cases {
            assert_eq!(same_track(provided, imported), same, "{provided} for {imported}");
        }
    }
}
