"""The command line: parse, check what was given, call the library, print, return an exit code (see EXIT_CODES)."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fergeneral import __version__
from fergeneral.cli import predict
from fergeneral.console import JsonLines, PrintedTable, counted, printable, say
from fergeneral.errors import DataError, FergeneralError, ImageError, positive_integer
from fergeneral.types import DETECTORS

if TYPE_CHECKING:
    from PIL import Image

    from fergeneral.classifier import ExpressionClassifier
    from fergeneral.extractor import ExpressionExtractor
    from fergeneral.jobs import FileResult, Summary
    from fergeneral.sources import Source
    from fergeneral.timeline import Timeline
    from fergeneral.types import Face

_VIDEO_SUFFIXES = {".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"}
_VIDEO_SUFFIXES |= {".wmv", ".flv", ".ogv", ".mxf"}

EXIT_CODES = (
    "exit status: 0 success; 1 something failed, such as a photo that cannot be read; 2 wrong usage: an option or a "
    "path was refused before any work; 130 interrupted by Ctrl-C"
)
_RAY_OPTIONS = ("address", "num_workers", "num_cpus", "num_gpus")
_LOSSLESS = {".png", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}  # photos that --draw saves as PNG
_MOST_JPEG = 65_500  # pixels a side, by libjpeg

_MODEL_HELP = "packaged name, folder or Hub repository (default: packaged)"


class _UsageError(DataError):
    """The command was refused before any work."""


@contextmanager
def _usage() -> Iterator[None]:
    """What is refused here is for the user to change, before any work is done."""
    try:
        yield
    except DataError as error:
        raise _UsageError(str(error)) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the entry point of `fergeneral`."""
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of faults in metadata
            return int(options.run(options))
    except FergeneralError as error:
        say(f"error: {error}")
        return 2 if isinstance(error, _UsageError) else 1
    except KeyboardInterrupt as interrupt:
        say("; ".join(["interrupted", *getattr(interrupt, "__notes__", [])]))
        return 130
    except BrokenPipeError:  # the reader of our output went away: no fault of ours
        sys.stderr.close()
        return 1
    except OSError as error:  # a full disk, a folder that may not be written to
        say(f"error: {error}")
        return 1


