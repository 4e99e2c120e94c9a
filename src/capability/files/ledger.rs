//! What one directory tree holds, and whether more fits: pure bookkeeping, fed with what was seen on the disk.
//!
//! The books are kept by inode, so that a file with two names is counted once, and one that is deleted while somebody has
//! it open gives its bytes back when it is closed, which is when the disk gets them. Nothing is given back that was not
//! counted before. Where somebody else changes the tree, the books may hold more than there is, until it is measured again.

use std::collections::HashMap;

/// Which file it is: its device and its number there.
pub(super) type Inode = (u64, u64);

/// What a tree holds, or may hold.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Quota {
    /// Lengths of files, holes included, and of the texts of symlinks.
    pub bytes: u64,
    /// Names: of files, directories and symlinks.
    pub entries: u64,
}

/// It would not fit.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Full;

/// The books of one tree.
pub(super) struct Ledger {
    max: Quota,
    held: Quota,
    known: HashMap<Inode, Known>,
}

#[derive(Default)]
struct Known {
    bytes: u64,
    names: u64,
    opens: u64,
}

impl Ledger {
    pub(super) fn new(max: Quota) -> Ledger {
        Ledger { max, held: Quota::default(), known: HashMap::new() }
    }

    pub(super) fn held(&self) -> Quota {
        self.held
    }

    pub(super) fn max(&self) -> Quota {
        self.max
    }

    /// Whether it holds more than it may.
    pub(super) fn is_over(&self) -> bool {
        self.held.bytes > self.max.bytes || self.held.entries > self.max.entries
    }

    /// Whether one more name fits.
    pub(super) fn room_for_name(&self) -> Result<(), Full> {
        if self.held.entries < self.max.entries { Ok(()) } else { Err(Full) }
    }

    /// Whether that file may come to be `bytes` long. `now` is how long it is: what does not grow it always fits.
    pub(super) fn room_for(&self, inode: Inode, now: u64, bytes: u64) -> Result<(), Full> {
        let counted = self.known.get(&inode).map_or(0, |known| known.bytes);
        let others = self.held.bytes.saturating_sub(counted);
        if bytes <= now || others.checked_add(bytes).is_some_and(|sum| sum <= self.max.bytes) {
            Ok(())
        } else {
            Err(Full)
        }
    }

    /// One name of a file was met while the tree was measured.
    pub(super) fn measured(&mut self, inode: Inode, bytes: u64) {
        self.known.entry(inode).or_default().names += 1;
        self.held.entries += 1;
        self.resized(inode, bytes);
    }

    /// Something was made that cannot be looked at. It is counted until the tree is measured again.
    pub(super) fn unseen(&mut self, bytes: u64) {
        self.held.entries += 1;
        self.held.bytes = self.held.bytes.saturating_add(bytes);
    }

    /// The same books, drawn up anew: `measured` has what has a name. What is open stays open, with a name or without.
    pub(super) fn replace(&mut self, measured: Ledger) {
        let old = std::mem::replace(self, measured);
        for (inode, Known { bytes, opens, .. }) in old.known.into_iter().filter(|(_, known)| known.opens > 0) {
            let known = self.known.entry(inode).or_default();
            known.opens = opens;
            if known.names == 0 {
                known.bytes = bytes;
                self.held.bytes = self.held.bytes.saturating_add(bytes);
            }
        }
    }

    /// A file was seen: just made, or made by somebody else at some time, or long known. It has `names` altogether.
    pub(super) fn seen(&mut self, inode: Inode, bytes: u64, names: u64) {
        let known = self.known.entry(inode).or_insert_with(|| {
            self.held.entries += names;
            Known { names, ..Known::default() }
        });
        // Fewer than there were: somebody else removed one, or this is another file with a number that was used before.
        if known.names > names {
            self.held.entries -= known.names - names;
            known.names = names;
        }
        // The number of one that has no name is used again before it was told that the last who had it open closed it.
        if known.names == 0 {
            self.held.entries += names;
            known.names = names;
        }
        self.resized(inode, bytes);
    }

    /// A known file got one more name. `names` is how many it has now.
    pub(super) fn linked(&mut self, inode: Inode, bytes: u64, names: u64) {
        match self.known.get_mut(&inode) {
            Some(known) => {
                known.names += 1;
                self.held.entries += 1;
                self.resized(inode, bytes);
            }
            None => self.seen(inode, bytes, names),
        }
    }

    /// A name of it is gone.
    pub(super) fn unnamed(&mut self, inode: Inode) {
        if let Some(known) = self.known.get_mut(&inode)
            && known.names > 0
        {
            known.names -= 1;
            self.held.entries -= 1;
            self.forget(inode);
        }
    }

