#!/usr/bin/env bash
# redis-py 8.1.0: repr() of an error of the server drops the server's sentence, and says a category in its place. str() has the sentence.
# Whatever logs errors by repr (`%r`, as Celery's worker does for a lost broker connection) hides what Redis said: which key is of the wrong type,
# which right the user lacks.
# Seen: repr server:ResponseError, str WRONGTYPE Operation against a key holding the wrong kind of value
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install --quiet "redis==8.1.0"
"$folder/venv/bin/python" - <<'PY'
import sys

import redis

sentence = "WRONGTYPE Operation against a key holding the wrong kind of value"
error = redis.ResponseError(sentence)
print("repr", repr(error) + ", str", str(error))
sys.exit(sentence in repr(error) or sentence not in str(error))
PY
