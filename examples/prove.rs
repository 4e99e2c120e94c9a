//! Shows whether the limits hold on this machine: runs isopod's corpus of hostile guests, and prints a table.
//!
//! ```text
//! cargo run --release --features testkit --example prove -- [--rounds N] [--limits JSON] [--seats N] [--only WORD]
//! ```
//!
//! `--limits` takes what `Limits::from_json` reads, such as `{"deadline_ms": 200, "busy_ms": 100}`; `--only` a word in the
//! names of the guests that are to run, or several, as in `loop|memory`. It exits with 1 where something is not held.
//!
//! Run it on a machine that has nothing else to do, for half a minute. "neighbours", "on time" and "memory of the
//! process" NOT held may be the doing of what else ran: run it again, with `--rounds 3`. A limit that is off is NOT held.
//! Anything else is ours to mend: run it with `--only` and the name of the guest, and tell us as SECURITY.md says.

use anyhow::{Context, Result, bail};
use isopod::testkit::{corpus, prove};
use isopod::{Host, Limits};
use std::process::ExitCode;

fn main() -> Result<ExitCode> {
    isopod::compile_worker();
    tokio::runtime::Runtime::new()?.block_on(run())
}

async fn run() -> Result<ExitCode> {
    let (mut rounds, mut limits, mut host, mut only) = (1, Limits::default(), Host::builder(), String::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().with_context(|| format!("{arg} needs a value"))?;
        match arg.as_str() {
            "--rounds" => rounds = value.parse().context("--rounds needs a number")?,
            "--limits" => limits = Limits::from_json(&value)?,
            "--only" => only = value,
            "--seats" => host = host.seats(value.parse().context("--seats needs a number")?),
            _ => bail!("there is no {arg}; there are --rounds, --limits, --seats and --only"),
        }
    }
    let wanted = move |name: &str| only.split('|').any(|word| name.contains(word));
    let names: Vec<&str> = corpus().iter().map(|case| case.name()).collect();
    if !names.iter().any(|name| wanted(name)) {
        bail!("--only leaves no guest; there are: {}", names.join(", "));
    }
    let report = prove(&host.build()?).limits(limits).rounds(rounds).only(move |case| wanted(case.name())).await?;
    println!("{report}");
    Ok(if report.held() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
