"""Import of Python files that belong to no package, such as the examples."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load_module(file: Path) -> ModuleType:
    """Import a file, and return the module. Files that are imported later can import it by the file's name."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module
