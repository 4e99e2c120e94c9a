//! The committed table, the texts of refusals, and a second, plainer implementation that must agree on anything.

use super::*;
use proptest::prelude::*;
use proptest::sample::select;
use url::Position;

const CASES: &str = include_str!("egress_cases.txt");

/// The cells of each row of one section, with the line's number.
fn section(name: &str) -> impl Iterator<Item = (usize, Vec<&'static str>)> {
    let head = format!("[{name}]");
    let lines = (1..).zip(CASES.lines()).skip_while(move |(_, line)| *line != head).skip(1);
    lines
        .take_while(|(_, line)| !line.starts_with('['))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| (number, line.split(" | ").collect()))
}

/// `\s \t \n \r \0 \\ \u{..}` are characters, `{a*3}` is `aaa`, `""` is nothing.
fn unescape(cell: &str) -> String {
    if cell == "\"\"" {
        return String::new();
    }
    let mut out = String::new();
    let mut rest = cell;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\\' => {
                let escape = rest.chars().next().unwrap();
                rest = &rest[1..];
                out.push(match escape {
                    's' => ' ',
                    't' => '\t',
                    'n' => '\n',
                    'r' => '\r',
                    '0' => '\0',
                    '\\' => '\\',
                    'u' => {
                        let (digits, after) = rest[1..].split_once('}').unwrap();
                        rest = after;
                        char::from_u32(u32::from_str_radix(digits, 16).unwrap()).unwrap()
                    }
                    other => panic!("unknown escape {other}"),
                });
            }
            '{' => match rest.split_once('}').and_then(|(body, after)| Some((body.split_once('*')?, after))) {
                Some(((text, times), after)) => {
                    out.push_str(&text.repeat(times.parse().unwrap()));
                    rest = after;
                }
                None => out.push('{'),
            },
            c => out.push(c),
        }
    }
    out
}

fn method(text: &str) -> Method {
    Method::from_bytes(text.as_bytes()).unwrap()
}

fn networks(cell: &str) -> Vec<IpNet> {
    cell.split(", ").filter(|text| *text != "-").map(|text| text.parse().unwrap()).collect()
}

/// `https://a.example.com GET:/x *:/y net:10.0.0.0/8, …`
fn rules(cell: &str) -> Vec<Rule> {
    let rule = |text: &str| {
        let mut words = text.split(' ');
        let mut rule = Rule::to(&unescape(words.next().unwrap())).unwrap();
        for word in words {
            match word.split_once(':').unwrap() {
                ("net", network) => rule.network(network.parse().unwrap()),
                ("*", path) => rule.allow(None, path).unwrap(),
                (name, path) => rule.allow(Some(method(name)), path).unwrap(),
            }
        }
        rule
    };
    cell.split(", ").filter(|text| *text != "-").map(rule).collect()
}

fn agrees(expected: &str, result: Result<&str, &str>) -> bool {
    match result {
        Ok(normal) => expected.strip_prefix("ok").is_some_and(|text| text.trim_start() == normal),
        Err(error) => !expected.starts_with("ok") && error.contains(expected),
    }
}

