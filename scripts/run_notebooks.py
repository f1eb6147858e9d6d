"""Execute the notebooks of examples/notebooks and write their .ipynb files, with outputs small enough for a repository.

python scripts/run_notebooks.py            # all of them
python scripts/run_notebooks.py quick_start

Each NAME.py (jupytext's percent format) is run from top to bottom in a fresh kernel, in its own folder and without
network. NAME.ipynb then gets the same cells with what they printed and drew. Photos are stored as JPEG, charts as PNG
with few colours. Times and versions are left out, so that a file changes only where its content does.
"""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = Path(__file__).parent.parent / "examples" / "notebooks"
TIMEOUT = 900  # seconds for one cell, on a busy machine
QUALITY = 80  # of JPEG
COLOURS = 64  # of PNG
MOST_COLOURS = 4096  # of a chart; a photo has more
# Run before the first cell: a connection to anything but this machine is an error.
OFFLINE = """\
import sys

def _offline(event, arguments):
    local = ("127.0.0.1", "::1", "localhost", None)
    if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] not in local:
        raise RuntimeError(f"a notebook must not use the network: {arguments[1]}")
    if event == "socket.getaddrinfo" and arguments[0] not in local:
        raise RuntimeError(f"a notebook must not use the network: {arguments[0]}")

sys.addaudithook(_offline)
"""


def execute(source: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook of a .py file, run in `folder`, with its outputs. Raises CellExecutionError where a cell fails."""
    notebook = jupytext.read(source)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(OFFLINE))
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3", resources=resources, record_timing=False).execute()
    del notebook.cells[0]
    return notebook


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Make the outputs small, and leave out what changes from one run to the next."""
    count = 0
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02}"
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
            if "image/png" in output.get("data", {}):
                _compact(output.data)
                output.metadata = {}
    notebook.metadata.language_info = {"name": "python", "pygments_lexer": "ipython3"}


def _compact(data: dict[str, str]) -> None:
    """Replace the pictures of an output by one, and what it is by a word."""
    data.pop("image/jpeg", None)
    image = Image.open(io.BytesIO(base64.b64decode(data.pop("image/png")))).convert("RGB")
    kind, stored = "image/jpeg", io.BytesIO()
    if image.getcolors(MOST_COLOURS):
        kind = "image/png"
        image.quantize(COLOURS).save(stored, "PNG", optimize=True)
    else:
        image.save(stored, "JPEG", quality=QUALITY, optimize=True)
    data[kind] = base64.b64encode(stored.getvalue()).decode()
    data["text/plain"] = "<picture>"


def main() -> None:
    for name in sys.argv[1:] or sorted(path.stem for path in NOTEBOOKS.glob("*.py")):
        notebook = execute(NOTEBOOKS / f"{name}.py", NOTEBOOKS)
        tidy(notebook)
        target = NOTEBOOKS / f"{name}.ipynb"
        nbformat.write(notebook, target)
        print(f"{target.name}: {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
