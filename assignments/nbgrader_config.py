"""nbgrader's settings for this course: `nbgrader` reads them when it runs in this folder."""

c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "unioncam"
c.ClearSolutions.code_stub = {"python": "# Your code here.\nraise NotImplementedError"}
c.ClearSolutions.text_stub = "*Your answer here.*"
# Seconds for a cell. Each of ours takes less than five; the first one imports PyTorch.
c.ExecutePreprocessor.timeout_func = lambda cell: 120 if "import torch" in cell.source else 30
c.ExecutePreprocessor.iopub_timeout = 60  # how long a busy machine may take to pass on what a cell printed
