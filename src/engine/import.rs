//! Imports by closure: single host functions, by name and with serde values, and one for all that nothing else serves.

use super::state::State;
use super::value::{self, Mismatch, Param};
use crate::context::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use wasmtime::component::types::{ComponentFunc, Type};
use wasmtime::component::{LinkerInstance, Val};

/// A host function of the embedder's, and the import that it is for.
pub(crate) struct Closure {
    interface: String,
    function: String,
    call: Arc<Call>,
}

/// Lifts the arguments, and lowers what the future gives.
type Call = dyn Fn(Context, &[Val], &Arc<Signature>) -> Result<Answer, Mismatch> + Send + Sync;
type Answer = Pin<Box<dyn Future<Output = Result<Option<Val>, Mismatch>> + Send>>;

/// The types of an imported function.
pub(crate) struct Signature {
    pub(super) name: Arc<str>,
    pub(super) params: Vec<Param>,
    pub(super) result: Option<Type>,
}

impl Signature {
    pub(super) fn new(name: impl Into<Arc<str>>, ty: &ComponentFunc) -> Signature {
        let params = ty.params().map(|(name, ty)| Param { name: name.to_owned(), ty }).collect();
        Signature { name: name.into(), params, result: ty.results().next() }
    }
}

impl Closure {
    pub(crate) fn new<A, R, Fut>(
        interface: &str,
        function: &str,
        call: impl Fn(Context, A) -> Fut + Send + Sync + 'static,
    ) -> Closure
    where
        A: DeserializeOwned,
        R: Serialize,
        Fut: Future<Output = R> + Send + 'static,
    {
        Closure {
            interface: interface.to_owned(),
            function: function.to_owned(),
            call: erased(move |context, _, args| call(context, args)),
        }
    }

    /// Whether it is for that import: by the interface's name, with its version or without.
    pub(crate) fn is_for(&self, interface: &str, function: &str) -> bool {
        let unversioned = interface.split_once('@').map_or(interface, |(name, _)| name);
        self.function == function && (self.interface == interface || self.interface == unversioned)
    }

    pub(crate) fn link(&self, linker: &mut LinkerInstance<'_, State>, ty: &ComponentFunc) -> wasmtime::Result<()> {
        let call = Arc::clone(&self.call);
        let signature = Arc::new(Signature::new(self.to_string(), ty));
        if ty.async_() {
            return linker.func_new_concurrent(&self.function, move |accessor, _, args, results| {
                let answer = accessor.with(|mut access| begin(&*call, access.get(), args, &signature));
                let signature = Arc::clone(&signature);
                Box::pin(async move { end(outside(answer?).await, results, &signature) })
            });
        }
        linker.func_new_async(&self.function, move |mut store, _, args, results| {
            let answer = begin(&*call, store.data_mut(), args, &signature);
            let signature = Arc::clone(&signature);
            Box::new(async move { end(answer?.await, results, &signature) })
        })
    }
}

impl fmt::Display for Closure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.interface.as_str() {
            "" => f.write_str(&self.function),
            interface => write!(f, "{interface}#{}", self.function),
        }
    }
}

/// A host function of the embedder's for every import that nothing else serves.
pub(crate) struct Others(Arc<Call>);

impl Others {
    pub(crate) fn new<A, R, Fut>(call: impl Fn(Context, Arc<str>, A) -> Fut + Send + Sync + 'static) -> Others
    where
        A: DeserializeOwned,
        R: Serialize,
        Fut: Future<Output = R> + Send + 'static,
    {
        Others(erased(call))
    }

    /// For that import; `interface` is empty for a function that is imported by itself.
    pub(super) fn closure(&self, interface: &str, function: &str) -> Closure {
        Closure { interface: interface.to_owned(), function: function.to_owned(), call: Arc::clone(&self.0) }
    }
}

fn erased<A, R, Fut>(call: impl Fn(Context, Arc<str>, A) -> Fut + Send + Sync + 'static) -> Arc<Call>
where
    A: DeserializeOwned,
    R: Serialize,
    Fut: Future<Output = R> + Send + 'static,
{
    Arc::new(move |context: Context, args: &[Val], signature: &Arc<Signature>| {
        let answer = call(context, Arc::clone(&signature.name), value::lift_args(args, &signature.params)?);
        let signature = Arc::clone(signature);
        // The embedder's own value; what the guest has no memory for, it is not given.
        let answer: Answer =
            Box::pin(async move { value::lower_result(&answer.await, signature.result.as_ref(), u64::MAX) });
        Ok(answer)
    })
}

fn begin(call: &Call, state: &mut State, args: &[Val], signature: &Arc<Signature>) -> wasmtime::Result<Answer> {
    state.count_host_call();
    state.in_call()?;
    Ok(call(state.context(), args, signature).map_err(|mismatch| Unfit::new(signature, "arguments", &mismatch))?)
}

/// Has the runtime poll it, where there is one, as long as the call goes on. What is polled beside a guest of WASI 0.3 is
/// polled within wasmtime's own loop for its store, where no call of another such guest may begin.
async fn outside(answer: Answer) -> Result<Option<Val>, Mismatch> {
    struct Task(JoinHandle<Result<Option<Val>, Mismatch>>);
    impl Drop for Task {
        fn drop(&mut self) {
            self.0.abort();
        }
    }
    let Ok(runtime) = Handle::try_current() else { return answer.await };
    let mut task = Task(runtime.spawn(answer));
    match (&mut task.0).await {
        Ok(answer) => answer,
        Err(ended) => match ended.try_into_panic() {
            Ok(payload) => std::panic::resume_unwind(payload),
            // The runtime is shut down.
            Err(_) => std::future::pending().await,
        },
    }
}

fn end(answer: Result<Option<Val>, Mismatch>, results: &mut [Val], signature: &Signature) -> wasmtime::Result<()> {
    let answer = answer.map_err(|mismatch| Unfit::new(signature, "result", &mismatch))?;
    results.iter_mut().zip(answer).for_each(|(result, answer)| *result = answer);
    Ok(())
}

/// The embedder's types are not those of the import.
#[derive(Debug)]
pub(crate) struct Unfit(String);

impl Unfit {
    pub(super) fn new(signature: &Signature, what: &str, mismatch: &Mismatch) -> Unfit {
        Unfit(format!("the host function for \"{}\" does not fit the import: {what}: {mismatch}", signature.name))
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unfit {}
