//! Uses files by WASI 0.2, as it is told to: see the world `files`. `files-p3` does the same by WASI 0.3.
#![no_main]

use wasi::filesystem::preopens::get_directories;
use wasi::filesystem::types::{
    Advice, Descriptor, DescriptorFlags, DescriptorType, ErrorCode, NewTimestamp, OpenFlags, PathFlags,
    filesystem_error_code,
};
use wasi::io::streams::{OutputStream, StreamError};

wit_bindgen::generate!({ path: "wit/files-p2", world: "files", generate_all });

/// What `blocking-write-and-flush` takes at most in one go.
const CHUNK: usize = 4096;

struct Files;

impl Guest for Files {
    fn perform(steps: Vec<Vec<String>>) -> Vec<String> {
        let mut desk = Desk { roots: get_directories(), kept: Vec::new() };
        let step = |step: Vec<String>| {
            let step: Vec<&str> = step.iter().map(String::as_str).collect();
            desk.perform(&step).unwrap_or_else(|code| format!("error {}", code.name()))
        };
        steps.into_iter().map(step).collect()
    }
}

struct Desk {
    roots: Vec<(Descriptor, String)>,
    kept: Vec<Option<Descriptor>>,
}

impl Desk {
    /// A granted directory by its path, or something kept open by its number.
    fn at(&self, name: &str) -> &Descriptor {
        if let Ok(kept) = name.parse::<usize>() {
            return self.kept[kept].as_ref().expect("it is open");
        }
        &self.roots.iter().find(|(_, path)| path == name).expect("it was granted").0
    }

    fn perform(&mut self, step: &[&str]) -> Result<String, ErrorCode> {
        let ok = |()| "ok".to_owned();
        match *step {
            ["roots"] => Ok(self.roots.iter().map(|(_, path)| path.as_str()).collect::<Vec<_>>().join(",")),
            // Flags: r, w, c create, x exclusive, t truncate, d directory, f follow.
            ["open", at, path, flags] => self.open(at, path, flags).map(|_| ok(())),
            ["keep", at, path, flags] => {
                let open = self.open(at, path, flags)?;
                self.kept.push(Some(open));
                Ok((self.kept.len() - 1).to_string())
            }
            ["close", kept] => {
                self.kept[number(kept) as usize] = None;
                Ok(ok(()))
            }
            // A new or emptied file of so many bytes.
            ["write", at, path, bytes] => write(&self.open(at, path, "wctf")?, 0, number(bytes)).map(ok),
            ["read", at, path] => read(&self.open(at, path, "rf")?),
            ["get", at] => read(self.at(at)),
            ["put", at, offset, bytes] => write(self.at(at), number(offset), number(bytes)).map(ok),
            ["append", at, bytes] => pour(&self.at(at).append_via_stream()?, number(bytes)).map(ok),
            ["put-at-once", at, offset, bytes] => {
                self.at(at).write(&vec![b'x'; number(bytes) as usize], number(offset)).map(|_| ok(()))
            }
            // From one stream to another within the host.
            ["splice", from, to] => {
                let (from, to) = (self.at(from).read_via_stream(0)?, self.at(to).write_via_stream(0)?);
                loop {
                    match to.blocking_splice(&from, CHUNK as u64) {
                        Ok(_) => {}
                        Err(StreamError::Closed) => break,
                        Err(error) => return Err(code(error)),
                    }
                }
                to.blocking_flush().map_err(code).map(ok)
            }
            // Writes without blocking, waiting when it is told to, then reads it all so.
            ["poll", at, bytes] => {
                let at = self.at(at);
                let (to, all) = (at.write_via_stream(0)?, vec![b'y'; number(bytes) as usize]);
                let mut rest = &all[..];
                while !rest.is_empty() {
                    let room = to.check_write().map_err(code)? as usize;
                    let (now, later) = rest.split_at(room.min(rest.len()));
                    if now.is_empty() {
                        to.subscribe().block();
                        continue;
                    }
                    to.write(now).map_err(code)?;
                    rest = later;
                }
                to.flush().map_err(code)?;
                to.subscribe().block();
                to.check_write().map_err(code)?;
                let (from, mut read) = (at.read_via_stream(0)?, 0);
                loop {
                    match from.read(1_000_000) {
                        Ok(chunk) if chunk.is_empty() => from.subscribe().block(),
                        Ok(chunk) => read += chunk.iter().filter(|byte| **byte == b'y').count(),
                        Err(StreamError::Closed) => return Ok(read.to_string()),
                        Err(error) => return Err(code(error)),
                    }
                }
            }
            // What is written is written, though the stream is dropped at once.
            ["write-and-drop", at, bytes] => {
                let to = self.at(at).write_via_stream(0)?;
                to.write(&vec![b'z'; number(bytes) as usize]).map_err(code).map(ok)
            }
            ["set-size", at, bytes] => self.at(at).set_size(number(bytes)).map(ok),
            ["advise", at] => self.at(at).advise(0, u64::MAX, Advice::WillNeed).map(ok),
            ["sync", at] => self.at(at).sync().and_then(|()| self.at(at).sync_data()).map(ok),
            ["flags", at] => Ok(shown(self.at(at).get_flags()?)),
            ["type", at] => Ok(kind(self.at(at).get_type()?).to_owned()),
            ["stat", at] => self.at(at).stat().map(|stat| format!("{} {}", kind(stat.type_), stat.size)),
            ["stat", at, path, flags] => {
                let stat = self.at(at).stat_at(follow(flags), path)?;
                Ok(format!("{} {}", kind(stat.type_), stat.size))
            }
            ["times", at] => self.at(at).set_times(NewTimestamp::Now, NewTimestamp::Now).map(ok),
            ["times", at, path, flags] => {
                self.at(at).set_times_at(follow(flags), path, NewTimestamp::Now, NewTimestamp::Now).map(ok)
            }
            ["mkdir", at, path] => self.at(at).create_directory_at(path).map(ok),
            ["rmdir", at, path] => self.at(at).remove_directory_at(path).map(ok),
            ["unlink", at, path] => self.at(at).unlink_file_at(path).map(ok),
            ["symlink", target, at, path] => self.at(at).symlink_at(target, path).map(ok),
            ["readlink", at, path] => self.at(at).readlink_at(path),
            ["rename", at, old, to, new] => self.at(at).rename_at(old, self.at(to), new).map(ok),
            ["link", at, old, flags, to, new] => self.at(at).link_at(follow(flags), old, self.at(to), new).map(ok),
            ["same", at, other] => Ok(self.at(at).is_same_object(self.at(other)).to_string()),
            ["hash", at, path] => {
                let (own, named) = (self.at(at).metadata_hash()?, self.at(at).metadata_hash_at(follow("f"), path)?);
                Ok((own.lower == named.lower && own.upper == named.upper).to_string())
            }
            ["list", at, path] => {
                let entries = self.open(at, path, "rdf")?.read_directory()?;
                let mut names = Vec::new();
                while let Some(entry) = entries.read_directory_entry()? {
                    names.push(format!("{}:{}", entry.name, kind(entry.type_)));
                }
                names.sort();
                Ok(names.join(","))
            }
            ["count", at, path] => {
                let entries = self.open(at, path, "rdf")?.read_directory()?;
                let mut count = 0;
                while entries.read_directory_entry()?.is_some() {
                    count += 1;
                }
                Ok(count.to_string())
            }
            ["trap"] => panic!("as told"),
            ["spin"] => loop {
                std::hint::spin_loop();
            },
            _ => panic!("no such step: {step:?}"),
        }
    }

