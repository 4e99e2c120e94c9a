//! What a call brings along.

use std::sync::Arc;

pub(crate) struct Share<'a> {
    pub tenant: Option<&'a Arc<str>>,
    pub invocation: Option<()>,
}
