//! [`State`]: the `T` of every `Store<T>`, all that belongs to one call, or to the instance that several share.

use super::budget::Budget;
use super::lease::Life;
use super::overlap::{Crowd, Tally};
use crate::capability::cli::Invocation;
use crate::capability::functions::{Tree, Within};
use crate::capability::logging::Capture;
use crate::capability::{Bound, Call, Reach, View};
use crate::clock::Nanos;
use crate::context::Context;
use crate::denial::{Denial, Denials};
use crate::error::Limit;
use crate::foreign::guarded;
use crate::limits::Resolved;
use crate::usage::Aside;
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use wasmtime::component::GuestTaskId;
use wasmtime_wasi::{WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView};

/// All that belongs to one call, but for what each has of its own where several share an instance (`crowd`). Small:
/// what a call may never touch is made when it is first touched.
pub struct State {
    pub(crate) budget: Budget,
    pub(crate) host_calls: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    max_host_calls: u64,
    max_handles: usize,
    max_log: usize,
    /// Set by a host function that can't end the call itself, for whoever looks next: the epoch's callback, or the one
    /// after each host call where fuel is counted.
    pub(crate) stop: Option<Stop>,
    /// Made with the first refusal, or with the view.
    denials: Option<Denials>,
    pub(crate) bound: Arc<Bound>,
    tenant: Option<Arc<str>>,
    deadline: Nanos,
    early: Early,
    /// Made when the guest first calls another function, unless it was called by one.
    tree: Option<Tree>,
    /// Drawn when somebody asks.
    call_id: Option<u64>,
    pub(crate) invocation: Option<Box<Invocation>>,
    /// Bytes of an http exchange, which pass while the guest runs.
    pub(crate) flow: Option<Arc<Flow>>,
    view: Option<Box<View>>,
    pub(crate) imports: Option<Box<dyn Any + Send>>,
    /// The calls that run in the instance, where it may be several at once.
    pub(super) crowd: Option<Box<Crowd>>,
    pub(super) life: Life,
}

/// Whether the guest starts before there is a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Early {
    No,
    Yes,
    /// It called what only a call can answer.
    Asked,
}

/// What belongs to one call.
pub(crate) struct Share<'a> {
    pub tenant: Option<&'a Arc<str>>,
    pub deadline: Nanos,
    /// The call that this one is made for.
    pub within: Option<&'a Within>,
    pub invocation: Option<Box<Invocation>>,
}

/// Bytes of both bodies of one http exchange, as they pass.
#[derive(Default)]
pub(crate) struct Flow {
    pub read: AtomicU64,
    pub written: AtomicU64,
    /// Whether the guest was refused the rest of the request's body.
    pub cut: AtomicBool,
}

/// Why a call ends that neither trapped nor ran out of time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stop {
    Limit(Limit),
    Deadline,
}

impl State {
    /// The state of a store that serves no call yet.
    pub(crate) fn new(limits: &Resolved, bound: Arc<Bound>, life: Life) -> State {
        State {
            budget: Budget::new(limits.memory),
            host_calls: 0,
            bytes_in: 0,
            bytes_out: 0,
            max_host_calls: limits.host_calls,
            max_handles: limits.handles,
            max_log: limits.log,
            stop: None,
            denials: None,
            bound,
            tenant: None,
            deadline: Nanos::default(),
            early: Early::No,
            tree: None,
            call_id: None,
            invocation: None,
            flow: None,
            view: None,
            imports: None,
            crowd: None,
            life,
        }
    }

    /// The guest starts, and no call has asked for it: what it may reach is `bound` to nothing.
    pub(crate) fn begin_early(&mut self, deadline: Nanos) {
        self.early = Early::Yes;
        self.deadline = deadline;
    }

    /// The guest has started, early; from now on it may reach what `bound` says.
    pub(crate) fn end_early(&mut self, bound: &Arc<Bound>) {
        self.early = Early::No;
        self.bound = Arc::clone(bound);
    }

    /// Whether a guest that starts early called what only a call can answer.
    pub(crate) fn was_too_early(&self) -> bool {
        self.early == Early::Asked
    }

    /// Sets what belongs to one call.
    #[inline]
    pub(crate) fn begin(&mut self, share: Share<'_>, bound: &Arc<Bound>, reused: bool) {
        let Share { tenant, deadline, within, invocation } = share;
        // A kept instance has its tenant's name already.
        if !reused {
            self.tenant = tenant.cloned();
        }
        self.deadline = deadline;
        self.tree = within.map(|within| within.tree.clone());
        self.invocation = invocation;
        if reused {
            self.budget.begin();
            (self.host_calls, self.bytes_in, self.bytes_out) = (0, 0, 0);
            (self.flow, self.call_id, self.denials) = (None, None, None);
        }
        if self.view.is_some() {
            self.begin_view(bound);
        }
    }

