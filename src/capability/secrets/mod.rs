//! Secrets: values that a guest can use and not read.
//!
//! A [`Secret`] says where the value comes from, and is asked each time it is needed: a new value is used from then on. The
//! value goes into requests in `http/send.rs`, where [`scrub`] takes it out of the answers. `isopod:secrets` gives the
//! guest a handle for those that were granted to it by name.
//!
//! A value is in memory that is wiped when it is dropped. Copies on their way through TLS and the operating system are not.

pub(super) mod scrub;

use super::{Reach, View, Whole};
use crate::bindings::capabilities::SecretHandle;
use crate::bindings::capabilities::isopod::secrets::secrets as wit;
use crate::denial::Denial;
use crate::error::{Error, ErrorKind, Result};
use crate::future::BoxFuture;
use crate::text::{nearest, quoted, sanitise};
use parking_lot::Mutex;
use scrub::Scrubber;
use std::collections::{HashMap, VecDeque};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq;
use tokio::sync::watch;
use wasmtime::component::{Linker, Resource};
use zeroize::Zeroizing;

/// A value that guests may use and not read: its name, and where the value comes from.
///
/// The name is for people and policies. The value is asked for when it is needed, at most once a second for each function
/// and tenant, so that a new one needs no reload.
/// It has at least 8 bytes, as a shorter one could not be told from other text in an answer, and at most 8 KiB. One that is
/// the same for all tenants is read when the function is loaded too, which fails as [`ErrorKind::Misuse`] where it cannot
/// be had, or is too short or too long.
///
/// There is no `Debug` and no `Serialize`, and no way to ask for the value.
///
/// ```
/// use isopod::{Http, Secret, SecretValue};
///
/// let token = Secret::env("API_TOKEN");
/// let vault = Secret::from_source("api-token", async |tenant| Ok(SecretValue::from(format!("the token of {tenant:?}"))));
/// let api = Http::to("https://api.example.com").get("/v1/*").bearer(token);
/// ```
#[derive(Clone)]
pub struct Secret {
    name: Arc<str>,
    source: Source,
}

#[derive(Clone)]
enum Source {
    Own(Arc<dyn SecretSource>),
    /// The one that the host has under that name.
    Host(Arc<str>),
}

/// Where a secret's value comes from: a vault, say. Any `Fn(Option<Arc<str>>) -> Future` is one, which is told the tenant.
pub trait SecretSource: Send + Sync + 'static {
    /// The value as it is now for that tenant, or for a call without one. It is waited for as part of a call, until the
    /// call's deadline, and for 30 s at most. An error is told to the guest as `unavailable`, or as `configuration-error` of
    /// the request, and as a `tracing` event to the host.
    fn read(&self, tenant: Option<Arc<str>>) -> BoxFuture<'_, io::Result<SecretValue>>;

    /// Whether tenants have values of their own. If so, which is what this says, each tenant's is asked for by its calls,
    /// and none when the function is loaded.
    fn is_by_tenant(&self) -> bool {
        true
    }
}

impl<F, Fut> SecretSource for F
where
    F: Fn(Option<Arc<str>>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = io::Result<SecretValue>> + Send + 'static,
{
    fn read(&self, tenant: Option<Arc<str>>) -> BoxFuture<'_, io::Result<SecretValue>> {
        Box::pin(self(tenant))
    }
}

/// The value of a secret. Wiped when it is dropped.
#[derive(Clone)]
pub struct SecretValue(Zeroizing<Vec<u8>>);

impl From<Vec<u8>> for SecretValue {
    fn from(value: Vec<u8>) -> SecretValue {
        SecretValue(Zeroizing::new(value))
    }
}

impl From<String> for SecretValue {
    fn from(value: String) -> SecretValue {
        value.into_bytes().into()
    }
}

impl SecretValue {
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// Bytes of a secret.
const LENGTH: std::ops::RangeInclusive<usize> = 8..=8 * 1024;

impl Secret {
    /// The environment variable `name` of the host's process.
    pub fn env(name: impl Into<Arc<str>>) -> Secret {
        let name = name.into();
        Secret::new(Arc::clone(&name), Variable(name))
    }

    /// What that file holds, without the line break at its end. Its name is the file's, without the folder; see
    /// [`named`](Secret::named).
    pub fn file(path: impl Into<PathBuf>) -> Secret {
        let path = path.into();
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().as_ref().into();
        Secret::new(name, File(path))
    }

