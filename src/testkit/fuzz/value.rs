//! A value of an import's parameter: chosen by bytes, laid out as the canonical ABI says, and told in words.

use super::guest::{HEAD, ZERO_BYTES, ZEROS};
use super::world::{Kind, Shape};
use std::fmt::{self, Write};

/// Bytes that decide everything. Where they end, zeros follow, of which each stands for what is simplest.
pub(super) struct Input<'a>(pub &'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    pub(super) fn number(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// One of so many, which are few.
    pub(super) fn below(&mut self, many: usize) -> usize {
        let wide = if many > 256 { u32::from(self.byte()) << 8 } else { 0 };
        (wide | u32::from(self.byte())) as usize % many.max(1)
    }

    /// Once in so many times.
    pub(super) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == times - 1
    }

    pub(super) fn pick<'t, T>(&mut self, of: &'t [T]) -> Option<&'t T> {
        of.get(self.below(of.len()))
    }
}

/// A value that an import is called with. It need not fit.
pub(super) enum Value {
    /// What has no parts: a number, a letter, flags.
    Bits(u64),
    Text(Vec<u8>),
    List(Vec<Value>),
    /// A text or a list that begins there and is said to have that length, whatever is there.
    Wild {
        at: u32,
        len: u32,
    },
    Record(Vec<Value>),
    Case(u32, Option<Box<Value>>),
    /// A handle that the guest keeps in a slot.
    Kept(usize),
    /// A number instead of a handle.
    Forged(u32),
}

/// What a core function is called with.
#[derive(Clone, Copy)]
pub(super) enum Word {
    Bits(u64),
    /// The handle in that slot.
    Kept(usize),
}

/// What values are chosen from, besides the bytes.
pub(super) struct Palette<'a> {
    /// Whether some values are to be none of their type.
    pub wild: bool,
    /// What tells the tenant's own bytes.
    pub mark: &'a str,
    /// Texts that mean something to the host.
    pub words: &'a [String],
    /// Handles that are kept: slot and resource. One that is given away is taken out.
    pub held: Vec<(usize, usize)>,
    /// Slots whose handles were given away.
    pub stale: Vec<usize>,
    /// A resource of which there was no handle.
    pub missing: Option<usize>,
}

const TEXTS: &[&str] = &[
    "",
    "a",
    "b",
    "key",
    "ä",
    "a\u{0}b",
    "..",
    "../../etc/passwd",
    "/",
    "*",
    "%s",
    "-1",
    "18446744073709551615",
    "{}",
    "'\"--",
    "\u{1f980}é\u{202e}\u{1b}[2J",
    "a\r\nb: c",
    "true",
    "null",
    " ",
];
/// What the canonical ABI takes for no text, or no letter.
const NO_TEXTS: &[&[u8]] = &[b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"ok\xc0\x80"];
const LETTERS: &[char] = &['a', '\0', 'ß', '\u{1f980}', '\u{10ffff}', '\u{d7ff}', '\n'];
const NO_LETTERS: &[u32] = &[0xd800, 0xdfff, 0x11_0000, u32::MAX];
const LENGTHS: &[u32] = &[0, 1, 2, 0x10, 0xffff, 0x1_0000, 0x10_0000, 0x400_0000, 0x7fff_ffff, u32::MAX];

