//! Any text as a policy and, below a line of `---`, as a component's needs: grants or an error for people. What can be read
//! is bound to a component that imports all that there is.
#![no_main]

use isopod::{Error, ErrorKind, Host, Needs, Policy, Secret};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static HOST: LazyLock<Host> = LazyLock::new(|| {
    let secret = |name: &str| Secret::value(name, "12345678".to_owned());
    Host::builder().seats(1).secret(secret("api-token")).secret(secret("webhook-key")).build().unwrap()
});
/// Imports the interfaces of all grants, each without its functions.
static COMPONENT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let imports: String = [
        "wasi:http/outgoing-handler@0.2.0",
        "isopod:secrets/secrets@0.1.0",
        "isopod:function/functions@0.1.0",
        "wasi:keyvalue/store@0.2.0-draft2",
        "wasi:filesystem/preopens@0.2.0",
        "wasi:config/store@0.2.0-rc.1",
        "wasi:cli/environment@0.2.0",
        "wasi:cli/stdin@0.2.0",
        "wasi:clocks/wall-clock@0.2.0",
        "wasi:random/random@0.2.0",
        "wasi:logging/logging@0.1.0-draft",
        "acme:tools/search",
    ]
    .iter()
    .map(|name| format!("(import \"{name}\" (instance))"))
    .collect();
    wat::parse_str(format!("(component {imports})")).unwrap()
});

fn check(error: Error) {
    assert_eq!(error.kind(), ErrorKind::Misuse, "{error:?}");
    let shown = format!("{error:?}");
    let odd = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}');
    assert!(shown.len() <= 4096 && !shown.contains(odd), "{shown:?}");
}

fuzz_target!(|text: &str| {
    let (policy, needs) = text.split_once("\n---\n").unwrap_or((text, text));
    let (policy, needs) = (Policy::from_toml(policy).map_err(check), Needs::from_toml(needs).map_err(check));
    // Directories, variables and files of the host that runs this are not for any text to name.
    let harmless = !["host", "files", "scratch", "\\"].iter().any(|word| text.contains(word));
    if let Ok(policy) = policy
        && harmless
        && text.len() <= 64 << 10
    {
        let mut builder = HOST.function("f").component_bytes(&**COMPONENT).policy(policy).deny_at_call();
        if let Ok(needs) = needs {
            builder = builder.needs(needs);
        }
        builder.load_blocking().map(drop).unwrap_or_else(check);
    }
});
