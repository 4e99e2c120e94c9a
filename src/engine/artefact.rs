//! The form in which compiled code is kept: an entry of a [`Cache`](crate::Cache), or what `Host::precompile` gives. Pure:
//! bytes in, a header or a flaw out.
//!
//! A head says what loading needs besides the code: of which component it is, for which engine, what the pre-check found,
//! and what the component says that it needs. The code follows, as wasmtime serialises it but for one gap: tables of
//! symbols, which loading does not read and which would be copied and checked for nothing. A tag, BLAKE3 with a key,
//! covers every byte but its own. What bears no valid tag is never looked at beyond the head, whose fields are only
//! compared and copied before; that the code is authentic is a value, [`Authentic`], which only a valid tag gives.
//!
//! One key serves several uses. Each has a key of its own, derived from it, so that what one use signed is nothing to the
//! others.

use super::precheck::Facts;
use zeroize::Zeroizing;

/// How each artefact begins: not like WebAssembly, an ELF file or a text.
pub(crate) const MAGIC: [u8; 8] = *b"\x8bisopod\n";
/// Counts changes of this form.
const VERSION: u8 = 1;
/// The magic, and the length of the whole head.
pub(crate) const START: usize = 12;
/// Where the tag is in the head.
const TAG: std::ops::Range<usize> = START..START + 32;
/// Bytes of a head. What a component says that it needs is most of it, and is some hundred bytes.
const MAX_HEAD: usize = 1 << 20;
/// Bytes that are read and checked at once: little enough to stay in the processor's cache between the two.
pub(crate) const CHUNK: usize = 64 << 10;

/// What an artefact is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Use {
    Cached,
    Precompiled,
    /// On its way from the process that compiled it.
    Answered,
}

/// A key for one use.
pub(crate) struct Key(Zeroizing<[u8; 32]>);

impl Key {
    pub(crate) fn new(usage: Use, master: &[u8; 32]) -> Key {
        Key::derived(
            match usage {
                Use::Cached => "isopod 2026-11-26 tags of cached code",
                Use::Precompiled => "isopod 2026-11-26 tags of precompiled code",
                Use::Answered => "isopod 2026-11-26 tags of code from another process",
            },
            master,
        )
    }

    /// For the names under which a cache keeps its entries: they tell nobody which components were loaded.
    pub(crate) fn of_names(master: &[u8; 32]) -> Key {
        Key::derived("isopod 2026-11-26 names of cached code", master)
    }

    fn derived(context: &str, master: &[u8; 32]) -> Key {
        Key(Zeroizing::new(blake3::derive_key(context, master)))
    }

    /// The name of the code of that component for that engine.
    pub(crate) fn name(&self, digest: &Digest, compatibility: &Digest) -> String {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(digest).update(compatibility);
        hasher.finalize().to_hex().to_string()
    }
}

/// A BLAKE3 digest.
pub(crate) type Digest = [u8; 32];

/// What is known of compiled code.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Header {
    pub usage: Use,
    /// What made it: versions, as text.
    pub maker: String,
    /// Whether it counts fuel.
    pub fuel: bool,
    /// Of the engine's settings, its version and the processor's features.
    pub compatibility: Digest,
    /// Of the component's bytes.
    pub digest: Digest,
    pub facts: Facts,
    /// What the component says that it needs.
    pub needs: Option<Vec<u8>>,
    /// Bytes of the code, the gap among them.
    pub length: u64,
    /// Where the gap begins, and how many zeros stand for it.
    pub gap: (u64, u64),
}

/// Why bytes are not an artefact that this build can read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Flaw {
    /// Shorter than it says.
    CutOff,
    /// In a form of another version.
    Version(u8),
    /// What no version writes.
    Malformed,
}

/// That the code is what the key's holder signed.
pub(crate) struct Authentic(());

