//! A host, as far as the refiller knows it.

use crate::clock::Clock;
use crate::engine::slots::Slots;
use crate::engine::ticker::Ticker;
use std::sync::Arc;

pub(crate) struct Inner {
    pub clock: Clock,
    pub slots: Arc<Slots>,
    pub ticker: Arc<Ticker>,
}
