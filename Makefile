# Two commands do all the set-up on a machine that has cargo: `make demo` and `make test`.

.PHONY: demo test chaos tools nats-server build lint

demo: nats-server build
	cargo run --locked --quiet -- demo

# Tests mostly wait for servers that they start: eight at once finish sooner than one for each processor.
test: export RUST_TEST_THREADS ?= 8
test: tools
	cargo test --locked

# Everything goes wrong for ten minutes, then a backlog of a million events is drained by bridges that are killed; prints what
# became of the events. `make chaos SECONDS=3600 BACKLOG=5000000` for longer.
chaos: SECONDS ?= 600
chaos: BACKLOG ?= 1000000
chaos: tools
	KNATS_CHAOS_SECONDS=$(SECONDS) KNATS_CHAOS_BACKLOG=$(BACKLOG) KNATS_CHAOS_CONNECTIONS=3000 \
		cargo test --locked --release --test contract -- chaos:: --nocapture --test-threads 1

# nats-server: an installed one of version 2.10 or newer is used as it is, else a pinned one goes into .tools/.
nats-server:
	@scripts/get-nats-server

# And the oldest one that is supported, for the tests that upgrade it. Without it they fail, and say why.
tools: nats-server
	@scripts/get-nats-server --old || true

build: | compiler
	cargo build --locked

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

test chaos lint: | compiler

# The TLS library has C in it.
.PHONY: compiler
compiler:
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust 1.89 or newer (rustup.rs)" >&2; exit 1; }
	@command -v cc >/dev/null || { echo "a C compiler is missing: apt-get install build-essential" >&2; exit 1; }
