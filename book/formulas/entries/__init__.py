"""What the symbols of each numbered formula stand for, one module for a chapter or two.

A new formula needs one generator here, named like its label. See `formulas.check`.
"""

import importlib
from pathlib import Path

for _path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
    importlib.import_module(f"formulas.entries.{_path.stem}")
