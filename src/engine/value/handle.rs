//! Resources of a guest in the caller's hands: numbers outside, and the table of one session that knows what they mean.

use super::mismatch::{Mismatch, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use wasmtime::component::ResourceAny;
use wasmtime::component::types::ResourceType;

/// A resource of the guest, for as long as the session lasts that it came from: an opaque number.
///
/// It fits where a function takes that resource: `own` uses it up, `borrow` does not. It has no JSON form.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Handle(u64);

/// How a [`Handle`] makes itself known to `lower` and `lift`: by the name [`HANDLE`].
#[derive(Deserialize, Serialize)]
#[serde(rename = "$isopod::Handle")]
struct Number(u64);

pub(super) const HANDLE: &str = "$isopod::Handle";
const NO_JSON: &str = "a handle fits only where a resource is expected, and has no JSON form";

impl Serialize for Handle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Ours say "not human readable" exactly where a resource stands. Others would write a number, and a number read
        // back would be a forged handle.
        if serializer.is_human_readable() {
            return Err(ser::Error::custom(NO_JSON));
        }
        Number(self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Handle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Handle, D::Error> {
        if deserializer.is_human_readable() {
            return Err(de::Error::custom(NO_JSON));
        }
        Number::deserialize(deserializer).map(|number| Handle(number.0))
    }
}

/// The resources that the caller of one session holds.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    held: BTreeMap<u64, Held>,
    /// Those that the call being prepared uses.
    used: Vec<u64>,
}

/// The number of the next handle in this process. None is used again, so that an old handle, or one of another session,
/// stays unknown.
static NEXT: AtomicU64 = AtomicU64::new(0);

#[derive(Debug)]
struct Held {
    resource: ResourceAny,
    /// The type under which it came. Types that are taken from one component compare, whether instantiated or not; the
    /// resource's own type is always an instantiated one.
    ty: ResourceType,
    /// What the call being prepared does with it.
    use_: Use,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Use {
    Free,
    Lent,
    Given,
}

impl Handles {
    /// Takes one resource out, for its owner to drop it.
    pub(crate) fn remove(&mut self, handle: Handle) -> Option<ResourceAny> {
        self.held.remove(&handle.0).map(|held| held.resource)
    }

    pub(super) fn insert(&mut self, resource: ResourceAny, ty: ResourceType) -> u64 {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.held.insert(number, Held { resource, ty, use_: Use::Free });
        number
    }

    /// Looks a handle up for one use in the call being prepared.
    pub(super) fn employ(&mut self, number: u64, ty: &ResourceType, use_: Use) -> Result<ResourceAny> {
        let Some(held) = self.held.get_mut(&number) else {
            return Err(Mismatch::new("unknown handle: it was used up, or belongs to another session"));
        };
        if held.ty != *ty {
            return Err(Mismatch::new("the handle is of another resource type"));
        }
        if held.use_ == Use::Given || (held.use_ == Use::Lent && use_ == Use::Given) {
            return Err(Mismatch::new("a handle that is given away cannot be used twice in one call"));
        }
        held.use_ = use_;
        self.used.push(number);
        Ok(held.resource)
    }

