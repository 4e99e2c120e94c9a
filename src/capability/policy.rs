//! Policies: grants as text, and what a component says that it needs. Pure.
//!
//! A [`Policy`] has the words of the grants in Rust. [`Needs`] come with a component, from whoever made it: they never give
//! anything, they take away what is granted and not needed.

use super::{Args, Clocks, Config, Dir, Env, Functions, Grant, Http, KeyValue, Kind, Log, Random};
use super::{Scratch, Secret, Secrets, Stdin};
use crate::error::{Error, ErrorKind, Result};
use crate::log::Level;
use crate::text::{nearest, quoted, sanitise};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Grants as text, in TOML, for [`FunctionBuilder::policy`](crate::FunctionBuilder::policy).
///
/// Every key is the word of a grant in Rust. Secrets are named, and are those of
/// [`HostBuilder::secret`](crate::HostBuilder::secret). A policy has the power of what it grants: read it from where you
/// would read code.
///
/// ```
/// let policy = isopod::Policy::from_toml(r#"
///     http = [
///         { to = "https://api.example.com", allow = ["GET /v1/*", "POST /v1/items"], bearer = "api-token" },
///         { to = "https://*.internal.example", network = ["10.0.0.0/8"], timeout_ms = 2000 },
///     ]
///     secrets = ["webhook-key"]
///     functions = ["resize", { name = "audit", tenant = "platform" }]
///     keyvalue = [{ bucket = "state", max_total_bytes = 1048576 }, { bucket = "settings", mode = "ro" }]
///     files = [{ host = "/srv/templates", guest = "/templates", mode = "ro" }]
///     scratch = { guest = "/tmp", max_bytes = 1048576 }
///     config = { greeting = "hello" }
///     env = { LANG = "C" }
///     clocks = "fine"
///     log = { level = "info", per_second = 100 }
/// "#)?;
/// # Ok::<(), isopod::Error>(())
/// ```
///
/// All keys: `http` (`to`, `allow`, `network`, `in_flight`, `request_bytes`, `response_bytes`, `timeout_ms`, `bearer`,
/// `basic`, `header`, `query`, `secret`), `secrets`, `reveal`, `functions` (names, or `name`, `tenant`, `serving`),
/// `keyvalue` (`bucket`, `prefix`, `mode`, `max_value_bytes`, `max_total_bytes`, `max_keys`), `files` (`host`, `guest`,
/// `mode`, `max_bytes`, `max_entries`), `scratch` (`guest`, `max_bytes`, `max_entries`), `config`, `config_from_host`,
/// `env`, `env_from_host`, `args`, `stdin`, `clocks` (`"fine"`, `{ coarse_ms = 5 }`, `{ simulated_unix_seconds = 0 }`),
/// `random` (`{ seed = 7 }`), `log` (`level`, `per_second`). A `mode` is `"ro"` or `"rw"`.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    grants: Vec<Grant>,
}

impl Policy {
    /// Reads a policy. What its grants say is checked when the function is loaded.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`] for text that is not TOML, and for a key that does not exist, with the nearest that does.
    pub fn from_toml(text: &str) -> Result<Policy> {
        let read: Text = read("policy", text)?;
        Ok(Policy { grants: read.grants()? })
    }

    pub(crate) fn into_grants(self) -> Vec<Grant> {
        self.grants
    }
}

/// What a component needs, in the words of whoever made it: in its custom section `isopod:policy`, or in a file beside it
/// for [`FunctionBuilder::needs`](crate::FunctionBuilder::needs).
///
/// Whatever is granted beyond it is not given, so that a component cannot be talked into what it was not made for; but
/// for arguments, stdin, seeded randomness, logs and clocks that tell less, which are no power. What it
/// needs and was not granted fails the load, as [`ErrorKind::UngrantedImport`], unless it is loaded with
/// [`deny_at_call`](crate::FunctionBuilder::deny_at_call).
///
/// ```
/// let needs = isopod::Needs::from_toml(r#"
///     http = [{ to = "https://api.example.com", allow = ["GET /v1/*"] }]
///     secrets = ["webhook-key"]
///     functions = ["resize"]
///     config = ["greeting"]
/// "#)?;
/// # Ok::<(), isopod::Error>(())
/// ```
///
/// All keys: `http` (`to`, `allow`), `secrets`, `reveal`, `functions` (names), `keyvalue` (`bucket`, `mode`), `files`
/// (`guest`, `mode`), `scratch` (the guest's path), `config`, `env`, `clocks` (`"fine"`). A `mode` is `"ro"` or `"rw"`; one
/// that is not said is `"rw"`, and `"ro"` takes writing away.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    pub(super) http: Vec<Http>,
    secrets: Vec<String>,
    reveal: Vec<String>,
    functions: Vec<String>,
    config: Vec<String>,
    env: Vec<String>,
    keyvalue: Vec<(String, Mode)>,
    files: Vec<(String, Mode)>,
    scratch: Option<String>,
    fine_clocks: bool,
}

