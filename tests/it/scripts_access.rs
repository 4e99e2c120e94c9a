//! What scripts reach by their grants: requests, buckets, settings, secrets, other functions; and URLs.

use crate::server::{self, Body, Server};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody};
use isopod::{
    CallOptions, Config, Error, ErrorKind, Function, Functions, Grant, Host, Http, KeyValue, Language, Limits, Reply,
    ScriptBuilder, Secret, Secrets, ms,
};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier, LazyLock};

static HOST: LazyLock<Host> =
    LazyLock::new(|| Host::builder().secret(Secret::value("token", "s3cret-v4lue".to_owned())).build().unwrap());

fn script(name: &str, source: &str) -> ScriptBuilder {
    HOST.script(name, Language::JavaScript, source).limits(Limits::default().deadline(ms(5_000)))
}

async fn load(source: &str, grants: impl IntoIterator<Item = impl Into<Grant>>) -> Function {
    grants.into_iter().fold(script("rule", source), |script, grant| script.grant(grant)).load().await.unwrap()
}

async fn run(source: &str, grants: impl IntoIterator<Item = impl Into<Grant>>) -> Result<Reply<Value>, Error> {
    load(source, grants).await.call::<Value>("default", ()).await
}

/// What a script gives that is granted this.
async fn value(source: &str, grants: impl IntoIterator<Item = impl Into<Grant>>) -> Value {
    run(source, grants).await.unwrap_or_else(|e| panic!("{e:?}")).value
}

const NOTHING: [Grant; 0] = [];

/// A server that tells what it saw.
async fn serve() -> Server {
    server::serve(None, |parts, body| {
        let header = |name: &str| parts.headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
        let path = parts.uri.path();
        let (status, location) = match path.strip_prefix("/to/") {
            Some(to) => (302, to.replace('|', "/")),
            None => (path.strip_prefix("/status/").map_or(200, |status| status.parse().unwrap()), String::new()),
        };
        let saw = json!({
            "method": parts.method.as_str(),
            "path": parts.uri.path_and_query().unwrap().as_str(),
            "type": header("content-type"),
            "key": header("x-key"),
            "authorization": header("authorization"),
            "host": header("host"),
            "body": String::from_utf8_lossy(&body),
        });
        let body: Body = match path {
            "/large" => Full::new(Bytes::from(vec![b'x'; 300_000])).boxed_unsync(),
            // It begins, and never ends.
            "/endless" => StreamBody::new(futures_util::stream::pending()).boxed_unsync(),
            _ => Full::new(Bytes::from(saw.to_string())).boxed_unsync(),
        };
        let response = http::Response::builder().status(status).header("x-saw", "yes").header("location", location);
        response.body(body).unwrap()
    })
    .await
}

fn with(source: &str, server: &Server) -> String {
    source.replace("ORIGIN", &format!("http://{}", server.address))
}

fn origin(server: &Server) -> Http {
    Http::to(format!("http://{}", server.address))
}

