#!/usr/bin/env bash
# Gets test262, the tests of ECMAScript.
#
#   guests/test262/get.sh FOLDER
#
# Writes FOLDER/test, FOLDER/harness and FOLDER/LICENSE, which are as test262 has them but for blank lines at the ends of
# tests. They come with the sources of Debian's mozjs128, by Debian's own mirror as apt knows it, where they have lines of
# Mozilla's test runner around them. Takes 150 MiB to get and 0.4 GiB of room, and no root. Kept if it is there.
set -euo pipefail

package=mozjs128
version=128.14.0-1~deb13u1
suite=trixie

[ $# = 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
mkdir -p "$1" && cd "$1"
[ "$(cat version 2>/dev/null)" != "$package $version" ] || exit 0
rm -rf apt new test harness && mkdir -p apt/lists/partial apt/cache/archives/partial new/harness

# Settings of its own, so that those of the machine stay as they are.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' |
    grep -v security | head -n 1)
[ -n "$mirror" ] || { echo "this needs the apt of Debian" >&2; exit 1; }
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >apt/sources.list
apt=(apt-get -q -o "Dir::Etc::sourcelist=$PWD/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::lists=$PWD/apt/lists" -o "Dir::Cache=$PWD/apt/cache" -o APT::Sandbox::User=)
"${apt[@]}" update
(cd apt && "${apt[@]}" source --download-only "$package=$version")
tar -xJf "apt/${package}_${version%-*}.orig.tar.xz" -C apt --strip-components=5 --wildcards '*/js/src/tests/test262/*'

# The parts of the harness stand in files by folder, each after a line with its name.
find apt -name shell.js -print0 | sort -z | xargs -0 cat |
    awk '/^\/\/ (GENERATED|file: )/ { out = !/GENERATED/ && !seen[$3]++ ? "new/harness/" $3 : ""; next } out { print >out }'
rm new/harness/test262-host.js # Mozilla's own.
find apt \( -name shell.js -o -name browser.js \) -delete
mkdir new/test && mv apt/{annexB,built-ins,language} new/test
# What is added to a test: the first line or the last.
find new/test -name '*.js' -print0 |
    LC_ALL=C xargs -0 sed -s -i -e '1{/^\/\/ |reftest|/d}' -e '${/^reportCompare(0, 0);$/d}'
mv new/test new/harness apt/LICENSE .
echo "$(head -n 1 apt/GIT-INFO) of test262"
rm -rf apt new
echo "$package $version" >version
