# On a machine that has only Python and make, `make run` and `make test` do everything themselves.
# Another interpreter: make PYTHON=python3.13 …   Options for pytest: make test ARGS="-k fencing -x"

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# Another environment for another Python: make test PYTHON=python3.13 VENV=.venv313
VENV ?= .venv
BIN := $(VENV)/bin
# Tests start hundreds of processes: none needs to compile this checkout anew.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: adopter incidents help run demo test shuffled check docs budgets hooks coverage clients langgraph-oracle npm bench bench-quick bench-full draining plots chaos archive fuzz-providers rabbitmq frameworks celery-tests prove guards mutants simulate soak lock clean fleet upgrade
.DELETE_ON_ERROR:

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s%s\n", $$1, $$2}' Makefile

run: $(VENV)/.run ## the whole stack in the foreground: Valkey, workers, gateway, Flower
	@exec $(BIN)/mainstem up

demo: $(VENV)/.run ## a guided proof: stream, kill the reader, reconnect, verify; leaves nothing behind
	@exec $(BIN)/python -m mainstem_api.demo

# Most tests wait for processes of their own: two at once nearly halve the time (three save little more, and starve
# each other). The order is the tree's: acceptance tests, which take longest, begin.
PROCESSES ?= 2
SIDE_BY_SIDE := --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder

test: $(VENV)/.test ## all tests; PROCESSES=0 in one process (to debug), ARGS for pytest
	@if [ -n "$(ARGS)" ]; then exec $(BIN)/pytest $(SIDE_BY_SIDE) $(ARGS); fi; \
	exec .ci/tests $(BIN) $(SIDE_BY_SIDE)

SEED ?= $(shell date +%s)

shuffled: $(VENV)/.test ## tests of units, model and integration in random order; SEED=n repeats one
	@exec $(BIN)/pytest $(SIDE_BY_SIDE) -p randomly --randomly-seed=$(SEED) \
		tests/unit tests/model tests/integration $(ARGS)

check: $(VENV)/.check ## lint, format, types, import layers, size ceilings
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright
	$(BIN)/python .ci/public_types.py
	$(BIN)/lint-imports
	$(BIN)/python .ci/sizes.py

docs: $(VENV)/.docs ## the site of docs/, built strictly and offline; results in site/
	@exec env NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

coverage: $(VENV)/.coverage ## lines and branches that the tests reach, in all their processes; ARGS as for test
	@rm -f .coverage .coverage.*
	-$(BIN)/coverage run -m pytest $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

hooks: $(VENV)/.check ## let git check each commit with this checkout's own tools
	$(BIN)/pre-commit install

bench: $(VENV)/.test ## measure every row side by side with its baselines, in 10 minutes; results in bench/results
	@exec $(BIN)/python bench/run.py $(ARGS)

bench-quick: $(VENV)/.test ## the same rows under small loads, in a minute
	@exec $(BIN)/python bench/run.py --quick $(ARGS)

draining: $(VENV)/.bench ## let 2,000 runs a second end for three minutes, and plot the backlog of due work
	@exec $(BIN)/python bench/draining.py $(ARGS)

bench-full: $(VENV)/.test ## in 5 minutes: how costs grow, a reconnect to 100,000 deltas, three nodes of a Cluster
	@exec $(BIN)/python bench/run.py --full $(ARGS)

plots: $(VENV)/.bench ## the pictures and tables of docs/performance.md and docs/scaling.md, from the newest results
	@exec $(BIN)/python bench/plots.py

chaos: $(VENV)/.test ## kill, freeze and cut everything under load, over and over; SEED=n repeats the choices
	@exec env MAINSTEM_CHAOS_ROUNDS=12 MAINSTEM_CHAOS_FAILOVERS=30 MAINSTEM_CHAOS_REFUSALS=2 \
		MAINSTEM_CHAOS_DISTURBANCES=10 MAINSTEM_CHAOS_SEED=$(SEED) $(BIN)/pytest tests/chaos $(ARGS)

budgets: $(VENV)/.test ## 1,000 runs at once under one budget while their workers are killed: nothing is overspent
	@exec env MAINSTEM_SPENDERS=1000 MAINSTEM_SPENDERS_KILLS=6 $(BIN)/pytest -s --timeout=900 tests/acceptance/engines/test_budgets.py $(ARGS)

