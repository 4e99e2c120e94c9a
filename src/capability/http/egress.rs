//! Where a guest's http requests may go: [`Rule`]s, the [`check`] of one request, [`check_address`] before dialling.
//!
//! Pure: no resolving, no connecting. A name that passed [`check`] may still lead anywhere, so every address it resolves
//! to passes [`Target::check_address`], and the connection goes to that very address.
//!
//! Invariants: a request is parsed once, by `url`, and what `url` would rewrite is refused, so that the text which was
//! checked is the text which is sent. Names are ASCII, lower case and without a final dot; ports are exact. What a guest
//! chose appears in a [`Refusal`] only sanitised and cut.

use crate::text::sanitise;
use http::Method;
use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use url::Url;

/// Longest authority: a name of 253 bytes, its final dot, a port; no valid one is longer.
const MAX_AUTHORITY: usize = 260;
/// Longest path with query; most servers stop at 8 KiB.
const MAX_PATH: usize = 16 * 1024;
/// Longest method; the longest registered one has 17 bytes.
const MAX_METHOD: usize = 32;
/// Longest path pattern of a rule.
const MAX_PATTERN: usize = 1024;
/// How much of a guest's or a rule's text is shown, so that a message stays around 200 bytes.
const SHOWN: usize = 80;

/// One origin a guest may talk to, with what it may do there.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    origin: String,
    scheme: Scheme,
    host: HostPattern,
    port: u16,
    /// None allows every method and path.
    entries: Option<Vec<Entry>>,
    networks: Vec<IpNet>,
}

#[derive(Clone, Debug)]
enum HostPattern {
    Exact(Host),
    /// Any name with exactly one label before this one.
    Below(String),
}

#[derive(Clone, Debug)]
struct Entry {
    method: Option<Method>,
    path: String,
}

