//! Runs models, and tasks in them.

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::{Condvar, Mutex};
use shuttle::{Config, Runner};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Wake};

/// Schedules that each model is run by, unless the environment says how many. The same ones each time: a change is
/// judged by what it does, and longer runs look for what is new.
const SCHEDULES: usize = 5_000;
const SEED: u64 = 7;
/// Places at which the second half of the schedules stop one thread for another: most mistakes need no more.
const STOPS: usize = 3;
/// Bytes; a thread of a model calls less deeply than one of a program.
const STACK: usize = 256 << 10;

/// Runs the model by many schedules, of which the last is printed where one panics, or leaves a thread that waits for
/// ever.
/// `ISOPOD_MODELS_SCHEDULES` has it run by so many, and by others each time.
pub fn check(model: fn()) {
    let asked = std::env::var("ISOPOD_MODELS_SCHEDULES").ok().and_then(|number| number.parse().ok());
    let seed = asked.map_or(SEED, |_: usize| std::process::id().into());
    let half = asked.unwrap_or(SCHEDULES) / 2;
    run(RandomScheduler::new_from_seed(seed, half), model);
    run(PctScheduler::new_from_seed(seed, STOPS, half), model);
}

fn run(scheduler: impl Scheduler + 'static, model: fn()) {
    let mut config = Config::new();
    config.stack_size = STACK;
    // It warns that the order of memory is not modelled.
    config.silence_warnings = true;
    Runner::new(scheduler, config).run(model);
}

/// A task of which others can tell when it has nothing to do.
#[derive(Default)]
pub(crate) struct Task {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    woken: bool,
    idle: bool,
}

impl Task {
    /// Runs it to its end on this thread.
    pub(crate) fn run(self: &Arc<Self>, future: impl Future<Output = ()>) {
        let mut future = pin!(future);
        let waker = Arc::clone(self).into();
        while future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            let mut state = self.state.lock().unwrap();
            state.idle = true;
            self.changed.notify_all();
            while !state.woken {
                state = self.changed.wait(state).unwrap();
            }
            *state = State::default();
        }
        self.state.lock().unwrap().idle = true;
        self.changed.notify_all();
    }

    /// Waits until it waits and nobody has woken it, or it has ended.
    pub(crate) fn idle(&self) {
        let mut state = self.state.lock().unwrap();
        while !state.idle || state.woken {
            state = self.changed.wait(state).unwrap();
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.state.lock().unwrap().woken = true;
        self.changed.notify_all();
    }
}
