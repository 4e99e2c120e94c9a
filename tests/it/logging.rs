//! What guests log: records to the host, bounded and fit to show.

use crate::support::{built, host};
use isopod::{
    CallOptions, Command, Config, Function, Host, Level, Limits, Log, LogRecord, LogSink, LogSource, MIB, Stdin,
};
use std::sync::{Arc, Mutex};

/// The tenant, context and message, and the call.
type Record = (String, LogSource, Level, String);

#[derive(Clone, Default)]
struct Records(Arc<Mutex<Vec<Record>>>);

impl LogSink for Records {
    fn log(&self, record: &LogRecord<'_>) {
        assert_eq!(record.function, "guest");
        let text = format!("{}|{}|{}", record.tenant, record.context, record.message);
        self.0.lock().unwrap().push((text, record.source, record.level, record.call_id.to_string()));
    }
}

async fn ambient(host: &Host, log: Log) -> Function {
    let builder = host.function("guest").component_file(built("ambient")).grant(Config::var("a", "1"));
    builder.grant(log).limits(Limits::default().log(MIB)).load().await.unwrap()
}

#[tokio::test]
async fn records_tell_whose_they_are() {
    let records = Records::default();
    let host = Host::builder().log(records.clone()).build().unwrap();
    let guest = ambient(&host, Log::level(Level::Info)).await.tenant("acme");
    let reply = guest.call::<()>("log", ("db", "two\nlines \u{1b}[31m", 6)).await.unwrap();
    guest.call::<()>("log", ("db", "again", 3)).await.unwrap();
    let told = records.0.lock().unwrap();
    let levels: Vec<Level> = told.iter().map(|record| record.2).collect();
    assert_eq!(levels, [Level::Info, Level::Warn, Level::Error, Level::Critical, Level::Info]);
    assert_eq!((told[0].0.as_str(), told[0].1), ("acme|db|two lines \\u{1b}[31m", LogSource::Logging));
    assert_eq!(told[0].3, told[3].3, "one call");
    assert_ne!(told[0].3, told[4].3, "another call");
    let lines = &reply.output().log;
    assert_eq!((lines.len(), lines[0].level, lines[0].message.as_str()), (4, Level::Info, "two lines \\u{1b}[31m"));
}

#[tokio::test]
async fn a_flood_is_bounded_by_bytes_and_by_rate() {
    let records = Records::default();
    let host = Host::builder().log(records.clone()).build().unwrap();
    let guest = ambient(&host, Log::default().per_second(100)).await;
    let flood = guest.call::<()>("log", ("", "x".repeat(1_000), 5_000)).await.unwrap();
    assert!(flood.usage.log_bytes <= MIB && flood.usage.log_dropped > 4_000_000, "{:?}", flood.usage);
    assert!(flood.output().log.len() < 1_000);
    let told = records.0.lock().unwrap().len();
    assert!((100..1_000).contains(&told), "{told} at 100 a second");
}

#[tokio::test]
async fn lines_of_output_are_records() {
    let records = Records::default();
    let host = Host::builder().log(records.clone()).build().unwrap();
    let command = host.function("guest").component_file(built("command")).grant(Stdin::bytes("one\ntwo\r\nth\u{7}ree"));
    let command = command.load().await.unwrap();
    command.command(Command::new()).await.unwrap();
    let told: Vec<_> = records.0.lock().unwrap().iter().map(|record| (record.0.clone(), record.1, record.2)).collect();
    let out = |text: &str| (format!("||{text}"), LogSource::Stdout, Level::Info);
    for line in ["ONE", "TWO", "TH\\u{7}REE"] {
        assert!(told.contains(&out(line)), "{line}: {told:?}");
    }
    assert!(told.iter().any(|record| record.1 == LogSource::Stderr && record.2 == Level::Warn), "{told:?}");
    assert!(host.function("quiet").component_file(built("text-stats")).grant(Log::default()).load().await.is_err());
}

#[tokio::test]
async fn without_anybody_who_listens_it_goes_on() {
    let guest = ambient(&host(), Log::default()).await;
    let reply = guest.call::<()>("log", ("", "hello", 2)).await.unwrap();
    assert_eq!(reply.output().log.len(), 2);
}
