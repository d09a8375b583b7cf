# pg_tick: one Makefile, PGXS inside. PG_CONFIG= selects the PostgreSQL major; `make help` lists the targets.
# Promise: everything built lands in build/ (and pg_tick.so); core objects for the unit tests are compiled and linked
# without any PostgreSQL header or library, so the floor law is checked by the build itself.

PG_CONFIG ?= pg_config
# INGEST=no leaves tick-ingest out of `all` and `install`.
INGEST ?= yes
# What the demo and the tests take from the command line: FEED SYMBOLS SECONDS RATE / KIND TESTS.
export PG_CONFIG

# V=1 shows the compiler's command lines.
Q := $(if $(V),,@)

.DEFAULT_GOAL := all
MAJOR := $(shell $(PG_CONFIG) --version 2>/dev/null | sed -n 's/^PostgreSQL \([0-9]*\).*/\1/p')
PGXS := $(wildcard $(shell $(PG_CONFIG) --pgxs 2>/dev/null))
PG_INCLUDE := $(shell $(PG_CONFIG) --includedir 2>/dev/null)

# ---- what is built from what ---------------------------------------------------------------------------------------
CORE_SRC := $(sort $(wildcard extension/core/*.cpp))
PG_SRC := $(sort $(wildcard extension/pg/*.cpp))
INGEST_SRC := $(sort $(wildcard ingestor/*.cpp ingestor/feeds/*.cpp))
UNIT_SRC := $(sort $(wildcard test/unit/*_test.cpp))
# A unit test that includes nothing but core headers is linked with the core alone; any other one with the ingestor.
UNIT_INGEST_SRC := $(if $(UNIT_SRC),$(shell grep -lP '^\#include "(?!(\.\./)*(extension/)?core/)' $(UNIT_SRC)))
UNIT_CORE_SRC := $(filter-out $(UNIT_INGEST_SRC),$(UNIT_SRC))

CORE_OBJS := $(CORE_SRC:extension/core/%.cpp=build/core/%.o)
# The longest of all compiles begins first, or everything waits for it in the end.
INGEST_OBJS := build/ingestor/socket.o $(patsubst ingestor/%.cpp,build/ingestor/%.o,$(filter-out ingestor/socket.cpp,$(INGEST_SRC)))
INGEST_LIB_OBJS := $(filter-out build/ingestor/main.o,$(INGEST_OBJS))
UNIT_CORE_OBJS := $(UNIT_CORE_SRC:test/unit/%.cpp=build/unit/%.o)
UNIT_INGEST_OBJS := $(UNIT_INGEST_SRC:test/unit/%.cpp=build/unit/%.o)
UNIT_BINS := $(if $(UNIT_CORE_SRC),build/unit/core) $(if $(UNIT_INGEST_SRC),build/unit/ingestor)
HAVE_INGEST := $(and $(filter yes,$(INGEST)),$(wildcard ingestor/main.cpp))

# -g1: functions and lines, as backtraces name them. All of -g takes half as long again, and twice the disk.
STRICT := -std=gnu++20 -O2 -g1 -ffp-contract=off -Wall -Wextra -Werror -I. -Iextension
INGEST_INC := -Iingestor $(if $(PG_INCLUDE),-isystem $(PG_INCLUDE))
# The Kafka feed is built where librdkafka is.
KAFKA_LIBS := $(if $(wildcard /usr/include/librdkafka/rdkafka.h),-lrdkafka)
INGEST_LIBS := -Wl,--as-needed -lpq -lpugixml -lsimdjson -ltomlplusplus -lssl -lcrypto -lz $(KAFKA_LIBS) -pthread
GTEST_LIBS := -lgtest -lgtest_main -pthread
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -O1

ifneq ($(HAVE_INGEST),)
SCRIPTS_built = build/tick-ingest
endif

# ---- the extension (PGXS) ------------------------------------------------------------------------------------------
EXTENSION = extension/pg_tick
DATA_built = build/pg_tick--1.0.sql
MODULE_big = pg_tick
EXT_DIR := build/pg$(MAJOR)
OBJS = $(patsubst extension/%.cpp,$(EXT_DIR)/%.o,$(CORE_SRC) $(PG_SRC))
# What is another with planted bugs: who asks for one, and where they are switched on.
FAULT_SRC := $(shell grep -lwE 'planted|TICK_FAULTS' $(PG_SRC))
FAULT_OBJS = $(patsubst extension/%.cpp,$(EXT_DIR)/faults/%.o,$(FAULT_SRC))
SOUND_OBJS = $(patsubst extension/%.cpp,$(EXT_DIR)/%.o,$(filter-out $(FAULT_SRC),$(CORE_SRC) $(PG_SRC)))
PG_CPPFLAGS = -Iextension -isystem $(includedir_server)
PG_CXXFLAGS = -std=gnu++20 -O2 -g1 -fvisibility=hidden -ffp-contract=off -Wall -Wextra -Werror -Wno-register -Wno-missing-field-initializers
SHLIB_LINK += -lstdc++
EXTRA_CLEAN = build/core build/ingestor build/unit build/sanitize build/faults build/check build/bench build/stage \
	build/fuzz build/tick-ingest build/random build/kafka build/python build/linked build/pg[0-9]*

# `check` and `soak` alone do not read PGXS, which has a rule of that name that only refuses.
ifneq ($(filter-out check soak,$(or $(MAKECMDGOALS),all)),)
ifneq ($(PGXS),)
override with_llvm := no
include $(PGXS)
HAVE_PGXS := yes
endif
endif

ifeq ($(HAVE_PGXS),yes)
# The version and the flags are remembered: another PG_CONFIG, or a new minor, rebuilds what depends on it.
EXT_STAMP := $(shell $(PG_CONFIG) --version) $(CXX) $(PG_CXXFLAGS)
$(shell mkdir -p $(EXT_DIR); echo '$(EXT_STAMP)' | cmp -s - $(EXT_DIR)/stamp || echo '$(EXT_STAMP)' > $(EXT_DIR)/stamp)
$(shell echo '$(MAJOR)' | cmp -s - build/linked || echo '$(MAJOR)' > build/linked)

$(OBJS): $(EXT_DIR)/%.o: extension/%.cpp $(EXT_DIR)/stamp
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CXX $@")
	$(Q)$(CXX) $(CXXFLAGS) $(CPPFLAGS) -MMD -MP -c -o $@ $<

$(FAULT_OBJS): $(EXT_DIR)/faults/%.o: extension/%.cpp $(EXT_DIR)/stamp
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CXX $@")
	$(Q)$(CXX) $(CXXFLAGS) $(CXXFLAGS_SL) $(CFLAGS_SL) $(CPPFLAGS) -DTICK_FAULTS -MMD -MP -c -o $@ $<

pg_tick$(DLSUFFIX): build/linked

# The one script that CREATE EXTENSION runs.
build/pg_tick--1.0.sql: extension/pg_tick--1.0.sql extension/values.sql extension/reads.sql
	@mkdir -p $(@D)
	$(Q)cat $^ > $@

# The same sources with the planted bugs and fault points compiled in; never installed by `make install`.
faults: build/faults/pg_tick$(DLSUFFIX)
build/faults/pg_tick$(DLSUFFIX): $(FAULT_OBJS) $(SOUND_OBJS) build/linked
	@mkdir -p $(@D)
	$(if $(V),,@echo "  LD $@")
	$(Q)$(CXX) $(CXXFLAGS) -shared -o $@ $(FAULT_OBJS) $(SOUND_OBJS) $(LDFLAGS)

all: $(SCRIPTS_built)
clean: clean-demo
-include $(OBJS:.o=.d) $(FAULT_OBJS:.o=.d)
else ifneq ($(filter-out check soak,$(or $(MAKECMDGOALS),all)),)
all install faults:
	@echo "no PostgreSQL server headers found by PG_CONFIG=$(PG_CONFIG): run 'make deps' first" >&2; exit 1
clean: clean-demo
	rm -rf build pg_tick.so
endif

# ---- tick-ingest and the unit tests (no PGXS variable is used below) -----------------------------------------------
build/tick-ingest: $(INGEST_OBJS) $(CORE_OBJS)
	$(if $(V),,@echo "  LD $@")
	$(Q)g++ -g -o $@ $^ $(INGEST_LIBS)

$(CORE_OBJS): build/core/%.o: extension/core/%.cpp
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CXX $@")
	$(Q)g++ $(STRICT) -MMD -MP -c -o $@ $<

$(INGEST_OBJS): build/ingestor/%.o: ingestor/%.cpp
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CXX $@")
	$(Q)g++ $(STRICT) $(INGEST_INC) -MMD -MP -c -o $@ $<

$(UNIT_CORE_OBJS): build/unit/%.o: test/unit/%.cpp
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CXX $@")
	$(Q)g++ $(STRICT) -MMD -MP -c -o $@ $<

$(UNIT_INGEST_OBJS): build/unit/%.o: test/unit/%.cpp
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CXX $@")
	$(Q)g++ $(STRICT) $(INGEST_INC) -MMD -MP -c -o $@ $<

build/unit/core: $(UNIT_CORE_OBJS) $(CORE_OBJS)
	$(if $(V),,@echo "  LD $@")
	$(Q)g++ -g -o $@ $^ $(GTEST_LIBS)

build/unit/ingestor: $(UNIT_INGEST_OBJS) $(INGEST_LIB_OBJS) $(CORE_OBJS)
	$(if $(V),,@echo "  LD $@")
	$(Q)g++ -g -o $@ $^ $(GTEST_LIBS) $(INGEST_LIBS)

# The lexicon and the live page are part of the program.
build/ingestor/sentiment.o build/sanitize/ingestor/sentiment.o build/fuzz/ingestor/sentiment.o: ingestor/lexicon.txt
build/ingestor/page.o build/sanitize/ingestor/page.o: $(wildcard ingestor/page/*.html ingestor/page/*.js)

# What drives the random test: concurrent writers, kills and the comparison (test/random).
build/random: $(wildcard test/random/*.cpp test/random/*.hpp)
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CXX $@")
	$(Q)g++ $(STRICT) $(if $(PG_INCLUDE),-isystem $(PG_INCLUDE)) -o $@ test/random/driver.cpp -lpq

# What the Kafka test runs: a real broker, whose jars Maven fetches by name, and the program that fills it.
build/kafka/ready: test/kafka/pom.xml test/kafka/feeder.cpp
	@mkdir -p $(@D)
	$(Q)timeout 300 mvn -q -B -f test/kafka/pom.xml dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/build/kafka/libs
	$(Q)g++ $(STRICT) -o build/kafka/feeder test/kafka/feeder.cpp -lrdkafka
	@touch $@

# What the examples in Python need; tests of them run with it. Not the first python3 of PATH, which may be in somebody's home.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
build/python/ready: examples/requirements.txt
	@rm -rf $(@D)
	$(Q)$(PYTHON) -m venv $(@D) && timeout 300 $(@D)/bin/pip install -q -r $<
	@touch $@

# Under ASan and UBSan; the Beast translation unit is slow to compile and stays as it is.
SANE = $(patsubst build/%,build/sanitize/%,$(1))
SANE_PLAIN := $(filter build/ingestor/socket.o,$(INGEST_LIB_OBJS))
SANE_OBJS := $(call SANE,$(CORE_OBJS) $(filter-out $(SANE_PLAIN),$(INGEST_LIB_OBJS)) $(UNIT_CORE_OBJS) $(UNIT_INGEST_OBJS))

define sane_rule
$(call SANE,$(1)): $(2)
	@mkdir -p $$(@D)
	$(if $(V),,@echo "  CXX $$@")
	$(Q)g++ $(STRICT) $(SANITIZE) $(3) -MMD -MP -c -o $$@ $$<
endef
$(foreach s,$(CORE_SRC),$(eval $(call sane_rule,$(s:extension/core/%.cpp=build/core/%.o),$(s),)))
$(foreach s,$(filter-out ingestor/main.cpp ingestor/socket.cpp,$(INGEST_SRC)),$(eval $(call sane_rule,$(s:ingestor/%.cpp=build/ingestor/%.o),$(s),$(INGEST_INC))))
$(foreach s,$(UNIT_CORE_SRC),$(eval $(call sane_rule,$(s:test/unit/%.cpp=build/unit/%.o),$(s),)))
$(foreach s,$(UNIT_INGEST_SRC),$(eval $(call sane_rule,$(s:test/unit/%.cpp=build/unit/%.o),$(s),$(INGEST_INC))))

build/sanitize/unit/core: $(call SANE,$(UNIT_CORE_OBJS) $(CORE_OBJS))
	$(if $(V),,@echo "  LD $@")
	$(Q)g++ $(SANITIZE) -o $@ $^ $(GTEST_LIBS)

build/sanitize/unit/ingestor: $(call SANE,$(UNIT_INGEST_OBJS) $(filter-out $(SANE_PLAIN),$(INGEST_LIB_OBJS)) $(CORE_OBJS)) $(SANE_PLAIN)
	$(if $(V),,@echo "  LD $@")
	$(Q)g++ $(SANITIZE) -o $@ $^ $(GTEST_LIBS) $(INGEST_LIBS)

-include $(CORE_OBJS:.o=.d) $(INGEST_OBJS:.o=.d) $(UNIT_CORE_OBJS:.o=.d) $(UNIT_INGEST_OBJS:.o=.d) $(SANE_OBJS:.o=.d)

# ---- the targets a person types ------------------------------------------------------------------------------------
ingest: build/tick-ingest

unit-binaries: $(UNIT_BINS)

unit: $(UNIT_BINS)
	@set -e; for t in $^; do ./$$t --gtest_brief=1; done

sanitize: $(call SANE,$(UNIT_BINS))
	@set -e; for t in $^; do ./$$t --gtest_brief=1; done

# libFuzzer over everything that takes bytes from outside, each test/fuzz/NAME_fuzz.cpp with its seeds in
# test/fuzz/NAME/; FUZZ="NAME ..." runs some of them.
FUZZ_SECONDS ?= 60
FUZZ ?= $(patsubst test/fuzz/%_fuzz.cpp,%,$(sort $(wildcard test/fuzz/*_fuzz.cpp)))
FUZZ_CXX ?= $(firstword $(shell which clang++ clang++-14 clang-14 2>/dev/null))
FUZZ_OBJS := $(CORE_SRC:extension/%.cpp=build/fuzz/%.o) \
	$(patsubst %.cpp,build/fuzz/%.o,$(wildcard ingestor/feeds/*.cpp) $(addprefix ingestor/,mentions.cpp number.cpp position.cpp replay.cpp rows.cpp sentiment.cpp))
FUZZ_COMPILE = $(FUZZ_CXX) $(STRICT) $(INGEST_INC) -O1 -fno-sanitize-recover=all -fsanitize=address,undefined

define compile_for_fuzz
	@mkdir -p $(@D)
	@[ -n "$(FUZZ_CXX)" ] || { echo "make fuzz needs clang with libFuzzer (package clang)" >&2; exit 1; }
	$(if $(V),,@echo "  CXX $@")
	$(Q)$(FUZZ_COMPILE) -fsanitize=fuzzer-no-link -MMD -MP -c -o $@ $<
endef
build/fuzz/core/%.o: extension/core/%.cpp
	$(compile_for_fuzz)
build/fuzz/ingestor/%.o: ingestor/%.cpp
	$(compile_for_fuzz)

build/fuzz/%: test/fuzz/%_fuzz.cpp $(FUZZ_OBJS)
	$(if $(V),,@echo "  CXX $@")
	$(Q)$(FUZZ_COMPILE) -fsanitize=fuzzer -o $@ $^ -lpugixml -lsimdjson -lz -lstdc++ -lm

-include $(FUZZ_OBJS:.o=.d)

fuzz: $(FUZZ:%=build/fuzz/%)
	@set -e; for t in $(FUZZ); do d=build/fuzz/corpus-$$t; mkdir -p $$d; echo "$$t:"; \
		build/fuzz/$$t -max_total_time=$(FUZZ_SECONDS) -max_len=2048 -print_final_stats=1 -artifact_prefix=build/fuzz/ $$d \
		test/fuzz/$$t 2>&1 | grep -E 'ERROR|SUMMARY|runtime error|crash|Done|average_exec|peak_rss' ; \
		[ -z "$$(find build/fuzz -name 'crash-*' -o -name 'timeout-*' -o -name 'oom-*')" ]; done

# docs/reference.md from what CREATE EXTENSION makes.
docs: all
	@test/cluster stage build/docs/stage && test/cluster create build/docs/cluster build/docs/stage && \
		{ test/cluster psql build/docs/cluster -Xqc 'CREATE EXTENSION pg_tick'; \
		test/cluster psql build/docs/cluster -Xq <docs/reference.sql >build/docs/reference.md && cp build/docs/reference.md docs/; \
		test/cluster destroy build/docs/cluster; }

deps:
	@.ci/deps

lint:
	@test/lint

fmt:
	clang-format-14 -i $(wildcard $(foreach d,extension/core extension/pg ingestor ingestor/feeds test/unit test/random test/fuzz bench,$(d)/*.cpp $(d)/*.hpp))

ifeq ($(filter-out check soak,$(or $(MAKECMDGOALS),all)),)
check:
	@KIND='$(KIND)' TESTS='$(TESTS)' test/run

# The random test on many seeds, the ingestor and every source for a minute against faults and kills, and one without PostgreSQL;
# RANDOM_SEEDS=, RANDOM_FIRST= and SEED= select the seeds of the first, TICK_FAULT_SEEDS= those of the second.
soak:
	@RANDOM_SEEDS=$${RANDOM_SEEDS:-200} TICK_FAULT_SEEDS=$${TICK_FAULT_SEEDS:-10} TICK_SPOOL_SECONDS=$${TICK_SPOOL_SECONDS:-60} \
		TICK_KAFKA_TRADES=$${TICK_KAFKA_TRADES:-300000} TICK_KAFKA_KILLS=$${TICK_KAFKA_KILLS:-10} \
		TICK_SOURCE_SECONDS=$${TICK_SOURCE_SECONDS:-60} TICK_TEST_TIMEOUT=$${TICK_TEST_TIMEOUT:-86400} KIND=tap \
		TESTS="$${TESTS:-040_random 061_repair 062_spool 069_venues 070_kafka 071_poll 072_posts 073_yahoo 074_stdin}" test/run
endif

# `check` on this machine's major and, in chroots, on the other supported ones.
check-all:
	@KIND='$(KIND)' TESTS='$(TESTS)' test/majors

bench: all
	@bench/run $(BENCH)

# The dashboard for Apache Superset as its import takes it; URI=postgresql+psycopg2://dashboard:PASSWORD@HOST:5432/DATABASE goes into it.
ZIP ?= build/pg_tick_superset.zip
superset:
	@superset/bundle '$(ZIP)' '$(URI)'
	@echo '$(ZIP)'

# In a real Superset and a real browser: downloads about a gigabyte once, so it is no part of `check`.
check-superset:
	@SHOTS='$(SHOTS)' superset/check

# README's code blocks in a fresh Debian with nothing but git: root, debootstrap, ten minutes.
check-newcomer:
	@test/newcomer

run start stop status:
	@FEED='$(FEED)' SYMBOLS='$(SYMBOLS)' RATE='$(RATE)' DURATION='$(SECONDS)' ingestor/demo $@

clean-demo:
	@ingestor/demo clean

help:
	@echo 'make deps            install what is missing (apt, sudo when not root)'
	@echo 'make                 the extension and build/tick-ingest; PG_CONFIG=... selects the major'
	@echo 'make install         PGXS: into the PostgreSQL of PG_CONFIG (or DESTDIR=...)'
	@echo 'make run             the demo; FEED=binance SYMBOLS=BTCUSDT,ETHUSDT is live; SECONDS=15 ends and verifies'
	@echo 'make start|stop|status   the same in the background'
	@echo 'make check           all tests; KIND="unit regress isolation tap" TESTS="name ..." select'
	@echo 'make check-all       the same on PostgreSQL 15, 17 and 18, in chroots (root, debootstrap); KIND and TESTS as above'
	@echo 'make superset        build/pg_tick_superset.zip, a dashboard to import; URI=postgresql+psycopg2://dashboard:PASSWORD@HOST:5432/DATABASE'
	@echo 'make check-superset  imports it into a real Superset and looks at it in Chromium; downloads about 1 GB'
	@echo 'make check-newcomer  runs the code blocks of README.md in a fresh Debian 12 (root, debootstrap)'
	@echo 'make soak            the random test on 200 seeds, faults and outages of the ingestor; RANDOM_SEEDS=1000; SEED=17 repeats one'
	@echo 'make unit|sanitize   unit tests alone; the same under ASan and UBSan'
	@echo 'make fuzz            libFuzzer on all that reads bytes from outside, FUZZ_SECONDS each; FUZZ="batch delta" selects'
	@echo 'make docs            docs/reference.md anew, from the comments in the database'
	@echo 'make lint fmt bench faults clean'

.PHONY: all install check check-all clean ingest unit unit-binaries sanitize fuzz deps lint fmt bench soak run start stop status clean-demo faults docs superset check-superset check-newcomer help
