"""The documents say what the code does: generated pages are fresh, and what the others name exists."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import click

from dispatcher.cli import cli
from dispatcher.settings import Settings, env_name
from dispatcher.worker.options import LABELS_ENV, MODELS_ENV, MODELS_MAX_ENV, THREADS_ENV, WEIGHT_ENV

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
OF_A_WORKER = {WEIGHT_ENV, MODELS_ENV, MODELS_MAX_ENV, LABELS_ENV, THREADS_ENV}


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_fresh() -> None:
    """docs/redis_keys.md and docs/settings.md are what `make docs` would write now."""
    assert _generator().stale() == []


def test_every_script_is_in_the_job_states() -> None:
    """Each Lua script is named in docs/job_states.md, and no other script is."""
    page = (ROOT / "docs" / "job_states.md").read_text("utf-8")
    scripts = {path.stem for path in (ROOT / "dispatcher/store/lua").glob("[!_]*.lua")}
    named = set(re.findall(r"`(\w+)\.lua`", page))

    assert named == scripts


def test_links_lead_somewhere() -> None:
    """Every relative link in the documents points to a file that is there."""
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]

    assert broken == []


def _code(page: Path) -> Iterator[str]:
    """The commands of a page: lines of its code blocks, and what stands between backticks."""
    inside = False
    for line in page.read_text("utf-8").splitlines():
        if line.lstrip().startswith("```"):
            inside = not inside
        elif inside:
            yield line.strip()
        else:
            yield from re.findall(r"`([^`]+)`", line)


def test_make_targets_exist() -> None:
    """Every `make X` in the documents is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = {match[1] for page in PAGES for code in _code(page) if (match := re.match(r"make ([a-z-]+)", code))}

    assert named - targets == set()


def test_settings_exist() -> None:
    """Every DISPATCHER_* variable in the documents is a setting, or a worker's fact about itself."""
    known = {env_name(one.name) for one in fields(Settings)} | OF_A_WORKER
    named = {name for page in PAGES for name in re.findall(r"\bDISPATCHER_[A-Z_]+[A-Z]", page.read_text("utf-8"))}

    assert named - known == set()


def test_commands_exist() -> None:
    """Every `dispatcher X` and each of its long options in the documents is one the command line has."""
    context = click.Context(cli)
    unknown = []
    for page in PAGES:
        for code in _code(page):
            words = re.match(r"(?:\.venv/bin/)?dispatcher((?: +[^\s|;&]+)+)", code)
            if words is None:
                continue
            command: click.Command = cli
            rest = iter(words[1].split())
            for word in rest:
                name = word.split("=")[0]
                if re.fullmatch("-[A-Za-z]", name):
                    next(rest, None)  # its value
                elif name.startswith("--"):
                    options = {o for parameter in command.params for o in (*parameter.opts, *parameter.secondary_opts)}
                    if name not in options | {"--help"}:
                        unknown.append(f"{page.relative_to(ROOT)}: {code}: {name}")
                elif isinstance(command, click.Group) and re.fullmatch(r"[a-z][a-z-]*", name):
                    if (found := command.get_command(context, name)) is None:
                        unknown.append(f"{page.relative_to(ROOT)}: {code}: {name}")
                        break
                    command = found

    assert unknown == []
