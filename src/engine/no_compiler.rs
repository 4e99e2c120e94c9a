//! What stands for the compiler in a build without the feature `compiler`.

use super::artefact::Digest;
use super::{Component, Engine, Flavour, Profile};
use crate::error::{Error, ErrorKind, Result};

pub(super) fn tune(_: &mut wasmtime::Config, _: Flavour) {}

/// Fails, and says why.
pub(crate) fn module(_: &Engine, _: &[u8]) -> Result<wasmtime::Module> {
    let text =
        "this build has no compiler, which a snapshot needs; remove `.snapshot()`, or add the feature `compiler`";
    Err(Error::new(ErrorKind::Misuse, text))
}

/// Fails, and says what to do instead.
pub(crate) fn compile(_: &Engine, _: &[u8]) -> Result<Component> {
    let text = "this build has no compiler; load what `Host::precompile` made in a build with the feature `compiler`";
    Err(Error::new(ErrorKind::Misuse, text))
}

pub(super) fn compatibility(_: &wasmtime::Engine) -> Option<Digest> {
    None
}

pub(super) fn family(_: bool, _: Profile) -> Option<Digest> {
    None
}