    /// That value, for ever.
    pub fn value(name: impl Into<Arc<str>>, value: impl Into<SecretValue>) -> Secret {
        Secret::new(name.into(), Fixed(value.into()))
    }

    /// What `source` gives, which may be another value for each tenant.
    pub fn from_source(name: impl Into<Arc<str>>, source: impl SecretSource) -> Secret {
        Secret::new(name.into(), source)
    }

    /// The secret that the host has under that name; see [`HostBuilder::secret`](crate::HostBuilder::secret). Loading fails
    /// as [`ErrorKind::Misuse`] where it has none.
    pub fn of_host(name: impl Into<Arc<str>>) -> Secret {
        let name = name.into();
        Secret { source: Source::Host(Arc::clone(&name)), name }
    }

    /// The same secret under another name.
    pub fn named(self, name: impl Into<Arc<str>>) -> Secret {
        Secret { name: name.into(), ..self }
    }

    /// What guests and policies call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn new(name: Arc<str>, source: impl SecretSource) -> Secret {
        Secret { name, source: Source::Own(Arc::new(source)) }
    }

    /// Where its value comes from, in the end: for one of the host's, from there.
    fn resolve(&self, hosts: &[Secret]) -> Result<Arc<dyn SecretSource>> {
        let mut source = &self.source;
        // One that the host has may itself be of the host, and so on, but not for ever.
        for _ in 0..=hosts.len() {
            let name = match source {
                Source::Own(source) => return Ok(Arc::clone(source)),
                Source::Host(name) => name,
            };
            let Some(known) = hosts.iter().find(|known| known.name == *name) else { break };
            source = &known.source;
        }
        let names: Vec<&str> = hosts.iter().map(Secret::name).collect();
        let known = match names.is_empty() {
            true => "it has none".to_owned(),
            false => format!("it has {}", names.join(", ")),
        };
        let name = sanitise(&self.name, 64);
        let text = format!("the host has no secret named \"{name}\", {known}; give it one by `HostBuilder::secret`");
        Err(Error::new(ErrorKind::Misuse, text))
    }
}

/// Asks a source, and checks what it says.
async fn fetch(source: &dyn SecretSource, tenant: Tenant) -> Answer {
    let value = source.read(tenant).await.map_err(|e| e.to_string())?;
    match value.0.len() {
        length if LENGTH.contains(&length) => Ok(value),
        length => Err(format!(
            "it has {length} bytes, and a secret has {} to {}, so that it can be told from other text",
            LENGTH.start(),
            LENGTH.end()
        )),
    }
}

struct Variable(Arc<str>);

impl SecretSource for Variable {
    fn is_by_tenant(&self) -> bool {
        false
    }

    fn read(&self, _: Option<Arc<str>>) -> BoxFuture<'_, io::Result<SecretValue>> {
        // `std::env::var` puts a value that is not UTF-8 into its error.
        let value = std::env::var_os(&*self.0).map(|value| value.into_encoded_bytes().into());
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("the variable {} is not set", self.0));
        Box::pin(std::future::ready(value.ok_or_else(missing)))
    }
}

struct File(PathBuf);

impl SecretSource for File {
    fn is_by_tenant(&self) -> bool {
        false
    }

    fn read(&self, _: Option<Arc<str>>) -> BoxFuture<'_, io::Result<SecretValue>> {
        let path = self.0.clone();
        Box::pin(async move {
            let read = move || {
                let mut value = Zeroizing::new(Vec::with_capacity(LENGTH.end() + 3));
                // One byte beyond a line break is enough to see that it is too long.
                std::fs::File::open(path)?.take(*LENGTH.end() as u64 + 3).read_to_end(&mut value)?;
                let line = value.strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r").unwrap_or(line));
                let end = line.unwrap_or(&value).len();
                value.truncate(end);
                Ok(SecretValue(value))
            };
            tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
        })
    }
}

struct Fixed(SecretValue);

impl SecretSource for Fixed {
    fn is_by_tenant(&self) -> bool {
        false
    }

    fn read(&self, _: Option<Arc<str>>) -> BoxFuture<'_, io::Result<SecretValue>> {
        Box::pin(std::future::ready(Ok(self.0.clone())))
    }
}

