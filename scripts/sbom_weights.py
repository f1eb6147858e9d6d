"""Add the weights that the package carries to a CycloneDX bill of materials, as machine-learning models.

    python scripts/sbom_weights.py SBOM.json WEIGHTS/ DETECTORS/

To be run with cyclonedx-python-lib (of cyclonedx-bom) alone: see .ci/sbom.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

SUFFIXES = (".safetensors", ".onnx")
VERSION = SchemaVersion.V1_6


def main() -> None:
    sbom, weights, detectors = map(Path, sys.argv[1:])
    bom = Bom.from_json(json.loads(sbom.read_text(encoding="utf-8")))
    for path in sorted(path for path in weights.rglob("*") if path.suffix in SUFFIXES):
        (stated,) = [file for name in ("config.json", "head.json") if (file := path.with_name(name)).is_file()]
        license = DisjunctiveLicense(name=json.loads(stated.read_text(encoding="utf-8"))["license"])
        bom.components.add(model(path, path.parent.relative_to(weights).as_posix(), license))
    for path in sorted(path for path in detectors.iterdir() if path.suffix in SUFFIXES):
        bom.components.add(model(path, path.stem, DisjunctiveLicense(id="MIT")))
    text = make_outputter(bom, OutputFormat.JSON, VERSION).output_as_string(indent=2)
    errors = JsonStrictValidator(VERSION).validate_str(text)
    if errors is not None:
        sys.exit(f"the bill of materials is not valid CycloneDX: {errors}")
    sbom.write_text(text, encoding="utf-8")
    models = sum(component.type is ComponentType.MACHINE_LEARNING_MODEL for component in bom.components)
    print(f"{sbom}: {len(bom.components)} components, {models} of them weights")


def model(path: Path, name: str, license: DisjunctiveLicense) -> Component:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=name,
        version=digest[:12],
        bom_ref=f"weights-{digest}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
        licenses=[license],
    )


if __name__ == "__main__":
    main()
