"""Typical wrong solutions of each problem set, and what each of them costs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Wrong:
    cells: dict[str, str]  # id of a solution cell -> what the student wrote there
    lost: dict[str, str]  # id of each test cell that fails -> what its message says
