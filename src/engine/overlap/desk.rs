//! [`Desk`]: who may enter an instance in which several calls run at once, and whether it may be kept. Decisions only.

/// The books of one instance.
#[derive(Debug)]
pub(super) struct Desk {
    /// Calls that may be inside at once.
    most: u32,
    /// Calls that it may still take.
    left: u32,
    inside: u32,
    entered: u32,
    open: bool,
    clean: bool,
}

impl Desk {
    pub(super) fn new(most: u32, left: u32) -> Desk {
        Desk { most, left, inside: 0, entered: 0, open: true, clean: true }
    }

    /// Whether one more call may run in it; then it is inside.
    pub(super) fn enter(&mut self) -> bool {
        let may = self.open && self.inside < self.most && self.left > 0;
        if may {
            self.inside += 1;
            self.entered += 1;
            self.left -= 1;
        }
        may
    }

    /// A call that is inside has not begun, and never will.
    pub(super) fn withdraw(&mut self) {
        self.inside -= 1;
        self.entered -= 1;
        self.left += 1;
    }

    /// A call that is inside has ended in the guest, well or not.
    pub(super) fn leave(&mut self, well: bool) {
        self.inside -= 1;
        if !well {
            self.spoil();
        }
    }

    /// Nobody enters any more, and nobody uses it again: a call ended otherwise than its guest meant it to.
    pub(super) fn spoil(&mut self) {
        (self.open, self.clean) = (false, false);
    }

    /// Closes it if nobody is inside.
    pub(super) fn close(&mut self) -> bool {
        let empty = self.inside == 0;
        self.open &= !empty;
        empty
    }

    /// So many more may enter.
    pub(super) fn open(&mut self, more: u32) {
        self.left = self.left.saturating_add(more);
    }

    /// Calls that began in it.
    pub(super) fn entered(&self) -> u32 {
        self.entered
    }

    pub(super) fn is_clean(&self) -> bool {
        self.clean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_once_and_so_many_in_all() {
        let mut desk = Desk::new(2, 3);
        assert_eq!([desk.enter(), desk.enter(), desk.enter()], [true, true, false], "two at once");
        desk.leave(true);
        assert_eq!([desk.enter(), desk.enter()], [true, false]);
        desk.leave(true);
        assert!(!desk.enter(), "three in all");
        assert_eq!((desk.inside, desk.entered(), desk.is_clean()), (1, 3, true));
        desk.open(1);
        assert_eq!([desk.enter(), desk.enter()], [true, false]);
    }

    #[test]
    fn one_that_never_began_is_none_of_them() {
        let mut desk = Desk::new(1, 1);
        assert!(desk.enter());
        desk.withdraw();
        assert!(desk.enter() && desk.is_clean());
        assert_eq!(desk.entered(), 1);
    }

    #[test]
    fn nobody_enters_after_an_abnormal_end() {
        for end in [|desk: &mut Desk| desk.leave(false), Desk::spoil] {
            let mut desk = Desk::new(4, 100);
            assert!(desk.enter() && desk.enter());
            end(&mut desk);
            assert!(!desk.enter() && !desk.is_clean());
        }
    }

    #[test]
    fn it_closes_when_the_last_has_left() {
        let mut desk = Desk::new(4, 100);
        assert!(desk.enter() && !desk.close());
        desk.leave(true);
        assert!(desk.close() && !desk.enter() && desk.is_clean());
    }
}
