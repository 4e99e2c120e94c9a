//! The memory of one call: a running total over all its linear memories and tables.
//!
//! wasmtime's own limits are per memory; a guest with many memories would have the limit many times over.

use wasmtime::ResourceLimiter;

/// Bytes that one table element takes in the host.
const TABLE_ELEMENT: u64 = 8;

pub(crate) struct Budget {
    limit: u64,
    used: u64,
    pub peak: u64,
    /// Whether the guest was refused memory. If it then stops, this is why.
    pub refused: bool,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Budget {
        Budget { limit, used: 0, peak: 0, refused: false }
    }

    /// Another call begins in the same instance, with the memory that it has.
    pub(crate) fn begin(&mut self) {
        self.peak = self.used;
        self.refused = false;
    }

    /// Sizes only ever grow; a memory that the guest gives up counts until the call's end, when all of it is freed.
    fn grow(&mut self, from: u64, to: u64, maximum: Option<u64>) -> bool {
        if maximum.is_some_and(|maximum| to > maximum) {
            return false;
        }
        let used = self.used.saturating_add(to.saturating_sub(from));
        if used > self.limit {
            self.refused = true;
            return false;
        }
        self.used = used;
        self.peak = self.peak.max(used);
        true
    }
}

impl ResourceLimiter for Budget {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(current as u64, desired as u64, maximum.map(|m| m as u64)))
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let bytes = |elements: usize| (elements as u64).saturating_mul(TABLE_ELEMENT);
        Ok(self.grow(bytes(current), bytes(desired), maximum.map(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_counts_not_the_single_memory() {
        let mut budget = Budget::new(100);
        assert!(budget.memory_growing(0, 60, None).unwrap());
        assert!(!budget.memory_growing(0, 60, None).unwrap(), "a second memory of the same size");
        assert!(budget.refused);
        assert!(budget.table_growing(0, 5, None).unwrap());
        assert!(!budget.memory_growing(60, 61, None).unwrap());
        assert_eq!(budget.peak, 100);
    }

    #[test]
    fn a_memorys_own_maximum_is_not_our_refusal() {
        let mut budget = Budget::new(100);
        assert!(!budget.memory_growing(10, 20, Some(15)).unwrap());
        assert!(!budget.refused);
    }
}
