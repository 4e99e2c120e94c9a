//! A program that uses files as any other, by Rust's std below WASI 0.2: makes a directory in `/work`, a file in it, reads
//! both, and removes them again. It takes no arguments: Debian's libc looks for directories whenever memory is given to
//! the host, which no guest may do, and which reading arguments makes it do.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

fn main() -> io::Result<()> {
    let root = Path::new("/work");
    let dir = root.join("made");
    fs::create_dir_all(dir.join("inner"))?;
    let file = dir.join("notes.txt");
    fs::write(&file, "one\n")?;
    fs::OpenOptions::new().append(true).open(&file)?.write_all(b"two\n")?;
    fs::rename(&file, dir.join("moved.txt"))?;
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    println!("{}", names.join(" "));
    print!("{}", fs::read_to_string(dir.join("moved.txt"))?);
    println!("{} bytes", fs::metadata(dir.join("moved.txt"))?.len());
    println!("outside: {:?}", fs::read(root.join("../etc/passwd")).map_err(|e| e.kind()));
    fs::remove_dir_all(&dir)?;
    println!("left: {}", fs::read_dir(root)?.count());
    Ok(())
}
