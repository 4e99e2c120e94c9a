//! The cache of compiled code: what it keeps, whom it trusts, and what goes on when it cannot be used.

use crate::support::{Journal, alone, built, text};
use isopod::{Cache, CacheStats, ErrorKind, Host, KIB, Limits, LoadLimits, Trust};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const KEY: [u8; 32] = [7; 32];

/// A folder of this test's own, removed with its content.
pub(crate) struct Folder(pub PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("isopod-cache-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Folder(path)
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.0.join("code")
    }

    fn cache(&self) -> Cache {
        Cache::dir(self.dir()).key(KEY)
    }

    fn host(&self) -> Host {
        Host::builder().cache(self.cache()).build().unwrap()
    }

    fn entries(&self) -> Vec<PathBuf> {
        let mut entries: Vec<PathBuf> = fs::read_dir(self.dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        entries
    }

    fn bytes(&self) -> u64 {
        self.entries().iter().map(|path| path.metadata().unwrap().len()).sum()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::set_permissions(self.dir(), fs::Permissions::from_mode(0o700));
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Hits, misses, rejected.
fn counts(host: &Host) -> [u64; 3] {
    let CacheStats { hits, misses, rejected, .. } = host.cache_stats();
    [hits, misses, rejected]
}

/// A component that gives a number, of which there are as many as there are numbers.
fn number(number: u32) -> String {
    format!(
        r#"(component
            (core module $m (memory 1) (data (i32.const 8) "some bytes") (func (export "run") (result i32) (i32.const {number})))
            (core instance $i (instantiate $m))
            (func (export "run") (result u32) (canon lift (core func $i "run"))))"#
    )
}

async fn run(host: &Host, wat: &str) -> u32 {
    let function = host.function("number").component_wat(wat).load().await.unwrap_or_else(|e| panic!("{e:?}"));
    function.call("run", ()).await.unwrap().value
}

#[tokio::test]
async fn a_host_finds_what_another_compiled() {
    let folder = Folder::new("restart");
    let first = folder.host();
    assert_eq!(run(&first, &number(1)).await, 1);
    assert_eq!((counts(&first), folder.entries().len()), ([0, 1, 0], 1));
    drop(first);
    let second = folder.host();
    assert_eq!(run(&second, &number(1)).await, 1);
    assert_eq!(run(&second, &number(2)).await, 2);
    // By fuel it is other code.
    let fuel = Limits::default().fuel(100_000);
    let function = second.function("number").component_wat(number(1)).limits(fuel).load().await.unwrap();
    assert_eq!(function.call::<u32>("run", ()).await.unwrap().value, 1);
    assert!(function.call::<u32>("run", ()).await.unwrap().usage.fuel.unwrap() > 0);
    assert_eq!((counts(&second), folder.entries().len()), ([1, 2, 0], 3));
}

/// With real components, of either ABI, from files and from bytes, and with what the component says that it needs.
#[tokio::test]
async fn components_from_the_cache_do_what_they_do() {
    let folder = Folder::new("real");
    for round in 0..2 {
        let host = folder.host();
        let stats = host.function("stats").component_file(built("text-stats")).load().await.unwrap();
        let bytes = fs::read(built("json-transform")).unwrap();
        let json = host.function("json").component_bytes(bytes).load().await.unwrap();
        let p3 = host.function("p3").component_file(built("http-hello-p3")).load().await.unwrap();
        let kinds = [stats.kind(), json.kind(), p3.kind()].map(|kind| format!("{kind:?}"));
        assert_eq!(kinds, ["Custom", "Custom", "Http"]);
        assert!(!stats.exports().is_empty() && !json.exports().is_empty());
        assert_eq!(counts(&host), if round == 0 { [0, 3, 0] } else { [3, 0, 0] });
    }
    let needy = r#"(component (@custom "isopod:policy" "config = [\"region\"]"))"#;
    for round in 0..2 {
        let host = folder.host();
        let error = host.function("needy").component_wat(needy).load().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UngrantedImport, "{error:?}");
        assert!(text(&error).contains("region"), "{error:?}");
        assert_eq!(counts(&host)[0], round);
    }
}

#[test]
fn loading_without_a_runtime_finds_it_too() {
    let folder = Folder::new("blocking");
    for hits in 0..2 {
        let host = folder.host();
        let function = host.function("number").component_wat(number(3)).load_blocking().unwrap();
        assert_eq!(function.call_blocking::<u32>("run", ()).unwrap().value, 3);
        assert_eq!(counts(&host)[0], hits);
    }
}

/// Whatever is under an entry's name: the function loads, and the entry is made good.
#[tokio::test]
async fn what_is_not_its_own_is_compiled_again() {
    let folder = Folder::new("hostile");
    run(&folder.host(), &number(1)).await;
    let entry = folder.entries()[0].clone();
    let good = fs::read(&entry).unwrap();
    run(&folder.host(), &number(2)).await;
    let other = folder.entries().into_iter().find(|path| *path != entry).unwrap();
    let swapped = fs::read(other).unwrap();
    let flipped = |at: usize, bit: u8| {
        let mut bytes = good.clone();
        bytes[at] ^= bit;
        bytes
    };
    let mut bad: Vec<(String, Vec<u8>)> = vec![
        ("empty".into(), Vec::new()),
        ("swapped".into(), swapped),
        ("a component".into(), wat::parse_str(number(1)).unwrap()),
        ("longer".into(), [&good[..], b"x"].concat()),
        ("huge".into(), [&good[..], &vec![0; 40 << 20]].concat()),
        ("only the code".into(), good[good.windows(4).position(|four| four == b"\x7fELF").unwrap()..].to_vec()),
    ];
    for cut in [1, 11, 12, 43, 44, 100, good.len() / 2, good.len() - 1] {
        bad.push((format!("cut at {cut}"), good[..cut].to_vec()));
    }
    // The magic, the length, the tag, each part of the head, and the code.
    for at in (0..400).step_by(3).chain((400..good.len()).step_by(997)).chain([good.len() - 1]) {
        bad.push((format!("flipped at {at}"), flipped(at, 1 << (at % 8))));
    }
    let host = folder.host();
    for (count, (what, bytes)) in bad.iter().enumerate() {
        fs::write(&entry, bytes).unwrap();
        assert_eq!(run(&host, &number(1)).await, 1, "{what}");
        // A head may say that it is for a load with other bounds, which is no reason to say that it is damaged.
        let [hits, misses, rejected] = counts(&host);
        assert_eq!((hits, misses + rejected), (0, count as u64 + 1), "{what}");
        assert!(fs::read(&entry).unwrap().len() < 2 * good.len(), "{what}");
    }
    assert!(counts(&host)[2] > 100, "{:?}", host.cache_stats());
    // The last one was made good.
    let host = folder.host();
    assert_eq!(run(&host, &number(1)).await, 1);
    assert_eq!(counts(&host), [1, 0, 0]);
}

#[tokio::test]
async fn what_is_no_file_is_not_followed_and_not_waited_for() {
    let folder = Folder::new("kinds");
    run(&folder.host(), &number(1)).await;
    let entry = folder.entries()[0].clone();
    let aside = folder.0.join("aside");
    fs::copy(&entry, &aside).unwrap();
    let kinds: [(&str, &dyn Fn()); 3] = [
        ("a symlink to a good entry", &|| symlink(&aside, &entry).unwrap()),
        ("a pipe", &|| {
            assert!(std::process::Command::new("mkfifo").arg(&entry).status().unwrap().success());
        }),
        ("a directory", &|| fs::create_dir(&entry).unwrap()),
    ];
    for (what, make) in kinds {
        fs::remove_file(&entry).unwrap();
        make();
        let host = folder.host();
        assert_eq!(run(&host, &number(1)).await, 1, "{what}");
        assert_eq!(counts(&host), [0, 0, 1], "{what}");
        let healed = fs::symlink_metadata(&entry).unwrap().is_file();
        assert_eq!(healed, what != "a directory", "{what}");
    }
    assert_eq!(fs::symlink_metadata(&aside).unwrap().len(), fs::read(&aside).unwrap().len() as u64);
}

#[tokio::test]
async fn another_key_is_another_cache() {
    let folder = Folder::new("keys");
    run(&folder.host(), &number(1)).await;
    let other = Host::builder().cache(Cache::dir(folder.dir()).key([8; 32])).build().unwrap();
    assert_eq!(run(&other, &number(1)).await, 1);
    assert_eq!(counts(&other), [0, 1, 0], "names depend on the key as well");
    // Under the name that the other key gives, this key's entry is forged.
    let [one, two] = &folder.entries()[..] else { panic!("{:?}", folder.entries()) };
    let (a, b) = (fs::read(one).unwrap(), fs::read(two).unwrap());
    fs::write(one, b).unwrap();
    fs::write(two, a).unwrap();
    let host = folder.host();
    assert_eq!(run(&host, &number(1)).await, 1);
    assert_eq!(counts(&host), [0, 0, 1]);
}

/// A hit is no way around the bounds of a load.
#[tokio::test]
async fn narrower_bounds_refuse_what_is_in_the_cache() {
    let folder = Folder::new("bounds");
    let wat = number(1);
    let host = folder.host();
    run(&host, &wat).await;
    let own = || LoadLimits::from(Trust::Own);
    let narrow = [
        ("component_bytes", own().component_bytes(100)),
        ("functions", own().functions(0)),
        ("core_instances", own().core_instances(0)),
        ("values", own().values(1)),
        ("nesting", own().nesting(0)),
    ];
    let bytes = wat::parse_str(&wat).unwrap();
    for (what, limits) in narrow {
        let load = |host: &Host| host.function("n").component_bytes(bytes.clone()).load_limits(limits.clone()).load();
        let error = load(&host).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooComplex, "{what}: {error:?}");
        let without = load(&Host::new().unwrap()).await.unwrap_err();
        assert_eq!(error.to_string(), without.to_string(), "{what}");
    }
    let limits = Limits::default().memory(10 * KIB);
    let error = host.function("n").component_bytes(bytes.clone()).limits(limits).load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    host.function("n").component_bytes(bytes).load().await.unwrap();
    assert_eq!(counts(&host)[0], 2, "what is allowed a stranger's was found");
}

