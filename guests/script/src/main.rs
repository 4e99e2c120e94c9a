//! Builds the interpreter of scripts: QuickJS-ng with `script.c` and `prelude.js` around it, started and frozen, as the
//! component `src/script/javascript.wasm` of isopod, and `src/script/MANIFEST.json`, which says what it was built from.
//!
//! With `--check` nothing is written: it fails if what is committed is not what the sources give.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use wasmtime::{Config, Engine, Linker, Module, Store};
use wasmtime_wizer::Wizer;
use wit_component::ComponentEncoder;

const CLANG: &str = "/usr/bin/clang-19";
/// What the guest is made of besides QuickJS, relative to the root of the repository.
const SOURCES: [&str; 5] = [
    "guests/script/Cargo.lock",
    "guests/script/prelude.js",
    "guests/script/script.c",
    "guests/script/src/main.rs",
    "wit/script/interpreter.wit",
];
const COMPONENT: &str = "src/script/javascript.wasm";
const MANIFEST: &str = "src/script/MANIFEST.json";

fn main() -> Result<()> {
    let check = match std::env::args().skip(1).collect::<Vec<_>>().iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--check"] => true,
        _ => bail!("usage: script-guest [--check]"),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let gen_dir = target_dir().join("script-gen");
    bindings(&root, &gen_dir)?;
    let (quickjs, version) = quickjs()?;
    let module = compile(&root, &gen_dir, &quickjs)?;
    let frozen = pollster::block_on(freeze(&module))?;
    let component = ComponentEncoder::default().validate(true).module(&frozen)?.encode()?;
    let manifest = json!({
        "sources": SOURCES,
        "sources_sha256": hash_files(&root)?,
        "wasm_sha256": hex(&Sha256::digest(&component)),
        "toolchain": format!("{}, rquickjs-sys {version}", clang_version()?),
    });
    println!("{} bytes, {} before it was started", component.len(), module.len());
    if check {
        return compare(&root, &manifest, &component);
    }
    fs::write(root.join(COMPONENT), component)?;
    fs::write(root.join(MANIFEST), serde_json::to_string_pretty(&manifest)? + "\n")?;
    Ok(())
}

/// Fails if what is committed differs from what was just built.
fn compare(root: &Path, new: &Value, component: &[u8]) -> Result<()> {
    let old: Value = serde_json::from_str(&fs::read_to_string(root.join(MANIFEST))?)?;
    ensure!(old["sources_sha256"] == new["sources_sha256"], "the sources changed; rebuild");
    if old["toolchain"] != new["toolchain"] {
        println!("bytes not compared: it was built by {}", old["toolchain"]);
        return Ok(());
    }
    ensure!(fs::read(root.join(COMPONENT))? == component, "the same sources and toolchain gave other bytes");
    Ok(())
}

/// What wit-bindgen makes of the world.
fn bindings(root: &Path, to: &Path) -> Result<()> {
    let mut resolve = wit_parser::Resolve::default();
    let (package, _) = resolve.push_path(root.join("wit/script"))?;
    let world = resolve.select_world(&[package], Some("javascript"))?;
    let mut files = wit_bindgen_core::Files::default();
    wit_bindgen_c::Opts::default().build().generate(&mut resolve, world, &mut files)?;
    fs::create_dir_all(to)?;
    for (name, bytes) in files.iter() {
        fs::write(to.join(name), bytes)?;
    }
    let prelude = fs::read(root.join("guests/script/prelude.js"))?;
    let bytes: Vec<String> = prelude.iter().chain([&0]).map(u8::to_string).collect();
    fs::write(to.join("prelude.h"), format!("static const char PRELUDE[] = {{{}}};\n", bytes.join(",")))?;
    Ok(())
}

/// Where QuickJS-ng's sources are, and the version of the crate that carries them.
fn quickjs() -> Result<(PathBuf, String)> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let metadata = Command::new("cargo")
        .args(["metadata", "--locked", "--format-version=1", "--manifest-path"])
        .arg(manifest)
        .output()?;
    ensure!(metadata.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: Value = serde_json::from_slice(&metadata.stdout)?;
    let packages = metadata["packages"].as_array().context("packages")?;
    let package = packages.iter().find(|package| package["name"] == "rquickjs-sys").context("rquickjs-sys")?;
    let folder = Path::new(package["manifest_path"].as_str().context("a path")?).parent().context("a folder")?;
    Ok((folder.join("quickjs"), package["version"].as_str().context("a version")?.to_owned()))
}

/// As one unit: `script.c` includes QuickJS, whose parts it reaches into.
fn compile(root: &Path, gen_dir: &Path, quickjs: &Path) -> Result<Vec<u8>> {
    let module = target_dir().join("script.wasm");
    let mut clang = Command::new(CLANG);
    clang.args([
        "--target=wasm32-wasi",
        "-std=gnu11",
        "-O2",
        "-mexec-model=reactor",
        "-mbulk-memory",
        "-msign-ext",
        "-mnontrapping-fptoint",
    ]);
    clang.args(["-DNDEBUG", "-D_GNU_SOURCE", "-DEMSCRIPTEN=1", "-DFE_DOWNWARD=0", "-DFE_UPWARD=0"]);
    clang.args(["-D_WASI_EMULATED_PROCESS_CLOCKS", "-D_WASI_EMULATED_SIGNAL", "-w"]);
    clang.arg(format!("-I{}", quickjs.display())).arg(format!("-I{}", gen_dir.display()));
    // Paths of this machine are in no message.
    clang.arg(format!("-ffile-prefix-map={}=quickjs", quickjs.display()));
    clang.arg(format!("-ffile-prefix-map={}=.", root.display()));
    clang.args(["-Wl,--strip-all", "-Wl,--stack-first", "-Wl,-z,stack-size=262144"]);
    clang.args(["-lwasi-emulated-process-clocks", "-lwasi-emulated-signal", "-lm", "-o"]).arg(&module);
    clang.arg(root.join("guests/script/script.c"));
    clang.args(["javascript.c", "javascript_component_type.o"].map(|name| gen_dir.join(name)));
    let status = clang.status().with_context(|| {
        format!("{CLANG} is missing: apt-get install --no-install-recommends clang-19 lld-19 wasi-libc libclang-rt-19-dev-wasm32")
    })?;
    ensure!(status.success(), "{clang:?}: {status}");
    Ok(fs::read(module)?)
}

/// Starts the module, and makes one that begins where it stands.
async fn freeze(module: &[u8]) -> Result<Vec<u8>> {
    let engine = Engine::new(&Config::new())?;
    let mut store = Store::new(&engine, ());
    let mut linker = Linker::new(&engine);
    let mut wizer = Wizer::new();
    wizer.init_func("wizer-initialize");
    let instantiate = async |store: &mut Store<()>, module: &Module| {
        // Nothing answers while it starts.
        linker.define_unknown_imports_as_traps(module)?;
        linker.instantiate_async(store, module).await
    };
    Ok(wizer.run(&mut store, module, instantiate).await?)
}

fn clang_version() -> Result<String> {
    let version = Command::new(CLANG).arg("--version").output()?;
    Ok(String::from_utf8_lossy(&version.stdout).lines().next().unwrap_or_default().to_owned())
}

fn target_dir() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(default, PathBuf::from)
}

/// For each file: its path, a zero byte, its length in decimal, a zero byte, its bytes.
fn hash_files(root: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    for path in SOURCES {
        let bytes = fs::read(root.join(path)).with_context(|| path.to_owned())?;
        hash.update(format!("{path}\0{}\0", bytes.len()));
        hash.update(bytes);
    }
    Ok(hex(&hash.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
