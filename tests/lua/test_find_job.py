"""find_job: which jobs' messages hold a text."""

from __future__ import annotations

from dispatcher.store.operator.whereabouts import Finder
from tests.lua.cell import Cell, nothing_written
from tests.messages import message


def test_every_message_is_looked_through(cell: Cell) -> None:
    """In as many calls as it takes; the job whose id it is is found, one that only names it is not."""
    jobs = cell.jobs(300)
    (child,) = (cell.push(message("child", root_id="job-7")), cell.admit(), [cell.waiting()[-1].job])[2]

    with nothing_written(cell):
        finder = Finder(cell.client, cell.keys)
        assert finder.jobs_of("job-7") == [jobs[7]]
        assert finder.jobs_of("job-299") == [jobs[299]]
        assert finder.jobs_of("child") == [child]
        assert finder.jobs_of("nobody") == []


def test_a_text_is_no_pattern(cell: Cell) -> None:
    """A task id may hold anything."""
    cell.push(message('it is "%d+" [ü]'))
    cell.admit()

    assert len(Finder(cell.client, cell.keys).jobs_of('it is "%d+" [ü]')) == 1
    assert Finder(cell.client, cell.keys).jobs_of(".*") == []