/// A host in normal form.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Host {
    Name(String),
    Ip(IpAddr),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Rule {
    /// Parses an origin: `https://api.example.com`, `https://*.example.com:8443`, `http://127.0.0.1:8080`. `*` stands for
    /// exactly one label. Without entries, the rule allows every method and path.
    pub(crate) fn to(text: &str) -> Result<Rule, String> {
        // Before anything could show it: what stands there may be a password.
        if text.contains('@') {
            return Err("an origin has no user name or password".to_owned());
        }
        let fail = |why: &str| Err(format!("`{}` is not an origin: {why}", sanitise(text, SHOWN)));
        let Some((scheme, rest)) = text.split_once("://") else { return fail("it starts with http:// or https://") };
        let Some(scheme) = Scheme::parse(scheme) else { return fail("the scheme is http or https") };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.chars().any(is_unprintable) {
            return fail("it holds a space, a backslash or a control character");
        }
        if authority.contains(['/', '?', '#']) {
            return fail("paths are given by `get(\"/path\")` and the like, queries and fragments not at all");
        }
        let (wildcard, authority) = match authority.strip_prefix("*.") {
            Some(parent) => ("*.", parent),
            None => ("", authority),
        };
        if authority.contains('*') {
            return fail("`*` may only be the whole leftmost label of a name");
        }
        let (host_text, port_text) = split_port(authority);
        let url = match Url::parse(&format!("{}://{authority}", scheme.as_str())) {
            Ok(url) => url,
            Err(error) => return fail(&error.to_string()),
        };
        let port = url.port_or_known_default().unwrap_or(0);
        let Some(host) = Host::of(&url) else { return fail("the host is not valid") };
        if port == 0 {
            return fail("port 0 does not exist");
        }
        let origin = format!("{}://{wildcard}{}", scheme.as_str(), authority_of(&host, scheme, port));
        if !same_host(host_text, &host.to_string()) || port_text.is_some_and(|text| text != port.to_string()) {
            return fail(&format!("write it as `{}`", sanitise(&origin, SHOWN)));
        }
        let host = match (wildcard, host) {
            ("", host) => HostPattern::Exact(host),
            (_, Host::Name(parent)) if parent.contains('.') => HostPattern::Below(parent),
            (_, Host::Name(_)) => return fail("`*` needs at least two labels after it"),
            (_, Host::Ip(_)) => return fail("`*` needs a name after it"),
        };
        Ok(Rule { origin, scheme, host, port, entries: None, networks: Vec::new() })
    }

    /// Narrows the rule to this method (or all) and path, and those of other calls. A segment `*` stands for one
    /// segment that is not empty; as the last one, for all that follows, be it nothing. After an error the entry is
    /// missing, and the rule not wider for it.
    pub(crate) fn allow(&mut self, method: Option<Method>, path: &str) -> Result<(), String> {
        let entries = self.entries.get_or_insert_default();
        if let Some(method) = method.as_ref().filter(|method| is_forbidden(method)) {
            return Err(format!("the method {} cannot be allowed", sanitise(method.as_str(), MAX_METHOD)));
        }
        let fail = |why: &str| Err(format!("`{}` is not a path pattern: {why}", sanitise(path, SHOWN)));
        if !path.starts_with('/') {
            return fail("it starts with /");
        }
        if path.len() > MAX_PATTERN {
            return fail("it is too long");
        }
        if path.contains(['?', '#']) {
            return fail("queries are not matched, fragments are never sent");
        }
        if path.split('/').any(|segment| segment.contains('*') && segment != "*") {
            return fail("`*` stands for a whole segment");
        }
        let normal = Url::parse(&format!("http://x{path}")).map(|url| url.path().to_owned()).unwrap_or_default();
        if normal != path {
            return fail(&format!("write it as `{}`", sanitise(&normal, SHOWN)));
        }
        if is_unclear(path) {
            return fail("no request could match, as `//`, `;` and escaped separators only match rules for every path");
        }
        entries.push(Entry { method, path: path.to_owned() });
        Ok(())
    }

    /// A network which the name may resolve into though it is not public. An origin with an address needs none.
    pub(crate) fn network(&mut self, network: IpNet) {
        self.networks.push(network);
    }

    /// In normal form.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// Whether it allows whatever the other one does. May say no where only a closer look would say yes.
    pub(crate) fn covers(&self, other: &Rule) -> bool {
        let host = match (&self.host, &other.host) {
            (HostPattern::Exact(own), HostPattern::Exact(other)) => own == other,
            (HostPattern::Below(own), HostPattern::Below(other)) => own == other,
            (HostPattern::Below(parent), HostPattern::Exact(Host::Name(name))) => {
                name.split_once('.').is_some_and(|(_, rest)| rest == parent)
            }
            _ => false,
        };
        let entries = match (&self.entries, &other.entries) {
            (None, _) => true,
            (Some(own), None) => own.iter().any(|own| own.method.is_none() && own.path == "/*"),
            (Some(own), Some(others)) => others.iter().all(|other| own.iter().any(|own| own.covers(other))),
        };
        host && entries && self.scheme == other.scheme && self.port == other.port
    }

    /// Whether nobody on the way can read what is sent.
    pub(crate) fn is_confidential(&self) -> bool {
        let here = matches!(self.host, HostPattern::Exact(Host::Ip(address)) if address.is_loopback());
        self.scheme == Scheme::Https || here
    }

    fn fit(&self, target: &Target) -> Fit {
        let host = match (&self.host, &target.host) {
            (HostPattern::Exact(own), host) => own == host,
            (HostPattern::Below(parent), Host::Name(name)) => {
                name.split_once('.').is_some_and(|(_, rest)| rest == parent)
            }
            (HostPattern::Below(_), Host::Ip(_)) => false,
        };
        let labels = match (&self.host, &target.host) {
            (HostPattern::Exact(Host::Name(own)) | HostPattern::Below(own), Host::Name(name)) if !host => {
                common_labels(own, name)
            }
            _ => 0,
        };
        let (method, path) = match &self.entries {
            None => (true, true),
            Some(entries) => entries.iter().map(|entry| entry.fit(target)).max().unwrap_or_default(),
        };
        Fit { host, labels, scheme: self.scheme == target.scheme, port: self.port == target.port, method, path }
    }
}

impl Entry {
    fn covers(&self, other: &Entry) -> bool {
        (self.method.is_none() || self.method == other.method) && pattern_covers(&self.path, &other.path)
    }

