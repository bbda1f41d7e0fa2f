"""nbgrader's settings for this course: `nbgrader` reads them when it runs in this folder."""

c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "unioncam"
c.ClearSolutions.code_stub = {"python": "# Your code here.\nraise NotImplementedError"}
c.ClearSolutions.text_stub = "*Your answer here.*"
c.ExecutePreprocessor.timeout = 30  # seconds for a cell; each of ours takes less than five
