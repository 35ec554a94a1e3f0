#!/usr/bin/env bash
# Cuts the SRC off, which comes back with Replaces: a JSON line for each case, exit code 1 above the bar (--quick).
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup dev
exec .venv/bin/python -m tests.failover network "$@"
