//! [`Context`]: what a host function is told about the call that it serves.

use crate::capability::Bound;
use crate::clock::Nanos;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The call that a host function serves.
#[derive(Clone)]
pub struct Context {
    bound: Arc<Bound>,
    tenant: Option<Arc<str>>,
    call_id: u64,
    deadline: Nanos,
}

impl Context {
    pub(crate) fn new(bound: Arc<Bound>, tenant: Option<Arc<str>>, call_id: u64, deadline: Nanos) -> Context {
        Context { bound, tenant, call_id, deadline }
    }

    /// The function that was called.
    pub fn function(&self) -> &str {
        &self.bound.function
    }

    /// The tenant it was called for.
    pub fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    /// A number that no other call in this process has.
    pub fn call_id(&self) -> u64 {
        self.call_id
    }

    /// How long the call may go on, until its deadline.
    pub fn remaining(&self) -> Duration {
        self.deadline.since(self.bound.clock.now())
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("function", &self.function())
            .field("tenant", &self.tenant())
            .field("call_id", &self.call_id)
            .field("remaining", &self.remaining())
            .finish()
    }
}
