//! Guests that work on sources, each in an instance that ends with it.

use super::{Blame, Language, wit};
#[cfg(feature = "typescript")]
use crate::bindings::typescript;
use crate::capability::{self, Bound};
use crate::clock::Nanos;
use crate::engine::lease::{self, Blueprint, Lease};
use crate::engine::linker::{self, Given};
use crate::engine::slots::Slots;
use crate::engine::trap::Fault;
use crate::engine::{Component, Engine, LinkResult, Linker, Pre};
use crate::error::{Error, ErrorKind, Result};
#[cfg(feature = "typescript")]
use crate::exception::Exception;
use crate::limits::Resolved;
use std::sync::Arc;
use std::time::Duration;
use wit::{Interpreter, InterpreterIndices};

/// A guest that makes something of sources.
pub(crate) struct Workshop {
    pub component: Component,
    pub blueprint: Blueprint,
}

impl Workshop {
    /// A store for one source, which reaches what `bound` says. `None` if there is no slot to spare.
    pub(crate) fn open(&self, slots: &Arc<Slots>, bound: &Arc<Bound>, deadline: Nanos) -> Option<Lease> {
        let room = Slots::take_spare(slots, self.blueprint.width)?;
        Some(self.blueprint.make_early(room, bound, deadline))
    }
}

/// What a workshop is made of that was loaded.
pub(crate) struct Fit {
    pub engine: Arc<Engine>,
    pub component: Component,
    pub width: u32,
    pub starts: bool,
    pub limits: Resolved,
    pub bound: Arc<Bound>,
    pub tick: Duration,
}

impl Fit {
    /// With what scripts ask of their host, and what `link` brings besides, which is named.
    pub(super) fn workshop(
        self,
        link: impl FnOnce(&mut Linker) -> LinkResult,
        name: &[&str],
    ) -> Result<(Workshop, Linker)> {
        let Fit { engine, component, width, starts, limits, bound, tick } = self;
        let provided = [name, &capability::script::INTERFACES].concat();
        let link = |linker: &mut Linker| {
            capability::script::link(linker)?;
            link(linker)
        };
        let given = Given { provided: &provided, link: Some(link), closures: Vec::new(), others: None };
        let linker = linker::wire(&engine, &component, &bound, given, true)?.into_owned();
        let pre = linker.instantiate_pre(&component).map_err(unfit)?;
        let (imports, prepare, fuel_interval) = (None, None, lease::fuel_interval(&component));
        let blueprint = Blueprint { engine, pre, limits, fuel_interval, tick, bound, imports, prepare, width, starts };
        Ok((Workshop { component, blueprint }, linker))
    }
}

pub(super) fn unfit(error: wasmtime::Error) -> Error {
    let text = "this is no interpreter of scripts; build it for the world `isopod:script/interpreter` of this version";
    Error::new(ErrorKind::WrongExport, text).because(error.chain().map(ToString::to_string))
}

/// An interpreter that can be instantiated.
pub(crate) struct Runtime {
    /// For sources that it compiles.
    pub workshop: Workshop,
    indices: InterpreterIndices,
}

impl Runtime {
    pub(crate) fn new(fit: Fit) -> Result<Runtime> {
        Runtime::with(fit, |_| Ok(()), &[]).map(|(runtime, _)| runtime)
    }

    /// As [`Fit::workshop`].
    pub(super) fn with(
        fit: Fit,
        link: impl FnOnce(&mut Linker) -> LinkResult,
        name: &[&str],
    ) -> Result<(Runtime, Linker)> {
        let (workshop, linker) = fit.workshop(link, name)?;
        let indices = InterpreterIndices::new(&workshop.blueprint.pre).map_err(unfit)?;
        Ok((Runtime { workshop, indices }, linker))
    }

    pub(super) fn pre(&self) -> &Pre {
        &self.workshop.blueprint.pre
    }

    /// The exports of a started instance.
    pub(super) fn guest(&self, lease: &mut Lease) -> wasmtime::Result<Interpreter> {
        let instance = lease.instance()?;
        self.indices.load(&mut lease.store, &instance)
    }

    /// Compiles what was made of a source.
    pub(crate) async fn compile(
        &self,
        lease: &mut Lease,
        plain: &str,
        source: &str,
        language: &Language,
    ) -> Result<Box<[u8]>, Fault> {
        lease.start(self.pre()).await?;
        let guest = self.guest(lease)?;
        let code = guest.call_compile(&mut lease.store, plain).await?;
        let blame = Blame { who: "the source", source, language };
        Ok(code.map_err(|failure| blame.error(failure, lease))?.into())
    }
}

/// What makes JavaScript of TypeScript.
#[cfg(feature = "typescript")]
pub(crate) struct Stripper {
    pub workshop: Workshop,
    indices: typescript::TypescriptIndices,
}

#[cfg(feature = "typescript")]
impl Stripper {
    pub(crate) fn new(fit: Fit) -> Result<Stripper> {
        let (workshop, _) = fit.workshop(|_| Ok(()), &[])?;
        let indices = typescript::TypescriptIndices::new(&workshop.blueprint.pre).map_err(unfit)?;
        Ok(Stripper { workshop, indices })
    }

    /// The same source with blanks in place of types.
    pub(crate) async fn strip(&self, lease: &mut Lease, source: &str) -> Result<String, Fault> {
        lease.start(&self.workshop.blueprint.pre).await?;
        let instance = lease.instance()?;
        let guest = self.indices.load(&mut lease.store, &instance)?;
        guest.call_strip(&mut lease.store, source).await?.map_err(|refusal| {
            let typescript::Refusal { message, line, column } = refusal;
            let exception = Exception::new("SyntaxError", &message, "", (line, column), source);
            let text = format!("the source does not compile: {exception}");
            Error::new(ErrorKind::InvalidScript, text).thrown(exception).into()
        })
    }
}
