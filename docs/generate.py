"""Write docs/redis_keys.md, docs/settings.md and docs/formats.json from the code; with ``--check``, say which are stale.

``make docs`` runs it, ``make check`` and ``tests/unit/house/test_docs_fresh.py`` check it. docs/formats.json is not
overwritten if a stored format has changed without its number: see `docs/stored_formats.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path

from dispatcher.settings import Settings, env_name, toml_place
from dispatcher.store.key_catalogue import KEYS
from dispatcher.worker.options import LABELS_ENV, MODELS_ENV, MODELS_MAX_ENV, THREADS_ENV, WEIGHT_ENV

DOCS = Path(__file__).resolve().parent


def redis_keys() -> str:
    """The page of Redis keys."""
    rows = [(f"`{key.name}`", key.type, key.holds, key.writers, key.readers, key.lifetime) for key in KEYS]
    return _page(
        "Redis keys",
        "dispatcher/store/key_catalogue.py",
        "Every key that the dispatcher writes or reads. `<cell>` is the setting `cell` (default `dispatch`); the "
        "broker's `global_keyprefix`, if it has one, stands before it. An *epoch* is a life of a worker process. Job "
        "numbers and lease ids come from Redis' clock and never repeat. Writers and readers are the Lua scripts in "
        "`dispatcher/store/lua/`, unless they are commands or other programs.",
        _table(("Key", "Type", "Holds", "Written by", "Read by", "Lives"), rows),
    )


def settings() -> str:
    """The page of settings."""
    rows = []
    for knob in fields(Settings):
        table, key = toml_place(knob.name)
        unit, doc = knob.metadata["unit"], knob.metadata["doc"]
        rows.append((f"`{env_name(knob.name)}`", f"`[{table}] {key}`", _default(knob.default), unit, doc))
    return _page(
        "Settings",
        "dispatcher/settings/knobs.py",
        "Set each in the environment or in a TOML file. An option on the command line comes first, then the "
        "environment, the TOML file, the Celery app, and the default. `dispatcher check` prints all mistakes at once, also where "
        "settings contradict each other. In the environment, write a list with commas.\n\n"
        "Name the file with `dispatcher --config FILE` (or `--fleet FILE`, `dispatcher check FILE`). A worker that you "
        "start with `celery worker` reads no file. Settings that concern a worker too (`cell`, `lease_ttl_s`, "
        "`heartbeat_s`, `attempts_max`, `reject_backoff_s`, `on_cut_off`, `shutdown_grace_s`, `revokes_kept_s`) come "
        "from its environment or from `attach(app, settings)`: give it the dispatcher's values. Workers that "
        "`dispatcher up` and `dispatcher autoscale` start get all settings.\n\n"
        "Facts about a worker are no settings of the cell. They come from the options `--weight`, `--models`, "
        "`--models-max` (how many models each of its processes may hold in memory; 0, the default: any number), "
        "`--threads` (of BLAS, OpenMP and the like in each slot; 0, the default: its share of the cores) and "
        f"`--label` of `celery worker`, else from `{WEIGHT_ENV}`, `{MODELS_ENV}`, `{MODELS_MAX_ENV}`, `{THREADS_ENV}` and "
        f"`{LABELS_ENV}` in its environment, else from the arguments of `attach`.",
        _table(("Environment", "TOML", "Default", "Unit", "Meaning"), rows),
    )


PAGES = {"redis_keys.md": redis_keys, "settings.md": settings}


def stale() -> list[str]:
    """Names of the generated pages that are missing or differ from the code."""
    return [
        name for name, make in PAGES.items() if not (DOCS / name).exists() or (DOCS / name).read_text("utf-8") != make()
    ]


def main(arguments: Sequence[str]) -> int:
    """Write the pages; with ``--check``, write nothing and return 1 if a page is stale."""
    import stored_formats  # beside this script

    if "--check" in arguments:
        names = stale()
        for name in names:
            print(f"docs/{name} is stale: run `make docs` and commit it", file=sys.stderr)
        problems = stored_formats.problems()
        for problem in problems:
            print(problem, file=sys.stderr)
        return 1 if names or problems else 0
    for name, make in PAGES.items():
        (DOCS / name).write_text(make(), "utf-8")
        print(f"wrote docs/{name}")
    refused = stored_formats.write()
    if not refused:
        print("wrote docs/formats.json")
    for problem in refused:
        print(problem, file=sys.stderr)
    return 1 if refused else 0


def _page(title: str, source: str, introduction: str, table: str) -> str:
    return f"# {title}\n\n<!-- Generated from {source} by `make docs`; do not edit. -->\n\n{introduction}\n\n{table}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def lines() -> Iterator[str]:
        yield "| " + " | ".join(head) + " |"
        yield "|" + " --- |" * len(head)
        for row in rows:
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"

    return "\n".join(lines()) + "\n"


def _default(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case tuple():
            return ", ".join(f"`{part}`" for part in value) or "none"
        case "":
            return "empty"
        case _:
            return f"`{value}`"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