/// Permission to use one secret by `isopod:secrets`: to compare it with another value, and to read it if that is granted
/// too.
///
/// To let a guest put it into requests, see [`Http::secret`](crate::Http::secret).
///
/// ```
/// use isopod::{Secret, Secrets};
///
/// let compare = Secrets::of(Secret::env("WEBHOOK_KEY"));
/// let read = Secrets::of(Secret::file("/run/secrets/licence")).reveal();
/// ```
#[derive(Clone)]
pub struct Secrets {
    pub(super) secret: Secret,
    pub(super) reveal: bool,
}

impl Secrets {
    /// A handle for that secret.
    pub fn of(secret: Secret) -> Secrets {
        Secrets { secret, reveal: false }
    }

    /// Lets the guest read the value. From then on it is the guest's, and can be in anything that the guest says.
    pub fn reveal(mut self) -> Secrets {
        self.reveal = true;
        self
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").field("of", &self.secret.name).field("reveal", &self.reveal).finish()
    }
}

type Tenant = Option<Arc<str>>;
type Answer = Result<SecretValue, String>;

/// All secrets of one function.
#[derive(Default)]
pub(crate) struct Keyring {
    entries: Vec<Entry>,
    /// What sources said last, or will say. They are asked on tasks of their own, which whoever wants to know waits for.
    asked: Mutex<HashMap<(usize, Owner), Asked>>,
    seen: Arc<Mutex<Seen>>,
}

struct Entry {
    name: Arc<str>,
    source: Arc<dyn SecretSource>,
    uses: Uses,
}

/// Whose a value is.
#[derive(Clone, Eq, Hash, PartialEq)]
enum Owner {
    Everybody,
    Tenant(Tenant),
}

struct Asked {
    at: Instant,
    answer: watch::Receiver<Option<Answer>>,
}

/// Tenants whose values are remembered, of each secret. Others' are asked for again.
const MAX_TENANTS: usize = 1_024;

/// What a guest may do with a secret by its name.
#[derive(Clone, Copy, Default)]
pub(super) struct Uses {
    /// Have a placeholder of it.
    pub place: bool,
    pub compare: bool,
    pub reveal: bool,
}

impl Entry {
    fn owner(&self, tenant: Option<&Arc<str>>) -> Owner {
        if self.source.is_by_tenant() { Owner::Tenant(tenant.cloned()) } else { Owner::Everybody }
    }
}

impl Asked {
    /// Whether its answer counts: one that is not a second old, or is still to come.
    fn is_fresh(&self) -> bool {
        let awaited = self.answer.borrow().is_none() && self.answer.has_changed().is_ok();
        let patience = if awaited { PATIENCE } else { FRESH };
        self.at.elapsed() < patience
    }
}

impl Uses {
    fn any(self) -> bool {
        self.place || self.compare || self.reveal
    }
}

/// Values that were had, of all calls: what no answer may show, though it be of a secret that was sent earlier.
#[derive(Default)]
struct Seen {
    /// The newest first.
    values: HashMap<(usize, Owner), VecDeque<SecretValue>>,
    /// One for each tenant: of its values, and of everybody's.
    scrubbers: HashMap<Tenant, Arc<Scrubber>>,
}

/// Values of one secret that are remembered, so that an older one that is still in use somewhere is not shown.
const MAX_SEEN: usize = 8;
/// How long an answer of a source counts, so that a guest in a loop does not reach it.
const FRESH: Duration = Duration::from_secs(1);
/// How long a source may take, and all of a function's while it is loaded.
const PATIENCE: Duration = Duration::from_secs(30);

