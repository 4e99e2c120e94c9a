//! What is watched while guests run: the memory of the process, and calls that mean no harm.

use crate::engine::STACK;
use crate::{CallOptions, Function, Host, Limits, Result, ms};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Resident memory of this process, in bytes; none where the system does not say.
pub(super) fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// Resident memory of this process less what calls left ready for others: the stacks that guests have run on, and what
/// slots keep. Of these there are no more than calls at once, and what calls take of them is found when it is used first.
pub(super) fn steady(host: &Host) -> Option<u64> {
    let smaps = std::fs::read_to_string("/proc/self/smaps").ok()?;
    Some(resident()?.saturating_sub(stacks(&smaps)).saturating_sub(host.0.engines.kept()))
}

/// Bytes of the mappings that are as large as the stack of a call, each of which has its guard page before it.
fn stacks(smaps: &str) -> u64 {
    let (mut is_stack, mut kib) = (false, 0);
    for line in smaps.lines() {
        if let Some(resident) = line.strip_prefix("Rss:") {
            let resident = resident.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok());
            kib += resident.filter(|_| is_stack).unwrap_or_default();
        } else if let Some((from, to)) = line.split(' ').next().and_then(|range| range.split_once('-')) {
            let [from, to] = [from, to].map(|end| u64::from_str_radix(end, 16).unwrap_or_default());
            is_stack = to.checked_sub(from) == Some(STACK as u64) && line.split_whitespace().count() == 5;
        }
    }
    kib * 1024
}

/// How often the memory of the process is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// A thread that looks at the memory of the process, and knows the most that it saw.
pub(super) struct Watch {
    most: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Without a thread, where the system gives none, it sees what it is shown.
    pub(super) fn start() -> Watch {
        let (most, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (sees, ends) = (Arc::clone(&most), Arc::clone(&done));
        let look = move || {
            while !ends.load(Ordering::Relaxed) {
                sees.fetch_max(resident().unwrap_or(0), Ordering::Relaxed);
                std::thread::park_timeout(LOOK);
            }
        };
        let thread = std::thread::Builder::new().name("isopod-watch".into()).spawn(look).ok();
        Watch { most, done, thread }
    }

    /// Begins anew: what the process has now.
    pub(super) fn begin(&self) -> u64 {
        let now = resident().unwrap_or(0);
        self.most.store(now, Ordering::Relaxed);
        now
    }

    /// The most that it had since then.
    pub(super) fn most(&self) -> u64 {
        self.most.fetch_max(resident().unwrap_or(0), Ordering::Relaxed);
        self.most.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// Computes a little, in memory, from what it is given.
const ANSWERS: &str = r#"(component
    (core module $m (memory 1) (func (export "run") (param $n i32) (result i64) (local $i i32)
        (loop $l
            (i64.store (i32.const 8) (i64.add (i64.load (i32.const 8))
                (i64.mul (i64.extend_i32_u (local.get $i)) (i64.extend_i32_u (local.get $n)))))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $l (i32.lt_u (local.get $i) (i32.const 1000))))
        (i64.load (i32.const 8))))
    (core instance $i (instantiate $m))
    (func (export "run") (param "n" u32) (result u64) (canon lift (core func $i "run"))))"#;

/// Counts what is not as it was made, in 4 MiB of memory, a table and a global; then leaves as much as it can.
const SCANS: &str = r#"(component
    (core module $m (memory 1) (table $t 1000 funcref) (global $g (mut i32) (i32.const 0)) (elem declare func $run)
        (func $run (export "run") (result i32) (local $i i32) (local $n i32)
            (if (i32.eq (memory.grow (i32.const 63)) (i32.const -1)) (then unreachable))
            (loop $l
                (if (i64.ne (i64.load (local.get $i)) (i64.const 0))
                    (then (local.set $n (i32.add (local.get $n) (i32.const 1)))))
                (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 8))) (i32.const 4194304))))
            (local.set $i (i32.const 0))
            (loop $l
                (if (i32.eqz (ref.is_null (table.get $t (local.get $i))))
                    (then (local.set $n (i32.add (local.get $n) (i32.const 1)))))
                (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000))))
            (local.set $n (i32.add (local.get $n) (global.get $g)))
            (memory.fill (i32.const 0) (i32.const 0x5a) (i32.const 4194304))
            (table.fill $t (i32.const 0) (ref.func $run) (i32.const 1000))
            (global.set $g (i32.const 1))
            (local.get $n)))
    (core instance $i (instantiate $m))
    (func (export "run") (result u32) (canon lift (core func $i "run"))))"#;

/// Calls that mean no harm, for tenants that no guest of the corpus is called for.
#[derive(Clone)]
pub(super) struct Neighbours {
    answers: Function,
    scans: Function,
}

impl Neighbours {
    pub(super) async fn load(host: &Host) -> Result<Neighbours> {
        let limits = Limits::default().deadline(ms(10_000)).busy(ms(10_000));
        let load =
            |name: &str, wat: &str| host.function(name.to_owned()).component_wat(wat).limits(limits.clone()).load();
        let (answers, scans) = (load("neighbour", ANSWERS).await?, load("scan", SCANS).await?);
        Ok(Neighbours { answers: answers.tenant("neighbour"), scans: scans.tenant("another neighbour") })
    }

    /// One call; or what was wrong with its answer.
    pub(super) async fn answer(&self, n: u32) -> Result<(), String> {
        match self.answers.call::<u64>("run", (n,)).await {
            Ok(reply) if reply.value == 499_500 * u64::from(n) => Ok(()),
            Ok(reply) => Err(format!("{n} was answered by {}", reply.value)),
            Err(error) => Err(format!("a call that meant no harm failed: {error}")),
        }
    }

    /// What an instance finds that others left, if it finds something.
    pub(super) async fn scan(&self) -> Result<(), String> {
        match self.scans.call::<u32>("run", ()).await {
            Ok(reply) if reply.value == 0 => Ok(()),
            Ok(reply) => Err(format!("a new instance was not empty in {} places", reply.value)),
            Err(error) => Err(format!("a call that meant no harm failed: {error}")),
        }
    }
}

/// The 99th of a hundred.
pub(super) fn p99(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    took.get(took.len().saturating_sub(1) * 99 / 100).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_are_told_from_other_mappings() {
        let smaps = "7f0000000000-7f0000200000 rw-p 00000000 00:00 0 \nSize: 2048 kB\nRss:       12 kB\nPss: 12 kB\n\
            7f0000201000-7f0000401000 rw-p 00000000 00:00 0\nRss: 600 kB\n\
            7f0000401000-7f0000800000 rw-p 00000000 00:00 0\nRss: 4000 kB\n\
            7f0000800000-7f0000a00000 r--p 00000000 fd:00 42    /usr/lib/some.so\nRss: 2000 kB\n";
        assert_eq!(stacks(smaps), 612 * 1024);
        assert_eq!(stacks("nothing of\nthe kind-"), 0);
    }
}
