//! `wasi:config`: settings that an embedder hands to a guest by name.

use super::{Reach, View};
use crate::error::{Error, ErrorKind, Result};
use crate::text::sanitise;
use std::collections::HashMap;
use std::env::VarError;
use std::sync::LazyLock;
use wasmtime::component::Linker;
use wasmtime_wasi_config::{WasiConfig, WasiConfigVariables};

/// A setting that a guest reads by `wasi:config/store`. Settings that were not granted are not there.
///
/// ```
/// use isopod::Config;
///
/// let greeting = Config::var("greeting", "hello");
/// let region = Config::from_host("REGION");
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    pub(super) key: String,
    value: Option<String>,
}

impl Config {
    /// The setting `key` with that value.
    pub fn var(key: impl Into<String>, value: impl Into<String>) -> Config {
        Config { key: key.into(), value: Some(value.into()) }
    }

    /// The setting `key` with the value that the environment variable of that name has in the host when the function is
    /// loaded. Loading fails as [`ErrorKind::Misuse`] where it is not set, or not UTF-8.
    pub fn from_host(key: impl Into<String>) -> Config {
        Config { key: key.into(), value: None }
    }
}

/// The settings of one function.
#[derive(Default)]
pub(super) struct Settings {
    known: HashMap<String, String>,
    /// The same, for linkers.
    wasi: WasiConfigVariables,
}

pub(super) fn bind(grants: &[Config]) -> Result<Settings> {
    let mut settings = Settings::default();
    for (index, Config { key, value }) in grants.iter().enumerate() {
        let shown = sanitise(key, 64);
        let misuse = |why: &str| Err(Error::new(ErrorKind::Misuse, format!("the grant Config of \"{shown}\" {why}")));
        if grants[..index].iter().any(|other| other.key == *key) {
            return misuse("was given twice; give it once");
        }
        let value = match value {
            Some(value) => value.clone(),
            None => match std::env::var(key) {
                Ok(value) => value,
                Err(VarError::NotPresent) => return misuse("cannot be kept: no such variable is set in the host"),
                Err(VarError::NotUnicode(_)) => return misuse("cannot be kept: the variable in the host is not UTF-8"),
            },
        };
        settings.wasi.insert(key, &value);
        settings.known.insert(key.clone(), value);
    }
    Ok(settings)
}

/// The interface that a guest reads by.
pub(super) const INTERFACE: &str = "wasi:config/store@0.2.0-rc.1";

pub(super) fn link<T: Reach>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    wasmtime_wasi_config::add_to_linker(linker, |t: &mut T| t.view().config())
}

impl View {
    /// The value of a setting, if it was granted.
    pub(super) fn setting(&self, name: &str) -> Option<String> {
        self.bound.config.as_ref()?.known.get(name).cloned()
    }

    fn config(&mut self) -> WasiConfig<'_> {
        static NONE: LazyLock<WasiConfigVariables> = LazyLock::new(WasiConfigVariables::new);
        WasiConfig::from(self.bound.config.as_ref().map_or(&*NONE, |settings| &settings.wasi))
    }
}
