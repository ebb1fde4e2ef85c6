.PHONY: setup build test chaos fuzz check demo bench
export PATH := $(PATH):/usr/bin:/usr/sbin
export RUSTDOCFLAGS := -D warnings
# What went wrong, not where in the library it was wrapped.
export RUST_LIB_BACKTRACE := 0

# Installs what is missing: Debian's redis-server (7.0, with redis-benchmark), twemproxy, protoc and Chromium, the other servers, etcd, Prometheus and Alertmanager into .fleet/.
setup:
	@missing=""; for need in redis-server:redis-server pip3:python3-pip gcc:gcc g++:g++ make:make nutcracker:nutcracker protoc:protobuf-compiler ip:iproute2 nft:nftables faketime:faketime chromium:chromium chromedriver:chromium-driver redis-cli:redis-tools; do command -v $${need%%:*} >/dev/null || missing="$$missing $${need##*:}"; done; \
	[ -z "$$missing" ] || (apt-get update -qq && apt-get install -y -qq $$missing libc6-dev >/dev/null)
	@bash tests/fleet.sh .fleet

build:
	cargo build --workspace --bins

# Moves a source under traffic into an empty target, live, and compares the two.
demo: setup build
	target/debug/demo

test: setup build
	cargo test --workspace -- --test-threads=2

# Faults on a whole fleet, 200 and more for each kind of target; without the fence it has to fail. One: make chaos CHAOS="--seed 7 --faults 20".
chaos: setup build
	target/debug/chaos --faults 220 $(CHAOS)
	target/debug/chaos --faults 220 --target cluster $(CHAOS)
	for target in standalone cluster; do target/debug/chaos --faults 60 --target $$target --fence user $(CHAOS) || exit; done
	! target/debug/chaos --faults 5 --only agent-frozen --unfenced

# Coverage-guided, every decoder of what a source sends, FUZZ_SECONDS each; what breaks one stands in target/fuzz/findings.
fuzz: setup
	bash tests/fuzz/run.sh $(or $(FUZZ_SECONDS),60)

# Side by side with native replication. More: make bench BENCH="--keys 3000000 --rounds 5 --tool 'name=command {source} {target}'"
bench: setup
	cargo build --release --bin dts
	cargo run -q --release -p dts-tests --bin bench -- --dts target/release/dts --json target/bench.json $(BENCH)

check: setup
	cargo fmt --all -- --check
	cargo fmt --manifest-path tests/fuzz/Cargo.toml --all -- --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo doc --workspace --no-deps --document-private-items -q
	@command -v .tools/bin/cargo-deny >/dev/null || cargo install cargo-deny --version 0.20.2 --locked --debug -q --root .tools
	.tools/bin/cargo-deny --log-level error check bans licenses sources