#[test]
fn eviction_keeps_within_the_bytes_and_drops_what_was_not_used() {
    let folder = Folder::new("eviction");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let one = {
        runtime.block_on(run(&folder.host(), &number(0)));
        folder.bytes()
    };
    let most = 3 * one + one / 2;
    let host = Host::builder().cache(folder.cache().max_bytes(most)).build().unwrap();
    let age = |path: &Path, hours: u64| {
        let file = fs::File::open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(hours * 3600)).unwrap();
    };
    let known = folder.entries();
    age(&known[0], 50);
    for next in 1..6 {
        runtime.block_on(run(&host, &number(next)));
        assert!(folder.bytes() <= most, "{next}");
    }
    assert_eq!(folder.entries().len(), 3);
    assert!(!folder.entries().contains(&known[0]), "it was the oldest");
    // A hit makes an old one young again.
    let kept = folder.entries();
    kept.iter().for_each(|path| age(path, 5));
    runtime.block_on(run(&host, &number(5)));
    assert_eq!(counts(&host)[0], 1);
    let young = |path: &&PathBuf| path.metadata().unwrap().modified().unwrap().elapsed().unwrap().as_secs() < 3600;
    let used = kept.iter().find(young).unwrap().clone();
    runtime.block_on(async {
        run(&host, &number(6)).await;
        run(&host, &number(7)).await;
    });
    assert!(folder.entries().contains(&used) && folder.bytes() <= most);

    // What a process left half written goes after a while; what is not the cache's own stays.
    for (name, hours) in [("new-0123", 2), ("new-4567", 0), ("README", 100)] {
        fs::write(folder.dir().join(name), "x").unwrap();
        age(&folder.dir().join(name), hours);
    }
    runtime.block_on(run(&host, &number(8)));
    let there = ["new-0123", "new-4567", "README"].map(|name| folder.dir().join(name).exists());
    assert_eq!(there, [false, true, true]);
}

