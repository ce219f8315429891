#!/usr/bin/env bash
# Install the real components that tests need beyond Python packages: Debian's PostgreSQL and Redis servers, and Node with npm for a client
# in another language. Nothing is done where they are there. Without root or sudo it says what is missing; in CI that fails, elsewhere the
# tests that need it fail or are skipped, and name this script.
set -euo pipefail

has_postgresql() { compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null || command -v initdb >/dev/null; }
has_redis() { command -v redis-server >/dev/null; }
has_node() { command -v node >/dev/null && command -v npm >/dev/null; }

missing() {
    has_postgresql || echo postgresql
    has_redis || echo redis-server
    has_node || echo nodejs npm
}

as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi; }

read -r -a packages <<<"$(missing | tr '\n' ' ')"
if [ "${#packages[@]}" -eq 0 ]; then exit 0; fi

echo "Installing ${packages[*]} for the tests ..." >&2
export DEBIAN_FRONTEND=noninteractive
as_root apt-get update -qq && as_root apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null || true
if [ -z "$(missing)" ]; then exit 0; fi
echo "Missing: $(missing | tr '\n' ' '). Run 'apt-get install ${packages[*]}' as root. Tests that need them fail or are skipped." >&2
if [ -n "${CI:-}" ]; then exit 1; fi
