"""What extraction costs, beside the usual pipeline (usual.py), in one run.

    python benchmarks/speed.py [--threads 1 2] [--rounds 5] [--yunet FILE] [--photos 1000]

Writes speed.json and, from it, the table in README.md between the marks, both beside this file. Everything compared is
run in turn, once a round; costs are medians over the rounds, and a ratio is the median of the rounds' ratios. The cost
is CPU time (of all threads), which a busy machine changes less than the wall-clock time; where the clock is meant,
it says so. --yunet: YuNet's file (default: the packaged one).
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import timm
import torch
from detection import Quality, cost_table, costs, detectors, qualities, quality_table
from scenes import astronaut, make_scenes
from usual import Usual

from fergeneral import ExpressionExtractor
from fergeneral.export import export_onnx
from fergeneral.yunet import YuNetDetector

HERE = Path(__file__).parent
BEGIN, END = "<!-- speed.py: begin -->", "<!-- speed.py: end -->"
TOGETHER = 8
IDLE = 0.05  # seconds after a job, in which OpenMP's threads stop spinning, which would count for the next one
Job = Callable[[], Any]


def median_times(jobs: dict[str, Job], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each job in each round, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds + 1):
        for name, job in jobs.items():
            time.sleep(IDLE)
            start = time.process_time()
            job()
            if number:
                times[name].append(time.process_time() - start)
    return times


def ratio(times: dict[str, list[float]], slower: str, faster: str) -> float:
    return statistics.median(a / b for a, b in zip(times[slower], times[faster], strict=True))


def photos_of_scenes() -> dict[str, bytes]:
    """JPEG files of quality 90, by the scene's name."""
    files = {}
    for scene in make_scenes([astronaut()]):
        buffer = io.BytesIO()
        scene.image.save(buffer, "JPEG", quality=90)
        files[scene.name] = buffer.getvalue()
    return files


def extractors(yunet: Path | None) -> dict[str, ExpressionExtractor]:
    default = ExpressionExtractor.from_pretrained(device="cpu")
    int8 = ExpressionExtractor.from_pretrained(f"{default.config.model_id}-int8")
    detector = YuNetDetector(yunet)
    return {
        "default": default,
        "yunet": ExpressionExtractor(default.encoder, detector),
        "yunet, int8": ExpressionExtractor(int8.encoder, detector),
    }


def end_to_end(photos: dict[str, bytes], ours: dict[str, ExpressionExtractor], rounds: int) -> list[dict[str, Any]]:
    """CPU-ms a photo: the usual pipeline, and by detector `extract` and, of TOGETHER copies, `extract_many`."""
    usual = Usual()
    rows = []
    for name, data in photos.items():
        together = [data] * (2 if "12 MP" in name else TOGETHER)
        jobs: dict[str, Job] = {"usual": lambda data=data: usual(data)}
        for key, one in ours.items():
            jobs[key] = lambda data=data, one=one: one.extract(data)
            jobs[f"{key}, many"] = lambda together=together, one=one: list(one.extract_many(together))
        times = median_times(jobs, rounds)
        for key in ours:
            times[f"{key}, many"] = [seconds / len(together) for seconds in times[f"{key}, many"]]
        row: dict[str, Any] = {"scene": name, "ms": {key: 1000 * statistics.median(t) for key, t in times.items()}}
        row["times less"] = {key: ratio(times, "usual", key) for key in times if key != "usual"}
        row["faces"] = {"usual": usual(data)} | {key: len(one.extract(data)) for key, one in ours.items()}
        rows.append(row)
        print(row, flush=True)
    return rows


def detection(yunet: Path | None, rounds: int) -> dict[str, Any]:
    """The detectors alone, on the same scenes: CPU-ms, and how well they find the faces (detection.py)."""
    systems, scenes = detectors(yunet), make_scenes([astronaut()])
    quality = {name: dataclasses.asdict(value) for name, value in qualities(systems, scenes).items()}
    return {"ms": costs(systems, scenes, rounds), "quality": quality}


