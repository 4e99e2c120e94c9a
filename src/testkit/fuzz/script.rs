//! A script for the guest: which imports it calls, in which order and with what. Decided by bytes, and told in words.

use super::guest::{HEAD, MASK, ONE, Op, RESULT, SLOTS, ZERO_BYTES, ZEROS};
use super::value::{Data, Input, Palette, Value, Word, Words};
use super::world::{Kind, Shape, World};

/// Scripts of one input, and what each does, at most.
const SCRIPTS: usize = 4;
const MOST: usize = 16;
/// Bytes of data after which nothing is added. The last call may bring some more.
const DATA: usize = 16 * 1024;
/// Steps that a script takes at most, so that it ends.
const STEPS: u32 = 4_000_000;
/// How often a loop goes around. A flood is more than the default of `Limits::host_calls`.
const TIMES: &[u32] = &[2, 3, 10, 30, 100, 1_500];
const FLOOD: u32 = 150_000;
/// Pages of 64 KiB that a guest asks for at once.
const PAGES: &[u32] = &[1, 16, 256, 2_048, 65_535];
/// Handles that are kept of one result.
const KEEPS: usize = 4;
/// How many calls may be made for one that needs handles, and how deep they may stand.
const NEEDS: u32 = 3;
const DEPTH: u32 = 3;

/// Whom scripts are run for. What one of them gives the host, the other must not get.
pub(super) const TENANTS: [&str; 2] = ["fuzz-one", "fuzz-two"];
/// Begins what tells a tenant's own bytes.
const MARKS: [&str; 2] = ["q7vzk2hq", "x3wjn8df"];

/// The other tenant's mark, which one must not be given.
pub(super) fn foreign(tenant: usize) -> &'static str {
    MARKS[1 - tenant]
}

/// Follows the mark: tells what was given to the host by this input, and by no other.
pub(super) fn nonce(input: &[u8]) -> String {
    blake3::hash(input).as_bytes()[..8].iter().map(|byte| char::from(b'a' + byte % 26)).collect()
}

pub(super) struct Script {
    /// An index of [`TENANTS`].
    pub tenant: usize,
    /// For the guest.
    pub bytes: Vec<u8>,
    /// For people: its calls in order.
    pub lines: Vec<String>,
    /// The import of each call, in the order of their numbers, which begin with 1.
    pub calls: Vec<usize>,
}

/// The scripts that those bytes stand for, of both tenants in turn.
pub(super) fn scripts(world: &World, words: &[String], bytes: &[u8]) -> Vec<Script> {
    let mut input = Input(bytes);
    let (first, nonce) = (input.below(TENANTS.len()), nonce(bytes));
    let all = (0..SCRIPTS).map(|n| {
        let tenant = (first + n) % TENANTS.len();
        script(world, words, tenant, &format!("{}{nonce}", MARKS[tenant]), &mut input)
    });
    // Where the bytes end, so do the scripts.
    all.filter(|script| !script.lines.is_empty()).collect()
}

fn script(world: &World, words: &[String], tenant: usize, mark: &str, input: &mut Input<'_>) -> Script {
    let level = input.below(8);
    let palette = Palette { wild: level > 4, mark, words, held: Vec::new(), stale: Vec::new(), missing: None };
    let mut plan = Plan {
        world,
        palette,
        data: Data::new(world.heap()),
        ops: Vec::new(),
        lines: Vec::new(),
        indent: "",
        calls: Vec::new(),
        slots: 0,
    };
    let mut last = 0;
    for _ in 0..MOST {
        if plan.data.bytes.len() > DATA {
            break;
        }
        match input.below(32) {
            // Where the bytes end, this is what follows.
            0..=3 => break,
            // The same again, with what it gave before kept.
            26..=27 => plan.call(last, input, 0),
            28..=29 => plan.repeat(input),
            30 => {
                let pages = input.pick(PAGES).copied().unwrap_or(1);
                plan.step(Op::Grow { pages }, format!("asks for {pages} pages of memory"));
            }
            31 if level == 7 => {
                let modes = ["rightly", "beyond the end", "unaligned", "not at all"];
                let mode = input.below(modes.len());
                let text = format!("answers {} when asked for memory", modes[mode]);
                plan.step(Op::Memory { mode: mode as u32 }, text);
            }
            _ => {
                last = input.below(world.imports.len());
                plan.call(last, input, 0);
            }
        }
    }
    plan.script(tenant)
}