    fn fit(&self, target: &Target) -> (bool, bool) {
        let method = self.method.as_ref().is_none_or(|method| *method == target.method);
        let path = self.path == "/*" || (!target.unclear && path_matches(&self.path, target.path()));
        (method, path)
    }
}

/// How much of a request a rule allows. The order is the one in which a refusal looks for the nearest rule.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Fit {
    host: bool,
    /// Of another host: how many labels agree, from the right.
    labels: usize,
    scheme: bool,
    port: bool,
    method: bool,
    path: bool,
}

impl Fit {
    fn origin(self) -> bool {
        self.host && self.scheme && self.port
    }

    fn all(self) -> bool {
        self.origin() && self.method && self.path
    }
}

/// Where an allowed request goes: the one parse of it, in normal form.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) method: Method,
    pub(crate) scheme: Scheme,
    pub(crate) host: Host,
    pub(crate) port: u16,
    /// What the `Host` header says: the host, and the port where it is not the scheme's own.
    pub(crate) authority: String,
    /// Visible ASCII, starts with `/`; the guest's own text.
    pub(crate) path_and_query: String,
    /// Indices of the rules that allow it; never empty.
    pub(crate) rules: Vec<usize>,
    networks: Vec<IpNet>,
    unclear: bool,
}

/// Decides about one request. The parts are the guest's text, unparsed.
pub(crate) fn check(
    rules: &[Rule],
    method: &Method,
    scheme: &str,
    authority: &str,
    path_and_query: &str,
) -> Result<Target, Refusal> {
    let mut target = Target::parse(method, scheme, authority, path_and_query).map_err(|(reason, rule)| Refusal {
        reason,
        rule,
        allow: None,
    })?;
    let fits = || rules.iter().map(|rule| (rule, rule.fit(&target)));
    let matched: Vec<usize> = fits().enumerate().filter(|(_, (_, fit))| fit.all()).map(|(index, _)| index).collect();
    if matched.is_empty() {
        // The first of the best, where `max_by_key` takes the last.
        return Err(Refusal::by_rules(&target, fits().rev().max_by_key(|(_, fit)| *fit)));
    }
    (target.rules, target.networks) = (matched, target.granted(rules));
    Ok(target)
}

/// Decides about a request that is granted: whether the component says that it needs it.
pub(crate) fn check_needs(needs: &[Rule], target: &Target) -> Result<(), Refusal> {
    if needs.iter().any(|need| need.fit(target).all()) {
        return Ok(());
    }
    let rule = "it is granted, but the component does not say in its needs that it sends such requests".to_owned();
    Err(Refusal { reason: Reason::NotNeeded, rule, allow: None })
}

/// The first of an origin's addresses that none of its rules allows. For whoever dials, who knows of no request.
pub(crate) fn refused(rules: &[Rule], scheme: &str, authority: &str, addresses: &[IpAddr]) -> Option<IpAddr> {
    let networks = Target::parse(&Method::GET, scheme, authority, "/").map(|target| target.granted(rules));
    let networks = networks.unwrap_or_default();
    addresses.iter().copied().find(|address| check_address(*address, &networks).is_err())
}

/// Whether a connection may go to this address: public unicast, or inside a granted network. Otherwise what it is.
/// An IPv4 address inside an IPv6 one is never taken out, so no IPv4 network grants it.
pub(crate) fn check_address<'a>(
    address: IpAddr,
    networks: impl IntoIterator<Item = &'a IpNet>,
) -> Result<(), &'static str> {
    match class(address) {
        Some(class) if !networks.into_iter().any(|network| network.contains(&address)) => Err(class),
        _ => Ok(()),
    }
}

