//! `wasi:keyvalue`: buckets of keys and values, on the host's [`Store`].
//!
//! Both drafts that components are built for are provided: `0.2.0-draft` and `0.2.0-draft2`. wasmtime's own crate for
//! this is not used: it has the first only, keeps a map of its own for each call, and knows no quotas.
//!
//! A bucket is opened by a name that was granted. Which entries that means is decided by the call's tenant, never by the
//! guest. Each operation commits at once, and quotas are judged within that commit, so that calls side by side cannot
//! exceed them together.

use super::Reach;
use crate::bindings::keyvalue::{Bucket, Cas, Failure, draft, draft2};
use crate::denial::{Denial, Denials};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Batch, Entry, Refused, Size, Space, Store, Version};
use crate::text::{nearest, quoted, sanitise};
use bytes::Bytes;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};

/// Permission to use one bucket of keys and values, by `wasi:keyvalue`.
///
/// Functions that are granted the same name share the bucket, within a tenant: what a call for one tenant writes, no
/// call for another sees, and calls without a tenant have a bucket of their own. It is kept in the host's
/// [`Store`](crate::HostBuilder::store), for as long as that keeps it.
///
/// Each operation of a guest is committed when it returns; `set-many` and `delete-many` happen as a whole or not at all.
/// A call that ends while it writes, at its deadline for example, has written or not, but never in part. Numbers of
/// `increment` are kept as decimal text of 64 bits with a sign.
///
/// A key has at most 1 024 bytes, a page of `list-keys` at most 500 keys in the order of their bytes, a batch at most
/// 500 keys and `get-many` at most 4 MiB of values. What goes beyond these or a bound of the grant is an error of the
/// operation (`other`, with a text that says which), what the grant does not allow is `access-denied` and a
/// [`Denial`]; the call goes on. So it does where the store fails, and the host logs why.
///
/// ```
/// use isopod::{KIB, KeyValue, MIB};
///
/// let state = KeyValue::bucket("state").prefix("orders/").max_value_bytes(4 * KIB).max_total_bytes(MIB);
/// let settings = KeyValue::bucket("settings").read_only();
/// ```
#[derive(Clone)]
pub struct KeyValue {
    bucket: String,
    read_only: bool,
    prefix: String,
    max_value_bytes: Option<u64>,
    max_total_bytes: Option<u64>,
    max_keys: Option<u64>,
}

impl KeyValue {
    /// The bucket of that name, to read and to write.
    ///
    /// A name that is empty, or has more than 256 bytes or a control character, fails the load as
    /// [`ErrorKind::Misuse`]; so do bounds of 0, bounds of a bucket that is only read, and two grants for one bucket.
    pub fn bucket(name: impl Into<String>) -> KeyValue {
        KeyValue {
            bucket: name.into(),
            read_only: false,
            prefix: String::new(),
            max_value_bytes: None,
            max_total_bytes: None,
            max_keys: None,
        }
    }

    /// Only reading. Default: writing as well.
    pub fn read_only(mut self) -> KeyValue {
        self.read_only = true;
        self
    }

    /// Only keys that begin so: others are refused and not listed. The guest names keys in full, with the prefix; other
    /// functions may see them under the same names. Default: every key.
    pub fn prefix(mut self, prefix: impl Into<String>) -> KeyValue {
        self.prefix = prefix.into();
        self
    }

    /// Bytes of one value. Default 64 KiB. A number that is incremented may take 20 whatever this says.
    pub fn max_value_bytes(mut self, bytes: u64) -> KeyValue {
        self.max_value_bytes = Some(bytes);
        self
    }

    /// Bytes of all keys and values of the bucket, of each tenant: of the whole bucket, not only of this function's
    /// prefix. Default 16 MiB. Each function that writes is held to its own grant's bound.
    pub fn max_total_bytes(mut self, bytes: u64) -> KeyValue {
        self.max_total_bytes = Some(bytes);
        self
    }

    /// Keys of the bucket, of each tenant, as with [`max_total_bytes`](KeyValue::max_total_bytes). Default 10 000.
    pub fn max_keys(mut self, keys: u64) -> KeyValue {
        self.max_keys = Some(keys);
        self
    }

