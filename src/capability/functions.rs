//! Calls of other functions of the same host, by `isopod:function/functions`.
//!
//! Calls that calls make are a tree. Its root's limits hold for all of it: the deadline, the number of calls and their
//! depth; and what a called function uses of time or fuel is used of its caller's too. A function that calls itself, or
//! two that call each other, end at the depth.

use super::{Bound, Reach};
use crate::bindings::capabilities::isopod::function::functions as wit;
use crate::clock::Nanos;
use crate::denial::Denial;
use crate::error::{Error, ErrorKind, Result};
use crate::text::sanitise;
use serde_json::Value;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use wasmtime::StoreContextMut;
use wasmtime::component::Linker;

/// Permission to call one other function of the host, by the name that it was loaded under.
///
/// The call is for the caller's tenant. It takes a seat of its own and does not wait for one; the caller's deadline holds
/// for it, and its busy time or fuel counts as the caller's too. The error text that the caller gets is that of
/// [`Error`](crate::Error), or its kind alone where the call is for another tenant.
///
/// The function is looked up when it is called: the one loaded last under that name, as long as somebody holds a handle
/// of it.
///
/// ```
/// use isopod::Functions;
///
/// let resize = Functions::named("resize");
/// let audit = Functions::named("audit").for_tenant("platform");
/// ```
#[derive(Clone, Debug)]
pub struct Functions {
    pub(super) name: Arc<str>,
    pub(super) tenant: Option<Arc<str>>,
}

impl Functions {
    /// The function of that name.
    pub fn named(name: impl Into<Arc<str>>) -> Functions {
        Functions { name: name.into(), tenant: None }
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
            if grants[..index].iter().any(|other| other.name == grant.name) {
                let text = format!("the grant Functions::named(\"{}\") was given twice; give it once", grant.name);
                return Err(Error::new(ErrorKind::Misuse, text));
            }
        }
        Ok(Callable { grants, caller: Arc::clone(caller) })
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
    fn branch(&self) -> Result<Tree, String> {
        if self.depth >= self.max_depth {
            return Err(format!("calls are nested {} deep; see `Limits::depth` of the first", self.depth));
        }
        let take = |left: u32| left.checked_sub(1);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            return Err(format!("the first call led to {} calls; see its `Limits::calls`", self.max_calls));
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
    let view = store.data_mut().view();
    let bound = Arc::clone(&view.bound);
    let Some((callable, grant)) = granted(&bound, function) else {
        let denial = denial(&bound, function);
        let text = denial.rule().to_owned();
        view.denials.push(denial);
        return Ok(Err(wit::Error::Denied(text)));
    };
    let arguments = match serde_json::from_str(arguments) {
        Ok(arguments) => arguments,
        Err(e) => return Ok(Err(wit::Error::Invalid(format!("the arguments are no JSON: {e}")))),
    };
    let tenant = view.tenant.clone();
    let (tree, deadline) = store.data_mut().place();
    let tree = match tree.branch() {
        Ok(tree) => tree,
        Err(why) => return Ok(Err(wit::Error::Exceeded(why))),
    };
    // An error says that this engine does not count.
    let fuel = store.get_fuel().ok();
    let foreign = grant.tenant.is_some() && grant.tenant != tenant;
    let ask = Ask {
        function: Arc::clone(&grant.name),
        export,
        arguments,
        tenant: grant.tenant.clone().or(tenant),
        within: Within { tree, deadline, fuel },
    };
    let answer = callable.caller.call(ask).await;
    if let Some(fuel) = fuel {
        store.set_fuel(fuel.saturating_sub(answer.fuel))?;
    }
    Ok(answer.result.map(|value| value.to_string()).map_err(|failure| explain(failure, function, foreign)))
}

fn granted<'a>(bound: &'a Bound, function: &str) -> Option<(&'a Callable, &'a Functions)> {
    let callable = bound.callable.as_ref()?;
    callable.grants.iter().find(|grant| &*grant.name == function).map(|grant| (callable, grant))
}

fn denial(bound: &Bound, function: &str) -> Denial {
    let names = bound.callable.iter().flat_map(|callable| &callable.grants).map(|grant| &*grant.name);
    let nearest = super::policy::nearest(function, names);
    let name = sanitise(function, 64);
    let rule = match nearest {
        Some(near) => format!("no function of that name is granted; the nearest is \"{}\"", sanitise(near, 64)),
        None => "no function of that name is granted".to_owned(),
    };
    Denial::new(&format!("function \"{name}\""), &rule).allowed_by(
        &format!("`.grant(Functions::named({}))`", super::policy::quoted(&name)),
        Some(&format!("functions = [{}]", super::policy::quoted(&name))),
    )
}

/// What the caller is told. Of a call for somebody else it learns no more than the kind of its end.
fn explain(failure: Failure, function: &str, foreign: bool) -> wit::Error {
    let error = match failure {
        Failure::Call(error) => error,
        Failure::Missing => {
            return wit::Error::Denied(format!("the host has no function \"{}\" now", sanitise(function, 64)));
        }
    };
    let text = if foreign { format!("it ended as {:?}", error.kind()) } else { error.to_string() };
    match error.kind() {
        ErrorKind::WrongExport | ErrorKind::WrongArguments => wit::Error::Invalid(text),
        ErrorKind::TimedOut => wit::Error::TimedOut(text),
        ErrorKind::Overloaded => wit::Error::Overloaded(text),
        _ => wit::Error::Failed(text),
    }
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
        assert!(grandchild.branch().unwrap_err().contains("2 deep"));
        assert!(root.branch().is_ok() && child.branch().is_ok());
        assert!(root.branch().unwrap_err().contains("4 calls"));
        assert!(child.branch().is_err());
    }
}