    /// Ends the preparation of a call: what was given away is gone if the call takes place.
    pub(super) fn settle(&mut self, takes_place: bool) {
        for number in self.used.drain(..) {
            match self.held.get_mut(&number) {
                Some(held) if held.use_ == Use::Given && takes_place => drop(self.held.remove(&number)),
                Some(held) => held.use_ = Use::Free,
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::value::Param;
    use crate::engine::value::tests::{lift, lower, ty};
    use serde_json::{Value, json};
    use wasmtime::component::types::ComponentItem;
    use wasmtime::component::{Component, Linker, Val};
    use wasmtime::{Engine, Store};

    #[test]
    fn handles_are_used_up_by_own_and_not_by_borrow() {
        let engine = Engine::default();
        let wat = r#"(component
            (type $r' (resource (rep i32)))
            (core func $new (canon resource.new $r'))
            (export $r "r" (type $r'))
            (core module $m (import "" "new" (func $new (param i32) (result i32)))
                (func (export "make") (result i32) (call $new (i32.const 7)))
                (func (export "look") (param i32)) (func (export "take") (param i32))
                (func (export "both") (param i32 i32)))
            (core instance $i (instantiate $m (with "" (instance (export "new" (func $new))))))
            (func (export "make") (result (own $r)) (canon lift (core func $i "make")))
            (func (export "look") (param "x" (borrow $r)) (canon lift (core func $i "look")))
            (func (export "both") (param "x" (own $r)) (param "y" (own $r)) (canon lift (core func $i "both"))))"#;
        let component = Component::new(&engine, wat).unwrap();
        let mut store = Store::new(&engine, ());
        let instance = Linker::<()>::new(&engine).instantiate(&mut store, &component).unwrap();
        // Types of the component itself, as they are known after the load.
        let exported = |name: &str| {
            let ty = component.component_type();
            let item = ty.exports(&engine).find(|(found, _)| *found == name).unwrap().1;
            let ComponentItem::ComponentFunc(f) = item.ty else { panic!() };
            let params: Vec<Param> = f.params().map(|(name, ty)| Param { name: name.into(), ty }).collect();
            (params, f.results().next())
        };
        let mut results = [Val::Bool(false)];
        instance.get_func(&mut store, "make").unwrap().call(&mut store, &[], &mut results).unwrap();
        let (made, (look, _), (both, _)) = (exported("make").1.unwrap(), exported("look"), exported("both"));
        let mut handles = Handles::default();
        let val = &results[0];

        let handle: Handle = lift(Some(val), Some(&made), &mut handles).unwrap();
        let (vals, payload) = lower(&(handle,), &look, &mut handles, 100).unwrap();
        assert_eq!((payload, &vals[0]), (4, val));
        instance.get_func(&mut store, "look").unwrap().call(&mut store, &vals, &mut []).unwrap();
        // No JSON form, in either direction, whoever asks.
        let error = lift::<Value>(Some(val), Some(&made), &mut handles).unwrap_err().to_string();
        assert_eq!(error, "result: a handle has no JSON form: take it as an isopod::Handle");
        assert!(serde_json::to_value(handle).unwrap_err().to_string().contains("no JSON form"));
        assert!(serde_json::from_value::<Handle>(json!(0)).unwrap_err().to_string().contains("no JSON form"));
        for (args, expected) in [
            (json!([0]), r#"parameter "x": expected an isopod::Handle of this session, got 0"#),
            (json!([{}]), r#"parameter "x": expected an isopod::Handle of this session, got an object"#),
        ] {
            assert_eq!(lower(&args, &look, &mut handles, 100).unwrap_err().to_string(), expected);
        }
        let text = [Param { name: "x".into(), ty: ty("string") }];
        let error = lower(&(handle,), &text, &mut handles, 100).unwrap_err().to_string();
        assert_eq!(error, format!(r#"parameter "x": {NO_JSON}"#));
        // A failed preparation uses nothing up; a successful one does; numbers do not come back.
        let error = lower(&(handle, handle), &both, &mut handles, 100).unwrap_err().to_string();
        assert_eq!(error, r#"parameter "y": a handle that is given away cannot be used twice in one call"#);
        let other: Handle = lift(Some(val), Some(&made), &mut handles).unwrap();
        assert_eq!(lower(&(handle, other), &both, &mut handles, 100).unwrap().0.len(), 2);
        let error = lower(&(handle,), &look, &mut handles, 100).unwrap_err().to_string();
        assert_eq!(error, r#"parameter "x": unknown handle: it was used up, or belongs to another session"#);
        let third: Handle = lift(Some(val), Some(&made), &mut handles).unwrap();
        assert!(third != handle && third != other);
        assert!(handles.remove(third).is_some() && handles.remove(third).is_none());
    }
}
