//! Where guests give way that count fuel: they do so by themselves as they compute, and here after a host call.

use super::state::{State, Stop};
use super::yielded;
use std::future::ready;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;
use wasmtime::{CallHook, CallHookHandler, StoreContextMut};

/// A host call costs no fuel: thousands of long ones fit between two places where fuel makes a guest give way. So the clock
/// is looked at after each, and the guest gives way if a tick has passed since it last did so here.
pub(super) struct GivesWay {
    pub tick: Duration,
}

type Heard<'a> = Pin<Box<dyn Future<Output = wasmtime::Result<()>> + Send + 'a>>;

impl CallHookHandler<State> for GivesWay {
    fn handle_call_event<'a, 'b, 'c>(&'a self, mut store: StoreContextMut<'b, State>, hook: CallHook) -> Heard<'c>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        // Whatever suspends it in its own code is that it used up its interval.
        yielded::set(matches!(hook, CallHook::CallingWasm | CallHook::ReturningFromHost));
        if !matches!(hook, CallHook::ReturningFromHost) {
            return Box::pin(ready(Ok(())));
        }
        let state = store.data_mut();
        let now = state.now();
        if state.is_over_at(now) {
            return Box::pin(ready(stop(state)));
        }
        if now.since(state.life.since) < self.tick {
            return Box::pin(ready(Ok(())));
        }
        Box::pin(async move {
            let mut gave_way = false;
            std::future::poll_fn(|cx| {
                if std::mem::replace(&mut gave_way, true) {
                    return Poll::Ready(());
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
            // It may have waited long for its turn.
            let state = store.data_mut();
            let now = state.now();
            state.life.since = now;
            if state.is_over_at(now) { stop(state) } else { Ok(()) }
        })
    }
}

fn stop(state: &mut State) -> wasmtime::Result<()> {
    state.stop.get_or_insert(Stop::Deadline);
    Err(wasmtime::Error::msg("the call is stopped"))
}