impl Palette<'_> {
    /// A value of that type; something else in one of eight places, where that is asked for.
    pub(super) fn choose(&mut self, shape: &Shape, input: &mut Input<'_>) -> Value {
        let wild = self.wild && input.once_in(8);
        match &shape.kind {
            Kind::Bool => Value::Bits(if wild { input.number() & 0xff } else { input.below(2) as u64 }),
            Kind::Char if wild => Value::Bits(input.pick(NO_LETTERS).copied().unwrap_or(0).into()),
            Kind::Char => Value::Bits(input.pick(LETTERS).map_or(0, |letter| u64::from(u32::from(*letter)))),
            Kind::Int { bits, .. } => Value::Bits(self.int(*bits, input)),
            Kind::Single => Value::Bits(match input.below(6) {
                0 => 0,
                1 => 1f32.to_bits().into(),
                2 => f32::NAN.to_bits().into(),
                3 => f32::NEG_INFINITY.to_bits().into(),
                4 => f32::MAX.to_bits().into(),
                _ => input.number() & 0xffff_ffff,
            }),
            Kind::Double => Value::Bits(match input.below(6) {
                0 => 0,
                1 => 1f64.to_bits(),
                2 => f64::NAN.to_bits(),
                3 => f64::NEG_INFINITY.to_bits(),
                4 => f64::MAX.to_bits(),
                _ => input.number(),
            }),
            Kind::Text | Kind::List(_) if wild => self.no_list(shape, input),
            Kind::Text => self.text(input),
            Kind::List(of) => self.list(of, input),
            Kind::Record(fields) => {
                Value::Record(fields.iter().map(|field| self.choose(&field.shape, input)).collect())
            }
            Kind::Variant { cases, .. } if wild => {
                let tag = [cases.len() as u32, 0x7f, 0xff, 0xffff, u32::MAX];
                Value::Case(input.pick(&tag).copied().unwrap_or(0), None)
            }
            Kind::Variant { cases, .. } => {
                let tag = input.below(cases.len());
                let payload = cases.get(tag).and_then(|(_, shape)| shape.as_ref());
                Value::Case(tag as u32, payload.map(|shape| Box::new(self.choose(shape, input))))
            }
            Kind::Flags(_) if wild => Value::Bits(input.number()),
            Kind::Flags(names) => {
                let all = 1u64.checked_shl(names.len() as u32).map_or(u64::MAX, |bit| bit - 1);
                Value::Bits(input.number() & all)
            }
            Kind::Own(resource) => self.handle(*resource, true, wild, input),
            Kind::Borrow(resource) => self.handle(*resource, false, wild, input),
        }
    }

    fn int(&self, bits: u32, input: &mut Input<'_>) -> u64 {
        let max = u64::MAX >> (64 - bits);
        let value = match input.below(12) {
            0 => 0,
            n @ 1..=3 => n as u64,
            4 => max,
            5 => max >> 1,
            6 => (max >> 1) + 1,
            7 => max - 1,
            8 => 1 << input.below(bits as usize),
            9 => input.below(256) as u64,
            10 if bits == 64 => u64::from_le_bytes(std::array::from_fn(|n| self.mark.as_bytes()[n])),
            _ => input.number(),
        };
        value & max
    }

    fn text(&mut self, input: &mut Input<'_>) -> Value {
        Value::Text(match input.below(16) {
            0..=5 => input.pick(TEXTS).map_or(Vec::new(), |text| text.as_bytes().to_vec()),
            6..=8 => self.mark.as_bytes().to_vec(),
            9 => format!("{}{}", input.pick(TEXTS).unwrap_or(&""), self.mark).into_bytes(),
            10 if self.words.is_empty() => b"key".to_vec(),
            10..=12 => input.pick(self.words).map_or(Vec::new(), |word| word.as_bytes().to_vec()),
            13 => "é".repeat(input.below(300)).into_bytes(),
            14 => (0..input.below(12)).map(|_| char::from(input.byte())).collect::<String>().into_bytes(),
            // Zeros are a text as well, and cost a script nothing.
            _ if input.once_in(4) => return Value::Wild { at: ZEROS, len: ZERO_BYTES >> input.below(10) },
            _ => input.number().to_string().into_bytes(),
        })
    }

    fn list(&mut self, of: &Shape, input: &mut Input<'_>) -> Value {
        if let Kind::Int { bits: 8, .. } = of.kind {
            return match self.text(input) {
                Value::Text(bytes) => Value::List(bytes.into_iter().map(|byte| Value::Bits(byte.into())).collect()),
                wild => wild,
            };
        }
        let many = if input.once_in(32) { input.below(64) } else { input.below(4) };
        Value::List((0..many).map(|_| self.choose(of, input)).collect())
    }

    /// What is no text, or no list: its bytes, where it lies, or how long it is.
    fn no_list(&mut self, shape: &Shape, input: &mut Input<'_>) -> Value {
        let len = input.pick(LENGTHS).copied().unwrap_or(0);
        match input.below(6) {
            0 | 1 if matches!(shape.kind, Kind::Text) => {
                Value::Text(input.pick(NO_TEXTS).map_or(Vec::new(), |text| text.to_vec()))
            }
            0 | 1 => Value::Wild { at: ZEROS + 1, len: 1 + (len & 0xff) },
            2 => Value::Wild { at: u32::MAX - 15, len },
            3 => Value::Wild { at: ZEROS + ZERO_BYTES - 1, len },
            4 => Value::Wild { at: 0, len },
            _ => Value::Wild { at: ZEROS, len },
        }
    }

    fn handle(&mut self, resource: usize, away: bool, wild: bool, input: &mut Input<'_>) -> Value {
        if wild {
            return match input.below(4) {
                0 => Value::Forged(input.below(8) as u32),
                1 => Value::Forged(u32::MAX),
                // Of any resource.
                2 => input.pick(&self.held).map_or(Value::Forged(1), |(slot, _)| Value::Kept(*slot)),
                _ => input.pick(&self.stale).map_or(Value::Forged(2), |slot| Value::Kept(*slot)),
            };
        }
        let fit: Vec<usize> = self.held.iter().filter(|(_, of)| *of == resource).map(|(slot, _)| *slot).collect();
        let Some(slot) = input.pick(&fit).copied() else {
            self.missing.get_or_insert(resource);
            return Value::Forged(input.below(4) as u32);
        };
        if away {
            self.held.retain(|(held, _)| *held != slot);
            self.stale.push(slot);
        }
        Value::Kept(slot)
    }
}