#[tokio::test]
async fn an_entry_larger_than_the_cache_is_not_kept() {
    let folder = Folder::new("tiny");
    let host = Host::builder().cache(folder.cache().max_bytes(100)).build().unwrap();
    assert_eq!(run(&host, &number(1)).await, 1);
    assert_eq!(run(&host, &number(1)).await, 1);
    assert_eq!((counts(&host), folder.entries().len()), ([0, 2, 0], 0));
}

#[tokio::test]
async fn a_folder_that_goes_is_made_again() {
    let folder = Folder::new("gone");
    let host = folder.host();
    run(&host, &number(1)).await;
    fs::remove_dir_all(folder.dir()).unwrap();
    assert_eq!(run(&host, &number(1)).await, 1);
    assert_eq!(run(&host, &number(1)).await, 1);
    assert_eq!(counts(&host), [1, 2, 0]);
}

/// In processes of their own, as a limit and a subscriber are the whole process's. Root may write anywhere, so that the
/// folder is one that cannot be written to because a file is in its place; for others it is one that is read-only as well.
#[test]
fn a_folder_that_cannot_be_written_to_is_told_once() {
    if !alone("cache::a_folder_that_cannot_be_written_to_is_told_once", "") {
        return;
    }
    let journal = Journal::default();
    tracing::subscriber::set_global_default(journal.clone()).unwrap();
    let folder = Folder::new("unwritable");
    let host = folder.host();
    fs::remove_dir(folder.dir()).unwrap();
    fs::write(folder.dir(), "in the way").unwrap();
    for next in 0..3 {
        let function = host.function("number").component_wat(number(next)).load_blocking().unwrap();
        assert_eq!(function.call_blocking::<u32>("run", ()).unwrap().value, next);
    }
    let told = journal.text();
    assert_eq!(told.matches("compiled code is not kept as it should be").count(), 2, "{told}");
    assert!(told.contains("cannot be written to") && told.contains("it is not a directory"), "{told}");
    fs::remove_file(folder.dir()).unwrap();
    fs::create_dir(folder.dir()).unwrap();
    fs::set_permissions(folder.dir(), fs::Permissions::from_mode(0o500)).unwrap();
    // By another host, as one says it once.
    let host = folder.host();
    let function = host.function("number").component_wat(number(9)).load_blocking().unwrap();
    assert_eq!((function.call_blocking::<u32>("run", ()).unwrap().value, counts(&host)), (9, [0, 1, 0]));
    // Root may write there all the same.
    let is_root = rustix::process::geteuid().is_root();
    let told = journal.text()[told.len()..].matches("Permission denied").count();
    assert_eq!((told, folder.entries().len()), if is_root { (0, 1) } else { (1, 0) });
}