impl Target {
    fn parse(method: &Method, scheme: &str, authority: &str, path: &str) -> Result<Target, (Reason, String)> {
        let fail = |reason, rule: String| Err((reason, rule));
        let shown = sanitise(authority, SHOWN);
        if is_forbidden(method) {
            return fail(Reason::Method, format!("the method {} is never sent", sanitise(method.as_str(), MAX_METHOD)));
        }
        let Some(scheme) = Scheme::parse(scheme) else {
            return fail(Reason::Scheme, format!("the scheme `{}` is not http or https", sanitise(scheme, SHOWN)));
        };
        // First of all that could show the authority: what stands before the `@` may be a password.
        if authority.contains('@') {
            return fail(Reason::Userinfo, "the host has a user name before it".to_owned());
        }
        if authority.is_empty() {
            return fail(Reason::NoHost, "the request names no host".to_owned());
        }
        if authority.len() > MAX_AUTHORITY || path.len() > MAX_PATH {
            return fail(Reason::TooLong, "the host or the path is too long".to_owned());
        }
        if authority.chars().any(is_unprintable) || path.bytes().any(|b| !b.is_ascii_graphic() || b == b'\\') {
            let what = "the host or the path holds a space, a backslash, a control or an unescaped character";
            return fail(Reason::Characters, what.to_owned());
        }
        if authority.contains(['/', '?', '#']) {
            return fail(Reason::Host, format!("`{shown}` is not a host"));
        }
        let path_and_query = match path.bytes().next() {
            Some(b'/') => path.to_owned(),
            None | Some(b'?') => format!("/{path}"),
            Some(_) => return fail(Reason::Path, "the path does not start with /".to_owned()),
        };

        let url = match Url::parse(&format!("{}://{authority}{path_and_query}", scheme.as_str())) {
            Ok(url) => url,
            Err(url::ParseError::EmptyHost) => return fail(Reason::NoHost, "the request names no host".to_owned()),
            Err(url::ParseError::InvalidPort) => return fail(Reason::Port, format!("`{shown}` has no valid port")),
            Err(_) => return fail(Reason::Host, format!("`{shown}` is not a host")),
        };
        let (Some(host), port) = (Host::of(&url), url.port_or_known_default().unwrap_or(0)) else {
            return fail(Reason::Host, format!("`{shown}` is not a host"));
        };
        let (host_text, port_text) = split_port(authority);
        let host_text = match host {
            Host::Name(_) => host_text.strip_suffix('.').unwrap_or(host_text),
            Host::Ip(_) => host_text,
        };
        let normal = host.to_string();
        if !host_text.eq_ignore_ascii_case(&normal) {
            let normal = sanitise(&normal, SHOWN);
            return fail(Reason::HostSpelling, format!("the host `{shown}` is another spelling of `{normal}`"));
        }
        if port == 0 || port_text.is_some_and(|text| text != port.to_string()) {
            return fail(Reason::Port, format!("`{shown}` has no valid port"));
        }
        let authority = authority_of(&host, scheme, port);
        let (method, rules, networks, unclear) = (method.clone(), Vec::new(), Vec::new(), is_unclear(url.path()));
        let target = Target { method, scheme, host, port, authority, path_and_query, rules, networks, unclear };
        if target.path_and_query.contains(['#', '"', '<', '>']) {
            return fail(Reason::Characters, "the path or the query holds one of # \" < > unescaped".to_owned());
        }
        if url.path() != target.path() {
            let (own, normal) = (sanitise(target.path(), SHOWN), sanitise(url.path(), SHOWN));
            return fail(Reason::PathSpelling, format!("the path `{own}` is another spelling of `{normal}`"));
        }
        Ok(target)
    }

    fn path(&self) -> &str {
        self.path_and_query.split('?').next().unwrap_or_default()
    }

    /// What the target may resolve into though it is not public, of all rules for its scheme, host and port; and the
    /// address itself, where the host is one.
    fn granted(&self, rules: &[Rule]) -> Vec<IpNet> {
        let rules = rules.iter().filter(|rule| rule.fit(self).origin());
        let itself = match self.host {
            Host::Ip(address) => Some(address.into()),
            Host::Name(_) => None,
        };
        rules.flat_map(|rule| rule.networks.iter().copied()).chain(itself).collect()
    }

    /// Whether a connection may go to that address of the target.
    pub(crate) fn check_address(&self, address: IpAddr) -> Result<(), Refusal> {
        check_address(address, &self.networks).map_err(|class| Refusal::by_address(self, address, class))
    }
}

