"""Does the simulation find bugs? Production code with one rule taken out of it, and the first seed that notices.

    python -m tests.simulation.mutants [NAME ...] [--seeds 0-59]

Prints a row for each mutant; exit code 1 where one that should be found is not. The table in README.md is from here.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mutant:
    """``old`` becomes ``new`` in ``path``; every ``old`` stands there once."""

    name: str
    path: str
    old: str
    new: str


LUA = "dispatcher/store/lua"
GUARD = "if not held or (guard_value ~= '' and held ~= guard_value) then return -1 end"
TAKEN = "if not entry or started[i] or seen[id] then"
BEAT = "if beat_ttl_ms > 0 and redis.call('PTTL', alive) > beat_ttl_ms then return 0 end"
UNTAKEN = "not (counter == 'recalls' and redis.call('HEXISTS', taken, id) == 1)"
SAME = "if not is_same(waiting[length - i + 1], sub(records, at + 1, at + FINGERPRINT)) then break end"
DIE = "    def _die(self) -> None:\n"
MUTANTS = (
    Mutant("take: twice", f"{LUA}/take.lua", TAKEN,
           "if not entry then"),
    Mutant("assign: no token", f"{LUA}/assign.lua", "if redis.call('GET', leader) ~= token then return { -1 } end", ""),
    Mutant("assign: to dead epochs", f"{LUA}/_entry.lua", "redis.call('EXISTS', alive) == 1 and ", ""),
    Mutant("assign: room as the plan saw it", f"{LUA}/assign.lua", "window - call('HLEN', leases)", "wanted"),
    Mutant("assign: keeps the job in its lane", f"{LUA}/assign.lua", "call('LTRIM', lane_list, gone, -1)",
           "call('LTRIM', lane_list, gone - 1, -1)"),
    Mutant("admit: no token", f"{LUA}/admit.lua", "if redis.call('GET', leader) ~= token then return { -1 } end", ""),
    Mutant("admit: whatever is at the head", f"{LUA}/admit.lua", SAME, ""),
    Mutant("admit: forgets one", f"{LUA}/admit.lua", "redis.call('LTRIM', ingress, 0, -(matched + 1))",
           "redis.call('LTRIM', ingress, 0, -(matched + 2))"),
    Mutant("giveback: anybody may", f"{LUA}/giveback.lua", GUARD, ""),
    Mutant("giveback: recalls what runs", f"{LUA}/giveback.lua", UNTAKEN, "true"),
    Mutant("end_epoch: though it beat", f"{LUA}/end_epoch.lua", BEAT, ""),
    Mutant("elect: everybody leads", f"{LUA}/elect.lua", "if not asked_ms or redis.call('PTTL', leader) <= asked_ms then return 0 end", ""),
    Mutant("promote: a copy stays", f"{LUA}/promote_scheduled.lua", "redis.call('ZREM', scheduled, entry)", ""),
    Mutant("snapshot: a beat from the future is a death", f"{LUA}/snapshot.lua", "remaining_ms < 0 and (redis.call",
           "(remaining_ms < 0 or remaining_ms > alive_ttl_ms) and (redis.call"),
    Mutant("liveness: an outage is silence", "dispatcher/core/health/liveness.py", "last is None or heard_ms - last > self.gap_ms",
           "last is None"),
    Mutant("keeper: one beat proves a lease lost", "dispatcher/worker/life/keeper.py", "sorted(loose & self._loose)", "sorted(loose)"),
    Mutant("keeper: forgets what it took", "dispatcher/worker/life/keeper.py", "self._held.update(taken)\n", "pass\n"),
    Mutant("life: goes on when it is dead", "dispatcher/worker/life/life.py", DIE, f"{DIE}        return\n"),
    Mutant("transport: a try runs again after its retry", "dispatcher/worker/leasing/transport.py",
           "if held.runs_again and life.has_later_turn(", "if held.runs_again and bool() and life.has_later_turn("),
    Mutant("reap: what a leaver cut short is as new", "dispatcher/core/returns/ending.py",
           "return GiveBack.rejected(end.lease_id)", "return GiveBack.uncounted(end.lease_id)"),
    Mutant("every: waits for a clock that was set back", "dispatcher/core/facts/every.py",
           "return not 0 <= now_ms - began_ms < span_ms", "return now_ms - began_ms >= span_ms"),
    Mutant("ejection: ends when a clock that was set back says so", "dispatcher/core/health/ejection.py",
           "        self._redate(now_ms)\n", ""),
    Mutant("life: a goodbye before its acks", "dispatcher/worker/life/life.py", "if self.keeper.outbox.try_all():",
           "if self.keeper.outbox.try_all() or True:"),
)  # fmt: skip


def first_to_notice(mutant: Mutant, seeds: str) -> str:
    """``seed 7: what it said``, or nothing."""
    with tempfile.TemporaryDirectory(prefix="mutant-", dir="/tmp") as folder:
        for name in ("dispatcher", "tests"):
            shutil.copytree(ROOT / name, Path(folder, name), ignore=shutil.ignore_patterns("__pycache__"))
        target = Path(folder, mutant.path)
        text = target.read_text()
        if text.count(mutant.old) != 1:
            raise SystemExit(f"mutant {mutant.name!r}: {mutant.path} has its text {text.count(mutant.old)} times")
        target.write_text(text.replace(mutant.old, mutant.new))
        ran = subprocess.run(
            [sys.executable, "-m", "tests.simulation", seeds, "--stop"], cwd=folder, env={"PYTHONPATH": folder, "PATH": ""}, text=True,
            capture_output=True, check=False,
        )  # fmt: skip
        found = re.search(r"^seed \d+: .*(?:\n(?!  the last things).*)*", ran.stdout, re.MULTILINE)
        return found[0].splitlines()[0] + (f" {found[0].splitlines()[-1]}" if "raised" in found[0] else "") if found else ran.stderr[-300:]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="all, unless named; the beginning of a name is enough")
    parser.add_argument("--seeds", default="0-59")
    options = parser.parse_args()
    chosen = [one for one in MUTANTS if not options.names or one.name.startswith(tuple(options.names))]
    missed = 0
    for mutant in chosen:
        noticed = first_to_notice(mutant, options.seeds)
        missed += not noticed
        print(f"| {mutant.name} | {noticed or 'not noticed'} |", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} noticed, by seeds {options.seeds}")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
