//! What a guest may reach: nothing.

pub(crate) struct Bound {
    pub function: &'static str,
}
