//! A refused request for a capability, as a record: what was asked, which rule said no, how to allow it.

use crate::clock;
use crate::text::sanitise;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

/// One request of a guest that was refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Denial {
    capability: String,
    rule: String,
    allow: Allow,
    function: Arc<str>,
    tenant: Option<Arc<str>>,
    call_id: u64,
    at: SystemTime,
}

/// What would allow it.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Allow {
    Nothing,
    /// Something that is too long, or too odd, to be shown as it would have to be written.
    Unshown,
    Line {
        rust: String,
        toml: Option<String>,
    },
}

/// How many refusals of one call are kept; a guest in a loop must not fill the host's memory.
pub(crate) const MAX_DENIALS: usize = 32;
/// How many refusals a host keeps, and how many of one tenant of one function, so that none displaces all others'.
const MAX_AUDITED: usize = 1_024;
const MAX_OWN: usize = 128;

/// Longest line that would allow something.
const MAX_LINE: usize = 1_024;

impl Denial {
    /// `rule` is which rule said no, and which was the nearest.
    pub(crate) fn new(capability: &str, rule: &str) -> Denial {
        Denial {
            capability: sanitise(capability, 256),
            rule: sanitise(rule, 256),
            allow: Allow::Nothing,
            function: "".into(),
            tenant: None,
            call_id: 0,
            at: clock::wall(),
        }
    }

    /// What would allow it: in Rust, and as a line of a policy where there is one. A line that cannot be shown whole, as
    /// it would have to be written, is left out.
    pub(crate) fn allowed_by(mut self, rust: &str, toml: Option<&str>) -> Denial {
        let whole = |line: &str| Some(sanitise(line, MAX_LINE)).filter(|shown| shown == line);
        self.allow = match whole(rust) {
            Some(rust) => Allow::Line { rust, toml: toml.and_then(whole) },
            None => Allow::Unshown,
        };
        self
    }

    /// Says whose it is; `call_id` is 0 for a load.
    pub(crate) fn of(mut self, function: &Arc<str>, tenant: Option<&Arc<str>>, call_id: u64) -> Denial {
        self.function = Arc::clone(function);
        self.tenant = tenant.cloned();
        self.call_id = call_id;
        self
    }

    /// What the guest asked for, such as `wasi:sockets/tcp-create-socket#create-tcp-socket`.
    pub fn capability(&self) -> &str {
        &self.capability
    }

    /// The rule that refused it.
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// What would allow it, in Rust; none where nothing can, or it cannot be shown whole.
    pub fn allow(&self) -> Option<&str> {
        match &self.allow {
            Allow::Line { rust, .. } => Some(rust),
            Allow::Nothing | Allow::Unshown => None,
        }
    }

    /// The line of a [`Policy`](crate::Policy) that would allow it; none where nothing can, only Rust can, or it cannot be
    /// shown whole.
    pub fn allow_toml(&self) -> Option<&str> {
        match &self.allow {
            Allow::Line { toml, .. } => toml.as_deref(),
            Allow::Nothing | Allow::Unshown => None,
        }
    }

    /// The function whose guest asked.
    pub fn function(&self) -> &str {
        &self.function
    }

    /// The tenant for whom it was called.
    pub fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    /// The number of the call, as receipts and log records have it; 0 where the function was being loaded.
    pub fn call_id(&self) -> u64 {
        self.call_id
    }

    /// When it asked.
    pub fn at(&self) -> SystemTime {
        self.at
    }

    /// The whole story in one line: what was asked, which rule said no, and how to allow it.
    pub fn explain(&self) -> String {
        let allow = match &self.allow {
            Allow::Nothing => "nothing can".to_owned(),
            Allow::Unshown => "a grant of it, which is too long or too odd to be shown".to_owned(),
            Allow::Line { rust, toml: None } => rust.clone(),
            Allow::Line { rust, toml: Some(toml) } => format!("{rust}, or in a policy: {toml}"),
        };
        format!("{} was denied: {}; to allow it: {allow}", self.capability, self.rule)
    }
}