/// Why a request may not be sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Reason {
    /// CONNECT, TRACE and TRACK, which turn a request into something else or echo its headers; or one too long.
    Method,
    Scheme,
    Userinfo,
    NoHost,
    TooLong,
    Characters,
    /// Not a host name or address.
    Host,
    /// A host that is not in normal form, such as `127.1`.
    HostSpelling,
    Port,
    Path,
    /// A path that is not in normal form, such as `/a/../b`.
    PathSpelling,
    /// No rule is for this host.
    NoRule,
    OtherScheme,
    OtherPort,
    OtherMethod,
    OtherPath,
    /// Servers disagree about this path, so only a rule for every path allows it.
    UnclearPath,
    /// The name leads to an address that is not public.
    Address(&'static str),
    /// The component itself says that it sends no such requests.
    NotNeeded,
}

/// A request that may not be sent: why, and what would allow it. Fit to show, and short.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    rule: String,
    allow: Option<Box<Grant>>,
}

impl Refusal {
    /// Which rule said no.
    pub(crate) fn rule(&self) -> &str {
        &self.rule
    }

    /// The line of Rust that would allow it, and that of a policy; none where nothing could.
    pub(crate) fn allow(&self) -> Option<(String, String)> {
        self.allow.as_deref().map(|grant| (grant.rust(), grant.toml()))
    }

    fn by_rules(target: &Target, nearest: Option<(&Rule, Fit)>) -> Refusal {
        let mut host = sanitise(&target.host.to_string(), SHOWN);
        if let Host::Ip(address) = target.host
            && let Some(class) = class(address)
        {
            host = format!("{host} ({class}{})", warning(class));
        }
        let path = sanitise(target.path(), SHOWN);
        let (method, port, scheme) = (&target.method, target.port, target.scheme.as_str());
        let (reason, rule) = match nearest {
            None => (Reason::NoRule, format!("no http origin is granted, and so none for {host}")),
            Some((rule, fit)) => {
                let origin = sanitise(&rule.origin, SHOWN);
                if !fit.host {
                    (Reason::NoRule, format!("no rule is for {host}; the nearest is for {origin}"))
                } else if !fit.scheme {
                    (Reason::OtherScheme, format!("the rule for {origin} does not allow {scheme}"))
                } else if !fit.port {
                    (Reason::OtherPort, format!("the rule for {origin} does not allow port {port}"))
                } else if !fit.method {
                    (Reason::OtherMethod, format!("the rule for {origin} does not allow {method}"))
                } else if target.unclear {
                    let why = "has `//`, `;` or escapes that servers read differently";
                    (Reason::UnclearPath, format!("the rule for {origin} is not for every path, and {path} {why}"))
                } else {
                    (Reason::OtherPath, format!("the rule for {origin} does not allow {method} {path}"))
                }
            }
        };
        Refusal { reason, rule, allow: Some(Box::new(Grant::of(target, None))) }
    }

    fn by_address(target: &Target, address: IpAddr, class: &'static str) -> Refusal {
        let host = sanitise(&target.host.to_string(), SHOWN);
        let rule = format!("{host} leads to {address}, which is not public ({class}{})", warning(class));
        Refusal { reason: Reason::Address(class), rule, allow: Some(Box::new(Grant::of(target, Some(address)))) }
    }
}

/// The narrowest grant that would allow a request. Whole and not cut, as its parts are bounded: 270 bytes of origin, 32
/// of method, 100 of path.
#[derive(Clone, Debug)]
struct Grant {
    origin: String,
    method: String,
    path: String,
    network: Option<IpNet>,
}

impl Grant {
    fn of(target: &Target, address: Option<IpAddr>) -> Grant {
        Grant {
            origin: format!("{}://{}", target.scheme.as_str(), target.authority),
            method: target.method.to_string(),
            path: pattern_for(target.path()),
            network: address.map(IpNet::from),
        }
    }

    fn rust(&self) -> String {
        let Grant { origin, method, path, network } = self;
        let entry = match method.as_str() {
            "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" => {
                format!("{}(\"{path}\")", method.to_ascii_lowercase())
            }
            _ => format!("method(\"{method}\", \"{path}\")"),
        };
        let network = network.map(|network| format!(".network(\"{network}\")")).unwrap_or_default();
        format!(".grant(Http::to(\"{origin}\").{entry}{network})")
    }

    /// Nothing here needs an escape: origins, methods and paths hold neither quotes nor backslashes.
    fn toml(&self) -> String {
        let Grant { origin, method, path, network } = self;
        let network = network.map(|network| format!(", network = [\"{network}\"]")).unwrap_or_default();
        format!("http = [{{ to = \"{origin}\", allow = [\"{method} {path}\"]{network} }}]")
    }
}