def _parser() -> argparse.ArgumentParser:
    from fergeneral.cli import completion, demo, similar

    parser = argparse.ArgumentParser(
        prog="fergeneral", description="Expressions of the faces in photos, and their embeddings.", epilog=EXIT_CODES
    )
    parser.add_argument("--version", action="version", version=f"fergeneral {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    extract = commands.add_parser("extract", help="embed every face in photos", description=_extract.__doc__)
    _add_photo_options(extract)
    extract.set_defaults(head=None, min_confidence=0.0)
    named = commands.add_parser(
        "predict", help="name the expression of every face in photos", description=predict.DESCRIPTION
    )
    _add_photo_options(named)
    predict.add_head_options(named)
    named.set_defaults(fps=None, plot=None)

    video = commands.add_parser("video", help="embed and follow every face in videos", description=_video.__doc__)
    video.add_argument("paths", nargs="+", metavar="PATH", help="video files, or folders of them")
    video.add_argument("-o", "--output", metavar="FILE", help="table to write: .parquet, .csv or .npz")
    video.add_argument(
        "--fps",
        type=_positive_number,
        metavar="N",
        help="about N frames of each second (default: all). To follow faces, at least ten frames of each second are "
        "searched for them whatever N is: a smaller N saves the time to embed them, not the time to find them",
    )
    video.add_argument("--recursive", action="store_true", help="also look into folders inside folders")
    _add_json_option(video, "print one JSON object for each face, with its embedding, on a line of its own")
    _add_overwrite_option(video)
    _add_detector_option(video)
    video.add_argument("--batch-size", type=_positive, default=32, metavar="N", help="frames at once (default 32)")
    predict.add_head_options(video, optional=True)
    video.add_argument(
        "--plot",
        metavar="FILE",
        help="figure to draw of the expressions of each track over time, as .png, .pdf or .svg (needs "
        "fergeneral[eval]); with the default head, if --head is not given",
    )
    _add_model_options(video)
    video.set_defaults(run=_video)

    probe = commands.add_parser("probe", help="judge embeddings by a linear probe", description=_probe.__doc__)
    probe.add_argument("--train", required=True, metavar="DIR", help="data set to fit on (its train split)")
    probe.add_argument("--test", required=True, metavar="DIR", help="data set to read (its test split)")
    _add_json_option(probe, "print the result as one JSON object")
    _add_model_options(probe)
    probe.set_defaults(run=_probe)

    from fergeneral.cli.fit import add_fit_parser
    from fergeneral.cli.groups import add_group_options

    add_fit_parser(commands)

    evaluate = commands.add_parser(
        "evaluate", help="write a report on embeddings, or a head", description=_evaluate.__doc__
    )
    evaluate.add_argument("data", nargs="*", metavar="DATA", help="folders of labelled face crops")
    evaluate.add_argument("-o", "--output", required=True, metavar="DIR", help="folder for the report")
    evaluate.add_argument(
        "--against", action="append", default=[], metavar="NAME", help="other weights to compare with (may be repeated)"
    )
    evaluate.add_argument("--peers", metavar="DIR", help="other systems' embeddings: .npz with path and embedding")
    evaluate.add_argument(
        "--no-robustness",
        action="store_true",
        help="leave out the worse conditions, or with --head finding faces again (much quicker)",
    )
    evaluate.add_argument(
        "--second-detector",
        choices=list(DETECTORS)[1:],
        help="also find the faces again with it (yunet needs fergeneral[yunet])",
    )
    evaluate.add_argument("--head", metavar="NAME", help="judge this head instead: packaged, a folder, or on the Hub")
    evaluate.add_argument(
        "--photos", action="append", default=[], metavar="DATA", help="with --head: labelled photos (may be repeated)"
    )
    evaluate.add_argument("--cache", metavar="DIR", help="where embeddings are kept (default: the user's cache)")
    add_group_options(evaluate)
    _add_detector_option(evaluate)
    _add_overwrite_option(evaluate)
    _add_model_options(evaluate)
    evaluate.set_defaults(run=_evaluate)

    similar.add_parser(commands)
    demo.add_parser(commands)

    export = commands.add_parser(
        "export", help="write the encoder as an ONNX file, or int8-quantized", description=_export.__doc__
    )
    form = export.add_mutually_exclusive_group(required=True)
    form.add_argument("--onnx", metavar="FILE", help="file to write, for any ONNX runtime")
    form.add_argument("--int8", metavar="DIR", help="folder to write, for --model DIR: about 3 times faster on CPUs")
    export.add_argument(
        "--crops", metavar="DIR", help="folder of face crops: to check on; --int8 must have some hundreds"
    )
    _add_overwrite_option(export)
    export.add_argument("--model", metavar="NAME", help=_MODEL_HELP)
    export.add_argument("--revision", help="commit, tag or branch of a Hub repository")
    export.set_defaults(run=_export, device="cpu")

    models = commands.add_parser("models", help="list the packaged weights", description=_models.__doc__)
    _add_json_option(models, "print a JSON array of all that the weights say of themselves")
    models.set_defaults(run=_models)
    card = commands.add_parser("card", help="write the model card beside weights", description=_card.__doc__)
    card.add_argument("folder", metavar="FOLDER", help="folder of model.safetensors and config.json")
    card.add_argument("--report", metavar="FILE", help="report.json of these weights, for the results")
    card.add_argument("--notes", metavar="FILE", help="Markdown file of known failure modes; its pictures come along")
    _add_overwrite_option(card)
    card.set_defaults(run=_card)
    info = commands.add_parser("info", help="show versions, devices and weights", description=_info.__doc__)
    _add_json_option(info, "print it as one JSON object")
    info.add_argument(
        "--terms",
        nargs="?",
        const="",
        metavar="NAME",
        help="show the terms and the provenance of an encoder or a head instead: packaged name, ENCODER/HEAD or folder "
        "(default: the packaged encoder)",
    )
    _add_model_options(info)
    info.set_defaults(run=_info)
    completion.add_parser(commands)
    for command in commands.choices.values():
        command.epilog = EXIT_CODES
    return parser


def _add_photo_options(parser: argparse.ArgumentParser) -> None:
    """Of `extract` and `predict`."""
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="photos, folders of photos, .tar archives, or .parquet files of images"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE|DIR/",
        help="table to write: .parquet, .csv or .npz; or, for a job that can be interrupted and resumed, a folder of "
        "Parquet tables: a name without a suffix or with a / at the end, or a folder that is there",
    )
    parser.add_argument(
        "--shard-rows", type=_positive, metavar="N", help="photos in each of a folder's tables (default 10000)"
    )
    parser.add_argument("--resume", action="store_true", help="continue the job in the folder, if there is one")
    parser.add_argument(
        "--extend",
        action="store_true",
        help="with --resume: the paths may be others than the job's; new photos are added, rows that are there stay",
    )
    parser.add_argument(
        "--retry-errors", action="store_true", help="with --resume: also read the photos again that could not be read"
    )
    parser.add_argument("--recursive", action="store_true", help="also look into folders inside folders")
    parser.add_argument("--save-crops", metavar="DIR", help="save every aligned face crop there, as PNG")
    parser.add_argument(
        "--draw",
        metavar="DIR",
        help="save every photo there with boxes, landmarks, and scores or expressions: a PNG, BMP, GIF, TIFF or PPM as "
        "PNG, any other as JPEG",
    )
    parser.add_argument("--list-empty", action="store_true", help="name every photo without a face on stderr")
    _add_json_option(parser, "print one JSON object for each face, with its embedding, on a line of its own")
    _add_overwrite_option(parser)
    _add_detector_option(parser)
    parser.add_argument("--batch-size", type=_positive, default=32, metavar="N", help="photos at once (default 32)")
    parser.add_argument("--column", metavar="NAME", help="of images in .parquet files (default: image, jpg, ...)")
    _add_model_options(parser)
    _add_engine_options(parser)
    parser.set_defaults(run=_extract)


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("on many machines, into a folder that they share (needs fergeneral[ray])")
    group.add_argument("--engine", choices=("local", "ray"), default="local", help="who does the work (default: local)")
    group.add_argument("--address", metavar="ADDRESS", help="of the Ray cluster, or auto (default: one just for this)")
    group.add_argument("--num-workers", type=_positive, metavar="N", help="default: as many as there is room for")
    group.add_argument("--num-cpus", type=_positive, metavar="N", help="for each worker (default 1)")
    group.add_argument(
        "--num-gpus", type=_positive_number, metavar="N", help="for each worker, also 0.5 (default 0: on the CPU)"
    )


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="NAME", help=_MODEL_HELP)
    parser.add_argument("--revision", help="commit, tag or branch of a Hub repository")
    parser.add_argument("--device", type=_device, help="cpu, cuda, cuda:N or mps (default: the best there is)")