/// The data of a script: what lies behind addresses.
pub(super) struct Data {
    /// Where it begins in the guest's memory.
    start: u32,
    pub bytes: Vec<u8>,
    /// Where handles are to be put.
    pub puts: Vec<(usize, u32)>,
}

impl Data {
    pub(super) fn new(heap: u32) -> Data {
        Data { start: heap + HEAD, bytes: Vec::new(), puts: Vec::new() }
    }

    /// Zeros, and their address.
    pub(super) fn room(&mut self, bytes: u32, align: u32) -> u32 {
        let at = (self.start + self.bytes.len() as u32).next_multiple_of(align.max(1));
        self.bytes.resize((at - self.start + bytes) as usize, 0);
        at
    }

    fn write(&mut self, at: u32, bytes: &[u8]) {
        let at = (at - self.start) as usize;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Arguments, as a core function takes them.
    pub(super) fn words(&mut self, words: &[Word]) -> u32 {
        let start = self.room(words.len() as u32 * 8, 8);
        for (at, word) in (start..).step_by(8).zip(words) {
            match word {
                Word::Bits(bits) => self.write(at, &bits.to_le_bytes()),
                Word::Kept(slot) => self.puts.push((*slot, at)),
            }
        }
        start
    }

    /// A value that is passed by itself.
    pub(super) fn flat(&mut self, shape: &Shape, value: &Value, words: &mut Vec<Word>) {
        let end = words.len() + shape.flat;
        let mut bits = |bits: u64| words.push(Word::Bits(bits));
        match (value, &shape.kind) {
            (Value::Kept(slot), _) => words.push(Word::Kept(*slot)),
            (Value::Forged(number), _) => bits((*number).into()),
            (Value::Bits(low), Kind::Flags(names)) if names.len() > 32 => {
                bits(low & 0xffff_ffff);
                bits(low >> 32);
            }
            (Value::Bits(all), _) => bits(*all),
            (Value::Record(values), Kind::Record(fields)) => {
                fields.iter().zip(values).for_each(|(field, value)| self.flat(&field.shape, value, words));
            }
            (Value::Case(tag, payload), Kind::Variant { cases, .. }) => {
                bits((*tag).into());
                if let (Some(payload), Some((_, Some(shape)))) = (payload, cases.get(*tag as usize)) {
                    self.flat(shape, payload, words);
                }
            }
            _ => {
                let (at, len) = self.list(shape, value);
                bits(at.into());
                bits(len.into());
            }
        }
        words.resize(end, Word::Bits(0));
    }

    /// A value in memory, at an address where there is room for it.
    pub(super) fn store(&mut self, shape: &Shape, value: &Value, at: u32) {
        match (value, &shape.kind) {
            (Value::Kept(slot), _) => self.puts.push((*slot, at)),
            (Value::Forged(number), _) => self.write(at, &number.to_le_bytes()),
            (Value::Bits(bits), _) => {
                let bytes = bits.to_le_bytes();
                self.write(at, &bytes[..bytes.len().min(shape.size as usize)]);
            }
            (Value::Record(values), Kind::Record(fields)) => {
                let fields = fields.iter().zip(values);
                fields.for_each(|(field, value)| self.store(&field.shape, value, at + field.at));
            }
            (Value::Case(tag, payload), Kind::Variant { tag: bytes, payload: offset, cases }) => {
                self.write(at, &tag.to_le_bytes()[..*bytes as usize]);
                if let (Some(payload), Some((_, Some(shape)))) = (payload, cases.get(*tag as usize)) {
                    self.store(shape, payload, at + offset);
                }
            }
            _ => {
                let (start, len) = self.list(shape, value);
                self.write(at, &start.to_le_bytes());
                self.write(at + 4, &len.to_le_bytes());
            }
        }
    }

    /// Where a text or a list lies, and its length.
    fn list(&mut self, shape: &Shape, value: &Value) -> (u32, u32) {
        match (value, &shape.kind) {
            (Value::Wild { at, len }, _) => (*at, *len),
            (Value::Text(text), _) => {
                let at = self.room(text.len() as u32, 1);
                self.write(at, text);
                (at, text.len() as u32)
            }
            (Value::List(values), Kind::List(of)) => {
                let start = self.room(of.size * values.len() as u32, of.align);
                let places = (start..).step_by(of.size.max(1) as usize);
                places.zip(values).for_each(|(at, value)| self.store(of, value, at));
                (start, values.len() as u32)
            }
            _ => (0, 0),
        }
    }
}

/// Bytes of a text that are told.
const TOLD: usize = 48;

/// A value, for people.
pub(super) struct Words<'a>(pub &'a Shape, pub &'a Value);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.1, &self.0.kind) {
            (Value::Kept(slot), _) => write!(f, "handle {slot}"),
            (Value::Forged(number), _) => write!(f, "forged handle {number}"),
            (Value::Wild { at, len }, Kind::Text) if *at == ZEROS && at.saturating_add(*len) <= ZEROS + ZERO_BYTES => {
                write!(f, "\"\\0\" * {len}")
            }
            (Value::Wild { at, len }, _) => write!(f, "{len} at {at:#x}"),
            (Value::Text(bytes), _) => text(f, bytes),
            (Value::List(values), Kind::List(of)) if matches!(of.kind, Kind::Int { bits: 8, .. }) => {
                let byte = |value: &Value| if let Value::Bits(bits) = value { *bits as u8 } else { 0 };
                f.write_char('b')?;
                text(f, &values.iter().map(byte).collect::<Vec<u8>>())
            }
            (Value::List(values), Kind::List(of)) => {
                f.write_char('[')?;
                let items = values.iter().take(8).map(|value| ("", of.as_ref(), value));
                list(f, items)?;
                f.write_str(if values.len() > 8 { ", ..]" } else { "]" })
            }
            (Value::Record(values), Kind::Record(fields)) => {
                let named = fields.first().is_some_and(|field| !field.name.is_empty());
                f.write_str(if named { "{ " } else { "(" })?;
                list(f, fields.iter().zip(values).map(|(field, value)| (field.name.as_str(), &field.shape, value)))?;
                f.write_str(if named { " }" } else { ")" })
            }
            (Value::Case(tag, payload), Kind::Variant { cases, .. }) => match (cases.get(*tag as usize), payload) {
                (Some((name, Some(shape))), Some(payload)) => write!(f, "{name}({})", Words(shape, payload)),
                (Some((name, _)), _) => f.write_str(name),
                (None, _) => write!(f, "case {tag}"),
            },
            (Value::Bits(bits), Kind::Bool) if *bits < 2 => write!(f, "{}", *bits == 1),
            (Value::Bits(bits), Kind::Char) => match char::from_u32(*bits as u32) {
                Some(letter) => write!(f, "{letter:?}"),
                None => write!(f, "letter {bits:#x}"),
            },
            (Value::Bits(bits), Kind::Single) => write!(f, "{:?}", f32::from_bits(*bits as u32)),
            (Value::Bits(bits), Kind::Double) => write!(f, "{:?}", f64::from_bits(*bits)),
            (Value::Bits(all), Kind::Int { bits, signed: true }) => {
                write!(f, "{}", (*all << (64 - bits)) as i64 >> (64 - bits))
            }
            (Value::Bits(bits), Kind::Flags(_)) => write!(f, "flags {bits:#b}"),
            (Value::Bits(bits), _) => write!(f, "{bits}"),
            _ => f.write_char('?'),
        }
    }
}

fn text(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    match bytes.split_at_checked(TOLD) {
        Some((start, rest)) if !rest.is_empty() => {
            write!(f, "{:?}.. ({} bytes)", String::from_utf8_lossy(start), bytes.len())
        }
        _ => match std::str::from_utf8(bytes) {
            Ok(text) => write!(f, "{text:?}"),
            Err(_) => write!(f, "\"{}\"", bytes.escape_ascii()),
        },
    }
}

fn list<'a>(f: &mut fmt::Formatter<'_>, items: impl Iterator<Item = (&'a str, &'a Shape, &'a Value)>) -> fmt::Result {
    for (n, (name, shape, value)) in items.enumerate() {
        f.write_str(if n > 0 { ", " } else { "" })?;
        if !name.is_empty() {
            write!(f, "{name}: ")?;
        }
        write!(f, "{}", Words(shape, value))?;
    }
    Ok(())
}