impl Keyring {
    /// Takes a secret in, once; its index.
    pub(super) fn add(&mut self, secret: &Secret, hosts: &[Secret], uses: Uses) -> Result<usize> {
        let source = secret.resolve(hosts)?;
        let same = |entry: &Entry| Arc::ptr_eq(&entry.source, &source) && entry.name == secret.name;
        if let Some(index) = self.entries.iter().position(same) {
            let known = &mut self.entries[index].uses;
            *known = Uses {
                place: known.place || uses.place,
                compare: known.compare || uses.compare,
                reveal: known.reveal || uses.reveal,
            };
            return Ok(index);
        }
        if uses.any() && self.entries.iter().any(|entry| entry.uses.any() && entry.name == secret.name) {
            let name = sanitise(&secret.name, 64);
            let text = format!("two secrets are named \"{name}\"; rename one by `Secret::named`");
            return Err(Error::new(ErrorKind::Misuse, text));
        }
        self.entries.push(Entry { name: Arc::clone(&secret.name), source, uses });
        Ok(self.entries.len() - 1)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Reads each secret that is the same for all tenants, so that one that cannot be had is found while the function is
    /// loaded. Blocks.
    pub(super) fn check(&self) -> Result<()> {
        // A function is loaded on a thread of the runtime's where blocking is allowed.
        let runtime = tokio::runtime::Handle::try_current().map_err(|e| {
            Error::new(ErrorKind::Internal, "secrets were read outside of a runtime; please report this")
                .because([e.to_string()])
        })?;
        let until = tokio::time::Instant::now() + PATIENCE;
        let common = self.entries.iter().enumerate().filter(|(_, entry)| !entry.source.is_by_tenant());
        common.map(|(index, _)| index).try_for_each(|index| {
            let read = runtime.block_on(async { tokio::time::timeout_at(until, self.read(index, None)).await });
            let read = read.unwrap_or_else(|_| Err(format!("it took over {PATIENCE:?}")));
            read.map(drop).map_err(|why| {
                let name = sanitise(self.name(index), 64);
                Error::new(ErrorKind::Misuse, format!("the secret \"{name}\" cannot be had: {why}"))
            })
        })
    }

    /// The value as it is now, or was a second ago. Why it cannot be had is told to `tracing`, once for each time that the
    /// source is asked.
    pub(super) async fn read(&self, index: usize, tenant: Option<&Arc<str>>) -> Answer {
        let mut answer = {
            let entry = self.entries.get(index).ok_or("there is no such secret")?;
            let owner = entry.owner(tenant);
            let mut asked = self.asked.lock();
            if asked.len() >= MAX_TENANTS * self.entries.len() {
                asked.retain(|_, asked| asked.is_fresh());
                let oldest = asked.iter().min_by_key(|(_, asked)| asked.at).map(|(key, _)| key.clone());
                if let Some(oldest) = oldest.filter(|_| asked.len() >= MAX_TENANTS * self.entries.len()) {
                    asked.remove(&oldest);
                }
            }
            match asked.get(&(index, owner.clone())).filter(|asked| asked.is_fresh()) {
                Some(known) => known.answer.clone(),
                None => {
                    let new = self.ask(index, entry, owner.clone());
                    let answer = new.answer.clone();
                    asked.insert((index, owner), new);
                    answer
                }
            }
        };
        let answer = answer.wait_for(Option::is_some).await.map(|answer| answer.clone());
        answer.ok().flatten().unwrap_or_else(|| Err("its source panicked".to_owned()))
    }

    fn ask(&self, index: usize, entry: &Entry, owner: Owner) -> Asked {
        let (sender, answer) = watch::channel(None);
        let (name, source, seen) = (Arc::clone(&entry.name), Arc::clone(&entry.source), Arc::clone(&self.seen));
        tokio::spawn(async move {
            let tenant = match &owner {
                Owner::Everybody => None,
                Owner::Tenant(tenant) => tenant.clone(),
            };
            let answer = tokio::time::timeout(PATIENCE, fetch(&*source, tenant)).await;
            let answer = answer.unwrap_or_else(|_| Err(format!("its source took over {PATIENCE:?}")));
            match &answer {
                Ok(value) => seen.lock().note(index, owner, value),
                Err(why) => tracing::error!(secret = &*name, why, "a secret cannot be had"),
            }
            sender.send_replace(Some(answer));
        });
        Asked { at: Instant::now(), answer }
    }

    pub(super) fn name(&self, index: usize) -> &str {
        self.entries.get(index).map_or("", |entry| &entry.name)
    }

    /// Takes every value that was had for the tenant out of what comes from outside; `sent` too, whatever was forgotten
    /// meanwhile.
    pub(super) fn scrubber(&self, tenant: Option<&Arc<str>>, sent: &[(usize, SecretValue)]) -> Arc<Scrubber> {
        let mut seen = self.seen.lock();
        for (index, value) in sent {
            if let Some(entry) = self.entries.get(*index) {
                seen.note(*index, entry.owner(tenant), value);
            }
        }
        seen.scrubber(tenant)
    }

    /// Whether a guest may have a handle of one of them.
    pub(super) fn has_named(&self) -> bool {
        self.entries.iter().any(|entry| entry.uses.any())
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter(|entry| entry.uses.any()).map(|entry| &*entry.name)
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.entries.iter().position(|entry| entry.uses.any() && &*entry.name == name)
    }

    fn uses(&self, index: usize) -> Uses {
        self.entries.get(index).map(|entry| entry.uses).unwrap_or_default()
    }
}

impl Seen {
    fn note(&mut self, index: usize, owner: Owner, value: &SecretValue) {
        if self.values.len() >= 2 * MAX_TENANTS {
            // What is on its way is noted again when its answer comes; see `scrubber`.
            self.values.retain(|(_, owner), _| *owner == Owner::Everybody);
            self.scrubbers.clear();
        }
        let known = self.values.entry((index, owner.clone())).or_default();
        if let Some(at) = known.iter().position(|known| known.0 == value.0) {
            known.swap(0, at);
            return;
        }
        known.truncate(MAX_SEEN - 1);
        known.push_front(value.clone());
        match owner {
            Owner::Everybody => self.scrubbers.clear(),
            Owner::Tenant(tenant) => drop(self.scrubbers.remove(&tenant)),
        }
    }

