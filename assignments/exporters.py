"""Tables of points that Moodle and Canvas import: nbgrader export --exporter=exporters.Moodle --to=moodle.csv"""

import csv
from collections.abc import Iterator

from nbgrader.api import Gradebook, MissingEntry, Student
from nbgrader.plugins import ExportPlugin


class _Wide(ExportPlugin):
    """A row a student, a column a problem set. A cell is empty if nothing was handed in, or an essay is not graded."""

    titles: tuple[str, ...]  # of the columns that say who a student is

    def who(self, student: Student) -> list[str]:
        raise NotImplementedError

    def head(self, names: list[str], points: list[float]) -> list[list]:
        return [[*self.titles, *names]]

    def export(self, gradebook: Gradebook):
        wanted = [each for each in gradebook.assignments if not self.assignment or each.name in self.assignment]
        sets = sorted(wanted, key=lambda each: each.name)
        students = [each for each in gradebook.students if not self.student or each.id in map(str, self.student)]
        rows = [[*self.who(each), *self._points(gradebook, each, [one.name for one in sets])] for each in students]
        with open(self.to or f"{type(self).__name__.lower()}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(
                self.head([each.name for each in sets], [each.max_score for each in sets]) + rows
            )

    def _points(self, gradebook: Gradebook, student: Student, names: list[str]) -> Iterator[float | str]:
        for name in names:
            try:
                submission = gradebook.find_submission(name, student.id)
            except MissingEntry:
                yield ""
                continue
            if waits := submission.needs_manual_grade:
                self.log.warning("%s of %s waits for its essay to be graded; its cell is empty.", name, student.id)
            yield "" if waits else max(0.0, submission.score - submission.late_submission_penalty)


class Moodle(_Wide):
    """When you import it, choose Username or Email address under "Map from", and map each problem set to its item."""

    titles = ("Username", "First name", "Last name", "Email address")

    def who(self, student: Student) -> list[str]:
        return [student.id, student.first_name or "", student.last_name or "", student.email or ""]


class Canvas(_Wide):
    """Canvas finds a student by the SIS Login ID, which is the id under which he hands in."""

    titles = ("Student", "ID", "SIS User ID", "SIS Login ID", "Section")

    def who(self, student: Student) -> list[str]:
        return [", ".join(filter(None, [student.last_name, student.first_name])) or student.id, "", "", student.id, ""]

    def head(self, names: list[str], points: list[float]) -> list[list]:
        return [*super().head(names, points), ["    Points Possible", "", "", "", "", *points]]
