#!/usr/bin/env bash
# Kills one of two nodes; its SRC goes to the other: a JSON line for each way, exit code 1 above the bar (--quick).
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup dev
exec .venv/bin/python -m tests.failover node "$@"