effects: $(VENV)/.test ## agents of all frameworks killed at every write, and 10,000 side effects under kills: executed = intended
	@exec env MAINSTEM_KILLED=1 $(BIN)/pytest --timeout=1800 tests/integration/engines/test_kills.py $(ARGS)
	@exec env MAINSTEM_EFFECTS=10000 $(BIN)/pytest -s --timeout=1800 tests/acceptance/engines/test_effects.py $(ARGS)

archive: $(VENV)/.test ## 20,000 runs move to PostgreSQL while workers, gateways and PostgreSQL are killed: none lost, none doubled; and a kill at every write
	@exec env MAINSTEM_KILLED=1 $(BIN)/pytest --timeout=1800 tests/integration/archive/test_crashes.py $(ARGS)
	@exec env MAINSTEM_ARCHIVED_RUNS=20000 MAINSTEM_ARCHIVED_KILLS=12 $(BIN)/pytest -s --timeout=1800 tests/acceptance/operated/test_archiving.py $(ARGS)

fuzz-providers: $(VENV)/.test ## 200,000 streams of providers, whole, split and cut: the same message or an honest failure
	@exec env MAINSTEM_FUZZ_STREAMS=200000 $(BIN)/pytest -s --timeout=0 tests/unit/test_provider_streams.py -k one_message $(ARGS)

FLEETS := tests/integration/store/test_shards.py tests/integration/store/test_shard_moves.py tests/integration/store/test_shards_command.py \
	tests/integration/store/test_cluster_changes.py tests/integration/store/test_cluster_replies.py tests/integration/store/test_degraded.py \
	tests/integration/store/test_fleet_faults.py tests/integration/store/test_partitions.py tests/acceptance/engines/test_fleet.py \
	tests/acceptance/cli/test_stack_nodes.py tests/acceptance/celery/test_several_brokers.py
ON_FLEETS := tests/integration/operations tests/chaos/test_chaos.py tests/chaos/test_rolling.py tests/acceptance

fleet: $(VENV)/.test ## static shards and a Cluster of 3 + 3: faults under load, then the operations, chaos and acceptance suites on each (an hour)
	@env MAINSTEM_FLEET_ROUNDS=20 MAINSTEM_FLEET_TABLE=docs/scaling.md $(BIN)/pytest -s --timeout=900 $(FLEETS) $(ARGS)
	@for kind in static cluster; do \
		MAINSTEM_TEST_TOPOLOGY=$$kind $(BIN)/pytest $(SIDE_BY_SIDE) --timeout=300 $(ON_FLEETS) $(ARGS) || exit; \
	done

V1 := eb7a74e303bb8c78847d8701c50d366b9a2c580c # the last commit that kept runs as record version 1

upgrade: $(VENV)/.test ## record version 1 becomes version 2 under load, with processes of that release's code (a minute)
	@rm -rf .v1 && mkdir .v1 && git archive $(firstword $(V1)) | tar -x -C .v1
	@exec env MAINSTEM_V1=$(CURDIR)/.v1 $(BIN)/pytest -s tests/chaos/test_upgrade.py $(ARGS)

rabbitmq: $(VENV)/.test ## runs with RabbitMQ as the broker; needs Debian's rabbitmq-server
	@exec env MAINSTEM_RABBITMQ=1 $(BIN)/pytest tests/acceptance/celery/test_rabbitmq.py $(ARGS)

frameworks: $(VENV)/.test ## frameworks of PyPI (openai-agents, langchain-openai, pydantic-ai, LiteLLM, langgraph-sdk, a2a-sdk) and npm as clients, in .venv-frameworks
	@test -x .venv-frameworks/bin/python || $(PYTHON) -m venv .venv-frameworks
	@.venv-frameworks/bin/pip install --quiet --requirement requirements/frameworks.txt
	@cd tests/stock_clients/npm_frameworks && npm ci --no-audit --no-fund --ignore-scripts --loglevel=error
	@exec env MAINSTEM_CLIENTS=$(MAINSTEM_CLIENTS) MAINSTEM_FRAMEWORKS=$(CURDIR)/.venv-frameworks/bin/python $(BIN)/pytest tests/acceptance/clients/test_frameworks.py \
		tests/acceptance/clients/test_langgraph_oracle.py $(ARGS)

