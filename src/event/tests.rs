//! Events as the standard has them: what is one, what is none, and that what is written is read back.

use super::*;
use proptest::prelude::*;

fn event() -> Event {
    Event { id: "1".into(), source: "/s".into(), kind: "t".into(), ..Event::default() }
}

fn read(text: &str) -> Result<Event> {
    Event::from_json(text.as_bytes())
}

fn written(event: &Event) -> String {
    String::from_utf8(event.to_json().unwrap()).unwrap()
}

#[test]
fn the_example_of_the_standard_is_read() {
    let event = read(
        r#"{
            "specversion": "1.0", "type": "com.example.someevent", "source": "/mycontext", "subject": null,
            "id": "C234-1234-1234", "time": "2018-04-05T17:31:00Z", "comexampleextension1": "value",
            "comexampleothervalue": 5, "datacontenttype": "application/json", "data": { "appinfoA" : "abc", "n": 1.50 }
        }"#,
    )
    .unwrap();
    assert_eq!((&*event.kind, &*event.source, &event.subject), ("com.example.someevent", "/mycontext", &None));
    assert_eq!(event.extensions[1], ("comexampleothervalue".to_owned(), Attribute::Integer(5)));
    assert_eq!(event.data.as_deref(), Some(&br#"{ "appinfoA" : "abc", "n": 1.50 }"#[..]), "byte by byte");
    assert_eq!(event.attribute("comexampleothervalue").unwrap(), "5");
    assert_eq!(event.attribute("type").unwrap(), "com.example.someevent");
    assert_eq!(event.attribute("none"), None);
}

#[test]
fn a_payload_is_written_by_its_media_type() {
    let with = |kind: Option<&str>, data: &'static [u8]| {
        let event = Event { content_type: kind.map(Into::into), data: Some(data.into()), ..event() };
        let text = written(&event);
        assert_eq!(read(&text).unwrap(), event, "{text}");
        let at = text.rfind(",\"data").unwrap() + 1;
        text[at..text.len() - 1].to_owned()
    };
    assert_eq!(with(Some("application/json"), b"[1,2]"), r#""data":[1,2]"#);
    assert_eq!(with(Some("application/vnd.api+json; charset=utf-8"), b"\"x\""), r#""data":"x""#);
    assert_eq!(with(Some("application/json"), b"null"), r#""data":null"#);
    assert_eq!(with(Some("application/json"), b"no json"), r#""data_base64":"bm8ganNvbg==""#);
    assert_eq!(with(Some("application/json"), b" 1 "), r#""data_base64":"IDEg""#);
    assert_eq!(with(None, b"17"), r#""data":17"#);
    assert_eq!(with(None, b"\xff"), r#""data_base64":"/w==""#);
    assert_eq!(with(Some("text/plain"), b"17"), r#""data":"17""#);
    assert_eq!(with(Some("text/plain"), b"\xff"), r#""data_base64":"/w==""#);
    assert_eq!(with(Some("application/xml"), b"<a/>"), r#""data":"<a/>""#);
    assert_eq!(with(Some("application/octet-stream"), b"abc"), r#""data_base64":"YWJj""#);
    assert_eq!(with(Some("application/octet-stream"), b""), r#""data_base64":"""#);
}

#[test]
fn what_is_no_event_is_refused() {
    let with = |members: &str| format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t"{members}}}"#);
    assert_eq!(read(&with("")).unwrap(), event());
    let members = [
        (r#","Subject":"x""#, "`Subject` is no name"),
        (r#","a b":"x""#, "`a b` is no name"),
        (r#","data_":"x""#, "no name"),
        (r#","é":"x""#, "no name"),
        (r#","x":1.5"#, "neither a string"),
        (r#","x":2147483648"#, "neither a string"),
        (r#","x":[]"#, "neither a string"),
        (r#","x":{"y":1}"#, "neither a string"),
        (r#","x":"1","x":"2""#, "`x` is there twice"),
        (r#","id":"2""#, "`id` is there twice"),
        (r#","x":"\u0007""#, "control character"),
        (r#","x":"\ufdd0""#, "control character"),
        (r#","x":"\ud800""#, "neither a string"),
        (r#","subject":7"#, "`subject` is no string"),
        (r#","subject":"""#, "`subject` is empty"),
        (r#","time":"yesterday""#, "no timestamp"),
        (r#","time":"2018-04-05 17:31:00Z""#, "no timestamp"),
        (r#","time":"2018-04-05T17:31:00""#, "no timestamp"),
        (r#","time":"2018-04-05T17:31:00.Z""#, "no timestamp"),
        (r#","time":"2018-02-30T17:31:00Z""#, "no timestamp"),
        (r#","time":"2018-04-05T25:31:00Z""#, "no timestamp"),
        (r#","datacontenttype":"json""#, "no media type"),
        (r#","datacontenttype":"a b/c""#, "no media type"),
        (r#","dataschema":"relative""#, "no URI"),
        (r#","data":1,"data_base64":"""#, "both"),
        (r#","data_base64":"*""#, "no base64"),
        (r#","data_base64":7"#, "no string"),
    ];
    let whole = [
        (r#"{"id":"1","source":"/s","type":"t"}"#, "no `specversion`"),
        (r#"{"specversion":"0.3","id":"1","source":"/s","type":"t"}"#, "`0.3`, and not `1.0`"),
        (r#"{"specversion":"1.0","source":"/s","type":"t"}"#, "`id` is empty"),
        (r#"{"specversion":"1.0","id":"","source":"/s","type":"t"}"#, "`id` is empty"),
        (r#"{"specversion":"1.0","id":"1","source":"a b","type":"t"}"#, "no URI reference"),
        (r#"{"specversion":"1.0","id":"1","source":"http://[","type":"t"}"#, "no URI reference"),
        ("[]", "expected an object"),
        ("{", "cannot be read"),
        ("", "cannot be read"),
        ("\u{feff}{}", "cannot be read"),
    ];
    let members = members.map(|(members, why)| (with(members), why));
    for (text, why) in members.into_iter().chain(whole.map(|(text, why)| (text.to_owned(), why))) {
        let error = read(&text).expect_err(&text);
        assert_eq!(error.kind(), ErrorKind::WrongArguments);
        assert!(error.to_string().contains(why), "{text}: {error}, not {why}");
    }
    let many: String = (0..200).map(|n| format!(",\"x{n}\":1")).collect();
    assert!(read(&with(&many)).unwrap_err().to_string().contains("too many"));
    let long = with(&format!(",\"x\":\"{}\"", "y".repeat(MAX_VALUE + 1)));
    assert!(read(&long).unwrap_err().to_string().contains("8193 bytes"));
    assert!(read(&with(&format!(",\"data\":{}", "[".repeat(100_000)))).is_err(), "too deep for nobody");
    let wrong = Event { extensions: vec![("a".into(), true.into()), ("a".into(), 1.into())], ..event() };
    assert!(wrong.to_json().unwrap_err().to_string().contains("twice"));
}

#[test]
fn timestamps_are_those_of_rfc_3339() {
    let good = [
        "2018-04-05T17:31:00Z",
        "2018-04-05t17:31:00.123456789z",
        "1990-12-31T23:59:60Z",
        "1937-01-01T12:00:27.87+00:20",
    ];
    for time in good {
        assert!(is_timestamp(time), "{time}");
    }
    for time in [
        "",
        "2018-04-05",
        "2018-04-05T17:31Z",
        "2018-04-05T17:31:00+0100",
        "2018-04-05T17:31:00Z[UTC]",
        "é018-04-05T17:31:00Z",
        "2018-04-05T17:31:0é",
    ] {
        assert!(!is_timestamp(time), "{time}");
    }
}

#[test]
fn a_batch_is_an_array() {
    let events = [event(), Event { subject: Some("x".into()), ..event() }];
    let text = Event::batch_to_json(&events).unwrap();
    assert_eq!(Event::batch_from_json(&text).unwrap(), events);
    assert_eq!(Event::batch_from_json(b"[]").unwrap(), []);
    let error = Event::batch_from_json(br#"[{"specversion":"1.0","id":"1","source":"/s","type":"t"},{}]"#).unwrap_err();
    assert!(error.to_string().contains("event 1 of the batch"), "{error}");
    let error = Event::batch_to_json(&[event(), Event::default()]).unwrap_err();
    assert!(error.to_string().contains("event 1 of the batch"), "{error}");
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        id in "[^\\p{C}]{1,9}", subject in proptest::option::of("[^\\p{C}]{1,9}"),
        kind in proptest::sample::select(vec![None, Some("application/json"), Some("text/csv"), Some("image/png")]),
        data in proptest::option::of(prop_oneof![any::<Vec<u8>>(), "[ -~]{0,9}".prop_map(String::into_bytes)]),
        names in proptest::collection::btree_map("x[a-z0-9]{0,9}", any::<i32>(), 0..4), flag in any::<bool>(),
    ) {
        let mut extensions: Vec<_> = names.into_iter().map(|(name, n)| (name, Attribute::from(n))).collect();
        extensions.push(("flag".into(), flag.into()));
        let event = Event { id, subject, content_type: kind.map(Into::into), data: data.map(Bytes::from), extensions, ..event() };
        prop_assert_eq!(Event::from_json(&event.to_json().unwrap()).unwrap(), event);
    }

    #[test]
    fn nothing_makes_it_panic(text in any::<Vec<u8>>()) {
        if let Ok(event) = Event::from_json(&text) {
            event.check().unwrap();
        }
    }
}
