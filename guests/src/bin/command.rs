//! A command line program as any other, here to show WASI 0.2 below Rust's std: prints its arguments and environment,
//! copies stdin to stdout in upper case, writes a line to stderr. `--exit N` ends it with that code, of which WASI 0.2
//! only passes on whether it is 0.

use std::io::{self, Read, Write};
use std::process::ExitCode;

fn main() -> io::Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut out = io::stdout().lock();
    for arg in &args {
        writeln!(out, "arg {arg}")?;
    }
    for (name, value) in std::env::vars() {
        writeln!(out, "env {name}={value}")?;
    }

    let mut stdin = io::stdin().lock();
    let mut chunk = [0; 4096];
    loop {
        let len = stdin.read(&mut chunk)?;
        if len == 0 {
            break;
        }
        out.write_all(&chunk[..len].to_ascii_uppercase())?;
    }
    out.flush()?;

    let code = exit_code(&args);
    eprintln!("done: {code}");
    Ok(ExitCode::from(code))
}

/// The number after `--exit`, 0 without it, 255 if it is no exit code.
fn exit_code(args: &[String]) -> u8 {
    match args.iter().position(|arg| arg == "--exit") {
        Some(at) => args.get(at + 1).and_then(|code| code.parse().ok()).unwrap_or(255),
        None => 0,
    }
}
