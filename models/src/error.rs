//! An error that says nothing.

use std::fmt;

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug)]
pub(crate) struct Error;

pub(crate) enum ErrorKind {
    Misuse,
}

impl Error {
    pub(crate) fn from_io(_: ErrorKind, _: &str, _: &std::io::Error) -> Error {
        Error
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it failed")
    }
}
