"""Expressions in a process of their own: the hub's client reads its environment when it is imported."""

import os
import subprocess
import sys


def said_by(setup: str, expression: str, **environment: str) -> str:
    """What a fresh process prints of an expression's value, or of the kind and text of what it raises."""
    code = f"{setup}\ntry:\n    print({expression})\nexcept Exception as error:\n    print(type(error).__name__, error)"
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    ).stdout
