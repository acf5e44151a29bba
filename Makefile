# Both commands do all their own set-up: a virtual environment, the packages, the model, the photographs.
PYTHON ?= python3
VENV := .venv
LEGACY := .venv-legacy
BIN := $(VENV)/bin

# tflite-runtime has no wheels for Python 3.12 and newer; the tests that need it are skipped there and say so.
ifeq ($(shell $(PYTHON) -c 'import sys; print(sys.version_info < (3, 12))'),True)
LEGACY_READY := $(LEGACY)/ready
LEGACY_PYTHON := $(CURDIR)/$(LEGACY)/bin/python
endif

.PHONY: demo attack test test-serial test-scheduler test-failover test-oracles test-attacker test-system test-switch test-ray test-link test-arm64 lint types fix clean

demo: $(VENV)/ready
	$(BIN)/python -m benchmarks.demo

# Reconstruction attacks on the fashion model's releases: half an hour of a core.
attack: $(VENV)/ready
	mkdir -p build
	$(BIN)/python -m benchmarks.privacy.reconstruction --network --pictures build/attack.png

# Tests $(1), run as $(2) says. Real programs on a busy machine may be late once. Tests that failed run again, alone,
# and are named; one that fails again fails the command, and so does a run that broke down (a status other than 1).
define run_tests
$(BIN)/python -m pytest $(2) $(1) || { [ $$? -eq 1 ] && \
	echo "Tests failed: they run once more. What passes now is unsteady, and a bug of the test or of the product." && \
	$(BIN)/python -m pytest -v $(1) --last-failed --last-failed-no-failures none; }
endef

test: export SPLIT_LEGACY_PYTHON = $(LEGACY_PYTHON)
test: $(VENV)/ready $(LEGACY_READY)
	$(call run_tests,,-n 2 --dist loadfile)

# The accounting against OpenDP and dp-accounting, 10^8 draws of each law, and OpenDP beside the sampler's speed.
test-oracles: $(VENV)/oracles
	$(BIN)/python -m pytest tests/split_model/privacy/test_oracles.py
	$(BIN)/python -m benchmarks.privacy.sampler_draws
	$(BIN)/python -m benchmarks.privacy.sampler

# A million packets through the program, over a line with noise and pulled plugs; about ten minutes.
test-serial: $(VENV)/ready
	SERIAL_PACKETS=1000000 $(BIN)/python -m pytest -s tests/edge_runtime/sources/test_serial.py -k every_intact

# A randomised attacker with an allowed key against real processes; SEED=... repeats a run, KEYS=7 gives it more
# keys. Best as root, for a cgroup.
SECONDS ?= 1200
test-attacker: build/efficientnet_lite0/efficientnet_lite0_f32.tflite
	$(BIN)/python tests/attacks/run.py --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(if $(KEYS),--keys $(KEYS)) --model $< --cut 20

build/efficientnet_lite0/efficientnet_lite0_f32.tflite: $(VENV)/ready
	$(BIN)/python -m models.efficientnet_lite0.recipe -o $(@D)

# A hundred thousand random events for the frame loop's scheduler; some minutes.
test-scheduler: $(VENV)/ready
	SCHEDULER_STEPS=100000 $(BIN)/python -m pytest --timeout=1800 tests/edge_runtime/loop/test_scheduler_machine.py

# Two servers killed, stopped and unplugged at random while frames flow; a quarter of an hour. SEED=... repeats a run.
CHANGES ?= 200
test-failover: $(VENV)/ready
	FAILOVER_CHANGES=$(CHANGES) $(if $(SEED),FAILOVER_SEED=$(SEED)) $(BIN)/python -m pytest --timeout=3600 tests/edge_runtime/test_failover.py

# Boards and servers as real machines; needs root and what tests/system/install-packages.sh installs.
test-system: $(VENV)/ready
	$(call run_tests,-m "system and not quiet and not arm64 and not long and not cluster" tests/system tests/cloud_server)

# A power cut before each command of a switch of releases; needs root, and a quarter of an hour.
test-switch: $(VENV)/ready
	$(BIN)/python -m pytest -m "system and long" tests/system/test_switch.py

# Two nodes of a Ray cluster with open addresses: TLS, the token, the scripts of deploy/ray; needs root and iproute2.
test-ray: $(VENV)/ready
	$(BIN)/python -m pytest -m "system and cluster" tests/cloud_server/engines

# A 64-bit ARM board's programs under qemu-user; needs root and 'tests/system/install-packages.sh --arm64'.
test-arm64: $(VENV)/ready
	$(BIN)/python -m pytest -m arm64 tests/system

# Measures a real shaped link; needs root, iproute2, and a machine with nothing else to do.
test-link: $(VENV)/ready
	$(BIN)/python -m pytest -m quiet tests/system

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready
	$(BIN)/mypy

fix: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build $(VENV) $(LEGACY)

$(VENV)/ready: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[litert,tools,quantise,camera,heif,mqtt,web,ray,audit,dev]'
	touch $@

$(VENV)/oracles: $(VENV)/ready
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $@

# The other TFLite backend. It needs Python 3.11 or older and NumPy 1, so it lives in an environment of its own.
$(LEGACY)/ready: setup.cfg constraints-legacy.txt
	$(PYTHON) -m venv $(LEGACY)
	$(LEGACY)/bin/pip install --quiet --disable-pip-version-check -c constraints-legacy.txt -e '.[legacy,tools]'
	touch $@
