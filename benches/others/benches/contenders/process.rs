//! A child process of this package's own program, by pipes.
//!
//! How dear the warm one is depends on where it runs: each call wakes it, which takes long where it is on another core that
//! sleeps. `taskset -c 0 cargo bench` keeps it on the same one.

use super::case;
use crate::cases::Case;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

pub fn cases(text: &'static [u8]) -> Vec<Case> {
    let command = |how| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_upper"));
        command.arg(how).stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    };
    let mut once = command("once");
    let mut warm = Server(command("serve").spawn().unwrap());
    vec![
        case("process_fresh", text, move |text| {
            let mut child = once.spawn().unwrap();
            child.stdin.take().unwrap().write_all(text).unwrap();
            let answer = child.wait_with_output().unwrap();
            assert!(answer.status.success());
            answer.stdout
        }),
        case("process_warm", text, move |text| warm.call(text)),
    ]
}

struct Server(Child);

impl Server {
    fn call(&mut self, text: &[u8]) -> Vec<u8> {
        let (input, output) = (self.0.stdin.as_mut().unwrap(), self.0.stdout.as_mut().unwrap());
        let mut frame = (text.len() as u32).to_le_bytes().to_vec();
        frame.extend_from_slice(text);
        input.write_all(&frame).unwrap();
        output.read_exact(&mut frame[..4]).unwrap();
        let mut answer = vec![0; u32::from_le_bytes(frame[..4].try_into().unwrap()) as usize];
        output.read_exact(&mut answer).unwrap();
        answer
    }
}

impl Drop for Server {
    /// Waiting closes its stdin, at which it ends.
    fn drop(&mut self) {
        let _ = self.0.wait();
    }
}
