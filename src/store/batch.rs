//! [`Batch`]: writes that happen together or not at all, and what they amount to. No I/O: a backend reads for it, and
//! then writes what it says.

use super::{Entry, Size, Space, Version};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Place;
use std::fmt;
use std::io;

/// Writes that happen together or not at all, over any number of spaces.
///
/// Expectations are of the state before the batch. Writes are made in order, so that a later one sees an earlier one
/// of the same key.
///
/// ```
/// use isopod::store::{Batch, Space, Version};
///
/// let orders = Space::new(Some("acme"), "orders");
/// let seen: Option<Version> = None;
/// // Compare and swap, counted.
/// let batch = Batch::new().expect(&orders, "7", seen).set(&orders, "7", "paid").add(&orders, "count", 1);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Batch {
    steps: Vec<Step>,
    most: BTreeMap<Space, Size>,
}

/// One step of a [`Batch`], about one key.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Step {
    /// Where the key is.
    pub space: Space,
    /// The key.
    pub key: Bytes,
    /// What is done with it.
    pub op: Op,
}

/// What a [`Step`] does.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub enum Op {
    /// Goes on only if the key had that version before the batch, or none.
    Expect(Option<Version>),
    /// Writes the value.
    Set(Bytes),
    /// Removes the key. One that is not there is no error.
    Delete,
    /// Adds to a number, which is kept as decimal text; a key that is not there counts as 0.
    Add(i64),
}

impl Batch {
    /// A batch of no steps.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Commits only if the key has that version, or is not there for `None`.
    pub fn expect(self, space: &Space, key: impl Into<Bytes>, version: Option<Version>) -> Batch {
        self.step(space, key.into(), Op::Expect(version))
    }

    /// Writes a value.
    pub fn set(self, space: &Space, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Batch {
        self.step(space, key.into(), Op::Set(value.into()))
    }

    /// Removes a key, if it is there.
    pub fn delete(self, space: &Space, key: impl Into<Bytes>) -> Batch {
        self.step(space, key.into(), Op::Delete)
    }

    /// Adds to the number of a key. What it came to is in [`Committed::sums`].
    pub fn add(self, space: &Space, key: impl Into<Bytes>, delta: i64) -> Batch {
        self.step(space, key.into(), Op::Add(delta))
    }

    /// Commits only if the space holds no more than that afterwards, or less than before. What was said last of a space
    /// holds.
    pub fn within(mut self, space: &Space, most: Size) -> Batch {
        self.most.insert(space.clone(), most);
        self
    }

    fn step(mut self, space: &Space, key: Bytes, op: Op) -> Batch {
        self.steps.push(Step { space: space.clone(), key, op });
        self
    }

    /// The steps, in order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// What the batch amounts to, given what there is: what a backend is to write, or why it may not. `entry` and `size`
    /// read in the transaction in which the plan is then written; each is asked once about the same thing.
    pub fn plan(
        &self,
        mut entry: impl FnMut(&Space, &Bytes) -> io::Result<Option<Entry>>,
        mut size: impl FnMut(&Space) -> io::Result<Size>,
    ) -> Result<Plan, Refused> {
        let mut before = Before::new();
        for Step { space, key, .. } in &self.steps {
            if let Place::Vacant(place) = before.entry((space, key)) {
                place.insert(entry(space, key)?);
            }
        }
        for (at, step) in self.steps.iter().enumerate() {
            if let Op::Expect(version) = step.op
                && was(&before, &step.space, &step.key).map(|entry| entry.version) != version
            {
                return Err(Refused::Conflict { step: at });
            }
        }

        let mut plan = Plan::default();
        for (at, step) in self.steps.iter().enumerate() {
            let place = (step.space.clone(), step.key.clone());
            let value = match &step.op {
                Op::Expect(_) => continue,
                Op::Set(value) => Some(value.clone()),
                Op::Delete => None,
                Op::Add(delta) => {
                    let now = match plan.writes.get(&place) {
                        Some(written) => written.as_ref(),
                        None => was(&before, &step.space, &step.key).map(|entry| &entry.value),
                    };
                    let sum = number(now).ok_or(Refused::NotANumber { step: at })?;
                    let sum = sum.checked_add(*delta).ok_or(Refused::Overflow { step: at })?;
                    plan.sums.push(sum);
                    Some(Bytes::from(sum.to_string()))
                }
            };
            plan.writes.insert(place, value);
        }
        // Removing what is not there is no write.
        plan.writes.retain(|(space, key), value| value.is_some() || was(&before, space, key).is_some());

        let mut sizes: BTreeMap<&Space, (Size, Size)> = BTreeMap::new();
        for ((space, key), value) in &plan.writes {
            let (_, after) = match sizes.entry(space) {
                Place::Occupied(known) => known.into_mut(),
                Place::Vacant(place) => {
                    let size = size(space)?;
                    place.insert((size, size))
                }
            };
            if let Some(old) = was(&before, space, key) {
                after.bytes = after.bytes.saturating_sub((key.len() + old.value.len()) as u64);
                after.keys = after.keys.saturating_sub(1);
            }
            if let Some(value) = value {
                after.bytes = after.bytes.saturating_add((key.len() + value.len()) as u64);
                after.keys = after.keys.saturating_add(1);
            }
        }
        for (space, most) in &self.most {
            let Some((before, after)) = sizes.get(space) else { continue };
            if after.bytes > most.bytes && after.bytes > before.bytes {
                return Err(Refused::TooManyBytes { most: most.bytes });
            }
            if after.keys > most.keys && after.keys > before.keys {
                return Err(Refused::TooManyKeys { most: most.keys });
            }
        }
        plan.sizes = sizes.into_iter().map(|(space, (_, after))| (space.clone(), after)).collect();
        Ok(plan)
    }
}

/// What there is, of the keys that a batch is about.
type Before<'a> = BTreeMap<(&'a Space, &'a Bytes), Option<Entry>>;

fn was<'a>(before: &'a Before<'a>, space: &'a Space, key: &'a Bytes) -> Option<&'a Entry> {
    before.get(&(space, key)).and_then(Option::as_ref)
}

fn number(value: Option<&Bytes>) -> Option<i64> {
    match value {
        None => Some(0),
        Some(value) => std::str::from_utf8(value).ok()?.parse().ok(),
    }
}

/// What a [`Batch`] amounts to.
#[non_exhaustive]
#[derive(Debug, Default)]
pub struct Plan {
    /// The values that change; `None` removes a key.
    pub writes: BTreeMap<(Space, Bytes), Option<Bytes>>,
    /// What the spaces of those keys hold afterwards.
    pub sizes: BTreeMap<Space, Size>,
    /// What each [`Op::Add`] came to, in order.
    pub sums: Vec<i64>,
}

/// A batch that was written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Committed {
    /// The version that all its entries have now.
    pub version: Version,
    /// What each [`Op::Add`] came to, in order.
    pub sums: Vec<i64>,
}

