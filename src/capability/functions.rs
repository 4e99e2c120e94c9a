//! Calls of other functions of the same host, by `isopod:function/functions`.
//!
//! Calls that calls make are a tree. Its root's limits hold for all of it: the deadline, the number of calls and their
//! depth; and what a called function uses of time or fuel is used of its caller's too. A function that calls itself, or
//! two that call each other, end at the depth.

use super::{Bound, Reach, View};
use crate::bindings::capabilities::isopod::function::functions as wit;
use crate::clock::Nanos;
use crate::denial::Denial;
use crate::error::{Error, ErrorKind, Limit, Result};
use crate::text::{nearest, quoted, sanitise};
use serde_json::Value;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use wasmtime::StoreContextMut;
use wasmtime::component::Linker;

/// Permission to call one other function of the host, by the name that it was loaded under.
///
/// The call is for the caller's tenant. It takes a seat of its own and does not wait for one; the caller's deadline
/// holds for it, and its busy time or fuel counts as the caller's too; a callee that is metered by time costs a caller
/// that counts fuel one unit for each nanosecond. Its arguments are at most 16 384 values, of which a list of bytes is
/// one. The error text that the caller gets is that of [`Error`](crate::Error), or its kind alone where the call is for
/// another tenant.
///
/// The function is looked up when it is called: of those that are [`callable`](crate::FunctionBuilder::callable), the one
/// loaded last under that name, as long as somebody holds a handle of it.
///
/// ```
/// use isopod::Functions;
///
/// let resize = Functions::named("resize");
/// let audit = Functions::named("audit").for_tenant("platform");
/// let search = Functions::named("search-v2").serving("acme:tools/search");
/// ```
#[derive(Clone, Debug)]
pub struct Functions {
    pub(crate) name: Arc<str>,
    pub(super) tenant: Option<Arc<str>>,
    serving: Option<String>,
}

impl Functions {
    /// The function of that name.
    pub fn named(name: impl Into<Arc<str>>) -> Functions {
        Functions { name: name.into(), tenant: None, serving: None }
    }

    /// Instead of by its name, the guest calls it by an interface that it imports, `ns:pkg/interface` with its version or
    /// without, and with the types of that: each function of the interface is the export of the same name. A call that
    /// fails ends the caller's with the same kind of error.
    ///
    /// Values pass as in [`Function::call`](crate::Function::call). Interfaces with resources or async functions fail the
    /// load as [`ErrorKind::Misuse`].
    pub fn serving(mut self, interface: impl Into<String>) -> Functions {
        self.serving = Some(interface.into());
        self
    }

    /// Whether it is for that import.
    pub(super) fn is_for(&self, import: &str) -> bool {
        let unversioned = import.split_once('@').map_or(import, |(name, _)| name);
        self.serving.as_ref().map_or(import == INTERFACE, |serving| serving == import || serving == unversioned)
    }

    /// Its calls are for that tenant, whomever the caller's call is for.
    pub fn for_tenant(mut self, tenant: impl Into<Arc<str>>) -> Functions {
        self.tenant = Some(tenant.into());
        self
    }
}

/// All `Functions` grants of one function.
pub(crate) struct Callable {
    grants: Vec<Functions>,
    caller: Arc<dyn Caller>,
}

impl Callable {
    pub(super) fn bind(grants: Vec<Functions>, caller: &Arc<dyn Caller>) -> Result<Callable> {
        for (index, grant) in grants.iter().enumerate() {
            if grants[..index].iter().any(|other| other.name == grant.name && other.serving == grant.serving) {
                let text = format!("the grant Functions::named(\"{}\") was given twice; give it once", grant.name);
                return Err(Error::new(ErrorKind::Misuse, text));
            }
        }
        Ok(Callable { grants, caller: Arc::clone(caller) })
    }

    /// Whether the guest may call any by its name.
    pub(super) fn is_by_name(&self) -> bool {
        self.grants.iter().any(|grant| grant.serving.is_none())
    }

    /// An interface that a function was to serve, and that is not among those served. The first grant for it counts.
    pub(super) fn unserved<'a>(&self, served: impl Iterator<Item = &'a str> + Clone) -> Option<&str> {
        let wanted = self.grants.iter().filter_map(|grant| Some((grant, grant.serving.as_deref()?)));
        let first =
            |grant: &Functions, import: &str| self.serving(import).is_some_and(|first| std::ptr::eq(first, grant));
        let mut idle = wanted.filter(|(grant, _)| !served.clone().any(|import| first(grant, import)));
        idle.next().map(|(_, interface)| interface)
    }

    /// The function that serves that import.
    pub(super) fn serving(&self, import: &str) -> Option<&Functions> {
        self.grants.iter().find(|grant| grant.serving.is_some() && grant.is_for(import))
    }
}

