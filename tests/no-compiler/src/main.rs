//! Loads and calls code that the example `precompile` made, and is refused all that would need a compiler.
//!
//! By itself, as `cargo run -p isopod-no-compiler` builds it, this program contains none. Built with the whole workspace it
//! would have one, by the features of the others, and says that it is no test then.

use isopod::{Cache, ErrorKind, Host, Limits, Result};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(code), Some(key), Some(component)) = (args.next(), args.next(), args.next()) else {
        panic!("usage: isopod-no-compiler CODE KEY COMPONENT");
    };
    let key: [u8; 32] = std::fs::read(key).expect("the key").try_into().expect("32 bytes");
    let host = Host::builder().code_key(key).build()?;

    let function = host.function("ahead").component_file(&code).load_blocking()?;
    // The text "one two", as base64.
    let args = serde_json::json!([{ "path": "a.txt", "content": "b25lIHR3bw==" }]);
    let report = function.call_blocking::<serde_json::Value>("inspect", args)?.value.to_string();
    assert!(report.contains(r#"["words","2"]"#), "{report}");

    let refused = |error: isopod::Error| {
        assert_eq!(error.kind(), ErrorKind::Misuse, "built with a compiler, this is no test: {error:?}");
        assert!(error.to_string().contains("this build has no compiler"), "{error}");
    };
    refused(host.function("plain").component_file(&component).load_blocking().unwrap_err());
    refused(
        host.precompile_blocking(&std::fs::read(&component).expect("the component"), &Limits::default()).unwrap_err(),
    );
    let cache = Cache::dir(std::env::temp_dir().join(format!("isopod-no-compiler-{}", std::process::id()))).key(key);
    refused(Host::builder().cache(cache).build().unwrap_err());
    println!("{code}: loaded and called without a compiler");
    Ok(())
}
