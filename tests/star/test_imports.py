"""What app/star needs for training is not loaded until it trains."""

from __future__ import annotations

import subprocess
import sys


def test_no_heavy_package_is_loaded_with_the_modules() -> None:
    code = (
        "import importlib, pkgutil, sys, app.star\n"
        "for found in pkgutil.iter_modules(app.star.__path__, 'app.star.'):\n"
        "    importlib.import_module(found.name)\n"
        "heavy = {'torch', 'transformers', 'peft', 'trl', 'datasets', 'ray', 'accelerate',"
        " 'matplotlib', 'sympy', 'math_verify', 'sqlalchemy', 'fastapi'}\n"
        "print(*sorted(heavy & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == ""
