# make test    everything, on a fresh Debian 12 (root, Rust toolchain): host tests, then the lab
# make flaky   the host tests N=20 times on a busy machine, and how often one failed
# make run     a store to play with, mounted on /run/secrets until Ctrl-C
# make bench   the numbers of docs/benchmarks.md
# make deb     the Debian package; make man: what it holds beside the binary, in target/package
# make test-systemd  the package, its units and systemd around them
# make torture kills, power cuts and corruption, the long form
CARGO ?= cargo
LAB := tests/lab/lab
LAB_TIMEOUT ?= 3600
TARGET := $(or $(CARGO_TARGET_DIR),target)
# The demonstration's store, its configuration and its passphrase; nothing but `make run` uses it.
PINFOLD_RUN ?= /var/lib/pinfold-demo

.PHONY: all test test-host test-lab test-systemd flaky fmt lint run bench torture deb man clean

all:
	$(CARGO) build --release --locked

test: deps
	@tests/run-all

deps:
	@$(LAB) deps

# rustfmt and clippy are components of a toolchain, not always there.
fmt:
	@if $(CARGO) fmt --version >/dev/null 2>&1; then $(CARGO) fmt --all --check; fi

lint: deps fmt
	@if $(CARGO) clippy --version >/dev/null 2>&1; then $(CARGO) clippy --locked --workspace --lib --bins --tests --benches --examples --test lab -- -D warnings; fi

# Tests are compiled by clippy: what it says of is an error, and what others made is compiled once, not once for it and once for them.
ifneq ($(shell clippy-driver --version 2>/dev/null),)
test test-host test-lab test-systemd flaky: export RUSTC_WORKSPACE_WRAPPER := clippy-driver
test test-host test-lab test-systemd flaky: export CLIPPY_ARGS := -Dwarnings__CLIPPY_HACKERY__
endif

# Most tests wait most of the time: more of them at once than there are processors.
test-host: deps fmt
	$(CARGO) build --locked --benches
	RUST_TEST_THREADS=$$((3 * $$(nproc))) $(CARGO) test --locked --workspace --no-fail-fast

# tests/lab.rs lists the modules. TESTS= names some of them, ARGS= goes to the test runner.
test-lab: deps
	@tests/lab/run-tests --timeout $(LAB_TIMEOUT) $(TESTS) -- $(ARGS)

# The host tests N times on a busy machine: how many runs failed, and where.
flaky: deps
	@CARGO="$(CARGO)" tests/flaky $(or $(N),20)

test-systemd: deps
	@tests/lab/run-tests --timeout $(LAB_TIMEOUT) lab_systemd lab_takeover -- $(ARGS)

deb: deps
	@dist/package release

man:
	$(CARGO) run --quiet --locked --example manual -- "$(TARGET)/package"

torture: deps
	@PINFOLD_TORTURE=full tests/lab/run-tests --release --timeout 7200 lab_torture -- $(ARGS)

bench: deps
	@tests/lab/run-bench $(ARGS)

run: deps
	$(CARGO) build --release --locked
	@mount-helpers/demo "$(TARGET)/release/pinfold" "$(PINFOLD_RUN)" $(PINFOLD_TREE)

clean:
	$(CARGO) clean
