"""Move the weights of a model folder to another residual basis, file by file, without loading the model."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from gaugeport.groups import Element, Orthogonal, SignedPermutation
from gaugeport.models.checkpoint import Checkpoint, open_checkpoint
from gaugeport.models.folders import WEIGHT_FILES, some
from gaugeport.models.safetensors_files import Header
from gaugeport.models.stored_tensors import check_floats
from gaugeport.transport.checkpoint_checks import check_written, file_word_sum
from gaugeport.transport.checkpoint_files import (
    CONFIG,
    copy_file,
    plan_files,
    prepare_out,
    refuse_links_out,
)
from gaugeport.transport.checkpoint_manifest import Manifest, new_manifest
from gaugeport.transport.checkpoint_moves import Piece, pieces_of
from gaugeport.transport.checkpoint_shards import Shard, move_shards
from gaugeport.transport.model import check_gauge_fits
from gaugeport.utils.files import check_apart, expanded
from gaugeport.utils.progress import Progress

MAX_WORKERS = 8


@dataclass(frozen=True)
class CheckpointReport:
    """What :func:`transport_checkpoint` did.

    Attributes:
        out: The folder that was written.
        group: The group of the gauge.
        tensors: How many tensors the weight files hold.
        nbytes: The size of the weight files.
        written: The weight files written by this call.
        kept: The weight files that an interrupted call had written, and that were found whole.
        copied: The files copied byte for byte.
        left_out: Name of a file or folder in the source that was left out -> why.
    """

    out: Path
    group: str
    tensors: int
    nbytes: int
    written: tuple[str, ...]
    kept: tuple[str, ...]
    copied: tuple[str, ...]
    left_out: dict[str, str]

    def __str__(self) -> str:
        kept = f" ({len(self.kept)} of them by an earlier call)" if self.kept else ""
        lines = [
            f"{self.out}: {self.tensors} tensors, {self.nbytes / 2**30:.2f} GiB in "
            f"{len(self.written) + len(self.kept)} file(s){kept}, moved by a {self.group}",
            f"copied: {some(list(self.copied))}",
        ]
        return "\n".join([*lines, *(f"left out: {name} ({why})" for name, why in self.left_out.items())])


def transport_checkpoint(
    source: str | Path,
    gauge: Element,
    out: str | Path,
    *,
    workers: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> CheckpointReport:
    """Write a model folder with ``gauge`` acting on its residual stream, without loading the model.

    Signed permutations give the files that ``transport_model`` and ``save_pretrained`` would, bit for bit;
    rotations, on folded charts, are rounded once from the same products in float64. Weights go from file to
    file: names, order, dtypes, metadata and shards stay, and memory is about one tensor for each worker.
    Configs, tokenizer files and the index are copied byte for byte. Optimizer states, adapters and other
    weights are left out.

    A weight file gets its name once it is checked against the source and recorded; ``config.json`` is written
    after all others, so that no unfinished folder loads. ``gaugeport_transport.json`` records what is done:
    after an interruption the same command checks that, and goes on.

    Args:
        source: A Hugging Face folder with safetensors weights, in one file or in shards.
        gauge: A linear gauge of the chart's group.
        out: The new folder.
        workers: How many threads share the tensors; None for one per core, at most 8. The result does not
            depend on it.
        force: Whether to write into a folder that is not empty. The weights and config in it are removed.
        progress: Called as ``progress(done, total, what)`` with the bytes done and the bytes in all
            (:mod:`gaugeport.utils.progress`).

    Returns:
        What was written, kept, copied and left out.

    Raises:
        TypeError: If ``gauge`` is not a gauge element.
        FileNotFoundError: If the source, its config or weights are missing.
        FileExistsError: If ``out`` is a file, or holds something else and ``force`` is False.
        ValueError: If the source is no folder of one plain causal language model with a chart
            (:func:`~gaugeport.models.checkpoint.open_checkpoint`), is multimodal, or has links that lead out
            of it; if the gauge is not in the chart's group; if ``out`` is in the source or around it; if
            another process writes it; or if the source changes meanwhile.
        OSError: If the disk is full, or a written file is not what it should be. No file is left under its
            final name that is not whole.
    """
    out, workers = expanded(out), _workers(workers)
    # 1) what is to be done, and whether it can be
    checkpoint = open_checkpoint(source)
    check_apart(out, checkpoint.folder)
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; name a new folder")
    check_gauge_fits(checkpoint.chart, gauge)
    assert isinstance(gauge, SignedPermutation | Orthogonal)
    _check_all_parts_move(checkpoint)
    plan = plan_files(checkpoint)
    weights = {str(h.file.relative_to(checkpoint.folder)): h for h in checkpoint.headers}
    others = {**plan.copied, CONFIG: checkpoint.folder / CONFIG}
    command = new_manifest(gauge, {name: h.file for name, h in weights.items()} | others)
    pieces = {name: _pieces(checkpoint, h, gauge) for name, h in weights.items()}
    total, done = sum(p.nbytes for ps in pieces.values() for p in ps), 0

    def advance(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(done, total, "weights")

    out.mkdir(parents=True, exist_ok=True)
    with _only_writer(out):
        manifest = prepare_out(out, command, force)
        refuse_links_out(out, [*weights, *others])
        # 2) keep the weight files that are done, and move the others
        kept = []
        for name, header in weights.items():
            if _is_done(manifest, name, out / name) and _is_whole(header, pieces[name], gauge, out / name):
                kept.append(name)
                advance(sum(p.nbytes for p in pieces[name]))
        if set(kept) != set(manifest.done):  # on the disk too: what is written anew is not done
            manifest = replace(manifest, done={name: manifest.done[name] for name in kept})
            manifest.write(out)
        shards = {name: Shard(h, pieces[name], out / name) for name, h in weights.items() if name not in kept}
        for name in shards:
            (out / name).unlink(missing_ok=True)  # what lies there is not what it should be
        _check_space(out, [weights[name].file for name in shards] + list(others.values()))

        def finished(shard: Shard, word_sum: int) -> None:
            nonlocal manifest
            name = str(shard.target.relative_to(out))
            manifest = manifest.with_done(name, shard.header.size, word_sum)
            manifest.write(out)

        with _full_disk_keeps_what_is_done():
            move_shards(shards.values(), gauge, workers, finished, advance)
        # 3) the other files, the config last
        for name, path in others.items():
            copy_file(path, out / name)
        replace(manifest, complete=True).write(out)
    return CheckpointReport(
        out=out,
        group=gauge.group,
        tensors=sum(len(h.tensors) for h in weights.values()),
        nbytes=sum(h.size for h in weights.values()),
        written=tuple(shards),
        kept=tuple(kept),
        copied=tuple(others),
        left_out=plan.left_out,
    )


def write_moved_weights(
    checkpoint: Checkpoint, gauge: Element, folder: Path, progress: Progress | None = None
) -> None:
    """Write the weight files of a model folder, and their index, with ``gauge`` acting on the stream.

    Nothing else is written, and nothing goes on from an interrupted call.

    Args:
        checkpoint: The model folder.
        gauge: A linear gauge of the chart's width.
        folder: An existing folder.
        progress: As of :func:`transport_checkpoint`.

    Raises:
        ValueError: If the model is multimodal, or a tensor on the stream is quantized.
        OSError: If the disk is full, or a written file is not what it should be.
    """
    assert isinstance(gauge, SignedPermutation | Orthogonal)
    _check_all_parts_move(checkpoint)
    shards = [
        Shard(h, _pieces(checkpoint, h, gauge), folder / h.file.relative_to(checkpoint.folder))
        for h in checkpoint.headers
    ]
    total, done = sum(p.nbytes for shard in shards for p in shard.pieces), 0

    def advance(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(done, total, "weights")

    move_shards(shards, gauge, _workers(None), lambda shard, word_sum: None, advance)
    if len(shards) > 1 or shards[0].target.name != WEIGHT_FILES[0]:
        copy_file(checkpoint.folder / WEIGHT_FILES[1], folder / WEIGHT_FILES[1])


def _pieces(checkpoint: Checkpoint, header: Header, gauge: SignedPermutation | Orthogonal) -> list[Piece]:
    return [p for t in header.tensors.values() for p in pieces_of(t, checkpoint.axes(t), gauge)]


@contextmanager
def _full_disk_keeps_what_is_done() -> Iterator[None]:
    try:
        yield
    except OSError as e:
        if e.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(e.errno, "the disk is full; what is done is kept") from e


def _workers(workers: int | None) -> int:
    if workers is None:
        affinity = getattr(os, "sched_getaffinity", None)  # the cores that this process may use; Linux only
        return min(MAX_WORKERS, len(affinity(0)) if affinity else os.cpu_count() or 1)
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    return workers


def _check_all_parts_move(checkpoint: Checkpoint) -> None:
    """Raise ``ValueError`` for quantized tensors on the stream, and for parts that have no chart."""
    if checkpoint.other_parts:
        raise ValueError(
            f"{checkpoint.folder} is a multimodal model, whose other parts write to the stream and have no "
            f"chart (the first {some(list(checkpoint.other_parts), 2)}): write its language model to a "
            "folder of its own with gaugeport.load_model(FOLDER).save_pretrained(NEW_FOLDER), and pass that"
        )
    tensors = [t for header in checkpoint.headers for t in header.tensors.values()]
    check_floats(t for t in tensors if set(checkpoint.axes(t)) - {"none"})


def _is_done(manifest: Manifest, name: str, path: Path) -> bool:
    """Return whether a weight file is recorded as done, and still is what was recorded."""
    entry = manifest.done.get(name)
    if not isinstance(entry, dict) or not path.is_file() or path.stat().st_size != entry.get("bytes"):
        return False
    return f"{file_word_sum(path):016x}" == entry.get("word_sum")


def _is_whole(header: Header, pieces: list[Piece], gauge: SignedPermutation | Orthogonal, path: Path) -> bool:
    """Return whether a weight file holds the moved tensors of the source."""
    try:
        check_written(header, pieces, gauge, path)
    except (OSError, ValueError):
        return False
    return True


def _check_space(out: Path, files: list[Path]) -> None:
    """Raise ``OSError`` if a disk has less space left than copies of some files take."""
    free, nbytes = shutil.disk_usage(out).free, sum(f.stat().st_size for f in files)
    if free < nbytes:
        raise OSError(errno.ENOSPC, f"{nbytes} bytes are to be written, and {free} are free", str(out))


@contextmanager
def _only_writer(out: Path) -> Iterator[None]:
    """Hold a lock on a folder. The system drops it when the process ends, however it ends."""
    import fcntl  # not on Windows, where the rest of the library works

    folder = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise ValueError(f"another process is writing {out}") from e
        yield
    finally:
        os.close(folder)
