//! The plugin as a child process: answers stdin with the same text in upper case.
//!
//! With `once` all of stdin is one call. With `serve` each call is its length (four bytes, little endian) and its text, and
//! so is each answer. The process limits itself before it reads anything.

use rustix::process::{Resource, Rlimit, setrlimit};
use std::io::{Read, Result, Write, stdin, stdout};

fn main() -> Result<()> {
    let limit = |resource, most| setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
    limit(Resource::As, 64 << 20)?;
    match std::env::args().nth(1).as_deref() {
        Some("once") => {
            // Seconds for the whole process, so that it is no limit for a call of one that serves many.
            limit(Resource::Cpu, 1)?;
            once()
        }
        Some("serve") => serve(),
        _ => Err(std::io::Error::other("say `once` or `serve`")),
    }
}

fn once() -> Result<()> {
    let mut text = Vec::new();
    stdin().read_to_end(&mut text)?;
    text.make_ascii_uppercase();
    stdout().write_all(&text)
}

/// One write for each answer. An input that ends where a call would begin ends it.
fn serve() -> Result<()> {
    let (mut input, mut output) = (stdin().lock(), stdout().lock());
    let mut frame = vec![0; 4];
    while input.read_exact(&mut frame[..4]).is_ok() {
        let length = u32::from_le_bytes(frame[..4].try_into().unwrap()) as usize;
        frame.resize(4 + length, 0);
        input.read_exact(&mut frame[4..])?;
        frame[4..].make_ascii_uppercase();
        output.write_all(&frame)?;
        output.flush()?;
    }
    Ok(())
}
