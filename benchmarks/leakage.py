"""What embeddings give away, measured: tables and figure of docs/privacy.md.

    python benchmarks/leakage.py --data DATA --out OUT [--peers PEERS] [--models NAME ...]

DATA holds london/, ckplus48/ and fairface/. PEERS holds other systems' embeddings, as `benchmarks/identity_peer.py`
makes them. Written are leakage.json and leakage.png; the tables are printed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fergeneral.detection import make_detector
from fergeneral.evaluate.figures import draw_leakage
from fergeneral.evaluate.leakage import leakage, leakage_markdown
from fergeneral.extractor import ExpressionExtractor
from fergeneral.heads import Head


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--models", nargs="+", default=["general-r18-cycle", "general-r18-cycle-int8", "crs-cont-cpu"])
    parser.add_argument("--head", default="expressions-8", help="of the first model; '' for none")
    options = parser.parse_args()
    encoders = [ExpressionExtractor.from_pretrained(name, device="cpu").encoder for name in options.models]
    heads = [Head.from_pretrained(options.head, encoder=encoders[0])] if options.head else []
    record = leakage(encoders, options.data, make_detector(None, "cpu"), heads=heads, peers=options.peers)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "leakage.json").write_text(json.dumps(record, indent=1) + "\n")
    draw_leakage(record, options.out / "leakage.png")
    print(leakage_markdown(record))
    print(", ".join(f"{name} {seconds:.0f} s" for name, seconds in record["seconds"].items()))


if __name__ == "__main__":
    main()