/// Whoever runs a call that a guest asked for.
pub(crate) trait Caller: Send + Sync {
    fn call(&self, ask: Ask) -> Pin<Box<dyn Future<Output = Answer> + Send + '_>>;
}

/// A call that a guest asks for, and was granted.
pub(crate) struct Ask {
    pub function: Arc<str>,
    pub export: String,
    pub arguments: Value,
    pub tenant: Option<Arc<str>>,
    pub within: Within,
}

/// What became of it.
pub(crate) struct Answer {
    pub result: Result<Value, Failure>,
    /// What it used, in units of fuel.
    pub fuel: u64,
}

pub(crate) enum Failure {
    Missing,
    Call(Error),
}

/// A place in a tree of calls.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    /// The number of the call at its root.
    pub root: u64,
    /// How many calls stand above.
    pub depth: u32,
    max_depth: u32,
    /// Calls that may still be made, by all of it.
    left: Arc<AtomicU32>,
    max_calls: u32,
}

impl Tree {
    pub(crate) fn root(call_id: u64, max_depth: u32, max_calls: u32) -> Tree {
        Tree { root: call_id, depth: 0, max_depth, left: Arc::new(AtomicU32::new(max_calls)), max_calls }
    }

    /// The place of one more call, or which limit forbids it.
    fn branch(&self) -> Result<Tree, Unanswered> {
        if self.depth >= self.max_depth {
            let text = format!("calls are nested {} deep; see `Limits::depth` of the first", self.depth);
            return Err(Unanswered { kind: ErrorKind::LimitExceeded(Limit::Depth), text });
        }
        let take = |left: u32| left.checked_sub(1);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            let text = format!("the first call led to {} calls; see its `Limits::calls`", self.max_calls);
            return Err(Unanswered { kind: ErrorKind::LimitExceeded(Limit::Calls), text });
        }
        Ok(Tree { depth: self.depth + 1, ..self.clone() })
    }
}

/// The bounds that a call inherits from the one that makes it.
#[derive(Clone, Debug)]
pub(crate) struct Within {
    pub tree: Tree,
    pub deadline: Nanos,
    /// What the caller has left, if it counts.
    pub fuel: Option<u64>,
}

/// Values in the arguments of a call: some bytes of JSON are a hundred of the host's memory.
pub(crate) const MAX_VALUES: usize = 16 * 1024;

/// The interface that a guest calls by.
pub(super) const INTERFACE: &str = "isopod:function/functions@0.1.0";

pub(super) fn link<T: Reach>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    linker.instance(INTERFACE)?.func_wrap_async(
        "call",
        |mut store: StoreContextMut<'_, T>, (function, export, arguments): (String, String, String)| {
            Box::new(async move { Ok((call(&mut store, &function, export, &arguments).await?,)) })
        },
    )
}

async fn call<T: Reach>(
    store: &mut StoreContextMut<'_, T>,
    function: &str,
    export: String,
    arguments: &str,
) -> wasmtime::Result<Result<String, wit::Error>> {
    let granted = grant(store.data_mut().view(), function);
    let answer = match granted.and_then(|grant| Ok((grant, self::arguments(arguments)?))) {
        Ok((grant, arguments)) => ask(store, &grant, export, arguments).await?,
        Err(unanswered) => Err(unanswered),
    };
    Ok(answer.map(|value| value.to_string()).map_err(|unanswered| match unanswered.kind {
        ErrorKind::Denied => wit::Error::Denied(unanswered.text),
        ErrorKind::WrongExport | ErrorKind::WrongArguments => wit::Error::Invalid(unanswered.text),
        ErrorKind::TimedOut => wit::Error::TimedOut(unanswered.text),
        ErrorKind::Overloaded => wit::Error::Overloaded(unanswered.text),
        ErrorKind::LimitExceeded(Limit::Depth | Limit::Calls) => wit::Error::Exceeded(unanswered.text),
        _ => wit::Error::Failed(unanswered.text),
    }))
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) struct Unanswered {
    pub kind: ErrorKind,
    pub text: String,
}

impl std::fmt::Display for Unanswered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Unanswered {}

/// Makes a call that is granted, within the limits of the tree and at the cost of the caller.
pub(crate) async fn ask<T: Reach>(
    store: &mut StoreContextMut<'_, T>,
    grant: &Functions,
    export: String,
    arguments: Value,
) -> wasmtime::Result<Result<Value, Unanswered>> {
    // An error says that this engine does not count.
    let fuel = store.get_fuel().ok();
    let answering = match begin(store.data_mut(), grant, export, arguments, fuel) {
        Ok(answering) => answering,
        Err(unanswered) => return Ok(Err(unanswered)),
    };
    let (answer, used) = answering.await;
    if let Some(fuel) = fuel {
        store.set_fuel(fuel.saturating_sub(used))?;
    }
    Ok(answer)
}

