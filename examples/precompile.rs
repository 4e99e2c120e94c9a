//! Compiles a component ahead, as a build pipeline would: `precompile COMPONENT CODE KEY`. The key is made if its file is
//! missing; whoever loads the code needs it too, by `HostBuilder::code_key`.

use isopod::{Host, Limits};
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(component), Some(code), Some(key)) = (args.next(), args.next(), args.next()) else {
        return Err("usage: precompile COMPONENT CODE KEY".into());
    };
    let key = match fs::read(&key) {
        Err(error) if error.kind() == ErrorKind::NotFound => make_key(&key)?,
        read => <[u8; 32]>::try_from(read?).map_err(|_| format!("{key} is not a key: it must have 32 bytes"))?,
    };
    let host = Host::builder().code_key(key).build()?;
    let start = Instant::now();
    let compiled = host.precompile_blocking(&fs::read(&component)?, &Limits::default())?;
    println!("{component}: compiled in {:?} to {} KiB", start.elapsed(), compiled.len() >> 10);
    fs::write(&code, &compiled)?;

    let start = Instant::now();
    let function = host.function("ahead").component_file(&code).load_blocking()?;
    println!("{code}: loaded in {:?}, exports {} functions", start.elapsed(), function.exports().len());
    Ok(())
}

fn make_key(path: &str) -> io::Result<[u8; 32]> {
    let mut key = [0; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(&key)?;
    Ok(key)
}
