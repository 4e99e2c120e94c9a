//! The exports of a component, found once when it is loaded, and dynamic calls of them.

use super::Engine;
use super::direct::Direct;
use super::lease::Lease;
use super::overlap::Place;
use super::schema;
use super::trap::{self, Fault};
use super::value::{self, Handles, Lowered, Mismatch, Param, Piece};
use crate::error::{Error, ErrorKind, Limit, Result};
use crate::limits::Resolved;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use wasmtime::component::types::{ComponentFunc, ComponentItem, Type};
use wasmtime::component::{Component, ComponentExportIndex, Val};

/// One function that a component exports, with its types.
pub struct Export {
    name: String,
    params: Vec<Param>,
    result: Option<Type>,
    index: ComponentExportIndex,
    direct: Option<Direct>,
    /// Whether it is an `async func`.
    asynchronous: bool,
    /// Why it can't be called with serde values, if it can't.
    unsupported: Option<String>,
}

impl Export {
    /// The full name: `func` at the root, `ns:pkg/interface@version#func` in an interface.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether calls of it take the short way.
    #[cfg(test)]
    pub(crate) fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// The types as a JSON Schema (2020-12): an object with the schema of the `parameters` by name, and of the
    /// `result` where there is one.
    pub fn json_schema(&self) -> serde_json::Value {
        schema::json_schema(&self.params, self.result.as_ref())
    }

    fn lift<T: DeserializeOwned>(&self, result: Option<Piece<'_>>, handles: &mut Handles) -> Result<T, Fault> {
        let lifted = value::lift(result, self.result.as_ref(), handles);
        Ok(lifted.map_err(|mismatch| {
            Error::new(
                ErrorKind::Misuse,
                format!("the call is done, but its result does not fit the type it was asked as: {mismatch}; ask for `serde_json::Value` to see it. It is {self}"),
            )
        })?)
    }
}

impl fmt::Display for Export {
    /// In the notation of WIT: `greet(name: string) -> string`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let params: Vec<String> = self.params.iter().map(|p| format!("{}: {}", p.name, schema::wit(&p.ty))).collect();
        write!(f, "{}({})", self.name, params.join(", "))?;
        self.result.as_ref().map_or(Ok(()), |result| write!(f, " -> {}", schema::wit(result)))
    }
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The functions that a component exports.
#[derive(Default)]
pub(crate) struct Exports {
    /// In the component's order.
    all: Vec<Export>,
    /// Places in `all` by [`key`], so that one is found as quickly among thousands.
    sorted: Vec<usize>,
}

/// What exports are sorted by: those that one short name may mean stand together.
fn key(name: &str) -> (&str, &str) {
    (name.split_once('#').map_or(name, |(_, func)| func), name)
}

impl Exports {
    fn new(all: Vec<Export>) -> Exports {
        let mut sorted: Vec<usize> = (0..all.len()).collect();
        sorted.sort_by_key(|at| key(&all[*at].name));
        Exports { all, sorted }
    }

    pub(crate) fn all(&self) -> &[Export] {
        &self.all
    }

    /// Whether one can be called in an instance where others run.
    pub(crate) fn overlap(&self) -> bool {
        self.all.iter().any(|export| export.asynchronous && export.unsupported.is_none())
    }

    /// The export that a caller means: by its full name, or without version, package or interface where that is clear.
    fn find(&self, asked: &str) -> Result<&Export> {
        let by = |at: &usize| key(&self.all[*at].name);
        let (func, _) = key(asked);
        if let Ok(place) = self.sorted.binary_search_by_key(&(func, asked), by) {
            return Ok(&self.all[self.sorted[place]]);
        }
        let near = &self.sorted[self.sorted.partition_point(|at| by(at).0 < func)..];
        let near = near.iter().take_while(|at| by(at).0 == func).map(|at| &self.all[*at]);
        let mut matching = near.filter(|export| answers(&export.name, asked));
        match (matching.next(), matching.next()) {
            (Some(export), None) => Ok(export),
            (None, _) => {
                let known: Vec<String> = self.all.iter().take(8).map(|export| format!("\"{}\"", export.name)).collect();
                let known = match known.is_empty() {
                    true => "it exports no function".to_owned(),
                    false => format!("it has {}", known.join(", ")),
                };
                let text = format!("the component has no export \"{asked}\"; {known}");
                Err(Error::new(ErrorKind::WrongExport, text))
            }
            (Some(first), Some(second)) => {
                let text = format!(
                    "the export \"{asked}\" could be \"{}\" or \"{}\"; give more of its name",
                    first.name, second.name
                );
                Err(Error::new(ErrorKind::WrongExport, text))
            }
        }
    }

