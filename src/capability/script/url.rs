//! URLs for scripts, as the [URL Standard](https://url.spec.whatwg.org) has them.

use url::{Url, quirks};

/// Bytes of a URL. What is longer can be sent nowhere.
const MAX: usize = 32 * 1024;

/// Its parts, in the order that `isopod:script` says.
pub(super) type Parts = Vec<String>;

/// Reads a URL, relative to `base` where it is not absolute.
pub(super) fn parse(text: &str, base: Option<&str>) -> Option<Parts> {
    if text.len().max(base.map_or(0, str::len)) > MAX {
        return None;
    }
    let base = base.map(Url::parse).transpose().ok()?;
    Url::options().base_url(base.as_ref()).parse(text).ok().map(|url| parts(&url))
}

/// The same URL with another value of one part. One that does not fit there changes nothing; nothing comes of an `href` that
/// is no URL.
pub(super) fn with_part(href: &str, part: &str, value: &str) -> Option<Parts> {
    if href.len().max(value.len()) > MAX {
        return None;
    }
    let mut url = Url::parse(href).ok()?;
    // What is refused leaves the URL as it was, and so the standard has it.
    let set: fn(&mut Url, &str) -> Result<(), ()> = match part {
        "href" => |url, value| quirks::set_href(url, value).map_err(drop),
        "protocol" => quirks::set_protocol,
        "username" => quirks::set_username,
        "password" => quirks::set_password,
        "host" => quirks::set_host,
        "hostname" => quirks::set_hostname,
        "port" => quirks::set_port,
        "pathname" => |url, value| {
            quirks::set_pathname(url, value);
            Ok(())
        },
        "search" => |url, value| {
            quirks::set_search(url, value);
            Ok(())
        },
        "hash" => |url, value| {
            quirks::set_hash(url, value);
            Ok(())
        },
        _ => |_, _| Err(()),
    };
    let _ = set(&mut url, value);
    Some(parts(&url))
}

fn parts(url: &Url) -> Parts {
    let origin = quirks::origin(url);
    let parts = [
        quirks::href(url),
        &origin,
        quirks::protocol(url),
        quirks::username(url),
        quirks::password(url),
        quirks::host(url),
        quirks::hostname(url),
        quirks::port(url),
        quirks::pathname(url),
        quirks::search(url),
        quirks::hash(url),
    ];
    parts.map(str::to_owned).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_those_of_the_standard() {
        let url = parse("../c?q=1#h", Some("https://u:p@EXAMPLE.com:8443/a/b")).unwrap();
        let expected = [
            "https://u:p@example.com:8443/c?q=1#h",
            "https://example.com:8443",
            "https:",
            "u",
            "p",
            "example.com:8443",
            "example.com",
            "8443",
            "/c",
            "?q=1",
            "#h",
        ];
        assert_eq!(url, expected);
        assert_eq!(parse("/a", None), None);
        assert_eq!(parse("http://[", None), None);
        assert_eq!(parse("data:,x", None).unwrap()[1], "null");
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let href = |part, value| with_part("https://a.example/b?c#d", part, value).unwrap().swap_remove(0);
        assert_eq!(href("port", "444"), "https://a.example:444/b?c#d");
        assert_eq!(href("pathname", "x y"), "https://a.example/x%20y?c#d");
        assert_eq!(href("search", ""), "https://a.example/b#d");
        for (part, value) in [("protocol", "data"), ("host", "["), ("href", "no"), ("origin", "https://b.example")] {
            assert_eq!(href(part, value), "https://a.example/b?c#d", "{part}");
        }
        assert_eq!(with_part("no", "hash", "x"), None);
    }

    #[test]
    fn what_is_too_long_is_none() {
        let long = format!("https://a.example/{}", "x".repeat(MAX));
        assert_eq!(parse(&long, None), None);
        assert_eq!(parse("x", Some(&long)), None);
        assert_eq!(with_part("https://a.example/", "hash", &long), None);
    }
}