def _add_detector_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--detector",
        choices=list(DETECTORS),
        default=next(iter(DETECTORS)),
        help="yunet is faster and needs fergeneral[yunet]",
    )
    parser.add_argument(
        "--min-face-size",
        type=_face_size,
        metavar="N",
        help="shorter side, in pixels of the photo, of the smallest face looked for (default: 40, or sqrt(width * "
        "height) / 48 where that is more: 102 in 6000 x 4000); half of it takes up to four times as long",
    )


def _add_json_option(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--json", action="store_true", help=text)


def _add_overwrite_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there (default: refuse to)")


def _device(text: str) -> str:
    """A name that torch gives to a device, whether that is there or not."""
    if not re.fullmatch(r"(cpu|cuda|mps)(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"must be cpu, cuda, cuda:N or mps, got {text!r}")
    return text


def _positive(text: str) -> int:
    """A positive integer."""
    try:
        return positive_integer(int(text), "it")
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}") from None


def _face_size(text: str) -> int:
    """Pixels; MTCNN's first network sees 12."""
    value = _positive(text)
    if value < 12:
        raise argparse.ArgumentTypeError(f"must be 12 or more, got {text!r}")
    return value


def _positive_number(text: str) -> float:
    """More than 0, and finite."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number more than 0, got {text!r}")
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


def _load_both(options: argparse.Namespace) -> tuple[ExpressionExtractor, ExpressionClassifier | None]:
    """The extractor, and the classifier that it is in, if a head was asked for."""
    classifier = predict.load_classifier(options)
    return (classifier.extractor, classifier) if classifier else (_load(options, options.detector), None)


def _extract(options: argparse.Namespace) -> int:
    """Find, align and embed every face in photos: one row a face, largest first. Without -o, a table without the
    embeddings is printed. A photo that cannot be read is reported and skipped; the exit status is then 1. Inputs are
    never written to, and files that are there are kept unless --overwrite is given. Ctrl-C leaves the faces found so
    far in a table of their own, as faces.partial.parquet; the exit status is then 130."""
    if options.head is not None and all(map(_is_video, options.paths)):
        return _video(options)
    with _usage():
        _check_combination(options)
        photos = _list(options)
        if _is_folder(options.output):
            from fergeneral.jobs import check_output

            paths = None if options.extend else [photo.path for photo in photos]
            check_output(options.output, resume=options.resume, paths=paths)
        names = _check_pictures(options, photos) if options.draw or options.save_crops else []
        _check_table(options.output, map(_file_of, photos), options.overwrite)
    if _is_folder(options.output):
        return _extract_on_ray(options, photos) if options.engine == "ray" else _extract_job(options, photos)
    from tqdm import tqdm

    extractor, classifier = _load_both(options)
    crops_dir, draw_dir = _folder(options.save_crops), _folder(options.draw)
    failures: dict[int, ImageError] = {}
    found_faces = empty = 0
    with _table(options, extractor, classifier) as table:
        images = (photo.read() for photo in photos)
        find = classifier.predict_many if classifier else extractor.extract_many
        found = find(images, batch_size=options.batch_size, on_error=failures.__setitem__)
        for number, faces in enumerate(
            tqdm(found, _verb(options), len(photos), unit="photo", file=sys.stderr, disable=_no_bar(options))
        ):
            photo = photos[number]
            if number in failures:
                _say_skipped(options, photo.path, failures[number])
                continue
            found_faces += len(faces)
            empty += not faces
            if options.list_empty and not faces:
                say(f"no face: {photo.path}")
            table.add(photo.path, faces)
            if names:
                _save_pictures(photo, faces, names[number], crops_dir, draw_dir, extractor)
        good = len(photos) - len(failures)
        if options.output and not good:
            raise DataError(f"none of {counted(len(photos), 'photo')} could be read; {options.output} is not written")
    say(_outcome(found_faces, good, empty, len(failures)))
    return 1 if failures else 0


def _check_combination(options: argparse.Namespace) -> None:
    """Refuse options of `extract` that do not go together."""
    of_ray = [f"--{name.replace('_', '-')}" for name in _RAY_OPTIONS if getattr(options, name) is not None]
    if of_ray and options.engine != "ray":
        raise DataError(f"{of_ray[0]} is for --engine ray")
    if options.json and options.output:
        raise DataError("--json prints the faces, -o writes them to a table: give one of them")
    if not _is_folder(options.output):
        if options.resume or options.extend or options.retry_errors or options.shard_rows or options.engine == "ray":
            raise DataError(
                "--resume, --extend, --retry-errors, --shard-rows and --engine ray want a folder to write to: -o NAME/"
            )
        return
    if options.draw or options.save_crops:
        raise DataError("--draw and --save-crops do not go with a folder of tables (-o): run them by themselves")
    if options.list_empty:
        raise DataError(f"--list-empty does not go with a folder of tables: those in {options.output}/files have them")
    if options.overwrite:
        raise DataError("--overwrite is for files; a job is never replaced: name another folder, or add --resume")
    if (options.extend or options.retry_errors) and not options.resume:
        raise DataError("--extend and --retry-errors go with --resume")
    if options.device and options.engine == "ray":
        raise DataError("--device does not go with --engine ray: workers run on the CPU, or on CUDA with --num-gpus")


def _check_pictures(options: argparse.Namespace, photos: Sequence[Source]) -> list[str]:
    """Refuse folders for pictures where these would be read next time, or would replace others.

    Returns the name of each photo's pictures, without suffix.
    """
    from fergeneral.outputs import check_apart, check_folder, check_names_free, check_no_input_in

    if options.draw and options.save_crops and os.path.realpath(options.draw) == os.path.realpath(options.save_crops):
        raise DataError("--draw and --save-crops must name two folders")
    names = _unique_names(photos)
    taken = {name.lower() for name in names}
    for name, number in ((options.draw, ""), (options.save_crops, r"_\d+")):
        if name is not None:
            folder = Path(name)
            picture = re.compile(rf"(.*){number}\.(png|jpe?g)", re.IGNORECASE | re.DOTALL)
            check_folder(folder)
            check_apart(folder, options.paths, recursive=options.recursive)
            check_no_input_in(folder, map(_file_of, photos))
            check_names_free(folder, picture, taken, overwrite=options.overwrite)
    return names


def _check_table(output: str | None, inputs: Iterable[str], overwrite: bool) -> None:
    """Refuse a table that could not be written or would replace a file."""
    if output is not None and not _is_folder(output):
        from fergeneral.outputs import check_file
        from fergeneral.storage import check_table

        check_table(Path(output))
        check_file(Path(output), inputs, overwrite=overwrite)


def _file_of(photo: Source) -> str:
    """The file that a photo is, or is in."""
    return str(getattr(photo, "file", photo.path))


def _verb(options: argparse.Namespace) -> str:
    return "extract" if options.head is None else "predict"


def _say_skipped(options: argparse.Namespace, path: str, error: object) -> None:
    command = f"fergeneral {'video' if options.head is None else 'predict'} {path}"
    hint = f"; for videos there is: {command}" if _is_video(path) else ""
    say(f"skipped: {error}{hint}")


def _no_bar(options: argparse.Namespace) -> bool | None:
    """For tqdm's `disable`: rows on a terminal would run into the bar. None: there is one if stderr is a terminal."""
    return True if options.output is None and sys.stdout.isatty() else None


def _outcome(faces: int, good: int, empty: int, unreadable: int) -> str:
    return f"{counted(faces, 'face')} in {counted(good, 'photo')}, {empty} without a face, {unreadable} unreadable"


def _video(options: argparse.Namespace) -> int:
    """Find, follow and embed every face in the frames of videos: one row a face and frame, with its time in seconds and
    its track, a number that one person keeps within a video; with --head, also with its expression. Without -o, a table
    without the embeddings is printed.
    A frame that is corrupt, and a video that cannot be read, is reported and skipped; the exit status is then 1."""
    with _usage():
        if options.json and options.output:
            raise DataError("--json prints the faces, -o writes them to a table: give one of them")
        if _is_folder(options.output):
            raise DataError(f"{options.output} is a folder; for videos name a table: .parquet, .csv or .npz")
        predict.check_video_options(options)
        videos = _list_videos(options)
        _check_table(options.output, map(str, videos), options.overwrite)
        timeline = _timeline(options, videos)
    from tqdm import tqdm

    extractor, classifier = _load_both(options)
    find = classifier.predict_video if classifier else extractor.extract_video
    frames = faces = empty = damaged = unreadable = 0
    video = Path()

    def report(time: float, error: ImageError) -> None:
        nonlocal damaged
        damaged += 1
        say(f"skipped: {error}")
        if timeline is not None:
            timeline.add(str(video), time, [])

    with _table(options, extractor, classifier, video=True) as table:
        for video in videos:
            found = find(video, fps=options.fps, batch_size=options.batch_size, on_error=report)
            title = printable(video.name, sys.stderr)
            try:
                for frame in tqdm(found, title, unit="frame", file=sys.stderr, disable=_no_bar(options)):
                    frames += 1
                    faces += len(frame.faces)
                    empty += not frame.faces
                    table.add(str(video), frame.faces)
                    if timeline is not None:
                        timeline.add(str(video), frame.time, frame.faces)
            except ImageError as error:
                unreadable += 1
                say(f"skipped: {error}")
        if options.output and not frames:
            raise DataError(
                f"no frame of {counted(len(videos), 'video')} could be read; {options.output} is not written"
            )
    say(
        f"{counted(faces, 'face')} in {counted(frames, 'frame')} of {counted(len(videos) - unreadable, 'video')}, "
        f"{counted(empty, 'frame')} without a face, {counted(damaged, 'damaged frame')}, {unreadable} unreadable"
    )
    if timeline is not None and faces:
        timeline.draw(options.plot)
    elif timeline is not None:
        say(f"no face to draw; {options.plot} is not written")
    return 1 if damaged or unreadable else 0


def _timeline(options: argparse.Namespace, videos: Sequence[Path]) -> Timeline | None:
    """What --plot draws on; None without it. Raises DataError for a file that could not be drawn."""
    if options.plot is None:
        return None
    from fergeneral.outputs import check_file
    from fergeneral.timeline import Timeline, check_figure

    check_figure(Path(options.plot))
    check_file(Path(options.plot), map(str, videos), overwrite=options.overwrite)
    return Timeline()


def _is_folder(output: str | None) -> bool:
    """Whether -o names a folder for a job, and not a table."""
    return output is not None and (output.endswith(("/", os.sep)) or not Path(output).suffix or Path(output).is_dir())


def _list(options: argparse.Namespace) -> list[Source]:
    """The photos of `extract`. Raises DataError for paths that are not there or hold none."""
    from fergeneral.sources import list_photos

    skipped: Counter[str] = Counter()
    photos = list_photos(
        options.paths,
        recursive=options.recursive,
        column=options.column,
        on_skip=lambda path: skipped.update([Path(path).suffix.lower() or "no suffix"]),
    )
    if all(map(_is_video, options.paths)) or (not photos and any(_videos(options.paths, options.recursive))):
        command = "fergeneral video" + ("" if options.head is None else " with --head")
        raise DataError(f"no photos in {', '.join(options.paths)}, but videos: use {command}")
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in skipped.most_common())
    left_out = f"{counted(skipped.total(), 'file')} left out, not images by their suffix: {kinds}"
    if not photos:
        why = f" ({left_out})" if skipped else ""
        raise DataError(
            f"no photos in {', '.join(options.paths)}{why}; --recursive also looks into folders inside; .tar and "
            f".parquet files are named one by one (FOLDER/*.tar)"
        )
    if skipped:
        say(left_out)
    return photos