    /// Makes every call the long way.
    #[cfg(test)]
    pub(crate) fn forget_direct(&mut self) {
        self.all.iter_mut().for_each(|export| export.direct = None);
    }
}

/// Every exported function.
pub(crate) fn list(component: &Component, engine: &Engine) -> Exports {
    let mut exports = Vec::new();
    let mut seen = schema::Seen::default();
    for (name, item) in component.component_type().exports(&engine.wasmtime) {
        match &item.ty {
            ComponentItem::ComponentFunc(ty) => {
                exports.extend(
                    component.get_export_index(None, name).map(|index| export(name.to_owned(), ty, index, &mut seen)),
                );
            }
            ComponentItem::ComponentInstance(interface) => {
                let Some(at) = component.get_export_index(None, name) else { continue };
                for (member, item) in interface.exports(&engine.wasmtime) {
                    if let ComponentItem::ComponentFunc(ty) = &item.ty {
                        let index = component.get_export_index(Some(&at), member);
                        exports.extend(index.map(|index| export(format!("{name}#{member}"), ty, index, &mut seen)));
                    }
                }
            }
            _ => {}
        }
    }
    Exports::new(exports)
}

fn export(name: String, ty: &ComponentFunc, index: ComponentExportIndex, seen: &mut schema::Seen) -> Export {
    let params: Vec<Param> = ty.params().map(|(name, ty)| Param { name: name.to_owned(), ty }).collect();
    let result = ty.results().next();
    let unsupported = params.iter().map(|p| &p.ty).chain(&result).find_map(|ty| schema::supported(ty, seen).err());
    let direct = Direct::of(&params, result.as_ref());
    Export { name, params, result, index, direct, asynchronous: ty.async_(), unsupported }
}

/// Whether `asked` is a short form of the full name: `func`, `interface#func`, `ns:pkg/interface#func`.
fn answers(full: &str, asked: &str) -> bool {
    let Some((interface, func)) = full.split_once('#') else { return false };
    let unversioned = interface.split_once('@').map_or(interface, |(name, _)| name);
    let short = unversioned.rsplit_once('/').map_or(unversioned, |(_, name)| name);
    match asked.split_once('#') {
        Some((asked_interface, asked_func)) => {
            asked_func == func && [interface, unversioned, short].contains(&asked_interface)
        }
        None => asked == func,
    }
}

/// A dynamic call whose arguments fit.
pub(crate) struct Ready<'a> {
    export: &'a Export,
    args: Vec<Lowered>,
    bytes: u64,
}

impl Ready<'_> {
    /// Whether it can be made in an instance where others run.
    pub(crate) fn overlaps(&self) -> bool {
        self.export.asynchronous
    }
}

/// Finds the export and turns the arguments into WIT values. Nothing of the guest runs.
pub(crate) fn prepare<'a>(
    exports: &'a Exports,
    export: &str,
    args: &impl Serialize,
    limits: &Resolved,
) -> Result<Ready<'a>> {
    let export = exports.find(export)?;
    if let Some(why) = &export.unsupported {
        let text = format!(
            "the export \"{}\" cannot be called on its own: {why}; call it in a session, or see `world!`",
            export.name
        );
        return Err(Error::new(ErrorKind::WrongExport, text));
    }
    lower(export, args, &mut Handles::default(), 0, limits)
}

/// `spent` bytes of the input limit are spent already.
fn lower<'a>(
    export: &'a Export,
    args: &impl Serialize,
    handles: &mut Handles,
    spent: u64,
    limits: &Resolved,
) -> Result<Ready<'a>> {
    let lowered = value::lower(args, &export.params, handles, limits.input.saturating_sub(spent));
    let (args, bytes) = lowered.map_err(|mismatch| match mismatch {
        Mismatch::TooLarge => Error::new(
            ErrorKind::LimitExceeded(Limit::Input),
            format!(
                "the arguments of \"{}\" bring the call's input to more than {} bytes; pass less, or raise `Limits::input`",
                export.name, limits.input
            ),
        ),
        mismatch => {
            Error::new(ErrorKind::WrongArguments, format!("the arguments do not fit: {mismatch}; it is {export}"))
        },
    })?;
    Ok(Ready { export, args, bytes })
}

