#!/usr/bin/env bash
# Kills keeper and worker and starts the server again: one JSON line, exit code 1 above the bar (--quick).
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup dev
exec .venv/bin/python -m tests.failover restart "$@"
