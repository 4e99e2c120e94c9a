//! Files: real guests of both WASI generations, real directories. What is refused, how much fits, and what is left.

use crate::support::{alone, built, host, text};
use isopod::{CallOptions, Command, Dir, ErrorKind, Function, Grant, Host, Kind, Limits, Reply, Result, Scratch, ms};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

const GUESTS: [&str; 2] = ["files-p2", "files-p3"];

/// A directory of one test, removed after it.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("isopod-it-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Place(path)
    }

    fn dir(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// A host whose scratch directories are here, in `scratch`.
    fn host(&self) -> Host {
        Host::builder().scratch_dir(self.0.join("scratch")).build().unwrap()
    }

    /// All that is in scratch directories.
    fn scratch(&self) -> Vec<PathBuf> {
        let spaces = fs::read_dir(self.0.join("scratch")).unwrap().map(|space| space.unwrap().path());
        let inside = spaces.filter(|space| space.is_dir()).flat_map(|space| fs::read_dir(space).unwrap());
        inside.map(|entry| entry.unwrap().path()).collect()
    }
}

/// Waits for something that goes on without us, and is to come soon.
async fn soon(what: impl Fn() -> bool) {
    let started = std::time::Instant::now();
    while !what() {
        assert!(started.elapsed().as_secs() < 30, "it did not come");
        tokio::task::yield_now().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// With time enough for a machine that has much else to do.
async fn load(host: &Host, guest: &str, grants: impl IntoIterator<Item = Grant>) -> Result<Function> {
    let builder = host
        .function("files")
        .component_file(built(guest))
        .limits(Limits::default().busy(ms(100_000)).deadline(ms(100_000)));
    grants.into_iter().fold(builder, |builder, grant| builder.grant(grant)).load().await
}

/// The words of a step; `''` is an empty one.
fn words(step: &str) -> Vec<String> {
    step.split(' ').map(|word| if word == "''" { String::new() } else { word.to_owned() }).collect()
}

async fn perform(function: &Function, steps: &[&str]) -> Result<Reply<Vec<String>>> {
    let steps: Vec<_> = steps.iter().map(|step| words(step)).collect();
    function.call("perform", (steps,)).await
}

/// Performs steps in one call and compares what each gives. `!` stands for `error `.
async fn check(function: &Function, table: &[(&str, &str)]) -> Reply<Vec<String>> {
    let steps: Vec<&str> = table.iter().map(|(step, _)| *step).collect();
    let reply = perform(function, &steps).await.unwrap_or_else(|e| panic!("{e:?}"));
    for ((step, expected), got) in table.iter().zip(&reply.value) {
        assert_eq!(*got, expected.replace('!', "error "), "{step:?}");
    }
    reply
}

/// What a guest may find in a directory, and outside of it.
fn furnish(place: &Place) -> PathBuf {
    let (outside, inside) = (place.dir("outside"), place.dir("inside"));
    fs::write(outside.join("secret"), "secret").unwrap();
    fs::create_dir_all(inside.join("sub/deep")).unwrap();
    fs::write(inside.join("file"), "file").unwrap();
    fs::write(inside.join("sub/inner"), "inner").unwrap();
    for (target, link) in [
        (outside.join("secret").to_str().unwrap(), "absolute"),
        ("../outside/secret", "relative"),
        ("../outside", "dirlink"),
        ("chain2", "chain1"),
        ("sub/chain3", "chain2"),
        ("../../outside/secret", "sub/chain3"),
        ("loop2", "loop1"),
        ("loop1", "loop2"),
        ("itself", "itself"),
        ("../outside/new", "dangling"),
        ("nowhere", "dangling-inside"),
        ("/proc/self", "proc"),
        ("sub/inner", "good"),
        ("sub/../file", "down-and-up"),
        ("sub", "sublink"),
        ("..", "sub/up"),
        ("../..", "sub/upup"),
        ("/", "slash"),
    ] {
        symlink(target, inside.join(link)).unwrap();
    }
    inside
}

#[tokio::test]
async fn no_path_leads_out() {
    let (name, path) = ("n".repeat(256), "p/".repeat(2_500));
    let long = [format!("open /d {name} rf"), format!("open /d {path} rf"), format!("mkdir /d {name}")];
    for guest in GUESTS {
        let place = Place::new();
        let inside = furnish(&place);
        let grants = [Dir::read_write(&inside, "/d").into(), Dir::read_write(place.dir("other"), "/e").into()];
        let function = load(&host(), guest, grants).await.unwrap();
        let reply = check(
            &function,
            &[
                ("roots", "/d,/e"),
                // Dots.
                ("open /d .. rdf", "!not-permitted"),
                ("open /d ../inside rdf", "!not-permitted"),
                ("open /d ../outside/secret rf", "!not-permitted"),
                ("open /d sub/../../outside/secret rf", "!not-permitted"),
                ("open /d ./../outside/secret rf", "!not-permitted"),
                ("open /d sub/deep/../../.. rdf", "!not-permitted"),
                ("open /d nowhere/../../outside/secret rf", "!no-entry"),
                ("open /d . rdf", "ok"),
                ("open /d ./. rdf", "ok"),
                ("open /d ./sub/./deep/. rdf", "ok"),
                ("open /d sub/.. rdf", "ok"),
                ("read /d sub/../file", "file"),
                ("read /d sub/deep/../../file", "file"),
                ("read /d sub//inner", "inner"),
                // From a directory below: nothing above it.
                ("keep /d sub rdf", "0"),
                ("open 0 .. rdf", "!not-permitted"),
                ("open 0 ../file rf", "!not-permitted"),
                ("open 0 deep/.. rdf", "ok"),
                ("read 0 inner", "inner"),
                // Absolute.
                ("open /d / rdf", "!not-permitted"),
                ("open /d /etc/passwd rf", "!not-permitted"),
                ("open /d //etc/passwd rf", "!not-permitted"),
                ("open /d slash/etc/passwd rf", "!not-permitted"),
                // Symlinks.
                ("open /d absolute rf", "!not-permitted"),
                ("open /d relative rf", "!not-permitted"),
                ("open /d dirlink/secret rf", "!not-permitted"),
                ("open /d chain1 rf", "!not-permitted"),
                ("open /d sublink/chain3 rf", "!not-permitted"),
                ("open /d sub/up rdf", "ok"),
                ("open /d sub/up/sub/upup rdf", "!not-permitted"),
                ("read /d sub/up/file", "file"),
                ("read /d down-and-up", "file"),
                ("read /d good", "inner"),
                ("open /d good r", "!loop"),
                ("open /d loop1 rf", "!loop"),
                ("open /d itself rf", "!loop"),
                ("open /d itself r", "!loop"),
                ("open /d proc/cwd rdf", "!not-permitted"),
                ("open /d proc/root/etc/passwd rf", "!not-permitted"),
                ("open /d proc rdf", "!not-permitted"),
                ("stat /d relative f", "!not-permitted"),
                ("stat /d relative ''", "link 17"),
                ("hash 0 chain3", "!not-permitted"),
                ("times /d relative f", "!not-permitted"),
                ("times /d relative ''", "ok"),
                ("readlink /d good", "sub/inner"),
                ("readlink /d absolute", "!not-permitted"),
                // Slashes at the end.
                ("open /d file/ rf", "!not-directory"),
                ("open /d file/. rf", "!not-directory"),
                ("open /d file/.. rdf", "!not-directory"),
                ("open /d good/ rf", "!not-directory"),
                ("open /d file rdf", "!not-directory"),
                ("open /d sub/ rdf", "ok"),
                ("open /d sublink/ rdf", "ok"),
                ("open /d relative/ rdf", "!not-permitted"),
                ("unlink /d file/", "!not-directory"),
                ("rename /d file/ /d x", "!not-directory"),
                ("rename /d file /d x/", "!not-directory"),
                ("link /d file '' /d x/", "!not-directory"),
                ("symlink file /d x/", "!not-directory"),
                ("open /d x/ wcf", "!is-directory"),
                ("mkdir /d x/", "ok"),
                ("rename /d x/ /d y/", "ok"),
                ("rmdir /d y/", "ok"),
                // Odd ones.
                ("open /d '' rf", "!no-entry"),
                ("mkdir /d ''", "!no-entry"),
                ("open /d a\0b rf", "!invalid"),
                ("open /d file\0 rf", "!invalid"),
                ("rename /d file /d a\0b", "!invalid"),
                ("symlink a\0b /d x", "!invalid"),
                (&long[0], "!name-too-long"),
                (&long[1], "!name-too-long"),
                (&long[2], "!name-too-long"),
                // Making things outside.
                ("open /d dangling wcf", "!not-permitted"),
                ("open /d dangling wc", "!loop"),
                ("open /d dangling wcxf", "!exist"),
                ("mkdir /d dangling", "!exist"),
                ("mkdir /d ../outside/x", "!not-permitted"),
                ("mkdir /d dirlink/x", "!not-permitted"),
                ("open /d dirlink/x wcf", "!not-permitted"),
                ("open /d sub/upup/x wcf", "!not-permitted"),
                ("open /d ../x wcf", "!not-permitted"),
                // Removing them.
                ("unlink /d ../outside/secret", "!not-permitted"),
                ("unlink /d dirlink/secret", "!not-permitted"),
                ("rmdir /d ..", "!not-permitted"),
                ("unlink /d relative", "ok"),
                // Moving them in and out.
                ("rename /d file /d ../outside/x", "!not-permitted"),
                ("rename /d file /d dirlink/x", "!not-permitted"),
                ("rename /d ../outside/secret /d x", "!not-permitted"),
                ("rename /d dirlink/secret /d x", "!not-permitted"),
                ("rename /d sub/.. /d x", "!busy"),
                ("rename /d file /e file", "!cross-device"),
                ("rename /d file 0 up/moved", "!not-permitted"),
                ("rename 0 inner /d moved", "ok"),
                // Names for them.
                ("link /d ../outside/secret '' /d x", "!not-permitted"),
                ("link /d dirlink/secret '' /d x", "!not-permitted"),
                ("link /d file '' /d ../x", "!not-permitted"),
                ("link /d file '' /d dirlink/x", "!not-permitted"),
                ("link /d absolute '' /d x", "!not-permitted"),
                ("link /d absolute f /d x", "!invalid"),
                ("link /d file '' /e x", "!cross-device"),
                ("link /d sub '' /d x", "!not-permitted"),
                ("symlink /etc/passwd /d x", "!not-permitted"),
                ("symlink ../outside/secret /d x", "!not-permitted"),
                ("symlink sub/../../outside /d x", "!not-permitted"),
                ("symlink .. /d sub/x", "!not-permitted"),
                ("symlink '' /d x", "!no-entry"),
                ("symlink secret /d dirlink/x", "!not-permitted"),
                ("symlink file /d x", "ok"),
                ("read /d x", "file"),
                // Inside, all of it is well.
                ("open /d dangling-inside wcf", "ok"),
                ("stat /d nowhere ''", "file 0"),
            ],
        )
        .await;
        assert_eq!(fs::read_to_string(place.0.join("outside/secret")).unwrap(), "secret");
        assert_eq!(fs::read_dir(place.0.join("outside")).unwrap().count(), 1);
        assert_eq!(fs::read_dir(place.0.join("other")).unwrap().count(), 0);
        // As many records as one call keeps, each of a path that led out.
        assert_eq!(reply.denials().len(), 32);
        let told = reply.denials()[0].explain();
        assert!(told.contains("open-at \"..\" in \"/d\"") && told.contains("leads out"), "{told}");
        assert!(reply.usage.host_calls > 100, "{:?}", reply.usage);
    }
}

#[tokio::test]
async fn read_only_is_for_everything() {
    for guest in GUESTS {
        let place = Place::new();
        let inside = furnish(&place);
        let grants = [Dir::read_only(&inside, "/d").into(), Dir::read_write(place.dir("other"), "/w").into()];
        let function = load(&host(), guest, grants).await.unwrap();
        let reply = check(
            &function,
            &[
                ("read /d file", "file"),
                ("stat /d file ''", "file 4"),
                ("keep /d file rf", "0"),
                ("get 0", "file"),
                ("flags 0", "r"),
                ("flags /d", "r"),
                ("flags /w", "rm"),
                ("type /d", "dir"),
                ("type 0", "file"),
                ("same 0 0", "true"),
                ("same 0 /d", "false"),
                ("hash /d .", "true"),
                ("advise 0", "ok"),
                ("advise /d", "!bad-descriptor"),
                ("sync 0", "ok"),
                ("sync /d", "ok"),
                ("list /d sub", "chain3:link,deep:dir,inner:file,up:link,upup:link"),
                ("list /d file", "!not-directory"),
                ("open /d file wf", "!read-only"),
                ("open /d file rwf", "!read-only"),
                ("open /d file rtf", "!read-only"),
                ("open /d file rcf", "!read-only"),
                ("open /d new rcf", "!read-only"),
                ("open /d new wcxf", "!read-only"),
                ("set-size 0 0", "!read-only"),
                ("put 0 0 1", "!read-only"),
                ("put-at-once 0 0 1", "!read-only"),
                ("append 0 1", "!read-only"),
                ("times 0", "!read-only"),
                ("times /d", "!read-only"),
                ("times /d file f", "!read-only"),
                ("times /d good ''", "!read-only"),
                ("mkdir /d new", "!read-only"),
                ("rmdir /d sub/deep", "!read-only"),
                ("unlink /d file", "!read-only"),
                ("symlink file /d new", "!read-only"),
                ("rename /d file /d new", "!read-only"),
                ("rename /d file /w new", "!read-only"),
                ("link /d file '' /d new", "!read-only"),
                ("link /d file '' /w new", "!read-only"),
                ("write /w new 1", "ok"),
                ("rename /w new /d new", "!read-only"),
                ("link /w new '' /d new", "!read-only"),
                ("keep /w new wf", "1"),
                ("get 1", "!bad-descriptor"),
                ("keep /w new rf", "2"),
                ("put 2 0 1", "!bad-descriptor"),
                ("set-size 2 0", "!bad-descriptor"),
            ],
        )
        .await;
        assert_eq!(fs::read_to_string(inside.join("file")).unwrap(), "file");
        let denial = &reply.denials()[0];
        assert_eq!(denial.capability(), "wasi:filesystem#open-at \"file\" in \"/d\"");
        assert!(denial.rule().contains("read only"), "{}", denial.rule());
        let path = inside.display();
        assert_eq!(denial.allow().unwrap(), format!("`.grant(Dir::read_write(\"{path}\", \"/d\"))`"));
        let toml = format!("files = [{{ host = \"{path}\", guest = \"/d\", mode = \"rw\" }}]");
        assert_eq!(denial.allow_toml().unwrap(), toml);
    }
}

#[tokio::test]
async fn a_quota_is_exact() {
    for guest in GUESTS {
        let place = Place::new();
        let grant = || Dir::read_write(place.dir("q"), "/q").max_bytes(100).max_entries(5);
        let function = load(&host(), guest, [grant().into()]).await.unwrap();
        let reply = check(
            &function,
            &[
                // Bytes, and how they come back.
                ("write /q a 101", "!insufficient-space"),
                ("stat /q a ''", "file 0"),
                ("write /q a 100", "ok"),
                ("write /q b 1", "!insufficient-space"),
                ("write /q a 100", "ok"),
                ("open /q a wtf", "ok"),
                ("write /q b 100", "ok"),
                ("unlink /q b", "ok"),
                ("write /q a 60", "ok"),
                ("write /q b 40", "ok"),
                ("write /q c 1", "!insufficient-space"),
                ("rename /q a /q b", "ok"),
                ("write /q c 41", "!insufficient-space"),
                ("write /q c 40", "ok"),
                ("rename /q b /q b", "ok"),
                ("unlink /q b", "ok"),
                ("unlink /q c", "ok"),
                // Every way to grow.
                ("keep /q s rwcf", "0"),
                ("set-size 0 1099511627776", "!insufficient-space"),
                ("set-size 0 18446744073709551615", "!insufficient-space"),
                ("set-size 0 101", "!insufficient-space"),
                ("set-size 0 100", "ok"),
                ("append 0 1", "!insufficient-space"),
                ("set-size 0 99", "ok"),
                ("append 0 1", "ok"),
                ("set-size 0 0", "ok"),
                ("put 0 100 1", "!insufficient-space"),
                ("put 0 99 1", "ok"),
                ("put 0 0 100", "ok"),
                ("put 0 50 51", "!insufficient-space"),
                ("put 0 18446744073709551615 1", "!file-too-large"),
                ("put-at-once 0 100 1", "!insufficient-space"),
                ("put-at-once 0 0 100", "ok"),
                ("stat 0", "file 100"),
                ("keep /q t rwcf", "1"),
                ("splice 0 1", "!insufficient-space"),
                ("set-size 0 50", "ok"),
                ("splice 0 1", "ok"),
                ("stat 1", "file 50"),
                ("close 1", "ok"),
                ("unlink /q t", "ok"),
                // A file without a name holds its bytes while it is open.
                ("put 0 0 100", "ok"),
                ("unlink /q s", "ok"),
                ("write /q t 1", "!insufficient-space"),
                ("put 0 0 100", "ok"),
                ("set-size 0 99", "ok"),
                ("write /q t 1", "ok"),
                ("write /q t 2", "!insufficient-space"),
                ("close 0", "ok"),
                ("write /q t 100", "ok"),
                // Two names of a file count once.
                ("link /q t '' /q u", "ok"),
                ("unlink /q t", "ok"),
                ("write /q v 1", "!insufficient-space"),
                ("unlink /q u", "ok"),
                ("write /q v 1", "ok"),
                // Texts of symlinks count.
                ("write /q v 97", "ok"),
                ("symlink abcd /q l", "!insufficient-space"),
                ("symlink abc /q l", "ok"),
                ("unlink /q v", "ok"),
                ("unlink /q l", "ok"),
                // Entries, and how they come back.
                ("mkdir /q d", "ok"),
                ("write /q d/f 1", "ok"),
                ("symlink f /q d/l", "ok"),
                ("link /q d/f '' /q d/g", "ok"),
                ("open /q e wcxf", "ok"),
                ("mkdir /q x", "!insufficient-space"),
                ("open /q x wcf", "!insufficient-space"),
                ("open /q x wcxf", "!insufficient-space"),
                ("symlink f /q x", "!insufficient-space"),
                ("link /q e '' /q x", "!insufficient-space"),
                ("open /q e wcf", "ok"),
                ("open /q . rdf", "ok"),
                ("rename /q e /q d/l", "ok"),
                ("mkdir /q x", "ok"),
                ("mkdir /q y", "!insufficient-space"),
                ("rmdir /q d", "!not-empty"),
                ("rmdir /q x", "ok"),
                ("mkdir /q y", "ok"),
                // Two names of one file: nothing happens.
                ("rename /q d/f /q d/g", "ok"),
                ("stat /q d/f ''", "file 1"),
                ("mkdir /q x", "!insufficient-space"),
                ("unlink /q y", "!is-directory"),
                ("mkdir /q x", "!insufficient-space"),
                // A directory over an empty one.
                ("rename /q d /q y", "ok"),
                ("mkdir /q d", "ok"),
                ("list /q y", "f:file,g:file,l:file"),
            ],
        )
        .await;
        // A quota is a limit, and no refusal.
        assert_eq!(reply.denials(), []);
        // The books are the function's, so the next call has them too; and they are drawn up anew with the next load.
        check(&function, &[("mkdir /q x", "!insufficient-space"), ("write /q y/f 99", "ok")]).await;
        check(&function, &[("write /q y/l 2", "!insufficient-space")]).await;
        let again = load(&host(), guest, [grant().into()]).await.unwrap();
        check(&again, &[("mkdir /q x", "!insufficient-space"), ("write /q y/l 1", "ok")]).await;
        check(&again, &[("write /q y/l 2", "!insufficient-space"), ("rmdir /q d", "ok"), ("mkdir /q x", "ok")]).await;
        for less in [grant().max_bytes(98), grant().max_entries(4)] {
            let error = load(&host(), guest, [less.into()]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Misuse);
            assert!(text(&error).contains("it holds"), "{error}");
        }
    }
}

/// What a guest of WASI 0.2 does that does not want to block.
#[tokio::test]
async fn streams_of_files_can_be_polled() {
    let place = Place::new();
    let function = load(&place.host(), "files-p2", [Scratch::at("/t").max_bytes(200_000).into()]).await.unwrap();
    let table = [
        ("keep /t a rwcf", "0"),
        ("poll 0 0", "0"),
        ("poll 0 1", "1"),
        ("poll 0 200000", "200000"),
        ("poll 0 200001", "!insufficient-space"),
        ("set-size 0 0", "ok"),
        ("write-and-drop 0 30000", "ok"),
        ("stat 0", "file 30000"),
    ];
    check(&function, &table).await;
}

#[tokio::test]
async fn a_name_that_is_no_text_ends_a_listing() {
    use std::os::unix::ffi::OsStrExt;
    for guest in GUESTS {
        let place = Place::new();
        let dir = place.dir("d");
        fs::write(dir.join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
        symlink(std::ffi::OsStr::from_bytes(b"\xfe"), dir.join("link")).unwrap();
        let function = load(&host(), guest, [Dir::read_only(&dir, "/d").into()]).await.unwrap();
        let table = [("list /d .", "!illegal-byte-sequence"), ("readlink /d link", "!illegal-byte-sequence")];
        check(&function, &table).await;
    }
}

/// However many calls write at once, no more is there than may be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_holds_for_all_calls_together() {
    for guest in GUESTS {
        let place = Place::new();
        let dir = place.dir("q");
        let grant = Dir::read_write(&dir, "/q").max_bytes(1_000).max_entries(12);
        let function = load(&host(), guest, [grant.into()]).await.unwrap();
        let calls = (0..40).map(|n| {
            let function = function.clone();
            tokio::spawn(async move {
                let steps = [format!("keep /q {n} wcf"), "append 0 60".to_owned(), "append 0 60".to_owned()];
                perform(&function, &[&steps[0]]).await.unwrap();
                let mut kept = perform(&function, &[&steps[0], &steps[1], &steps[2]]).await;
                if let Ok(reply) = &mut kept {
                    assert!(
                        reply.value.iter().all(|got| !got.starts_with("error") || got == "error insufficient-space")
                    );
                }
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
        let sizes: Vec<u64> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).collect();
        assert_eq!(sizes.len(), 12);
        // The last that fitted leaves less room than one more would take.
        assert_eq!(sizes.iter().sum::<u64>(), 960);
    }
}

/// What others put there or take away is counted when a guest meets it, and never given back twice.
#[tokio::test]
async fn changes_by_others_are_never_counted_too_low() {
    for guest in GUESTS {
        let place = Place::new();
        let dir = place.dir("q");
        let function = load(&host(), guest, [Dir::read_write(&dir, "/q").max_bytes(100).into()]).await.unwrap();
        check(&function, &[("write /q own 50", "ok")]).await;
        fs::write(dir.join("theirs"), [0; 500]).unwrap();
        // Not counted before, so not given back.
        check(&function, &[("unlink /q theirs", "ok"), ("write /q x 51", "!insufficient-space")]).await;
        fs::write(dir.join("theirs"), [0; 500]).unwrap();
        check(
            &function,
            &[
                ("keep /q theirs rwf", "0"),
                ("put 0 0 500", "ok"),
                ("append 0 1", "!insufficient-space"),
                ("write /q x 1", "!insufficient-space"),
                ("set-size 0 10", "ok"),
                ("write /q x 41", "!insufficient-space"),
                ("write /q x 40", "ok"),
            ],
        )
        .await;
    }
}

/// A consumer fetches the results and removes them: the books, which still have them, are drawn up anew.
#[tokio::test]
async fn what_others_remove_makes_room() {
    for guest in GUESTS {
        let place = Place::new();
        let dir = place.dir("q");
        let grant = Dir::read_write(&dir, "/q").max_bytes(100).max_entries(2);
        let function = load(&host(), guest, [grant.into()]).await.unwrap();
        check(&function, &[("write /q a 100", "ok"), ("mkdir /q b", "ok")]).await;
        fs::remove_file(dir.join("a")).unwrap();
        fs::remove_dir(dir.join("b")).unwrap();
        let table = [
            ("write /q c 100", "ok"),
            ("mkdir /q d", "ok"),
            ("write /q d/e 1", "!insufficient-space"),
            ("mkdir /q e", "!insufficient-space"),
            ("unlink /q c", "ok"),
            ("write /q e 101", "!insufficient-space"),
        ];
        check(&function, &table).await;
    }
}

/// Bounded by the deadline of the call, which is far: an open that waited would end it as `TimedOut`.
#[tokio::test]
async fn special_files_are_refused_at_once() {
    for guest in GUESTS {
        let place = Place::new();
        let inside = place.dir("inside");
        let made = |program: &str, args: &[&str]| {
            std::process::Command::new(program).current_dir(&inside).args(args).status().is_ok_and(|s| s.success())
        };
        assert!(made("mkfifo", &["fifo"]));
        symlink("fifo", inside.join("to-fifo")).unwrap();
        symlink("/dev/zero", inside.join("zero")).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(inside.join("socket")).unwrap();
        // Not everybody may make one.
        let device = made("mknod", &["device", "c", "1", "5"]);
        let function = load(&host(), guest, [Dir::read_write(&inside, "/d").into()]).await.unwrap();
        let mut table = vec![
            ("open /d fifo rf", "!not-permitted"),
            ("open /d fifo r", "!not-permitted"),
            ("open /d fifo wf", "!not-permitted"),
            ("open /d fifo rwf", "!not-permitted"),
            ("open /d fifo wctf", "!not-permitted"),
            ("open /d fifo wcxf", "!exist"),
            ("open /d fifo rdf", "!not-permitted"),
            ("open /d to-fifo rf", "!not-permitted"),
            ("open /d to-fifo wcf", "!not-permitted"),
            ("times /d fifo f", "!not-permitted"),
            ("times /d to-fifo f", "!not-permitted"),
            ("open /d socket rf", "!not-permitted"),
            ("open /d socket wf", "!not-permitted"),
            ("open /d zero rf", "!not-permitted"),
            ("open /d zero r", "!loop"),
            ("link /d fifo '' /d x", "!not-permitted"),
            ("stat /d fifo ''", "fifo 0"),
            ("stat /d to-fifo f", "fifo 0"),
            ("stat /d socket ''", "socket 0"),
            ("times /d fifo ''", "ok"),
        ];
        if device {
            table.extend([("open /d device rf", "!not-permitted"), ("open /d device wf", "!not-permitted")]);
        }
        table.extend([("unlink /d fifo", "ok"), ("open /d to-fifo rf", "!no-entry")]);
        let reply = check(&function, &table).await;
        assert!(reply.denials()[0].rule().contains("regular files"), "{:?}", reply.denials()[0]);
    }
}

#[tokio::test]
async fn a_large_directory_is_listed_in_pieces() {
    for guest in GUESTS {
        let place = Place::new();
        let inside = place.dir("inside");
        let names: BTreeSet<String> = (0..3_000).map(|n| format!("n{n:04}")).collect();
        fs::write(place.0.join("one"), "").unwrap();
        names.iter().for_each(|name| fs::hard_link(place.0.join("one"), inside.join(name)).unwrap());
        let function = load(&host(), guest, [Dir::read_only(&inside, "/d").into()]).await.unwrap();
        let reply = perform(&function, &["count /d .", "list /d ."]).await.unwrap();
        assert_eq!(reply.value[0], "3000");
        let listed: BTreeSet<String> = reply.value[1].split(',').map(|name| name.replace(":file", "")).collect();
        assert_eq!(listed, names);
    }
}

#[tokio::test]
async fn a_call_has_so_many_files_open_and_no_more() {
    for guest in GUESTS {
        let place = Place::new();
        let function = load(&place.host(), guest, [Scratch::at("/t").into()]).await.unwrap();
        // The directory is one of them.
        let keep = vec!["keep /t a rwcf"; 127];
        let more = ["open /t a rf", "mkdir /t d", "list /t .", "close 5", "open /t a rf"];
        let reply = perform(&function, &[&keep[..], &more[..]].concat()).await.unwrap();
        assert_eq!(reply.value[126], "126");
        let full = "error insufficient-memory";
        assert_eq!(reply.value[127..], [full, "ok", full, "ok", "ok"]);
    }
}

/// Descriptors of this process, by what they are open for.
fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
async fn what_a_call_had_open_is_closed_after_it() {
    if !alone("files::what_a_call_had_open_is_closed_after_it", "") {
        return;
    }
    for guest in GUESTS {
        let place = Place::new();
        let grants = [Scratch::at("/t").into(), Dir::read_write(place.dir("d"), "/d").into()];
        let function = load(&place.host(), guest, grants).await.unwrap();
        let open = ["keep /t a rwcf", "keep /d a rwcf", "keep /d . rdf", "write /t b 100"];
        let mut before = 0;
        for round in 0..10 {
            perform(&function, &open).await.unwrap();
            let error = perform(&function, &[&open[..], &["trap"]].concat()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Trapped);
            let error = perform(&function.deadline(ms(30)), &[&open[..], &["spin"]].concat()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            match round {
                0 => {
                    soon(|| place.scratch().is_empty()).await;
                    before = descriptors();
                }
                // The first count may have seen one that was still being closed.
                _ => soon(|| descriptors() <= before).await,
            }
        }
    }
}

/// A call that never touches its files makes none; whatever ends one that did, nothing is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scratch_is_fresh_and_goes_with_its_call() {
    for guest in GUESTS {
        let place = Place::new();
        let function = load(&place.host(), guest, [Scratch::at("/tmp").into()]).await.unwrap();
        let space = fs::read_dir(place.0.join("scratch")).unwrap().map(|e| e.unwrap().path()).find(|p| p.is_dir());
        let touched = || {
            let meta = fs::metadata(space.as_ref().unwrap()).unwrap();
            (meta.mtime(), meta.mtime_nsec(), meta.nlink())
        };
        let untouched = touched();
        check(&function, &[("roots", "/tmp"), ("type /tmp", "dir"), ("flags /tmp", "rm")]).await;
        assert_eq!(touched(), untouched);

        let fill = ["list /tmp .", "write /tmp a 10", "mkdir /tmp d", "symlink a /tmp l", "write /tmp d/b 10"];
        let filled = ["", "ok", "ok", "ok", "ok"];
        for _ in 0..2 {
            assert_eq!(perform(&function, &fill).await.unwrap().value, filled);
            assert_eq!(place.scratch(), [] as [PathBuf; 0]);
        }
        assert_ne!(touched(), untouched);
        let then = |last: &'static str| [&fill[..], &[last]].concat();
        assert_eq!(perform(&function, &then("trap")).await.unwrap_err().kind(), ErrorKind::Trapped);
        assert_eq!(place.scratch(), [] as [PathBuf; 0]);
        let short = function.deadline(ms(100));
        assert_eq!(perform(&short, &then("spin")).await.unwrap_err().kind(), ErrorKind::TimedOut);
        // An operation may be at its end yet, and is waited for.
        soon(|| place.scratch().is_empty()).await;

        // Dropped while its file is there.
        let steps = then("spin");
        let mut call = Box::pin(perform(&function, &steps));
        let there = std::future::poll_fn(|cx| {
            assert!(call.as_mut().poll(cx).is_pending());
            cx.waker().wake_by_ref();
            let found = place.scratch().iter().any(|dir| dir.join("d/b").exists());
            if found { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        });
        there.await;
        drop(call);
        soon(|| place.scratch().is_empty()).await;

        // Each has its own, at the same time.
        let calls = (0..8).map(|_| {
            let function = function.clone();
            tokio::spawn(async move {
                check(&function, &[("open /tmp own wcxf", "ok"), ("list /tmp .", "own:file")]).await;
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
        assert_eq!(place.scratch(), [] as [PathBuf; 0]);
        let quota = Scratch::at("/tmp").max_bytes(10).max_entries(2);
        let small = load(&place.host(), guest, [quota.into()]).await.unwrap();
        for _ in 0..2 {
            let table = [
                ("write /tmp a 10", "ok"),
                ("write /tmp b 1", "!insufficient-space"),
                ("mkdir /tmp c", "!insufficient-space"),
            ];
            check(&small, &table).await;
        }
    }
}

/// A large one is removed on a thread for blocking work; a runtime that ends waits for that, or gives it back to be done.
#[test]
fn a_large_scratch_goes_with_its_runtime_at_the_latest() {
    for guest in GUESTS {
        let place = Place::new();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let host = place.host();
        runtime.block_on(async {
            let function = load(&host, guest, [Scratch::at("/tmp").into()]).await.unwrap();
            let names: Vec<String> = (0..200).map(|n| format!("write /tmp f{n} 100")).collect();
            let steps: Vec<&str> = names.iter().map(String::as_str).collect();
            assert!(perform(&function, &steps).await.unwrap().value.iter().all(|got| got == "ok"));
        });
        drop(runtime);
        assert_eq!(place.scratch(), [] as [PathBuf; 0]);
        drop(host);
        let left: Vec<_> = fs::read_dir(place.0.join("scratch")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, [""; 0]);
    }
}

/// The operation waits for the only thread that the runtime has for such work, which another has; the call does not.
#[test]
fn an_operation_that_cannot_begin_ends_with_its_call_and_never_begins() {
    for guest in GUESTS {
        let place = Place::new();
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let dir = place.dir("d");
            let function = load(&host(), guest, [Dir::read_write(&dir, "/d").into()]).await.unwrap();
            let (let_go, held) = std::sync::mpsc::channel::<()>();
            let holder = tokio::task::spawn_blocking(move || held.recv());
            let call = perform(&function, &["write /d a 1"]);
            drop(call);
            let short = function.deadline(ms(50));
            assert_eq!(perform(&short, &["write /d a 1"]).await.unwrap_err().kind(), ErrorKind::TimedOut);
            drop(let_go);
            let _ = holder.await.unwrap();
            check(&function, &[("list /d .", "")]).await;
        });
    }
}

const ROOT: &str = "ISOPOD_TEST_SCRATCH";

/// What a killed process left is removed by the next host, while that of a living one stays.
#[tokio::test]
async fn a_killed_process_leaves_nothing() {
    let guest = GUESTS[0];
    if let Some(root) = std::env::var_os(ROOT) {
        // The process that is killed, in the middle of a call.
        let host = Host::builder().scratch_dir(&root).build().unwrap();
        let function = load(&host, guest, [Scratch::at("/tmp").into()]).await.unwrap();
        let call =
            tokio::spawn(async move { perform(&function, &["mkdir /tmp d", "write /tmp d/left 10", "spin"]).await });
        while left(Path::new(&root)).is_empty() {
            tokio::task::yield_now().await;
        }
        println!("ready");
        let _ = call.await;
        return;
    }
    let place = Place::new();
    let root = place.0.join("scratch");
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "files::a_killed_process_leaves_nothing", "--nocapture"])
        .env(ROOT, &root)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(|line| line.ok()).any(|line| line.ends_with("ready")));
    let other = place.host();
    load(&other, guest, [Scratch::at("/tmp").into()]).await.unwrap();
    assert_eq!(left(&root).len(), 1, "a living process lost its files");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(left(&root).len(), 1);
    // A host looks once, when it needs its own.
    load(&place.host(), guest, [Scratch::at("/tmp").into()]).await.unwrap();
    assert_eq!(left(&root), [] as [PathBuf; 0]);
}

/// Files called `d/left` in scratch directories.
fn left(root: &Path) -> Vec<PathBuf> {
    let below = |dir: &Path| fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path());
    let all = below(root).flat_map(|space| below(&space).collect::<Vec<_>>()).map(|dir| dir.join("d/left"));
    all.filter(|path| path.exists()).collect()
}

#[tokio::test]
async fn settings_that_cannot_be_kept_are_told_at_load() {
    let place = Place::new();
    let dir = place.dir("d");
    fs::write(dir.join("file"), "").unwrap();
    let sub = place.dir("d/sub");
    let missing = dir.join("missing");
    let ro = |guest: &str| Dir::read_only(&dir, guest).into();
    let cases: [(&[Grant], &str); 20] = [
        (&[Dir::read_only(&missing, "/d").into()], "make that directory"),
        (&[Dir::read_write(dir.join("file"), "/d").into()], "not a directory"),
        (&[ro("")], "not absolute"),
        (&[ro("d")], "not absolute"),
        (&[ro("./d")], "not absolute"),
        (&[ro("/d/../e")], "a part that is"),
        (&[ro("/d/")], "a part that is"),
        (&[ro("//d")], "a part that is"),
        (&[ro("/d"), ro("/d")], "a path of its own"),
        (&[ro("/d"), ro("/d/e")], "a path of its own"),
        (&[ro("/"), Scratch::at("/tmp").into()], "a path of its own"),
        (&[ro("/tmp"), Scratch::at("/tmp").into()], "a path of its own"),
        (&[Scratch::at("/a").into(), Scratch::at("/b").into()], "given twice"),
        (&[Scratch::at("tmp").into()], "not absolute"),
        (&[Dir::read_only(&dir, "/d").max_bytes(1).into()], "has no quota"),
        (&[Dir::read_write(&dir, "/d").max_bytes(0).into()], "a quota of 0"),
        (&[Dir::read_write(&dir, "/d").max_entries(0).into()], "a quota of 0"),
        (&[Scratch::at("/tmp").max_bytes(0).into()], "a quota of 0"),
        (&[Scratch::at("/tmp").max_entries(0).into()], "a quota of 0"),
        (&[Dir::read_write(&dir, "/d").into(), Dir::read_write(&sub, "/e").into()], "counts for itself"),
    ];
    for (grants, why) in cases {
        let error = load(&place.host(), "files-p2", grants.iter().cloned()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
        assert!(error.to_string().contains(why), "{error}, and not {why}");
    }
    // What only looks alike.
    let fine: [&[Grant]; 4] = [
        &[ro("/d"), ro("/dd"), ro("/e/d")],
        &[ro("/")],
        &[ro("/d"), Dir::read_write(&sub, "/e").into()],
        &[ro("/a"), ro("/b")],
    ];
    for grants in fine {
        load(&place.host(), "files-p3", grants.iter().cloned()).await.unwrap();
    }
    let error = load(&host(), "text-stats", [ro("/d")]).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Misuse && error.to_string().contains("Dir has no effect"), "{error}");

    fs::create_dir(place.0.join("open")).unwrap();
    fs::set_permissions(place.0.join("open"), fs::Permissions::from_mode(0o777)).unwrap();
    symlink(place.dir("target"), place.0.join("link")).unwrap();
    for (root, why) in [
        ("open", "others than its owner"),
        ("link", "a symlink"),
        ("d/file", "not a directory"),
        ("no/where", "No such"),
    ] {
        let host = Host::builder().scratch_dir(place.0.join(root)).build().unwrap();
        let error = load(&host, "files-p2", [Scratch::at("/tmp").into()]).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Misuse && error.to_string().contains(why), "{error}, and not {why}");
    }
    // Others' files in such a directory are left alone.
    let host = Host::builder().scratch_dir(&dir).build().unwrap();
    load(&host, "files-p2", [Scratch::at("/tmp").into()]).await.unwrap();
    drop(host);
    assert!(dir.join("file").exists() && sub.exists());
}

#[tokio::test]
async fn a_program_that_knows_nothing_of_this_uses_files() {
    let place = Place::new();
    let function = load(&place.host(), "files-std", [Scratch::at("/work").into()]).await.unwrap();
    assert_eq!(function.kind(), Kind::Command);
    let reply = function.command(Command::new()).await.unwrap();
    let [stdout, stderr] = [&reply.output().stdout, &reply.output().stderr].map(|out| String::from_utf8_lossy(out));
    let expected = "inner moved.txt\none\ntwo\n8 bytes\noutside: Err(PermissionDenied)\nleft: 0\n";
    assert_eq!((reply.value, &*stdout), (0, expected), "{stderr}");
    assert_eq!(place.scratch(), [] as [PathBuf; 0]);
    // Without a grant there is nothing to find.
    let bare = load(&host(), "files-std", []).await.unwrap();
    assert_eq!(bare.command(Command::new()).await.unwrap().value, 1);
}