    pub(super) fn name(&self) -> &str {
        &self.bucket
    }

    pub(super) fn writes(&self) -> bool {
        !self.read_only
    }

    /// Takes writing away.
    pub(super) fn keep_reading(&mut self) {
        self.read_only = true;
        (self.max_value_bytes, self.max_total_bytes, self.max_keys) = (None, None, None);
    }

    fn value_bytes(&self) -> u64 {
        self.max_value_bytes.unwrap_or(64 * crate::KIB)
    }

    fn most(&self) -> Size {
        Size { bytes: self.max_total_bytes.unwrap_or(16 * crate::MIB), keys: self.max_keys.unwrap_or(10_000) }
    }

    /// The grant in Rust and as a line of a policy; none with names that could not be copied from there.
    fn lines(&self) -> Option<(String, String)> {
        if !is_shown_whole(&self.bucket) || !is_shown_whole(&self.prefix) {
            return None;
        }
        let mut rust = format!("KeyValue::bucket({})", quoted(&self.bucket));
        let mut toml = format!("bucket = {}", quoted(&self.bucket));
        if !self.prefix.is_empty() {
            rust += &format!(".prefix({})", quoted(&self.prefix));
            toml += &format!(", prefix = {}", quoted(&self.prefix));
        }
        if self.read_only {
            rust += ".read_only()";
        }
        toml += if self.read_only { ", mode = \"ro\"" } else { ", mode = \"rw\"" };
        for (bound, most) in [
            ("max_value_bytes", self.max_value_bytes),
            ("max_total_bytes", self.max_total_bytes),
            ("max_keys", self.max_keys),
        ] {
            let Some(most) = most else { continue };
            rust += &format!(".{bound}({most})");
            toml += &format!(", {bound} = {most}");
        }
        Some((rust, format!("keyvalue = [{{ {toml} }}]")))
    }

    /// Why it cannot be kept.
    fn wrong(&self) -> Option<&'static str> {
        let bounds = [self.max_value_bytes, self.max_total_bytes, self.max_keys];
        if self.bucket.is_empty() || self.bucket.len() > MAX_NAME || self.bucket.contains(char::is_control) {
            Some("a bucket's name has 1 to 256 bytes and no control characters")
        } else if self.prefix.len() > MAX_KEY {
            Some("no key is as long as its prefix")
        } else if self.read_only && bounds.iter().any(Option::is_some) {
            Some("bounds of what is written have no effect on a bucket that is only read; remove them")
        } else if bounds.contains(&Some(0)) {
            Some("nothing could be written within a bound of 0; use `.read_only()`")
        } else {
            None
        }
    }
}

impl fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyValue")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}

/// What a bucket is called in advice that the guest did not name.
const UNNAMED: &str = "state";
/// Bytes of a bucket's name.
const MAX_NAME: usize = 256;
/// Bytes of a key: some paths or urls. Keys are kept in the host while a guest pages through them.
const MAX_KEY: usize = 1_024;
/// Keys of one page, and of one batch. A page of the longest keys has half a MiB.
const MAX_KEYS: usize = 500;
/// Bytes of values that one `get-many` gives: as much as a guest may pass to the host at once by default.
const MAX_GOTTEN: usize = 4 * 1024 * 1024;
/// Pages of lists that one call may have under way where cursors are numbers.
const MAX_CURSORS: usize = 32;

/// The buckets of one function, and where they are.
pub(crate) struct Buckets {
    grants: Vec<KeyValue>,
    store: Store,
}

impl Buckets {
    pub(super) fn bind(grants: Vec<KeyValue>, store: &Store) -> Result<Buckets> {
        for (at, grant) in grants.iter().enumerate() {
            let twice = grants[..at].iter().any(|other| other.bucket == grant.bucket);
            let twice = twice.then_some("the bucket is granted twice; only one could take effect");
            if let Some(why) = grant.wrong().or(twice) {
                let name = sanitise(&grant.bucket, SHOWN);
                return Err(Error::new(
                    ErrorKind::Misuse,
                    format!("the grant KeyValue::bucket(\"{name}\") cannot be kept: {why}"),
                ));
            }
        }
        Ok(Buckets { grants, store: store.clone() })
    }
}

