.PHONY: setup build test check
export PATH := $(PATH):/usr/bin

# Installs what is missing: a system redis-server (7.0), and the other servers into .fleet/.
setup:
	@command -v redis-server >/dev/null || (apt-get update -qq && apt-get install -y -qq redis-server >/dev/null)
	@bash tests/fleet.sh .fleet

build:
	cargo build --workspace --bins

test: setup build
	cargo test --workspace -- --test-threads=2

check:
	cargo fmt --all -- --check
	cargo clippy --workspace --all-targets -- -D warnings
