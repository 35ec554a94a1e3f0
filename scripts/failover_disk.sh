#!/usr/bin/env bash
# Fills the disk for 5 s during calls (root): a JSON line for each case, exit code 1 above the bar (--quick).
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup dev
exec .venv/bin/python -m tests.failover disk "$@"
