"""Commands with ``-A`` import what the app's workers would import."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from dispatcher.cli.app_modules import import_modules_of
from dispatcher.cli.session import Session

APP = """
from celery import Celery, signals
app = Celery("{name}", broker="redis://127.0.0.1:1/0", set_as_current=False)
app.conf.imports = ("{name}_tasks",)
ready = []
def set_up(**_):
    import logging.config
    logging.config.dictConfig({{"version": 1, "root": {{"level": "ERROR", "handlers": []}}}})
    ready.append(True)
signals.import_modules.connect(set_up, sender=app, weak=False)
"""


@pytest.fixture
def project(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with an app that, like a Django project, is set up by a signal and applies a logging configuration."""
    name = f"project_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(APP.format(name=name))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{name}_tasks.py").write_text(f"from {name} import app\n@app.task(name='t')\ndef t(): pass\n")
    return name


def app_of(name: str):
    session = Session({}, app_name=name)
    return session.celery_app(session.connected_settings())


def test_the_app_is_set_up_and_its_tasks_are_known(project: str) -> None:
    """As Celery does it: the signal by which Django is set up, and the modules in ``imports``."""
    app = app_of(project)
    assert sys.modules[project].ready == [True]
    assert "t" in app.tasks


def test_our_log_goes_on(project: str) -> None:
    """A project's logging configuration disables loggers that exist already, and takes the root's handlers."""
    ours, root = logging.getLogger("dispatcher.wiring"), logging.getLogger()
    __import__("dispatcher.wiring")
    before = (root.level, list(root.handlers))
    app_of(project)
    assert not ours.disabled
    assert (root.level, list(root.handlers)) == before


def test_a_module_that_cannot_be_imported_stops_nothing(
    project: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Only workers may have its libraries; the log names the error."""
    (tmp_path / f"{project}_tasks.py").write_text("import a_library_that_only_workers_have")
    with caplog.at_level(logging.WARNING):
        app = app_of(project)
    assert "a_library_that_only_workers_have" in caplog.text
    import_modules_of(app)
