#!/usr/bin/env bash
# Celery 5.7.0: RedisBackend is not a KeyValueStoreBackend. The class of that name in celery.backends.base is a sibling: both derive from
# BaseKeyValueStoreBackend, and only the sibling has the synchronous result consumer. `isinstance(app.backend, KeyValueStoreBackend)`, which
# asks "can I read many results with one mget?", is false for Redis, the backend that it is true for by nature, and code that falls back to
# one round trip a result does so without a word.
# Seen: RedisBackend: KeyValueStoreBackend False, BaseKeyValueStoreBackend True, has mget True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install --quiet "celery==5.7.0" "kombu==5.7.0" "redis==8.1.0"
"$folder/venv/bin/python" - <<'PY'
import sys

from celery.backends.base import BaseKeyValueStoreBackend, KeyValueStoreBackend
from celery.backends.redis import RedisBackend

seen = issubclass(RedisBackend, KeyValueStoreBackend), issubclass(RedisBackend, BaseKeyValueStoreBackend), hasattr(RedisBackend, "mget")
print("RedisBackend: KeyValueStoreBackend %s, BaseKeyValueStoreBackend %s, has mget %s" % seen)
sys.exit(seen != (False, True, True))
PY
