//! Builds the guests: rewrites `guests/built/*.wasm`, `src/script/typescript.wasm` and `guests/MANIFEST.json`. See
//! `guests/README.md`.
//!
//! With `--check` nothing is written: it fails if a committed component is not what its sources give. A compiler of
//! another version is not expected to give the same bytes: they are compared only if the recorded toolchain is the one
//! here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use wit_component::ComponentEncoder;

/// How a guest is built, and where its source is.
enum Kind {
    /// `src/bin/<name>.rs`, for wasm32-unknown-unknown.
    Rust,
    /// The same for wasm32-wasip2, where std does I/O.
    Wasip2,
    /// `c/<name>.c`, of the plugin world, whose bindings are in `c/gen`.
    C,
    /// `<name>/`, a package with a lock file of its own, for wasm32-unknown-unknown. isopod itself carries it.
    Package,
}

struct Guest {
    name: &'static str,
    kind: Kind,
    /// The WIT file or folder of its world, relative to `guests`. None if std knows the world.
    wit: Option<&'static str>,
}

const fn guest(name: &'static str, kind: Kind, wit: &'static str) -> Guest {
    Guest { name, kind, wit: Some(wit) }
}

const GUESTS: &[Guest] = &[
    guest("ambient", Kind::Rust, "wit/ambient"),
    guest("async-shapes", Kind::Rust, "wit/async-shapes.wit"),
    guest("caller", Kind::Rust, "wit/caller"),
    Guest { name: "command", kind: Kind::Wasip2, wit: None },
    guest("content-hash", Kind::C, "wit/plugin.wit"),
    guest("event-handler", Kind::Rust, "../wit/function.wit"),
    guest("files-p2", Kind::Rust, "wit/files-p2"),
    guest("files-p3", Kind::Rust, "wit/files-p3"),
    Guest { name: "files-std", kind: Kind::Wasip2, wit: None },
    guest("hostile", Kind::Rust, "wit/plugin.wit"),
    guest("http-client-p2", Kind::Rust, "wit/http-p2"),
    guest("http-client-p3", Kind::Rust, "wit/http-p3"),
    guest("http-hello-p2", Kind::Rust, "wit/http-p2"),
    guest("http-hello-p3", Kind::Rust, "wit/http-p3"),
    guest("json-transform", Kind::Rust, "wit/json-transform.wit"),
    guest("keyvalue", Kind::Rust, "wit/keyvalue"),
    guest("keyvalue-draft", Kind::Rust, "wit/keyvalue"),
    guest("orders", Kind::Rust, "wit/orders"),
    guest("secret-scan", Kind::Rust, "wit/plugin.wit"),
    guest("secrets", Kind::Rust, "wit/secrets"),
    guest("shapes", Kind::Rust, "wit/shapes.wit"),
    guest("text-stats", Kind::Rust, "wit/plugin.wit"),
    guest("thumbnail", Kind::Rust, "wit/thumbnail.wit"),
    guest("typescript", Kind::Package, "../wit/script/typescript.wit"),
];

/// What stands in MANIFEST.json. The tests of isopod read it too.
#[derive(Serialize, Deserialize)]
struct Manifest {
    guests: BTreeMap<String, Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    /// Every file the component is made of, relative to `guests`, sorted.
    sources: Vec<String>,
    sources_sha256: String,
    wasm_sha256: String,
    /// What built it.
    toolchain: String,
}