/// One call's use of its function's buckets.
pub(crate) struct Access {
    buckets: Option<Arc<Buckets>>,
    tenant: Option<Arc<str>>,
    denials: Denials,
    /// For a draft whose cursors are numbers: the last key of pages that this call was given.
    cursors: VecDeque<(u64, Bytes)>,
    next_cursor: u64,
    /// Whether the log has it already that the store fails: a guest in a loop must not fill it.
    told: bool,
}

impl Access {
    pub(super) fn new(buckets: Option<Arc<Buckets>>, tenant: Option<Arc<str>>, denials: Denials) -> Access {
        Access { buckets, tenant, denials, cursors: VecDeque::new(), next_cursor: 1, told: false }
    }

    /// Another call begins in the same instance.
    pub(super) fn begin(&mut self, denials: &Denials) {
        self.denials = denials.clone();
    }

    /// What a guest is told when the store fails. The store's own words are for the host's people.
    pub(super) fn failed(&mut self, error: &io::Error) -> &'static str {
        if !std::mem::replace(&mut self.told, true) {
            tracing::error!(error = %sanitise(&error.to_string(), 512), "the key-value store failed");
        }
        "the store failed"
    }
}

/// What the interfaces are implemented on.
pub(crate) struct Host<'a> {
    pub(super) access: &'a mut Access,
    pub(super) table: &'a mut ResourceTable,
}

/// Where one operation works.
pub(super) struct At {
    buckets: Arc<Buckets>,
    grant: usize,
    space: Space,
}

impl At {
    fn grant(&self) -> &KeyValue {
        &self.buckets.grants[self.grant]
    }

    fn batch(&self) -> Batch {
        Batch::new().within(&self.space, self.grant().most())
    }

    pub(super) async fn get(&self, key: &str) -> Result<Option<Entry>, Failure> {
        Ok(self.buckets.store.kv().get(&self.space, key.as_bytes()).await?)
    }

    pub(super) async fn set(&self, key: String, value: Vec<u8>) -> Result<(), Failure> {
        self.check_value(&value)?;
        self.commit(self.batch().set(&self.space, key, value)).await?;
        Ok(())
    }

    pub(super) async fn delete(&self, keys: Vec<String>) -> Result<(), Failure> {
        if keys.is_empty() {
            return Ok(());
        }
        self.commit(keys.into_iter().fold(Batch::new(), |batch, key| batch.delete(&self.space, key))).await?;
        Ok(())
    }

    pub(super) async fn add(&self, key: String, delta: i64) -> Result<i64, Failure> {
        let sums = self.commit(self.batch().add(&self.space, key, delta)).await?;
        sums.first().copied().ok_or_else(|| io::Error::other("it gave no sum").into())
    }

    async fn commit(&self, batch: Batch) -> Result<Vec<i64>, Refused> {
        Ok(self.buckets.store.kv().commit(batch).await?.sums)
    }

    /// The keys of a page after `after` that begin with `prefix`, or with that of the grant; and the last, if there are more.
    pub(super) async fn page(
        &self,
        prefix: Option<&str>,
        after: Option<&[u8]>,
    ) -> Result<(Vec<String>, Option<Bytes>), Failure> {
        let prefix = prefix.unwrap_or(&self.grant().prefix).as_bytes();
        let found = self.buckets.store.kv().list(&self.space, prefix, after, MAX_KEYS).await;
        let found = found?;
        let last = (found.len() == MAX_KEYS).then(|| found.last().cloned()).flatten();
        // Others than guests may have written keys that are no text; a guest could not name them.
        let keys = found.into_iter().filter_map(|key| String::from_utf8(key.into()).ok());
        Ok((keys.collect(), last))
    }

    fn check_value(&self, value: &[u8]) -> Result<(), Failure> {
        let most = self.grant().value_bytes();
        if value.len() as u64 > most {
            return Err(Failure::Other(format!("the value has {} bytes, more than the {most} allowed", value.len())));
        }
        Ok(())
    }
}

