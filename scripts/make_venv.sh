#!/bin/sh
# Makes the virtual environment $1 with $PYTHON, or with the first suitable Python on PATH. Says in one sentence what is missing.
set -eu
venv=$1

fail() {
    echo "$1" >&2
    exit 2
}

is_new_enough() {
    "$1" -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null
}

if [ -n "${PYTHON:-}" ]; then
    is_new_enough "$PYTHON" || fail "PYTHON=$PYTHON does not run or is older than 3.11: name a newer one, such as \`make PYTHON=python3.12\`."
    python=$PYTHON
else
    python=
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        if [ -z "$python" ] && is_new_enough "$candidate"; then python=$candidate; fi
    done
    [ -n "$python" ] || fail "Python 3.11 or newer is needed and none is on PATH: install one (\`apt install python3 python3-venv\`, \`brew install python\`), or name it with \`make PYTHON=/path/to/python3.12\`."
fi

"$python" -c "import ensurepip, venv" 2>/dev/null ||
    fail "$python cannot make virtual environments: install python3-venv (\`apt install python3-venv\`) and run make again."
"$python" -m venv --clear "$venv"
