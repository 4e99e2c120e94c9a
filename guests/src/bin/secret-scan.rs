//! A scan plugin: places that look like secrets, and TODO or FIXME marks. A guess by the look of the text, not a proof.
#![no_main]

use regex_lite::Regex;

wit_bindgen::generate!({ path: "wit/plugin.wit", world: "plugin" });

/// What to look for, in the order in which findings of one line are given.
const PATTERNS: &[(&str, &str)] = &[
    ("aws-key", r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"),
    ("private-key", r"-----BEGIN ([A-Z]+ )*PRIVATE KEY-----"),
    ("credential", r#"(?i:api[_-]?key|secret|token|password)["']?[ \t]*[:=][ \t]*["'][^"' \t]{8,}["']"#),
    ("mark", r"\b(TODO|FIXME)\b"),
];

/// How many characters of a key id are shown: the prefix and a little, to find the place again.
const SHOWN: usize = 8;

/// A file of nothing but marks does not give a report bigger than itself.
const MAX_FINDINGS: usize = 1000;

struct SecretScan;

impl Guest for SecretScan {
    fn inspect(file: File) -> Result<Report, String> {
        let patterns: Vec<(&str, Regex)> =
            PATTERNS.iter().map(|(label, text)| (*label, Regex::new(text).expect("a constant pattern"))).collect();
        let mut findings = Vec::new();
        'file: for (at, line) in file.content.split(|byte| *byte == b'\n').enumerate() {
            // Files need not be UTF-8: what is not becomes U+FFFD.
            let line = String::from_utf8_lossy(line);
            for (label, pattern) in &patterns {
                for found in pattern.find_iter(&line) {
                    if findings.len() == MAX_FINDINGS {
                        break 'file;
                    }
                    findings.push(Finding {
                        line: at as u32 + 1,
                        label: label.to_string(),
                        excerpt: excerpt(label, found.as_str()),
                    });
                }
            }
        }
        Ok(Report { facts: vec![("findings".to_string(), findings.len().to_string())], findings })
    }
}

/// A report must not leak what it warns of: it shows where a secret is, not the secret.
fn excerpt(label: &str, found: &str) -> String {
    match label {
        "aws-key" => found.chars().take(SHOWN).chain("...".chars()).collect(),
        "credential" => {
            found.split([':', '=']).next().unwrap_or_default().trim_matches(['"', '\'', ' ', '\t']).to_string()
        }
        _ => found.to_string(),
    }
}

export!(SecretScan);
