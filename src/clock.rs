//! The only place that asks what time it is.
//!
//! A call reads a calibrated cycle counter about twice for each poll; a system call would cost more than the call.

use std::time::{Duration, SystemTime};

/// The time of day.
pub(crate) fn wall() -> SystemTime {
    SystemTime::now()
}

/// A monotonic clock that is read without a system call. Instants are nanoseconds since an arbitrary start.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    cycles: quanta::Clock,
}

impl Clock {
    pub(crate) fn new() -> Clock {
        Clock { cycles: quanta::Clock::new() }
    }

    #[inline]
    pub(crate) fn now(&self) -> Nanos {
        Nanos(self.cycles.delta_as_nanos(0, self.cycles.raw()))
    }

    /// Ends so much later, in a runtime of tokio.
    pub(crate) fn sleep(&self, time: Duration) -> tokio::time::Sleep {
        tokio::time::sleep(time)
    }
}

/// An instant of [`Clock`].
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Nanos(u64);

impl Nanos {
    #[inline]
    pub(crate) fn since(self, earlier: Nanos) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    #[inline]
    pub(crate) fn to_raw(self) -> u64 {
        self.0
    }

    #[inline]
    pub(crate) fn from_raw(raw: u64) -> Nanos {
        Nanos(raw)
    }

    /// `self` later by `delay`; an instant that no clock reaches for a delay that does not fit.
    #[inline]
    pub(crate) fn plus(self, delay: Duration) -> Nanos {
        Nanos(self.0.saturating_add(delay.as_nanos().try_into().unwrap_or(u64::MAX)))
    }
}
