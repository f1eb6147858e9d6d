"""Where PyInstaller finds this package's hook: it asks the entry point `hook-dirs` in pyproject.toml."""

from __future__ import annotations

import os


def get_hook_dirs() -> list[str]:
    """The folder of hook-fergeneral.py."""
    return [os.path.dirname(__file__)]
