//! Scripts: an interpreter that is a guest like others, and what it is given to run.
//!
//! The interpreter compiles a source once, to code of its own that only it reads, and each call has it load that code in an
//! instance that nobody used before. What is damaged in it, by a bug or by a script, is damaged in the sandbox.

mod image;
mod json;
mod workshop;

use super::lease::Lease;
use super::trap::{self, Fault};
use crate::bindings::script as wit;
use crate::error::{Error, ErrorKind, Limit, Result};
use crate::exception::Exception;
use crate::limits::Resolved;
pub(crate) use image::{Image, Snapshots};
use json::{Given, Octets, Unfit};
use parking_lot::RwLock;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
#[cfg(feature = "typescript")]
pub(crate) use workshop::Stripper;
pub(crate) use workshop::{Fit, Runtime, Workshop};

/// What a script is written in.
#[non_exhaustive]
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Language {
    /// JavaScript as QuickJS-ng has it, ECMAScript 2024 and more: modules, async functions, BigInt, regular expressions
    /// with Unicode. There is no `Intl`, no `WebAssembly` and no `SharedArrayBuffer`; `eval` and `new Function` only
    /// [where you say so](crate::ScriptBuilder::eval). The `toString` of a function does not give its source.
    JavaScript,
    /// JavaScript with types, which are taken out and not checked, by swc, which is a guest too. What is more than a type is
    /// [`ErrorKind::InvalidScript`]: `enum`, namespaces with values, parameters that are properties. That is TypeScript as
    /// its own option `erasableSyntaxOnly` has it.
    #[cfg(feature = "typescript")]
    TypeScript,
    /// What an interpreter runs that you bring.
    Of(Interpreter),
}

impl Language {
    /// What to write, for who wrote no function.
    pub(crate) fn hint(&self) -> &'static str {
        if let Language::Of(_) = self { "" } else { "; write `export default function (input) { .. }`" }
    }

    /// The interpreter, if it is not isopod's own.
    pub(crate) fn interpreter(&self) -> Option<&Interpreter> {
        if let Language::Of(interpreter) = self { Some(interpreter) } else { None }
    }
}

/// An interpreter of a language of your choice: a component of the world `isopod:script/interpreter`, which is in
/// `wit/script` of this crate. It `compile`s a source once, to what its `load` takes in an instance of each call, before
/// `run` has the input.
///
/// It is your own code as [`Trust::Own`](crate::Trust::Own) has it: its scripts are the strangers. What it imports of
/// `isopod:script` answers as a script's grants say; of WASI it finds what needs no grant, such as an empty environment, and
/// all else is denied. A host compiles it for the first of its scripts, and keeps it as long as it lives.
#[derive(Clone)]
pub struct Interpreter {
    component: Arc<[u8]>,
    digest: blake3::Hash,
}

impl Interpreter {
    /// Of the bytes of a component. They are looked at when a script is loaded.
    ///
    /// ```no_run
    /// # async fn run(host: isopod::Host) -> Result<(), Box<dyn std::error::Error>> {
    /// use isopod::{Interpreter, Language};
    ///
    /// let python = Language::Of(Interpreter::new(std::fs::read("python.wasm")?));
    /// let rule = host.script("rule-7", python, "def main(input, context):\n    return input + 1\n").load().await?;
    /// assert_eq!(rule.call::<u32>("default", (1,)).await?.value, 2);
    /// # Ok(()) }
    /// ```
    pub fn new(component: impl Into<Vec<u8>>) -> Interpreter {
        let component: Arc<[u8]> = component.into().into();
        Interpreter { digest: blake3::hash(&component), component }
    }

    pub(crate) fn component(&self) -> &[u8] {
        &self.component
    }

    pub(crate) fn digest(&self) -> blake3::Hash {
        self.digest
    }
}

/// By what the bytes are.
impl PartialEq for Interpreter {
    fn eq(&self, other: &Interpreter) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Interpreter {}

impl Hash for Interpreter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

impl fmt::Debug for Interpreter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interpreter").field("digest", &self.digest.to_hex().as_str()).finish()
    }
}

/// A source that was compiled.
pub(crate) struct Program {
    pub source: Box<str>,
    pub code: Box<[u8]>,
    /// Where it begins, if that is not at its top.
    pub image: Option<Image>,
}