    fn open(&self, at: &str, path: &str, flags: &str) -> Result<Descriptor, ErrorCode> {
        let has = |flag: char| flags.contains(flag);
        let mut open = OpenFlags::empty();
        open.set(OpenFlags::CREATE, has('c'));
        open.set(OpenFlags::EXCLUSIVE, has('x'));
        open.set(OpenFlags::TRUNCATE, has('t'));
        open.set(OpenFlags::DIRECTORY, has('d'));
        let mut mode = DescriptorFlags::empty();
        mode.set(DescriptorFlags::READ, has('r'));
        mode.set(DescriptorFlags::WRITE, has('w'));
        self.at(at).open_at(follow(flags), path, open, mode)
    }
}

fn follow(flags: &str) -> PathFlags {
    if flags.contains('f') { PathFlags::SYMLINK_FOLLOW } else { PathFlags::empty() }
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

fn write(to: &Descriptor, offset: u64, bytes: u64) -> Result<(), ErrorCode> {
    pour(&to.write_via_stream(offset)?, bytes)
}

fn pour(stream: &OutputStream, bytes: u64) -> Result<(), ErrorCode> {
    let bytes = vec![b'x'; bytes as usize];
    bytes.chunks(CHUNK).try_for_each(|chunk| stream.blocking_write_and_flush(chunk)).map_err(code)
}

fn read(from: &Descriptor) -> Result<String, ErrorCode> {
    let stream = from.read_via_stream(0)?;
    let mut all = Vec::new();
    loop {
        match stream.blocking_read(CHUNK as u64) {
            Ok(chunk) => all.extend(chunk),
            Err(StreamError::Closed) => return Ok(String::from_utf8_lossy(&all).into_owned()),
            Err(error) => return Err(code(error)),
        }
    }
}

fn code(error: StreamError) -> ErrorCode {
    match error {
        StreamError::Closed => ErrorCode::Pipe,
        StreamError::LastOperationFailed(error) => filesystem_error_code(&error).expect("an error of a file"),
    }
}

fn kind(of: DescriptorType) -> &'static str {
    match of {
        DescriptorType::RegularFile => "file",
        DescriptorType::Directory => "dir",
        DescriptorType::SymbolicLink => "link",
        DescriptorType::Fifo => "fifo",
        DescriptorType::Socket => "socket",
        DescriptorType::CharacterDevice | DescriptorType::BlockDevice => "device",
        DescriptorType::Unknown => "unknown",
    }
}

fn shown(flags: DescriptorFlags) -> String {
    let of = [(DescriptorFlags::READ, 'r'), (DescriptorFlags::WRITE, 'w'), (DescriptorFlags::MUTATE_DIRECTORY, 'm')];
    of.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, letter)| letter).collect()
}

export!(Files);
