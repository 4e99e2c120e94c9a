//! Scripts: an interpreter that is a guest like others, and what it is given to run.
//!
//! The interpreter compiles a source once, to code of its own that only it reads, and each call has it load that code in an
//! instance that nobody used before. What is damaged in it, by a bug or by a script, is damaged in the sandbox.

mod json;

use super::lease::{self, Blueprint, Lease};
use super::slots::Slots;
use super::trap::{self, Fault};
use super::{Component, Engine, Linker};
use crate::bindings::script::{self as wit, InterpreterIndices};
#[cfg(feature = "typescript")]
use crate::bindings::typescript;
use crate::capability::{self, Bound};
use crate::clock::Nanos;
use crate::error::{Error, ErrorKind, Limit, Result};
use crate::exception::Exception;
use crate::limits::Resolved;
use json::{Given, Octets, Unfit};
use parking_lot::RwLock;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;

/// What a script is written in.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Language {
    /// JavaScript as QuickJS-ng has it, ECMAScript 2024 and more: modules, async functions, BigInt, regular expressions
    /// with Unicode. There is no `Intl`, no `WebAssembly` and no `SharedArrayBuffer`; `eval` and `new Function` only
    /// [where you say so](crate::ScriptBuilder::eval).
    JavaScript,
    /// JavaScript with types, which are taken out and not checked, by swc, which is a guest too. What is more than a type is
    /// [`ErrorKind::InvalidScript`]: `enum`, namespaces with values, parameters that are properties. That is TypeScript as
    /// its own option `erasableSyntaxOnly` has it.
    #[cfg(feature = "typescript")]
    TypeScript,
}

/// A guest that makes something of sources, each in an instance that ends with it.
pub(crate) struct Workshop {
    pub component: Component,
    pub blueprint: Blueprint,
}

impl Workshop {
    /// A store for one source. `None` if there is no slot to spare.
    pub(crate) fn open(&self, slots: &Arc<Slots>, deadline: Nanos) -> Option<Lease> {
        let room = Slots::take_spare(slots, self.blueprint.width)?;
        Some(self.blueprint.make_early(room, &self.blueprint.bound, deadline))
    }
}

fn broken(error: wasmtime::Error) -> Error {
    Error::new(ErrorKind::Internal, "a guest of isopod's own does not fit; please report this")
        .because([error.to_string()])
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
    fn workshop(self) -> Result<Workshop> {
        let Fit { engine, component, width, starts, limits, bound, tick } = self;
        let mut linker = Linker::new(&engine.wasmtime);
        capability::script::link(&mut linker).map_err(broken)?;
        let pre = linker.instantiate_pre(&component).map_err(broken)?;
        let (imports, prepare, fuel_interval) = (None, None, lease::fuel_interval(&component));
        let blueprint = Blueprint { engine, pre, limits, fuel_interval, tick, bound, imports, prepare, width, starts };
        Ok(Workshop { component, blueprint })
    }
}

/// An interpreter that can be instantiated.
pub(crate) struct Interpreter {
    /// For sources that it compiles.
    pub workshop: Workshop,
    indices: InterpreterIndices,
}

impl Interpreter {
    pub(crate) fn new(fit: Fit) -> Result<Interpreter> {
        let workshop = fit.workshop()?;
        let indices = InterpreterIndices::new(&workshop.blueprint.pre).map_err(broken)?;
        Ok(Interpreter { workshop, indices })
    }

