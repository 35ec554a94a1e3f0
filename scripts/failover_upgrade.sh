#!/usr/bin/env bash
# Replaces the worker by SIGHUP under 50 streams: one JSON line, exit code 1 above the bar (--quick).
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup dev
exec .venv/bin/python -m tests.failover upgrade "$@"