    /// The guest has a view already, from when it started or from another call.
    #[cold]
    fn begin_view(&mut self, bound: &Arc<Bound>) {
        if let Some(mut view) = self.view.take() {
            let call_id = self.call_id();
            let denials = bound.denials(self.tenant.clone(), call_id);
            view.begin(
                bound,
                Call {
                    tenant: self.tenant.as_ref(),
                    call_id,
                    invocation: None,
                    max_log: self.max_log,
                    max_handles: self.max_handles,
                    denials: denials.clone(),
                },
            );
            (self.view, self.denials) = (Some(view), Some(denials));
        }
    }

    /// The call is over: what is its own goes now, even if the store is dropped later. `kept` says that the guest serves
    /// another call, with what it holds.
    #[inline]
    pub(crate) fn end(&mut self, kept: bool) {
        if let Some(imports) = self.imports.take() {
            guarded("the destructor of an import", || drop(imports));
        }
        if !kept && let Some(view) = self.view.take() {
            guarded("the destructor of a body", || drop(view));
        }
    }

    /// One of the calls of a session begins: until it has [ended](State::end_part) as its guest meant it to, nobody uses
    /// the instance again, whatever the session makes of it.
    pub(crate) fn begin_part(&mut self) {
        self.life.unfinished += 1;
    }

    pub(crate) fn end_part(&mut self) {
        self.life.unfinished -= 1;
    }

    pub(super) fn now(&self) -> Nanos {
        self.bound.clock.now()
    }

    /// Whether the time of the call is up, or it is to stop for another reason.
    pub(super) fn is_over_at(&self, now: Nanos) -> bool {
        self.stop.is_some() || now >= self.deadline
    }

    /// Whether the guest has looked at its environment, or used a capability.
    pub(crate) fn has_view(&self) -> bool {
        self.view.is_some()
    }

    pub(crate) fn tenant(&self) -> Option<&Arc<str>> {
        self.tenant.as_ref()
    }

    /// Fails where there is no call that could answer.
    pub(crate) fn in_call(&mut self) -> Result<(), TooEarly> {
        match self.early {
            Early::No => Ok(()),
            _ => {
                self.early = Early::Asked;
                Err(TooEarly::somewhere())
            }
        }
    }

    /// What a host function is told.
    pub(crate) fn context(&mut self) -> Context {
        let known = self.crowd.as_mut().and_then(|crowd| crowd.running()).map(|guest| (guest.call_id, guest.deadline));
        let (call_id, deadline) = known.unwrap_or_else(|| (self.call_id(), self.deadline));
        Context::new(Arc::clone(&self.bound), self.tenant.clone(), call_id, deadline)
    }

    /// Whether another function called it.
    pub(crate) fn is_nested(&self) -> bool {
        self.tree.as_ref().is_some_and(|tree| tree.depth > 0)
    }

    pub(crate) fn call_id(&mut self) -> u64 {
        *self.call_id.get_or_insert_with(next_call_id)
    }

    /// Counts one call of the guest into the host. Every host function comes by here, as it fetches its view.
    #[inline]
    pub(crate) fn count_host_call(&mut self) {
        self.host_calls += 1;
        if self.host_calls > self.max_host_calls {
            self.too_many_host_calls();
        }
    }

    #[cold]
    fn too_many_host_calls(&mut self) {
        // With several calls at once the limit is each one's own, and what nobody's can be told, of all together.
        if let Some(crowd) = &mut self.crowd {
            if !crowd.count_host_call() {
                return;
            }
            crowd.blame();
        }
        self.stop.get_or_insert(Stop::Limit(Limit::HostCalls));
    }

    /// Another call runs in the instance, besides those that do.
    pub(super) fn join(&mut self, call_id: u64, deadline: Nanos, tally: Arc<Tally>) {
        // So that every host call is counted where several run.
        self.max_host_calls = 0;
        self.deadline = self.deadline.max(deadline);
        if let Some(crowd) = &mut self.crowd {
            crowd.enter(call_id, deadline, tally);
        }
    }

    /// That task of the guest is that call's.
    pub(super) fn begin_task(&mut self, call_id: u64, task: GuestTaskId) {
        if let Some(crowd) = &mut self.crowd {
            crowd.begin(call_id, task);
        }
    }

