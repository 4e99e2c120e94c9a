//! Resources of a guest in the caller's hands: numbers outside, and the table of one session that knows what they mean.

use super::mismatch::{Mismatch, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use std::collections::BTreeMap;
use wasmtime::component::ResourceAny;
use wasmtime::component::types::ResourceType;

/// A resource of the guest, for as long as the session lasts that it came from: an opaque number.
///
/// It fits where a function takes that resource: `own` uses it up, `borrow` does not. It has no JSON form.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Handle(u32);

/// How a [`Handle`] makes itself known to `lower` and `lift`: by the name [`HANDLE`].
#[derive(Deserialize, Serialize)]
#[serde(rename = "$isopod::Handle")]
struct Number(u32);

pub(super) const HANDLE: &str = "$isopod::Handle";
pub(super) const NO_JSON: &str = "a handle fits only where a resource is expected, and has no JSON form";

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

/// The resources that the caller of one session holds. Numbers are not used again, so an old handle stays unknown.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    next: u32,
    held: BTreeMap<u32, Held>,
    /// Those that the call being prepared uses.
    used: Vec<u32>,
}

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

    pub(super) fn insert(&mut self, resource: ResourceAny, ty: ResourceType) -> Result<u32> {
        let number = self.next;
        self.next = number.checked_add(1).ok_or_else(|| Mismatch::new("the session ran out of handles"))?;
        self.held.insert(number, Held { resource, ty, use_: Use::Free });
        Ok(number)
    }

    /// Looks a handle up for one use in the call being prepared.
    pub(super) fn employ(&mut self, number: u32, ty: &ResourceType, use_: Use) -> Result<ResourceAny> {
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
