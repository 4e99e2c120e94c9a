//! What does it cost to load a component: compiled, from the cache, and to the first answer?

use crate::cases::Groups;

pub fn groups() -> Groups {
    Vec::new()
}