#[test]
fn requests_of_the_table() {
    let mut failed = Vec::new();
    for (line, cells) in section("requests") {
        let [rule, verb, url, expected] = cells[..] else { panic!("line {line} has {} cells", cells.len()) };
        let parts: Vec<String> = url.split(' ').map(unescape).collect();
        let [scheme, authority, path] = &parts[..] else { panic!("line {line}: three parts of a url") };
        let result = check(&rules(rule), &method(&unescape(verb)), scheme, authority, path);
        let found = match &result {
            Ok(target) => format!("ok {}", target.authority),
            Err(refusal) => format!("{:?}", refusal.reason),
        };
        if found != expected {
            failed.push(format!("line {line}: {url} with {rule}: {found}, not {expected}"));
        }
        if let Err(refusal) = result {
            assert_showable(&refusal);
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn origins_of_the_table() {
    for (line, cells) in section("origins") {
        let [text, expected] = cells[..] else { panic!("line {line}") };
        let result = Rule::to(&unescape(text));
        let found = result.as_ref().map(|rule| rule.origin.as_str()).map_err(String::as_str);
        assert!(agrees(expected, found), "line {line}: {text}: {found:?}, not {expected}");
        if let Err(error) = found {
            assert!(error.len() <= 256 && !error.contains(char::is_control) && !error.contains("hunter2"), "{error}");
        }
    }
}

#[test]
fn patterns_of_the_table() {
    for (line, cells) in section("patterns") {
        let [entry, expected] = cells[..] else { panic!("line {line}") };
        let (verb, path) = entry.split_once(' ').unwrap();
        let verb = (verb != "*").then(|| method(verb));
        let result = Rule::to("https://a.example.com").unwrap().allow(verb, &unescape(path)).map(|()| "");
        let found = result.as_ref().copied().map_err(String::as_str);
        assert!(agrees(expected, found), "line {line}: {entry}: {found:?}, not {expected}");
    }
}

#[test]
fn a_rule_with_a_refused_entry_allows_nothing() {
    let mut rule = Rule::to("https://a.example.com").unwrap();
    assert!(check(&[rule.clone()], &Method::GET, "https", "a.example.com", "/").is_ok());
    assert!(rule.allow(None, "v1").is_err());
    let refusal = check(&[rule], &Method::GET, "https", "a.example.com", "/").unwrap_err();
    assert_eq!(refusal.reason, Reason::OtherMethod);
}

#[test]
fn addresses_of_the_table() {
    for (line, cells) in section("addresses") {
        let [granted, address, expected] = cells[..] else { panic!("line {line}") };
        let address: IpAddr = address.parse().unwrap();
        let found = check_address(address, &networks(granted)).err().unwrap_or("ok");
        assert_eq!(found, expected, "line {line}: {address} with {granted}");
        assert_eq!(found, reference::address(address, &networks(granted)).unwrap_or("ok"), "line {line}: reference");
    }
}

#[test]
fn the_table_is_as_large_as_it_should_be() {
    let rows = |name| section(name).count();
    let (requests, addresses) = (rows("requests"), rows("addresses"));
    assert!(requests >= 200 && addresses >= 90, "{requests} {addresses} {} {}", rows("origins"), rows("patterns"));
}

#[test]
fn a_refusal_says_which_rule_and_what_would_allow_it() {
    let granted = rules("https://api.example.com GET:/v1/*, http://127.0.0.1:8080, https://*.b.example PURGE:/x");
    let refused = |verb: &str, scheme, authority, path| {
        let refusal = check(&granted, &method(verb), scheme, authority, path).unwrap_err();
        [refusal.rule().to_owned(), refusal.allow().map(|(rust, _)| rust).unwrap_or_default()]
    };
    let cases = [
        (
            refused("POST", "https", "API.example.com.", "/v1/x?token=secret"),
            "the rule for https://api.example.com does not allow POST",
            ".grant(Http::to(\"https://api.example.com\").post(\"/v1/x\"))",
        ),
        (
            refused("GET", "https", "api.example.com", "/v2"),
            "the rule for https://api.example.com does not allow GET /v2",
            ".grant(Http::to(\"https://api.example.com\").get(\"/v2\"))",
        ),
        (
            refused("GET", "https", "api.example.com", "/v1/;x"),
            "the rule for https://api.example.com is not for every path, and /v1/;x has `//`, `;` or escapes that \
             servers read differently",
            ".grant(Http::to(\"https://api.example.com\").get(\"/*\"))",
        ),
        (
            refused("PURGE", "https", "b.example", "/x"),
            "no rule is for b.example; the nearest is for https://*.b.example",
            ".grant(Http::to(\"https://b.example\").method(\"PURGE\", \"/x\"))",
        ),
        (
            refused("get", "http", "127.0.0.1", ""),
            "the rule for http://127.0.0.1:8080 does not allow port 80",
            ".grant(Http::to(\"http://127.0.0.1\").method(\"get\", \"/\"))",
        ),
        (
            refused("GET", "https", "api.example.com", "/a*b/c"),
            "the rule for https://api.example.com does not allow GET /a*b/c",
            ".grant(Http::to(\"https://api.example.com\").get(\"/*/c\"))",
        ),
        (
            refused("GET", "https", "c.a.example.com", &format!("/a/{}/b", "x".repeat(200))),
            "no rule is for c.a.example.com; the nearest is for https://api.example.com",
            ".grant(Http::to(\"https://c.a.example.com\").get(\"/a/*\"))",
        ),
        (
            refused("GET", "http", "x.b.example", "/"),
            "the rule for https://*.b.example does not allow http",
            ".grant(Http::to(\"http://x.b.example\").get(\"/\"))",
        ),
        (
            refused("HEAD", "https", "a.other", "/"),
            "no rule is for a.other; the nearest is for https://api.example.com",
            ".grant(Http::to(\"https://a.other\").head(\"/\"))",
        ),
        (refused("GET", "http", "127.1:8080", "/"), "the host `127.1:8080` is another spelling of `127.0.0.1`", ""),
        (refused("GET", "https", "api.example.com:hunter2@evil", "/"), "the host has a user name before it", ""),
    ];
    for ([rule, allow], expected_rule, expected_allow) in cases {
        assert_eq!((&*rule, &*allow), (expected_rule, expected_allow));
    }
    let refusal = check(&[], &Method::GET, "http", "169.254.169.254", "/").unwrap_err();
    let rule = "no http origin is granted, and so none for 169.254.169.254 (link-local, cloud metadata, which hands out the machine's credentials)";
    assert_eq!(refusal.rule(), rule);
    let refusal = check(&[], &Method::GET, "https", "a.example", "/").unwrap_err();
    assert_eq!(refusal.rule(), "no http origin is granted, and so none for a.example");
}

#[test]
fn networks_are_those_of_all_rules_for_the_origin() {
    let granted = rules(
        "https://db.example.com GET:/a net:10.0.0.0/8, https://*.example.com POST:/b net:fd00::/8, \
         https://db.example.com:8443 net:192.168.0.0/16, https://other.example.com net:172.16.0.0/12",
    );
    let target = check(&granted, &Method::GET, "https", "db.example.com", "/a").unwrap();
    assert_eq!(target.rules, [0]);
    assert_eq!(target.networks, networks("10.0.0.0/8, fd00::/8"));
    assert!(target.check_address("10.0.0.5".parse().unwrap()).is_ok());
    assert!(target.check_address("1.1.1.1".parse().unwrap()).is_ok());
    let refusal = target.check_address("192.168.0.1".parse().unwrap()).unwrap_err();
    assert_eq!(refusal.reason, Reason::Address("private"));
    assert_eq!(refusal.rule(), "db.example.com leads to 192.168.0.1, which is not public (private)");
    let allow = ".grant(Http::to(\"https://db.example.com\").get(\"/a\").network(\"192.168.0.1/32\"))";
    let toml = "http = [{ to = \"https://db.example.com\", allow = [\"GET /a\"], network = [\"192.168.0.1/32\"] }]";
    assert_eq!(refusal.allow().unwrap(), (allow.to_owned(), toml.to_owned()));

    for (origin, authority) in
        [("http://127.0.0.1:8080", "127.0.0.1:8080"), ("http://[::ffff:7f00:1]", "[::ffff:7f00:1]")]
    {
        let target = check(&rules(origin), &Method::GET, "http", authority, "/").unwrap();
        let Host::Ip(address) = target.host else { panic!("{:?}", target.host) };
        assert!(target.check_address(address).is_ok(), "{origin} grants that very address");
        assert!(target.check_address("127.0.0.2".parse().unwrap()).is_err());
        assert!(target.check_address("::1".parse().unwrap()).is_err());
    }
}

fn assert_showable(refusal: &Refusal) {
    let allowed = refusal.allow().into_iter().flat_map(|(rust, toml)| [rust, toml]);
    for (text, max) in [refusal.rule().to_owned()].into_iter().chain(allowed).zip([256, 480, 480]) {
        assert!(text.len() <= max, "{} bytes: {text}", text.len());
        assert!(!text.contains(char::is_control), "{text:?}");
    }
}

/// What a refusal suggests, as the rule it would make.
fn suggested(grant: &Grant) -> Rule {
    let mut rule = Rule::to(&grant.origin).unwrap();
    rule.allow(Some(method(&grant.method)), &grant.path).unwrap();
    grant.network.into_iter().for_each(|network| rule.network(network));
    rule
}

/// The same decisions, written from the description: `url` for the normal form, lists of labels and of segments,
/// networks as text.
mod reference {
    use super::*;

    #[derive(Clone, Debug)]
    pub(super) struct Origin {
        pub(super) scheme: &'static str,
        pub(super) host: &'static str,
        pub(super) port: u16,
        pub(super) entries: Vec<(Option<&'static str>, &'static str)>,
    }

    #[derive(Debug, PartialEq)]
    pub(super) enum Verdict {
        Malformed,
        Refused,
        Allowed { url: String, rules: Vec<usize> },
    }

    pub(super) fn request(origins: &[Origin], verb: &str, scheme: &str, authority: &str, path: &str) -> Verdict {
        parse(verb, scheme, authority, path).map_or(Verdict::Malformed, |url| {
            let rules: Vec<usize> = (0..origins.len()).filter(|index| allows(&origins[*index], verb, &url)).collect();
            let text = format!(
                "{} {} {} {}",
                url.scheme(),
                url.host_str().unwrap().trim_end_matches('.'),
                url.port_or_known_default().unwrap(),
                &url[Position::BeforePath..Position::AfterPath]
            );
            if rules.is_empty() { Verdict::Refused } else { Verdict::Allowed { url: text, rules } }
        })
    }

    fn parse(verb: &str, scheme: &str, authority: &str, path: &str) -> Option<Url> {
        if verb.len() > 32 || ["connect", "trace", "track"].contains(&&*verb.to_lowercase()) {
            return None;
        }
        let scheme = scheme.to_ascii_lowercase();
        let default = match &*scheme {
            "http" => ":80",
            "https" => ":443",
            _ => return None,
        };
        let host_bytes = |b: u8| b.is_ascii_alphanumeric() || b"-_.:[]".contains(&b);
        let path_bytes = |b: u8| (0x21..0x7f).contains(&b) && !b"\\\"<>#".contains(&b);
        if authority.is_empty() || authority.len() > 260 || !authority.bytes().all(host_bytes) {
            return None;
        }
        if path.len() > 16384 || !path.bytes().all(path_bytes) || !(path.is_empty() || path.starts_with(['/', '?'])) {
            return None;
        }
        let url = Url::parse(&format!("{scheme}://{authority}{path}")).ok()?;
        // The authority as `url` would write it, were it not for the one dot and the scheme's own port.
        let mut own = authority.to_ascii_lowercase();
        if let Some(host) = own.strip_suffix(default) {
            own = host.to_owned();
        }
        let mut theirs = url[Position::BeforeHost..Position::AfterPort].to_owned();
        if let Some(url::Host::Domain(name)) = url.host() {
            let name = name.strip_suffix('.').unwrap_or(name);
            if name.len() > 253 || name.split('.').any(|label| label.is_empty() || label.len() > 63) {
                return None;
            }
            own = own.replacen(&format!("{name}."), name, 1);
            theirs = theirs.replacen(&format!("{name}."), name, 1);
        }
        let own_path = path.split('?').next().unwrap();
        let same_path = url.path() == if own_path.is_empty() { "/" } else { own_path };
        (own == theirs && same_path && url.port() != Some(0)).then_some(url)
    }

    fn allows(origin: &Origin, verb: &str, url: &Url) -> bool {
        let name = url.host_str().unwrap();
        let name = name.strip_suffix('.').unwrap_or(name);
        let labels = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
        let host = match origin.host.strip_prefix("*.") {
            Some(parent) => {
                matches!(url.host(), Some(url::Host::Domain(_)))
                    && labels(name).len() == labels(parent).len() + 1
                    && labels(name)[1..] == labels(parent)
            }
            None => origin.host == name,
        };
        let entry = |(own, pattern): &(Option<&str>, &str)| {
            own.is_none_or(|own| own == verb)
                && (*pattern == "/*" || (clear(url.path()) && segments(pattern, url.path())))
        };
        host && origin.scheme == url.scheme()
            && Some(origin.port) == url.port_or_known_default()
            && (origin.entries.is_empty() || origin.entries.iter().any(entry))
    }

    fn segments(pattern: &str, path: &str) -> bool {
        fn go(pattern: &[&str], path: &[&str]) -> bool {
            match (pattern, path) {
                ([], []) => true,
                (["*"], [_, ..]) => true,
                (["*", pattern @ ..], [segment, path @ ..]) => !segment.is_empty() && go(pattern, path),
                ([own, pattern @ ..], [segment, path @ ..]) => own == segment && go(pattern, path),
                _ => false,
            }
        }
        go(&pattern.split('/').collect::<Vec<_>>(), &path.split('/').collect::<Vec<_>>())
    }

    fn clear(path: &str) -> bool {
        let escapes: Vec<&str> = path.split('%').skip(1).map(|rest| rest.get(..2).unwrap_or("")).collect();
        let bad = |escape: &&str| {
            let lower = escape.to_lowercase();
            !(lower.len() == 2 && lower.bytes().all(|b| b.is_ascii_hexdigit()))
                || ["2f", "5c", "2e", "3b", "25", "7f"].contains(&&*lower)
                || lower.starts_with(['0', '1'])
        };
        if path.contains("//") || path.contains(';') || escapes.iter().any(bad) {
            return false;
        }
        let mut bytes = Vec::new();
        for (index, part) in path.split('%').enumerate() {
            let skip = if index == 0 { 0 } else { 2 };
            if index > 0 {
                bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
            }
            bytes.extend(part[skip..].bytes());
        }
        String::from_utf8(bytes).is_ok()
    }

    /// What is not public, most particular first.
    const NOT_PUBLIC: &str = "
        link-local, cloud metadata: 169.254.169.254/32 169.254.170.2/32
        carrier-grade NAT, cloud metadata: 100.100.100.200/32
        protocol assignments, cloud metadata: 192.0.0.192/32
        cloud metadata: 168.63.129.16/32
        unique local, cloud metadata: fd00:ec2::/32 fd20:ce::254/128
        loopback: 127.0.0.0/8 ::1/128
        broadcast: 255.255.255.255/32
        this network: 0.0.0.0/8 ::/128
        private: 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16
        carrier-grade NAT: 100.64.0.0/10
        link-local: 169.254.0.0/16 fe80::/10
        documentation: 192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 2001:db8::/32 3fff::/20
        benchmarking: 198.18.0.0/15 2001:2::/48
        multicast: 224.0.0.0/4 ff00::/8
        IPv4-mapped: ::ffff:0:0/96
        IPv4-compatible: ::/96
        IPv4-translated: ::ffff:0:0:0/96
        NAT64: 64:ff9b::/96 64:ff9b:1::/48
        discard: 100::/64
        Teredo: 2001::/32
        ORCHID: 2001:10::/28 2001:20::/28
        protocol assignments: 192.0.0.0/24 2001::/23
        6to4: 192.88.99.0/24 2002::/16
        SRv6: 5f00::/16
        unique local: fc00::/7
        site-local: fec0::/10
        reserved: 240.0.0.0/4 ::/3 4000::/2 8000::/1";

    pub(super) fn not_public() -> impl Iterator<Item = (IpNet, &'static str)> {
        NOT_PUBLIC.trim().lines().flat_map(|line| {
            let (class, networks) = line.trim().split_once(": ").unwrap();
            networks.split(' ').map(move |network| (network.parse().unwrap(), class))
        })
    }

    pub(super) fn address(address: IpAddr, granted: &[IpNet]) -> Option<&'static str> {
        let inside = |network: &IpNet| match (network, address) {
            (IpNet::V4(network), IpAddr::V4(address)) => network.contains(&address),
            (IpNet::V6(network), IpAddr::V6(address)) => network.contains(&address),
            _ => false,
        };
        if granted.iter().any(inside) {
            return None;
        }
        not_public().find(|(network, _)| inside(network)).map(|(_, class)| class)
    }
}

#[test]
fn addresses_at_the_edges_of_every_network() {
    let step = |address: IpAddr, by: i8| match address {
        IpAddr::V4(a) => IpAddr::V4(a.to_bits().wrapping_add_signed(by.into()).into()),
        IpAddr::V6(a) => IpAddr::V6(a.to_bits().wrapping_add_signed(by.into()).into()),
    };
    for (network, _) in reference::not_public() {
        let (first, last) = (network.network(), network.broadcast());
        for address in [step(first, -1), first, step(first, 1), step(last, -1), last, step(last, 1)] {
            assert_eq!(check_address(address, &[]).err(), reference::address(address, &[]), "{address}");
            assert!(check_address(address, &[address.into()]).is_ok());
        }
    }
}

#[rustfmt::skip]
const HOSTS: &[&str] = &[
    "a.example.com", "b.example.com", "example.com", "evilexample.com", "example.com.evil.com", "a.b.example.com",
    "127.0.0.1", "127.1", "0x7f.1", "2130706433", "0177.0.0.1", "127.0.0.2", "0", "[::1]", "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]", "[0:0:0:0:0:0:0:1]", "[fe80::1%25lo]", "[2606:4700::1]", "[2606:4700::ABCD]", "::1",
    "localhost", "bücher.example", "xn--bcher-kva.example", "XN--BCHER-KVA.example", "１２７.0.0.1", "127。0。0。1",
    "ｅxample.com", "xn--example-.com", "a_b.example.com", "a..example.com", "*.example.com", "", ".",
    "a%2eexample.com", "-a.example.com", "1.example.com", "example.1", "K.example.com", "a\u{ad}.example.com",
    "a,b.example.com",
];
const ORIGINS: &[(&str, &str, u16)] = &[
    ("https", "a.example.com", 443),
    ("https", "*.example.com", 443),
    ("http", "*.example.com", 8080),
    ("http", "127.0.0.1", 80),
    ("http", "[::1]", 8080),
    ("https", "[2606:4700::abcd]", 443),
    ("https", "xn--bcher-kva.example", 443),
    ("https", "example.com", 8443),
    ("http", "localhost", 80),
    ("http", "*.b.example.com", 80),
    ("http", "[::ffff:7f00:1]", 80),
];
const PATTERNS: &[&str] = &["/*", "/", "/v1/*", "/v1", "/v1/", "/u/*/p", "/*/p/*", "/%C3%A9", "/a", "/*/*"];
const METHODS: &[&str] = &["GET", "POST", "get", "PURGE", "CONNECT", "trace", "HEAD"];
const SEGMENTS: &[&str] = &[
    "v1", "u", "p", "a", "7", "*", "a*b", "", ".", "..", "...", "%2e", "%2E%2e", ".%2e", "x%2fy", "x%5Cy", "%00",
    "%0a", ";", "x;y", "%3B", "%25", "%252e", "%", "%u002e", "%c3%a9", "%C3%A9", "%c0%ae", "%61", "é", "\\", " ",
    "{x}", "\"", "'", "~", "@", ":80", "\t", "#", "v1x", "%C3", "%A9",
];

fn origin() -> impl Strategy<Value = reference::Origin> {
    let entry = (proptest::option::of(select(vec!["GET", "POST", "PURGE"])), select(PATTERNS));
    (select(ORIGINS), proptest::collection::vec(entry, 0..3))
        .prop_map(|((scheme, host, port), entries)| reference::Origin { scheme, host, port, entries })
}

fn rule(origin: &reference::Origin) -> Rule {
    let mut rule = Rule::to(&format!("{}://{}:{}", origin.scheme, origin.host, origin.port)).unwrap();
    for (verb, path) in &origin.entries {
        rule.allow(verb.map(method), path).unwrap();
    }
    rule
}

/// Hosts that mean something, in odd clothes; now and then anything at all.
fn authority() -> impl Strategy<Value = String> {
    let dressed = (
        prop_oneof![20 => Just(""), 1 => Just("@"), 1 => Just("u:p@"), 1 => Just(" "), 1 => Just("x."), 1 => Just("evil.com#")],
        select(HOSTS),
        prop_oneof![20 => Just(""), 4 => Just("."), 1 => Just(".."), 1 => Just("\n"), 1 => Just("。"), 1 => Just("/x"), 1 => Just("%00")],
        prop_oneof![
            12 => Just(""), 4 => Just(":443"), 4 => Just(":80"), 6 => Just(":8080"), 3 => Just(":8443"), 1 => Just(":0"),
            1 => Just(":"), 1 => Just(":080"), 1 => Just(":99999"), 1 => Just(":x")
        ],
        any::<[bool; 2]>(),
    )
        .prop_map(|(before, host, after, port, [upper, rare])| {
            let text = format!("{before}{host}{after}{port}");
            if upper && rare { text.to_uppercase() } else { text }
        });
    prop_oneof![16 => dressed, 1 => ".{0,20}", 1 => "[0-9a-fx.:\\[\\]]{1,20}", 1 => "[a-z0-9.-]{1,70}(:[0-9]{0,6})?"]
}

fn path() -> impl Strategy<Value = String> {
    let query = prop_oneof![4 => Just(""), 1 => Just("?"), 1 => Just("?a=/../%2f;'"), 1 => Just("?é"), 1 => Just("?<")];
    let plain = proptest::collection::vec(select(&SEGMENTS[..5]), 0..4);
    let tricky = proptest::collection::vec(select(SEGMENTS), 0..4);
    let joined =
        (prop_oneof![plain, tricky], query).prop_map(|(segments, query)| format!("/{}{query}", segments.join("/")));
    prop_oneof![16 => joined, 1 => Just(String::new()), 1 => ".{0,20}", 1 => "/[ -~]{0,20}", 1 => "/(%[0-9a-f]{2}){1,4}"]
}

fn scheme() -> impl Strategy<Value = String> {
    prop_oneof![
        10 => select(vec!["http", "https"]).prop_map(str::to_owned), 1 => select(vec!["HTTPS", "ftp", "", "http:"]).prop_map(str::to_owned),
        1 => ".{0,6}"
    ]
}

fn address() -> impl Strategy<Value = IpAddr> {
    let near = (select(reference::not_public().map(|(network, _)| network).collect::<Vec<_>>()), any::<u128>())
        .prop_map(|(network, noise)| match network.network() {
            IpAddr::V4(a) => IpAddr::V4((a.to_bits() ^ ((noise as u32) >> (noise >> 123))).into()),
            IpAddr::V6(a) => IpAddr::V6((a.to_bits() ^ ((noise << 7) >> (noise >> 121))).into()),
        });
    prop_oneof![4 => near, 1 => any::<IpAddr>()]
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// A request, with the origins it is judged by. Every other one is meant for the first of them, so that many pass.
fn request() -> impl Strategy<Value = (Vec<reference::Origin>, &'static str, String, String, String)> {
    let origins = proptest::collection::vec(origin(), 0..4);
    let odd = (select(METHODS), scheme(), authority(), path());
    let meant = (any::<[bool; 4]>(), select(vec!["a", "B", "example", "a.b", ""]), select(vec!["GET", "POST"]));
    (origins, odd, meant).prop_map(|(origins, (verb, scheme, authority, path), (meant, label, likely))| {
        let [by_host, by_scheme, by_port, by_verb] = meant;
        let (mut verb, mut scheme, mut authority) = (verb, scheme, authority);
        if let Some(origin) = origins.first().filter(|_| by_host) {
            let port = if by_port || by_scheme { origin.port } else { 8443 };
            authority = format!("{}:{port}", origin.host.replacen('*', label, 1));
            if by_scheme || by_port {
                scheme = origin.scheme.to_owned();
            }
        }
        if by_verb || by_host {
            verb = likely;
        }
        (origins, verb, scheme, authority, path)
    })
}

proptest! {
    #![proptest_config(config(4096))]

    #[test]
    fn requests_agree_with_the_reference(
        (origins, verb, scheme, authority, path) in request(),
    ) {
        let granted: Vec<Rule> = origins.iter().map(rule).collect();
        let result = check(&granted, &method(verb), &scheme, &authority, &path);
        let found = match &result {
            Ok(target) => reference::Verdict::Allowed {
                url: format!("{} {} {} {}", target.scheme.as_str(), target.host, target.port, target.path()),
                rules: target.rules.clone(),
            },
            Err(refusal) if refusal.allow().is_some() => reference::Verdict::Refused,
            Err(_) => reference::Verdict::Malformed,
        };
        prop_assert_eq!(found, reference::request(&origins, verb, &scheme, &authority, &path));

        match result {
            Ok(target) => {
                // Sent as it was checked, and read alike by the library that sends it.
                let uri = format!("{}://{}{}", target.scheme.as_str(), target.authority, target.path_and_query);
                let uri: http::Uri = uri.parse().unwrap();
                prop_assert_eq!(uri.authority().unwrap().as_str(), &target.authority);
                prop_assert_eq!(uri.path_and_query().unwrap().as_str(), &target.path_and_query);
                let again = check(&granted, &method(verb), target.scheme.as_str(), &target.authority, &target.path_and_query);
                prop_assert_eq!(again.unwrap().authority, target.authority);
            }
            Err(refusal) => {
                assert_showable(&refusal);
                if let Some(grant) = &refusal.allow {
                    let rule = suggested(grant);
                    prop_assert!(check(&[rule], &method(verb), &scheme, &authority, &path).is_ok(), "{:?}", refusal.allow());
                }
            }
        }
    }

    #[test]
    fn addresses_agree_with_the_reference(address in address(), granted in proptest::collection::vec((address(), 0u8..=32), 0..3)) {
        let granted: Vec<IpNet> = granted.into_iter().map(|(address, length)| IpNet::new(address, length).unwrap()).collect();
        prop_assert_eq!(check_address(address, &granted).err(), reference::address(address, &granted));
    }

    #[test]
    fn origins_and_patterns_never_panic(origin in "(https?://)?(\\*\\.)?\\PC{0,20}", host in authority(), pattern in path(), any in ".{0,30}") {
        for text in [origin, format!("https://{host}"), format!("https://*.{host}"), any.clone()] {
            if let Ok(rule) = Rule::to(&text) {
                let again = Rule::to(&rule.origin).unwrap();
                prop_assert_eq!(again.origin, rule.origin);
            }
        }
        for text in [pattern, any] {
            let mut rule = Rule::to("https://a.example.com").unwrap();
            if rule.allow(None, &text).is_ok() {
                // Every pattern can match: itself, with its `*` read as a segment.
                prop_assert!(check(&[rule], &Method::GET, "https", "a.example.com", &text).is_ok(), "{}", text);
            }
        }
    }
}

#[test]
fn the_generators_reach_every_verdict() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    let requests = request();
    for _ in 0..10_000 {
        let (origins, verb, scheme, authority, path) = requests.new_tree(&mut runner).unwrap().current();
        let granted: Vec<Rule> = origins.iter().map(rule).collect();
        let name = match check(&granted, &method(verb), &scheme, &authority, &path) {
            Ok(_) => "ok".to_owned(),
            Err(refusal) => format!("{:?}", refusal.reason),
        };
        *seen.entry(name).or_default() += 1;
    }
    // All but TooLong and Address, which these parts cannot cause.
    assert!(seen.len() == 17 && seen.values().all(|count| *count >= 8) && seen["ok"] >= 500, "{seen:?}");
}

#[test]
fn a_rule_covers_what_is_no_wider() {
    for (own, other, covers) in [
        ("https://a.example", "https://a.example GET:/x", true),
        ("https://a.example GET:/x", "https://a.example", false),
        ("https://a.example *:/*", "https://a.example", true),
        ("https://a.example GET:/*", "https://a.example", false),
        ("https://a.example GET:/v1/*", "https://a.example GET:/v1/*", true),
        ("https://a.example GET:/v1/*", "https://a.example GET:/v1/a/b", true),
        ("https://a.example GET:/v1/*/b", "https://a.example GET:/v1/a/b", true),
        ("https://a.example GET:/v1/*/b", "https://a.example GET:/v1/*", false),
        ("https://a.example GET:/*/b", "https://a.example GET:/*/b", true),
        ("https://a.example GET:/a", "https://a.example POST:/a", false),
        ("https://a.example GET:/a POST:/a", "https://a.example POST:/a", true),
        ("https://*.a.example", "https://b.a.example", true),
        ("https://*.a.example", "https://*.a.example", true),
        ("https://b.a.example", "https://*.a.example", false),
        ("https://*.a.example", "https://c.b.a.example", false),
        ("https://a.example", "http://a.example", false),
        ("https://a.example", "https://a.example:8443", false),
    ] {
        let rule = |text| rules(text).remove(0);
        assert_eq!(rule(own).covers(&rule(other)), covers, "{own} covers {other}");
    }
}

proptest! {
    /// What one pattern covers, it matches wherever the other one does.
    #[test]
    fn covering_is_matching_more(own in "(/[ab*]){1,4}", other in "(/[ab*]){1,4}", path in "(/[abc]?){1,5}") {
        if pattern_covers(&own, &other) && path_matches(&other, &path) {
            prop_assert!(path_matches(&own, &path), "{own} {other} {path}");
        }
    }
}
