#!/bin/sh
# What the tests need from the system: a browser for the shop page, a Valkey for its store, strace and ext4 to inject faults,
# promtool for the rules of Prometheus.
# Installed when root on Debian; else the tests that need it skip, saying so.
set -eu
wanted=""
if ! command -v chromium >/dev/null 2>&1 && [ -z "${TAILORBIRD_CHROMIUM:-}" ]; then wanted="$wanted chromium"; fi
if ! command -v valkey-server >/dev/null 2>&1 && ! command -v redis-server >/dev/null 2>&1; then wanted="$wanted valkey-server"; fi
if [ "$(uname)" = Linux ] && ! command -v strace >/dev/null 2>&1; then wanted="$wanted strace"; fi
if [ "$(uname)" = Linux ] && ! command -v mkfs.ext4 >/dev/null 2>&1; then wanted="$wanted e2fsprogs"; fi
if ! command -v promtool >/dev/null 2>&1; then wanted="$wanted prometheus"; fi
[ -n "$wanted" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    apt-get update -qq >/dev/null 2>&1 || true
    for package in $wanted; do
        echo "Installing $package for the tests"
        # The service that Debian starts with it is not wanted: tests start their own.
        RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null 2>&1 \
            || echo "$package could not be installed: its tests will be skipped"
    done
else
    echo "not here:$wanted; their tests will be skipped (Debian: apt-get install$wanted)"
fi