def many(photos: dict[str, bytes], ours: dict[str, ExpressionExtractor], count: int) -> dict[str, Any]:
    """`extract_many` against a loop over `extract`, in wall-clock and CPU time, once; without scenes of 12 MP."""
    mixed = list(itertools.islice(itertools.cycle(d for n, d in photos.items() if "12 MP" not in n), count))
    result: dict[str, Any] = {"photos": count}
    for key, one in ours.items():
        jobs: dict[str, Callable[[list[bytes]], Any]] = {
            "loop": lambda some, one=one: [one.extract(photo) for photo in some],
            "extract_many": lambda some, one=one: list(one.extract_many(some)),
        }
        seconds: dict[str, np.ndarray] = {}
        for name, job in jobs.items():
            job(mixed[:TOGETHER])
            start = np.array([time.perf_counter(), time.process_time()])
            job(mixed)
            seconds[name] = np.array([time.perf_counter(), time.process_time()]) - start
        clock, cpu = (seconds["loop"] / seconds["extract_many"]).tolist()
        rate = count / float(seconds["extract_many"][0])
        result[key] = {"clock ratio": clock, "cpu ratio": cpu, "photos per second": rate}
        print(key, result[key], flush=True)
    return result


def encoder(one: ExpressionExtractor, int8: ExpressionExtractor, rounds: int) -> dict[str, Any]:
    """CPU-ms a crop by batch size, and the share of the best matrix product (torch's or numpy's) of the same run."""
    counts = (1, 8, 32, 64)
    plain = timm.create_model("resnet18", pretrained=False, num_classes=0).eval().to(memory_format=torch.channels_last)
    a = torch.rand(2048, 2048)
    products: dict[str, Job] = {"torch": lambda: a @ a, "numpy": lambda: a.numpy() @ a.numpy()}
    # Apart from the others, since the threads of numpy's OpenBLAS spin for longer than IDLE.
    peak = 2 * 2048**3 / min(statistics.median(t) for t in median_times(products, max(rounds, 7)).values())
    times = median_times(encoder_jobs(one, int8, plain, counts), max(rounds, 7))
    seconds = {name: statistics.median(t) for name, t in times.items()}
    flops = operations(plain, one.config.crop_size)
    return {
        "GFLOP a crop": flops / 1e9,
        "peak GFLOP/s": peak / 1e9,
        "share of peak at 32": 32 * flops / seconds["torch 32"] / peak,
        "ms a crop": {name: 1000 * s / int(name.split()[1]) for name, s in seconds.items()},
        "onnx times less": {n: ratio(times, f"torch {n}", f"onnx {n}") for n in counts},
        "int8 times less": {n: ratio(times, f"torch {n}", f"int8 {n}") for n in counts},
        "folding times less": {n: ratio(times, f"unfolded {n}", f"torch {n}") for n in counts},
    }


def encoder_jobs(
    one: ExpressionExtractor, int8: ExpressionExtractor, plain: torch.nn.Module, counts: tuple[int, ...]
) -> dict[str, Job]:
    """By the number of crops: `encode`, of the int8 weights, the exported file in ONNX Runtime, timm's network."""
    size = one.config.crop_size
    session = onnx_session(one)
    mean, std = (255 * torch.tensor(v).view(1, 3, 1, 1) for v in (one.config.mean, one.config.std))

    def unfolded(crops: np.ndarray) -> torch.Tensor:
        with torch.inference_mode():
            return plain((torch.from_numpy(crops).permute(0, 3, 1, 2).float() - mean) / std)

    jobs: dict[str, Job] = {}
    for count in counts:
        crops = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        jobs[f"torch {count}"] = lambda crops=crops: one.encode(crops, show_progress=False)
        jobs[f"int8 {count}"] = lambda crops=crops: int8.encode(crops, show_progress=False)
        jobs[f"onnx {count}"] = lambda crops=crops: session.run(None, {"crops": crops})
        jobs[f"unfolded {count}"] = lambda crops=crops: unfolded(crops)
    large = np.zeros((1, 224, 224, 3), dtype=np.uint8)
    return jobs | {"unfolded 1 at 224": lambda: unfolded(large)}


