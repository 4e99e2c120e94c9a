//! A refused request for a capability, as a record: what was asked, which rule said no, how to allow it.

use crate::error::sanitise;
use parking_lot::Mutex;
use std::sync::Arc;

/// One request of a guest that was refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Denial {
    capability: String,
    rule: String,
    allow: String,
}

/// How many refusals of one call are kept; a guest in a loop must not fill the host's memory.
pub(crate) const MAX_DENIALS: usize = 32;

/// A call's refusals that happen while its guest waits, on tasks of their own.
#[derive(Clone, Default)]
pub(crate) struct Denials(Arc<Mutex<Vec<Denial>>>);

impl Denials {
    pub(crate) fn push(&self, denial: Denial) {
        let mut kept = self.0.lock();
        if kept.len() < MAX_DENIALS {
            kept.push(denial);
        }
    }

    pub(crate) fn take(&self) -> Vec<Denial> {
        std::mem::take(&mut self.0.lock())
    }
}

impl Denial {
    pub(crate) fn new(capability: &str, rule: &str, allow: &str) -> Denial {
        Denial { capability: sanitise(capability, 256), rule: sanitise(rule, 256), allow: sanitise(allow, 512) }
    }

    /// What the guest asked for, such as `wasi:sockets/tcp-create-socket#create-tcp-socket`.
    pub fn capability(&self) -> &str {
        &self.capability
    }

    /// The rule that refused it.
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// The whole story in one line: what was asked, which rule said no, and how to allow it.
    pub fn explain(&self) -> String {
        format!("{} was denied: {}; to allow it: {}", self.capability, self.rule, self.allow)
    }
}