#[tokio::test]
async fn requests_go_where_a_grant_says() {
    let server = serve().await;
    let source = with(
        r#"export default async () => {
            const plain = await fetch("ORIGIN/a?b=1#c", { headers: { "X-Key": "k", Host: "evil" } });
            const posted = await fetch(new Request("ORIGIN/p", { method: "post", body: JSON.stringify({ n: 1 }), headers: [["content-type", "application/json"]] }));
            const form = await fetch(new URL("/f", "ORIGIN"), { method: "PUT", body: new URLSearchParams({ a: "b c" }) });
            const failed = await fetch("ORIGIN/status/404");
            return [
                plain.status, plain.ok, plain.url, plain.headers.get("X-Saw"), await plain.json(),
                await posted.json(), JSON.parse(await form.text()), failed.status, failed.ok, plain.bodyUsed, failed.bodyUsed,
            ];
        }"#,
        &server,
    );
    let found = value(&source, [origin(&server)]).await;
    let url = format!("http://{}/a?b=1#c", server.address);
    assert_eq!(found[0], 200);
    assert_eq!((&found[1], &found[2], &found[3]), (&json!(true), &json!(url), &json!("yes")));
    assert_eq!(found[4]["path"], "/a?b=1");
    assert_eq!((&found[4]["key"], &found[4]["host"]), (&json!("k"), &json!(server.address.to_string())));
    assert_eq!(
        (&found[5]["method"], &found[5]["type"], &found[5]["body"]),
        (&json!("POST"), &json!("application/json"), &json!(r#"{"n":1}"#))
    );
    assert_eq!(
        (&found[6]["method"], &found[6]["type"], &found[6]["body"]),
        (&json!("PUT"), &json!("application/x-www-form-urlencoded;charset=UTF-8"), &json!("a=b+c"))
    );
    assert_eq!(found.as_array().unwrap()[7..], [json!(404), json!(false), json!(true), json!(false)]);

    let before = server.connections.load(Ordering::SeqCst);
    let denied = with("export default async () => {\n  await fetch('ORIGIN/b');\n}", &server);
    let error = run(&denied, [origin(&server).get("/a")]).await.unwrap_err();
    let thrown = error.exception().unwrap();
    assert_eq!(
        (error.kind(), thrown.name(), thrown.line()),
        (ErrorKind::Thrown, "NotAllowedError", Some(2)),
        "{error}"
    );
    let explained = error.denials()[0].explain();
    assert!(explained.contains(".get(\"/b\"))`"), "{explained}");
    assert_eq!(server.connections.load(Ordering::SeqCst), before, "a refused request went out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_overlap() {
    // Neither is answered before both are there.
    let both = Arc::new(Barrier::new(2));
    let server = server::serve(None, move |_, _| {
        both.wait();
        http::Response::new(Full::new(Bytes::from_static(b"met")).boxed_unsync())
    })
    .await;
    let source = "export default async () => (await Promise.all([fetch('ORIGIN/1'), fetch('ORIGIN/2')].map(async f => (await f).text())))";
    assert_eq!(value(&with(source, &server), [origin(&server)]).await, json!(["met", "met"]));
}

/// More than may be under way at once wait for each other, though none is read before the last has begun.
#[tokio::test]
async fn requests_beyond_those_under_way_wait() {
    let server = serve().await;
    let source = "export default async () => {
        const all = await Promise.all(Array.from({ length: 12 }, (_, n) => fetch('ORIGIN/' + n)));
        return (await Promise.all(all.map(r => r.json()))).map(r => r.path);
    }";
    let paths = value(&with(source, &server), [origin(&server).in_flight(2)]).await;
    assert_eq!(paths, json!((0..12).map(|n| format!("/{n}")).collect::<Vec<_>>()));
}

#[tokio::test]
async fn bodies_come_in_pieces_or_are_left() {
    let server = serve().await;
    let source = "export default async () => {
        let pieces = 0, length = 0;
        for await (const piece of (await fetch('ORIGIN/large')).body) { pieces++; length += piece.length; }
        const reader = (await fetch('ORIGIN/large')).body.getReader();
        let read = 0;
        for (let got; !(got = await reader.read()).done; ) read += got.value.length;
        const left = await fetch('ORIGIN/endless');
        const twice = await fetch('ORIGIN/a');
        await twice.text();
        return [pieces > 1, length, read, left.status, await twice.text().catch(e => e.name)];
    }";
    let found = value(&with(source, &server), [origin(&server)]).await;
    assert_eq!(found, json!([true, 300_000, 300_000, 200, "TypeError"]));
    let source = "export default async () => (await fetch('ORIGIN/large')).text()";
    let error = run(&with(source, &server), [origin(&server).response_bytes(1_000)]).await.unwrap_err();
    assert!(error.to_string().contains("size exceeds limit"), "{error}");
    let source = "export default async () => (await fetch('ORIGIN/endless')).text()";
    let error = run(&with(source, &server), [origin(&server).timeout(ms(50))]).await.unwrap_err();
    assert_eq!(error.exception().unwrap().name(), "TimeoutError", "{error}");
    let source = "export default async () => { await fetch('ORIGIN/', { method: 'POST', body: 'x'.repeat(2000) }) }";
    let error = run(&with(source, &server), [origin(&server).request_bytes(1_000)]).await.unwrap_err();
    assert!(error.to_string().contains("size exceeds limit"), "{error}");
}