fn check_count(keys: usize) -> Result<(), Failure> {
    if keys > MAX_KEYS {
        return Err(Failure::Other(format!("{keys} keys at once are more than the {MAX_KEYS} allowed")));
    }
    Ok(())
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Store(error)
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Failure {
        Failure::Other(match refused {
            Refused::TooManyBytes { most } => format!("the bucket is full: its quota is {most} bytes"),
            Refused::TooManyKeys { most } => format!("the bucket is full: its quota is {most} keys"),
            Refused::NotANumber { .. } => "the value is no number".to_owned(),
            Refused::Overflow { .. } => "the sum does not fit 64 bits".to_owned(),
            Refused::Conflict { .. } => "somebody else wrote meanwhile".to_owned(),
            Refused::Failed(error) => return Failure::Store(error),
        })
    }
}

#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Use {
    Read,
    Write,
}

impl Host<'_> {
    fn open_bucket(&mut self, name: &str) -> Result<Resource<Bucket>, Failure> {
        let grant = self.granted(Some(name))?;
        self.table.push(Bucket(grant)).map_err(trap)
    }

    /// Which grant is for the bucket of that name; the first, for one without a name.
    fn granted(&self, name: Option<&str>) -> Result<usize, Failure> {
        let grants = self.access.buckets.as_ref().map_or(&[][..], |buckets| &buckets.grants);
        grants.iter().position(|grant| name.is_none_or(|name| grant.bucket == name)).ok_or_else(|| {
            self.access.denials.push(not_granted(name.unwrap_or(UNNAMED), grants));
            Failure::AccessDenied
        })
    }

    /// Where the bucket of that name is, if it is granted and these keys may be used so.
    pub(super) fn named<'k>(
        &self,
        name: Option<&str>,
        what: &str,
        usage: Use,
        keys: impl IntoIterator<Item = &'k String>,
    ) -> Result<At, Failure> {
        let at = self.find(self.granted(name)?)?;
        self.check(&at, what, usage, keys)?;
        Ok(at)
    }

    /// Which bucket a handle is, without a word about what is done there.
    fn find(&self, grant: usize) -> Result<At, Failure> {
        let buckets = self.access.buckets.as_ref().filter(|buckets| grant < buckets.grants.len());
        let buckets = Arc::clone(buckets.ok_or(Failure::AccessDenied)?);
        let space = Space::new(self.access.tenant.as_deref(), &buckets.grants[grant].bucket);
        Ok(At { buckets, grant, space })
    }

    /// Where that handle leads, if the grant lets these keys be used so.
    fn at<'k>(
        &self,
        bucket: &Resource<Bucket>,
        what: &str,
        usage: Use,
        keys: impl IntoIterator<Item = &'k String>,
    ) -> Result<At, Failure> {
        let grant = self.table.get(bucket).map_err(trap)?.0;
        let at = self.find(grant)?;
        self.check(&at, what, usage, keys)?;
        Ok(at)
    }

    fn check<'k>(
        &self,
        at: &At,
        what: &str,
        usage: Use,
        keys: impl IntoIterator<Item = &'k String>,
    ) -> Result<(), Failure> {
        let grant = at.grant();
        let mut keys = keys.into_iter();
        let denied = |key| {
            self.access.denials.push(not_allowed(what, key, grant, usage));
            Err(Failure::AccessDenied)
        };
        // Writing no keys is writing.
        if usage == Use::Write && grant.read_only {
            return denied(keys.next().map(String::as_str));
        }
        for key in keys {
            if key.len() > MAX_KEY {
                return Err(Failure::Other(format!("a key has {} bytes, more than the {MAX_KEY} allowed", key.len())));
            }
            if !key.starts_with(&grant.prefix) {
                return denied(Some(key));
            }
        }
        Ok(())
    }

    async fn get_value(&mut self, bucket: &Resource<Bucket>, key: String) -> Result<Option<Vec<u8>>, Failure> {
        let at = self.at(bucket, "get", Use::Read, [&key])?;
        Ok(at.get(&key).await?.map(|entry| entry.value.into()))
    }

    async fn set_value(&mut self, bucket: &Resource<Bucket>, key: String, value: Vec<u8>) -> Result<(), Failure> {
        self.at(bucket, "set", Use::Write, [&key])?.set(key, value).await
    }

    async fn delete_keys(&mut self, bucket: &Resource<Bucket>, keys: Vec<String>) -> Result<(), Failure> {
        check_count(keys.len())?;
        self.at(bucket, "delete", Use::Write, &keys)?.delete(keys).await
    }

    async fn has(&mut self, bucket: &Resource<Bucket>, key: String) -> Result<bool, Failure> {
        let at = self.at(bucket, "exists", Use::Read, [&key])?;
        Ok(at.get(&key).await?.is_some())
    }

    async fn add(&mut self, bucket: &Resource<Bucket>, key: String, delta: i64) -> Result<i64, Failure> {
        self.at(bucket, "increment", Use::Write, [&key])?.add(key, delta).await
    }

    async fn get_values(&mut self, bucket: &Resource<Bucket>, keys: Vec<String>) -> Result<Gotten, Failure> {
        check_count(keys.len())?;
        let at = self.at(bucket, "get-many", Use::Read, &keys)?;
        let named: Vec<Bytes> = keys.iter().map(|key| Bytes::copy_from_slice(key.as_bytes())).collect();
        let found = at.buckets.store.kv().get_many(&at.space, &named, MAX_GOTTEN).await?;
        if found.len() < keys.len() {
            return Err(Failure::Other(format!("the values have more than {MAX_GOTTEN} bytes; get fewer at once")));
        }
        Ok(keys.into_iter().zip(found).map(|(key, entry)| Some((key, entry?.value.into()))).collect())
    }

    async fn set_values(&mut self, bucket: &Resource<Bucket>, values: Vec<(String, Vec<u8>)>) -> Result<(), Failure> {
        check_count(values.len())?;
        let at = self.at(bucket, "set-many", Use::Write, values.iter().map(|(key, _)| key))?;
        if values.is_empty() {
            return Ok(());
        }
        values.iter().try_for_each(|(_, value)| at.check_value(value))?;
        at.commit(values.into_iter().fold(at.batch(), |batch, (key, value)| batch.set(&at.space, key, value))).await?;
        Ok(())
    }

    /// Whether it was that version, and is the value now.
    async fn try_swap(
        &mut self,
        grant: usize,
        key: &String,
        version: Option<Version>,
        value: Vec<u8>,
    ) -> Result<bool, Failure> {
        let at = self.find(grant)?;
        self.check(&at, "swap", Use::Write, [key])?;
        at.check_value(&value)?;
        let batch = at.batch().expect(&at.space, key.clone(), version).set(&at.space, key.clone(), value);
        match at.commit(batch).await {
            Ok(_) => Ok(true),
            Err(Refused::Conflict { .. }) => Ok(false),
            Err(refused) => Err(refused.into()),
        }
    }

    async fn new_cas(&mut self, grant: usize, key: String) -> Result<Resource<Cas>, Failure> {
        let at = self.find(grant)?;
        self.check(&at, "cas", Use::Read, [&key])?;
        let version = at.get(&key).await?.map(|entry| entry.version);
        self.table.push(Cas { bucket: grant, key, version }).map_err(trap)
    }
}