pub(crate) fn is_artefact(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// The length of the head, by its start.
pub(crate) fn head_length(start: &[u8; START]) -> Result<usize, Flaw> {
    let (magic, length) = start.split_at(MAGIC.len());
    let length = length.try_into().map_or(0, u32::from_le_bytes) as usize;
    if magic != MAGIC || length <= TAG.end || length > MAX_HEAD { Err(Flaw::Malformed) } else { Ok(length) }
}

impl Header {
    /// Bytes of code that follow the head.
    pub(crate) fn stored(&self) -> u64 {
        self.length - self.gap.1
    }

    /// Reads a head. Nothing in it is to be believed before [`Check::end`] says so.
    pub(crate) fn read(head: &[u8]) -> Result<Header, Flaw> {
        let start = head.first_chunk().ok_or(Flaw::CutOff)?;
        let length = head_length(start)?;
        let mut rest = Rest(head.get(TAG.end..length).ok_or(Flaw::CutOff)?);
        let [version, usage, flags, maker_length] = rest.array()?;
        if version != VERSION {
            return Err(Flaw::Version(version));
        }
        let usage = match usage {
            0 => Use::Cached,
            1 => Use::Precompiled,
            2 => Use::Answered,
            _ => return Err(Flaw::Malformed),
        };
        if flags > 15 {
            return Err(Flaw::Malformed);
        }
        let maker = String::from_utf8(rest.take(maker_length.into())?.to_vec()).map_err(|_| Flaw::Malformed)?;
        let (compatibility, digest) = (rest.array()?, rest.array()?);
        let facts = Facts {
            asynchronous: flags & 1 != 0,
            bytes: rest.number()?,
            functions: rest.number()?,
            instances: rest.number()?,
            adapters: rest.number()?,
            nesting: rest.number()?,
            values: rest.number()?,
            data: rest.number()?,
            parts: u32::from_le_bytes(rest.array()?),
            starts: flags & 8 != 0,
        };
        let (length, gap) = (rest.number()?, (rest.number()?, rest.number()?));
        let gap_end = gap.0.checked_add(gap.1).ok_or(Flaw::Malformed)?;
        // Within what can be addressed, so that no sum of lengths overflows, and no more zeros than there are other bytes.
        if gap_end > length || gap.1 > length / 2 || length > isize::MAX as u64 {
            return Err(Flaw::Malformed);
        }
        let needs = (flags & 4 != 0).then(|| std::mem::take(&mut rest.0).to_vec());
        if !rest.0.is_empty() {
            return Err(Flaw::Malformed);
        }
        Ok(Header { usage, maker, fuel: flags & 2 != 0, compatibility, digest, facts, needs, length, gap })
    }

    /// The head, with the tag over it and the code, gap left out. None if there is too much to say.
    pub(crate) fn sign(&self, key: &Key, code: [&[u8]; 2]) -> Option<Vec<u8>> {
        let mut head = MAGIC.to_vec();
        head.resize(TAG.end, 0);
        let facts = &self.facts;
        let needs = u8::from(self.needs.is_some());
        let flags = u8::from(facts.asynchronous) | u8::from(self.fuel) << 1 | needs << 2 | u8::from(facts.starts) << 3;
        head.extend([VERSION, self.usage as u8, flags, u8::try_from(self.maker.len()).ok()?]);
        head.extend(self.maker.as_bytes());
        head.extend(self.compatibility);
        head.extend(self.digest);
        let Facts { bytes, functions, instances, adapters, nesting, values, data, parts, asynchronous: _, starts: _ } =
            *facts;
        for number in [bytes, functions, instances, adapters, nesting, values, data] {
            head.extend(number.to_le_bytes());
        }
        head.extend(parts.to_le_bytes());
        for number in [self.length, self.gap.0, self.gap.1] {
            head.extend(number.to_le_bytes());
        }
        head.extend(self.needs.iter().flatten());
        if head.len() > MAX_HEAD {
            return None;
        }
        let length = u32::try_from(head.len()).ok()?;
        head[MAGIC.len()..START].copy_from_slice(&length.to_le_bytes());
        let mut check = Check::new(key, &head);
        code.iter().for_each(|part| check.take(part));
        let tag = check.tag();
        head[TAG].copy_from_slice(tag.as_bytes());
        Some(head)
    }
}

/// Recomputes the tag of an artefact whose code comes piece by piece.
pub(crate) struct Check {
    hasher: blake3::Hasher,
    expected: [u8; 32],
}

impl Check {
    /// For a head that [`Header::read`] could read.
    pub(crate) fn new(key: &Key, head: &[u8]) -> Check {
        let mut hasher = blake3::Hasher::new_keyed(&key.0);
        let mut expected = [0; 32];
        if let (Some(start), Some(tag), Some(rest)) = (head.get(..TAG.start), head.get(TAG), head.get(TAG.end..)) {
            hasher.update(start).update(rest);
            expected.copy_from_slice(tag);
        }
        Check { hasher, expected }
    }

    /// Takes up what comes next of the code.
    pub(crate) fn take(&mut self, code: &[u8]) {
        self.hasher.update(code);
    }

    /// Whether the tag is that of the head and of all that was taken up. In constant time, as its type compares so.
    pub(crate) fn end(self) -> Option<Authentic> {
        (self.tag() == blake3::Hash::from_bytes(self.expected)).then_some(Authentic(()))
    }

    fn tag(&self) -> blake3::Hash {
        self.hasher.finalize()
    }
}

/// Bytes that are left to read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Flaw> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Flaw::CutOff)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        self.take(N)?.try_into().map_err(|_| Flaw::CutOff)
    }

    fn number(&mut self) -> Result<u64, Flaw> {
        self.array().map(u64::from_le_bytes)
    }
}

