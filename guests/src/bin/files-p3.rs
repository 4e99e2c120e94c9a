//! Uses files by WASI 0.3, as it is told to: see the world `files`. `files-p2` does the same by WASI 0.2.
#![no_main]

use wasi::filesystem::preopens::get_directories;
use wasi::filesystem::types::{
    Advice, Descriptor, DescriptorFlags, DescriptorType, ErrorCode, NewTimestamp, OpenFlags, PathFlags,
};
use wit_bindgen::StreamResult;

wit_bindgen::generate!({ path: "wit/files-p3", world: "files", generate_all });

const CHUNK: usize = 4096;

struct Files;

impl Guest for Files {
    async fn perform(steps: Vec<Vec<String>>) -> Vec<String> {
        let mut desk = Desk { roots: get_directories(), kept: Vec::new() };
        let mut results = Vec::new();
        for step in steps {
            let step: Vec<&str> = step.iter().map(String::as_str).collect();
            results.push(desk.perform(&step).await.unwrap_or_else(|code| format!("error {}", name(&code))));
        }
        results
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

    async fn perform(&mut self, step: &[&str]) -> Result<String, ErrorCode> {
        let ok = |()| "ok".to_owned();
        let text = |text: &str| text.to_owned();
        match *step {
            ["roots"] => Ok(self.roots.iter().map(|(_, path)| path.as_str()).collect::<Vec<_>>().join(",")),
            // Flags: r, w, c create, x exclusive, t truncate, d directory, f follow.
            ["open", at, path, flags] => self.open(at, path, flags).await.map(|_| ok(())),
            ["keep", at, path, flags] => {
                let open = self.open(at, path, flags).await?;
                self.kept.push(Some(open));
                Ok((self.kept.len() - 1).to_string())
            }
            ["close", kept] => {
                self.kept[number(kept) as usize] = None;
                Ok(ok(()))
            }
            // A new or emptied file of so many bytes.
            ["write", at, path, bytes] => {
                write(&self.open(at, path, "wctf").await?, Some(0), number(bytes)).await.map(ok)
            }
            ["read", at, path] => read(&self.open(at, path, "rf").await?).await,
            ["get", at] => read(self.at(at)).await,
            ["put", at, offset, bytes] | ["put-at-once", at, offset, bytes] => {
                write(self.at(at), Some(number(offset)), number(bytes)).await.map(ok)
            }
            ["append", at, bytes] => write(self.at(at), None, number(bytes)).await.map(ok),
            // From one stream to another, without the guest's memory in between.
            ["splice", from, to] => {
                let (stream, read) = self.at(from).read_via_stream(0);
                let written = self.at(to).write_via_stream(stream, 0).await;
                read.await.and(written).map(ok)
            }
            ["set-size", at, bytes] => self.at(at).set_size(number(bytes)).await.map(ok),
            ["advise", at] => self.at(at).advise(0, u64::MAX, Advice::WillNeed).await.map(ok),
            ["sync", at] => {
                self.at(at).sync().await?;
                self.at(at).sync_data().await.map(ok)
            }
            ["flags", at] => Ok(shown(self.at(at).get_flags().await?)),
            ["type", at] => Ok(text(kind(&self.at(at).get_type().await?))),
            ["stat", at] => self.at(at).stat().await.map(|stat| format!("{} {}", kind(&stat.type_), stat.size)),
            ["stat", at, path, flags] => {
                let stat = self.at(at).stat_at(follow(flags), text(path)).await?;
                Ok(format!("{} {}", kind(&stat.type_), stat.size))
            }
            ["times", at] => self.at(at).set_times(NewTimestamp::Now, NewTimestamp::Now).await.map(ok),
            ["times", at, path, flags] => {
                let (now, path) = (NewTimestamp::Now, text(path));
                self.at(at).set_times_at(follow(flags), path, now, NewTimestamp::Now).await.map(ok)
            }
            ["mkdir", at, path] => self.at(at).create_directory_at(text(path)).await.map(ok),
            ["rmdir", at, path] => self.at(at).remove_directory_at(text(path)).await.map(ok),
            ["unlink", at, path] => self.at(at).unlink_file_at(text(path)).await.map(ok),
            ["symlink", target, at, path] => self.at(at).symlink_at(text(target), text(path)).await.map(ok),
            ["readlink", at, path] => self.at(at).readlink_at(text(path)).await,
            ["rename", at, old, to, new] => self.at(at).rename_at(text(old), self.at(to), text(new)).await.map(ok),
            ["link", at, old, flags, to, new] => {
                self.at(at).link_at(follow(flags), text(old), self.at(to), text(new)).await.map(ok)
            }
            ["same", at, other] => Ok(self.at(at).is_same_object(self.at(other)).await.to_string()),
            ["hash", at, path] => {
                let own = self.at(at).metadata_hash().await?;
                let named = self.at(at).metadata_hash_at(follow("f"), text(path)).await?;
                Ok((own.lower == named.lower && own.upper == named.upper).to_string())
            }
            ["list", at, path] => {
                let mut names = self.list(at, path).await?;
                names.sort();
                Ok(names.join(","))
            }
            ["count", at, path] => Ok(self.list(at, path).await?.len().to_string()),
            ["trap"] => panic!("as told"),
            ["spin"] => loop {
                std::hint::spin_loop();
            },
            _ => panic!("no such step: {step:?}"),
        }
    }

    async fn open(&self, at: &str, path: &str, flags: &str) -> Result<Descriptor, ErrorCode> {
        let has = |flag: char| flags.contains(flag);
        let mut open = OpenFlags::empty();
        open.set(OpenFlags::CREATE, has('c'));
        open.set(OpenFlags::EXCLUSIVE, has('x'));
        open.set(OpenFlags::TRUNCATE, has('t'));
        open.set(OpenFlags::DIRECTORY, has('d'));
        let mut mode = DescriptorFlags::empty();
        mode.set(DescriptorFlags::READ, has('r'));
        mode.set(DescriptorFlags::WRITE, has('w'));
        self.at(at).open_at(follow(flags), path.to_owned(), open, mode).await
    }

    async fn list(&self, at: &str, path: &str) -> Result<Vec<String>, ErrorCode> {
        let dir = self.open(at, path, "rdf").await?;
        let (mut entries, end) = dir.read_directory();
        let mut names = Vec::new();
        loop {
            let (result, some) = entries.read(Vec::with_capacity(100)).await;
            names.extend(some.iter().map(|entry| format!("{}:{}", entry.name, kind(&entry.type_))));
            if result == StreamResult::Dropped {
                break;
            }
        }
        drop(entries);
        end.await.map(|()| names)
    }
}

fn follow(flags: &str) -> PathFlags {
    if flags.contains('f') { PathFlags::SYMLINK_FOLLOW } else { PathFlags::empty() }
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

async fn write(to: &Descriptor, offset: Option<u64>, bytes: u64) -> Result<(), ErrorCode> {
    let (mut from, stream) = wit_stream::new();
    let end = match offset {
        Some(offset) => to.write_via_stream(stream, offset),
        None => to.append_via_stream(stream),
    };
    from.write_all(vec![b'x'; bytes as usize]).await;
    drop(from);
    end.await
}

async fn read(from: &Descriptor) -> Result<String, ErrorCode> {
    let (mut stream, end) = from.read_via_stream(0);
    let mut all = Vec::new();
    loop {
        let (result, chunk) = stream.read(Vec::with_capacity(CHUNK)).await;
        all.extend(chunk);
        if result == StreamResult::Dropped {
            break;
        }
    }
    drop(stream);
    end.await.map(|()| String::from_utf8_lossy(&all).into_owned())
}

/// The name of an error code as WIT has it.
fn name(code: &ErrorCode) -> String {
    let text = format!("{code:?}");
    let camel = text.strip_prefix("ErrorCode::").unwrap_or(&text);
    let mut kebab = String::new();
    for letter in camel.chars() {
        if letter.is_uppercase() && !kebab.is_empty() {
            kebab.push('-');
        }
        kebab.extend(letter.to_lowercase());
    }
    kebab
}

fn kind(of: &DescriptorType) -> &'static str {
    match of {
        DescriptorType::RegularFile => "file",
        DescriptorType::Directory => "dir",
        DescriptorType::SymbolicLink => "link",
        DescriptorType::Fifo => "fifo",
        DescriptorType::Socket => "socket",
        DescriptorType::CharacterDevice | DescriptorType::BlockDevice => "device",
        DescriptorType::Other(_) => "unknown",
    }
}

fn shown(flags: DescriptorFlags) -> String {
    let of = [(DescriptorFlags::READ, 'r'), (DescriptorFlags::WRITE, 'w'), (DescriptorFlags::MUTATE_DIRECTORY, 'm')];
    of.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, letter)| letter).collect()
}

export!(Files);