/// The narrowest pattern of at most 100 bytes that allows this path.
fn pattern_for(path: &str) -> String {
    const MAX: usize = 100;
    if is_unclear(path) {
        return "/*".to_owned();
    }
    let mut pattern = String::new();
    for segment in path.split('/').skip(1) {
        let segment = if segment.contains('*') { "*" } else { segment };
        if pattern.len() + 1 + segment.len() + "/*".len() > MAX {
            pattern.push_str("/*");
            break;
        }
        pattern.push('/');
        pattern.push_str(segment);
    }
    pattern
}

/// Whether every path that the other pattern matches is one that this one does.
fn pattern_covers(pattern: &str, other: &str) -> bool {
    let mut pattern = pattern.split('/').peekable();
    let mut other = other.split('/').peekable();
    loop {
        match (pattern.next(), other.next()) {
            (None, None) => return true,
            (Some("*"), Some(_)) if pattern.peek().is_none() => return true,
            // The other's last `*` stands for any number of segments, of which this one is only one.
            (Some("*"), Some("*")) if other.peek().is_none() => return false,
            (Some("*"), Some(segment)) if !segment.is_empty() => {}
            (Some(own), Some(segment)) if own != "*" && own == segment => {}
            _ => return false,
        }
    }
}

fn path_matches(pattern: &str, path: &str) -> bool {
    let mut pattern = pattern.split('/').peekable();
    let mut path = path.split('/');
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return true,
            (Some("*"), Some(_)) if pattern.peek().is_none() => return true,
            (Some("*"), Some(segment)) if !segment.is_empty() => {}
            (Some(own), Some(segment)) if own != "*" && own == segment => {}
            _ => return false,
        }
    }
}

/// Whether servers may read this path differently from us: by dropping parameters, merging slashes, or unescaping
/// before they route (once or twice).
fn is_unclear(path: &str) -> bool {
    if path.contains("//") || path.contains(';') {
        return true;
    }
    let mut bytes = path.bytes();
    let mut plain = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            plain.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        match (digit(), digit()) {
            (Some(high), Some(low)) => match high * 16 + low {
                b'/' | b'\\' | b'.' | b';' | b'%' | 0..0x20 | 0x7f => return true,
                byte => plain.push(byte),
            },
            _ => return true,
        }
    }
    // Overlong forms, such as %c0%ae for a dot, are not UTF-8.
    std::str::from_utf8(&plain).is_err()
}

fn is_unprintable(c: char) -> bool {
    c.is_control() || c.is_whitespace() || c == '\\'
}

fn is_forbidden(method: &Method) -> bool {
    let method = method.as_str();
    method.len() > MAX_METHOD || ["CONNECT", "TRACE", "TRACK", "*"].iter().any(|name| method.eq_ignore_ascii_case(name))
}