/// The custom section of a component that holds its needs.
pub(crate) const SECTION: &str = "isopod:policy";
/// Bytes of a component's needs.
const MAX_NEEDS: usize = 64 * 1024;

impl Needs {
    /// Reads what a component needs.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`] for text that is not TOML, of more than 64 KiB, or with a key that does not exist, with the
    /// nearest that does.
    pub fn from_toml(text: &str) -> Result<Needs> {
        if text.len() > MAX_NEEDS {
            let text = format!("the needs have {} bytes, more than {MAX_NEEDS}", text.len());
            return Err(Error::new(ErrorKind::Misuse, text));
        }
        let read: NeedsText = read("needs", text)?;
        Ok(Needs {
            http: read.http.into_iter().map(NeededOrigin::need).collect::<Result<_>>()?,
            secrets: read.secrets,
            reveal: read.reveal,
            functions: read.functions,
            config: read.config,
            env: read.env,
            keyvalue: read.keyvalue.into_iter().map(|need| (need.bucket, need.mode.unwrap_or(Mode::Rw))).collect(),
            files: read.files.into_iter().map(|need| (need.guest, need.mode.unwrap_or(Mode::Rw))).collect(),
            scratch: read.scratch,
            fine_clocks: read.clocks == Some(Fine::Fine),
        })
    }