fn main() -> Result<()> {
    let check = match std::env::args().skip(1).collect::<Vec<_>>().iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--check"] => true,
        _ => bail!("usage: xtask [--check]"),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in guests")?.canonicalize()?;
    let encoder = format!("wit-component {}", locked_version(&root, "wit-component")?);

    bindings_for_c(&root, check)?;
    let mut built = BTreeMap::new();
    build_rust(&root, UNKNOWN, &encoder, &mut built)?;
    build_rust(&root, WASIP2, &encoder, &mut built)?;
    build_c(&root, &encoder, &mut built)?;
    build_packages(&root, &encoder, &mut built)?;

    let mut guests = BTreeMap::new();
    for guest in GUESTS {
        let (wasm, toolchain) = built.remove(guest.name).context("every guest was built")?;
        let sources = sources(&root, guest)?;
        let entry = Entry {
            sources_sha256: hash_files(&root, &sources)?,
            sources,
            wasm_sha256: hex(&Sha256::digest(&wasm)),
            toolchain,
        };
        println!("{:>9}  {}", wasm.len(), guest.name);
        if !check {
            fs::write(component(&root, guest), wasm)?;
        }
        guests.insert(guest.name.to_string(), entry);
    }

    if check {
        return compare(&root, &guests);
    }
    fs::write(root.join("MANIFEST.json"), serde_json::to_string_pretty(&Manifest { guests })? + "\n")?;
    Ok(())
}

/// Fails if what is committed differs from what was just built.
fn compare(root: &Path, built: &BTreeMap<String, Entry>) -> Result<()> {
    let committed: Manifest = serde_json::from_str(&fs::read_to_string(root.join("MANIFEST.json"))?)?;
    ensure!(committed.guests.keys().eq(built.keys()), "MANIFEST.json lists other guests");
    let mut stale = Vec::new();
    for guest in GUESTS {
        let name = guest.name;
        let (old, new) = (&committed.guests[name], &built[name]);
        if old.sources_sha256 != new.sources_sha256 {
            stale.push(format!("{name}: its sources changed"));
        } else if hex(&Sha256::digest(fs::read(component(root, guest))?)) != old.wasm_sha256 {
            stale.push(format!("{name}: the component is not the one in MANIFEST.json"));
        } else if old.toolchain != new.toolchain {
            println!("{name}: bytes not compared, it was built by {}", old.toolchain);
        } else if old.wasm_sha256 != new.wasm_sha256 {
            stale.push(format!("{name}: the same sources and toolchain gave other bytes"));
        }
    }
    ensure!(stale.is_empty(), "{}\nrebuild with: cargo run --manifest-path guests/xtask/Cargo.toml", stale.join("\n"));
    Ok(())
}

fn component(root: &Path, guest: &Guest) -> PathBuf {
    let folder = if matches!(guest.kind, Kind::Package) { "../src/script" } else { "built" };
    root.join(folder).join(guest.name).with_extension("wasm")
}

// Building.

type Built = BTreeMap<&'static str, (Vec<u8>, String)>;

/// A Rust compiler that can build for a wasm target.
struct Rust {
    cargo: &'static str,
    /// What cargo needs besides the usual.
    args: &'static [&'static str],
    envs: &'static [(&'static str, &'static str)],
    /// For RUSTFLAGS.
    flags: Vec<String>,
    version: String,
}

/// A target installed with rustup, else Debian's rustc-web: it has no std for this target, but std's source.
fn find_rust(target: &str) -> Result<Rust> {
    let installed = output(Command::new("rustup").args(["target", "list", "--installed"])).unwrap_or_default();
    if installed.lines().any(|line| line == target) {
        let version = output(Command::new("rustc").arg("-V"))?;
        let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
        let flags = remap_flags(Path::new(sysroot.trim()))?;
        return Ok(Rust { cargo: "cargo", args: &[], envs: &[], flags, version: version.trim().to_string() });
    }

    let needed =
        ["/usr/bin/rustc", "/usr/bin/cargo", "/usr/lib/rustlib/src/rust/library/Cargo.lock", "/usr/bin/rust-lld"];
    if let Some(missing) = needed.iter().find(|path| !Path::new(path).exists()) {
        bail!(
            "no Rust compiler for {target}: rustup does not have it and {missing} is missing. Install one of\n  \
             rustup target add {target}\n  \
             apt-get install --no-install-recommends rustc-web rust-web-src cargo-web rust-web-llvm lld-22 wasi-libc"
        );
    }
    let version = output(Command::new("/usr/bin/rustc").arg("-V"))?;
    let mut flags = remap_flags(Path::new("/usr"))?;
    if target == WASIP2 {
        // rustup's std for this target has a libc inside, Debian's has not.
        let libc = "/usr/lib/wasm32-wasi";
        ensure!(Path::new(libc).join("libc.a").exists(), "{libc}/libc.a is missing: apt-get install wasi-libc");
        flags.push(format!("-Lnative={libc}"));
    }
    Ok(Rust {
        cargo: "/usr/bin/cargo",
        args: &["-Zbuild-std=std,panic_abort"],
        // RUSTC: rustup's comes first in PATH. RUSTC_BOOTSTRAP: -Z outside of nightly.
        envs: &[("RUSTC", "/usr/bin/rustc"), ("RUSTC_BOOTSTRAP", "1")],
        flags,
        version: version.trim().to_string(),
    })
}

