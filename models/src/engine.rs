//! Instances: where they come from and wait is isopod's own, what they are is not.

#[path = "../../src/engine/pool.rs"]
pub(crate) mod pool;
#[path = "../../src/engine/reuse.rs"]
pub(crate) mod reuse;
#[path = "../../src/engine/slots.rs"]
pub(crate) mod slots;
#[path = "../../src/engine/stock.rs"]
pub(crate) mod stock;

pub(crate) mod lease;
pub(crate) mod overlap;
pub(crate) mod state;
pub(crate) mod ticker;

use slots::{Room, Slots};
use std::sync::Arc;

/// So many slots, if nobody has them.
pub(crate) fn take_spare(slots: &Arc<Slots>, width: u32) -> Option<Room> {
    Slots::take_spare(slots, width)
}

/// Slots that a pool has beyond the number of instances.
pub(crate) fn spare(seats: u32) -> u32 {
    slots::spare(seats)
}
