# Every target is one line; what needs more is a program under tools/ or crates/.
CARGO ?= cargo
DASHBOARD = services/edge/dashboard

.PHONY: help run test test-faults mutants bench bench-gate crash lint fmt proto release client dashboard

help: ## lists the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

run: dashboard ## builds and starts the whole system on this machine
	$(CARGO) run --release -- up $(ARGS)

test: ## installs what the tests need and runs them all
	python3 tools/test.py

test-faults: ## faults that take too long for `test`: cut links, storms, wrong clocks, abuse
	python3 tools/faults.py $(ARGS)

mutants: ## seeds seven bugs, one at a time, in a copy: each must be caught by its test
	python3 tools/mutants.py $(ARGS)

bench: ## measures speed and size, each against a limit or a peer in the same run
	python3 tools/bench.py

bench-gate: ## only what does not vary: bytes of a reading, commits, allocations, memory of a stream
	python3 tools/bench.py --gate

crash: ## kills it and cuts its power 200 times each under load; nothing acknowledged may be lost
	python3 tools/crash.py $(ARGS)

lint: ## says what CI refuses: format, clippy, contracts, licences
	python3 tools/lint.py

fmt: ## formats code and contracts
	$(CARGO) fmt --all && python3 tools/lint.py --fix-contracts

proto: ## what is made from contracts and configuration, after a change of either
	$(CARGO) run -q -- contract docs > docs/contracts.md && $(CARGO) run -q -- config show --env > .env.example

release: ## the descriptors that later contracts are compared with; refuses what would break released clients
	$(CARGO) run -q -- contract release proto/released.binpb

client: ## the npm package of the contracts, in services/edge/dashboard/client
	python3 tools/dashboard.py client

dashboard: ## builds the dashboard where Node.js is there
	python3 tools/dashboard.py build
