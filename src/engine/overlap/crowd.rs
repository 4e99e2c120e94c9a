//! [`Crowd`]: the calls that run in one instance at once, as the store's state knows them, and which of them has the thread.
//!
//! wasmtime tells which call a guest works for while code of the guest is on the stack. It is asked as the guest gets the
//! thread, and what it said is forgotten before the instance's event loop goes on; so [`Hall::running`] is right, or nobody.

use super::hall::{Hall, Tally};
use crate::capability::functions::Tree;
use crate::clock::Nanos;
use crate::engine::state::State;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use wasmtime::component::GuestTaskId;
use wasmtime::{CallHook, Store};

pub(crate) struct Crowd {
    hall: Arc<Hall>,
    /// Of each call.
    pub max_host_calls: u64,
    guests: Vec<Guest>,
    /// Whether the hall has both the capture and the denials.
    heard: bool,
    /// Calls that have come.
    entered: u64,
    /// Host calls of which nobody knows for which call they were made.
    strays: u64,
}

/// One call that runs.
pub(crate) struct Guest {
    pub call_id: u64,
    pub deadline: Nanos,
    pub tally: Arc<Tally>,
    pub tree: Option<Tree>,
    task: Option<GuestTaskId>,
}

impl Crowd {
    pub(super) fn new(hall: &Arc<Hall>, max_host_calls: u64) -> Crowd {
        Crowd { hall: Arc::clone(hall), max_host_calls, guests: Vec::new(), heard: false, entered: 0, strays: 0 }
    }

    pub(crate) fn enter(&mut self, call_id: u64, deadline: Nanos, tally: Arc<Tally>) {
        self.entered += 1;
        self.guests.push(Guest { call_id, deadline, tally, tree: None, task: None });
    }

    /// That task of the guest is the call's. If it was another's, that one's guest has ended, though the call has not: it
    /// waits for its response to be read, and the number of its task is used again.
    pub(crate) fn begin(&mut self, call_id: u64, task: GuestTaskId) {
        for guest in &mut self.guests {
            if guest.call_id == call_id {
                guest.task = Some(task);
            } else if guest.task == Some(task) {
                guest.task = None;
            }
        }
    }

    pub(crate) fn leave(&mut self, call_id: u64) {
        self.guests.retain(|guest| guest.call_id != call_id);
    }

    /// The call that the guest works for at this moment, where that is known.
    pub(crate) fn running(&mut self) -> Option<&mut Guest> {
        let running = self.hall.running.load(Ordering::Relaxed);
        self.guests.iter_mut().find(|guest| guest.call_id == running)
    }

    /// Counts one host call; says whether it is one too many. Of those that may be anybody's there are as many as the number
    /// of calls allows: an instance that serves many is not ended for what each of them may do.
    pub(crate) fn count_host_call(&mut self) -> bool {
        let most = self.max_host_calls;
        if let Some(guest) = self.running() {
            return guest.tally.host_calls.fetch_add(1, Ordering::Relaxed) + 1 > most;
        }
        self.strays += 1;
        self.strays > most.saturating_mul(self.entered)
    }

    /// The call that the guest works for has gone beyond a limit.
    pub(crate) fn blame(&mut self) {
        let running = self.hall.running.load(Ordering::Relaxed);
        let _ = self.hall.blamed.compare_exchange(0, running, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn note(&mut self, root: Option<GuestTaskId>) {
        let guest = root.and_then(|root| self.guests.iter().find(|guest| guest.task == Some(root)));
        self.hall.running.store(guest.map_or(0, |guest| guest.call_id), Ordering::Relaxed);
    }
}

/// Has the store note for which call its guest has the thread. It does not hurt where no several calls run.
pub(super) fn watch(store: &mut Store<State>) {
    store.call_hook(|mut store, hook| {
        // As a trap passes, the guest's frames are gone, and with them what wasmtime would look at.
        if matches!(hook, CallHook::CallingWasm | CallHook::ReturningFromHost) && store.data().crowd.is_some() {
            let root = store.async_call_stack().ok().and_then(Iterator::last);
            let state = store.data_mut();
            if let Some(crowd) = &mut state.crowd {
                crowd.note(root);
            }
            hear(state);
        }
        Ok(())
    });
}

/// Lets the hall have what the guest says, for whoever draws up a receipt.
pub(super) fn hear(state: &mut State) {
    if let Some(crowd) = state.crowd.as_ref().filter(|crowd| !crowd.heard) {
        let (capture, denials) = state.says();
        let heard = crowd.hall.hear(capture, denials);
        if let Some(crowd) = &mut state.crowd {
            crowd.heard = heard;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::overlap::desk::Desk;

    #[test]
    fn host_calls_are_bounded_for_each_call_and_for_nobody() {
        let hall = Arc::new(Hall::new(Desk::new(2, 2)));
        let mut crowd = Crowd::new(&hall, 3);
        for call_id in [1, 2] {
            crowd.enter(call_id, Nanos::default(), Arc::default());
        }
        let mut within = |call_id| {
            hall.running.store(call_id, Ordering::Relaxed);
            (0..100).take_while(|_| !crowd.count_host_call()).count()
        };
        assert_eq!([within(1), within(2), within(0)], [3, 3, 6]);
    }
}