    /// It is that long now.
    pub(super) fn resized(&mut self, inode: Inode, bytes: u64) {
        if let Some(known) = self.known.get_mut(&inode) {
            self.held.bytes = self.held.bytes.saturating_sub(known.bytes).saturating_add(bytes);
            known.bytes = bytes;
        }
    }

    pub(super) fn opened(&mut self, inode: Inode) {
        self.known.entry(inode).or_default().opens += 1;
    }

    pub(super) fn closed(&mut self, inode: Inode) {
        if let Some(known) = self.known.get_mut(&inode) {
            known.opens = known.opens.saturating_sub(1);
            self.forget(inode);
        }
    }

    /// A file that has no name and that nobody has open is no more.
    fn forget(&mut self, inode: Inode) {
        if let Some(known) = self.known.get(&inode)
            && known.names == 0
            && known.opens == 0
        {
            self.held.bytes = self.held.bytes.saturating_sub(known.bytes);
            self.known.remove(&inode);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Inode = (1, 1);
    const B: Inode = (1, 2);

    fn ledger() -> Ledger {
        Ledger::new(Quota { bytes: 100, entries: 3 })
    }

    fn held(ledger: &Ledger) -> (u64, u64) {
        (ledger.held().bytes, ledger.held().entries)
    }

    #[test]
    fn exactly_the_quota_fits() {
        let mut books = ledger();
        books.seen(A, 0, 1);
        assert_eq!(books.room_for(A, 0, 100), Ok(()));
        assert_eq!(books.room_for(A, 0, 101), Err(Full));
        assert_eq!(books.room_for(A, 0, u64::MAX), Err(Full));
        books.resized(A, 60);
        assert_eq!(books.room_for(B, 0, 40), Ok(()));
        assert_eq!(books.room_for(B, 0, 41), Err(Full));
        assert_eq!(books.room_for(A, 60, 100), Ok(()));
        books.resized(A, 10);
        assert_eq!(books.room_for(B, 0, 90), Ok(()));
        assert_eq!(books.room_for_name(), Ok(()));
        books.seen(B, 0, 1);
        books.linked(A, 10, 2);
        assert_eq!(books.room_for_name(), Err(Full));
        assert_eq!(held(&books), (10, 3));
    }

    #[test]
    fn bytes_come_back_with_the_last_name_and_the_last_descriptor() {
        let mut books = ledger();
        books.seen(A, 50, 1);
        books.linked(A, 50, 2);
        books.opened(A);
        books.opened(A);
        books.unnamed(A);
        assert_eq!(held(&books), (50, 1));
        books.unnamed(A);
        assert_eq!(held(&books), (50, 0));
        books.closed(A);
        books.resized(A, 70);
        assert_eq!(held(&books), (70, 0));
        books.closed(A);
        assert_eq!(held(&books), (0, 0));
    }

    #[test]
    fn a_number_that_is_used_again_before_the_last_was_told_closed_is_counted() {
        let mut books = ledger();
        books.seen(A, 50, 1);
        books.opened(A);
        books.unnamed(A);
        books.seen(A, 7, 1);
        books.opened(A);
        books.closed(A);
        books.closed(A);
        assert_eq!(held(&books), (7, 1));
    }

    #[test]
    fn books_drawn_up_anew_have_what_has_a_name_and_what_is_open() {
        let mut books = ledger();
        for (inode, bytes) in [(A, 10), (B, 20), ((1, 3), 30)] {
            books.seen(inode, bytes, 1);
            books.opened(inode);
        }
        books.unseen(5);
        books.unnamed(A);
        books.closed((1, 3));
        assert_eq!(held(&books), (65, 3));
        // The third was removed by somebody else, and the second made longer.
        let mut measured = ledger();
        measured.measured(B, 25);
        books.replace(measured);
        assert_eq!(held(&books), (35, 1));
        books.closed(A);
        books.closed(B);
        assert_eq!(held(&books), (25, 1));
        books.unnamed(B);
        assert_eq!(held(&books), (0, 0));
    }

    #[test]
    fn what_was_not_counted_is_not_given_back() {
        let mut books = ledger();
        books.seen(A, 50, 1);
        books.unnamed(B);
        books.closed(B);
        books.resized(B, 5);
        assert_eq!(held(&books), (50, 1));
        books.unnamed(A);
        books.unnamed(A);
        assert_eq!(held(&books), (0, 0));
    }

    #[test]
    fn a_file_of_somebody_elses_is_counted_when_it_is_met() {
        let mut books = ledger();
        books.seen(A, 500, 1);
        assert!(books.is_over());
        // It may shrink or be written over, but not grow.
        assert_eq!(books.room_for(A, 500, 500), Ok(()));
        assert_eq!(books.room_for(A, 500, 501), Err(Full));
        // The same number again, for a file that is new: the old one was removed by somebody else.
        books.seen(A, 0, 1);
        assert_eq!(held(&books), (0, 1));
    }
}
