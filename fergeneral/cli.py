"""The command line: parse, call the library, print, return an exit code (0 well, 1 something failed, 2 wrong usage)."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fergeneral import __version__
from fergeneral.errors import DataError, FergeneralError, ImageError
from fergeneral.types import TrackedFace

if TYPE_CHECKING:
    from PIL import Image

    from fergeneral.extractor import ExpressionExtractor
    from fergeneral.jobs import FileResult, Summary
    from fergeneral.sources import Source
    from fergeneral.types import Face

_VIDEO_SUFFIXES = {".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"}
_VIDEO_SUFFIXES |= {".wmv", ".flv", ".ogv", ".mxf"}

_MODEL_HELP = "packaged name, folder or Hub repository (default: packaged)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the entry point of `fergeneral`."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except FergeneralError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print("; ".join(["interrupted", *getattr(interrupt, "__notes__", [])]), file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away: no fault of ours
        sys.stderr.close()
        return 1
    except OSError as error:  # a full disk, a folder that may not be written to
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fergeneral", description="Expression embeddings of the faces in photos.")
    parser.add_argument("--version", action="version", version=f"fergeneral {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    extract = commands.add_parser("extract", help="embed every face in photos", description=_extract.__doc__)
    extract.add_argument(
        "paths", nargs="+", metavar="PATH", help="photos, folders of photos, .tar archives, or .parquet files of images"
    )
    extract.add_argument(
        "-o",
        "--output",
        metavar="FILE|DIR/",
        help="table to write: .parquet, .csv or .npz; or, for a job that can be cut off and go on, a folder of Parquet "
        "tables: a name without a suffix or with a / at the end, or a folder that is there",
    )
    extract.add_argument(
        "--shard-rows", type=_positive, metavar="N", help="photos in each of a folder's tables (default 10000)"
    )
    extract.add_argument("--resume", action="store_true", help="go on with the job in the folder, if there is one")
    extract.add_argument("--recursive", action="store_true", help="also look into folders inside folders")
    extract.add_argument("--save-crops", metavar="DIR", help="save every aligned face crop there, as PNG")
    extract.add_argument(
        "--draw", metavar="DIR", help="save every photo there with boxes, landmarks and scores, as PNG"
    )
    _add_detector_option(extract)
    extract.add_argument("--batch-size", type=_positive, default=32, metavar="N", help="photos at once (default 32)")
    extract.add_argument("--column", metavar="NAME", help="of images in .parquet files (default: image, jpg, ...)")
    _add_model_options(extract)
    _add_engine_options(extract)
    extract.set_defaults(run=_extract)

    video = commands.add_parser("video", help="embed and follow every face in videos", description=_video.__doc__)
    video.add_argument("paths", nargs="+", metavar="PATH", help="video files, or folders of them")
    video.add_argument("-o", "--output", metavar="FILE", help="table to write: .parquet, .csv or .npz")
    video.add_argument(
        "--fps",
        type=_rate,
        metavar="N",
        help="about N frames of each second (default: all). To follow faces, at least ten frames of each second are "
        "searched for them whatever N is: a smaller N saves the time to embed them, not the time to find them",
    )
    video.add_argument("--recursive", action="store_true", help="also look into folders inside folders")
    _add_detector_option(video)
    video.add_argument("--batch-size", type=_positive, default=32, metavar="N", help="frames at once (default 32)")
    _add_model_options(video)
    video.set_defaults(run=_video)

    probe = commands.add_parser("probe", help="judge embeddings by a linear probe", description=_probe.__doc__)
    probe.add_argument("--train", required=True, metavar="DIR", help="data set to fit on (its train split)")
    probe.add_argument("--test", required=True, metavar="DIR", help="data set to read (its test split)")
    _add_model_options(probe)
    probe.set_defaults(run=_probe)

    evaluate = commands.add_parser("evaluate", help="write a report on embeddings", description=_evaluate.__doc__)
    evaluate.add_argument("data", nargs="+", metavar="DATA", help="folders of labelled face crops")
    evaluate.add_argument("-o", "--output", required=True, metavar="DIR", help="folder for the report")
    evaluate.add_argument(
        "--against", action="append", default=[], metavar="NAME", help="other weights to compare with (may be repeated)"
    )
    evaluate.add_argument("--peers", metavar="DIR", help="other systems' embeddings: .npz with path and embedding")
    evaluate.add_argument("--no-robustness", action="store_true", help="leave out the worse conditions (much quicker)")
    evaluate.add_argument(
        "--second-detector", choices=("yunet",), help="also find the faces again with it (needs fergeneral[yunet])"
    )
    evaluate.add_argument("--cache", metavar="DIR", help="where embeddings are kept (default: the user's cache)")
    _add_model_options(evaluate)
    evaluate.set_defaults(run=_evaluate)

    export = commands.add_parser(
        "export", help="write the encoder as an ONNX file, or in 8-bit whole numbers", description=_export.__doc__
    )
    form = export.add_mutually_exclusive_group(required=True)
    form.add_argument("--onnx", metavar="FILE", help="file to write, for any ONNX runtime")
    form.add_argument("--int8", metavar="DIR", help="folder to write, for --model DIR: about 3 times faster on CPUs")
    export.add_argument(
        "--crops", metavar="DIR", help="folder of face crops: to check on; --int8 must have some hundreds"
    )
    export.add_argument("--model", metavar="NAME", help=_MODEL_HELP)
    export.add_argument("--revision", help="commit, tag or branch of a Hub repository")
    export.set_defaults(run=_export, device="cpu")

    models = commands.add_parser("models", help="list the packaged weights", description=_models.__doc__)
    models.set_defaults(run=_models)
    card = commands.add_parser("card", help="write the model card beside weights", description=_card.__doc__)
    card.add_argument("folder", metavar="FOLDER", help="folder of model.safetensors and config.json")
    card.add_argument("--report", metavar="FILE", help="report.json of these weights, for the results")
    card.add_argument("--notes", metavar="FILE", help="Markdown file of known failure modes; its pictures come along")
    card.set_defaults(run=_card)
    info = commands.add_parser("info", help="show versions, devices and weights", description=_info.__doc__)
    _add_model_options(info)
    info.set_defaults(run=_info)
    return parser


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("on many machines, into a folder that they share (needs fergeneral[ray])")
    group.add_argument("--engine", choices=("local", "ray"), default="local", help="who does the work (default: local)")
    group.add_argument("--address", metavar="ADDRESS", help="of the Ray cluster, or auto (default: one just for this)")
    group.add_argument("--num-workers", type=_positive, metavar="N", help="default: as many as there is room for")
    group.add_argument("--num-cpus", type=_positive, metavar="N", help="for each worker (default 1)")
    group.add_argument("--num-gpus", type=_share, metavar="N", help="for each worker, also 0.5 (default 0: on the CPU)")


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="NAME", help=_MODEL_HELP)
    parser.add_argument("--revision", help="commit, tag or branch of a Hub repository")
    parser.add_argument("--device", help="cpu, cuda, cuda:N or mps (default: the best there is)")


def _add_detector_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--detector", choices=("mtcnn", "yunet"), default="mtcnn", help="yunet is faster and needs fergeneral[yunet]"
    )
    parser.add_argument(
        "--min-face-size",
        type=_face_size,
        metavar="N",
        help="shorter side, in pixels of the photo, of the smallest face looked for (default: 40, or sqrt(width * "
        "height) / 48 where that is more: 102 in 6000 x 4000); half of it takes up to four times as long",
    )


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be more than 0")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _face_size(text: str) -> int:
    value = int(text)
    if value < 12:
        raise argparse.ArgumentTypeError("must be 12 or more")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1000:
        raise argparse.ArgumentTypeError("must be more than 0")
    return value


def _load(options: argparse.Namespace, detector: str | None = None) -> ExpressionExtractor:
    from fergeneral.extractor import ExpressionExtractor

    return ExpressionExtractor.from_pretrained(
        options.model,
        revision=options.revision,
        device=options.device,
        detector=detector,
        min_face_size=getattr(options, "min_face_size", None),
    )


def _extract(options: argparse.Namespace) -> int:
    """Find, align and embed every face in photos: one row a face, largest first. Without -o, a table without the
    embeddings is printed. A photo that cannot be read is reported and skipped; the exit status is then 1. Ctrl-C leaves
    the faces found so far in a table of their own, as faces.partial.parquet; the exit status is then 130."""
    given = [name for name in ("address", "num_workers", "num_cpus", "num_gpus") if getattr(options, name) is not None]
    if given and options.engine != "ray":
        raise DataError(f"--{given[0].replace('_', '-')} is for --engine ray")
    if _is_folder(options.output):
        return _extract_job(options)
    if options.resume or options.shard_rows or options.engine == "ray":
        raise DataError("--resume, --shard-rows and --engine ray want a folder to write to: -o NAME/")
    from tqdm import tqdm

    photos = _list(options)
    crops_dir, draw_dir = _folder(options.save_crops), _folder(options.draw)
    extractor = _load(options, options.detector)
    failures: dict[int, ImageError] = {}
    faces_found = 0
    with _table(options.output, extractor.config.embedding_size) as table:
        images = (photo.read() for photo in photos)
        found = extractor.extract_many(images, batch_size=options.batch_size, on_error=failures.__setitem__)
        names = _unique_names(photos) if crops_dir or draw_dir else []
        for number, faces in enumerate(
            tqdm(found, "extract", len(photos), unit="photo", file=sys.stderr, disable=None)
        ):
            photo = photos[number]
            if number in failures:
                tqdm.write(f"skipped: {failures[number]}", file=sys.stderr)
                continue
            faces_found += len(faces)
            table.add(photo.path, faces)
            if crops_dir or draw_dir:
                _save_pictures(photo.read(), faces, names[number], crops_dir, draw_dir, extractor)
    good = len(photos) - len(failures)
    print(_outcome(faces_found, good, len(failures)), file=sys.stderr)
    return 1 if failures else 0


def _outcome(faces: int, good: int, unreadable: int) -> str:
    return f"{_count(faces, 'face')} in {_count(good, 'photo')}, {unreadable} unreadable"


def _video(options: argparse.Namespace) -> int:
    """Find, follow and embed every face in the frames of videos: one row a face and frame, with its time in seconds and
    its track, a number that one person keeps within a video. Without -o, a table without the embeddings is printed.
    A frame that is damaged, and a video that cannot be read, is reported and skipped; the exit status is then 1."""
    from tqdm import tqdm

    videos = list(_videos(options.paths, options.recursive))
    if not videos:
        raise DataError(f"no videos in {', '.join(options.paths)}; --recursive also looks into folders inside")
    extractor = _load(options, options.detector)
    frames = faces = damaged = unreadable = 0

    def report(_: float, error: ImageError) -> None:
        nonlocal damaged
        damaged += 1
        tqdm.write(f"skipped: {error}", file=sys.stderr)

    with _table(options.output, extractor.config.embedding_size, video=True) as table:
        for video in videos:
            found = extractor.extract_video(video, fps=options.fps, batch_size=options.batch_size, on_error=report)
            try:
                for frame in tqdm(found, video.name, unit="frame", file=sys.stderr, disable=None):
                    frames += 1
                    faces += len(frame.faces)
                    table.add(str(video), frame.faces)
            except ImageError as error:
                unreadable += 1
                tqdm.write(f"skipped: {error}", file=sys.stderr)
    print(
        f"{_count(faces, 'face')} in {_count(frames, 'frame')} of {_count(len(videos) - unreadable, 'video')}, "
        f"{_count(damaged, 'damaged frame')}, {unreadable} unreadable",
        file=sys.stderr,
    )
    return 1 if damaged or unreadable else 0


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _is_folder(output: str | None) -> bool:
    """Whether -o names a folder for a job, and not a table."""
    return output is not None and (output.endswith(("/", os.sep)) or not Path(output).suffix or Path(output).is_dir())


def _list(options: argparse.Namespace) -> list[Source]:
    from fergeneral.sources import list_photos

    photos = list_photos(options.paths, recursive=options.recursive, column=options.column)
    if not photos:
        raise DataError(
            f"no photos in {', '.join(options.paths)}; --recursive also looks into folders inside; .tar and .parquet "
            f"files are named one by one (FOLDER/*.tar)"
        )
    return photos


def _extract_job(options: argparse.Namespace) -> int:
    """`extract` into a folder of shards."""
    from tqdm import tqdm

    from fergeneral.jobs import SHARD_ROWS, check_output, run_job

    if options.draw or options.save_crops:
        raise DataError("--draw and --save-crops do not go with a folder of tables (-o): run them by themselves")
    check_output(options.output, resume=options.resume)
    photos = _list(options)
    if options.engine == "ray":
        return _extract_on_ray(options, photos)
    extractor = _load(options, options.detector)
    with tqdm(desc="extract", total=len(photos), unit="photo", file=sys.stderr, disable=None) as bar:

        def show(result: FileResult, done: int, total: int) -> None:
            bar.update(done - bar.n)
            if result.error is not None:
                tqdm.write(f"skipped: {result.error}", file=sys.stderr)

        try:
            totals = run_job(
                extractor,
                photos,
                options.output,
                shard_rows=options.shard_rows or SHARD_ROWS,
                resume=options.resume,
                batch_size=options.batch_size,
                progress=show,
            )
        except KeyboardInterrupt:
            bar.close()
            return _interrupted(options)
    return _finished(totals)


def _extract_on_ray(options: argparse.Namespace, photos: list[Source]) -> int:
    from tqdm import tqdm

    from fergeneral.distributed import extract_dataset
    from fergeneral.jobs import SHARD_ROWS

    if options.device:
        raise DataError("--device does not go with --engine ray: workers run on the CPU, or on CUDA with --num-gpus")
    with tqdm(desc="extract", total=len(photos), unit="photo", file=sys.stderr, disable=None) as bar:
        try:
            totals = extract_dataset(
                photos,
                options.output,
                model=options.model,
                revision=options.revision,
                detector=options.detector,
                min_face_size=options.min_face_size,
                shard_rows=options.shard_rows or SHARD_ROWS,
                resume=options.resume,
                batch_size=options.batch_size,
                num_workers=options.num_workers,
                num_cpus=options.num_cpus or 1,
                num_gpus=options.num_gpus or 0,
                address=options.address,
                progress=lambda _, done, __: bar.update(done - bar.n),
            )
        except KeyboardInterrupt:
            bar.close()
            return _interrupted(options)
    return _finished(totals)


def _interrupted(options: argparse.Namespace) -> int:
    print(f"interrupted; what is done is kept in {options.output}: go on by --resume", file=sys.stderr)
    return 130


def _finished(totals: Summary) -> int:
    print(_outcome(totals.faces, totals.photos - totals.unreadable, totals.unreadable), file=sys.stderr)
    return 1 if totals.unreadable else 0


def _videos(paths: Sequence[str], recursive: bool) -> Iterator[Path]:
    """Files as given, and the videos in folders by suffix, in the order of their names."""
    from fergeneral.sources import files_in

    for path in paths:
        inside = files_in(path, _VIDEO_SUFFIXES, recursive=recursive) if os.path.isdir(path) else [path]
        yield from map(Path, inside)


def _folder(text: str | None) -> Path | None:
    if text is None:
        return None
    try:
        Path(text).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"the folder {text} cannot be made: {error.strerror}") from error
    return Path(text)


def _unique_names(photos: Sequence[Source]) -> list[str]:
    """A file name without suffix for each photo; photos of the same name get a number."""
    used: set[str] = set()
    last: dict[str, int] = {}  # number of each name, so that thousands of the same do not take for ever
    names = []
    for photo in photos:
        name = stem = Path(photo.path.replace(".parquet#", "_")).stem
        while name.lower() in used:
            last[stem] = last.get(stem, 1) + 1
            name = f"{stem}-{last[stem]}"
        used.add(name.lower())
        names.append(name)
    return names


class _PrintedTable:
    """The table for people: a line a face, on stdout."""

    def __init__(self, video: bool) -> None:
        self._video = video
        self._started = False

    def add(self, path: str, faces: Sequence[Face]) -> None:
        if not self._started:
            first = f"{'time':>9} {'track':>5}" if self._video else f"{'face':>4}"
            thing = "video" if self._video else "photo"
            print(f"{first} {'score':>6} {'left':>7} {'top':>7} {'right':>7} {'bottom':>7}  {thing}")
            self._started = True
        for number, face in enumerate(faces):
            first = f"{face.time:>9.3f} {face.track:>5}" if isinstance(face, TrackedFace) else f"{number:>4}"
            print(f"{first} {face.score:>6.3f} " + " ".join(f"{v:>7.1f}" for v in face.box.tolist()) + f"  {path}")
        if not faces and not self._video:
            print(f"{'-':>4} {'-':>6} {'-':>7} {'-':>7} {'-':>7} {'-':>7}  {path}")


def _table(output: str | None, embedding_size: int, video: bool = False) -> Any:
    if output is None:
        return nullcontext(_PrintedTable(video))
    from fergeneral.storage import FaceTable

    target = Path(output)
    partial = target.with_name(f"{target.stem}.partial{target.suffix}")
    return FaceTable(target, embedding_size, video, partial=partial)


def _save_pictures(
    photo: Any, faces: list[Face], name: str, crops: Path | None, drawn: Path | None, extractor: ExpressionExtractor
) -> None:
    from PIL import Image

    from fergeneral.alignment import cut_face
    from fergeneral.drawing import draw_faces
    from fergeneral.images import load_image

    image = load_image(photo)
    if drawn:
        _save(draw_faces(image, faces), drawn / f"{name}.png")
    if crops:
        size, template = extractor.config.crop_size, extractor.config.template
        for number, face in enumerate(faces):
            crop = cut_face(image, face.landmarks, size, template)
            _save(Image.fromarray(crop), crops / f"{name}_{number}.png")


def _save(image: Image.Image, target: Path) -> None:
    from fergeneral.storage import whole_file

    with whole_file(target) as temporary:
        image.save(temporary)


def _probe(options: argparse.Namespace) -> int:
    """Fit a logistic regression on the embeddings of one data set of face crops and read it on another (or on the
    other split of the same). C is chosen on a part of train; the test split is read once."""
    from fergeneral.evaluate import probe_datasets

    print(probe_datasets(_load(options).encoder, options.train, options.test))
    return 0


def _export(options: argparse.Namespace) -> int:
    """Write the encoder with its preprocessing as an ONNX file: "crops" (N, S, S, 3) uint8 RGB in, "embeddings" (N, D)
    float32 out. It is checked against the encoder before it is written; by more than 1e-4 it may not differ.
    With --int8, in 8-bit whole numbers: a folder of weights for --model, whose embeddings have a cosine similarity of
    0.99 or more to those of the encoder on 95 of 100 face crops."""
    from fergeneral.sources import list_photos

    photos = None if options.crops is None else list_photos([options.crops], recursive=True)
    crops = None if photos is None else [photo.read() for photo in photos]
    if crops == []:
        raise DataError(f"no images in {options.crops}")
    if options.onnx:
        from fergeneral.export import export_onnx

        difference = export_onnx(_load(options).encoder, options.onnx, crops)
        print(f"{options.onnx} written; its embeddings differ by at most {difference:.1g}", file=sys.stderr)
    else:
        from fergeneral.int8 import quantize

        reached = quantize(_load(options).encoder, options.int8, crops or [])
        print(f"{options.int8} written; 95 % of the crops reach a cosine similarity of {reached:.4f}", file=sys.stderr)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    """Judge embeddings by every protocol of the package on labelled data sets of face crops, each read in its official
    layout (RAF-DB, FER+, a manifest.csv, or folders named after labels, packed in zip archives or not). Writes
    report.json, report.md and figures. Embeddings are kept, so that a second run takes minutes."""
    from fergeneral.detection import make_detector
    from fergeneral.evaluate.report import MARKDOWN_FILE, evaluate
    from fergeneral.evaluate.tables import main_table
    from fergeneral.extractor import ExpressionExtractor

    second = options.second_detector
    report = evaluate(
        _load(options),
        options.data,
        options.output,
        against=[ExpressionExtractor.from_pretrained(name, device=options.device) for name in options.against],
        peers=options.peers,
        robustness=not options.no_robustness,
        detectors=[make_detector(second)] if second else (),
        cache=options.cache,
    )
    print(main_table(report))
    print(f"the report is in {Path(options.output) / MARKDOWN_FILE}", file=sys.stderr)
    return 0


def _models(options: argparse.Namespace) -> int:
    """List the weights that came with this package, the default first: side of the face crop in pixels, numbers in an
    embedding, what they were trained on."""
    from fergeneral.hub import packaged_models

    configs = packaged_models()
    if not configs:
        print("this installation has no packaged weights")
        return 0
    width = max(len(config.model_id) for config in configs)
    print(f"{'model':<{width}} {'crop':>5} {'embedding':>9}  {'default':<7}  trained on")
    for number, config in enumerate(configs):
        row = f"{config.model_id:<{width}} {config.crop_size:>5} {config.embedding_size:>9}  "
        print(row + f"{'' if number else 'yes':<7}  {', '.join(config.training_data) or '-'}")
    return 0


def _card(options: argparse.Namespace) -> int:
    """Write the model card (README.md, and the LICENSE.md it links to) beside weights. Its numbers come from the
    report of `fergeneral evaluate` and from the training.json that a training run leaves in the folder."""
    from fergeneral.hub import write_card

    print(write_card(options.folder, report=options.report, notes=options.notes))
    return 0


def _info(options: argparse.Namespace) -> int:
    """Show the versions of what matters, the device that would be used, and what the weights say of themselves."""
    import dataclasses
    from importlib.metadata import PackageNotFoundError, version

    extractor = _load(options)
    print(f"{'fergeneral':<18} {__version__}")
    for package in ("torch", "torchvision", "timm", "facenet-pytorch", "huggingface_hub", "pillow", "numpy"):
        try:
            print(f"{package:<18} {version(package)}")
        except PackageNotFoundError:
            print(f"{package:<18} not installed")
    print(f"{'device':<18} {extractor.encoder.device}")
    for name, value in dataclasses.asdict(extractor.config).items():
        print(f"{name:<18} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
