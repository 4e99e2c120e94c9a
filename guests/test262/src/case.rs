//! A test as its file has it, and whether it applies.

use anyhow::{Context, Result};
use serde::Deserialize;
use std::path::Path;

/// A test, to be run in one way or two.
pub struct Case {
    /// Below `test`.
    pub name: String,
    pub text: String,
    pub front: Front,
}

/// What stands at the head of a test.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Front {
    flags: Vec<String>,
    pub includes: Vec<String>,
    features: Vec<String>,
    pub negative: Option<Negative>,
}

/// How a test is to fail.
#[derive(Deserialize)]
pub struct Negative {
    phase: String,
    #[serde(rename = "type")]
    pub name: String,
}

/// How a test is run.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Mode {
    Sloppy,
    Strict,
    Module,
}

/// What QuickJS-ng does not have: what its own `test262.conf` skips.
const NOT_IN_QUICKJS: &[&str] = &[
    "Atomics.waitAsync",
    "canonical-tz",
    "decorators",
    "FinalizationRegistry.prototype.cleanupSome",
    "import-defer",
    "legacy-regexp",
    "ShadowRealm",
    "source-phase-imports",
    "source-phase-imports-module-source",
    "tail-call-optimization",
    "Temporal",
];
/// What isopod takes away.
const NOT_IN_ISOPOD: &[&str] = &["Atomics", "Atomics.pause", "SharedArrayBuffer"];
/// What a host has besides the language, and isopod has not: realms, agents, a garbage collector to be called.
const OF_HOSTS: &[&str] = &["cross-realm", "host-gc-required", "IsHTMLDDA"];
const OF_HOSTS_BY_NAME: &[&str] =
    &["$262.agent", "$262.createRealm", "$262.evalScript", "$262.gc", "$262.AbstractModuleSource", "$262.IsHTMLDDA"];

impl Case {
    pub fn read(name: String, path: &Path) -> Result<Case> {
        let text = std::fs::read_to_string(path)?;
        let head = text.split_once("/*---").and_then(|(_, rest)| rest.split_once("---*/"));
        let (head, _) = head.context("there is no head")?;
        let front = serde_yaml_ng::from_str(&head.replace('\r', "\n"))?;
        Ok(Case { name, text, front })
    }

    pub fn is(&self, flag: &str) -> bool {
        self.front.flags.iter().any(|known| known == flag)
    }

    /// The ways to run it.
    pub fn modes(&self) -> &'static [Mode] {
        match () {
            () if self.is("module") => &[Mode::Module],
            () if self.is("onlyStrict") => &[Mode::Strict],
            () if self.is("noStrict") || self.is("raw") => &[Mode::Sloppy],
            () => &[Mode::Sloppy, Mode::Strict],
        }
    }

    /// Why it does not apply, if it does not.
    pub fn skipped(&self) -> Option<&'static str> {
        let needs = |features: &[&str]| self.front.features.iter().any(|name| features.contains(&name.as_str()));
        let names = |texts: &[&str]| texts.iter().any(|text| self.text.contains(text));
        let body = self.text.split_once("---*/").map_or("", |(_, body)| body);
        // A script that is not to compile imports nothing; a module that compiles after all does.
        let compiles =
            self.is("module") || self.front.negative.as_ref().is_none_or(|negative| negative.phase != "parse");
        match () {
            () if needs(NOT_IN_QUICKJS) || self.front.features.iter().any(|name| name.starts_with("Intl")) => {
                Some("what QuickJS-ng does not have")
            }
            () if needs(NOT_IN_ISOPOD) => Some("shared memory and atomics, which isopod takes away"),
            () if needs(OF_HOSTS) || names(OF_HOSTS_BY_NAME) => Some("realms, agents and other things of a host's"),
            () if compiles && (body.contains("_FIXTURE") || imports_itself(body, &self.name)) => {
                Some("modules of several files")
            }
            () if self.is("module") && (body.contains("export default") || body.contains("as default")) => {
                Some("a default export of its own, where isopod's goes")
            }
            () if self.is("module") && self.is("raw") => Some("a module that nothing is put before"),
            () => None,
        }
    }
}

fn imports_itself(body: &str, name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    body.contains(&format!("./{file}"))
}