struct Plan<'a> {
    world: &'a World,
    palette: Palette<'a>,
    data: Data,
    ops: Vec<Op>,
    lines: Vec<String>,
    indent: &'static str,
    calls: Vec<usize>,
    /// Slots that were used, some perhaps again.
    slots: usize,
}

impl Plan<'_> {
    fn step(&mut self, op: Op, line: String) {
        self.ops.push(op);
        self.lines.push(format!("{}{line}", self.indent));
    }

    fn repeat(&mut self, input: &mut Input<'_>) {
        let times = if input.once_in(64) { FLOOD } else { input.pick(TIMES).copied().unwrap_or(2) };
        self.lines.push(format!("{times} times:"));
        self.indent = "  ";
        let count = self.data.words(&[Word::Bits(times.into())]);
        let step = self.ops.len() as u32;
        for _ in 0..=input.below(3) {
            self.call(input.below(self.world.imports.len()), input, 0);
        }
        self.ops.extend([Op::Rewind, Op::Repeat { count, step }]);
        self.indent = "";
    }

    /// Calls an import; before it, those that give what handles it needs.
    fn call(&mut self, n: usize, input: &mut Input<'_>, depth: u32) {
        let world = self.world;
        let import = &world.imports[n];
        let mut held = self.palette.held.clone();
        let mut values = self.values(n, input);
        for _ in 0..NEEDS {
            let Some(resource) = self.palette.missing.take() else { break };
            self.palette.held = held;
            if depth < DEPTH
                && let Some(from) = input.pick(&world.resources[resource].from)
            {
                self.call(*from, input, depth + 1);
            }
            held = self.palette.held.clone();
            values = self.values(n, input);
        }
        if self.palette.missing.take().is_some() && !self.palette.wild {
            // Without what it needs, it would end the script.
            self.palette.held = held;
            return;
        }
        let args: Vec<String> = import.params.iter().zip(&values).map(|(s, v)| Words(s, v).to_string()).collect();
        let mut line = format!("{}{}({})", self.indent, import.name, args.join(", "));

        let mut words = Vec::new();
        match &import.indirect {
            Some(record) => {
                let at = self.data.room(record.size, record.align);
                self.data.store(record, &Value::Record(values), at);
                words.push(Word::Bits(at.into()));
            }
            None => import.params.iter().zip(&values).for_each(|(shape, v)| self.data.flat(shape, v, &mut words)),
        }
        let mut result = if import.by_address { RESULT } else { ONE };
        if import.by_address {
            if self.palette.wild && input.once_in(8) {
                result = input.pick(&[u32::MAX - 3, RESULT + 1, ZEROS + ZERO_BYTES - 1]).copied().unwrap_or(0);
                line.push_str(&format!(", its result to {result:#x}"));
            }
            words.push(Word::Bits(result.into()));
        }
        let args = self.data.words(&words);
        self.calls.push(n);

        let puts = std::mem::take(&mut self.data.puts);
        let needs: Vec<usize> = puts.iter().map(|(slot, _)| *slot).collect();
        let mut ops: Vec<Op> = puts.into_iter().map(|(slot, to)| Op::Put { slot: slot as u32, to }).collect();
        ops.push(Op::Call { import: n as u32, args, number: self.calls.len() as u32 });
        if !self.palette.wild {
            let gone = held.iter().filter(|had| !self.palette.held.contains(had));
            ops.extend(gone.map(|(slot, _)| Op::Forget { slot: *slot as u32 }));
        }
        let mut paths = Vec::new();
        if let Some(shape) = &import.result {
            handles(shape, &mut Vec::new(), &mut paths);
        }
        for (path, resource) in paths.into_iter().take(KEEPS) {
            let slot = self.slots % SLOTS;
            self.slots += 1;
            self.palette.held.retain(|(held, _)| *held != slot);
            self.palette.held.push((slot, resource));
            line.push_str(&format!(" -> handle {slot}"));
            keep(&path, result, slot as u32, &mut ops);
        }
        for (n, slot) in needs.iter().enumerate() {
            let skip = (needs.len() - 1 - n + ops.len()) as u32;
            self.ops.push(Op::Needs { slot: *slot as u32, skip });
        }
        self.ops.append(&mut ops);
        self.lines.push(line);
    }

    fn values(&mut self, n: usize, input: &mut Input<'_>) -> Vec<Value> {
        let params = &self.world.imports[n].params;
        params.iter().map(|shape| self.palette.choose(shape, input)).collect()
    }

    fn script(self, tenant: usize) -> Script {
        let data = self.data.bytes;
        let foreign = foreign(tenant).as_bytes();
        // A script that says it itself may be given it.
        let known = memchr::memmem::find(&data, foreign).is_some();
        let what = if known { 0 } else { u64::from_le_bytes(std::array::from_fn(|n| foreign[n])) };
        let mut bytes = (what ^ MASK).to_le_bytes().to_vec();
        bytes.extend(STEPS.to_le_bytes());
        bytes.extend((HEAD + data.len() as u32).to_le_bytes());
        bytes.extend(data);
        bytes.extend(self.ops.iter().flat_map(|op| op.words()).flat_map(u32::to_le_bytes));
        Script { tenant, bytes, lines: self.lines, calls: self.calls }
    }
}

