//! Imports that another function of the host serves, by its exports of the same name and with the import's types.

use super::Engine;
use super::import::{Signature, Unfit};
use super::schema;
use super::state::State;
use super::value::{self, Mismatch};
use crate::capability::Functions;
use crate::capability::functions::{self, MAX_VALUES, Unanswered};
use crate::error::{Error, ErrorKind, Limit, Result};
use std::sync::Arc;
use wasmtime::StoreContextMut;
use wasmtime::component::types::{ComponentFunc, ComponentItem};
use wasmtime::component::{Linker, Val};

/// An interface that a function serves.
pub(crate) struct Served {
    interface: String,
    function: Functions,
    members: Vec<(String, ComponentFunc)>,
}

impl Served {
    pub(super) fn interface(&self) -> &str {
        &self.interface
    }

    pub(super) fn find(engine: &Engine, name: &str, item: ComponentItem, function: &Functions) -> Result<Served> {
        let cannot = |why: &str| {
            let text = format!("the function \"{}\" cannot serve {name}: {why}", function.name);
            Err(Error::new(ErrorKind::Misuse, text))
        };
        let ComponentItem::ComponentInstance(interface) = item else { return cannot("it is not an interface") };
        let (mut members, mut seen) = (Vec::new(), schema::Seen::default());
        for (member, item) in interface.exports(&engine.wasmtime) {
            match item.ty {
                ComponentItem::ComponentFunc(ty) if ty.async_() => return cannot("it has async functions"),
                ComponentItem::ComponentFunc(ty) => {
                    let types = ty.params().map(|(_, ty)| ty).chain(ty.results());
                    for ty in types.collect::<Vec<_>>() {
                        if let Err(why) = schema::supported(&ty, &mut seen) {
                            return cannot(&why);
                        }
                    }
                    members.push((member.to_owned(), ty));
                }
                ComponentItem::Resource(_) => return cannot("it has resources"),
                _ => {}
            }
        }
        Ok(Served { interface: name.to_owned(), function: function.clone(), members })
    }

    pub(super) fn link(self, linker: &mut Linker<State>) -> wasmtime::Result<()> {
        let mut inside = linker.instance(&self.interface)?;
        // The function may have another version of it; which it has is seen when it is called.
        let unversioned = self.interface.split_once('@').map_or(self.interface.as_str(), |(name, _)| name);
        for (member, ty) in self.members {
            let name = format!("{unversioned}#{member}");
            let call = Arc::new((self.function.clone(), Signature::new(name, &ty)));
            inside.func_new_async(&member, move |mut store, _, args, results| {
                let call = Arc::clone(&call);
                Box::new(async move { invoke(&mut store, &call.0, &call.1, args, results).await })
            })?;
        }
        Ok(())
    }
}

async fn invoke(
    store: &mut StoreContextMut<'_, State>,
    function: &Functions,
    signature: &Signature,
    args: &[Val],
    results: &mut [Val],
) -> wasmtime::Result<()> {
    store.data_mut().count_host_call();
    store.data_mut().in_call()?;
    let exceeded = |limit, text: &str| Unanswered { kind: ErrorKind::LimitExceeded(limit), text: text.to_owned() };
    if args.iter().map(value::count).sum::<usize>() > MAX_VALUES {
        return Err(exceeded(Limit::Transfer, "its arguments have more values than pass at once").into());
    }
    let args = value::lift_args(args, &signature.params).map_err(|e| Unfit::new(signature, "arguments", &e))?;
    let answer = functions::ask(store, function, signature.name.to_string(), args).await??;
    // The types are the caller's, who may have chosen them to make much of little.
    let most = store.data().bound.max_input;
    let answer = match value::lower_result(&answer, signature.result.as_ref(), most) {
        Ok(answer) => answer,
        Err(Mismatch::TooLarge) => {
            return Err(exceeded(Limit::Input, "the answer is larger than the caller's `Limits::input`").into());
        }
        Err(mismatch) => return Err(Unfit::new(signature, "result", &mismatch).into()),
    };
    results.iter_mut().zip(answer).for_each(|(result, answer)| *result = answer);
    Ok(())
}
