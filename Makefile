# The commands of the project. `make demo` and `make test` are all that a
# newcomer needs; both install what they lack (Debian 12, as root) and can be
# run again at any time.

BIN   := bin/rebound
FLAGS := -trimpath -buildvcs=false -ldflags '-s -w'

.PHONY: all build deps test lint fuzz e2e demo bench soak sabotage clean

all: build

build: ## the shipped binary, without cgo
	CGO_ENABLED=0 go build $(FLAGS) -o $(BIN) ./cmd/rebound

deps: ## install Debian packages that tests and demo use
	scripts/install-deps

test: deps build ## every test that fits in 25 minutes on two cores
	scripts/test

lint: ## vet, gofumpt, staticcheck
	scripts/lint

fuzz: ## every decoder, FUZZTIME each (default 10s)
	scripts/fuzz

demo: deps build ## the whole round trip on real guests; SEED=n
	scripts/demo

bench: deps build ## Rebound and its peers side by side
	scripts/bench

SECONDS ?= 600
soak: deps build ## the long fault loops; SECONDS=n
	scripts/soak $(SECONDS)

sabotage: deps ## prove that the tests notice bugs
	scripts/sabotage

clean:
	rm -rf bin out