#[tokio::test]
async fn redirects_are_requests_like_others() {
    let (here, there) = (serve().await, serve().await);
    let source = with(
        r#"export default async (to) => {
            const headers = { authorization: "Basic x", "x-key": "k" };
            const same = await fetch("ORIGIN/to/|next", { method: "POST", body: "b", headers });
            const other = await fetch("ORIGIN/to/" + to.replaceAll("/", "|"), { headers });
            const manual = await fetch("ORIGIN/to/|next", { redirect: "manual" });
            const refused = await fetch("ORIGIN/to/|next", { redirect: "error" }).catch(e => e.message);
            const round = await fetch("ORIGIN/to/").catch(e => e.message);
            const elsewhere = await fetch("ORIGIN/to/http:||127.0.0.1:1|").catch(e => e.name);
            return [await same.json(), same.redirected, same.url, await other.json(), manual.status, refused, round, elsewhere];
        }"#,
        &here,
    );
    let rule = load(&source, [origin(&here), origin(&there)]).await;
    let to = format!("http://{}/x", there.address);
    let found = rule.call::<Value>("default", (to,)).await.unwrap_or_else(|e| panic!("{e:?}")).value;
    assert_eq!(
        (&found[0]["method"], &found[0]["path"], &found[0]["body"]),
        (&json!("GET"), &json!("/next"), &json!(""))
    );
    assert_eq!(found[0]["authorization"], "Basic x", "the origin is the same");
    assert_eq!((&found[1], &found[2]), (&json!(true), &json!(format!("http://{}/next", here.address))));
    assert_eq!((&found[3]["authorization"], &found[3]["key"]), (&json!(""), &json!("k")), "it is another one's");
    assert_eq!(found[4], 302);
    assert!(found[5].as_str().unwrap().ends_with("redirects"), "{found}");
    assert!(found[6].as_str().unwrap().ends_with("again and again"), "{found}");
    assert_eq!(found[7], "NotAllowedError");
}

#[tokio::test]
async fn buckets_keep_what_scripts_put_there() {
    let source = r#"export default async () => {
        const found = [await kv.get("none")];
        await kv.set("text", "é");
        await kv.set("json", { a: [1, null] });
        await kv.set("bytes", new Uint8Array([0, 255]));
        found.push(await kv.get("text"), await kv.get("json", "json"), [...await kv.get("bytes", "bytes")]);
        found.push(await kv.increment("n"), await kv.increment("n", 41), await kv.increment("n", -2), await kv.get("n"));
        found.push(await kv.list(), await kv.list({ prefix: "te" }), await kv.list({ after: "json" }));
        await kv.delete("text");
        await kv.bucket("other").set("text", "there");
        found.push(await kv.get("text"), await kv.bucket("other").get("text"));
        found.push(await kv.set("u", undefined).catch(e => e.message), await kv.get("n", "xml").catch(e => e.name));
        return found;
    }"#;
    let grants = || [KeyValue::bucket("first"), KeyValue::bucket("other")];
    let rule = load(source, grants()).await.tenant("acme");
    let found = rule.call::<Value>("default", ()).await.unwrap_or_else(|e| panic!("{e:?}")).value;
    let keys = |keys: &[&str]| json!({ "keys": keys });
    assert_eq!(
        found,
        json!([
            null,
            "é",
            { "a": [1, null] },
            [0, 255],
            1,
            42,
            40,
            "40",
            keys(&["bytes", "json", "n", "text"]),
            keys(&["text"]),
            keys(&["n", "text"]),
            null,
            "there",
            "a value is a text, bytes, or what has a form in JSON",
            "TypeError"
        ])
    );
    let look = load("export default () => kv.get('n')", grants()).await;
    let seen =
        async |tenant: &'static str| look.clone().tenant(tenant).call::<Value>("default", ()).await.unwrap().value;
    assert_eq!((seen("acme").await, seen("other").await), (json!("40"), json!(null)));
}