/// What a script's calls run.
pub(crate) struct Script {
    runtime: Arc<Runtime>,
    pub language: Language,
    /// Calls that have begun end with the one that they began with.
    program: RwLock<Arc<Program>>,
    /// Held by an update from when it begins to compile, so that the last of several is the one that stays.
    pub updating: tokio::sync::Mutex<()>,
    pub options: wit::Options,
}

impl Script {
    pub(crate) fn new(runtime: Arc<Runtime>, language: Language, program: Program, options: wit::Options) -> Script {
        Script { runtime, language, program: RwLock::new(Arc::new(program)), updating: Default::default(), options }
    }

    pub(crate) fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    /// Whether it begins where its top level ended.
    pub(crate) fn is_snapshot(&self) -> bool {
        self.program.read().image.is_some()
    }

    /// What calls run that begin from now on.
    pub(crate) fn replace(&self, program: Program) {
        *self.program.write() = Arc::new(program);
    }

    /// Starts an instance, if it is not started, has it load the script, and calls it.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        lease: &mut Lease,
        input: Input,
        limits: &Resolved,
    ) -> Result<T, Fault> {
        let program = Arc::clone(&self.program.read());
        let blame = Blame { who: "the script", source: &program.source, language: &self.language };
        let guest = match &program.image {
            Some(image) => image.begin(lease).await?,
            None => {
                if !lease.is_started() {
                    lease.start(self.runtime.pre()).await?;
                }
                let guest = self.runtime.guest(lease)?;
                let (seed, salt) = lease.store.data_mut().bound.random.insecure();
                let loaded = guest.call_load(&mut lease.store, &program.code, self.options, seed, salt).await?;
                loaded.map_err(|failure| blame.error(failure, lease))?;
                guest
            }
        };
        lease.store.data_mut().bytes_in += input.size();
        let answer = guest.call_run(&mut lease.store, &input.0).await?;
        let answer = answer.map_err(|failure| blame.error(failure, lease))?;
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
        // What it gives is the script's to answer for: JSON that the host does not read, such as half of a pair of surrogates,
        // or something else than it was asked for.
        Ok(value.map_err(|e| {
            let (what, instead) = match e.is_data() {
                true => ("is not what the host asked for", "give that"),
                false => ("has a form in JSON that the host does not read", "give another"),
            };
            Error::new(ErrorKind::Thrown, format!("the result {what}: {e}; {instead}"))
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
        Ok(Given::Json(json)) => Ok(Input(wit::Value::Json(json))),
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

/// Whose text it was that failed.
struct Blame<'a> {
    who: &'static str,
    source: &'a str,
    language: &'a Language,
}

impl Blame<'_> {
    fn error(&self, failure: wit::Failure, lease: &Lease) -> Error {
        let wit::Failure { cause, name, message, line, column, stack } = failure;
        let exception = Exception::new(&name, &message, &stack, (line, column), self.source);
        let (kind, text) = match cause {
            // What the interpreter then throws is whatever it has room for; and a script can throw the same without cause.
            _ if lease.store.data().budget.refused => {
                let end = match exception.name().is_empty() && exception.message().is_empty() {
                    true => String::new(),
                    false => format!(", and ended with {exception}"),
                };
                let text = format!("it ran out of memory{end}; raise `Limits::memory` if it needs more");
                (ErrorKind::OutOfMemory, text)
            }
            wit::Cause::Syntax => (ErrorKind::InvalidScript, format!("the source does not compile: {exception}")),
            wit::Cause::NoFunction => {
                (ErrorKind::InvalidScript, format!("{}{}", exception.message(), self.language.hint()))
            }
            wit::Cause::Thrown | wit::Cause::OutOfMemory => {
                (ErrorKind::Thrown, format!("{} threw {exception}", self.who))
            }
            wit::Cause::NoJson => {
                let text = format!(
                    "the result has no form in JSON: {}; give null, a boolean, a number, a string, an array or an object of these, or a Uint8Array",
                    exception.message()
                );
                (ErrorKind::Thrown, text)
            }
            wit::Cause::Stuck => (ErrorKind::Thrown, format!("{}; settle it, or do not await it", exception.message())),
        };
        Error::new(kind, text).thrown(exception)
    }
}
