//! Where in a request the value of a secret goes. Pure.
//!
//! A guest's own copy of such a header or parameter is dropped, so that it cannot be told from the answer whether it was
//! right, and cannot stand beside the host's.

use crate::capability::secrets::SecretValue;
use crate::text::sanitise;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use memchr::memmem;
use url::form_urlencoded;
use zeroize::Zeroizing;

/// A place in a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// `authorization: Bearer VALUE`.
    Bearer,
    /// `authorization: Basic USER:VALUE`, in base64.
    Basic(String),
    Header(String),
    Query(String),
    /// Wherever the guest puts what stands for it into a header.
    Placeholder,
}

/// A secret, by its index in the function's keyring, and the place where it goes.
#[derive(Clone, Debug)]
pub(super) struct Injection {
    pub place: Place,
    pub secret: usize,
}

/// Headers that say where a message ends or goes, and so are not a secret's.
const FORBIDDEN: [&str; 9] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
];

impl Place {
    /// Checks what the embedder wrote.
    pub(super) fn check(&self) -> Result<(), String> {
        match self {
            Place::Header(name) => {
                let shown = sanitise(name, 64);
                let name: HeaderName = name.parse().map_err(|_| format!("\"{shown}\" is no name of a header"))?;
                if FORBIDDEN.contains(&name.as_str()) {
                    return Err(format!("the header {name} cannot hold a secret"));
                }
            }
            Place::Query(name) if name.is_empty() => return Err("a query parameter needs a name".to_owned()),
            Place::Basic(user) if user.contains(':') => return Err("a user name of basic holds no colon".to_owned()),
            _ => {}
        }
        Ok(())
    }

    /// Whether the two cannot both be in one request.
    pub(super) fn excludes(&self, other: &Place) -> bool {
        match (self, other) {
            (Place::Query(one), Place::Query(other)) => one == other,
            _ => self.header().is_some() && self.header() == other.header(),
        }
    }

    fn header(&self) -> Option<HeaderName> {
        match self {
            Place::Bearer | Place::Basic(_) => Some(header::AUTHORIZATION),
            Place::Header(name) => name.parse().ok(),
            Place::Query(_) | Place::Placeholder => None,
        }
    }

    /// Puts the value where it belongs. None for a value that cannot stand there.
    pub(super) fn put(&self, value: &SecretValue, headers: &mut HeaderMap, path_and_query: &mut String) -> Option<()> {
        let value = value.expose();
        let text = match self {
            Place::Bearer => Zeroizing::new([b"Bearer ", value].concat()),
            Place::Basic(user) => {
                let pair = Zeroizing::new([user.as_bytes(), b":", value].concat());
                let encoded = Zeroizing::new(STANDARD.encode(&*pair));
                Zeroizing::new([b"Basic ", encoded.as_bytes()].concat())
            }
            Place::Header(_) => Zeroizing::new(value.to_vec()),
            Place::Query(name) => {
                set_parameter(path_and_query, name, value);
                return Some(());
            }
            Place::Placeholder => return Some(()),
        };
        headers.insert(self.header()?, sensitive(&text)?);
        Some(())
    }
}