/// Files of 4 KiB at most: neither the cache's nor the copy in memory may be longer, and going beyond is a signal.
#[test]
fn a_limit_on_the_size_of_files_is_respected() {
    if !alone("cache::a_limit_on_the_size_of_files_is_respected", "") {
        return;
    }
    let folder = Folder::new("limited");
    let load = |next| {
        let host = folder.host();
        let function = host.function("number").component_wat(number(next)).load_blocking().unwrap();
        assert_eq!(function.exports().len(), 1);
        counts(&host)
    };
    assert_eq!(load(1), [0, 1, 0]);
    let limit = rustix::process::Rlimit { current: Some(4096), maximum: None };
    rustix::process::setrlimit(rustix::process::Resource::Fsize, limit).unwrap();
    assert_eq!((load(1), load(2), load(2)), ([1, 0, 0], [0, 1, 0], [0, 1, 0]));
    assert_eq!(folder.entries().len(), 1);
}

/// Two processes and several threads of each, on one folder that is too small for what they load.
#[test]
fn several_processes_share_a_folder() {
    const CHILD: &str = "ISOPOD_TEST_CACHE";
    let work = |dir: &Path| {
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let cache = Cache::dir(dir).key(KEY).max_bytes(60 * KIB);
                let host = Host::builder().cache(cache).build().unwrap();
                std::thread::spawn(move || {
                    for next in 0..24 {
                        let wat = number(next % 6);
                        let function = host.function("number").component_wat(wat).load_blocking().unwrap();
                        assert_eq!(function.call_blocking::<u32>("run", ()).unwrap().value, next % 6);
                    }
                    let [hits, misses, rejected] = counts(&host);
                    assert_eq!((hits + misses, rejected), (24, 0));
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    };
    if let Some(dir) = std::env::var_os(CHILD) {
        return work(Path::new(&dir));
    }
    let folder = Folder::new("processes");
    let spawn = || {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "cache::several_processes_share_a_folder"]).env(CHILD, folder.dir());
        command.stdout(std::process::Stdio::null()).spawn().unwrap()
    };
    let children = [spawn(), spawn()];
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let drafts = folder.entries().iter().filter(|path| path.extension().is_none()).count();
    assert_eq!(drafts, 0, "{:?}", folder.entries());
}