type Gotten = Vec<Option<(String, Vec<u8>)>>;

fn trap(error: wasmtime::component::ResourceTableError) -> Failure {
    Failure::Trap(error.into())
}

/// How much of a name is shown.
const SHOWN: usize = 80;

fn not_granted(name: &str, grants: &[KeyValue]) -> Denial {
    let rule = match nearest(name, grants.iter().map(KeyValue::name)) {
        Some(near) => format!("no bucket of that name is granted; the nearest is \"{}\"", sanitise(near, SHOWN)),
        None => "no bucket of that name is granted".to_owned(),
    };
    let denial = Denial::new(&format!("keyvalue open \"{}\"", sanitise(name, SHOWN)), &rule);
    let bucket = quoted(name);
    match is_shown_whole(name) && KeyValue::bucket(name).wrong().is_none() {
        true => denial.allowed_by(
            &format!("`.grant(KeyValue::bucket({bucket}))`"),
            Some(&format!("keyvalue = [{{ bucket = {bucket} }}]")),
        ),
        false => denial,
    }
}

/// What the grant does not allow, and the same grant with only that changed; the key is the first that is refused, if
/// there is one.
fn not_allowed(what: &str, key: Option<&str>, grant: &KeyValue, usage: Use) -> Denial {
    let name = sanitise(&grant.bucket, SHOWN);
    let mut wider = grant.clone();
    let mut rules = Vec::new();
    if usage == Use::Write && grant.read_only {
        rules.push("allows only reading".to_owned());
        wider.read_only = false;
    }
    if let Some(key) = key.filter(|key| !key.starts_with(&grant.prefix)) {
        rules.push(format!("is for keys that begin with \"{}\"", sanitise(&grant.prefix, SHOWN)));
        // A bucket is granted once: the longest prefix of both, so that what was allowed still is.
        let both = grant.prefix.chars().zip(key.chars()).take_while(|(a, b)| a == b);
        wider.prefix = both.map(|(a, _)| a).collect();
    }
    let rule = format!("the rule for bucket \"{name}\" {}", rules.join(" and "));
    let key = key.map(|key| format!(" \"{}\"", sanitise(key, SHOWN))).unwrap_or_default();
    let denial = Denial::new(&format!("keyvalue {what}{key} in \"{name}\""), &rule);
    match wider.lines() {
        Some((rust, toml)) => denial.allowed_by(&format!("`.grant({rust})` in place of that one"), Some(&toml)),
        None => denial,
    }
}