/// The same as something that goes on by itself: it gives the answer, and the fuel that it used of the `fuel` that the caller
/// has.
pub(super) fn begin<T: Reach>(
    caller: &mut T,
    grant: &Functions,
    export: String,
    arguments: Value,
    fuel: Option<u64>,
) -> Result<impl Future<Output = (Result<Value, Unanswered>, u64)> + Send + use<T>, Unanswered> {
    let (tree, deadline) = caller.place();
    let tree = tree.branch()?;
    let view = caller.own_view();
    let (tenant, denials) = (view.tenant.clone(), view.denials.clone());
    let Some(callable) = &view.bound.callable else {
        return Err(Unanswered { kind: ErrorKind::Denied, text: "no function is granted".to_owned() });
    };
    let foreign = grant.tenant.is_some() && grant.tenant != tenant;
    let (caller, function) = (Arc::clone(&callable.caller), Arc::clone(&grant.name));
    let ask = Ask {
        function: Arc::clone(&function),
        export,
        arguments,
        tenant: grant.tenant.clone().or(tenant),
        within: Within { tree, deadline, fuel },
    };
    Ok(async move {
        let Answer { result, fuel } = caller.call(ask).await;
        if let Err(Failure::Missing) = &result {
            let denial = Denial::new(
                &format!("function {}", quoted(&sanitise(&function, 64))),
                "no callable function has that name now",
            );
            denials.push(denial.allowed_by("`.callable()` where it is loaded, and a handle of it that is kept", None));
        }
        (result.map_err(|failure| explain(failure, &function, foreign)), fuel)
    })
}

/// What lets the guest call the function of that name.
pub(super) fn grant(view: &View, function: &str) -> Result<Functions, Unanswered> {
    granted(&view.bound, function).cloned().ok_or_else(|| {
        let denial = denial(&view.bound, function);
        let text = denial.rule().to_owned();
        view.denials.push(denial);
        Unanswered { kind: ErrorKind::Denied, text }
    })
}

/// The arguments, from JSON.
pub(super) fn arguments(json: &str) -> Result<Value, Unanswered> {
    let invalid = |text| Unanswered { kind: ErrorKind::WrongArguments, text };
    if json.bytes().filter(|byte| b"{[,".contains(byte)).count() > MAX_VALUES {
        return Err(invalid(format!("the arguments have more than {MAX_VALUES} values; pass bytes as base64")));
    }
    serde_json::from_str(json).map_err(|e| invalid(format!("the arguments are no JSON: {e}")))
}

fn granted<'a>(bound: &'a Bound, function: &str) -> Option<&'a Functions> {
    let grants = &bound.callable.as_ref()?.grants;
    grants.iter().find(|grant| &*grant.name == function && grant.serving.is_none())
}

fn denial(bound: &Bound, function: &str) -> Denial {
    let names = bound.callable.iter().flat_map(|callable| &callable.grants).map(|grant| &*grant.name);
    let nearest = nearest(function, names);
    let name = sanitise(function, 64);
    let rule = match nearest {
        Some(near) => format!("no function of that name is granted; the nearest is \"{}\"", sanitise(near, 64)),
        None => "no function of that name is granted".to_owned(),
    };
    Denial::new(&format!("function \"{name}\""), &rule).allowed_by(
        &format!("`.grant(Functions::named({}))`", quoted(&name)),
        Some(&format!("functions = [{}]", quoted(&name))),
    )
}

/// What the caller is told. Of a call for somebody else it learns no more than the kind of its end.
fn explain(failure: Failure, function: &str, foreign: bool) -> Unanswered {
    match failure {
        Failure::Missing => {
            let text = format!("the host has no callable function \"{}\" now", sanitise(function, 64));
            Unanswered { kind: ErrorKind::Denied, text }
        }
        // What a host function said when it failed is for the host's people.
        Failure::Call(error) if foreign || is_the_hosts(error.kind()) => {
            Unanswered { kind: error.kind(), text: format!("it ended as {:?}", error.kind()) }
        }
        Failure::Call(error) => Unanswered { kind: error.kind(), text: error.to_string() },
    }
}

fn is_the_hosts(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::HostPanic | ErrorKind::Internal | ErrorKind::Misuse | ErrorKind::Store)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_ends_at_its_depth_and_at_its_calls() {
        let root = Tree::root(7, 2, 4);
        let child = root.branch().unwrap();
        let grandchild = child.branch().unwrap();
        assert_eq!((grandchild.root, grandchild.depth), (7, 2));
        assert!(grandchild.branch().unwrap_err().text.contains("2 deep"));
        assert!(root.branch().is_ok() && child.branch().is_ok());
        assert!(root.branch().unwrap_err().text.contains("4 calls"));
        assert!(child.branch().is_err());
    }
}