impl Scheme {
    fn parse(text: &str) -> Option<Scheme> {
        [Scheme::Http, Scheme::Https].into_iter().find(|scheme| text.eq_ignore_ascii_case(scheme.as_str()))
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

impl Host {
    /// None where the name could not be one in DNS. One final dot is dropped.
    fn of(url: &Url) -> Option<Host> {
        match url.host()? {
            url::Host::Ipv4(address) => Some(Host::Ip(address.into())),
            url::Host::Ipv6(address) => Some(Host::Ip(address.into())),
            url::Host::Domain(name) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                let label = |label: &str| {
                    (1..=63).contains(&label.len())
                        && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
                };
                (name.len() <= 253 && name.split('.').all(label)).then(|| Host::Name(name.to_owned()))
            }
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Ip(IpAddr::V4(address)) => write!(f, "{address}"),
            // Writes ::ffff:7f00:1 and not ::ffff:127.0.0.1, as `url` does.
            Host::Ip(IpAddr::V6(address)) => url::Host::<&str>::Ipv6(*address).fmt(f),
        }
    }
}

fn authority_of(host: &Host, scheme: Scheme, port: u16) -> String {
    match (scheme, port) {
        (Scheme::Http, 80) | (Scheme::Https, 443) => host.to_string(),
        _ => format!("{host}:{port}"),
    }
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// Whether a host in a rule is `normal` but for letter case and unicode in place of punycode.
fn same_host(text: &str, normal: &str) -> bool {
    let (mut own, mut others) = (text.split('.'), normal.split('.'));
    loop {
        match (own.next(), others.next()) {
            (None, None) => return true,
            (Some(own), Some(other)) if own.is_ascii() && own.eq_ignore_ascii_case(other) => {}
            (Some(own), Some(other)) if !own.is_ascii() && other.starts_with("xn--") => {
                let lower: String = own.chars().flat_map(char::to_lowercase).collect();
                if lower != url::quirks::domain_to_unicode(other) {
                    return false;
                }
            }
            _ => return false,
        }
    }
}

fn common_labels(one: &str, other: &str) -> usize {
    one.rsplit('.').zip(other.rsplit('.')).take_while(|(one, other)| one == other).count()
}

/// What to think of before granting such an address.
fn warning(class: &str) -> &'static str {
    if class.contains("metadata") { ", which hands out the machine's credentials" } else { "" }
}

/// What kind of address this is, if it is not public unicast.
fn class(address: IpAddr) -> Option<&'static str> {
    let special = SPECIAL.iter().find(|(network, _)| network.contains(&address));
    match (special, address) {
        (Some((_, class)), _) => Some(class),
        (None, IpAddr::V6(address)) if address.segments()[0] >> 13 != 1 => Some("reserved"),
        _ => None,
    }
}

/// The special-purpose registries of IANA, with addresses at which clouds tell secrets; the first match counts.
/// Blocks which are globally reachable inside wider ones are refused with them: nobody serves http there.
const SPECIAL: &[(IpNet, &str)] = &[
    (v4(169, 254, 169, 254, 32), "link-local, cloud metadata"),
    (v4(169, 254, 170, 2, 32), "link-local, cloud metadata"),
    (v4(100, 100, 100, 200, 32), "carrier-grade NAT, cloud metadata"),
    (v4(192, 0, 0, 192, 32), "protocol assignments, cloud metadata"),
    // Public by its number, yet it is the host agent of every machine in Azure.
    (v4(168, 63, 129, 16, 32), "cloud metadata"),
    (v4(0, 0, 0, 0, 8), "this network"),
    (v4(10, 0, 0, 0, 8), "private"),
    (v4(100, 64, 0, 0, 10), "carrier-grade NAT"),
    (v4(127, 0, 0, 0, 8), "loopback"),
    (v4(169, 254, 0, 0, 16), "link-local"),
    (v4(172, 16, 0, 0, 12), "private"),
    (v4(192, 0, 0, 0, 24), "protocol assignments"),
    (v4(192, 0, 2, 0, 24), "documentation"),
    (v4(192, 88, 99, 0, 24), "6to4"),
    (v4(192, 168, 0, 0, 16), "private"),
    (v4(198, 18, 0, 0, 15), "benchmarking"),
    (v4(198, 51, 100, 0, 24), "documentation"),
    (v4(203, 0, 113, 0, 24), "documentation"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(255, 255, 255, 255, 32), "broadcast"),
    (v4(240, 0, 0, 0, 4), "reserved"),
    (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32), "unique local, cloud metadata"),
    (v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128), "unique local, cloud metadata"),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 128), "this network"),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), "loopback"),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 96), "IPv4-compatible"),
    (v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96), "IPv4-mapped"),
    (v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96), "IPv4-translated"),
    (v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96), "NAT64"),
    (v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), "NAT64"),
    (v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), "discard"),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32), "Teredo"),
    (v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48), "benchmarking"),
    (v6([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28), "ORCHID"),
    (v6([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28), "ORCHID"),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), "protocol assignments"),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), "documentation"),
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), "6to4"),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), "documentation"),
    (v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16), "SRv6"),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), "unique local"),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "link-local"),
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), "site-local"),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "multicast"),
];

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), length)
}

const fn v6(groups: [u16; 8], length: u8) -> IpNet {
    let [a, b, c, d, e, f, g, h] = groups;
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)), length)
}

#[cfg(test)]
mod tests;