#[tokio::test]
async fn buckets_are_used_as_they_are_granted() {
    for (source, grant, name, says) in [
        ("kv.set('a', 'b')", Some(KeyValue::bucket("x").read_only()), "NotAllowedError", "not granted for this use"),
        ("kv.get('a')", Some(KeyValue::bucket("x").prefix("b/")), "NotAllowedError", "not granted"),
        ("kv.list({ prefix: 'a' })", Some(KeyValue::bucket("x").prefix("b/")), "NotAllowedError", "not granted"),
        ("kv.bucket('y').get('a')", Some(KeyValue::bucket("x")), "NotAllowedError", "not granted"),
        ("kv.get('a')", None, "NotAllowedError", "not granted"),
        (
            "kv.set('a', 'bcd')",
            Some(KeyValue::bucket("q").max_value_bytes(2)),
            "OperationError",
            "more than the 2 allowed",
        ),
        ("kv.set('a', 'bcd')", Some(KeyValue::bucket("q").max_total_bytes(3)), "OperationError", "quota is 3 bytes"),
        ("kv.set('t', 'x').then(() => kv.increment('t'))", Some(KeyValue::bucket("x")), "OperationError", "no number"),
        ("kv.increment('n', 0.5)", Some(KeyValue::bucket("x")), "TypeError", "integer"),
    ] {
        let source = format!("export default async () => {{\n await {source} }}");
        let denies = name == "NotAllowedError";
        let error = run(&source, grant).await.unwrap_err();
        let thrown = error.exception().unwrap();
        assert_eq!((thrown.name(), thrown.line()), (name, Some(2)), "{error}");
        assert!(thrown.message().contains(says), "{error}");
        assert_eq!(error.denials().len(), usize::from(denies), "{source}: {error:?}");
    }
}

#[tokio::test]
async fn secrets_are_used_and_not_read() {
    let (here, there) = (serve().await, serve().await);
    let secret = || Secret::of_host("token");
    let source = with(
        r#"export default async (to) => {
            const token = secrets.get("token");
            console.log(token, { token }, `${token}`);
            const headers = new Headers({ authorization: token.prefixed("Bearer ") });
            headers.set("x-key", token);
            const sent = await (await fetch("ORIGIN/s", { headers })).json();
            const moved = await (await fetch("ORIGIN/to/" + to.replaceAll("/", "|"), { headers })).json();
            return [
                String(token), JSON.stringify({ token }), headers.get("x-key"), [...headers][0][1],
                sent.authorization, sent.key, moved.authorization, moved.key,
                await token.equals("s3cret-v4lue"), await token.equals("other"), await token.reveal().catch(e => e.name),
            ];
        }"#,
        &here,
    );
    let grants = || [Grant::from(origin(&here).secret(secret())), origin(&there).into(), Secrets::of(secret()).into()];
    let rule = load(&source, grants()).await;
    let reply = rule
        .call::<Value>("default", (format!("http://{}/x", there.address),))
        .await
        .unwrap_or_else(|e| panic!("{e:?}"));
    // The server got the value, and its answer is shown without.
    assert_eq!(
        reply.value,
        json!([
            "[secret]",
            "{\"token\":\"[secret]\"}",
            "[secret]",
            "[secret]",
            "Bearer ************",
            "************",
            "",
            "",
            true,
            false,
            "NotAllowedError"
        ])
    );
    assert_eq!(reply.output().log[0].message, "[secret] { token: [secret] } [secret]");
    assert!(reply.denials()[0].explain().contains(".reveal()"), "{:?}", reply.denials());
    let read = "export default () => secrets.get('token').reveal()";
    assert_eq!(value(read, [Secrets::of(secret()).reveal()]).await, "s3cret-v4lue");
    let error = run("export default () => secrets.get('tokem').reveal()", [Secrets::of(secret())]).await.unwrap_err();
    assert_eq!(error.exception().unwrap().name(), "NotAllowedError");
    assert!(error.denials()[0].explain().contains("the nearest is \"token\""), "{:?}", error.denials());
    // What stands for it means nothing where it is not granted.
    let source =
        "export default async () => { await fetch('ORIGIN/', { headers: { 'x-key': secrets.get('token') } }) }";
    let error =
        run(&with(source, &there), [Grant::from(origin(&there)), Secrets::of(secret()).into()]).await.unwrap_err();
    assert!(error.denials()[0].explain().contains("is not granted the secret"), "{:?}", error.denials());
}

#[tokio::test]
async fn settings_are_there_that_were_granted() {
    let source = "export default () => [config.get('rate'), config.get('other') === undefined]";
    assert_eq!(value(source, [Config::var("rate", "0.2")]).await, json!(["0.2", true]));
    assert_eq!(value("export default () => config.get('rate') === undefined", NOTHING).await, json!(true));
}