def onnx_session(one: ExpressionExtractor) -> onnxruntime.InferenceSession:
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(one.encoder, Path(folder, "encoder.onnx"))
        model = Path(folder, "encoder.onnx").read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # which would count as CPU time
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def operations(network: torch.nn.Module, size: int) -> int:
    """Multiplications and additions of the convolutions, for one crop."""
    total = 0

    def count(module: torch.nn.Conv2d, _: Any, output: torch.Tensor) -> None:
        nonlocal total
        total += 2 * output.numel() * module.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    with torch.inference_mode():
        network(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return total


def processes(photos: dict[str, bytes], rounds: int) -> dict[str, Any]:
    """CPU seconds and peak memory of whole processes: imports, and one photo from the command line."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("one, 640x480", "one, 12 MP"):
            Path(folder, f"{name}.jpg").write_bytes(photos[name])
        commands = {"import fergeneral": ["-c", "import fergeneral"]}
        commands["import torch, torchvision, timm"] = ["-c", "import torch, torchvision, timm"]
        for name in ("one, 640x480", "one, 12 MP"):
            photo = str(Path(folder, f"{name}.jpg"))
            commands[f"fergeneral extract, {name}"] = ["-m", "fergeneral.cli", "extract", "--device", "cpu", photo]
            commands[f"usual, {name}"] = [str(HERE / "usual.py"), photo]
        times: dict[str, list[float]] = {name: [] for name in commands}
        memory = dict.fromkeys(commands, 0.0)
        for number in range(rounds + 1):
            for name, command in commands.items():
                seconds, megabytes = cost(command)
                if number:  # the first fills the disk cache
                    times[name].append(seconds)
                    memory[name] = max(memory[name], megabytes)
    return {
        "cpu s": {name: statistics.median(t) for name, t in times.items()},
        "peak MB": memory,
        "cold start / imports": ratio(times, "fergeneral extract, one, 640x480", "import torch, torchvision, timm"),
    }


# In a process between, since a child's peak starts at its parent's, and here that is torch and all photos.
_LAUNCHER = """import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
print(status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
"""


def cost(command: list[str]) -> tuple[float, float]:
    """CPU seconds and peak memory in MB of a Python process (Linux)."""
    launch = [sys.executable, "-c", _LAUNCHER, sys.executable, *command]
    status, seconds, kilobytes = subprocess.run(launch, capture_output=True, text=True, check=True).stdout.split()
    if status != "0":
        raise RuntimeError(f"{command} failed with status {status}")
    return float(seconds), float(kilobytes) / 1024


def use_threads(count: int) -> None:
    torch.set_num_threads(count)
    for name in ("OMP", "MKL", "OPENBLAS"):  # of the processes started from here
        os.environ[f"{name}_NUM_THREADS"] = str(count)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    photos = photos_of_scenes()
    ours = extractors(options.yunet)
    result: dict[str, Any] = {"cpu": processor(), "python": platform.python_version(), "torch": torch.__version__}
    use_threads(1)
    warnings.simplefilter("ignore")  # facenet-pytorch's
    result["detectors"] = detection(options.yunet, options.rounds)
    for threads in options.threads:
        use_threads(threads)
        print(f"{threads} thread(s)", flush=True)
        result[f"{threads} thread(s)"] = {
            "end to end": end_to_end(photos, ours, options.rounds),
            "many": many(photos, ours, options.photos),
            "encoder": encoder(ours["default"], ours["yunet, int8"], options.rounds),
            "processes": processes(photos, options.rounds),
        }
    return result


def processor() -> str:
    text = Path("/proc/cpuinfo").read_text()
    model = next(line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name"))
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores"


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['cpu']}; Python {result['python']}, torch {result['torch']}. By detector: `extract`, one photo at a"
    ]
    lines.append(f'time, and under "many" `extract_many`, a photo\'s share of {TOGETHER} (of 12 MP: 2).')
    for title, part in result.items():
        if "thread" in title:
            lines += [f"\n#### {title.capitalize()}\n", *end_to_end_lines(part), "", *other_lines(part)]
    lines.append("\n#### Detectors alone\n\nCPU-ms a photo, one thread, and how many times less:\n")
    lines.append(cost_table(result["detectors"]["ms"]))
    lines.append("\nWhat they find on the same scenes (the columns are explained in `detection.py`):\n")
    lines.append(quality_table({name: Quality(**q) for name, q in result["detectors"]["quality"].items()}))
    return "\n".join(lines)


def end_to_end_lines(part: dict[str, Any]) -> list[str]:
    rows = part["end to end"]
    names = list(rows[0]["times less"])
    head = ["scene", "usual, CPU-ms", *(f"{name}: CPU-ms (times less)" for name in names)]
    head.append("faces: " + ", ".join(rows[0]["faces"]))
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in [*rows, *sums(rows)]:
        cells = [row["scene"], f"{row['ms']['usual']:.0f}"]
        cells += [f"{row['ms'][name]:.0f} (**{row['times less'][name]:.1f}**)" for name in names]
        lines.append("| " + " | ".join([*cells, ", ".join(str(n) for n in row["faces"].values())]) + " |")
    return lines


def sums(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the scenes of each size, the sums of their times and faces, and the ratio of these sums."""
    result = []
    for size in dict.fromkeys(row["scene"].split(", ")[1] for row in rows):
        same = [row for row in rows if row["scene"].endswith(size)]
        ms, faces = ({key: sum(row[what][key] for row in same) for key in same[0][what]} for what in ("ms", "faces"))
        less = {key: ms["usual"] / ms[key] for key in ms}
        result.append({"scene": f"all {len(same)}, {size}", "ms": ms, "times less": less, "faces": faces})
    return result


def other_lines(part: dict[str, Any]) -> list[str]:
    encoder, processes, many = part["encoder"], part["processes"], part["many"]
    ms, memory, seconds = encoder["ms a crop"], processes["peak MB"], processes["cpu s"]
    lines = ["| what | figure |", "|---|---|"]

    def row(what: str, figure: str) -> None:
        lines.append(f"| {what} | {figure} |")

    for key in [key for key in many if key != "photos"]:
        row(
            f"`extract_many`, {key}, {many['photos']} mixed photos, over a loop of `extract`",
            f"{many[key]['clock ratio']:.2f} times faster in wall-clock time, {many[key]['cpu ratio']:.2f} times less "
            f"CPU; {many[key]['photos per second']:.1f} photos/s",
        )
    row("`encode`, 32 crops: CPU-ms a crop", f"{ms['torch 32']:.2f} ({ms['torch 1']:.1f} for one crop alone)")
    row("the same, int8 weights", f"{ms['int8 32']:.2f} ({ms['int8 1']:.1f} for one crop alone)")
    row("the same network at 224 pixels, not folded, one crop", f"{ms['unfolded 1 at 224']:.1f}")
    share, peak = encoder["share of peak at 32"], encoder["peak GFLOP/s"]
    row("share of the matrix-product peak at 32 crops", f"{share:.0%} of {peak:.0f} GFLOP/s")
    for name, title in (
        ("folding", "`encode`, times less than timm's network as it is"),
        ("int8", "the int8 weights, times less than `encode`"),
        ("onnx", "the exported file in ONNX Runtime, times less than `encode`"),
    ):
        row(f"{title}, by crops at once", ", ".join(f"{n}: {v:.2f}" for n, v in encoder[f"{name} times less"].items()))
    row("`import fergeneral`, CPU-s", f"{seconds['import fergeneral']:.2f}")
    row(
        "`fergeneral extract`, cold, 640x480, over importing torch, torchvision and timm",
        f"{processes['cold start / imports']:.2f} ({seconds['import torch, torchvision, timm']:.2f} s of imports)",
    )
    for name in ("one, 640x480", "one, 12 MP"):
        ours, usual = memory[f"fergeneral extract, {name}"], memory[f"usual, {name}"]
        row(f"peak memory, {name}, in MB (usual)", f"{ours:.0f} ({usual:.0f})")
    return lines


def write_table(readme: Path, text: str) -> None:
    before, _, rest = readme.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--photos", type=int, default=1000, help="for extract_many")
    parser.add_argument("--yunet", type=Path)
    result = measure(parser.parse_args())
    (HERE / "speed.json").write_text(json.dumps(result, indent=1) + "\n")
    write_table(HERE / "README.md", table(result))


if __name__ == "__main__":
    main()
