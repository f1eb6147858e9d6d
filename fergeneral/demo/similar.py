"""Placeholder of the tab Similar."""

from __future__ import annotations

import gradio as gr

from fergeneral.demo.settings import DemoSettings


def add_tab(settings: DemoSettings) -> None:
    """Add the tab to the current page."""
    with gr.Tab("Similar", id="similar"):
        gr.Markdown("Not there yet.")