    fn scrubber(&mut self, tenant: Option<&Arc<str>>) -> Arc<Scrubber> {
        if self.scrubbers.len() >= 2 * MAX_TENANTS {
            self.scrubbers.clear();
        }
        let tenant = tenant.cloned();
        let Seen { values, scrubbers } = self;
        let own = scrubbers.entry(tenant.clone()).or_insert_with(|| {
            let own = Owner::Tenant(tenant);
            let mine = values.iter().filter(|((_, owner), _)| *owner == Owner::Everybody || *owner == own);
            Arc::new(Scrubber::new(mine.flat_map(|(_, values)| values.iter().map(SecretValue::expose))))
        });
        Arc::clone(own)
    }
}

/// What stands for secrets in the headers of one call's requests.
#[derive(Clone, Default)]
pub(crate) struct Placeholders(Vec<(usize, String)>);

impl Placeholders {
    fn of(&mut self, index: usize) -> &str {
        let at = self.0.iter().position(|(known, _)| *known == index).unwrap_or_else(|| {
            // Not to be guessed: what somebody else put into a header must not be taken for one.
            self.0.push((index, format!("isopod-secret-{:032x}", rand::random::<u128>())));
            self.0.len() - 1
        });
        &self.0[at].1
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &str)> {
        self.0.iter().map(|(index, text)| (*index, text.as_str()))
    }
}

/// The interface that a guest asks by.
pub(super) const INTERFACE: &str = "isopod:secrets/secrets@0.1.0";

pub(super) fn link<T: Reach>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    wit::add_to_linker::<T, Whole>(linker, T::view)
}

impl wit::Host for View {
    async fn get(&mut self, name: String) -> wasmtime::Result<Result<Resource<SecretHandle>, wit::Error>> {
        match self.find_secret(&name) {
            Some(index) => Ok(Ok(self.table.push(SecretHandle(index))?)),
            None => Ok(Err(wit::Error::Unknown)),
        }
    }
}

impl wit::HostSecret for View {
    async fn placeholder(&mut self, secret: Resource<SecretHandle>) -> wasmtime::Result<String> {
        let SecretHandle(index) = *self.table.get(&secret)?;
        Ok(self.placeholder_of(index))
    }

    async fn equals(
        &mut self,
        secret: Resource<SecretHandle>,
        candidate: Vec<u8>,
    ) -> wasmtime::Result<Result<bool, wit::Error>> {
        let SecretHandle(index) = *self.table.get(&secret)?;
        Ok(self.compare_secret(index, candidate).await)
    }

    async fn reveal(&mut self, secret: Resource<SecretHandle>) -> wasmtime::Result<Result<Vec<u8>, wit::Error>> {
        let SecretHandle(index) = *self.table.get(&secret)?;
        Ok(self.reveal_secret(index).await)
    }

    async fn drop(&mut self, secret: Resource<SecretHandle>) -> wasmtime::Result<()> {
        self.table.delete(secret)?;
        Ok(())
    }
}

type Used<T> = Result<T, wit::Error>;

impl View {
    /// Which secret has that name, if one is granted.
    pub(super) fn find_secret(&self, name: &str) -> Option<usize> {
        let keyring = self.bound.keyring.as_ref();
        keyring.and_then(|keyring| keyring.find(name)).or_else(|| {
            let name = sanitise(name, 64);
            let rule = match nearest(&name, keyring.into_iter().flat_map(|keyring| keyring.names())) {
                Some(near) => format!("no secret of that name is granted; the nearest is {}", quoted(near)),
                None => "no secret of that name is granted".to_owned(),
            };
            let quoted = quoted(&name);
            let rust = format!("`.grant(Secrets::of(Secret::of_host({quoted})))`");
            let denial = Denial::new(&format!("secret {quoted}"), &rule);
            self.denials.push(denial.allowed_by(&rust, Some(&format!("secrets = [{quoted}]"))));
            None
        })
    }

