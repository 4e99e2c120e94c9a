//! [`Running`]: a call in the hands of somebody who may not come back to it.
//!
//! A future runs while it is polled. Whoever serves a response to a slow client stops polling it until the client has
//! read, for as long as the client likes; the guest and its seat would be kept for that long. So a call that is woken
//! when its time is up is polled once more by the runtime, which ends it.

use crate::clock::{Clock, Nanos};
use crate::error::Result;
use crate::usage::Reply;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::runtime::Handle;

type Ended = Result<Reply<()>>;

/// A call that goes on while it is polled, and ends at its deadline in any case. Dropped, it is cancelled.
pub(super) struct Running {
    shared: Arc<Shared>,
    /// Wakes `shared`: one for all polls, so that the call's alarm is set once.
    waker: Waker,
}

struct Shared {
    work: Mutex<Work>,
    reader: AtomicWaker,
    clock: Clock,
    deadline: Nanos,
    /// Who polls at the deadline. Without a runtime, nobody but the reader.
    runtime: Option<Handle>,
}

enum Work {
    Going(Pin<Box<dyn Future<Output = Ended> + Send>>),
    Over(Option<Ended>),
}

impl Running {
    pub(super) fn new(
        clock: Clock,
        time_limit: Duration,
        call: impl Future<Output = Ended> + Send + 'static,
    ) -> Running {
        let shared = Arc::new(Shared {
            work: Mutex::new(Work::Going(Box::pin(call))),
            reader: AtomicWaker::new(),
            // The call starts after this and takes its own deadline from then: what rings there is never too early here.
            deadline: clock.now().plus(time_limit),
            clock,
            runtime: Handle::try_current().ok(),
        });
        Running { waker: Waker::from(Arc::clone(&shared)), shared }
    }

    /// Puts the end back, for the next who asks.
    pub(super) fn unread(&mut self, ended: Ended) {
        *self.shared.work.lock() = Work::Over(Some(ended));
    }
}

impl Future for Running {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        self.shared.reader.register(cx.waker());
        // It may be this very thread that has it: where the end of one call is polled, its instance may go on for another,
        // of whose request this is the body. Whoever has it tells the reader afterwards.
        let Some(mut work) = self.shared.work.try_lock() else { return Poll::Pending };
        work.poll(&self.waker);
        match &mut *work {
            Work::Over(ended) => ended.take().map_or(Poll::Pending, Poll::Ready),
            Work::Going(_) => Poll::Pending,
        }
    }
}

impl Drop for Running {
    /// The call holds wakers that hold the call. One that is polled at this moment has come to its deadline, and ends.
    fn drop(&mut self) {
        let work = self.shared.work.try_lock().map(|mut work| std::mem::replace(&mut *work, Work::Over(None)));
        drop(work);
    }
}

impl Work {
    fn poll(&mut self, waker: &Waker) {
        if let Work::Going(call) = self
            && let Poll::Ready(ended) = call.as_mut().poll(&mut Context::from_waker(waker))
        {
            *self = Work::Over(Some(ended));
        }
    }
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.reader.wake();
        if self.clock.now() < self.deadline {
            return;
        }
        if let Some(runtime) = self.runtime.clone() {
            runtime.spawn(async move {
                // Whoever holds it polls it at this moment.
                if let Some(mut work) = self.work.try_lock() {
                    work.poll(&Waker::from(Arc::clone(&self)));
                }
                self.reader.wake();
            });
        }
    }
}
