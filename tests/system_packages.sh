#!/bin/sh
# What the tests need from the system: a browser for the shop page. Installed when root on Debian; else its tests skip, saying so.
set -eu
if command -v chromium >/dev/null 2>&1 || [ -n "${TAILORBIRD_CHROMIUM:-}" ]; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing chromium for the browser tests"
    apt-get update -qq >/dev/null 2>&1 || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1 \
        || echo "chromium could not be installed: the browser tests will be skipped"
else
    echo "no chromium here: the browser tests will be skipped (set TAILORBIRD_CHROMIUM to one)"
fi
