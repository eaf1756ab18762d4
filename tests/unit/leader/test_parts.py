"""What begins anew when the lead is gained."""

from __future__ import annotations

from dataclasses import fields
from typing import Any
from unittest.mock import Mock

from dispatcher.leader import parts
from dispatcher.leader.parts import Parts


def test_each_part_that_remembers_is_restarted() -> None:
    """A part with a ``restart`` that is not called would go on with what was true in an earlier lead."""
    types = {field.name: getattr(parts, str(field.type)) for field in fields(Parts)}
    made: dict[str, Any] = {name: Mock(spec=type_) for name, type_ in types.items()}
    Parts(**made).restart()
    remembering = {name for name, type_ in types.items() if hasattr(type_, "restart")}
    assert "learning" in remembering
    assert remembering == {name for name, part in made.items() if part.mock_calls}
