# The only front door; `make help` lists the targets. What a target does is in scripts/, one file each.
#
# Variables: PG_CONFIG (default pg_config) chooses the PostgreSQL, PREFIX (default /usr/local) where reactiond is installed, FILTER the
# Swift tests, BENCH passes options to a benchmark (BENCH="--charts docs/charts"). Nothing but deps and install writes outside the checkout, /tmp and /var/tmp.
SHELL := bash
.DEFAULT_GOAL := help
.NOTPARALLEL:

export PG_CONFIG ?= pg_config
export PREFIX ?= /usr/local
export FILTER

SWIFT_BUILD := swift build --configuration release

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([A-Za-z.-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

.PHONY: quickstart
quickstart: build ## everything from nothing: build, start private servers, replay 141,695 reactions, compare
	@scripts/up
	@scripts/quickstart

.PHONY: up down
up: build ## start private PostgreSQL, Redis, ClickHouse and reactiond; . .run/env leads to them
	@scripts/up
down: ## stop what up and quickstart have started; the data stays
	@scripts/down

.PHONY: deps build backend extension agent
deps: ## install the Debian packages that are missing, and say which
	@scripts/deps
build: extension agent ## build the extension and the agent
backend: deps
	$(SWIFT_BUILD) --product ReactionBackend
extension: backend
	$(MAKE) -C extension
agent: deps
	$(SWIFT_BUILD) --static-swift-stdlib --product reactiond

.PHONY: install
install: build ## install the extension into the PostgreSQL of PG_CONFIG, and reactiond into PREFIX/bin
	@scripts/install

.PHONY: test check test-unit test-integration test-regress test-isolation test-clusters test-packaging test-bench
test: build ## run every test and check
	@scripts/test
check: test ## what CI runs: the same
test-unit: deps ## tests that need no server
	@scripts/test unit
test-integration: build ## tests against real servers, started for each run
	@scripts/test integration
test-regress: build ## SQL tests (pg_regress)
	@scripts/test regress
test-isolation: build ## concurrency specs (pg_isolation_regress)
	@scripts/test isolation
test-clusters: build ## dump, restore and failover
	@scripts/test clusters
test-packaging: build ## what the built library links and exports
	@scripts/test packaging
test-bench: build ## every benchmark in its short form: answers right, figures there
	@scripts/test bench

.PHONY: bench-reads bench-writes bench-counts bench-mirror bench-backfill
bench-reads: build ## measure reads beside the table, a C function and the floor
	@scripts/bench reads $(BENCH)
bench-writes: build ## measure writes beside a plain table and NOTIFY
	@scripts/bench writes $(BENCH)
bench-counts: build ## measure counts beside raw Redis, and a mixed load on one hot post
	@scripts/bench counts $(BENCH)
bench-mirror: build ## measure the mirror beside COPY piped into clickhouse-client
	@scripts/bench mirror $(BENCH)
bench-backfill: build ## measure a table's way into ClickHouse beside COPY piped into clickhouse-client
	@scripts/bench backfill $(BENCH)

.PHONY: demo-migration
demo-migration: build ## take a live table of 2 million rows through every phase, back once, and into the archive
	@scripts/bench migration $(BENCH)

.PHONY: lint format
lint: deps ## check the format of Swift and shell
	@scripts/test lint
format: deps ## format the Swift sources
	swift format --in-place --recursive Sources Tests bench/Sources Package.swift

.PHONY: META.json
META.json: ## make the PGXN description from META.json.in
	@sed "s/@VERSION@/$$(sed -n "s/^default_version = '\(.*\)'/\1/p" extension/pg_reactions.control)/" META.json.in > $@

.PHONY: clean
clean: ## stop the private servers, delete their data and every build product
	@scripts/clean-run
	rm -rf .build .cache
	$(MAKE) -C extension clean
