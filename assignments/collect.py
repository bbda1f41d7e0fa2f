"""Collect handed-in notebooks for nbgrader: python assignments/collect.py ps1 FOLDER_OR_ZIP

Moodle, Canvas and others name the files of a download in ways of their own. So the names do not count, only the id that
each notebook gives as STUDENT.
"""

import argparse
import ast
import json
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

HERE = Path(__file__).resolve().parent


def handed_in(place: Path) -> Iterator[tuple[str, bytes]]:
    """The name and the content of each notebook in a folder or in a zip file."""
    if place.is_dir():
        found = [(file.relative_to(place).as_posix(), file.read_bytes()) for file in place.rglob("*.ipynb")]
    elif zipfile.is_zipfile(place):
        with zipfile.ZipFile(place) as archive:
            found = [(name, archive.read(name)) for name in archive.namelist() if name.endswith(".ipynb")]
    else:
        raise ValueError(f"{place} is neither a folder nor a zip file.")
    hidden = {".ipynb_checkpoints", "__MACOSX"}
    yield from ((name, content) for name, content in sorted(found) if not hidden & set(PurePosixPath(name).parts))


def student_of(notebook: bytes) -> str:
    """The id that a notebook gives as STUDENT.

    Raises:
        ValueError: it is no notebook, or has no id, or one that cannot name a folder.
    """
    try:
        cells = json.loads(notebook)["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError("it is not a notebook") from error
    (source, *_) = [source for source in sources if source.lstrip().startswith("STUDENT")] or [""]
    try:
        student = ast.literal_eval(ast.parse(source).body[0].value)  # ty: ignore[unresolved-attribute]
    except (SyntaxError, ValueError, LookupError, AttributeError) as error:
        raise ValueError("its cell with STUDENT = ... cannot be read") from error
    if student == "your.id":
        raise ValueError("its STUDENT is still 'your.id'")
    if not isinstance(student, str) or not re.fullmatch(r"[\w@-][\w.@-]*", student):
        raise ValueError(f"its STUDENT is {student!r}; letters, digits and . _ @ - are allowed")
    return student


def collect(course: Path, name: str, place: Path) -> tuple[list[str], list[str]]:
    """Copy the notebooks of a problem set to submitted/STUDENT/psN: the students, and a sentence for each left out."""
    by_student, problems = defaultdict(list), []
    for file, content in handed_in(place):
        try:
            by_student[student_of(content)].append((file, content))
        except ValueError as error:
            problems.append(f"{file} is left out: {error}.")
    for student, files in sorted(by_student.items()):
        if len(files) > 1:
            problems.append(f"{student} is left out: {', '.join(file for file, _ in files)} all have this id.")
            continue
        folder = course / "submitted" / student / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.ipynb").write_bytes(files[0][1])
    return [student for student, files in sorted(by_student.items()) if len(files) == 1], problems


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="psN")
    parser.add_argument("place", type=Path, metavar="FOLDER_OR_ZIP")
    given = parser.parse_args()
    if not (HERE / "source" / given.name).is_dir():
        parser.error(f"There is no problem set {given.name!r}.")
    try:
        students, problems = collect(HERE, given.name, given.place)
    except ValueError as error:
        parser.error(str(error))
    print("\n".join([f"{len(students)} collected: {', '.join(students) or 'none'}.", *problems]))