impl fmt::Display for Denial {
    /// As [`explain`](Denial::explain).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.explain())
    }
}

/// The last refusals of a host, of all functions and tenants.
#[derive(Default)]
pub(crate) struct Audit(Mutex<VecDeque<Denial>>);

impl Audit {
    /// Oldest first.
    pub(crate) fn list(&self) -> Vec<Denial> {
        self.0.lock().iter().cloned().collect()
    }

    fn push(&self, denial: Denial) {
        let mut kept = self.0.lock();
        let is_own = |other: &Denial| other.function == denial.function && other.tenant == denial.tenant;
        if kept.iter().filter(|other| is_own(other)).count() >= MAX_OWN {
            let oldest = kept.iter().position(is_own);
            oldest.map(|at| kept.remove(at));
        } else if kept.len() >= MAX_AUDITED {
            kept.pop_front();
        }
        kept.push_back(denial);
    }
}

/// A call's refusals. They happen while its guest waits, some on tasks of their own.
#[derive(Clone)]
pub(crate) struct Denials(Arc<Refused>);

struct Refused {
    list: Mutex<Vec<Denial>>,
    audit: Arc<Audit>,
    function: Arc<str>,
    tenant: Option<Arc<str>>,
    call_id: u64,
}

impl Denials {
    pub(crate) fn new(audit: Arc<Audit>, function: Arc<str>, tenant: Option<Arc<str>>, call_id: u64) -> Denials {
        Denials(Arc::new(Refused { list: Mutex::default(), audit, function, tenant, call_id }))
    }

    /// Keeps it, tells the host's audit, and says so as an event; beyond [`MAX_DENIALS`] none of that.
    pub(crate) fn push(&self, denial: Denial) {
        let Refused { list, audit, function, tenant, call_id } = &*self.0;
        let denial = denial.of(function, tenant.as_ref(), *call_id);
        {
            let mut kept = list.lock();
            if kept.len() >= MAX_DENIALS {
                return;
            }
            kept.push(denial.clone());
        }
        tracing::warn!(
            function = %sanitise(function, 128),
            tenant = tenant.as_ref().map(|tenant| sanitise(tenant, 128)),
            call_id,
            capability = denial.capability,
            rule = denial.rule,
            "denied"
        );
        audit.push(denial);
    }

    /// The last one, in one line.
    pub(crate) fn last(&self) -> Option<String> {
        self.0.list.lock().last().map(Denial::explain)
    }

    pub(crate) fn take(&self) -> Vec<Denial> {
        std::mem::take(&mut self.0.list.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_of_refusals_fills_nothing() {
        let audit = Arc::new(Audit::default());
        let denial = |n: usize| Denial::new(&format!("thing {n}"), "no rule").allowed_by("`.grant(..)`", Some("x = 1"));
        let denials = |tenant: &str| Denials::new(Arc::clone(&audit), "f".into(), Some(tenant.into()), 7);
        denials("quiet").push(denial(1));
        for call in 0..100 {
            let denials = denials("acme");
            (0..1_000).for_each(|n| denials.push(denial(call * 1_000 + n)));
            assert_eq!(denials.take().len(), MAX_DENIALS);
        }
        let kept = audit.list();
        assert_eq!(kept.len(), MAX_OWN + 1, "a loud tenant displaces its own");
        assert_eq!(kept[0].tenant(), Some("quiet"));
        let last = &kept[MAX_OWN];
        assert_eq!((last.capability(), last.function(), last.tenant()), ("thing 99031", "f", Some("acme")));
        assert_eq!((last.call_id(), last.to_string()), (7, last.explain()));
        assert_eq!(last.explain(), "thing 99031 was denied: no rule; to allow it: `.grant(..)`, or in a policy: x = 1");
    }
}
