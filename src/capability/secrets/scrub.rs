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
    longest: usize,
}

impl Scrubber {
    pub(crate) fn new<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Scrubber {
        let mut forms: Vec<Zeroizing<Vec<u8>>> = values.into_iter().flat_map(forms).collect();
        forms.sort_by(|one, other| one.as_slice().cmp(other));
        forms.dedup();
        let longest = forms.iter().map(|form| form.len()).max().unwrap_or(0);
        Scrubber { forms, longest }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.forms.is_empty()
    }

    /// Overwrites what is found; whether anything was.
    pub(crate) fn mask(&self, bytes: &mut [u8]) -> bool {
        let found = self.find(bytes);
        found.iter().for_each(|at| bytes[at.clone()].fill(MASK));
        !found.is_empty()
    }

    /// Whether there is something to be found, in any case of letters: for names that are lower-cased on their way.
    pub(crate) fn is_in_name(&self, name: &str) -> bool {
        self.forms.iter().any(|form| name.as_bytes().windows(form.len()).any(|part| part.eq_ignore_ascii_case(form)))
    }

    /// Every place, those that overlap too.
    fn find(&self, bytes: &[u8]) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        for form in &self.forms {
            let finder = memmem::Finder::new(form.as_slice());
            let mut from = 0;
            while let Some(at) = finder.find(&bytes[from..]) {
                found.push(from + at..from + at + form.len());
                from += at + 1;
            }
        }
        found
    }
}

/// A body that is scrubbed piece by piece. As many bytes as a secret may have begun in wait for the next piece, whatever
/// they are: were it only those that look like the beginning of one, the guest could tell the secret from what waits.
#[derive(Default)]
pub(crate) struct Piecewise {
    raw: BytesMut,
    /// The same bytes without what was found.
    masked: BytesMut,
}

impl Piecewise {
    /// The bytes that are held back.
    pub(crate) fn held(&self) -> usize {
        self.raw.len()
    }

    pub(crate) fn push(&mut self, scrubber: &Scrubber, piece: &[u8]) -> Bytes {
        self.raw.extend_from_slice(piece);
        self.masked.extend_from_slice(piece);
        scrubber.find(&self.raw).into_iter().for_each(|at| self.masked[at].fill(MASK));
        let done = self.raw.len().saturating_sub(scrubber.longest.saturating_sub(1));
        let _ = self.raw.split_to(done);
        self.masked.split_to(done).freeze()
    }

    /// What was held back, where no more is waited for.
    pub(crate) fn finish(&mut self) -> Bytes {
        self.raw.clear();
        self.masked.split().freeze()
    }
}

fn forms(value: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let each = |write: &dyn Fn(u8) -> String| -> Zeroizing<Vec<u8>> {
        Zeroizing::new(value.iter().flat_map(|&b| write(b).into_bytes()).collect())
    };
    let letters = |b: u8| b.is_ascii_alphanumeric();
    let unreserved = |b: u8| letters(b) || b"-._~".contains(&b);
    let plain = |b: u8| char::from(b).to_string();
    let mut forms = vec![
        Zeroizing::new(value.to_vec()),
        each(&|b| format!("{b:02x}")),
        each(&|b| format!("{b:02X}")),
        each(&|b| if letters(b) { plain(b) } else { format!("%{b:02X}") }),
        each(&|b| if letters(b) { plain(b) } else { format!("%{b:02x}") }),
        each(&|b| if unreserved(b) { plain(b) } else { format!("%{b:02X}") }),
        each(&|b| if unreserved(b) { plain(b) } else { format!("%{b:02x}") }),
        Zeroizing::new(url::form_urlencoded::byte_serialize(value).flat_map(str::bytes).collect()),
    ];
    if let Some(Ok(json)) = std::str::from_utf8(value).ok().map(serde_json::to_string) {
        let json = Zeroizing::new(json);
        let inside = json.trim_start_matches('"').strip_suffix('"').unwrap_or(&json);
        forms.push(Zeroizing::new(inside.as_bytes().to_vec()));
        // As PHP writes it.
        forms.push(Zeroizing::new(inside.replace('/', "\\/").into_bytes()));
    }
    // In a longer text it begins at any of three places of base64's rhythm; what then depends on it alone is looked for.
    for (before, skipped) in [(0, 0), (1, 2), (2, 3)] {
        let padded = Zeroizing::new([&[0; 2][..before], value].concat());
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let encoded = Zeroizing::new(engine.encode(&*padded));
            forms.push(Zeroizing::new(encoded.as_bytes()[skipped..padded.len() * 8 / 6].to_vec()));
        }
    }
    forms
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
            serde_json::json!({ "echo": SECRET }).to_string().replace('/', "\\/"),
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
                    out.extend(piecewise.push(&scrubber, piece));
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

    /// A guest that gets bodies which end in a guess must not tell by what waits whether it guessed right.
    #[test]
    fn what_waits_tells_nothing() {
        let scrubber = Scrubber::new([&b"abcdefgh"[..]]);
        let sizes = |body: &str| {
            let mut piecewise = Piecewise::default();
            let pieces = body.as_bytes().chunks(7).map(|piece| piecewise.push(&scrubber, piece).len());
            let sizes: Vec<usize> = pieces.collect();
            (sizes, piecewise.held(), piecewise.finish().len())
        };
        let none = sizes(&"x".repeat(100));
        for guess in ["a", "abc", "abcdefg", "abcdefgh"] {
            assert_eq!(sizes(&format!("{}{guess}", "x".repeat(100 - guess.len()))), none, "{guess}");
        }
    }

    #[test]
    fn a_secret_that_begins_another_does_not_uncover_it() {
        let scrubber = Scrubber::new([&b"AC12345678"[..], b"AC12345678:auth-token"]);
        let mut piecewise = Piecewise::default();
        let mut out = piecewise.push(&scrubber, b"id=AC12345678").to_vec();
        out.extend(piecewise.push(&scrubber, b":auth-token;"));
        out.extend(piecewise.finish());
        assert_eq!(out, b"id=*********************;");
        let mut overlapping = b"abcdabcdabcdabcd".to_vec();
        Scrubber::new([&b"abcdabcd"[..]]).mask(&mut overlapping);
        assert_eq!(overlapping, [MASK; 16]);
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
                out.extend(piecewise.push(&scrubber, piece));
                rest = more;
            }
            out.extend(piecewise.finish());
            prop_assert_eq!(out.len(), all.len());
            prop_assert!(memmem::find(&out, &secret).is_none());
            prop_assert!(out.starts_with(before.as_bytes()));
        }
    }
}