fn sensitive(text: &[u8]) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_bytes(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Whether a header holds that placeholder.
pub(super) fn holds(headers: &HeaderMap, placeholder: &str) -> bool {
    headers.values().any(|value| memmem::find(value.as_bytes(), placeholder.as_bytes()).is_some())
}

/// Puts the value wherever its placeholder stands. None for a value that cannot stand there.
pub(super) fn replace(headers: &mut HeaderMap, placeholder: &str, secret: &SecretValue) -> Option<()> {
    // For all headers together: a guest that repeats it makes them no longer than they may be.
    let mut room = super::MAX_FIELDS;
    for value in headers.values_mut() {
        let old = value.as_bytes();
        let Some(_) = memmem::find(old, placeholder.as_bytes()) else { continue };
        let mut new = Zeroizing::new(Vec::with_capacity(old.len() + secret.expose().len()));
        let mut rest = old;
        while let Some(at) = memmem::find(rest, placeholder.as_bytes()) {
            room = room.checked_sub(secret.expose().len())?;
            new.extend_from_slice(&rest[..at]);
            new.extend_from_slice(secret.expose());
            rest = &rest[at + placeholder.len()..];
        }
        new.extend_from_slice(rest);
        *value = sensitive(&new)?;
    }
    Some(())
}

/// Replaces every parameter of that name by one. Whatever else is there keeps its spelling.
fn set_parameter(path_and_query: &mut String, name: &str, value: &[u8]) {
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    let is_it = |pair: &&str| form_urlencoded::parse(pair.as_bytes()).next().is_some_and(|(key, _)| key == name);
    let others = query.split('&').filter(|pair| !pair.is_empty() && !is_it(pair));
    let encode = |bytes: &[u8]| form_urlencoded::byte_serialize(bytes).collect::<String>();
    let own = format!("{}={}", encode(name.as_bytes()), encode(value));
    let pairs: Vec<&str> = others.chain([own.as_str()]).collect();
    *path_and_query = format!("{path}?{}", pairs.join("&"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(place: &Place, value: &str, headers: &[(&'static str, &str)], path: &str) -> (Vec<String>, String) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let mut path = path.to_owned();
        place.put(&value.to_owned().into(), &mut map, &mut path).unwrap();
        (map.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect(), path)
    }

    #[test]
    fn the_value_goes_to_its_place_and_the_guests_own_is_dropped() {
        let own = [("authorization", "mine"), ("authorization", "twice"), ("x-key", "mine"), ("accept", "*/*")];
        let headers = |place: &Place| put(place, "value 1&2", &own, "/a").0;
        let others = |left: &[&str]| left.iter().map(|line| line.to_string()).collect::<Vec<_>>();
        let sorted = |mut lines: Vec<String>| {
            lines.sort();
            lines
        };
        assert_eq!(
            sorted(headers(&Place::Bearer)),
            others(&["accept: */*", "authorization: Bearer value 1&2", "x-key: mine"])
        );
        assert_eq!(
            sorted(headers(&Place::Basic("me".into()))),
            others(&["accept: */*", "authorization: Basic bWU6dmFsdWUgMSYy", "x-key: mine"])
        );
        assert_eq!(
            sorted(headers(&Place::Header("X-Key".into()))),
            others(&["accept: */*", "authorization: mine", "authorization: twice", "x-key: value 1&2"])
        );
        let query = |path| put(&Place::Query("key".into()), "v 1&2", &[], path).1;
        assert_eq!(query("/a"), "/a?key=v+1%262");
        assert_eq!(query("/a?"), "/a?key=v+1%262");
        assert_eq!(query("/a?x=%2f&key=mine&k%65y=mine&key&keys=1"), "/a?x=%2f&keys=1&key=v+1%262");
    }

    #[test]
    fn a_value_with_a_line_break_goes_nowhere() {
        let mut headers = HeaderMap::new();
        let value = "a\r\nx-evil: 1".to_owned().into();
        assert!(Place::Bearer.put(&value, &mut headers, &mut String::new()).is_none());
        headers.insert("x-key", "TOKEN".parse().unwrap());
        assert!(replace(&mut headers, "TOKEN", &value).is_none());
    }

    #[test]
    fn a_placeholder_is_replaced_wherever_it_stands() {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", "token TOKEN, again=TOKEN.".parse().unwrap());
        assert!(holds(&headers, "TOKEN") && !holds(&headers, "OTHER"));
        replace(&mut headers, "TOKEN", &"12345678".to_owned().into()).unwrap();
        assert_eq!(headers["authorization"], "token 12345678, again=12345678.");
        assert!(headers["authorization"].is_sensitive());
        headers.insert("x-many", "TOKEN".repeat(10_000).parse().unwrap());
        assert!(replace(&mut headers, "TOKEN", &"x".repeat(8_000).into()).is_none());
    }

    #[test]
    fn places_are_checked() {
        for wrong in [
            Place::Header("a b".into()),
            Place::Header("Host".into()),
            Place::Query("".into()),
            Place::Basic("a:b".into()),
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
        assert!(Place::Bearer.excludes(&Place::Basic("me".into())));
        assert!(Place::Bearer.excludes(&Place::Header("AUTHORIZATION".into())));
        assert!(!Place::Bearer.excludes(&Place::Query("authorization".into())));
        assert!(!Place::Placeholder.excludes(&Place::Placeholder));
    }
}
