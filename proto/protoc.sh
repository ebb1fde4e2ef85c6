#!/bin/sh
# protoc for the build of etcd-client: the system's if there is one, else protox, made once into .tools/.
set -eu
system=$(command -v protoc || true)
[ -z "$system" ] || exec "$system" "$@"
root=$(cd "$(dirname "$0")/.." && pwd)/.tools
# The nested build shall not inherit what cargo set for the outer one.
[ -x "$root/bin/protox" ] || env -u CARGO_ENCODED_RUSTFLAGS -u RUSTC -u TARGET -u HOST -u CARGO_TARGET_DIR \
  cargo install protox --version 0.10.0 --features bin --locked --debug -q --root "$root" >&2
exec "$root/bin/protox" "$@"
