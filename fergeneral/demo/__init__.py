"""The demo in the browser, `fergeneral demo`: everything is computed on this machine, nothing is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fergeneral.demo.app import build_app as build_app
    from fergeneral.demo.app import launch as launch
    from fergeneral.demo.settings import DemoSettings as DemoSettings

__all__ = ["DemoSettings", "build_app", "launch"]


def __getattr__(name: str) -> Any:
    if name == "DemoSettings":
        from fergeneral.demo.settings import DemoSettings

        return DemoSettings
    if name in ("build_app", "launch"):  # these need the extra `demo`, and say so
        from fergeneral.demo import app

        return getattr(app, name)
    raise AttributeError(f"module 'fergeneral.demo' has no attribute {name!r}")