langgraph-oracle: $(VENV)/.test ## the record of what `langgraph dev` does, against that server itself, in .venv-langgraph
	@test -x .venv-langgraph/bin/python || $(PYTHON) -m venv .venv-langgraph
	@.venv-langgraph/bin/pip install --quiet --requirement requirements/langgraph-dev.txt
	@exec env MAINSTEM_LANGGRAPH_DEV=$(CURDIR)/.venv-langgraph/bin/python MAINSTEM_FRAMEWORKS=$(CURDIR)/.venv-langgraph/bin/python \
		$(BIN)/pytest tests/acceptance/clients/test_langgraph_oracle.py $(ARGS)

clients: $(VENV)/.test ## run every stock client and framework, and write what each was seen to do into docs/clients.md
	@rm -f tests/golden/clients.json
	@env MAINSTEM_CLIENTS=write $(BIN)/pytest tests/acceptance/clients
	@$(MAKE) frameworks MAINSTEM_CLIENTS=write
	@exec env MAINSTEM_GOLDEN=write $(BIN)/pytest tests/unit/test_clients_table.py

npm: $(VENV)/.run ## build and pack the TypeScript client into dist/; needs Node >= 20 with npm
	@api/typescript/pack $(BIN)/python dist

incidents: $(VENV)/.test ## five faults on a whole stack under Prometheus: seconds to the alert, commands to the cause (ten minutes)
	@exec $(BIN)/pytest -s $(ARGS) tests/acceptance/operated/incident_drill.py

adopter: $(VENV)/.test ## the adopter's path with packages from the registry: fresh environment, wheel, own project, its Celery app (minutes)
	@exec env MAINSTEM_ADOPTER=registry $(BIN)/pytest $(ARGS) tests/acceptance/cli/test_adopter.py

celery-tests: $(VENV)/.test ## Celery's own tests, from its source distribution, on our pool
	@exec env PYTHONPATH=tests $(BIN)/python tests/upstream/run.py $(ARGS)

guards: $(VENV)/.test ## break each guard of the shipped Lua verbs in turn: all are found, or said why not (minutes); writes docs/guards.md
	@exec env PYTHONPATH=tests $(BIN)/python -m model.guards --table docs/guards.md $(ARGS)

mutants: $(VENV)/.test ## break every promise of docs/contract.md in turn: its tests must notice (ROWS=27,31: only those)
	@exec env PYTHONPATH=tests $(BIN)/python -m mutations --rows "$(ROWS)" $(ARGS)

prove: $(VENV)/.test ## every state that the shipped Lua verbs can reach with two workers, a sweeper and users (minutes)
	@exec env MAINSTEM_PROVE=1 $(BIN)/pytest tests/model -s $(ARGS)

simulate: $(VENV)/.test ## ten minutes of simulated fleets under swarms of faults; SEED=n repeats one, REVERT=name takes a fix out, MINUTES=n
	@exec env PYTHONPATH=tests $(BIN)/python -m simulation $(if $(filter command\ line environment,$(origin SEED)),--seed $(SEED),--first $(SEED)) \
		$(if $(MINUTES),--minutes $(MINUTES)) $(if $(REVERT),--revert $(REVERT)) $(ARGS)

soak: $(VENV)/.test ## ten minutes of steady load and of the model test: watch memory, keys, connections; check every run
	@exec $(BIN)/python bench/soak.py $(ARGS)

lock: $(BIN)/python ## renew requirements/*.txt from pyproject.toml (ARGS=--upgrade: to the newest versions)
	$(INSTALL) uv
	requirements/lock $(BIN)/uv $(ARGS)

clean: ## remove what the targets above made; the data directory .mainstem stays
	rm -rf $(VENV) dist build site .coverage .coverage.* .v1 .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The stamp makes the next call instant. One file holds everything its purpose needs, so they don't build on each other.
$(VENV)/.%: requirements/%.txt pyproject.toml | $(BIN)/python
	@echo "Installing requirements/$*.txt into $(VENV) …"
	@$(INSTALL) --require-hashes --requirement requirements/$*.txt
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@