/// Makes the call in a started instance.
pub(crate) async fn invoke<T: DeserializeOwned>(
    lease: &mut Lease,
    ready: Ready<'_>,
    handles: &mut Handles,
    limits: &Resolved,
) -> Result<T, Fault> {
    let Ready { export, args, bytes } = ready;
    let instance = lease.instance()?;
    lease.store.data_mut().bytes_in += bytes;
    let function = instance
        .get_func(&mut lease.store, export.index)
        .ok_or_else(|| Error::new(ErrorKind::Internal, "an export is gone; please report this"))?;
    let mut results = [Val::Bool(false)];
    let result = match export.direct {
        Some(direct) => direct.call(&mut lease.store, function, args).await?,
        None => {
            let args: Vec<Val> = args.into_iter().map(Lowered::val).collect();
            let results = &mut results[..usize::from(export.result.is_some())];
            function.call_async(&mut lease.store, &args, results).await?;
            results.first_mut().map(Piece::take)
        }
    };
    let state = lease.store.data_mut();
    state.bytes_out = state.bytes_out.saturating_add(result.as_ref().map_or(0, Piece::bytes));
    if state.bytes_out > limits.output {
        return Err(trap::output_too_large(limits).into());
    }
    export.lift(result, handles)
}

/// Makes the call in an instance that it may share.
pub(crate) async fn invoke_among<T: DeserializeOwned>(place: &mut Place, ready: Ready<'_>) -> Result<T, Fault> {
    let Ready { export, args, bytes } = ready;
    place.traffic(bytes, 0);
    let (index, direct, has_result) = (export.index, export.direct, export.result.is_some());
    let ended = place.run(move |part| {
        Box::pin(async move {
            let function = part.accessor().with(|access| part.instance().get_func(access, index));
            let function =
                function.ok_or_else(|| Error::new(ErrorKind::Internal, "an export is gone; please report this"))?;
            let mut results = vec![Val::Bool(false); usize::from(has_result)];
            let whole = match direct {
                Some(direct) => direct.call_among(part, function, args).await?,
                None => {
                    let args: Vec<Val> = args.into_iter().map(Lowered::val).collect();
                    part.call(function, &args, &mut results).await?;
                    None
                }
            };
            let bytes = match &whole {
                Some(whole) => whole.bytes(),
                None => results.first().map_or(0, |val| Piece::Val(val).bytes()),
            };
            let limits = part.limits();
            if bytes > limits.output {
                return Err(trap::output_too_large(limits).into());
            }
            Ok((whole, results, bytes))
        })
    });
    let (whole, mut results, bytes) = ended.await?;
    place.traffic(0, bytes);
    export.lift(whole.or_else(|| results.first_mut().map(Piece::take)), &mut Handles::default())
}

/// Several dynamic calls in one instance, fresh or kept. Resources live in it, as opaque [`Handle`](super::value::Handle)s.
pub struct Session<'a> {
    lease: &'a mut Lease,
    exports: &'a Exports,
    limits: &'a Resolved,
    handles: Handles,
}

impl<'a> Session<'a> {
    pub(crate) fn new(lease: &'a mut Lease, exports: &'a Exports, limits: &'a Resolved) -> Session<'a> {
        Session { lease, exports, limits, handles: Handles::default() }
    }

    /// Calls an export by name, as [`Function::call`](crate::Function::call) does, in this session's instance.
    ///
    /// # Errors
    /// As `Function::call`. After an error that ended the guest, every further call of the session fails.
    pub async fn call<T: DeserializeOwned>(&mut self, export: &str, args: impl Serialize) -> Result<T> {
        let export = self.exports.find(export)?;
        let spent = self.lease.store.data().bytes_in;
        let ready = lower(export, &args, &mut self.handles, spent, self.limits);
        drop(args);
        let ready = ready?;
        self.lease.store.data_mut().begin_part();
        match invoke(self.lease, ready, &mut self.handles, self.limits).await {
            Ok(value) => {
                self.lease.store.data_mut().end_part();
                Ok(value)
            }
            Err(Fault::Own(error)) => Err(error),
            Err(Fault::Wasm(error)) => Err(trap::explain(&error, self.lease.store.data(), self.limits)),
        }
    }

    /// Drops a resource before the session ends. A handle that is gone already is not an error.
    pub async fn release(&mut self, handle: super::value::Handle) -> Result<()> {
        let Some(resource) = self.handles.remove(handle) else { return Ok(()) };
        self.lease.store.data_mut().begin_part();
        let dropped = resource.resource_drop_async(&mut self.lease.store).await;
        dropped
            .map(|()| self.lease.store.data_mut().end_part())
            .map_err(|error| trap::explain(&error, self.lease.store.data(), self.limits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_answer() {
        let full = "acme:tools/search@1.2.0#find";
        for asked in ["find", "search#find", "acme:tools/search#find", full] {
            assert!(answers(full, asked), "{asked}");
        }
        for asked in ["search", "fin", "tools/search#find", "acme:tools/search@1.3.0#find", "x#find", ""] {
            assert!(!answers(full, asked), "{asked}");
        }
    }
}
