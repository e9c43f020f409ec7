import sys
from pathlib import Path

# The set-up scripts stand alone: they run before the package is installed.
sys.path.insert(0, str(Path(__file__).parents[2] / "deploy" / "build"))
