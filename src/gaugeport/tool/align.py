"""``gaugeport align``: recover the gauge between two models, and measure how far it can be trusted."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

import gaugeport as gp
from gaugeport.alignment.doubt import WARN_FROM_SHARE
from gaugeport.alignment.pair_evidence import Evidence, common_group
from gaugeport.alignment.result import Alignment
from gaugeport.groups import Element, SignedPermutation
from gaugeport.models.checkpoint import open_checkpoint
from gaugeport.models.folders import local_folder
from gaugeport.models.loading import check_model
from gaugeport.texts import row_batches
from gaugeport.tool.answer import Answer, Exit
from gaugeport.tool.conclusion import ROTATIONS, Found, conclude
from gaugeport.tool.opening import (
    check_place,
    fit_together,
    opener,
    safetensors_folder,
    shared_tokenizer,
)
from gaugeport.tool.report import report_data, report_text
from gaugeport.tool.text import positions_of, token_rows
from gaugeport.tool.walk import checkpoints_of, walk
from gaugeport.utils.files import real
from gaugeport.utils.progress import Progress, progress_bar

ROWS_PER_BATCH = 8

Batches = list[dict[str, Tensor]]


@dataclass(frozen=True)
class Request:
    """What to align, and how.

    Attributes:
        a, b: A folder, hub id or ``.gguf`` file each.
        out: The gauge file to write.
        figure: The PNG to write.
        evidence: ``activations``, ``weights`` or ``both``.
        group: A group's name, or ``auto`` for the largest that is exact for both models.
        sites: ``all``, or names of sites.
        text, field: A file of text and its field; None for English that comes with Python.
        tokens: How many tokens to fit on, at most; 0 reads no text, which requires evidence from weights.
        along: Folders of two runs, whose checkpoints are walked from A back to the first and on to B.
        base: The model that both runs started from: the walk passes through it, or a loop does.
        abstain: Count coordinates with a smaller margin as not placed.
        force: Replace what lies at ``out`` and ``figure``.
        device_map: Where the models run: None for the CPU, else ``load_model``'s.
    """

    a: str
    b: str
    out: Path
    figure: Path
    evidence: str = "activations"
    group: str = "auto"
    sites: Sequence[str] | str = "all"
    text: Path | None = None
    field: str = "text"
    tokens: int = 16_384
    along: tuple[Path, Path] | None = None
    base: str | None = None
    abstain: float | None = None
    force: bool = False
    device_map: str | None = None

    def opener(self, name: str) -> Callable[[], Any]:
        """Return a function that loads a model where it is to run."""
        return opener(name, self.device_map)

    def between(self) -> list[Callable[[], Any]]:
        """Return the loaders of the models that a walk along both runs passes between A and B."""
        assert self.along is not None
        return walk((self.a, self.b), self.along, self.base, self.opener)


@dataclass(frozen=True)
class Measured:
    """An alignment with what was measured of it.

    Attributes:
        alignment: The alignment.
        groups: The exact gauge groups of A and B.
        folded: Whether all gains of A are 1, and of B.
        tokens: How many tokens were fitted on, and held out.
        explained: Group -> R² on held-out tokens, the mean over sites; empty where no text was read.
        by_site: Site -> R² of the gauge on held-out tokens.
        loops: Name of a loop -> the share of coordinates that it does not return to their place.
    """

    alignment: Alignment
    groups: tuple[str, str]
    folded: tuple[bool, bool]
    tokens: tuple[int, int] = (0, 0)
    explained: Mapping[str, float] = field(default_factory=dict)
    by_site: Mapping[str, float] = field(default_factory=dict)
    loops: Mapping[str, float] = field(default_factory=dict)


def align_models(request: Request) -> Answer:
    """Align two models, write the gauge and the figure, and answer with the report.

    Raises:
        ValueError: An option is unknown, the models cannot be compared, no text fits, or a result would lie
            in what is read.
        FileNotFoundError: A model, run or text file does not exist.
        FileExistsError: The gauge file or the figure exists, and ``force`` is not set.
    """
    _check(request)
    for name in _models(request):
        check_model(name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        measured = _measured(request)
    notes = list(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning)))
    found = measured.alignment
    # a walk is judged by its links: a coordinate's margin on the whole way is its smallest
    not_ahead = max(link.share_without_margin for link in found.links or (found,))
    sentence, usable = conclude(
        Found(
            group=found.group,
            doubtful=not_ahead >= WARN_FROM_SHARE,
            not_ahead=not_ahead,
            explained=measured.explained,
            folded=measured.folded,
            walked=bool(found.links),
        )
    )
    provenance = {**found.provenance(), "a": request.a, "b": request.b, "conclusion": sentence}
    drawn = _draw(request, measured)
    found.gauge.save(request.out, provenance)  # last: where it lies, all of the answer does
    text = report_text(measured, sentence, notes, request.out, drawn)
    data = report_data(measured, sentence, notes, request.out, drawn)
    return Answer(text, data, Exit.DONE if usable else Exit.DOUBTFUL)


def _check(request: Request) -> None:
    for path in (request.out, request.figure):
        check_place(path, request.a, request.b, request.base, request.text, *(request.along or ()))
        if path.is_dir():
            raise FileExistsError(f"{path} is a folder; name a file")
        if path.exists() and not request.force:
            raise FileExistsError(f"{path} exists already; pass --force to replace it, or name another --out")
    if real(request.out) == real(request.figure):
        raise ValueError(f"--out and --figure are both {request.out}: name another --figure")
    if request.evidence not in ("activations", "weights", "both"):
        raise ValueError(f"evidence={request.evidence!r}; allowed: activations, weights, both")
    if request.device_map is not None and request.evidence != "activations":
        raise ValueError(
            f"--device-map {request.device_map} with --evidence {request.evidence}: weights that may be "
            "offloaded cannot be read; pass --evidence activations, or --evidence weights --tokens 0 without "
            "--device-map, which runs no model"
        )
    if request.tokens < 0:
        raise ValueError(f"tokens={request.tokens}; allowed: 0 or more")
    if request.tokens == 0 and request.evidence != "weights":
        raise ValueError(f"tokens=0 reads no text; evidence={request.evidence} requires some")
    if request.tokens == 0 and request.along is not None:
        raise ValueError("--along with --tokens 0: weights need no walk; leave --along out, or read text")


def _models(request: Request) -> list[str]:
    """Return the models that an alignment reads, the checkpoints of both runs among them."""
    between = [str(p) for run in request.along or () for p in checkpoints_of(run)]
    return [request.a, request.b, *between, *([request.base] if request.base is not None else [])]


def _measured(request: Request) -> Measured:
    if request.tokens == 0:
        with progress_bar() as bar:
            ev = _weights_alone(request, bar)
        alignment = gp.align(ev, evidence="weights", **_options(request))
        return Measured(alignment, ev.groups, (ev.chart_a.folded, ev.chart_b.folded))
    tokenizer = shared_tokenizer(request.a, request.b)
    parts = token_rows(
        tokenizer, request.tokens, positions_of(_config(request.a)), request.text, request.field
    )
    fit, held_out = (list(row_batches(rows, ROWS_PER_BATCH)) for rows in parts)
    links = 2 if request.base is not None else 0
    if request.along is not None:
        links = len(request.between()) + 1
    # both models run on both texts, and the models of every link together on the first
    with progress_bar(2 * (len(fit) + len(held_out)) + links * len(fit)) as bar:
        return _measured_on(request, fit, held_out, bar)


def _measured_on(request: Request, fit: Batches, held_out: Batches, bar: Progress | None) -> Measured:
    """Return what is measured on some text, and on held-out text."""
    a, b = (request.opener(name) for name in (request.a, request.b))
    if request.device_map is None and fit_together([request.a, request.b]):  # a device may hold one alone
        model_a, model_b = a(), b()
        a, b = (lambda: model_a), (lambda: model_b)

    def passes(done: int, total: int, what: str) -> None:
        if bar is not None and "running" in what:  # matrices are not passes over the text
            bar(done, total, what)

    weights = request.evidence != "activations"
    ev = gp.evidence(a, b, fit, sites=request.sites, weights=weights, progress=passes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that held-out tokens are few says nothing of the fit
        scored = gp.evidence(a, b, held_out, sites=request.sites, progress=passes)
    options = _options(request)
    along: dict[str, Any] = {"evidence": request.evidence, "sites": request.sites, "progress": passes}
    if request.along is None:
        alignment = gp.align(ev, evidence=request.evidence, **options)
    else:
        alignment = gp.align_along([a, *request.between(), b], fit, **along, **options)
    explained = dict(gp.compare_groups(ev, scored))
    by_site = scored.explained(alignment.gauge)
    explained[alignment.group] = fmean(by_site.values())
    loops = {"A to B on this text, back on held-out text": _returned(alignment, scored, options)}
    if request.base is not None and request.along is None:
        walk = [a, request.opener(request.base), b]
        via = gp.align_along(walk, fit, **along, **{**options, "abstain": None})
        loops["A to B, back through the base"] = share_moved(alignment.gauge, via.gauge)
    return Measured(
        alignment,
        ev.groups,
        (ev.chart_a.folded, ev.chart_b.folded),
        (ev.tokens, scored.tokens),
        explained,
        by_site,
        {name: share for name, share in loops.items() if share is not None},
    )


def _options(request: Request) -> dict[str, Any]:
    group = None if request.group == "auto" else request.group
    return {"group": group, "abstain": request.abstain, "allow_larger": group is not None}


def _weights_alone(request: Request, bar: Progress | None) -> Evidence:
    """Return evidence from weights alone: streamed from disk where both are safetensors."""
    folders = [safetensors_folder(name) for name in (request.a, request.b)]
    if folders[0] is not None and folders[1] is not None:
        a, b = (open_checkpoint(folder) for folder in folders if folder is not None)
        asked = common_group(a.chart, b.chart) if request.group == "auto" else request.group
        cross = asked in ROTATIONS
        weights = gp.weight_evidence_of_folders(a.folder, b.folder, cross=cross, progress=bar)
        found = {"weights_cross" if cross else "weights": weights}
        return Evidence(a.chart, b.chart, int(a.config.num_hidden_layers), {}, {}, **found)
    return gp.evidence(opener(request.a)(), opener(request.b)(), weights=True, progress=bar)


def _returned(alignment: Alignment, held_out: Evidence, options: Mapping[str, Any]) -> float | None:
    """Return the share of coordinates that the gauge of held-out tokens does not bring back."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer tokens than coordinates, perhaps: the figure says it
        other = gp.align(held_out, evidence="activations", **{**options, "abstain": None})
    return share_moved(alignment.gauge, other.gauge)


def share_moved(g: Element, h: Element) -> float | None:
    """Return the share of coordinates that ``h⁻¹∘g`` does not leave in place; None for rotations."""
    if not (isinstance(g, SignedPermutation) and isinstance(h, SignedPermutation)):
        return None
    return float(((g.perm != h.perm) | (g.sign != h.sign)).double().mean())


def _draw(request: Request, measured: Measured) -> Path | None:
    try:
        from gaugeport.tool.figure import draw
    except ModuleNotFoundError:  # matplotlib comes with gaugeport[pipeline]
        return None
    draw(measured, request.figure)
    return request.figure


def _config(name: str) -> Any:
    from gaugeport.models.gguf_files import is_gguf

    if is_gguf(name):
        return None
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(local_folder(name) or name, trust_remote_code=False)
