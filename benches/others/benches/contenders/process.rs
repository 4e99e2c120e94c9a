//! A child process of this package's own program, by pipes.

use super::case;
use crate::cases::Case;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

pub fn cases(text: &'static [u8]) -> Vec<Case> {
    let command = |how| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_upper"));
        command.arg(how).stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    };
    let mut once = command("once");
    // Ends when its stdin is closed.
    let warm = command("serve").spawn().unwrap();
    let (mut input, mut output) = (warm.stdin.unwrap(), warm.stdout.unwrap());
    vec![
        case("process_fresh", text, move |text| {
            let mut child = once.spawn().unwrap();
            child.stdin.take().unwrap().write_all(text).unwrap();
            let answer = child.wait_with_output().unwrap();
            assert!(answer.status.success());
            answer.stdout
        }),
        case("process_warm", text, move |text| {
            let mut frame = (text.len() as u32).to_le_bytes().to_vec();
            frame.extend_from_slice(text);
            input.write_all(&frame).unwrap();
            output.read_exact(&mut frame[..4]).unwrap();
            let mut answer = vec![0; u32::from_le_bytes(frame[..4].try_into().unwrap()) as usize];
            output.read_exact(&mut answer).unwrap();
            answer
        }),
    ]
}
