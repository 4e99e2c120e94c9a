//! Locks, atomics and queues of the checker's. A queue is one under a lock: that of isopod does as much in one step.

pub(crate) use shuttle::sync::atomic;

use std::collections::VecDeque;
use std::sync::PoisonError;

#[derive(Default)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Mutex<T> {
        Mutex(shuttle::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> shuttle::sync::MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct ArrayQueue<T> {
    all: Mutex<VecDeque<T>>,
    capacity: usize,
}

impl<T> ArrayQueue<T> {
    pub(crate) fn new(capacity: usize) -> ArrayQueue<T> {
        ArrayQueue { all: Mutex::default(), capacity }
    }

    pub(crate) fn push(&self, one: T) -> Result<(), T> {
        let mut all = self.all.lock();
        if all.len() == self.capacity {
            return Err(one);
        }
        all.push_back(one);
        Ok(())
    }

    pub(crate) fn pop(&self) -> Option<T> {
        self.all.lock().pop_front()
    }

    pub(crate) fn len(&self) -> usize {
        self.all.lock().len()
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }
}

pub(crate) struct SegQueue<T>(Mutex<VecDeque<T>>);

impl<T> SegQueue<T> {
    pub(crate) fn new() -> SegQueue<T> {
        SegQueue(Mutex::default())
    }

    pub(crate) fn push(&self, one: T) {
        self.0.lock().push_back(one);
    }

    pub(crate) fn pop(&self) -> Option<T> {
        self.0.lock().pop_front()
    }
}