    /// One of the calls that run has ended.
    pub(super) fn part(&mut self, call_id: u64) {
        if let Some(crowd) = &mut self.crowd {
            crowd.leave(call_id);
        }
    }

    /// No several calls run any more.
    pub(super) fn disperse(&mut self) {
        if let Some(crowd) = self.crowd.take() {
            self.max_host_calls = crowd.max_host_calls;
        }
    }

    /// Where it says what, and what it was refused.
    pub(super) fn says(&self) -> (Option<&Capture>, Option<&Denials>) {
        (self.view.as_ref().map(|view| &view.capture), self.denials.as_ref())
    }

    /// Keeps a record of a refusal, up to a bound.
    pub(crate) fn deny(&mut self, denial: Denial) {
        let call_id = self.call_id();
        self.denials.get_or_insert_with(|| self.bound.denials(self.tenant.clone(), call_id)).push(denial);
    }

    /// The last refusal, in one line.
    pub(crate) fn last_denial(&self) -> Option<String> {
        self.denials.as_ref().and_then(Denials::last)
    }

    /// Bytes of the arguments and of the result so far.
    pub(crate) fn traffic(&self) -> (u64, u64) {
        let (read, written) = self
            .flow
            .as_ref()
            .map_or((0, 0), |flow| (flow.read.load(Ordering::Relaxed), flow.written.load(Ordering::Relaxed)));
        (self.bytes_in + read, self.bytes_out + written)
    }

    /// What the guest wrote, logged and was refused so far, by requests under way as well; the bytes written, and the bytes
    /// dropped beyond the limit. Nothing of it for a guest that asked for nothing.
    #[inline]
    pub(crate) fn take_aside(&mut self) -> (Option<Box<Aside>>, u64, u64) {
        match (&self.view, &self.denials) {
            (None, None) => (None, 0, 0),
            (view, denials) => {
                let (output, kept, dropped) = view.as_ref().map(|view| view.capture.take()).unwrap_or_default();
                let denials = denials.as_ref().map(Denials::take).unwrap_or_default();
                (Some(Box::new(Aside { output, denials })), kept, dropped)
            }
        }
    }
}

impl Drop for State {
    /// A panic in a destructor of the embedder's imports, or of a request body of theirs, would leave the store half
    /// dropped and lose its slot in the pool.
    fn drop(&mut self) {
        self.end(false);
    }
}

pub(super) fn next_call_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Reach for State {
    fn view(&mut self) -> &mut View {
        // The view of a guest that starts early is bound to nothing, so that nothing happens; and then it is given up.
        let _ = self.in_call();
        self.log_view()
    }

    fn log_view(&mut self) -> &mut View {
        self.count_host_call();
        self.own_view()
    }

    fn own_view(&mut self) -> &mut View {
        let State { view, denials, bound, tenant, call_id, .. } = self;
        view.get_or_insert_with(|| {
            let call_id = *call_id.get_or_insert_with(next_call_id);
            let denials = denials.get_or_insert_with(|| bound.denials(tenant.clone(), call_id)).clone();
            Box::new(bound.view(Call {
                tenant: tenant.as_ref(),
                call_id,
                invocation: self.invocation.as_deref(),
                max_log: self.max_log,
                max_handles: self.max_handles,
                denials,
            }))
        })
    }

    fn place(&mut self) -> (Tree, Nanos) {
        let Bound { max_depth, max_calls, .. } = *self.bound;
        if let Some(guest) = self.crowd.as_mut().and_then(|crowd| crowd.running()) {
            let tree = guest.tree.get_or_insert_with(|| Tree::root(guest.call_id, max_depth, max_calls));
            return (tree.clone(), guest.deadline);
        }
        let call_id = self.call_id();
        let tree = self.tree.get_or_insert_with(|| Tree::root(call_id, max_depth, max_calls));
        (tree.clone(), self.deadline)
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.log_view().wasi()
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        self.view().http()
    }
}

/// A guest that starts before there is a call has called what only a call can answer.
#[derive(Debug)]
pub(crate) struct TooEarly(Option<String>);

impl TooEarly {
    /// It called that import.
    pub(super) fn at(import: String) -> TooEarly {
        TooEarly(Some(import))
    }

    /// It called some import.
    pub(crate) fn somewhere() -> TooEarly {
        TooEarly(None)
    }
}

impl std::fmt::Display for TooEarly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let import = self.0.as_deref().unwrap_or("an import");
        write!(
            f,
            "as it starts, it calls {import}, when there is no call yet and only clocks, randomness, its environment and logs answer"
        )
    }
}

impl std::error::Error for TooEarly {}
