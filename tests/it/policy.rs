//! Policies and needs, against real components.

use crate::support::{built, host, text};
use isopod::{ErrorKind, Function, FunctionBuilder, Host, Http, Needs, Policy, Reply, Secret};

fn ambient(host: &Host) -> FunctionBuilder {
    host.function("ambient").component_file(built("ambient"))
}

async fn settings(function: &Function) -> Vec<(String, String)> {
    let mut settings: Vec<(String, String)> = function.call("settings", ()).await.unwrap().value;
    settings.sort();
    settings
}

#[tokio::test]
async fn a_policy_grants_what_it_says() {
    let policy = Policy::from_toml("config = { greeting = \"hello\", region = \"eu\" }").unwrap();
    let function = ambient(&host()).policy(policy).load().await.unwrap();
    assert_eq!(settings(&function).await, [("greeting".into(), "hello".into()), ("region".into(), "eu".into())]);
    let read: Reply<Option<String>> = function.call("setting", ("region",)).await.unwrap();
    assert_eq!(read.value.as_deref(), Some("eu"));
    let read: Reply<Option<String>> = function.call("setting", ("PATH",)).await.unwrap();
    assert_eq!(read.value, None, "the host's own environment is not there");
}

#[tokio::test]
async fn without_a_setting_it_does_not_load() {
    let error = ambient(&host()).load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UngrantedImport);
    assert!(text(&error).contains(".grant(Config::var("), "{error}");
    for (wrong, why) in [
        ("config_from_host = [\"ISOPOD_TEST_NEVER_SET\"]", "no such variable"),
        ("config = { a = \"1\" }\nconfig_from_host = [\"a\"]", "given twice"),
        ("config = { a = \"1\" }\nclocks = \"fine\"", "the grant Clocks has no effect"),
    ] {
        let error = ambient(&host()).policy(Policy::from_toml(wrong).unwrap()).load().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse, "{wrong}");
        assert!(text(&error).contains(why), "{wrong}: {error}");
    }
}

/// A component's custom section, appended to it.
fn with_section(mut bytes: Vec<u8>, name: &str, data: &str) -> Vec<u8> {
    let leb = |mut n: usize| {
        let mut out = Vec::new();
        loop {
            let byte = (n & 0x7f) as u8;
            n >>= 7;
            out.push(if n > 0 { byte | 0x80 } else { byte });
            if n == 0 {
                return out;
            }
        }
    };
    let body = [leb(name.len()), name.as_bytes().to_vec(), data.as_bytes().to_vec()].concat();
    bytes.push(0);
    bytes.extend(leb(body.len()));
    bytes.extend(body);
    bytes
}

#[tokio::test]
async fn what_a_component_does_not_need_it_does_not_get() {
    let policy = || Policy::from_toml("config = { greeting = \"hello\", token = \"not for it\" }").unwrap();
    let bytes = std::fs::read(built("ambient")).unwrap();
    let load = async |section: &str| {
        let bytes = with_section(bytes.clone(), "isopod:policy", section);
        host().function("ambient").component_bytes(bytes).policy(policy()).load().await
    };
    let function = load("config = [\"greeting\"]").await.unwrap();
    assert_eq!(settings(&function).await, [("greeting".into(), "hello".into())]);

    let error = load("config = [\"greeting\", \"region\"]").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UngrantedImport);
    let [denial] = error.denials() else { panic!("{error:?}") };
    assert_eq!(denial.allow_toml(), Some("config = { \"region\" = \"..\" }"));
    assert_eq!(denial.function(), "ambient");

    // What the embedder says of it counts, not what it says itself.
    let needs = Needs::from_toml("config = [\"token\"]").unwrap();
    let file = ambient(&host()).policy(policy()).needs(needs).load().await.unwrap();
    assert_eq!(settings(&file).await, [("token".into(), "not for it".into())]);

    for wrong in ["config = 3", "htpp = []", "\u{1b}[2J", &"x".repeat(70_000)] {
        let error = load(wrong).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidComponent, "{error}");
        assert!(text(&error).len() < 4096 && !text(&error).contains('\u{1b}'));
    }
    let twice = with_section(with_section(bytes.clone(), "isopod:policy", ""), "isopod:policy", "");
    let error = host().function("ambient").component_bytes(twice).policy(policy()).load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidComponent, "{error}");
}

#[tokio::test]
async fn requests_pass_the_grants_and_the_needs() {
    let needs = Needs::from_toml("http = [{ to = \"http://127.0.0.1:9\", allow = [\"GET /v1/*\"] }]").unwrap();
    let load = async |grant: Http| {
        let builder = host().function("client").component_file(built("http-client-p2"));
        builder.grant(grant).needs(needs.clone()).load().await
    };
    let function = load(Http::to("http://127.0.0.1:9")).await.unwrap();
    let fetch = async |path: &str| {
        let request = serde_json::json!({ "method": "GET", "scheme": "http", "authority": "127.0.0.1:9", "path": path,
            "headers": [], "body": "", "copies": 1 });
        function.call::<serde_json::Value>("fetch", (request,)).await.unwrap()
    };
    assert!(fetch("/v1/x").await.denials().is_empty());
    let refused = fetch("/v2/x").await;
    let explained = refused.denials()[0].explain();
    assert!(explained.contains("the component does not say in its needs"), "{explained}");

    let error = load(Http::to("http://127.0.0.1:9").get("/v1/x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UngrantedImport);
    let wanted = "http = [{ to = \"http://127.0.0.1:9\", allow = [\"GET /v1/*\"] }]";
    assert_eq!(error.denials()[0].allow_toml(), Some(wanted));
    let granted = Policy::from_toml(wanted).unwrap();
    let builder = host().function("client").component_file(built("http-client-p2"));
    assert!(builder.policy(granted).needs(needs.clone()).load().await.is_ok(), "the line that it gave grants it");
}

#[tokio::test]
async fn policies_name_the_secrets_of_the_host() {
    let policy = |text: &str| Policy::from_toml(text).unwrap();
    let load = async |text: &str| {
        let host = Host::builder().secret(Secret::value("api-token", "12345678".to_owned())).build().unwrap();
        host.function("client").component_file(built("http-client-p2")).policy(policy(text)).load().await
    };
    assert!(load("http = [{ to = \"https://a.example\", bearer = \"api-token\" }]").await.is_ok());
    for (wrong, why) in [
        ("http = [{ to = \"https://a.example\", bearer = \"api-tokn\" }]", "no secret named \"api-tokn\""),
        ("http = [{ to = \"http://a.example\", bearer = \"api-token\" }]", "over https only"),
        ("http = [{ to = \"https://a.example\", header = { \"a b\" = \"api-token\" } }]", "no name of a header"),
        ("http = [{ to = \"https://a.example\", header = { host = \"api-token\" } }]", "cannot hold a secret"),
        (
            "http = [{ to = \"https://a.example\", bearer = \"api-token\", header = { authorization = \"api-token\" } }]",
            "the same place",
        ),
        ("http = [{ to = \"https://a.example\", allow = [\"GET v1\"] }]", "starts with /"),
    ] {
        let error = load(wrong).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse, "{wrong}");
        assert!(text(&error).contains(why), "{wrong}: {error}");
    }
    let twice = Host::builder().secret(Secret::value("a", "12345678".to_owned()));
    assert!(twice.secret(Secret::value("a", "87654321".to_owned())).build().is_err());
}
