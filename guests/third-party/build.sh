#!/usr/bin/env bash
# Components by other people's tools, for tests/it/third_party.rs.
#
#   guests/third-party/build.sh FOLDER
#
# Writes FOLDER/<name>.wasm, one for each tool and way of using it. A name that ends in `-wasi` imports WASI and uses
# it when asked to print; one that begins with `script-` is an interpreter of scripts. The tools go into FOLDER/tools, in the versions below; only clang and Debian's Rust compiler
# are installed by apt-get, if they are missing and if this is root. What is built is kept until a file here changes.
# A tool that cannot be had is named on stderr and left out. A tool that is there and fails is an error, and so is
# nothing built at all.
set -uo pipefail

componentize_js=0.23.0 # StarlingMonkey
componentize_qjs=0.4.5 # QuickJS
jco=1.35.0             # `component new` and the preview 1 adapter
preview2_shim=0.25.0   # componentize-js needs it and does not say so
componentize_py=0.25.1 # CPython
clang=19

[ $# = 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd) || exit
mkdir -p "$1/tools/log" || exit
out=$(cd "$1" && pwd) || exit
tools=$out/tools
expected=() missing=() broken=()

# Other sources or versions: other components.
stamp=$(cd "$here" && find . ../../wit/script -type f ! -path "*/target/*" -print0 | LC_ALL=C sort -z | xargs -0 sha256sum)
if [ "$stamp" != "$(cat "$tools/stamp" 2>/dev/null)" ]; then
    rm -f "$out"/*.wasm
    echo "$stamp" >"$tools/stamp"
fi

# build NAME TOOL COMMAND...: TOOL, a function, makes sure of what COMMAND needs; `OUT` in COMMAND stands for its output.
build() {
    local name=$1 tool=$2 new=$tools/new.wasm log=tools/log/$1
    shift 2
    expected+=("$name")
    [ -e "$out/$name.wasm" ] && return
    echo "building $name" >&2
    rm -f "$new"
    if ! once "$tool"; then
        missing+=("$name")
        echo "left out: $name" >&2
    elif "${@//OUT/$new}" >"$out/$log" 2>&1 && [ -s "$new" ]; then
        mv "$new" "$out/$name.wasm"
    else
        broken+=("$name")
        echo "failed: $name; see $log, which ends in" >&2
        tail -n 5 "$out/$log" >&2
    fi
}

# Runs a function that gets a tool once, and remembers how it ended.
once() {
    local known=known_$1
    if [ -z "${!known:-}" ]; then
        "$1" >"$tools/log/$1" 2>&1
        printf -v "$known" %s $?
        [ "${!known}" = 0 ] || tail -n 5 "$tools/log/$1" >&2
    fi
    [ "${!known}" = 0 ] || { echo "cannot be had: $1; see tools/log/$1" >&2; false; }
}

# debian FILE PACKAGE...: installs the packages if the file is missing.
debian() {
    [ -e "$1" ] && return
    echo "$1 is missing: apt-get install --no-install-recommends ${*:2}"
    [ "$(id -u)" = 0 ] && apt-get update -q && apt-get install -q -y --no-install-recommends "${@:2}" && [ -e "$1" ]
}

# Always anew, as npm places the same packages otherwise when it adds to what is there, and some then miss theirs.
npm_tools() {
    rm -rf "$tools/npm" && mkdir "$tools/npm" && cd "$tools/npm" &&
        npm install --no-audit --no-fund "@bytecodealliance/componentize-js@$componentize_js" \
            "@bytecodealliance/jco@$jco" "@bytecodealliance/preview2-shim@$preview2_shim" "componentize-qjs@$componentize_qjs" &&
        # Beside their modules, or they would not find them.
        cp "$here"/*.mjs .
}

python_tools() {
    { [ -e "$tools/python/bin/pip" ] || python3 -m venv "$tools/python"; } &&
        "$tools/python/bin/pip" install -q "componentize-py==$componentize_py"
}

clang_tools() {
    debian "/usr/bin/clang-$clang" "clang-$clang" "lld-$clang" wasi-libc "libclang-rt-$clang-dev-wasm32" &&
        debian /usr/lib/wasm32-wasi/libc.a wasi-libc && once npm_tools
}

# rustup's targets where they are installed; else Debian's compiler, which builds std from its source.
rust_tools() {
    rustup target list --installed | grep -qx wasm32-wasip1 && rustup target list --installed | grep -qx wasm32-wasip2 && return
    local packages=(rustc-web rust-web-src cargo-web rust-web-llvm lld-22 wasi-libc)
    debian /usr/bin/cargo "${packages[@]}" && debian /usr/lib/rustlib/src/rust/library/Cargo.lock "${packages[@]}" &&
        debian /usr/bin/rust-lld "${packages[@]}" && debian /usr/lib/wasm32-wasi/libc.a wasi-libc && of_debian=1
}

rust_and_npm_tools() { once rust_tools && once npm_tools; }

starling() { node "$tools/npm/componentize.mjs" "$here/handle.js" "$here/world.wit" "$@"; }

qjs() { "$tools/npm/node_modules/.bin/componentize-qjs" --wit "$here/world.wit" -n app --js "$here/handle.js" -o "$@"; }

# In a folder of its own: it puts the folder it runs in on the guest's path.
py() {
    mkdir -p "$tools/app" && cp "$here/app.py" "$tools/app" && cd "$tools/app" &&
        "$tools/python/bin/componentize-py" -d "$here/world.wit" -w app componentize app -o "$@"
}

script_py() {
    mkdir -p "$tools/interpreter" && cp "$here/interpreter.py" "$tools/interpreter" && cd "$tools/interpreter" &&
        "$tools/python/bin/componentize-py" -d "$here/../../wit/script" -w interpreter componentize interpreter -o "$@"
}

c() {
    "clang-$clang" --target=wasm32-wasi -std=c11 -Os -Wall -Wextra -Werror -mexec-model=reactor -Wl,--strip-all \
        -o "$tools/c.wasm" "$here/handle.c" && node "$tools/npm/adapt.mjs" "$tools/c.wasm" "$1" "$here/world.wit"
}

# rust TARGET OUTPUT
rust() {
    local cargo=cargo std=() target=$1 built=$tools/target/$1/release/third_party.wasm
    export CARGO_TARGET_DIR=$tools/target CARGO_ENCODED_RUSTFLAGS=
    unset RUSTFLAGS
    if [ -n "${of_debian:-}" ]; then
        export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_ENCODED_RUSTFLAGS=-Lnative=/usr/lib/wasm32-wasi
        cargo=/usr/bin/cargo std=(-Z build-std=std,panic_abort)
    fi
    cd "$here/rust" && "$cargo" build --locked --release --target "$target" ${std[@]+"${std[@]}"} &&
        case $target in
        # The linker of this target makes a component itself.
        wasm32-wasip2) cp "$built" "$2" ;;
        *) node "$tools/npm/adapt.mjs" "$built" "$2" ;;
        esac
}

build js-starling npm_tools starling OUT stdio random clocks http fetch-event
build js-starling-wasi npm_tools starling OUT
build js-qjs npm_tools qjs OUT --sync --stub-wasi
build js-qjs-small npm_tools qjs OUT --sync --stub-wasi --opt-size
build js-qjs-wasi npm_tools qjs OUT --sync
build js-qjs-async npm_tools qjs OUT --stub-wasi
build js-qjs-async-wasi npm_tools qjs OUT
build python python_tools py OUT --stub-wasi
build python-wasi python_tools py OUT
build script-python python_tools script_py OUT
build c-adapter-wasi clang_tools c OUT
build rust-wasip1-adapter-wasi rust_and_npm_tools rust wasm32-wasip1 OUT
build rust-wasip2-wasi rust_tools rust wasm32-wasip2 OUT

for name in "${expected[@]}"; do
    [ -e "$out/$name.wasm" ] && printf '%9d  %s\n' "$(stat -c %s "$out/$name.wasm")" "$name"
done
built=$((${#expected[@]} - ${#missing[@]} - ${#broken[@]}))
echo "$built of ${#expected[@]} built${missing[*]:+; left out: ${missing[*]}}${broken[*]:+; failed: ${broken[*]}}"
[ $built -gt 0 ] && [ ${#broken[@]} = 0 ]
