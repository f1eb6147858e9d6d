# ruff: noqa: N999 - PyInstaller wants this name
"""What PyInstaller cannot see in the package's source: files that are read, and modules that are imported by name.

A program that uses a module as an attribute only (`fergeneral.jobs`) must import it as well: `import fergeneral.jobs`.
"""

from pathlib import Path

from PyInstaller.utils.hooks import collect_data_files, collect_dynamic_libs

import fergeneral

hiddenimports = [f"fergeneral.{module}" for module in {*fergeneral._HOME.values(), "errors", "heads.head"}]
# MTCNN's weights. The sources, too, since the path to the weights goes through their folder: models/../data.
datas = collect_data_files("facenet_pytorch", include_py_files=True)
datas += collect_data_files("fergeneral")  # the weights, and the heads among them
if not (Path(fergeneral.__file__).parent / "_weights").is_dir():  # installed with pip install -e
    datas += [(str(Path(fergeneral.__file__).parent.parent / "weights"), "fergeneral/_weights")]
# Loaded by its path; PyInstaller's own hook for torchvision knows only the name that it had before 0.26.
binaries = collect_dynamic_libs("torchvision", search_patterns=["*.so", "*.pyd", "*.dll", "*.dylib"])
