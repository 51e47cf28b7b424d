# Attune's tasks. `make` lists them.

GOLANGCI    := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOFUMPT     := mvdan.cc/gofumpt@v0.12.0
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0

FUZZTIME ?= 1000x
PREFIX   ?= /usr/local

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT  := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
DATE    := $(shell git log -1 --format=%cI 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT) -X main.date=$(DATE)

.DEFAULT_GOAL := help
.PHONY: help run test faults check bench build package package-test cgroup-test install clean

help: ## List the tasks
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | while IFS="$$(printf '\t')" read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

run: ## Install what is missing, build, and run the daemon on packs/ (Ctrl-C stops it)
	@contrib/setup.sh
	@$(MAKE) --no-print-directory build
	@exec ./bin/attune daemon

# The race detector makes each program that ends sleep for a second first; daemons and commands of tests are told
# by the tests themselves, with what else is better for them.
test faults: export GORACE ?= atexit_sleep_ms=0

# More tests at once than there are processors: most of them wait for processes, ticks and the database half of their time.
test: ## Install what is missing, and run every test with the race detector
	@contrib/setup.sh test
	go test -race -shuffle=on -parallel 4 -timeout 12m ./...

faults: ## Break real daemons in every way of daemon/faults: takes long, wants root
	@contrib/setup.sh test
	go test -tags faults -timeout 2h ./daemon/faults ./reconcile

check: ## Formatting, linters, scripts, man pages, completion, unit, alerts, a few seconds of each fuzz test
	@contrib/setup.sh test
	@test -z "$$(go run $(GOFUMPT) -l daemon exec reconcile contrib)" || { go run $(GOFUMPT) -d daemon exec reconcile contrib; exit 1; }
	go mod tidy -diff
	cd contrib/bench && go mod tidy -diff && go vet ./...
	go run $(GOLANGCI) run --allow-parallel-runners ./...
	contrib/check.sh
	contrib/fuzz.sh $(FUZZTIME)
	@go run $(GOVULNCHECK) ./... || { [ $$? -ne 3 ] && echo "govulncheck: skipped, its database cannot be reached"; }

bench: ## Run Go's benchmarks, then the ratios that are goals (BENCH="exec-cold queue-*" for some of them)
	@contrib/setup.sh test
	go test -run '^$$' -bench . -benchmem -count 5 ./...
	cd contrib/bench && go run . $(BENCH)

build: ## Build bin/attune
	@mkdir -p bin
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/attune ./daemon/attune

package: ## Build dist/*.deb and dist/*.rpm, reproducibly
	VERSION='$(VERSION)' COMMIT='$(COMMIT)' DATE='$(DATE)' contrib/package/build.sh

package-test: ## Install, upgrade, remove and purge the packages in a fresh Debian under its own systemd: takes minutes, wants root
	@contrib/setup.sh package
	VERSION='$(VERSION)' COMMIT='$(COMMIT)' DATE='$(DATE)' contrib/package/test.sh

cgroup-test: ## Let fork bombs go off in cgroups, in a kernel that runs as a program: takes a minute, wants root and Debian
	contrib/cgroup/test.sh

install: build ## Install binary, man pages, completion, packs and unit under PREFIX (default /usr/local)
	install -D -m 0755 bin/attune $(DESTDIR)$(PREFIX)/bin/attune
	bin/attune manual $(DESTDIR)$(PREFIX)/share/man/man1
	mkdir -p $(addprefix $(DESTDIR)$(PREFIX)/share/,bash-completion/completions zsh/site-functions fish/vendor_completions.d)
	bin/attune completion bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/attune
	bin/attune completion zsh >$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_attune
	bin/attune completion fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/attune.fish
	install -D -m 0644 contrib/systemd/attune.sysusers $(DESTDIR)/etc/sysusers.d/attune.conf
	install -D -m 0644 contrib/systemd/attune.socket $(DESTDIR)/etc/systemd/system/attune.socket
	install -D -m 0644 contrib/systemd/attune.service $(DESTDIR)/etc/systemd/system/attune.service
	sed -i 's|/usr/bin/attune|$(PREFIX)/bin/attune|' $(DESTDIR)/etc/systemd/system/attune.service
	test -e $(DESTDIR)/etc/attune/attune.toml || install -D -m 0644 attune.toml $(DESTDIR)/etc/attune/attune.toml
	mkdir -p $(DESTDIR)/etc/attune/packs
	test -e $(DESTDIR)/etc/attune/packs/core || cp -R packs/core $(DESTDIR)/etc/attune/packs/core
	@echo "The service wants its user: systemd-sysusers && systemctl enable --now attune"

clean: ## Remove what was built
	rm -rf bin dist