/// Where wasmtime's serialised code has its tables of symbols: the first byte, and how many. They are for people who look
/// at it with tools; loading skips them, as the harmless zeros that then stand there. None where the code is not as
/// wasmtime 48 lays it out, which costs only room and time.
pub(crate) fn symbols(code: &[u8]) -> Option<(usize, usize)> {
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let field = code.get(at..at.checked_add(bytes)?)?;
        field.iter().rev().try_fold(0_usize, |number, byte| Some(number.checked_mul(256)? + usize::from(*byte)))
    };
    // The header of a 64-bit little-endian ELF file: where its table of sections is, with entries of 64 bytes.
    if !code.starts_with(b"\x7fELF\x02\x01") || number(0x3a, 2)? != 64 {
        return None;
    }
    let (table, sections) = (number(0x28, 8)?, number(0x3c, 2)?);
    let table_end = table.checked_add(sections * 64).filter(|end| *end <= code.len())?;
    let mut spans = (0..sections).map(|index| -> Option<(usize, usize, usize)> {
        let entry = table + index * 64;
        let (kind, offset, size) = (number(entry + 4, 4)?, number(entry + 0x18, 8)?, number(entry + 0x20, 8)?);
        Some((kind, offset, offset.checked_add(size)?))
    });
    let spans: Vec<_> = spans.by_ref().collect::<Option<_>>()?;
    // SHT_SYMTAB, and the SHT_STRTAB with its names behind it; the names of the sections are another.
    let at = spans.iter().position(|(kind, ..)| *kind == 2)?;
    let ((_, start, middle), (kind, names, end)) = (spans[at], *spans.get(at + 1)?);
    let others = spans.iter().enumerate().filter(|(index, _)| *index != at && *index != at + 1);
    // Nothing else may lie in the gap.
    let mut others = others.map(|(_, (_, from, to))| (*from, *to)).chain([(0, 64), (table, table_end)]);
    let apart = others.all(|(from, to)| from == to || to <= start || from >= end);
    let in_order = start <= middle && middle <= names && names <= end && end <= code.len();
    (kind == 3 && in_order && apart && end - start <= code.len() / 2).then(|| (start, end - start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(needs: Option<&[u8]>) -> Header {
        Header {
            usage: Use::Precompiled,
            maker: "isopod 1".into(),
            fuel: true,
            compatibility: [1; 32],
            digest: [2; 32],
            facts: Facts {
                asynchronous: true,
                bytes: 3,
                functions: 4,
                instances: 5,
                adapters: 6,
                nesting: 7,
                values: 8,
                data: 10,
                parts: 9,
                starts: true,
            },
            needs: needs.map(<[u8]>::to_vec),
            length: 13,
            gap: (4, 3),
        }
    }

    fn key(byte: u8) -> Key {
        Key::new(Use::Precompiled, &[byte; 32])
    }

    fn is_authentic(whole: &[u8], key: &Key) -> bool {
        let Some(length) = whole.first_chunk().and_then(|start| head_length(start).ok()) else { return false };
        let Some((head, code)) = whole.split_at_checked(length) else { return false };
        let Ok(header) = Header::read(head) else { return false };
        let mut check = Check::new(key, head);
        check.take(code);
        header.stored() == code.len() as u64 && check.end().is_some()
    }

    #[test]
    fn what_is_signed_is_read_back_and_fits_no_other_key_or_use() {
        for needs in [None, Some(&b""[..]), Some(b"random = true")] {
            let header = header(needs);
            let head = header.sign(&key(1), [b"abcd", b"efghij"]).unwrap();
            assert_eq!(Header::read(&head), Ok(header));
            let whole = [&head[..], b"abcdefghij"].concat();
            assert!(is_authentic(&whole, &key(1)) && !is_authentic(&whole, &key(2)));
            assert!(!is_authentic(&whole, &Key::new(Use::Cached, &[1; 32])));
            for bit in 0..8 * whole.len() {
                let mut other = whole.clone();
                other[bit / 8] ^= 1 << (bit % 8);
                assert!(!is_authentic(&other, &key(1)), "bit {bit}");
            }
            for cut in 0..whole.len() {
                assert!(!is_authentic(&whole[..cut], &key(1)), "{cut} bytes");
            }
        }
    }

    #[test]
    fn lengths_that_do_not_fit_are_malformed() {
        let bad = |length, gap| {
            let head = Header { length, gap, ..header(None) }.sign(&key(1), [b"", b""]).unwrap();
            Header::read(&head)
        };
        for (length, gap) in [(10, (8, 3)), (10, (0, 6)), (u64::MAX, (0, 0)), (10, (u64::MAX, 2)), (0, (0, 1))] {
            assert_eq!(bad(length, gap), Err(Flaw::Malformed), "{length} {gap:?}");
        }
        assert!(bad(10, (0, 5)).is_ok());
        let huge = Header { needs: Some(vec![0; MAX_HEAD]), ..header(None) };
        assert!(huge.sign(&key(1), [b"", b""]).is_none());
    }

    #[test]
    fn names_tell_components_engines_and_keys_apart() {
        let name = |key: u8, digest: u8, engine: u8| Key::of_names(&[key; 32]).name(&[digest; 32], &[engine; 32]);
        let names = [name(1, 1, 1), name(2, 1, 1), name(1, 2, 1), name(1, 1, 2), name(1, 2, 2)];
        assert!(names.iter().enumerate().all(|(at, name)| name.len() == 64 && !names[..at].contains(name)));
    }

    /// An ELF file of a header, some bytes of each section, and the table of sections: (kind, bytes).
    fn elf(sections: &[(u32, usize)]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01".to_vec();
        file.resize(64, 0);
        let mut table = Vec::new();
        for (kind, size) in sections {
            let mut entry = [0; 64];
            entry[4..8].copy_from_slice(&kind.to_le_bytes());
            entry[0x18..0x20].copy_from_slice(&(file.len() as u64).to_le_bytes());
            entry[0x20..0x28].copy_from_slice(&(*size as u64).to_le_bytes());
            table.extend(entry);
            file.resize(file.len() + size, 0xaa);
        }
        let at = file.len() as u64;
        file[0x28..0x30].copy_from_slice(&at.to_le_bytes());
        file[0x3a..0x3c].copy_from_slice(&64_u16.to_le_bytes());
        file[0x3c..0x3e].copy_from_slice(&u16::try_from(sections.len()).unwrap().to_le_bytes());
        file.extend(table);
        file
    }

    #[test]
    fn tables_of_symbols_are_found_where_nothing_else_is() {
        let good = [(0, 0), (1, 50), (2, 24), (3, 10), (3, 20)];
        assert_eq!(symbols(&elf(&good)), Some((64 + 50, 34)));
        assert_eq!(symbols(&elf(&[(0, 0), (1, 50), (3, 20)])), None, "there are none");
        assert_eq!(symbols(&elf(&[(2, 24), (1, 50), (3, 10)])), None, "code is between them");
        assert_eq!(symbols(&elf(&[(2, 2_000), (3, 2_000)])), None, "more than half");
        let mut overlapping = elf(&good);
        let table = overlapping.len() - 64 * good.len();
        overlapping[table + 64 + 0x20] = 60;
        assert_eq!(symbols(&overlapping), None, "code reaches into it");
        let whole = elf(&good);
        for cut in 0..whole.len() {
            assert_eq!(symbols(&whole[..cut]), None, "{cut}");
        }
        for at in 0..whole.len() {
            let mut wrong = whole.clone();
            wrong[at] = 0xff;
            if let Some((start, length)) = symbols(&wrong) {
                assert!(start + length <= wrong.len());
            }
        }
    }
}