    /// What of the grants is needed, what is not, and what is needed and not granted. Requests by http are narrowed one by
    /// one, when they are sent.
    pub(super) fn narrow(&self, grants: Vec<Kind>) -> Result<Narrowed> {
        let mut missing = Vec::new();
        let named = |names: &[String], name: &str| names.iter().any(|known| known == name);
        let revealed = |name: &str| {
            grants.iter().any(|kind| matches!(kind, Kind::Secrets(s) if s.reveal && s.secret.name() == name))
        };
        let mut lacking = |names: &[String], is: &dyn Fn(&Kind, &str) -> bool, what: &str, rust: &str, toml: &str| {
            for name in names.iter().filter(|name| !grants.iter().any(|kind| is(kind, name))) {
                let (name, put) = (sanitise(name, 64), |line: &str, name: &str| line.replace('$', &quoted(name)));
                missing.push(Missing {
                    what: format!("{what} \"{name}\""),
                    rust: put(rust, &name),
                    toml: put(toml, &name),
                });
            }
        };
        lacking(
            &self.env,
            &|kind, name| matches!(kind, Kind::Env(env) if env.name() == name),
            "env",
            "`.grant(Env::var($, \"..\"))`",
            "env = { $ = \"..\" }",
        );
        lacking(
            &self.config,
            &|kind, name| matches!(kind, Kind::Config(config) if config.key == name),
            "config",
            "`.grant(Config::var($, \"..\"))`",
            "config = { $ = \"..\" }",
        );
        lacking(
            &self.functions,
            &|kind, name| matches!(kind, Kind::Functions(functions) if &*functions.name == name),
            "function",
            "`.grant(Functions::named($))`",
            "functions = [$]",
        );
        lacking(
            &self.secrets,
            &|kind, name| match kind {
                Kind::Secrets(secrets) => secrets.secret.name() == name,
                Kind::Http(http) => http.lets_put(name),
                _ => false,
            },
            "secret",
            "`.grant(Secrets::of(Secret::of_host($)))`",
            "secrets = [$]",
        );
        lacking(
            &self.reveal,
            &|_, name| revealed(name),
            "secret to read",
            "`.grant(Secrets::of(Secret::of_host($)).reveal())`",
            "reveal = [$]",
        );
        for (name, mode) in &self.keyvalue {
            let enough = |bucket: &KeyValue| bucket.name() == name && (*mode == Mode::Ro || bucket.writes());
            if !grants.iter().any(|kind| matches!(kind, Kind::KeyValue(bucket) if enough(bucket))) {
                let name = quoted(&sanitise(name, 64));
                let (only, mode) = if *mode == Mode::Ro { (".read_only()", "ro") } else { ("", "rw") };
                missing.push(Missing {
                    what: format!("keyvalue {name}"),
                    rust: format!("`.grant(KeyValue::bucket({name}){only})`"),
                    toml: format!("keyvalue = [{{ bucket = {name}, mode = \"{mode}\" }}]"),
                });
            }
        }
        for (guest, mode) in &self.files {
            let enough = |dir: &Dir| dir.guest() == guest && (*mode == Mode::Ro || dir.writes());
            if !grants.iter().any(|kind| matches!(kind, Kind::Dir(dir) if enough(dir))) {
                let guest = quoted(&sanitise(guest, 64));
                let (how, mode) = if *mode == Mode::Ro { ("read_only", "ro") } else { ("read_write", "rw") };
                missing.push(Missing {
                    what: format!("files {guest}"),
                    rust: format!("`.grant(Dir::{how}(\"..\", {guest}))`"),
                    toml: format!("files = [{{ host = \"..\", guest = {guest}, mode = \"{mode}\" }}]"),
                });
            }
        }
        if let Some(guest) = &self.scratch
            && !grants.iter().any(|kind| matches!(kind, Kind::Scratch(scratch) if scratch.guest() == guest))
        {
            let guest = quoted(&sanitise(guest, 64));
            missing.push(Missing {
                what: format!("scratch {guest}"),
                rust: format!("`.grant(Scratch::at({guest}))`"),
                toml: format!("scratch = {{ guest = {guest} }}"),
            });
        }
        if self.fine_clocks
            && !grants.iter().any(|kind| matches!(kind, Kind::Clocks(clocks) if clocks.is_finer_than_default()))
        {
            missing.push(Missing {
                what: "clocks \"fine\"".to_owned(),
                rust: "`.grant(Clocks::fine())`".to_owned(),
                toml: "clocks = \"fine\"".to_owned(),
            });
        }
        let origins: Vec<&Http> =
            grants.iter().filter_map(|kind| if let Kind::Http(http) = kind { Some(http) } else { None }).collect();
        for need in &self.http {
            if !need.is_covered_by(&origins)? {
                missing.push(need.missing());
            }
        }
        let needed = |kind: &mut Kind| match kind {
            Kind::Env(env) => named(&self.env, env.name()),
            Kind::Config(config) => named(&self.config, &config.key),
            Kind::Functions(functions) => named(&self.functions, &functions.name),
            Kind::Secrets(secrets) => {
                let name = secrets.secret.name();
                let reveal = named(&self.reveal, name);
                let keep = reveal || named(&self.secrets, name);
                secrets.reveal &= reveal;
                keep
            }
            Kind::Clocks(clocks) => self.fine_clocks || !clocks.is_finer_than_default(),
            Kind::Http(http) => {
                http.keep_placeholders(|name| named(&self.secrets, name));
                true
            }
            Kind::Args(_) | Kind::Stdin(_) | Kind::Random(_) | Kind::Log(_) => true,
            Kind::KeyValue(bucket) => match self.keyvalue.iter().find(|(name, _)| name == bucket.name()) {
                Some((_, Mode::Ro)) => {
                    bucket.keep_reading();
                    true
                }
                need => need.is_some(),
            },
            Kind::Dir(dir) => match self.files.iter().find(|(guest, _)| guest == dir.guest()) {
                Some((_, Mode::Ro)) => {
                    dir.keep_reading();
                    true
                }
                need => need.is_some(),
            },
            Kind::Scratch(scratch) => self.scratch.as_deref() == Some(scratch.guest()),
        };
        let mut grants = grants;
        let dropped = grants.extract_if(.., |kind| !needed(kind)).collect();
        Ok(Narrowed { kept: grants, dropped, missing })
    }
}

/// What became of the grants.
pub(super) struct Narrowed {
    pub kept: Vec<Kind>,
    pub dropped: Vec<Kind>,
    pub missing: Vec<Missing>,
}

/// Something that a component needs and was not granted: what it is, and how to grant it in Rust and in a policy.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Missing {
    pub what: String,
    pub rust: String,
    pub toml: String,
}

