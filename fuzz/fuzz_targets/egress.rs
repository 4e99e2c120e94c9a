//! Any request against rules, compared with what `url` makes of it: what passes goes where a rule says, and what is
//! written in normal form and fits a rule passes.
#![no_main]

// The files themselves, not the crate: deciding is pure, so that fuzzing it need not build a compiler.
#[path = "../../src/capability/http/egress.rs"]
#[allow(dead_code, unreachable_pub)]
mod egress;
#[path = "../../src/text.rs"]
#[allow(dead_code)]
mod text;

use egress::{Rule, check, check_address};
use http::Method;
use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;
use std::net::IpAddr;
use std::sync::LazyLock;
use url::{Position, Url};

/// Origin, and the prefix of paths that it allows.
const ORIGINS: [(&str, &str); 4] = [
    ("https://api.example.com", "/v1/"),
    ("https://*.wild.example.com:8443", "/"),
    ("http://127.0.0.1:8080", "/"),
    ("http://[2001:db8::1]", "/only/"),
];

static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let rule = |(origin, prefix): &(&str, &str)| {
        let mut rule = Rule::to(origin).unwrap();
        rule.allow(Some(Method::GET), &format!("{prefix}*")).unwrap();
        rule
    };
    ORIGINS.iter().map(rule).collect()
});

/// Whether that URL is of one of the origins, and below its prefix.
fn fits(url: &Url) -> bool {
    ORIGINS.iter().any(|(origin, prefix)| {
        let wild = origin.contains("*.");
        let own = Url::parse(&origin.replace("*.", "x.")).unwrap();
        let host = match (wild, url.host_str(), own.host_str()) {
            (false, host, own) => host.map(|host| host.strip_suffix('.').unwrap_or(host)) == own,
            (true, Some(host), Some(own)) => {
                let host = host.strip_suffix('.').unwrap_or(host);
                host.split_once('.').map(|(_, rest)| rest) == own.split_once('.').map(|(_, rest)| rest)
            }
            _ => false,
        };
        let port = url.port_or_known_default() == own.port_or_known_default();
        host && port && url.scheme() == own.scheme() && url.path().starts_with(prefix)
    })
}

fuzz_target!(|input: &str| {
    let mut lines = input.splitn(3, '\n');
    let [scheme, authority, path] = [(); 3].map(|()| lines.next().unwrap_or_default());
    let parsed = Url::parse(&format!("{scheme}://{authority}{path}"));
    match check(&RULES, &Method::GET, scheme, authority, path) {
        Ok(target) => {
            let url = parsed.expect("what passes can be read");
            assert!(fits(&url), "{url}");
            assert!(url.username().is_empty() && url.password().is_none() && url.fragment().is_none());
            let again = format!("{}://{}{}", target.scheme.as_str(), target.authority, target.path_and_query);
            let again = Url::parse(&again).expect("what is sent can be read");
            assert_eq!(again.host_str(), url.host_str().map(|host| host.strip_suffix('.').unwrap_or(host)));
            assert_eq!((again.path(), again.query()), (url.path(), url.query()));
            assert!(!target.path_and_query.contains(['\r', '\n', ' ']));
        }
        Err(refusal) => {
            assert!(refusal.rule().len() <= 512 && !refusal.rule().contains(char::is_control));
            if let Some((rust, toml)) = refusal.allow() {
                assert!(rust.len() <= 512 && toml.len() <= 512);
            }
            // Nothing was rewritten, and the parts are those that were given: the whole may read otherwise than they do.
            let plain = |url: &Url| {
                let unclear = ["//", "\\", ";", "%", "'", "[", "]", "^", "|", "`", "{", "}"];
                url.as_str() == format!("{scheme}://{authority}{path}")
                    && url[Position::BeforePath..] == *path
                    && !unclear.iter().any(|part| url.path().contains(part) || url.query().is_some_and(|query| query.contains(part)))
            };
            // As in DNS, which `url` does not ask for.
            let short = |host: &str| host.len() <= 253 && host.split('.').all(|label| label.len() <= 63);
            if let Ok(url) = &parsed
                && plain(url)
                && url.host_str().is_some_and(short)
                && authority.chars().all(|c| c.is_ascii_alphanumeric() || "-.:[]".contains(c))
                && path.len() < 8_000
                && url.username().is_empty()
                && url.password().is_none()
                && url.fragment().is_none()
            {
                assert!(!fits(url), "{url} was refused: {}", refusal.rule());
            }
        }
    }
    if let Ok(address) = authority.parse::<IpAddr>() {
        let granted: [IpNet; 1] = ["10.0.0.0/8".parse().unwrap()];
        let allowed = check_address(address, &granted).is_ok();
        let private = match address {
            IpAddr::V4(v4) => (v4.is_private() && v4.octets()[0] != 10) || v4.is_loopback() || v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.to_ipv4_mapped().is_some(),
        };
        assert!(!(allowed && private), "{address}");
    }
});
