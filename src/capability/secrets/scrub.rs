//! Takes the values of secrets out of what a server answers: as they are, and in the forms that programs write bytes in.
//!
//! Exact for these forms. A server that was granted a secret can transform it in any other way, and no one can see that.
//! What is found is overwritten and keeps its length, so that a `content-length` stays true.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use bytes::{Bytes, BytesMut};
use memchr::memmem;
use std::ops::Range;
use zeroize::Zeroizing;

/// What stands in place of a byte that was taken out.
const MASK: u8 = b'*';

/// Everything that must not pass.
#[derive(Default)]
pub(crate) struct Scrubber {
    forms: Vec<Zeroizing<Vec<u8>>>,
}

impl Scrubber {
    pub(crate) fn new<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Scrubber {
        let mut forms: Vec<Zeroizing<Vec<u8>>> = values.into_iter().flat_map(forms).map(Zeroizing::new).collect();
        forms.sort_by(|one, other| one.as_slice().cmp(other));
        forms.dedup();
        Scrubber { forms }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.forms.is_empty()
    }

    /// Overwrites what is found; whether anything was.
    pub(crate) fn mask(&self, bytes: &mut [u8]) -> bool {
        let found: Vec<Range<usize>> = self.find(bytes).collect();
        found.iter().for_each(|at| bytes[at.clone()].fill(MASK));
        !found.is_empty()
    }

    /// Whether there is something to be found, in any case of letters: for names that are lower-cased on their way.
    pub(crate) fn is_in_name(&self, name: &str) -> bool {
        self.forms.iter().any(|form| name.as_bytes().windows(form.len()).any(|part| part.eq_ignore_ascii_case(form)))
    }

    fn find<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = Range<usize>> + 'a {
        let ranges = |form: &'a Zeroizing<Vec<u8>>| {
            memmem::find_iter(bytes, form.as_slice()).map(move |start| start..start + form.len())
        };
        self.forms.iter().flat_map(ranges)
    }

    /// How many bytes at the end may be the beginning of something that goes on.
    fn unfinished(&self, bytes: &[u8]) -> usize {
        let longest = |form: &Zeroizing<Vec<u8>>| {
            (1..form.len()).rev().find(|&length| bytes.ends_with(&form[..length])).unwrap_or(0)
        };
        self.forms.iter().map(longest).max().unwrap_or(0)
    }
}

/// A body that is scrubbed piece by piece. What may be the beginning of a secret waits for the next piece.
#[derive(Default)]
pub(crate) struct Piecewise {
    held: BytesMut,
}

impl Piecewise {
    /// The bytes that are held back.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    pub(crate) fn push(&mut self, scrubber: &Scrubber, piece: Bytes) -> Bytes {
        let mut all = std::mem::take(&mut self.held);
        all.extend_from_slice(&piece);
        scrubber.mask(&mut all);
        self.held = all.split_off(all.len() - scrubber.unfinished(&all));
        all.freeze()
    }

    /// What was held back to the end, which was no secret.
    pub(crate) fn finish(&mut self) -> Bytes {
        self.held.split().freeze()
    }
}