    /// What stands for it in headers.
    pub(super) fn placeholder_of(&mut self, index: usize) -> String {
        self.outgoing.placeholders.of(index).to_owned()
    }

    /// Whether `candidate` is its value.
    pub(super) fn compare_secret(
        &self,
        index: usize,
        candidate: Vec<u8>,
    ) -> impl Future<Output = Used<bool>> + Send + use<> {
        let value = self.secret(index, "compare", "", "secrets", |uses| uses.compare);
        async move { Ok(value.await?.expose().ct_eq(&candidate).into()) }
    }

    /// Its value, if the guest may read it.
    pub(super) fn reveal_secret(&self, index: usize) -> impl Future<Output = Used<Vec<u8>>> + Send + use<> {
        let value = self.secret(index, "reveal", ".reveal()", "reveal", |uses| uses.reveal);
        async move { Ok(value.await?.expose().to_vec()) }
    }

    /// The value, if the guest may use it so. `what` is the use, `grant` and `key` are what would allow it in Rust and in a
    /// policy.
    fn secret(
        &self,
        index: usize,
        what: &str,
        grant: &str,
        key: &str,
        allowed: fn(Uses) -> bool,
    ) -> impl Future<Output = Used<SecretValue>> + Send + use<> {
        let keyring = self.bound.keyring.clone().filter(|keyring| allowed(keyring.uses(index)));
        let tenant = self.tenant.clone();
        if keyring.is_none() {
            let name = self.bound.keyring.as_ref().map_or("", |keyring| keyring.name(index));
            let name = quoted(&sanitise(name, 64));
            let denial = Denial::new(&format!("secret {name} {what}"), "it was granted for other uses only");
            let rust = format!("`.grant(Secrets::of(Secret::of_host({name})){grant})`");
            self.denials.push(denial.allowed_by(&rust, Some(&format!("{key} = [{name}]"))));
        }
        async move {
            let keyring = keyring.ok_or(wit::Error::Hidden)?;
            keyring.read(index, tenant.as_ref()).await.map_err(|_| wit::Error::Unavailable)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(secret: &Secret) -> Result<String, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime
            .block_on(fetch(&*secret.resolve(&[]).unwrap(), None))
            .map(|value| String::from_utf8_lossy(value.expose()).into_owned())
    }

    #[test]
    fn sources_give_what_they_hold_and_say_why_not() {
        let folder = std::env::temp_dir().join(format!("isopod-secret-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = folder.join(name);
            std::fs::write(&path, content).unwrap();
            Secret::file(path)
        };
        let rotated = file("token", b"first-value\n");
        assert_eq!(rotated.name(), "token");
        assert_eq!(read(&rotated).unwrap(), "first-value");
        file("token", b"second-value\r\n");
        assert_eq!(read(&rotated).unwrap(), "second-value");
        assert_eq!(read(&file("largest", &[b'x'; 8 * 1024])).unwrap().len(), 8 * 1024);
        for (secret, why) in [
            (file("short", b"seven77\n"), "it has 7 bytes"),
            (file("large", &[b'x'; 8 * 1024 + 1]), "it has 8193 bytes"),
            (Secret::file(folder.join("missing")), "No such file"),
            (Secret::env("ISOPOD_TEST_NEVER_SET"), "the variable ISOPOD_TEST_NEVER_SET is not set"),
            (Secret::from_source("vault", async |_| Err(io::Error::other("sealed"))), "sealed"),
        ] {
            let error = read(&secret).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn an_old_value_is_not_shown_after_a_new_one() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let values = Mutex::new(vec!["value-number-2", "value-number-1"]);
        let source = move |_| {
            let mut values = values.lock();
            let value = if values.len() > 1 { values.pop().unwrap() } else { values[0] };
            std::future::ready(Ok(SecretValue::from(value.to_owned())))
        };
        let mut keyring = Keyring::default();
        assert_eq!(keyring.add(&Secret::from_source("a", source), &[], Uses::default()).unwrap(), 0);
        for value in ["value-number-1", "value-number-2", "value-number-2"] {
            let read = || runtime.block_on(keyring.read(0, None)).unwrap();
            assert!(read().expose() == value.as_bytes());
            assert!(read().expose() == value.as_bytes(), "not asked again at once");
            keyring.asked.lock().clear();
        }
        let mut text = b"value-number-1 value-number-2 value-number-3".to_vec();
        keyring.scrubber(None, &[]).mask(&mut text);
        assert_eq!(text, b"************** ************** value-number-3");
        assert_eq!(keyring.seen.lock().values[&(0, Owner::Tenant(None))].len(), 2);
    }

    #[test]
    fn tenants_have_values_of_their_own_if_the_source_says_so() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut keyring = Keyring::default();
        let own = Secret::from_source("own", async |tenant: Option<Arc<str>>| {
            Ok(SecretValue::from(format!("value of {}", tenant.as_deref().unwrap_or("nobody"))))
        });
        keyring.add(&own, &[], Uses::default()).unwrap();
        keyring.add(&Secret::value("common", "common value".to_owned()), &[], Uses::default()).unwrap();
        let read = |index, tenant: Option<Arc<str>>| {
            let value = runtime.block_on(keyring.read(index, tenant.as_ref())).unwrap();
            String::from_utf8(value.expose().to_vec()).unwrap()
        };
        assert_eq!(read(0, Some("acme".into())), "value of acme");
        assert_eq!(read(0, Some("globex".into())), "value of globex");
        assert_eq!(read(0, None), "value of nobody");
        assert_eq!((read(1, Some("acme".into())), read(1, None)), ("common value".into(), "common value".into()));
        let scrubbed = |tenant: &str| {
            let mut text = b"value of acme, value of globex, common value".to_vec();
            keyring.scrubber(Some(&tenant.into()), &[]).mask(&mut text);
            String::from_utf8(text).unwrap()
        };
        assert_eq!(scrubbed("acme"), "*************, value of globex, ************");
        assert_eq!(scrubbed("globex"), "value of acme, ***************, ************");
        for n in 0..5 * MAX_TENANTS {
            read(0, Some(n.to_string().into()));
        }
        let remembered = keyring.seen.lock().values.len();
        assert!(remembered <= 2 * MAX_TENANTS + 1, "{remembered}");
        assert!(keyring.asked.lock().len() <= 2 * MAX_TENANTS + 1);
        // What was sent before others displaced it is taken out of its answer all the same.
        let sent = [(0, SecretValue::from("value of acme".to_owned()))];
        let mut text = b"value of acme".to_vec();
        keyring.scrubber(Some(&"acme".into()), &sent).mask(&mut text);
        assert_eq!(text, [b'*'; 13]);
    }

    #[test]
    fn names_are_resolved_and_must_be_told_apart() {
        let hosts = [Secret::value("token", "12345678".to_owned()), Secret::of_host("token").named("other")];
        let (unnamed, named) = (Uses::default(), Uses { compare: true, ..Uses::default() });
        let mut keyring = Keyring::default();
        let error = keyring.add(&Secret::of_host("tokn"), &hosts, named).unwrap_err();
        assert!(error.to_string().contains("no secret named \"tokn\", it has token, other"), "{error}");
        assert_eq!(keyring.add(&Secret::of_host("token"), &hosts, unnamed).unwrap(), 0);
        assert_eq!(keyring.add(&Secret::of_host("token"), &hosts, named).unwrap(), 0, "the same one");
        let other = Secret::value("token", "other-value".to_owned());
        assert_eq!(keyring.add(&other, &hosts, unnamed).unwrap(), 1);
        assert!(keyring.add(&Secret::value("token", "third-value".to_owned()), &hosts, named).is_err());
        assert_eq!(keyring.add(&Secret::of_host("other"), &hosts, unnamed).unwrap(), 2);
        assert!(Arc::ptr_eq(&keyring.entries[0].source, &keyring.entries[2].source), "the host's is the host's own");
        let renamed = Secret::of_host("token").named("mine");
        assert_eq!(keyring.add(&renamed, &hosts, named).unwrap(), 3);
        assert!(Arc::ptr_eq(&keyring.entries[0].source, &keyring.entries[3].source) && keyring.find("mine") == Some(3));
        let itself = [Secret::of_host("b").named("a"), Secret::of_host("a").named("b")];
        assert!(keyring.add(&Secret::of_host("a"), &itself, unnamed).is_err());
    }
}