def _list_videos(options: argparse.Namespace) -> list[Path]:
    """The videos of `video`. Raises DataError for paths that are not there or hold none."""
    from fergeneral.images import IMAGE_SUFFIXES
    from fergeneral.sources import check_paths

    check_paths(options.paths)
    videos = list(_videos(options.paths, options.recursive))
    if all(video.suffix.lower() in IMAGE_SUFFIXES - {".gif"} for video in videos):
        raise DataError(
            f"no videos in {', '.join(options.paths)}; --recursive also looks into folders inside; for photos use "
            f"fergeneral extract"
        )
    return videos


def _extract_job(options: argparse.Namespace, photos: list[Source]) -> int:
    """`extract` into a folder of shards."""
    from tqdm import tqdm

    from fergeneral.jobs import SHARD_ROWS, run_job

    extractor, classifier = _load_both(options)
    with tqdm(desc=_verb(options), total=len(photos), unit="photo", file=sys.stderr, disable=None) as bar:

        def show(result: FileResult, done: int, total: int) -> None:
            bar.update(done - bar.n)
            if result.error is not None:
                _say_skipped(options, result.path, result.error)

        try:
            totals = run_job(
                classifier or extractor,
                photos,
                options.output,
                shard_rows=options.shard_rows or SHARD_ROWS,
                resume=options.resume,
                extend=options.extend,
                retry_errors=options.retry_errors,
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

    with tqdm(desc=_verb(options), total=len(photos), unit="photo", file=sys.stderr, disable=None) as bar:
        try:
            totals = extract_dataset(
                photos,
                options.output,
                model=options.model,
                revision=options.revision,
                detector=options.detector,
                min_face_size=options.min_face_size,
                head=predict.head_name(options),
                min_confidence=options.min_confidence,
                shard_rows=options.shard_rows or SHARD_ROWS,
                resume=options.resume,
                extend=options.extend,
                retry_errors=options.retry_errors,
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
    say(f"interrupted; what is done is kept in {options.output}: resume with --resume")
    return 130


def _finished(totals: Summary) -> int:
    say(_outcome(totals.faces, totals.photos - totals.unreadable, totals.without_face, totals.unreadable))
    return 1 if totals.unreadable else 0


def _videos(paths: Sequence[str], recursive: bool) -> Iterator[Path]:
    """Files as given, and the videos in folders by suffix, in the order of their names."""
    from fergeneral.sources import files_in

    for path in paths:
        inside = files_in(path, _VIDEO_SUFFIXES, recursive=recursive) if os.path.isdir(path) else [path]
        yield from map(Path, inside)


def _is_video(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in _VIDEO_SUFFIXES and not os.path.isdir(path)


def _folder(text: str | None) -> Path | None:
    from fergeneral.storage import make_folder

    return None if text is None else make_folder(text)


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


def _table(
    options: argparse.Namespace,
    extractor: ExpressionExtractor,
    classifier: ExpressionClassifier | None,
    video: bool = False,
) -> Any:
    """Something with `add(path, faces)`, in a `with` block."""
    classes = classifier.classes if classifier else None
    if options.output is None:
        return nullcontext(JsonLines() if options.json else PrintedTable(video, classes))
    from fergeneral.outputs import free_name
    from fergeneral.storage import FaceTable

    target = Path(options.output)
    partial = free_name(target.with_name(f"{target.stem}.partial{target.suffix}"))
    return FaceTable(target, extractor.config.embedding_size, video, classes=classes, partial=partial)


def _save_pictures(
    photo: Source, faces: list[Face], name: str, crops: Path | None, drawn: Path | None, extractor: ExpressionExtractor
) -> None:
    from PIL import Image

    from fergeneral.alignment import cut_face
    from fergeneral.drawing import draw_faces
    from fergeneral.images import load_image

    image = load_image(photo.read())
    if drawn:
        lossless = Path(photo.path).suffix.lower() in _LOSSLESS or max(image.size) > _MOST_JPEG
        _save(draw_faces(image, faces), drawn / f"{name}{'.png' if lossless else '.jpg'}")
    if crops:
        size, template = extractor.config.crop_size, extractor.config.template
        for number, face in enumerate(faces):
            crop = cut_face(image, face.landmarks, size, template)
            _save(Image.fromarray(crop), crops / f"{name}_{number}.png")


def _save(image: Image.Image, target: Path) -> None:
    from fergeneral.storage import whole_file

    with whole_file(target) as temporary:
        image.save(temporary, quality=90)  # of a JPEG; PNG has no such option


def _probe(options: argparse.Namespace) -> int:
    """Train a logistic regression on the embeddings of one data set of face crops and evaluate it on another (or on the
    other split of the same). C is chosen on a part of train; the test split is read once."""
    _check_inputs(options.train, options.test)
    from fergeneral.evaluate import probe_datasets

    result = probe_datasets(_load(options).encoder, options.train, options.test)
    print(json.dumps(result.to_dict(), indent=2) if options.json else result)
    return 0


def _check_inputs(*paths: str | None) -> None:
    """Refuse paths that are not there."""
    from fergeneral.sources import check_paths

    with _usage():
        check_paths(path for path in paths if path is not None)


def _export(options: argparse.Namespace) -> int:
    """Write the encoder with its preprocessing as an ONNX file: "crops" (N, S, S, 3) uint8 RGB in, "embeddings" (N, D)
    float32 out. It is checked against the encoder before it is written; by more than 1e-4 it may not differ.
    With --int8, int8-quantized: a folder of weights for --model, whose embeddings have a cosine similarity of 0.99 or
    more to those of the encoder on 95 of 100 face crops."""
    from fergeneral.sources import list_photos

    with _usage():
        photos = None if options.crops is None else list_photos([options.crops], recursive=True)
        if photos == []:
            raise DataError(f"no images in {options.crops}")
        _check_export(options, photos or [])
    crops = None if photos is None else [photo.read() for photo in photos]
    if options.onnx:
        from fergeneral.export import export_onnx

        difference = export_onnx(_load(options).encoder, options.onnx, crops)
        say(f"{options.onnx} written; its embeddings differ by at most {difference:.1g}")
    else:
        from fergeneral.int8 import quantize

        reached = quantize(_load(options).encoder, options.int8, crops or [])
        say(f"{options.int8} written; 95 % of the crops reach a cosine similarity of {reached:.4f}")
    return 0


def _check_export(options: argparse.Namespace, photos: Sequence[Source]) -> None:
    """Refuse to write over weights or crops that are read, over other weights, and, but for --overwrite, over files."""
    from fergeneral.outputs import check_file, check_folder

    inputs = list(map(_file_of, photos))
    if options.model and os.path.isdir(options.model):
        inputs += [entry.path for entry in os.scandir(options.model)]
    if options.onnx:
        check_file(Path(options.onnx), inputs, overwrite=options.overwrite)
        return
    from fergeneral.hub import CONFIG_FILE, INT8_FILE, WEIGHTS_FILE

    folder = Path(options.int8)
    check_folder(folder)
    if (folder / WEIGHTS_FILE).exists():
        raise DataError(f"{folder} holds other weights, {WEIGHTS_FILE}: name another folder")
    for name in (INT8_FILE, CONFIG_FILE):
        if folder.is_dir():
            check_file(folder / name, inputs, overwrite=options.overwrite)


def _evaluate(options: argparse.Namespace) -> int:
    """Judge embeddings by every protocol of the package on labelled data sets of face crops, each read in its official
    layout (RAF-DB, FER+, a manifest.csv, or folders named after labels, packed in zip archives or not). Writes
    report.json, report.md and figures. Embeddings are kept, so that a second run takes minutes.
    With --head, a head's predictions are judged instead, and head.json and head.md written.
    With --groups, it is measured by group, on photos of any people, how often a face is found, how steady its landmarks
    are, and what the head (by default expressions-8) says of it; groups.json, groups.md and figures are written. Do so
    with photos of your own population before use."""
    _check_inputs(*options.data, *options.photos, options.peers, options.groups)
    with _usage():
        from fergeneral.cli import groups
        from fergeneral.outputs import check_apart, check_empty, check_folder

        groups.check_options(options)
        if options.head is None and options.photos:
            raise DataError("--photos goes with --head: a report on embeddings reads face crops")
        if options.head is not None and (options.against or options.peers):
            raise DataError("--against and --peers do not go with --head")
        if options.head is not None and options.groups is None and options.second_detector:
            raise DataError("--second-detector does not go with --head, but for --groups")
        if not options.data and not options.photos and options.groups is None:
            raise DataError("no data set given: DATA is a folder of labelled face crops")
        folder = Path(options.output)
        check_folder(folder)
        check_apart(folder, [*options.data, *options.photos], recursive=True)
        check_empty(folder, overwrite=options.overwrite)
    if options.groups is not None:
        return groups.evaluate(options, _load_head(options))
    if options.head is not None:
        return _evaluate_head(options, folder)
    from fergeneral.detection import make_detector
    from fergeneral.evaluate.report import MARKDOWN_FILE, evaluate
    from fergeneral.evaluate.tables import main_table
    from fergeneral.extractor import ExpressionExtractor

    second = options.second_detector
    report = evaluate(
        _load(options, options.detector),
        options.data,
        options.output,
        against=[ExpressionExtractor.from_pretrained(name, device=options.device) for name in options.against],
        peers=options.peers,
        robustness=not options.no_robustness,
        detectors=[make_detector(second)] if second else (),
        cache=options.cache,
    )
    print(main_table(report))
    say(f"the report is in {folder / MARKDOWN_FILE}")
    return 0


def _evaluate_head(options: argparse.Namespace, folder: Path) -> int:
    from fergeneral.evaluate import evaluate_head
    from fergeneral.evaluate.heads import HEAD_MARKDOWN_FILE
    from fergeneral.evaluate.tables import head_table

    figures = evaluate_head(
        _load_head(options),
        options.data,
        folder,
        photos=options.photos,
        end_to_end=not options.no_robustness,
        cache=options.cache,
    )
    print(head_table(figures))
    say(f"the report is in {folder / HEAD_MARKDOWN_FILE}")
    return 0


def _load_head(options: argparse.Namespace) -> ExpressionClassifier:
    """The head that `evaluate` judges, with its encoder and detector."""
    from fergeneral.classifier import ExpressionClassifier

    if options.model:
        return ExpressionClassifier.from_pretrained(options.head, encoder=_load(options, options.detector))
    return ExpressionClassifier.from_pretrained(  # the packaged encoder that the head names
        options.head,
        device=options.device,
        revision=options.revision,
        detector=options.detector,
        min_face_size=options.min_face_size,
    )


def _models(options: argparse.Namespace) -> int:
    """List the weights that came with this package, the default first: side of the face crop in pixels, numbers in an
    embedding, what they were trained on, and the heads that there are for them."""
    import dataclasses

    from fergeneral.heads import list_heads
    from fergeneral.hub import packaged_models

    configs = packaged_models()
    heads = {config.model_id: list_heads(config.model_id) for config in configs}
    if options.json:
        rows = [{**dataclasses.asdict(config), "heads": heads[config.model_id]} for config in configs]
        print(json.dumps(rows, indent=2))
        return 0
    if not configs:
        print("this installation has no packaged weights")
        return 0
    width = max(len(config.model_id) for config in configs)
    print(f"{'model':<{width}} {'crop':>5} {'embedding':>9}  {'default':<7}  trained on")
    for number, config in enumerate(configs):
        row = f"{config.model_id:<{width}} {config.crop_size:>5} {config.embedding_size:>9}  "
        print(row + f"{'' if number else 'yes':<7}  {', '.join(config.training_data) or '-'}")
        if heads[config.model_id]:
            print(f"{'':<{width}} heads: {', '.join(heads[config.model_id])}")
    return 0


def _card(options: argparse.Namespace) -> int:
    """Write the model card (README.md, and the LICENSE.md it links to) beside weights. Its numbers come from the
    report of `fergeneral evaluate` and from the training.json that a training run leaves in the folder. A card that is
    there is kept unless --overwrite is given: you may have written in it."""
    _check_inputs(options.folder, options.report, options.notes)
    from fergeneral.hub import card_files, write_card
    from fergeneral.outputs import check_file

    inputs = [path for path in (options.report, options.notes) if path]
    with _usage():
        for file in card_files(options.folder, options.notes):
            if file.parent.is_dir():
                check_file(file, inputs, overwrite=options.overwrite)
    card = write_card(options.folder, report=options.report, notes=options.notes)
    print(printable(str(card), sys.stdout))
    return 0


def _info(options: argparse.Namespace) -> int:
    """Show the versions of what matters, the device that would be used, and what the weights say of themselves."""
    import dataclasses
    from importlib.metadata import PackageNotFoundError, version

    if options.terms is not None:
        return _terms(options)
    extractor = _load(options)
    versions: dict[str, str | None] = {"fergeneral": __version__}
    for package in ("torch", "torchvision", "timm", "facenet-pytorch", "huggingface_hub", "pillow", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    device, config = str(extractor.encoder.device), dataclasses.asdict(extractor.config)
    if options.json:
        print(json.dumps({"versions": versions, "device": device, "weights": config}, indent=2))
        return 0
    for package, number in versions.items():
        print(f"{package:<18} {number or 'not installed'}")
    for name, value in {"device": device, **config}.items():
        print(f"{name:<18} {value}")
    return 0


def _terms(options: argparse.Namespace) -> int:
    from fergeneral.terms import terms_of

    with _usage():
        if options.model or options.revision or options.device:
            raise DataError("--terms takes the name itself: leave out --model, --revision and --device")
    terms = terms_of(options.terms or None)
    if options.json:
        print(json.dumps(terms.to_dict(), indent=2))
        return 0
    for line in str(terms).split("\n"):
        print(printable(line, sys.stdout))
    return 0
