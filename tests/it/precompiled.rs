//! Code that is compiled ahead: signed, for one way of metering, and refused with a reason where it does not fit.

use crate::support::{built, text};
use isopod::{Error, ErrorKind, Host, Limits, LoadLimits, Trust};

fn host(key: u8) -> Host {
    Host::builder().code_key([key; 32]).build().unwrap()
}

async fn load(host: &Host, code: &[u8], limits: Limits) -> Result<isopod::Function, Error> {
    host.function("ahead").component_bytes(code).limits(limits).load().await
}

fn wasm() -> Vec<u8> {
    let wat = r#"(component
        (core module $m (func (export "run") (result i32) (i32.const 42)))
        (core instance $i (instantiate $m))
        (func (export "run") (result u32) (canon lift (core func $i "run"))))"#;
    wat::parse_str(wat).unwrap()
}

#[tokio::test]
async fn it_loads_from_bytes_and_from_files_and_does_what_the_component_does() {
    let here = host(1);
    let code = here.precompile(&wasm(), &Limits::default()).await.unwrap();
    let there = host(1);
    let function = load(&there, &code, Limits::default()).await.unwrap();
    assert_eq!(function.call::<u32>("run", ()).await.unwrap().value, 42);
    let path = std::env::temp_dir().join(format!("isopod-precompiled-{}", std::process::id()));
    for (component, fuel) in [("text-stats", None), ("http-hello-p3", None), ("json-transform", Some(1_000_000))] {
        let limits = fuel.map_or(Limits::default(), |fuel| Limits::default().fuel(fuel));
        let code = here.precompile(&std::fs::read(built(component)).unwrap(), &limits).await.unwrap();
        std::fs::write(&path, code).unwrap();
        let ahead = there.function("ahead").component_file(&path).limits(limits.clone()).load().await.unwrap();
        let plain = there.function("plain").component_file(built(component)).limits(limits).load().await.unwrap();
        assert_eq!(format!("{:?}", ahead.exports()), format!("{:?}", plain.exports()));
        assert_eq!(ahead.kind(), plain.kind());
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn it_is_made_without_a_runtime_too() {
    let host = host(1);
    let code = host.precompile_blocking(&wasm(), &Limits::default()).unwrap();
    let function = host.function("ahead").component_bytes(code).load_blocking().unwrap();
    assert_eq!(function.call_blocking::<u32>("run", ()).unwrap().value, 42);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_a_reason() {
    let host = host(1);
    let code = host.precompile(&wasm(), &Limits::default()).await.unwrap();
    let refused = async |host: &Host, code: &[u8], limits: Limits, why: &str| {
        let error = load(host, code, limits).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidComponent, "{why}: {error:?}");
        assert!(text(&error).contains(why), "{why}: {error:?}");
    };
    let time = Limits::default;
    refused(&self::host(2), &code, time(), "signed with another key").await;
    refused(&Host::new().unwrap(), &code, time(), "no key to check it with").await;
    refused(&host, &code, time().fuel(1), "metered by time, and its limits are by fuel").await;
    refused(&host, &code[..code.len() - 1], time(), "cut off").await;
    refused(&host, &code[..20], time(), "cut off").await;
    refused(&host, &[&code[..], b"x"].concat(), time(), "damaged").await;
    let with = |at: usize, byte: u8| {
        let mut code = code.clone();
        code[at] = byte;
        code
    };
    refused(&host, &with(44, 200), time(), "another version of isopod").await;
    refused(&host, &with(code.len() / 2, !code[code.len() / 2]), time(), "damaged, or was signed").await;
    refused(&host, &with(20, !code[20]), time(), "damaged, or was signed").await;
    let at = code.windows(6).position(|six| six == b"isopod").unwrap();
    let at = at + 1 + code[at + 1..].windows(6).position(|six| six == b"isopod").unwrap();
    refused(&host, &with(at + 7, b'9'), time(), "was precompiled by isopod 9").await;
    for at in (0..code.len()).step_by(101) {
        let error = load(&host, &with(at, code[at].wrapping_add(1)), time()).await.unwrap_err();
        assert!([ErrorKind::InvalidComponent, ErrorKind::TooComplex].contains(&error.kind()), "{at}: {error:?}");
    }
    let narrow = LoadLimits::from(Trust::Own).functions(0);
    let error = host.function("f").component_bytes(code).load_limits(narrow).load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooComplex);
}

#[tokio::test]
async fn what_a_component_says_that_it_needs_goes_with_its_code() {
    let host = host(1);
    let needy = r#"(component (@custom "isopod:policy" "config = [\"region\"]"))"#;
    let code = host.precompile(&wat::parse_str(needy).unwrap(), &Limits::default()).await.unwrap();
    let error = load(&host, &code, Limits::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UngrantedImport);
    assert!(text(&error).contains("region"), "{error:?}");
}

#[tokio::test]
async fn it_needs_a_key_and_a_component() {
    let error = Host::new().unwrap().precompile(&wasm(), &Limits::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert!(error.to_string().contains("HostBuilder::code_key"), "{error}");
    let error = host(1).precompile(b"no component", &Limits::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidComponent);
}

/// Code of a cache is not code that was precompiled, even with the same key.
#[tokio::test]
async fn an_entry_of_a_cache_is_no_precompiled_code() {
    let dir = std::env::temp_dir().join(format!("isopod-precompiled-cache-{}", std::process::id()));
    let cache = isopod::Cache::dir(&dir).key([1; 32]);
    let host = Host::builder().cache(cache).code_key([1; 32]).build().unwrap();
    load(&host, &wasm(), Limits::default()).await.unwrap();
    let entry = std::fs::read_dir(&dir).unwrap().next().unwrap().unwrap().path();
    let mut code = std::fs::read(entry).unwrap();
    std::fs::remove_dir_all(dir).unwrap();
    let error = load(&host, &code, Limits::default()).await.unwrap_err();
    assert!(error.to_string().contains("a file of a cache"), "{error}");
    code[45] = 1;
    let error = load(&host, &code, Limits::default()).await.unwrap_err();
    assert!(error.to_string().contains("signed with another key"), "{error}");
}

/// It is copied before anybody knows whether it is signed.
#[tokio::test]
async fn what_is_larger_than_any_code_is_not_even_copied() {
    let host = host(1);
    let code = host.precompile(&wasm(), &Limits::default()).await.unwrap();
    let huge = [&code[..], &vec![0; 17 << 20]].concat();
    let small = LoadLimits::from(Trust::Own).component_bytes(1_000);
    let error = host.function("huge").component_bytes(huge).load_limits(small.clone()).load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooComplex);
    assert!(error.to_string().contains("component_bytes"), "{error}");
    host.function("code").component_bytes(code).load_limits(small).load().await.unwrap();
}