/// Panic messages hold the paths of sources, which must not depend on the machine.
fn remap_flags(sysroot: &Path) -> Result<Vec<String>> {
    let std = sysroot.join("lib/rustlib/src/rust/library");
    let mut flags = vec![format!("--remap-path-prefix={}=/std", std.display())];
    let home = match std::env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => PathBuf::from(std::env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?).join(".cargo"),
    };
    // One folder per registry, named after its host.
    for registry in sorted(&home.join("registry/src"))? {
        flags.push(format!("--remap-path-prefix={}=/crates", registry.display()));
    }
    Ok(flags)
}

const UNKNOWN: &str = "wasm32-unknown-unknown";
const WASIP2: &str = "wasm32-wasip2";

impl Rust {
    /// Builds in that folder, and says where the modules are.
    fn build(&self, folder: &Path, target: &str, what: impl IntoIterator<Item = String>, to: &Path) -> Result<PathBuf> {
        let mut cargo = Command::new(self.cargo);
        cargo.args(["build", "--locked", "--release", "--target", target]).args(self.args).args(what);
        cargo.current_dir(folder).envs(self.envs.iter().copied());
        // Whoever runs this may have flags of their own: they would change the bytes.
        cargo.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", self.flags.join("\u{1f}"));
        cargo.env("CARGO_TARGET_DIR", to);
        run(&mut cargo)?;
        Ok(to.join(target).join("release"))
    }
}

fn build_rust(root: &Path, target: &str, encoder: &str, built: &mut Built) -> Result<()> {
    let rust = find_rust(target)?;
    let names = GUESTS.iter().filter(|guest| match guest.kind {
        Kind::Rust => target == UNKNOWN,
        Kind::Wasip2 => target == WASIP2,
        Kind::C | Kind::Package => false,
    });
    let names: Vec<&'static str> = names.map(|guest| guest.name).collect();
    let what = ["--package=guests".to_string()].into_iter().chain(names.iter().map(|name| format!("--bin={name}")));
    let modules = rust.build(root, target, what, &target_dir(root))?;
    for name in names {
        let wasm = fs::read(modules.join(name).with_extension("wasm"))?;
        // wasip2's linker has made a component already.
        let entry = match target {
            WASIP2 => (wasm, rust.version.clone()),
            _ => (encode(&wasm)?, format!("{}, {encoder}", rust.version)),
        };
        built.insert(name, entry);
    }
    Ok(())
}

fn build_packages(root: &Path, encoder: &str, built: &mut Built) -> Result<()> {
    let rust = find_rust(UNKNOWN)?;
    for guest in GUESTS.iter().filter(|guest| matches!(guest.kind, Kind::Package)) {
        let modules = rust.build(&root.join(guest.name), UNKNOWN, [], &target_dir(root).join(guest.name))?;
        let wasm = fs::read(modules.join(guest.name).with_extension("wasm"))?;
        built.insert(guest.name, (encode(&wasm)?, format!("{}, {encoder}", rust.version)));
    }
    Ok(())
}

const CLANG: &str = "/usr/bin/clang-19";