#[tokio::test]
async fn other_functions_can_be_called() {
    let _add = script("access-add", "export default ({ a, b }) => a + b").callable().load().await.unwrap();
    let _fails =
        script("access-fails", "export default () => { throw new Error('no') }").callable().load().await.unwrap();
    let wat = r#"(component
        (core module $m (func (export "sub") (param i32 i32) (result i32) (i32.sub (local.get 0) (local.get 1))))
        (core instance $i (instantiate $m))
        (func (export "sub") (param "a" u32) (param "b" u32) (result u32) (canon lift (core func $i "sub"))))"#;
    let _sub = HOST.function("access-sub").component_wat(wat).callable().load().await.unwrap();
    let source = r#"export default async () => [
        ...await Promise.all([call("access-add", { a: 1, b: 2 }), call("access-add", { a: 3, b: 4 })]),
        await call("access-sub", [9, 4], "sub"),
        ...await Promise.all(["access-fails", "other", "access-gone"].map(name => call(name).catch(e => e.name))),
        await call("access-sub", [9], "sub").catch(e => e.name),
        await call("access-add").catch(e => e.name),
    ]"#;
    let names = ["access-add", "access-sub", "access-fails", "access-gone"];
    let found = value(source, names.map(Functions::named)).await;
    assert_eq!(
        found,
        json!([3, 7, 5, "OperationError", "NotAllowedError", "NotAllowedError", "TypeError", "OperationError"])
    );
}

#[tokio::test]
async fn what_other_functions_use_is_the_callers() {
    let spin = "export default (n) => { let x = 0; for (let i = 0; i < n; i++) x += i; return x }";
    let _spin = script("access-spin", spin).limits(Limits::default().fuel(1 << 40)).callable().load().await.unwrap();
    let source = "export default async (n) => { await Promise.all([call('access-spin', n), call('access-spin', n)]) ; return 0 }";
    let rule =
        script("access-spins", source).grant(Functions::named("access-spin")).limits(Limits::default().fuel(1 << 40));
    let rule = rule.load().await.unwrap();
    let fuel = async |n: u32| rule.call::<Value>("default", (n,)).await.unwrap().usage.fuel.unwrap();
    let (little, much) = (fuel(1).await, fuel(20_000).await);
    let one =
        HOST.script("alone", Language::JavaScript, spin).limits(Limits::default().fuel(1 << 40)).load().await.unwrap();
    let one = one.call::<Value>("default", (20_000,)).await.unwrap().usage.fuel.unwrap();
    assert!(much - little > one && much - little < 2 * one, "{little} {much} {one}");
    // Each may have what those before it left, and no more.
    let tight = script("access-tight", source).grant(Functions::named("access-spin"));
    let tight = tight.limits(Limits::default().fuel(little + one)).load().await.unwrap();
    let error = tight.call::<Value>("default", (20_000,)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Thrown | ErrorKind::OutOfFuel), "{error:?}");
    let itself = script("access-itself", "export default n => call('access-itself', n + 1).catch(e => [n, e.name])");
    let itself = itself
        .grant(Functions::named("access-itself"))
        .callable()
        .limits(Limits::default().depth(3).deadline(ms(5_000)));
    let found = itself.load().await.unwrap().call::<Value>("default", (0,)).await.unwrap().value;
    assert_eq!(found, json!([3, "QuotaExceededError"]));
}

