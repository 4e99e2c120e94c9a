//! A program that uses files as any other, by Rust's std below WASI 0.2: makes a directory, a file in it, reads both, and
//! removes them again. Its argument is where.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

fn main() -> io::Result<()> {
    let root = std::env::args().nth(1).unwrap_or_else(|| "/tmp".to_owned());
    let dir = Path::new(&root).join("work");
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
    println!("outside: {:?}", fs::read(Path::new(&root).join("../etc/passwd")).map_err(|e| e.kind()));
    fs::remove_dir_all(&dir)?;
    println!("left: {}", fs::read_dir(&root)?.count());
    Ok(())
}