/// Whether a name can be copied from where it is shown.
fn is_shown_whole(name: &str) -> bool {
    sanitise(name, MAX_KEY) == name && !name.contains('`')
}

/// Implements the interfaces of one draft.
macro_rules! serve {
    ($draft:ident, $cursor:ty, $number:ty) => {
        impl $draft::wasi::keyvalue::store::Host for Host<'_> {
            async fn open(&mut self, identifier: String) -> Result<Resource<Bucket>, Failure> {
                self.open_bucket(&identifier)
            }

            fn convert_error(&mut self, failure: Failure) -> wasmtime::Result<$draft::wasi::keyvalue::store::Error> {
                use $draft::wasi::keyvalue::store::Error;
                match failure {
                    Failure::AccessDenied => Ok(Error::AccessDenied),
                    Failure::Other(text) => Ok(Error::Other(text)),
                    Failure::Store(error) => Ok(Error::Other(self.access.failed(&error).to_owned())),
                    Failure::Trap(error) => Err(error),
                }
            }
        }

        impl $draft::wasi::keyvalue::store::HostBucket for Host<'_> {
            async fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Result<Option<Vec<u8>>, Failure> {
                self.get_value(&bucket, key).await
            }

            async fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Result<(), Failure> {
                self.set_value(&bucket, key, value).await
            }

            async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Result<(), Failure> {
                self.delete_keys(&bucket, vec![key]).await
            }

            async fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Result<bool, Failure> {
                self.has(&bucket, key).await
            }

            async fn list_keys(
                &mut self,
                bucket: Resource<Bucket>,
                cursor: Option<$cursor>,
            ) -> Result<$draft::wasi::keyvalue::store::KeyResponse, Failure> {
                let at = self.at(&bucket, "list-keys", Use::Read, [])?;
                let after = cursor.map(|cursor| <$cursor>::find(cursor, self.access)).transpose()?;
                let (keys, last) = at.page(None, after.as_deref()).await?;
                let cursor = last.map(|last| <$cursor>::keep(last, self.access)).transpose()?;
                Ok($draft::wasi::keyvalue::store::KeyResponse { keys, cursor })
            }

            async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
                self.table.delete(bucket)?;
                Ok(())
            }
        }

        impl $draft::wasi::keyvalue::batch::Host for Host<'_> {
            async fn get_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Result<Gotten, Failure> {
                self.get_values(&bucket, keys).await
            }

            async fn set_many(
                &mut self,
                bucket: Resource<Bucket>,
                values: Vec<(String, Vec<u8>)>,
            ) -> Result<(), Failure> {
                self.set_values(&bucket, values).await
            }

            async fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Result<(), Failure> {
                self.delete_keys(&bucket, keys).await
            }
        }
    };
}
serve!(draft, u64, u64);
serve!(draft2, String, i64);

