//! What a thread does when it has its answer.

use std::cell::RefCell;
use std::pin::Pin;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

shuttle::thread_local! {
    static AFTERWARDS: RefCell<Option<Vec<Work>>> = RefCell::new(None);
}

/// Calls of this thread have their work done by it, in [`close`].
pub(crate) fn open() {
    AFTERWARDS.with(|list| list.replace(Some(Vec::new())));
}

pub(crate) fn close() {
    let all = AFTERWARDS.with(RefCell::take).unwrap_or_default();
    all.into_iter().for_each(shuttle::future::block_on);
}

pub(crate) fn afterwards<T>(it: T, work: impl FnOnce(T) -> Work) -> Result<(), T> {
    AFTERWARDS.with(|list| match &mut *list.borrow_mut() {
        Some(list) => {
            list.push(work(it));
            Ok(())
        }
        None => Err(it),
    })
}
