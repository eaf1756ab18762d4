"""House rules that no linter knows."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.house import COLUMNS_MAX, circles, count_names

ROOT = Path(__file__).resolve().parents[3]
CODE = ("dispatcher", "workers", "benchmarks", "examples", "scripts", "docs")
LINES_MAX = 400
LONG_FILES: dict[str, str] = {}  # path → why it may be longer
EMPTY_NAMES = {"utils", "util", "common", "manager", "helpers", "helper", "misc", "celery"}  # celery.py would shadow Celery
PRONOUNS_MAX = {"one": 0, "found": 0, "told": 0}  # uses as names: lower the numbers as they fall, never raise them
LONG_LINES_MAX = 284  # over the 120 columns that pyproject.toml calls the aim: as above
SCRIPTS = sorted((ROOT / "dispatcher/store/lua").glob("[!_]*.lua"))  # _*.lua is put in front of them


def _tracked() -> list[Path]:
    """The files of the repository; what is ignored is not one."""
    if not (ROOT / ".git").exists():
        return [path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts]
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True
    )
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def test_names_say_something() -> None:
    """No file or folder is called utils, common, manager or the like."""
    bad = [str(path.relative_to(ROOT)) for path in _tracked() if EMPTY_NAMES & {Path(p).stem for p in path.relative_to(ROOT).parts}]

    assert bad == []


def test_files_answer_one_question() -> None:
    """No source file passes 400 lines without a reason written here."""
    long = {
        name
        for path in _tracked()
        if path.suffix in {".py", ".lua", ".sh"}
        and (name := path.relative_to(ROOT).as_posix()).startswith(CODE)
        and len(path.read_text("utf-8").splitlines()) > LINES_MAX
    }

    assert long == set(LONG_FILES), "split where policy and I/O meet, or give the reason in LONG_FILES"


def _sources() -> list[str]:
    """The Python that a user installs."""
    return [path.read_text("utf-8") for package in ("dispatcher", "workers") for path in (ROOT / package).rglob("*.py")]


def test_names_are_nouns() -> None:
    """No more variables, parameters, attributes or functions are called `one`, `found` or `told` than there were."""
    counts = count_names(_sources())

    assert {name: count for name, count in counts.items() if count > PRONOUNS_MAX[name]} == {}, "name what it is: job, lease"


def test_lines_get_shorter() -> None:
    """No more lines pass 120 columns than did."""
    assert sum(len(line) > COLUMNS_MAX for text in _sources() for line in text.splitlines()) <= LONG_LINES_MAX


def test_no_modules_import_each_other() -> None:
    """Nor through others, nor under TYPE_CHECKING."""
    pytest.importorskip("grimp")  # comes with import-linter, in the extra "dev"

    assert list(circles(ROOT)) == []


def test_nothing_names_a_package_registry_or_another_folder() -> None:
    """Registries come from the machine's configuration, and only .ci/run looks outside this repository."""
    forbidden = re.compile(
        "|".join(("py" + r"pi\.org", "python" + "hosted", "npm" + r"js\.", "--(extra-)?index" + "-url", "--find" + "-links",
                  "--trusted" + "-host"))
    )  # fmt: skip
    outside = ".." + "/shared"
    found = []
    for path in _tracked():
        name = path.relative_to(ROOT).as_posix()
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        if forbidden.search(text) or (outside in text and name != ".ci/run"):
            found.append(name)

    assert found == []


def _constraints() -> dict[str, str]:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        if line := line.partition("#")[0].strip():
            match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.+!]+)", line)
            assert match, f"constraints.txt: {line!r} is not name==version"
            pins[canonicalize_name(match[1])] = match[2]
    return pins


def test_constraints_pin_everything() -> None:
    """Each package that an extra brings in, directly or not, has one pinned version."""
    pins = _constraints()
    seen: set[tuple[str, str]] = set()
    missing: set[str] = set()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    todo = [Requirement(f"{project['name']}[{extra}]") for extra in ("", *project["optional-dependencies"]) if extra]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name != project["name"] and name not in pins:
            missing.add(name)
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of an extra that is not installed here, or another platform's
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for text in needs:
                need = Requirement(text)
                if need.marker is None or need.marker.evaluate({"extra": extra}):
                    todo.append(need)

    assert missing == set(), "add them to constraints.txt"


def test_pins_satisfy_what_we_declare() -> None:
    """A pinned version is one that pyproject.toml allows."""
    pins = _constraints()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    for requirement in map(Requirement, declared):
        if requirement.name != project["name"]:
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_each_switched_off_lint_rule_has_its_reason() -> None:
    """In pyproject.toml every ignored rule has a comment beside it."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    block = text.split("\nignore = [\n")[1].split("\n]")[0]

    assert [line for line in block.splitlines() if not re.fullmatch(r'  "[A-Z]+\d+", +# .{6,}', line)] == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_lua_header_is_true(path: Path) -> None:
    """A script's header lists each KEYS[n] and ARGV[n] that its body uses, and none that it does not.

    ``KEYS[4..]``, ``ARGV[*]``, or the word "follow", stand for those that the body reaches through a variable.
    """
    text = path.read_text("utf-8")
    assert text.startswith(f"--[[ {path.stem}: "), "a header with the script's name comes first"
    header, _, body = text.partition("]]\n")
    assert re.search(r"^Returns ", header, re.MULTILINE), "the header says what it returns"
    body = re.sub(r"--[^\n]*", "", body)
    for table in ("KEYS", "ARGV"):
        listed = set(re.findall(rf"^{table}\[(\d+)\]", header, re.MULTILINE))
        used = set(re.findall(rf"\b{table}\[(\d+)\]", body))
        assert used == listed, f"{table}: the body uses {sorted(used, key=int)}, the header lists {sorted(listed, key=int)}"
        variable_listed = re.search(rf"^{table}\[(\d+\.\.|\*)\]|^{table}.*\bfollow\b", header, re.MULTILINE) is not None
        variable_used = re.search(rf"\b{table}\b(?!\[\d+\])", body) is not None
        assert variable_used == variable_listed, f"{table}: {table}[n..] in the header means: reached through a variable"