/// Where a list goes on, as a guest is told.
trait Cursor: Sized {
    fn keep(last: Bytes, access: &mut Access) -> Result<Self, Failure>;
    fn find(self, access: &Access) -> Result<Bytes, Failure>;
}

/// The last key itself. One that the guest makes up lists from there.
impl Cursor for String {
    fn keep(last: Bytes, _: &mut Access) -> Result<String, Failure> {
        String::from_utf8(last.into()).map_err(|_| Failure::Other("a key in the bucket is no text".to_owned()))
    }

    fn find(self, _: &Access) -> Result<Bytes, Failure> {
        Ok(self.into())
    }
}

/// A number for the last key, which holds for this call and its last pages. A position would lead elsewhere after a
/// write.
impl Cursor for u64 {
    fn keep(last: Bytes, access: &mut Access) -> Result<u64, Failure> {
        if access.cursors.len() == MAX_CURSORS {
            access.cursors.pop_front();
        }
        let cursor = access.next_cursor;
        access.next_cursor += 1;
        access.cursors.push_back((cursor, last));
        Ok(cursor)
    }

    fn find(self, access: &Access) -> Result<Bytes, Failure> {
        let found = access.cursors.iter().find(|(cursor, _)| *cursor == self);
        let unknown = || Failure::Other("this cursor was not given in this call, or long ago".to_owned());
        Ok(found.ok_or_else(unknown)?.1.clone())
    }
}

impl draft::wasi::keyvalue::atomics::Host for Host<'_> {
    async fn increment(&mut self, bucket: Resource<Bucket>, key: String, delta: u64) -> Result<u64, Failure> {
        let delta = i64::try_from(delta).map_err(|_| Failure::from(Refused::Overflow { step: 0 }))?;
        let sum = self.add(&bucket, key, delta).await?;
        u64::try_from(sum).map_err(|_| Failure::Other(format!("the sum is {sum}, which this draft has no number for")))
    }
}

impl draft2::wasi::keyvalue::atomics::Host for Host<'_> {
    async fn increment(&mut self, bucket: Resource<Bucket>, key: String, delta: i64) -> Result<i64, Failure> {
        self.add(&bucket, key, delta).await
    }

    async fn swap(
        &mut self,
        cas: Resource<Cas>,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), draft2::wasi::keyvalue::atomics::CasError>> {
        use draft2::wasi::keyvalue::atomics::CasError;
        use draft2::wasi::keyvalue::store::Host as _;
        let Cas { bucket, key, version } = self.table.delete(cas)?;
        let failure = match self.try_swap(bucket, &key, version, value).await {
            Ok(true) => return Ok(Ok(())),
            Ok(false) => match self.new_cas(bucket, key).await {
                Ok(cas) => return Ok(Err(CasError::CasFailed(cas))),
                Err(failure) => failure,
            },
            Err(failure) => failure,
        };
        Ok(Err(CasError::StoreError(self.convert_error(failure)?)))
    }
}

impl draft2::wasi::keyvalue::atomics::HostCas for Host<'_> {
    async fn new(&mut self, bucket: Resource<Bucket>, key: String) -> Result<Resource<Cas>, Failure> {
        let grant = self.table.get(&bucket).map_err(trap)?.0;
        self.new_cas(grant, key).await
    }

    /// What is there now. The swap goes by the version that the handle was made with, so that it fails where this is
    /// another value already.
    async fn current(&mut self, cas: Resource<Cas>) -> Result<Option<Vec<u8>>, Failure> {
        let Cas { bucket, key, .. } = self.table.get(&cas).map_err(trap)?;
        let (grant, key) = (*bucket, key.clone());
        Ok(self.find(grant)?.get(&key).await?.map(|entry| entry.value.into()))
    }

    async fn drop(&mut self, cas: Resource<Cas>) -> wasmtime::Result<()> {
        self.table.delete(cas)?;
        Ok(())
    }
}

