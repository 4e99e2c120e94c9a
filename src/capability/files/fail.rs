//! Why an operation on files fails, in the words that both generations of WASI have.

use super::ledger::Full;
use std::io;

/// Why an operation fails.
#[derive(Debug)]
pub(super) enum Fail {
    Code(Code),
    /// A rule said no: there is a record to be made.
    Denied(Rule, String),
}

/// Error codes that both generations of WASI have, as far as they are given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Code {
    Access,
    BadDescriptor,
    Busy,
    CrossDevice,
    Exist,
    FileTooLarge,
    IllegalByteSequence,
    InsufficientMemory,
    InsufficientSpace,
    Interrupted,
    Invalid,
    Io,
    IsDirectory,
    Loop,
    NameTooLong,
    NoEntry,
    NotDirectory,
    NotEmpty,
    NotPermitted,
    Overflow,
    ReadOnly,
    TooManyLinks,
    Unsupported,
}

/// Which rule said no.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Rule {
    ReadOnly,
    Escape,
    Special,
    Target,
    Moved,
}

impl Rule {
    pub(super) fn code(self) -> Code {
        match self {
            Rule::ReadOnly => Code::ReadOnly,
            Rule::Escape | Rule::Special | Rule::Target | Rule::Moved => Code::NotPermitted,
        }
    }
}

impl From<Code> for Fail {
    fn from(code: Code) -> Fail {
        Fail::Code(code)
    }
}

impl From<Full> for Fail {
    fn from(_: Full) -> Fail {
        Fail::Code(Code::InsufficientSpace)
    }
}

impl From<io::Error> for Fail {
    fn from(error: io::Error) -> Fail {
        use rustix::io::Errno;
        Fail::Code(match Errno::from_io_error(&error) {
            Some(Errno::ACCESS) => Code::Access,
            Some(Errno::BADF) => Code::BadDescriptor,
            Some(Errno::BUSY) => Code::Busy,
            Some(Errno::DQUOT | Errno::NOSPC) => Code::InsufficientSpace,
            Some(Errno::EXIST) => Code::Exist,
            Some(Errno::FBIG) => Code::FileTooLarge,
            Some(Errno::ILSEQ) => Code::IllegalByteSequence,
            Some(Errno::INTR) => Code::Interrupted,
            Some(Errno::INVAL) => Code::Invalid,
            Some(Errno::ISDIR) => Code::IsDirectory,
            Some(Errno::LOOP) => Code::Loop,
            Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => Code::InsufficientMemory,
            Some(Errno::MLINK) => Code::TooManyLinks,
            Some(Errno::NAMETOOLONG) => Code::NameTooLong,
            Some(Errno::NOENT) => Code::NoEntry,
            Some(Errno::NOTDIR) => Code::NotDirectory,
            Some(Errno::NOTEMPTY) => Code::NotEmpty,
            Some(Errno::NOTSUP) => Code::Unsupported,
            Some(Errno::OVERFLOW) => Code::Overflow,
            Some(Errno::PERM) => Code::NotPermitted,
            Some(Errno::ROFS) => Code::ReadOnly,
            Some(Errno::XDEV) => Code::CrossDevice,
            Some(_) => Code::Io,
            None if error.kind() == io::ErrorKind::PermissionDenied => Code::NotPermitted,
            None if error.kind() == io::ErrorKind::InvalidInput => Code::Invalid,
            None => Code::Io,
        })
    }
}

pub(super) type Outcome<T> = Result<T, Fail>;