fn forms(value: &[u8]) -> Vec<Vec<u8>> {
    let hex = |upper: bool| -> String {
        value.iter().map(|b| if upper { format!("{b:02X}") } else { format!("{b:02x}") }).collect()
    };
    let percent = |keep: &dyn Fn(u8) -> bool, upper: bool| -> String {
        let escape = |&b: &u8| match (keep(b), upper) {
            (true, _) => char::from(b).to_string(),
            (false, true) => format!("%{b:02X}"),
            (false, false) => format!("%{b:02x}"),
        };
        value.iter().map(escape).collect()
    };
    let letters = |b: u8| b.is_ascii_alphanumeric();
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let mut texts = vec![
        hex(false),
        hex(true),
        percent(&letters, true),
        percent(&letters, false),
        percent(&unreserved, true),
        percent(&unreserved, false),
        url::form_urlencoded::byte_serialize(value).collect(),
    ];
    if let Ok(text) = std::str::from_utf8(value) {
        texts.extend(serde_json::to_string(text).ok().map(|text| text.trim_matches('"').to_owned()));
    }
    // In a longer text it begins at any of three places of base64's rhythm; what then depends on it alone is looked for.
    for (before, skipped) in [(0, 0), (1, 2), (2, 3)] {
        let padded = [&[0; 2][..before], value].concat();
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            texts.push(engine.encode(&padded)[skipped..padded.len() * 8 / 6].to_owned());
        }
    }
    texts.into_iter().map(String::into_bytes).chain([value.to_vec()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};
    use proptest::prelude::*;

    const SECRET: &str = "s3cr3t/\"+ü?value";

    fn written() -> Vec<String> {
        let url: String = url::form_urlencoded::byte_serialize(SECRET.as_bytes()).collect();
        let hex: String = SECRET.bytes().map(|b| format!("{b:02x}")).collect();
        vec![
            SECRET.to_owned(),
            serde_json::json!({ "echo": SECRET }).to_string(),
            STANDARD.encode(SECRET),
            STANDARD.encode(format!("user:{SECRET}")),
            STANDARD.encode(format!("a user:{SECRET} and more")),
            URL_SAFE.encode(format!("ab{SECRET}")),
            hex.clone(),
            hex.to_uppercase(),
            url.clone(),
            url.to_lowercase(),
            format!("{SECRET}{SECRET}"),
        ]
    }

    #[test]
    fn every_form_is_found_whole_and_in_pieces() {
        let scrubber = Scrubber::new([SECRET.as_bytes()]);
        for text in written() {
            let mut whole = text.clone().into_bytes();
            assert!(scrubber.mask(&mut whole), "{text}");
            assert_eq!(whole.len(), text.len());
            for size in 1..text.len() {
                let mut piecewise = Piecewise::default();
                let mut out: Vec<u8> = Vec::new();
                for piece in text.as_bytes().chunks(size) {
                    out.extend(piecewise.push(&scrubber, Bytes::copy_from_slice(piece)));
                }
                out.extend(piecewise.finish());
                assert_eq!(out, whole, "{text} by {size}");
            }
        }
    }

    #[test]
    fn a_header_name_is_found_in_lower_case() {
        let scrubber = Scrubber::new([&b"ToKeN-12345"[..]]);
        assert!(scrubber.is_in_name("x-token-12345"));
        assert!(!scrubber.is_in_name("x-token-1234"));
    }

    #[test]
    fn what_cannot_be_a_secret_is_not_held_back() {
        let scrubber = Scrubber::new([&b"abcdefgh"[..]]);
        let mut piecewise = Piecewise::default();
        assert_eq!(piecewise.push(&scrubber, "data: 1\n\n".into()), "data: 1\n\n");
        assert_eq!(piecewise.push(&scrubber, "data: abc".into()), "data: ");
        assert_eq!(piecewise.held(), 3);
        assert_eq!(piecewise.push(&scrubber, "x".into()), "abcx");
    }

    proptest! {
        /// Whatever stands around it and however it is cut, a secret does not pass, and what stands around it does.
        #[test]
        fn nothing_passes(
            secret in proptest::collection::vec(any::<u8>(), 8..40),
            before in "[ .]{0,20}",
            cuts in proptest::collection::vec(1usize..9, 1..40),
        ) {
            let scrubber = Scrubber::new([&secret[..]]);
            let all = [before.as_bytes(), &secret, b" end"].concat();
            let mut piecewise = Piecewise::default();
            let (mut out, mut rest, mut cuts) = (Vec::new(), &all[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, more) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                out.extend(piecewise.push(&scrubber, Bytes::copy_from_slice(piece)));
                rest = more;
            }
            out.extend(piecewise.finish());
            prop_assert_eq!(out.len(), all.len());
            prop_assert!(memmem::find(&out, &secret).is_none());
            prop_assert!(out.starts_with(before.as_bytes()));
        }
    }
}
