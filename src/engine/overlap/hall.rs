//! [`Hall`]: what the calls in one instance share outside its store: who is inside, who waits to be woken, what is told.

use super::Part;
use super::desk::Desk;
use crate::capability::logging::Capture;
use crate::clock::Nanos;
use crate::denial::Denials;
use crate::foreign::guarded;
use crate::future::BoxFuture;
use crate::usage::Aside;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Wake, Waker};

/// What is done for one call in the instance; says whether it ended well.
pub(super) type Job = Box<dyn for<'a> FnOnce(Part<'a>) -> BoxFuture<'a, bool> + Send>;

pub(crate) struct Hall {
    lobby: Mutex<Lobby>,
    /// Whether there is something to do in the instance.
    woken: AtomicBool,
    /// Whether somebody is at it.
    driven: AtomicBool,
    /// The call that the guest works for at this moment; 0 if nobody knows.
    pub(super) running: AtomicU64,
    /// The call that went beyond a limit; 0 for none.
    pub(super) blamed: AtomicU64,
    pub(super) peak: AtomicU64,
    says: Mutex<(Option<Capture>, Option<Denials>)>,
}

struct Lobby {
    desk: Desk,
    /// Calls that have not begun.
    inbox: Vec<Ticket>,
    /// Calls that have not ended in the guest, by their numbers.
    members: HashMap<u64, Member>,
}

/// A call that is to begin.
pub(super) struct Ticket {
    pub call_id: u64,
    pub deadline: Nanos,
    pub tally: Arc<Tally>,
    pub job: Job,
}

struct Member {
    tally: Arc<Tally>,
    waker: Option<Waker>,
}

/// What one call does, as it does it.
#[derive(Default)]
pub(crate) struct Tally {
    pub host_calls: AtomicU64,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    /// Nanoseconds for which it kept the instance from all others.
    busy: AtomicU64,
    /// Nobody waits for it.
    given_up: AtomicBool,
}

/// What is known of a call that computes.
pub(super) struct Computes {
    pub busy: u64,
    pub given_up: bool,
}

impl Hall {
    pub(super) fn new(desk: Desk) -> Hall {
        Hall {
            lobby: Mutex::new(Lobby { desk, inbox: Vec::new(), members: HashMap::new() }),
            woken: AtomicBool::new(true),
            driven: AtomicBool::new(false),
            running: AtomicU64::new(0),
            blamed: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            says: Mutex::default(),
        }
    }

