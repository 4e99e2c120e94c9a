//! The ticker, and ends to waiting that may come at any time.

use crate::clock::Nanos;
use shuttle::rand::Rng;
use std::pin::Pin;
use std::task::{Context, Poll};

pub(crate) struct Ticker;

pub(crate) struct Alarm;

impl Ticker {
    pub(crate) fn alarm(&self) -> Alarm {
        Alarm
    }
}

/// Gives up now and then, when the future waits.
pub(crate) struct Until<F> {
    pub alarm: Alarm,
    pub instant: Nanos,
    pub future: F,
}

impl<F: Future + Unpin> Future for Until<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match Pin::new(&mut self.get_mut().future).poll(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending if shuttle::rand::thread_rng().gen_bool(0.2) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}