/// Whether the grant brings that interface.
pub(super) fn is_provided(import: &str) -> bool {
    let Some((name, version)) = import.split_once('@') else { return false };
    ["wasi:keyvalue/store", "wasi:keyvalue/atomics", "wasi:keyvalue/batch"].contains(&name)
        && ["0.2.0-draft", "0.2.0-draft2"].contains(&version)
}

pub(super) fn link<T: Reach>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    struct Here;
    impl HasData for Here {
        type Data<'a> = Host<'a>;
    }
    fn get<T: Reach>(holder: &mut T) -> Host<'_> {
        holder.view().keyvalue()
    }
    draft::Imports::add_to_linker::<T, Here>(linker, get)?;
    draft2::Imports::add_to_linker::<T, Here>(linker, get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_near_or_not() {
        let grants = [KeyValue::bucket("settings"), KeyValue::bucket("state")];
        let explained = not_granted("sate", &grants).explain();
        assert!(explained.contains("the nearest is \"state\""), "{explained}");
        let explained = not_granted("other", &grants).explain();
        assert!(!explained.contains("nearest"), "{explained}");
        let explained = not_granted("two\nlines", &grants).explain();
        assert!(explained.ends_with("nothing can") && !explained.contains('\n'), "{explained}");
    }

    /// Whoever copies a line allows what was asked, and nothing besides.
    #[test]
    fn advice_changes_only_what_was_in_the_way() {
        let orders = || KeyValue::bucket("a\"b").prefix("orders/");
        let cases = [
            (
                orders().read_only(),
                Some("orders/1"),
                Use::Write,
                "allows only reading",
                ".prefix(\"orders/\")",
                "prefix = \"orders/\", mode = \"rw\"",
            ),
            (
                orders().read_only(),
                None,
                Use::Write,
                "allows only reading",
                ".prefix(\"orders/\")",
                "prefix = \"orders/\", mode = \"rw\"",
            ),
            (
                orders().read_only(),
                Some("orbit"),
                Use::Read,
                "begin with \"orders/\"",
                ".prefix(\"or\").read_only()",
                "prefix = \"or\", mode = \"ro\"",
            ),
            (orders().read_only(), Some("x"), Use::Read, "begin with \"orders/\"", ".read_only()", "mode = \"ro\""),
            (
                orders().read_only(),
                Some("ord"),
                Use::Write,
                "reading and is for keys that begin with",
                ".prefix(\"ord\")",
                "prefix = \"ord\", mode = \"rw\"",
            ),
            (
                orders().max_keys(3).max_value_bytes(9),
                Some("x"),
                Use::Write,
                "begin with",
                ".max_value_bytes(9).max_keys(3)",
                "mode = \"rw\", max_value_bytes = 9, max_keys = 3",
            ),
        ];
        for (grant, key, usage, rule, rust, toml) in cases {
            let denial = not_allowed("op", key, &grant, usage);
            assert!(denial.rule().contains(rule), "{}", denial.explain());
            let rust = format!("`.grant(KeyValue::bucket(\"a\\\"b\"){rust})` in place of that one");
            assert_eq!(denial.allow(), Some(&rust[..]));
            let line = denial.allow_toml().unwrap();
            assert_eq!(line, format!("keyvalue = [{{ bucket = \"a\\\"b\", {toml} }}]"));
            assert!(crate::Policy::from_toml(line).is_ok(), "{line}");
        }
        for odd in ["tab\t", "\u{202e}", "\u{7f}", "a`b"] {
            let grant = KeyValue::bucket("state").prefix(odd).read_only();
            assert_eq!(not_allowed("set", Some(odd), &grant, Use::Write).allow(), None, "{odd:?}");
            assert_eq!(not_granted(odd, &[]).allow(), None, "{odd:?}");
        }
    }
}
