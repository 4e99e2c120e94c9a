//! Any bytes as an artefact of compiled code: no panic, nothing without a valid tag is authentic, and what is signed is
//! read back as it was and no longer fits once a bit of it differs.
#![no_main]

// The files themselves, not the crate: the form is pure, so that fuzzing it need not build a compiler.
#[path = "../../src/engine/artefact.rs"]
#[allow(dead_code)]
mod artefact;
#[path = "../../src/engine/precheck/mod.rs"]
#[allow(dead_code)]
mod precheck;

use artefact::{Check, Header, Key, START, Use, head_length, symbols};
use libfuzzer_sys::fuzz_target;

/// As loading does it: the head, as much code as it says, and the tag.
fn open(bytes: &[u8], key: &Key) -> Option<Header> {
    let length = head_length(bytes.first_chunk::<START>()?).ok()?;
    let (head, code) = bytes.split_at_checked(length)?;
    let header = Header::read(head).ok()?;
    assert!(header.gap.0 + header.gap.1 <= header.length && header.length <= 2 * header.stored());
    if header.stored() != code.len() as u64 {
        return None;
    }
    let mut check = Check::new(key, head);
    code.chunks(1_000).for_each(|piece| check.take(piece));
    check.end().map(|_| header)
}

fuzz_target!(|bytes: &[u8]| {
    let key = Key::new(Use::Cached, &[7; 32]);
    assert!(open(bytes, &key).is_none(), "nobody guesses a tag");
    if let Some((start, length)) = symbols(bytes) {
        assert!(length <= bytes.len() / 2 && start + length <= bytes.len());
    }

    // What is read of any head, signed over what follows it.
    let Some(length) = bytes.first_chunk::<START>().and_then(|start| head_length(start).ok()) else { return };
    let Some((head, code)) = bytes.split_at_checked(length) else { return };
    let Ok(mut header) = Header::read(head) else { return };
    let (start, gap) = symbols(code).unwrap_or((code.len(), 0));
    (header.length, header.gap) = (code.len() as u64, (start as u64, gap as u64));
    let parts = [&code[..start], &code[start + gap..]];
    let Some(signed) = header.sign(&key, parts) else { return };
    let mut whole = [&signed[..], parts[0], parts[1]].concat();
    assert_eq!(open(&whole, &key).as_ref(), Some(&header));
    assert!(open(&whole, &Key::new(Use::Precompiled, &[7; 32])).is_none());
    assert!(open(&whole, &Key::new(Use::Cached, &[8; 32])).is_none());
    let at = head.iter().fold(0_usize, |at, byte| at.wrapping_mul(31) + usize::from(*byte)) % (8 * whole.len());
    whole[at / 8] ^= 1 << (at % 8);
    assert!(open(&whole, &key).is_none(), "bit {at} differs");
});