    /// Takes the ticket, if one more call may run.
    pub(super) fn enter(&self, ticket: Ticket) -> Result<(), Ticket> {
        let mut lobby = self.lobby.lock();
        if !lobby.desk.enter() {
            return Err(ticket);
        }
        lobby.members.insert(ticket.call_id, Member { tally: Arc::clone(&ticket.tally), waker: None });
        lobby.inbox.push(ticket);
        self.woken.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Those that are to begin now.
    pub(super) fn tickets(&self) -> Vec<Ticket> {
        std::mem::take(&mut self.lobby.lock().inbox)
    }

    /// Closes it if nobody is inside.
    pub(super) fn close(&self) -> bool {
        self.lobby.lock().desk.close()
    }

    /// The call has ended in the guest.
    pub(super) fn leave(&self, call_id: u64, well: bool) {
        let waker = {
            let mut lobby = self.lobby.lock();
            lobby.desk.leave(well);
            lobby.members.remove(&call_id).and_then(|member| member.waker)
        };
        if let Some(waker) = waker {
            guarded("a waker", || waker.wake());
        }
    }

    /// Nobody waits for the call any more, which has not ended.
    pub(super) fn give_up(&self, call_id: u64) {
        let (ticket, waker) = {
            let mut lobby = self.lobby.lock();
            match lobby.inbox.iter().position(|ticket| ticket.call_id == call_id) {
                Some(at) => {
                    lobby.desk.withdraw();
                    let member = lobby.members.remove(&call_id);
                    (Some(lobby.inbox.swap_remove(at)), member.and_then(|member| member.waker))
                }
                None => {
                    lobby.desk.spoil();
                    let waker = lobby.members.get_mut(&call_id).and_then(|member| {
                        member.tally.given_up.store(true, Ordering::Relaxed);
                        member.waker.take()
                    });
                    (None, waker)
                }
            }
        };
        // The embedder's, and not for under the lock.
        guarded("the destructor of a call that was given up", || drop((ticket, waker)));
        // It may have been woken for what the others wait for.
        if self.woken.load(Ordering::SeqCst) {
            self.wake_all();
        }
    }

    /// The task of that call, to be woken when there is something to do.
    pub(super) fn register(&self, call_id: u64, waker: &Waker) {
        let waker = waker.clone();
        let mut lobby = self.lobby.lock();
        let old = match lobby.members.get_mut(&call_id) {
            Some(member) => member.waker.replace(waker),
            None => Some(waker),
        };
        drop(lobby);
        if let Some(old) = old {
            guarded("the destructor of a waker", || drop(old));
        }
    }

    pub(super) fn wake_all(&self) {
        let wakers: Vec<Waker> =
            self.lobby.lock().members.values_mut().filter_map(|member| member.waker.take()).collect();
        wakers.into_iter().for_each(|waker| guarded("a waker", || waker.wake()));
    }

    /// Whether there is something to do.
    pub(super) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::SeqCst)
    }

    /// What there was to do is about to be done.
    pub(super) fn begin(&self) {
        self.driven.store(true, Ordering::SeqCst);
        self.woken.store(false, Ordering::SeqCst);
    }

    /// It was done. Whoever finds it [woken](Hall::is_woken) after this is to wake all: who did so meanwhile left it to him.
    pub(super) fn end(&self) {
        self.driven.store(false, Ordering::SeqCst);
    }

    /// The guest computed for so long, for that call, and would go on.
    pub(super) fn computed(&self, call_id: u64, nanos: u64) -> Option<Computes> {
        let lobby = self.lobby.lock();
        let tally = &lobby.members.get(&call_id)?.tally;
        let busy = tally.busy.fetch_add(nanos, Ordering::Relaxed) + nanos;
        Some(Computes { busy, given_up: tally.given_up.load(Ordering::Relaxed) })
    }

    /// So many more may enter, besides the first.
    pub(super) fn open(&self, more: u32) {
        self.lobby.lock().desk.open(more);
    }

    /// How many calls began, and whether all of them ended well.
    pub(super) fn books(&self) -> (u32, bool) {
        let desk = &self.lobby.lock().desk;
        (desk.entered(), desk.is_clean())
    }

    /// Nobody enters any more.
    pub(super) fn spoil(&self) {
        self.lobby.lock().desk.spoil();
    }

    /// Says whether both are known.
    pub(super) fn hear(&self, capture: Option<&Capture>, denials: Option<&Denials>) -> bool {
        let mut says = self.says.lock();
        let (heard, refused) = &mut *says;
        *heard = heard.take().or_else(|| capture.cloned());
        *refused = refused.take().or_else(|| denials.cloned());
        heard.is_some() && refused.is_some()
    }

    /// What the guest said and was refused since somebody last asked; the bytes kept, and those dropped.
    pub(super) fn take_aside(&self) -> (Option<Box<Aside>>, u64, u64) {
        // Taking tells the embedder's sinks, which is not for under the lock.
        let (capture, denials) = self.says.lock().clone();
        if capture.is_none() && denials.is_none() {
            return (None, 0, 0);
        }
        let (output, kept, dropped) = capture.as_ref().map(Capture::take).unwrap_or_default();
        let denials = denials.as_ref().map(Denials::take).unwrap_or_default();
        (Some(Box::new(Aside { output, denials })), kept, dropped)
    }
}

/// Wakes every call that waits: whichever is polled next goes on for all. One alone may not be polled for long, such as that
/// of a response that nobody reads on.
impl Wake for Hall {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        if !self.driven.load(Ordering::SeqCst) {
            self.wake_all();
        }
    }
}
