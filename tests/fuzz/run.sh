#!/bin/bash
# Fuzzes every target for $1 seconds, from corpora that are made of the golden files. What breaks a target is kept in target/fuzz/findings.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:?seconds a target}
out=target/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
rm -rf "$out/seeds"
cargo run -q --manifest-path tests/fuzz/seeds/Cargo.toml --target-dir "$out" -- common/tests/golden "$out/seeds"
# libFuzzer's counters; these are options of stable Rust. With --target they do not reach build scripts.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing"
cargo build -q --release --manifest-path tests/fuzz/Cargo.toml --target "$host" --target-dir "$out" --bins
bin=$out/$host/release
mkdir -p "$out/findings"
for target in rdb resp listpack ziplist intset zipmap lzf; do
  mkdir -p "$out/corpus/$target"
  if ! "$bin/$target" -max_total_time="$seconds" -max_len=65536 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
    -artifact_prefix="$out/findings/$target-" "$out/corpus/$target" "$out/seeds/$target" >"$out/$target.log" 2>&1; then
    tail -40 "$out/$target.log"
    exit 1
  fi
  echo "$target: $(sed -n 's/^stat::number_of_executed_units: */runs /p' "$out/$target.log"), $(grep -o 'cov: [0-9]*' "$out/$target.log" | tail -1)"
done
