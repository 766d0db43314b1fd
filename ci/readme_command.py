"""Print the n-th block of shell commands in README.md, counted from 1."""

import re
import sys
from pathlib import Path

readme = Path(__file__).resolve().parent.parent / "README.md"
blocks = re.findall(r"^```sh\n(.*?)^```", readme.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
print(blocks[int(sys.argv[1]) - 1], end="")
