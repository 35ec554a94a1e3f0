#!/usr/bin/env bash
# Kills media workers, and the worker that has one: two JSON lines, exit code 1 above the bar (--quick).
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup dev
exec .venv/bin/python -m tests.failover media "$@"