/// Why a batch was not written. Nothing of it was.
#[non_exhaustive]
#[derive(Debug)]
pub enum Refused {
    /// That step expected another version: somebody else wrote. Read again, and try again.
    Conflict {
        /// Which step, from 0.
        step: usize,
    },
    /// A space would hold more bytes than it may.
    TooManyBytes {
        /// What it may hold.
        most: u64,
    },
    /// A space would hold more keys than it may.
    TooManyKeys {
        /// How many it may hold.
        most: u64,
    },
    /// That step adds to what is no number.
    NotANumber {
        /// Which step, from 0.
        step: usize,
    },
    /// That step's sum does not fit 64 bits.
    Overflow {
        /// Which step, from 0.
        step: usize,
    },
    /// The store failed. Whether the batch was written is not known.
    Failed(io::Error),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Conflict { step } => write!(f, "step {step} expected another version"),
            Refused::TooManyBytes { most } => write!(f, "it would hold more than {most} bytes"),
            Refused::TooManyKeys { most } => write!(f, "it would hold more than {most} keys"),
            Refused::NotANumber { step } => write!(f, "step {step} adds to what is no number"),
            Refused::Overflow { step } => write!(f, "the sum of step {step} does not fit 64 bits"),
            Refused::Failed(_) => f.write_str("the store failed"),
        }
    }
}

impl std::error::Error for Refused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Refused::Failed(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Refused {
        Refused::Failed(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(batch: &Batch, there: &[(&str, &str, u64)]) -> Result<Plan, Refused> {
        let find = |key: &[u8]| there.iter().find(|(known, ..)| known.as_bytes() == key);
        let entry = |_: &Space, key: &Bytes| {
            let found = find(key);
            Ok(found.map(|(_, value, version)| Entry {
                value: Bytes::copy_from_slice(value.as_bytes()),
                version: Version(*version),
            }))
        };
        let bytes = there.iter().map(|(key, value, _)| key.len() + value.len()).sum::<usize>() as u64;
        batch.plan(entry, |_| Ok(Size { bytes, keys: there.len() as u64 }))
    }

    #[test]
    fn steps_see_earlier_ones_and_expectations_see_none() {
        let s = Space::new(None, "s");
        let there = [("a", "1", 7), ("n", "-3", 8)];
        let batch =
            Batch::new().set(&s, "n", "10").add(&s, "n", 5).add(&s, "new", -1).expect(&s, "n", Some(Version(8)));
        let batch = batch.delete(&s, "a").delete(&s, "never").set(&s, "gone", "x").delete(&s, "gone");
        let done = plan(&batch, &there).unwrap();
        assert_eq!(done.sums, [15, -1]);
        let writes: Vec<_> = done.writes.iter().map(|((_, key), value)| (&key[..], value.as_deref())).collect();
        assert_eq!(writes, [(&b"a"[..], None), (b"n", Some(&b"15"[..])), (b"new", Some(&b"-1"[..]))]);
        assert_eq!(done.sizes[&s], Size { bytes: 8, keys: 2 });
    }

    #[test]
    fn what_may_not_be_is_refused() {
        let s = Space::new(None, "s");
        let there = [("n", "9223372036854775807", 1), ("t", "text", 2)];
        let new = Batch::new;
        let cases = [
            (new().set(&s, "x", "").expect(&s, "x", Some(Version(1))), "step 1 expected"),
            (new().expect(&s, "t", None), "step 0 expected"),
            (new().expect(&s, "t", Some(Version(1))), "step 0 expected"),
            (new().add(&s, "n", 1), "does not fit"),
            (new().set(&s, "x", "").add(&s, "t", 1), "step 1 adds to what is no number"),
            (new().add(&s, "x", 1).set(&s, "x", "no").add(&s, "x", 1), "step 2 adds to what is no number"),
            (new().set(&s, "t", "text5").within(&s, Size { bytes: 25, keys: 9 }), "more than 25 bytes"),
            (new().set(&s, "u", "").within(&s, Size { bytes: 99, keys: 2 }), "more than 2 keys"),
        ];
        for (batch, why) in cases {
            let refused = plan(&batch, &there).unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}, not {why}");
        }
        // What is too full already may shrink, and stay as it is.
        let small = Size { bytes: 1, keys: 1 };
        assert!(plan(&new().delete(&s, "t").within(&s, small), &there).is_ok());
        assert!(plan(&new().set(&s, "t", "TEXT").within(&s, small), &there).is_ok());
    }
}