    /// Compiles a source.
    pub(crate) async fn compile(&self, lease: &mut Lease, source: &str) -> Result<Box<[u8]>, Fault> {
        lease.start(&self.workshop.blueprint.pre).await?;
        let instance = lease.instance()?;
        let guest = self.indices.load(&mut lease.store, &instance)?;
        match guest.call_compile(&mut lease.store, source).await? {
            Ok(code) => Ok(code.into()),
            Err(failure) => Err(explain(failure, source).into()),
        }
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
        let workshop = fit.workshop()?;
        let indices = typescript::TypescriptIndices::new(&workshop.blueprint.pre).map_err(broken)?;
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

/// A source that was compiled.
pub(crate) struct Program {
    pub source: Box<str>,
    pub code: Box<[u8]>,
}

/// What a script's calls run.
pub(crate) struct Script {
    interpreter: Arc<Interpreter>,
    pub language: Language,
    /// Calls that have begun end with the one that they began with.
    program: RwLock<Arc<Program>>,
    options: wit::Options,
}

impl Script {
    pub(crate) fn new(interpreter: Arc<Interpreter>, language: Language, program: Program, eval: bool) -> Script {
        let options = if eval { wit::Options::EVAL } else { wit::Options::empty() };
        Script { interpreter, language, program: RwLock::new(Arc::new(program)), options }
    }

    pub(crate) fn interpreter(&self) -> &Interpreter {
        &self.interpreter
    }

    /// What calls run that begin from now on.
    pub(crate) fn replace(&self, program: Program) {
        *self.program.write() = Arc::new(program);
    }

    /// Has a started instance load the script, and calls it.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        lease: &mut Lease,
        input: Input,
        limits: &Resolved,
    ) -> Result<T, Fault> {
        let program = Arc::clone(&self.program.read());
        let instance = lease.instance()?;
        let guest = self.interpreter.indices.load(&mut lease.store, &instance)?;
        let state = lease.store.data_mut();
        state.bytes_in += input.size();
        let (seed, salt) = state.bound.random.insecure();
        let loaded = guest.call_load(&mut lease.store, &program.code, self.options, seed, salt).await?;
        loaded.map_err(|failure| explain(failure, &program.source))?;
        let answer = guest.call_run(&mut lease.store, &input.0).await?;
        let answer = answer.map_err(|failure| explain(failure, &program.source))?;
        let (wit::Value::Json(bytes) | wit::Value::Bytes(bytes)) = &answer;
        lease.store.data_mut().bytes_out += bytes.len() as u64;
        if bytes.len() as u64 > limits.output {
            return Err(trap::output_too_large(limits).into());
        }
        let value = match &answer {
            wit::Value::Json(json) if json::size(json) > limits.transfer as u64 => {
                return Err(trap::result_too_large(limits).into());
            }
            wit::Value::Json(json) => serde_json::from_slice(json),
            wit::Value::Bytes(bytes) => T::deserialize(Octets(bytes)),
        };
        Ok(value.map_err(|e| {
            if !e.is_data() {
                // Such as half of a pair of surrogates, or lists within lists within lists.
                let text = format!("the result has a form in JSON that the host does not read: {e}; give another");
                return Error::new(ErrorKind::Thrown, text);
            }
            let text = format!(
                "the call is done, but its result does not fit the type it was asked as: {e}; ask for `serde_json::Value` to see it"
            );
            Error::new(ErrorKind::Misuse, text)
        })?)
    }
}

/// The argument of a script's function.
pub(crate) struct Input(wit::Value);

impl Input {
    fn size(&self) -> u64 {
        let (wit::Value::Json(bytes) | wit::Value::Bytes(bytes)) = &self.0;
        bytes.len() as u64
    }
}

/// The only export of a script, as its module names it.
const EXPORT: &str = "default";

/// The one argument, as JSON, or as it is if it is bytes.
pub(crate) fn input(export: &str, args: &impl Serialize, limits: &Resolved) -> Result<Input> {
    if export != EXPORT {
        let text = format!("a script has no export \"{export}\"; call its \"{EXPORT}\"");
        return Err(Error::new(ErrorKind::WrongExport, text));
    }
    match json::only(args, limits.input) {
        Ok(Given::Bytes(bytes)) => Ok(Input(wit::Value::Bytes(bytes))),
        Ok(Given::Json(mut json)) => {
            // Which QuickJS wants behind the end.
            json.push(0);
            Ok(Input(wit::Value::Json(json)))
        }
        Err(Unfit::TooLarge) => {
            let text = format!("the input has more than {} bytes; pass less, or raise `Limits::input`", limits.input);
            Err(Error::new(ErrorKind::LimitExceeded(Limit::Input), text))
        }
        Err(Unfit::Other(why)) => {
            let text = format!("{why}; pass one argument in a tuple: `call(\"{EXPORT}\", (input,))`");
            Err(Error::new(ErrorKind::WrongArguments, text))
        }
    }
}

fn explain(failure: wit::Failure, source: &str) -> Error {
    let wit::Failure { cause, name, message, line, column, stack } = failure;
    let exception = Exception::new(&name, &message, &stack, (line, column), source);
    let (kind, text) = match cause {
        wit::Cause::Syntax => (ErrorKind::InvalidScript, format!("the source does not compile: {exception}")),
        wit::Cause::NoFunction => {
            let text = format!("{}; write `export default function (input) {{ .. }}`", exception.message());
            (ErrorKind::InvalidScript, text)
        }
        wit::Cause::Thrown => (ErrorKind::Thrown, format!("the script threw {exception}")),
        wit::Cause::NoJson => {
            let text = format!(
                "the result has no form in JSON: {}; give null, a boolean, a number, a string, an array or an object of these, or a Uint8Array",
                exception.message()
            );
            (ErrorKind::Thrown, text)
        }
        wit::Cause::Stuck => (ErrorKind::Thrown, format!("{}; settle it, or do not await it", exception.message())),
        wit::Cause::OutOfMemory => {
            (ErrorKind::OutOfMemory, "it ran out of memory; raise `Limits::memory` if it needs more".to_owned())
        }
    };
    Error::new(kind, text).thrown(exception)
}