/// A table of expressions and what they give, for what needs no grant.
#[tokio::test]
async fn urls_headers_and_responses_are_those_of_the_web() {
    let cases = [
        (
            "new URL('../c?q=1#h', 'https://u:p@EXAMPLE.com:8443/a/b').href",
            json!("https://u:p@example.com:8443/c?q=1#h"),
        ),
        ("new URL('http://bücher.example').hostname", json!("xn--bcher-kva.example")),
        ("[URL.canParse('/a'), URL.canParse('/a', 'https://b.c'), URL.parse('no')]", json!([false, true, null])),
        (
            "(() => { try { new URL('no') } catch (e) { return e.name + ': ' + e.message } })()",
            json!("TypeError: invalid URL: no"),
        ),
        (
            "(u => { u.port = 81; u.pathname = 'x y'; u.searchParams.append('a', 'b&c'); return String(u) })(new URL('http://h/?q=1'))",
            json!("http://h:81/x%20y?q=1&a=b%26c"),
        ),
        (
            "(u => { const p = u.searchParams; u.search = '?z=1'; return [p.get('z'), p.get('q')] })(new URL('http://h/?q=1'))",
            json!(["1", null]),
        ),
        ("JSON.stringify({ u: new URL('http://h/') })", json!(r#"{"u":"http://h/"}"#)),
        (
            "[...new URLSearchParams('?a=1&b=%C3%A9+x&a=2&&c=%zz')]",
            json!([["a", "1"], ["b", "é x"], ["a", "2"], ["c", "%zz"]]),
        ),
        ("String(new URLSearchParams({ 'a b': \"(~)*é'!\" }))", json!("a+b=%28%7E%29*%C3%A9%27%21")),
        (
            "(p => { p.set('a', 9); p.delete('b'); p.sort(); return [String(p), p.size, p.getAll('a'), p.has('c', '3')] })(new URLSearchParams('c=3&a=1&b=2&a=4'))",
            json!(["a=9&c=3", 2, ["9"], true]),
        ),
        ("[...new Headers({ B: ' x ', a: 1 })]", json!([["a", "1"], ["b", "x"]])),
        (
            "(h => { h.append('A', '2'); return [h.get('a'), h.has('A'), h.get('c')] })(new Headers([['a', '1']]))",
            json!(["1, 2", true, null]),
        ),
        ("(() => { try { new Headers({ 'a b': '1' }) } catch (e) { return e.name } })()", json!("TypeError")),
        ("(() => { try { new Headers({ a: '1\\r\\nb: 2' }) } catch (e) { return e.name } })()", json!("TypeError")),
        ("Response.json({ a: 1 }).json()", json!({ "a": 1 })),
        (
            "(r => [r.status, r.headers.get('content-type'), r.url])(new Response('x', { status: 201 }))",
            json!([201, "text/plain;charset=UTF-8", ""]),
        ),
        (
            "(() => { try { new Request('http://h', { body: 'x' }) } catch (e) { return e.name } })()",
            json!("TypeError"),
        ),
        (
            "(r => [r.method, r.url, r.headers.get('a')])(new Request(new Request('http://h', { method: 'put', headers: { a: 'b' } })))",
            json!(["PUT", "http://h/", "b"]),
        ),
        ("fetch('no').catch(e => e.name)", json!("TypeError")),
        ("fetch('data:,x').catch(e => e.name)", json!("NotAllowedError")),
        ("fetch('https://example.com').catch(e => e.name)", json!("NotAllowedError")),
        ("call('f').catch(e => e.name)", json!("NotAllowedError")),
        ("kv.get('k').catch(e => e.name)", json!("NotAllowedError")),
        ("(() => { try { secrets.get('s') } catch (e) { return e.name } })()", json!("NotAllowedError")),
    ];
    for (expression, expected) in cases {
        let source = format!("export default async () => {expression}");
        assert_eq!(value(&source, NOTHING).await, expected, "{expression}");
    }
}

/// What the declarations say is there, and what is there they say.
#[tokio::test]
async fn declarations_are_of_what_scripts_find() {
    let words = isopod::SCRIPT_TYPES.lines().filter_map(|line| line.strip_prefix("declare "));
    let mut declared: Vec<&str> = words
        .filter_map(|line| line.split_once(' '))
        .map(|(_, rest)| rest.split(|c: char| !c.is_alphanumeric()).next().unwrap())
        .collect();
    declared.dedup();
    let list = json!(declared);
    let missing = format!("{list}.filter(name => typeof globalThis[name] === 'undefined')");
    assert_eq!(value(&format!("export default () => {missing}"), NOTHING).await, json!([]));
    // Those of the web and of isopod are not of the language, whose begin with a capital letter or are old.
    let own = "Object.getOwnPropertyNames(globalThis).filter(name => /^[a-z]/.test(name))";
    let language = [
        "globalThis",
        "undefined",
        "parseInt",
        "parseFloat",
        "isNaN",
        "isFinite",
        "decodeURI",
        "escape",
        "unescape",
        "eval",
        "queueMicrotask",
    ];
    let undeclared = format!(
        "{own}.filter(name => !{list}.includes(name) && !{}.includes(name) && !/URI/.test(name))",
        json!(language)
    );
    assert_eq!(value(&format!("export default () => {undeclared}"), NOTHING).await, json!([]));
}

/// What is given up leaves room at once, and what is held in the host for a script is bounded in bytes.
#[tokio::test]
async fn what_is_under_way_is_bounded_in_number_and_bytes() {
    let source = "export default () => { for (let n = 0; n < 20000; n++) clearTimeout(setTimeout(() => {}, 1e9)); return 'done' }";
    assert_eq!(value(source, NOTHING).await, "done");
    let store = [KeyValue::bucket("bounded").max_value_bytes(1 << 20)];
    let source = "export default async () => {
        await kv.set('k', 'x'.repeat(1 << 20));
        const all = await Promise.allSettled(Array.from({ length: 20 }, () => kv.get('k')));
        const full = all.filter(one => one.reason instanceof RangeError).length;
        return [full > 0, full < 20, (await kv.get('k')).length];
    }";
    assert_eq!(value(source, store).await, json!([true, true, 1 << 20]));
}

/// What is over at once keeps nothing else from going on.
#[tokio::test]
async fn timers_of_no_length_let_requests_go_on() {
    let server = serve().await;
    let source = "export default async () => {
        let done = 0;
        fetch('ORIGIN/').then(r => r.text()).then(() => done = 1);
        while (!done) await new Promise(over => setTimeout(over, 0));
        await kv.set('k', 'v');
        done = 0;
        setTimeout(() => done = 1, 5);
        while (!done) await kv.get('k');
        return 'both';
    }";
    let grants = [Grant::from(origin(&server)), KeyValue::bucket("spin").into()];
    assert_eq!(value(&with(source, &server), grants).await, "both");
}