/// Reads TOML, and says in one line what is wrong with it.
fn read<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> Result<T> {
    toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        let message = e.message();
        // serde's words: unknown field `x`, expected one of `a`, `b`.
        let mut names = message.split('`').skip(1).step_by(2);
        let hint = match message.starts_with("unknown field") || message.starts_with("unknown variant") {
            true => names.next().and_then(|wrong| nearest(wrong, names)),
            false => None,
        };
        let hint = hint.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        // A line that is put below a table is a key of that table.
        let place = match message.starts_with("unknown field")
            && message.contains("expected one of `to`")
            && text.contains("[[")
        {
            true => "; a key of the whole policy stands above the first `[[..]]`",
            false => "",
        };
        Error::new(ErrorKind::Misuse, format!("the {what} cannot be read at line {line}: {message}{hint}{place}"))
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    #[serde(default)]
    http: Vec<Origin>,
    #[serde(default)]
    secrets: Vec<String>,
    #[serde(default)]
    reveal: Vec<String>,
    #[serde(default)]
    functions: Vec<Callee>,
    #[serde(default)]
    config: BTreeMap<String, String>,
    #[serde(default)]
    config_from_host: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    env_from_host: Vec<String>,
    #[serde(default)]
    keyvalue: Vec<Bucket>,
    #[serde(default)]
    files: Vec<Files>,
    scratch: Option<Room>,
    args: Option<Vec<String>>,
    stdin: Option<String>,
    clocks: Option<Time>,
    random: Option<Seeded>,
    log: Option<Logged>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Origin {
    to: String,
    allow: Option<Vec<String>>,
    #[serde(default)]
    network: Vec<String>,
    in_flight: Option<u32>,
    request_bytes: Option<u64>,
    response_bytes: Option<u64>,
    timeout_ms: Option<u64>,
    bearer: Option<String>,
    basic: Option<Basic>,
    #[serde(default)]
    header: BTreeMap<String, String>,
    #[serde(default)]
    query: BTreeMap<String, String>,
    #[serde(default)]
    secret: Names,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Basic {
    user: String,
    secret: String,
}

/// One name, or several.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a name, or a list of names")]
enum Names {
    One(String),
    Many(Vec<String>),
}

impl Default for Names {
    fn default() -> Names {
        Names::Many(Vec::new())
    }
}

#[derive(Deserialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "the name of a function, or a table with `name`, `tenant` and `serving`"
)]
enum Callee {
    Name(String),
    Table { name: String, tenant: Option<String>, serving: Option<String> },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bucket {
    bucket: String,
    prefix: Option<String>,
    mode: Option<Mode>,
    max_value_bytes: Option<u64>,
    max_total_bytes: Option<u64>,
    max_keys: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Files {
    host: PathBuf,
    guest: String,
    mode: Mode,
    max_bytes: Option<u64>,
    max_entries: Option<u64>,
}

/// Read only, or read and write.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Ro,
    Rw,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Room {
    guest: String,
    max_bytes: Option<u64>,
    max_entries: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Time {
    Fine,
    CoarseMs(u64),
    SimulatedUnixSeconds(u64),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Seeded {
    seed: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Logged {
    #[serde(default = "lowest")]
    level: Level,
    per_second: Option<u32>,
}

fn lowest() -> Level {
    Level::Trace
}

impl Text {
    fn grants(self) -> Result<Vec<Grant>> {
        let mut grants: Vec<Grant> =
            self.http.into_iter().map(|origin| origin.grant().map(Grant::from)).collect::<Result<_>>()?;
        let secret = |name: String| Secrets::of(Secret::of_host(name));
        grants.extend(self.secrets.into_iter().map(|name| secret(name).into()));
        grants.extend(self.reveal.into_iter().map(|name| secret(name).reveal().into()));
        grants.extend(self.functions.into_iter().map(|callee| match callee {
            Callee::Name(name) => Functions::named(name).into(),
            Callee::Table { name, tenant, serving } => {
                let grant = tenant.into_iter().fold(Functions::named(name), Functions::for_tenant);
                serving.into_iter().fold(grant, Functions::serving).into()
            }
        }));
        grants.extend(self.config.into_iter().map(|(key, value)| Config::var(key, value).into()));
        grants.extend(self.config_from_host.into_iter().map(|key| Config::from_host(key).into()));
        grants.extend(self.env.into_iter().map(|(name, value)| Env::var(name, value).into()));
        grants.extend(self.env_from_host.into_iter().map(|name| Env::from_host(name).into()));
        grants.extend(self.keyvalue.into_iter().map(|bucket| bucket.grant().into()));
        grants.extend(self.files.into_iter().map(|files| files.grant().into()));
        grants.extend(self.scratch.map(|room| {
            let grant = room.max_bytes.into_iter().fold(Scratch::at(room.guest), Scratch::max_bytes);
            room.max_entries.into_iter().fold(grant, Scratch::max_entries).into()
        }));
        grants.extend(self.args.map(|args| Args::new(args).into()));
        grants.extend(self.stdin.map(|text| Stdin::bytes(text).into()));
        let clocks = self.clocks.map(|time| {
            Ok(Grant::from(match time {
                Time::Fine => Clocks::fine(),
                Time::CoarseMs(step) => Clocks::coarse(Duration::from_millis(step)),
                Time::SimulatedUnixSeconds(seconds) => {
                    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
                    Clocks::simulated(time.ok_or_else(|| {
                        Error::new(ErrorKind::Misuse, format!("no clock can begin at {seconds} seconds after 1970"))
                    })?)
                }
            }))
        });
        grants.extend(clocks.transpose()?);
        grants.extend(self.random.map(|random| Random::seeded(random.seed).into()));
        grants.extend(self.log.map(|log| {
            let grant = Log::level(log.level);
            Grant::from(match log.per_second {
                Some(records) => grant.per_second(records),
                None => grant,
            })
        }));
        Ok(grants)
    }
}

impl Bucket {
    fn grant(self) -> KeyValue {
        let mut grant = KeyValue::bucket(self.bucket);
        if self.mode == Some(Mode::Ro) {
            grant = grant.read_only();
        }
        grant = self.prefix.into_iter().fold(grant, KeyValue::prefix);
        grant = self.max_value_bytes.into_iter().fold(grant, KeyValue::max_value_bytes);
        grant = self.max_total_bytes.into_iter().fold(grant, KeyValue::max_total_bytes);
        self.max_keys.into_iter().fold(grant, KeyValue::max_keys)
    }
}

impl Files {
    fn grant(self) -> Dir {
        let grant = match self.mode {
            Mode::Ro => Dir::read_only(self.host, self.guest),
            Mode::Rw => Dir::read_write(self.host, self.guest),
        };
        let grant = self.max_bytes.into_iter().fold(grant, Dir::max_bytes);
        self.max_entries.into_iter().fold(grant, Dir::max_entries)
    }
}

impl Origin {
    fn grant(self) -> Result<Http> {
        let mut http = allow(Http::to(self.to), self.allow)?;
        let secret = |name: String| Secret::of_host(Arc::from(name));
        http = self.network.into_iter().fold(http, Http::network);
        http = self.in_flight.into_iter().fold(http, Http::in_flight);
        http = self.request_bytes.into_iter().fold(http, Http::request_bytes);
        http = self.response_bytes.into_iter().fold(http, Http::response_bytes);
        http = self.timeout_ms.into_iter().map(Duration::from_millis).fold(http, Http::timeout);
        http = self.bearer.into_iter().map(secret).fold(http, Http::bearer);
        http = self.basic.into_iter().fold(http, |http, basic| http.basic(basic.user, secret(basic.secret)));
        http = self.header.into_iter().fold(http, |http, (name, value)| http.header(name, secret(value)));
        http = self.query.into_iter().fold(http, |http, (name, value)| http.query(name, secret(value)));
        let names = match self.secret {
            Names::One(name) => vec![name],
            Names::Many(names) => names,
        };
        Ok(names.into_iter().map(secret).fold(http, Http::secret))
    }
}

/// Entries such as `GET /v1/*`, with `*` for every method. An empty list allows nothing, and is an error.
fn allow(http: Http, entries: Option<Vec<String>>) -> Result<Http> {
    let Some(entries) = entries else { return Ok(http) };
    let misuse = |why: String| Err(Error::new(ErrorKind::Misuse, why));
    if entries.is_empty() {
        return misuse(format!("`allow = []` for {} allows nothing; leave the whole entry out", http.shown()));
    }
    let mut http = http;
    for entry in entries {
        match entry.split_once(' ') {
            Some(("*", path)) => http = http.any(path),
            Some((method, path)) => http = http.method(method, path),
            None => {
                let entry = sanitise(&entry, 80);
                return misuse(format!("\"{entry}\" is not a method and a path, such as \"GET /v1/*\""));
            }
        }
    }
    Ok(http)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NeedsText {
    #[serde(default)]
    http: Vec<NeededOrigin>,
    #[serde(default)]
    secrets: Vec<String>,
    #[serde(default)]
    reveal: Vec<String>,
    #[serde(default)]
    functions: Vec<String>,
    #[serde(default)]
    config: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    keyvalue: Vec<NeededBucket>,
    #[serde(default)]
    files: Vec<NeededFiles>,
    scratch: Option<String>,
    clocks: Option<Fine>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NeededBucket {
    bucket: String,
    mode: Option<Mode>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NeededFiles {
    guest: String,
    mode: Option<Mode>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NeededOrigin {
    to: String,
    allow: Option<Vec<String>>,
}

impl NeededOrigin {
    fn need(self) -> Result<Http> {
        allow(Http::to(self.to), self.allow)
    }
}

#[derive(Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Fine {
    Fine,
}

#[cfg(test)]
mod tests;
