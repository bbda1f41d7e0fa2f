"""The commands of the laboratory: python -m unioncam_lab COMMAND, or unioncam COMMAND. `--help` lists them."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from unioncam_lab import literal

# A command imports what it needs when it runs, so that --help answers at once.


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, without the usage before it."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def run_command(
    out: Path, protocol: Sequence[str], elsewhere: bool, workers: int | None, scheduler: str | None, **options
) -> int:
    from dataclasses import fields

    from unioncam_lab.classifiers import LabProtocol
    from unioncam_lab.experiment import Setup, run

    chosen = {name: literal(value) for name, _, value in (setting.partition("=") for setting in protocol)}
    known = [field.name for field in fields(LabProtocol)]
    if unknown := [name for name in chosen if name not in known]:
        raise ValueError(f"The protocol has no option {unknown[0]!r}; it has {', '.join(known)}.")
    given = {name: value for name, value in options.items() if value is not None}
    setup = Setup(protocol=LabProtocol(**chosen), **given)
    made = run(setup, out=out, runner=_runner(workers, scheduler), elsewhere=elsewhere)
    print(f"{made.records['image'].nunique() if len(made.records) else 0} images are in {out / 'records.parquet'}.")
    skipped = made.info["skipped"]
    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}")
    if made.records.empty:
        name, reason = next(iter(skipped.items()))
        every = f"Every picture was skipped, {len(skipped)} in all; the first is {name}: {reason}"
        print(f"unioncam run: {every}", file=sys.stderr)
        return 1
    return 0


def _runner(workers: int | None, scheduler: str | None):
    """Return what computes a run: the workers that the command line asks for, or None."""
    if workers is None and scheduler is None:
        return None
    try:
        from unioncam_lab.cluster import runner
    except ModuleNotFoundError as error:
        raise RuntimeError(f"Workers need the package {error.name}: pip install -e '.[cluster]'") from error
    return runner(workers, scheduler)


def paper_command(
    workers: int | None, scheduler: str | None, precision: str | None, imagenet: str, voc: str, **options
) -> int:
    from unioncam_lab import paper

    options |= {"precision": precision} if precision else {}
    if runner := _runner(workers, scheduler):
        options |= {"runner": runner, "workers": workers or paper.count_workers(scheduler)}
    ended = paper.reproduce(imagenet or None, voc or None, **options)
    out, failed = options["out"], [each for each in ended if each.error]
    print(f"\n  read    {out / 'notebooks' / 'index.html'}")
    print(f"  tables  {out / 'report.md'}, the published numbers beside ours")
    for each in failed:
        print(f"{each.name} {each.error}", file=sys.stderr)
    return 1 if failed else 0


def table_command(out: Path) -> int:
    from unioncam_lab import tables
    from unioncam_lab.store import load

    made = load(out)
    if made.records.empty:
        raise ValueError(f"The run in {out} has no records yet.")
    found = tables.summary(made.records)
    print(tables.wide(found).to_markdown())
    known = set(zip(found["quantity"], found["method"], strict=True))
    for name in tables.TABLES:
        if known >= {(quantity, method) for quantity, row in tables.published(name).items() for method in row}:
            print(f"\nThe paper's {name}\n{tables.beside_paper(found, name).to_string()}")
    return 0


def report_command(out: Path, images: str) -> int:
    from unioncam_lab.report import write_report

    print(f"The report is {write_report(out, images=images)}.")
    return 0


def bench_command(
    out: Path | None,
    classifier: str,
    random: bool,
    device: str | None,
    backend: Sequence[str],
    precision: Sequence[str],
    pipeline: int | None,
    workers: Sequence[int],
    methods: Sequence[str] | None,
    repeats: int,
    **options,
) -> int:
    from itertools import product

    import torch

    from unioncam_lab import bench
    from unioncam_lab.provenance import provenance

    if out and not out.parent.is_dir():
        raise NotADirectoryError(f"There is no folder {out.parent} for the record {out.name}.")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    network = {"classifier": classifier, "pretrained": not random, "device": device}
    if pipeline is None:
        settings = bench.settings(backend, precision, **network, **options)
        measured, table = bench.compare(settings), bench.table
        what = "{size}×{size} pixels, {photo}".format(**options)
    else:
        if repeats < 1:
            raise ValueError(f"repeats is {repeats}; each row is measured 1 or more times.")
        given = network | ({"methods": methods} if methods else {})
        every = product(range(repeats), workers, backend, precision)
        loads = [bench.Load(pipeline, n, backend=b, precision=p, **given) for _, n, b, p in every]
        measured, table = bench.rates(loads), bench.rate_table
        what = f"{pipeline} JPEG files of {bench.PICTURE[0]}×{bench.PICTURE[1]} pixels"
    where = provenance()
    print(f"{classifier}{', random weights' if random else ''}, {what}, on {device}")
    print(", ".join(f"{name} {value}" for name, value in where.items()))
    print(table(measured).to_string())
    if pipeline is not None:
        print("The paper, for UnionCAM alone: " + ", ".join(f"{name} {value}" for name, value in bench.PAPER.items()))
    if out:
        bench.write(out, measured, where)
    return 0


def notebooks_command(
    notebooks: Sequence[str], out: Path, figures: Path, parameters: Sequence[Sequence[str]], jobs: int | None
) -> int:
    import time

    from unioncam_lab import headless

    begun = time.monotonic()
    runs = headless.execute(headless.find(notebooks), out, figures, dict(parameters), jobs)
    took, together = time.monotonic() - begun, sum(each.seconds for each in runs)
    failed = [each for each in runs if each.error]
    one_by_one = f"; their times add up to {together:.0f} s" if len(runs) > 1 else ""
    print(f"\n{len(runs) - len(failed)} of {len(runs)} notebooks ran in {took:.0f} s{one_by_one}.")
    print(f"  read      {out / 'index.html'}")
    print(f"  notebooks {out}{os.sep}*.ipynb, with their outputs")
    print(f"  pictures  {figures}{os.sep}, {len(list(figures.glob('*.png')))} as PNG and SVG")
    for each in failed:
        print(f"{each.name} {each.error}", file=sys.stderr)
    return 1 if failed else 0


def download_command(name: str, folder: Path) -> int:
    from unioncam_lab.download import archive, download

    path = download(archive(name), folder)
    print(f"{path} is whole and right. It need not be unpacked: give {name}:{path} to --images.")
    return 0


def train_command(**options) -> int:
    from unioncam_lab.train_shapes import train_and_save

    given = {name: value for name, value in options.items() if value is not None}
    for name, percent in train_and_save(**given).items():
        print(f"{percent:5.1f} %  {name}")
    return 0


def readme_command() -> int:
    from unioncam_lab.findings import README, START, render, write_start

    README.write_text(render(README.read_text(encoding="utf-8")), encoding="utf-8")
    write_start()
    print(f"{README.name} holds what the records say, and it and {START.name} list the notebooks.")
    return 0


def badges_command(repository: str) -> int:
    from unioncam_lab.launch import add_badges

    add_badges(repository)
    print(f"README.md and the notebooks lead to {repository} on Binder and Colab.")
    return 0


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    main = _Parser(prog="unioncam", description="The laboratory around UnionCAM: experiments, tables, notebooks.")
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND [OPTION]", title="commands")

    def add(name: str, command: Callable[..., int], line: str, example: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=line, description=f"{line[0].upper()}{line[1:]}.")
        added.formatter_class = argparse.RawDescriptionHelpFormatter
        added.epilog = f"example:\n  unioncam {name} {example}".rstrip()
        added.set_defaults(function=command)
        return added

    line = "explain and score pictures, or continue where that was stopped"
    run = add("run", run_command, line, "--images FOLDER --methods union_cam,score_cam --limit 100 --out runs/mine")
    run.add_argument("--images", dest="dataset", help="demo, scenes, shapes, mosaics, FOLDER, ilsvrc2012:PATH, ...")
    run.add_argument("--classifier", help="as in load_classifier; efficientnet_lite0 by default")
    run.add_argument(
        "--methods", type=_names, help="with commas, options as in union_cam:theta=50; default: the paper's"
    )
    run.add_argument("--metrics", type=_names, help="with commas; drop,increase,insertion,deletion by default")
    run.add_argument("--limit", type=int, help="number of pictures sampled; all by default")
    run.add_argument("--seed", type=int, help="of the sampling; 0 by default")
    run.add_argument("--protocol", nargs="*", default=[], metavar="OPTION=VALUE", help="as in LabProtocol")
    run.add_argument("--device", help="cpu or cuda; the GPU if there is one")
    run.add_argument("--precision", help="of the passes without gradient: fp32 (default), tf32, bf16 or fp16")
    run.add_argument("--list", dest="list_file", type=Path, metavar="FILE", help="names the pictures, one a line")
    run.add_argument(
        "--elsewhere", action="store_true", help="continue on a machine that cannot offer the same backend"
    )
    run.add_argument("--workers", type=int, metavar="N", help="compute in N processes, which share cores and GPUs")
    run.add_argument("--scheduler", metavar="ADDRESS", help="compute on the workers of this scheduler of dask")
    run.add_argument("--out", type=Path, required=True, help="folder of the run")

    line = "run the paper's experiment, and say before how long it takes, or continue where that was stopped"
    example = "--imagenet ILSVRC2012_img_val.tar --voc VOCtest_06-Nov-2007.tar --out runs/paper"
    paper = add("paper", paper_command, line, example)
    paper.add_argument("--imagenet", default="", metavar="PATH", help="ILSVRC2012's validation set")
    paper.add_argument("--voc", default="", metavar="PATH", help="VOC2007's test set")
    paper.add_argument("--out", type=Path, default=Path("runs/paper"), help="folder of the experiment; runs/paper")
    paper.add_argument("--limit", type=int, help="number of pictures of each run, for a trial; 2,000 by default")
    paper.add_argument(
        "--protocol-study", dest="study", action="store_true", help="run each open option of the protocol too"
    )
    paper.add_argument("--device", help="cpu or cuda; the GPU if there is one")
    paper.add_argument("--precision", help="as in run")
    paper.add_argument("--workers", type=int, metavar="N", help="as in run")
    paper.add_argument("--scheduler", metavar="ADDRESS", help="as in run")
    paper.add_argument("--elsewhere", action="store_true", help="as in run")

    table = add("table", table_command, "print the tables of a run, the published numbers beside them", "runs/mine")
    report = add("report", report_command, "write a run as a web page: tables, curves and a gallery", "runs/mine")
    for command in (table, report):
        command.add_argument("out", type=Path, metavar="RUN", help="folder of the run")
    report.add_argument("--images", default="", help="where its pictures are now; where they were by default")

    example = (
        "--classifier vgg16 --random --precision fp32 bf16 --backend eager compile\n"
        "  unioncam bench --pipeline 2000 --classifier vgg16 --random --device cuda --out rates_vgg16_gpu.json\n\n"
        "The second line measures the whole pipeline on the paper's network, on a GPU: pictures a second, the share\n"
        "of the time in which the GPU computes, and its peak memory. CUDA_VISIBLE_DEVICES chooses the GPU. With\n"
        "--workers 0 8 the same pictures are also explained by 8 workers, which share the GPUs."
    )
    line = "measure what an explanation costs, beside two libraries, or how many pictures a run explains a second"
    bench = add("bench", bench_command, line, example)
    bench.add_argument("--classifier", default="efficientnet_lite0", help="as in load_classifier")
    bench.add_argument("--random", action="store_true", help="without its trained weights, and so without a download")
    bench.add_argument("--device", choices=["cpu", "cuda"], help="the GPU if there is one")
    bench.add_argument("--backend", nargs="+", default=["auto"], help="auto, openvino, ncnn, compile, eager")
    bench.add_argument("--precision", nargs="+", default=["fp32"], help="fp32, tf32, bf16, fp16")
    bench.add_argument("--photo", default="chelsea", help="one of the demo photos")
    bench.add_argument("--size", type=int, default=224, help="side of the image in pixels")
    bench.add_argument("--beside", type=int, default=0, help="time it also beside so many other busy processes")
    bench.add_argument("--pipeline", type=int, metavar="N", help="measure whole runs instead, on N pictures each")
    bench.add_argument(
        "--workers", type=int, nargs="+", default=[0], metavar="W", help="of --pipeline: processes; 0 is no worker"
    )
    bench.add_argument("--methods", type=_names, help="of --pipeline: with commas; default: the paper's")
    bench.add_argument("--repeats", type=int, default=1, help="of --pipeline: how often each row is measured")
    bench.add_argument("--out", type=Path, help="file for the record, with its provenance: NAME.json")

    example = "00 -p photo my_photo.jpg -p theta 50"
    notebooks = add("notebooks", notebooks_command, "run the notebooks and make web pages of them", example)
    notebooks.add_argument("notebooks", nargs="*", help="numbers or names they start with; all by default")
    notebooks.add_argument("--out", type=Path, default=Path("build"), help="folder for executed notebooks and pages")
    notebooks.add_argument("--figures", type=Path, default=Path("figures"), help="folder for the pictures")
    notebooks.add_argument("--jobs", type=int, help="notebooks at a time; as many as cores and memory allow by default")
    notebooks.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter; a path is relative to the current folder, but demo is the data set, and ./demo a path",
    )

    line = "download a data set that anyone may have, or go on where that was cut off"
    download = add("download", download_command, line, "voc2007 pictures")
    download.add_argument("name", metavar="NAME", help="voc2007, its test set (451 MB)")
    download.add_argument("folder", metavar="DIR", type=Path, help="folder for the archive, which is not unpacked")

    train = add(
        "train",
        train_command,
        "train a classifier of drawn shapes",
        "--network shapes_vgg --epochs 16 --out /tmp/shapes",
    )
    train.add_argument("--network", help="shapes_vgg (default), or shapes_vit, which needs timm")
    train.add_argument("--count", type=int, help="scenes to train on; 14000 by default")
    train.add_argument("--epochs", type=int, help="16 by default")
    train.add_argument("--seed", type=int, help="of the network's first weights and of the order; 0 by default")
    train.add_argument("--out", type=Path, help="folder for the weights and their record; data/NETWORK by default")

    add("readme", readme_command, "write the README's tables and sentences from data/records", "")
    line = "write badges for Binder and Colab into the README, and a cell for Colab into each notebook"
    badges = add("badges", badges_command, line, "owner/name")
    badges.add_argument("repository", help="the public address on GitHub: OWNER/NAME")
    return main


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit status.

    It is 0; 1 if a notebook failed or a run skipped all its pictures; 2 after an error, which is one sentence on
    stderr; 130 if it was interrupted.
    """
    options = vars(parser().parse_args(arguments))
    name, function = options.pop("command"), options.pop("function")
    try:
        return function(**options)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        message = str(error)
        if isinstance(error, OSError) and error.strerror:  # without its number
            message = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        print(f"unioncam {name}: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        goes_on = name in ("run", "paper")
        print("Stopped. The same command goes on from here." if goes_on else "Stopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
