"""The same tasks in plain Celery, to compare with."""

import os

os.environ["PROMISE_STOCK"] = "1"

from tests.process.meaning_app import app

app.conf.broker_transport_options["visibility_timeout"] = 3600
