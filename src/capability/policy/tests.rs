//! Policies and needs, in tables.

use super::*;

fn wrong(text: &str) -> String {
    Policy::from_toml(text).unwrap_err().to_string()
}

#[test]
fn the_words_are_those_of_the_grants() {
    let grants = |text: &str| {
        let grants = Policy::from_toml(text).unwrap().into_grants();
        grants.iter().map(|grant| format!("{:?}", grant.0)).collect::<Vec<_>>()
    };
    let rust = |grant: Grant| format!("{:?}", grant.0);
    let host = |name: &str| Secret::of_host(name);
    let cases: Vec<(&str, Vec<Grant>)> = vec![
        ("", vec![]),
        (r#"http = [{ to = "https://a.example" }]"#, vec![Http::to("https://a.example").into()]),
        (
            r#"http = [{ to = "https://a.example", allow = ["GET /v1/*", "* /x"], bearer = "t", query = { k = "q" } }]"#,
            vec![Http::to("https://a.example").get("/v1/*").any("/x").bearer(host("t")).query("k", host("q")).into()],
        ),
        (
            "secrets = [\"a\"]\nreveal = [\"b\"]",
            vec![Secrets::of(host("a")).into(), Secrets::of(host("b")).reveal().into()],
        ),
        (
            r#"functions = ["a", { name = "b", tenant = "t" }, { name = "c", serving = "acme:x/y" }]"#,
            vec![
                Functions::named("a").into(),
                Functions::named("b").for_tenant("t").into(),
                Functions::named("c").serving("acme:x/y").into(),
            ],
        ),
        (
            "config = { a = \"1\" }\nconfig_from_host = [\"B\"]\nenv = { C = \"2\" }\nenv_from_host = [\"D\"]",
            vec![
                Config::var("a", "1").into(),
                Config::from_host("B").into(),
                Env::var("C", "2").into(),
                Env::from_host("D").into(),
            ],
        ),
        (
            r#"keyvalue = [{ bucket = "a", prefix = "p/", max_keys = 3 }, { bucket = "b", mode = "ro" }]"#,
            vec![KeyValue::bucket("a").prefix("p/").max_keys(3).into(), KeyValue::bucket("b").read_only().into()],
        ),
        (
            "files = [{ host = \"/h\", guest = \"/g\", mode = \"rw\", max_bytes = 5 }]\nscratch = { guest = \"/tmp\", max_entries = 7 }",
            vec![Dir::read_write("/h", "/g").max_bytes(5).into(), Scratch::at("/tmp").max_entries(7).into()],
        ),
        ("args = [\"a\"]\nstdin = \"x\"", vec![Args::new(["a"]).into(), Stdin::bytes("x").into()]),
        ("clocks = \"fine\"", vec![Clocks::fine().into()]),
        ("clocks = { coarse_ms = 5 }", vec![Clocks::coarse(Duration::from_millis(5)).into()]),
        ("clocks = { simulated_unix_seconds = 0 }", vec![Clocks::simulated(SystemTime::UNIX_EPOCH).into()]),
        ("random = { seed = 7 }", vec![Random::seeded(7).into()]),
        ("log = { level = \"info\", per_second = 9 }", vec![Log::level(Level::Info).per_second(9).into()]),
    ];
    for (text, expected) in cases {
        assert_eq!(grants(text), expected.into_iter().map(rust).collect::<Vec<_>>(), "{text}");
    }
}

#[test]
fn what_is_wrong_is_said_in_one_line() {
    for (text, said) in [
        ("htpp = []", "at line 1: unknown field `htpp`"),
        ("htpp = []", "did you mean `http`?"),
        ("\n\nhttp = [{ to = \"https://a\", alow = [] }]", "at line 3"),
        ("http = [{ to = \"https://a\", alow = [] }]", "did you mean `allow`?"),
        ("clocks = \"fin\"", "did you mean `fine`?"),
        ("log = { level = \"inf\" }", "did you mean `info`?"),
        ("xyzzy = 1", "unknown field `xyzzy`"),
        ("http = [{ }]", "missing field `to`"),
        ("http = [{ to = \"https://a\", allow = [] }]", "allows nothing"),
        ("http = [{ to = \"https://a\", allow = [\"/v1\"] }]", "is not a method and a path"),
        ("http = 3", "invalid type"),
        ("env = { A = 1 }", "invalid type"),
        ("secrets = [", "at line 1"),
        ("[[http]]\nto = \"https://a\"\nsecrets = [\"x\"]", "stands above the first `[[..]]`"),
        ("functions = [3]", "the name of a function"),
        ("functions = [{ name = \"a\", bogus = 1 }]", "the name of a function"),
    ] {
        let error = wrong(text);
        assert!(error.contains(said), "{text}: {error}");
        assert!(!error.contains('\n') && error.len() < 1_600, "{error:?}");
    }
    assert!(!wrong("xyzzy = 1").contains("did you mean"));
}

#[test]
fn needs_take_away_and_never_give() {
    let needs = Needs::from_toml(
        "http = [{ to = \"https://a.x.example\", allow = [\"GET /v1/x\"] }, { to = \"https://b.example\" }]\n\
         env = [\"LANG\", \"HOME\"]\nsecrets = [\"a\"]\nfunctions = [\"f\", \"g\\\"h\"]\n\
         keyvalue = [{ bucket = \"state\", mode = \"ro\" }, { bucket = \"more\" }]\n\
         files = [{ guest = \"/in\", mode = \"ro\" }, { guest = \"/out\" }]\nscratch = \"/tmp\"",
    )
    .unwrap();
    let grants: Vec<Grant> = vec![
        Http::to("https://*.x.example").get("/v1/*").into(),
        Env::var("LANG", "C").into(),
        Env::var("PATH", "/").into(),
        Secrets::of(Secret::of_host("a")).reveal().into(),
        Secrets::of(Secret::of_host("b")).into(),
        Functions::named("f").into(),
        Functions::named("other").into(),
        Clocks::fine().into(),
        KeyValue::bucket("state").max_keys(5).into(),
        KeyValue::bucket("more").read_only().into(),
        KeyValue::bucket("not needed").into(),
        Dir::read_write("/h", "/in").max_bytes(5).into(),
        Scratch::at("/elsewhere").into(),
        Log::level(Level::Info).into(),
    ];
    let narrowed = needs.narrow(grants.into_iter().map(|grant| grant.0).collect()).unwrap();
    let (kept, missing) = (narrowed.kept, narrowed.missing);
    assert_eq!(narrowed.dropped.len(), 6);
    let kept: Vec<String> = kept.iter().map(|kind| format!("{kind:?}")).collect();
    let expected: Vec<Grant> = vec![
        Http::to("https://*.x.example").get("/v1/*").into(),
        Env::var("LANG", "C").into(),
        Secrets::of(Secret::of_host("a")).into(),
        Functions::named("f").into(),
        KeyValue::bucket("state").read_only().into(),
        KeyValue::bucket("more").read_only().into(),
        Dir::read_only("/h", "/in").into(),
        Log::level(Level::Info).into(),
    ];
    assert_eq!(kept, expected.iter().map(|grant| format!("{:?}", grant.0)).collect::<Vec<_>>());
    let lines: Vec<&str> = missing.iter().map(|missing| missing.toml.as_str()).collect();
    assert_eq!(
        lines,
        [
            "env = { \"HOME\" = \"..\" }",
            "functions = [\"g\\\"h\"]",
            "keyvalue = [{ bucket = \"more\", mode = \"rw\" }]",
            "files = [{ host = \"..\", guest = \"/out\", mode = \"rw\" }]",
            "scratch = { guest = \"/tmp\" }",
            "http = [{ to = \"https://b.example\" }]"
        ]
    );
    lines.iter().for_each(|line| assert!(Policy::from_toml(line).is_ok(), "{line}"));
    assert_eq!(missing[5].rust, "`.grant(Http::to(\"https://b.example\"))`");
}

#[test]
fn needs_never_widen_clocks() {
    let kept = |needs: &str, clocks: Clocks| {
        let narrowed = Needs::from_toml(needs).unwrap().narrow(vec![Kind::Clocks(clocks)]).unwrap();
        narrowed.kept.len() == 1
    };
    assert!(kept("", Clocks::simulated(SystemTime::UNIX_EPOCH)) && kept("", Clocks::coarse(Duration::from_secs(1))));
    assert!(!kept("", Clocks::fine()) && !kept("", Clocks::coarse(Duration::from_micros(1))));
    assert!(kept("clocks = \"fine\"", Clocks::fine()));
}

#[test]
fn needs_name_no_secrets_places_and_have_a_bound() {
    for text in [
        "http = [{ to = \"https://a.example\", bearer = \"t\" }]",
        "http = [{ to = \"https://a.example\", timeout_ms = 1 }]",
        "env = { A = \"1\" }",
        "clocks = { coarse_ms = 1 }",
        &format!("env = [\"{}\"]", "x".repeat(MAX_NEEDS)),
    ] {
        assert!(Needs::from_toml(text).is_err(), "{text}");
    }
}