#[test]
fn what_is_made_is_private() {
    let folder = Folder::new("modes");
    let key = folder.0.join("key");
    let cache = || Cache::dir(folder.dir()).key_file(&key);
    let host = Host::builder().cache(cache()).build().unwrap();
    host.function("number").component_wat(number(1)).load_blocking().unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&folder.dir()), mode(&key), mode(&folder.entries()[0])), (0o700, 0o600, 0o600));
    assert_eq!(fs::read(&key).unwrap().len(), 32);
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 2, "no draft of the key is left");
    assert!(!format!("{:?}", cache()).contains("key"), "{:?}", cache());
    // The same file is the same key.
    let host = Host::builder().cache(cache()).build().unwrap();
    host.function("number").component_wat(number(1)).load_blocking().unwrap();
    assert_eq!(counts(&host), [1, 0, 0]);
}

#[test]
fn folders_and_keys_that_cannot_be_trusted_are_refused() {
    let folder = Folder::new("refused");
    let build = |cache: Cache| Host::builder().cache(cache).build();
    let refused = |cache: Cache, why: &str| {
        let error = build(cache).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse);
        assert!(error.to_string().contains(why), "{why}: {error}");
    };
    let path = |name: &str| folder.0.join(name);
    refused(Cache::dir(path("code")), "has no key");
    refused(Cache::dir(path("a/b")).key(KEY), "No such file");
    fs::write(path("file"), "x").unwrap();
    refused(Cache::dir(path("file")).key(KEY), "it is not a directory");
    fs::create_dir(path("real")).unwrap();
    symlink(path("real"), path("link")).unwrap();
    refused(Cache::dir(path("link")).key(KEY), "it is a symlink");
    fs::set_permissions(path("real"), fs::Permissions::from_mode(0o770)).unwrap();
    refused(Cache::dir(path("real")).key(KEY), "others than its owner");
    fs::set_permissions(path("real"), fs::Permissions::from_mode(0o755)).unwrap();
    build(Cache::dir(path("real")).key(KEY)).unwrap();

    let with = |key: &str| Cache::dir(path("code")).key_file(path(key));
    refused(with("code/key"), "it lies in the folder");
    refused(with("no/key"), "No such file");
    fs::write(path("short"), [1; 31]).unwrap();
    fs::set_permissions(path("short"), fs::Permissions::from_mode(0o600)).unwrap();
    refused(with("short"), "does not have 32 bytes");
    build(with("good")).unwrap();
    symlink(path("good"), path("linked")).unwrap();
    refused(with("linked"), "cannot be used");
    fs::set_permissions(path("good"), fs::Permissions::from_mode(0o640)).unwrap();
    refused(with("good"), "others than its owner");
    refused(with("real"), "not a regular file");
}

/// Each component that is loaded from the cache holds a descriptor, and the application wants some as well.
#[tokio::test]
async fn descriptors_are_left_to_the_application() {
    if !alone("cache::descriptors_are_left_to_the_application", "ulimit -n 128") {
        return;
    }
    let folder = Folder::new("descriptors");
    let load = async |host: &Host| {
        let mut functions = Vec::new();
        for n in 0..150 {
            functions.push(host.function("number").component_wat(number(n)).load().await.unwrap());
        }
        functions
    };
    drop(load(&folder.host()).await);
    let host = folder.host();
    let functions = load(&host).await;
    assert_eq!(counts(&host), [150, 0, 0]);
    let open = fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(open < 100, "{open} of 128 are open");
    for (n, function) in functions.iter().enumerate() {
        assert_eq!(function.call::<u32>("run", ()).await.unwrap().value, n as u32);
    }
}
