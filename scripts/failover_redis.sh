#!/usr/bin/env bash
# Stops, pauses, flushes and restarts Redis during calls: one JSON line, exit code 1 above the bar (--quick).
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup dev
exec .venv/bin/python -m tests.failover redis "$@"