/// Bodies that nobody reads have no room that one which is read needs.
#[tokio::test]
async fn a_body_is_read_whatever_others_hold() {
    let server =
        server::serve(None, |_, _| http::Response::new(Full::new(Bytes::from(vec![b'x'; 6_000_000])).boxed_unsync()))
            .await;
    let source = "export default async () => {
        const [a, b, c] = await Promise.all(['a', 'b', 'c'].map(path => fetch('ORIGIN/' + path)));
        return [(await c.text()).length, (await b.text()).length, (await a.text()).length];
    }";
    let found = value(&with(source, &server), [origin(&server)]).await;
    assert_eq!(found, json!([6_000_000, 6_000_000, 6_000_000]));
}

/// Code of a script that runs while a task is begun may begin others.
#[tokio::test]
async fn a_task_may_be_begun_within_another() {
    let source = "export default async () => {
        let inner = 0;
        const key = { toString() { for (let n = 0; n < 16; n++) setTimeout(() => inner++, 1); return 'k' } };
        await Promise.all([kv.get(key), kv.get(key)]);
        await new Promise(over => setTimeout(over, 20));
        return inner;
    }";
    assert_eq!(value(source, [KeyValue::bucket("within")]).await, 32);
    let source = "export default async () => {
        Array.prototype.flatMap = () => ({ length: 2 ** 33 + 2, 0: 'a', 1: 'b' });
        return fetch('https://example.com').catch(e => e.name);
    }";
    assert_eq!(value(source, NOTHING).await, "RangeError");
}

/// A script that is over before what it called is pays for it all the same.
#[tokio::test]
async fn what_is_called_is_paid_for_whoever_waits() {
    let spin = "export default (n) => { let x = 0; for (let i = 0; i < n; i++) x += i; return x }";
    let fuel = || Limits::default().fuel(1 << 40).deadline(ms(5_000));
    let _spin = script("access-paid", spin).limits(fuel()).callable().load().await.unwrap();
    let source = "export default async (n) => {
        call('access-paid', n);
        await new Promise(over => setTimeout(over, 1));
        return 0;
    }";
    let rule =
        script("access-pays", source).grant(Functions::named("access-paid")).limits(fuel()).load().await.unwrap();
    let used = async |n: u32| rule.call::<Value>("default", (n,)).await.unwrap().usage.fuel.unwrap();
    let alone = script("access-alone", spin).limits(fuel()).load().await.unwrap();
    let alone = async |n: u32| alone.call::<Value>("default", (n,)).await.unwrap().usage.fuel.unwrap();
    let spun = alone(200_000).await - alone(1).await;
    assert!(used(200_000).await - used(1).await >= spun * 9 / 10, "{spun}");
}