/// wit-bindgen's bindings for C are committed, for those who read the guest. They are written anew before each build.
fn bindings_for_c(root: &Path, check: bool) -> Result<()> {
    let mut resolve = wit_parser::Resolve::default();
    let (package, _) = resolve.push_path(root.join("wit/plugin.wit"))?;
    let world = resolve.select_world(&[package], Some("plugin"))?;
    let mut files = wit_bindgen_core::Files::default();
    wit_bindgen_c::Opts::default().build().generate(&mut resolve, world, &mut files)?;
    for (name, bytes) in files.iter() {
        let path = root.join("c/gen").join(name);
        if check {
            ensure!(fs::read(&path)? == bytes, "{} is not what wit-bindgen makes of wit/plugin.wit", path.display());
        } else {
            fs::create_dir_all(root.join("c/gen"))?;
            fs::write(path, bytes)?;
        }
    }
    Ok(())
}

fn build_c(root: &Path, encoder: &str, built: &mut Built) -> Result<()> {
    let version = output(Command::new(CLANG).arg("--version")).with_context(|| {
        format!(
            "{CLANG} is missing. Install\n  \
             apt-get install --no-install-recommends clang-19 lld-19 wasi-libc libclang-rt-19-dev-wasm32"
        )
    })?;
    let version = version.lines().next().unwrap_or_default();
    for guest in GUESTS.iter().filter(|guest| matches!(guest.kind, Kind::C)) {
        let module = target_dir(root).join(guest.name).with_extension("wasm");
        let mut clang = Command::new(CLANG);
        clang.args(["--target=wasm32-wasi", "-std=c11", "-Os", "-Wall", "-Wextra", "-Werror", "-mexec-model=reactor"]);
        clang.args(["-Wl,--strip-all", "-o"]).arg(&module);
        clang.arg(format!("c/{}.c", guest.name)).args(["c/gen/plugin.c", "c/gen/plugin_component_type.o"]);
        run(clang.current_dir(root))?;
        built.insert(guest.name, (encode(&fs::read(module)?)?, format!("{version}, {encoder}")));
    }
    Ok(())
}

fn encode(module: &[u8]) -> Result<Vec<u8>> {
    ComponentEncoder::default().validate(true).module(module)?.encode()
}

fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

// Sources and hashes.

fn sources(root: &Path, guest: &Guest) -> Result<Vec<String>> {
    let name = guest.name;
    let mut files = match guest.kind {
        Kind::Rust | Kind::Wasip2 => vec!["Cargo.lock".into(), "Cargo.toml".into(), format!("src/bin/{name}.rs")],
        Kind::C => vec!["Cargo.lock".into(), format!("c/{name}.c")],
        Kind::Package => vec![format!("{name}/Cargo.lock"), format!("{name}/Cargo.toml")],
    };
    match guest.kind {
        Kind::Rust | Kind::Wasip2 => {}
        Kind::C => add_files(root, "c/gen", &mut files)?,
        Kind::Package => add_files(root, &format!("{name}/src"), &mut files)?,
    }
    if let Some(wit) = guest.wit {
        add_files(root, wit, &mut files)?;
    }
    files.sort();
    Ok(files)
}

/// Adds `path` if it is a file, else all files below it.
fn add_files(root: &Path, path: &str, files: &mut Vec<String>) -> Result<()> {
    if !root.join(path).is_dir() {
        files.push(path.to_string());
        return Ok(());
    }
    for entry in sorted(&root.join(path))? {
        let name = entry.file_name().context("an entry of a folder has a name")?;
        add_files(root, &format!("{path}/{}", name.to_str().context("a name in UTF-8")?), files)?;
    }
    Ok(())
}

/// For each file: its path, a zero byte, its length in decimal, a zero byte, its bytes.
fn hash_files(root: &Path, files: &[String]) -> Result<String> {
    let mut hash = Sha256::new();
    for path in files {
        let bytes = fs::read(root.join(path)).with_context(|| path.clone())?;
        hash.update(format!("{path}\0{}\0", bytes.len()));
        hash.update(bytes);
    }
    Ok(hex(&hash.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The version of a crate in Cargo.lock.
fn locked_version(root: &Path, name: &str) -> Result<String> {
    let lock = fs::read_to_string(root.join("Cargo.lock"))?;
    let rest = lock.split_once(&format!("name = \"{name}\"\nversion = \"")).context("in Cargo.lock")?.1;
    Ok(rest.split('"').next().unwrap_or_default().to_string())
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
