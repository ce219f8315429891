#!/usr/bin/env bash
# List the real components that tests need beyond Python packages, and say which cannot be used here. In CI a missing one fails.
# There is none yet: the stores, servers and clients of the suite all come from requirements.lock.
set -eu
exit 0
