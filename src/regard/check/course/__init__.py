"""The suite `exercises`: a course's four exercises, graded; what ``regard check FILE --suite exercises`` does.

Each submission runs in a process of its own, with a limit on its time and, on Linux, on its memory. This is no sandbox:
grade what you would also run.
"""

from __future__ import annotations

from regard.check.course.grader import Result, grade_module
from regard.check.course.grading import Grade, grade, grade_folder
from regard.check.course.report import to_csv, to_json, to_text

__all__ = ["Grade", "Result", "grade", "grade_folder", "grade_module", "to_csv", "to_json", "to_text"]