/// A step on the way from a result to a handle in it.
#[derive(Clone, Copy)]
enum Move {
    Ahead(u32),
    /// Only in that case of a variant.
    Case {
        bytes: u32,
        tag: u32,
    },
    /// In an item of a list.
    Item {
        offset: u32,
        index: u32,
    },
}

/// The ways to the handles that become the guest's.
fn handles(shape: &Shape, path: &mut Vec<Move>, all: &mut Vec<(Vec<Move>, usize)>) {
    let mut on = |step: &[Move], shape: &Shape| {
        let before = path.len();
        path.extend(step);
        handles(shape, path, all);
        path.truncate(before);
    };
    match &shape.kind {
        Kind::Record(fields) => fields.iter().for_each(|field| on(&[Move::Ahead(field.at)], &field.shape)),
        Kind::List(of) => {
            (0..2).for_each(|index| on(&[Move::Item { offset: index * of.size, index }], of));
        }
        Kind::Variant { tag: bytes, payload, cases } => {
            for (tag, (_, shape)) in (0..).zip(cases) {
                if let Some(shape) = shape {
                    on(&[Move::Case { bytes: *bytes, tag }, Move::Ahead(*payload)], shape);
                }
            }
        }
        Kind::Own(resource) => all.push((path.clone(), *resource)),
        _ => {}
    }
}

fn keep(path: &[Move], result: u32, slot: u32, ops: &mut Vec<Op>) {
    ops.extend([Op::Forget { slot }, Op::At { address: result }]);
    for (n, step) in path.iter().enumerate() {
        let skip = (path.len() - n) as u32;
        ops.push(match *step {
            Move::Ahead(bytes) => Op::Ahead { bytes },
            Move::Case { bytes, tag } => Op::Unless { mask: u32::MAX >> (32 - 8 * bytes), value: tag, skip },
            Move::Item { offset, index } => Op::Item { offset, index, skip },
        });
    }
    ops.push(Op::Keep { slot });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_are_the_same_scripts_and_any_bytes_are_some() {
        let wit = "package a:b; interface i { \
            resource r { constructor(); at: func(n: u32) -> option<r>; } \
            f: func(a: list<string>) -> string; \
        } world w { import i; }";
        let world = World::inline(wit, "w").unwrap();
        let mut most = 0;
        for n in 0..200u8 {
            let bytes: Vec<u8> = (0..n).map(|i| i.wrapping_mul(37) ^ n).collect();
            let (one, other) = (scripts(&world, &[], &bytes), scripts(&world, &[], &bytes));
            most = most.max(one.len());
            for (one, other) in one.iter().zip(&other) {
                assert_eq!((&one.bytes, &one.lines), (&other.bytes, &other.lines));
                assert!(one.bytes.len() < 256 * 1024);
            }
        }
        assert_eq!((most, scripts(&world, &[], &[]).len()), (SCRIPTS, 0));
    }
}
