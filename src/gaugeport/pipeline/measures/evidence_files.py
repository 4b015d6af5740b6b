"""Write evidence between the saved checkpoints of two runs, with a random gauge planted on each.

:class:`gaugeport.pipeline.measures.planted_evidence.PlantedEvidence` reads it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from gaugeport.alignment.evidence import (
    WeightForm,
    check_no_constant,
    matrices_of,
    streams_on,
    weight_similarities,
)
from gaugeport.alignment.pairs import moments_of_streams
from gaugeport.alignment.routes import Node
from gaugeport.charts import chart_of
from gaugeport.groups import compose, load
from gaugeport.pipeline.measures.planted_evidence import relabel_evidence
from gaugeport.pipeline.measures.plants import UNIFORM, draw_plant, node_name, node_of
from gaugeport.streams.activations import check_sites
from gaugeport.streams.kept import KeptStreams
from gaugeport.streams.massive import LEAVE_OUT
from gaugeport.transport import transport_model
from gaugeport.utils.seeds import generator

Link = tuple[Node, Node]


def write_evidence(
    folder: Path,
    links: Sequence[Link],
    load_checkpoint: Callable[[Node], nn.Module],
    batches: Sequence[dict[str, Tensor]],
    *,
    sites: str | Sequence[str],
    skip_first: int,
    seen: Tensor,
    seed: int,
    models_in_memory: int,
    whiten: bool = False,
    dtype: torch.dtype = torch.float32,
    massive: str = LEAVE_OUT,
) -> None:
    """Plant a gauge on every checkpoint and write the evidence of every link.

    Each checkpoint is moved by a uniform random element of its exact gauge group, and run on the batches
    once: streams that later groups of links need again are kept in a temporary folder, 4 bytes per token,
    site and coordinate. The folder then holds ``<a>-<b>.safetensors`` per link (moments by site, and weight
    evidence) and ``plants/<node>.safetensors`` per checkpoint.

    Args:
        folder: folder to write to.
        links: pairs of checkpoints, in the order in which their evidence is stored.
        load_checkpoint: loads the model of a checkpoint.
        batches: batches of token ids to run the models on.
        sites: sites of the stream to record, or ``"all"``.
        skip_first: number of tokens at the start of each row to leave out.
        seen: int64[n], the vocabulary rows that both runs were trained on.
        seed: seed of the plants.
        models_in_memory: the most models to hold at once, at least 2.
        whiten: write the moments of whitened activations.
        dtype: the dtype to run the models in.
        massive: ``leave_out`` tokens that are massive in either model of a link, or ``keep`` them.

    Raises:
        ValueError: ``models_in_memory`` is below 2, or a coordinate is constant at every site.
    """
    groups = group_links(links, models_in_memory)
    with tempfile.TemporaryDirectory(prefix="gaugeport-streams-", dir=folder) as kept_in:
        kept: dict[str, KeptStreams] = {}
        for number, group in enumerate(tqdm(groups, desc="evidence", disable=None)):
            # 1) load and plant the checkpoints of the group
            models: dict[str, nn.Module] = {}
            for node in nodes_of(group):
                model = load_checkpoint(node)
                chart = chart_of(model)
                plant = draw_plant(chart.group, chart.width, node, UNIFORM, generator(seed, "plant", *node))
                models[node_name(node)] = transport_model(model, plant, inplace=True).to(dtype)
                plant.save(folder / "plants" / f"{node_name(node)}.safetensors")

            # 2) run those that have not run, and keep what a later group reads
            names = check_sites(sites, len(chart.blocks(model)), chart)
            later = {node_name(n) for n in nodes_of(chain.from_iterable(groups[number + 1 :]))}
            streams: dict[str, Iterable[Mapping[str, Tensor]]] = {}
            for name, model in models.items():
                if name in kept:
                    streams[name] = kept[name]
                    continue
                streams[name] = streams_on(model, batches, names, skip_first)
                if name in later:
                    streams[name] = kept[name] = KeptStreams.of(streams[name], Path(kept_in) / name, names)

            # 3) write the evidence of each link
            pairs = [(node_name(a), node_name(b)) for a, b in group]
            moments = moments_of_streams(streams, pairs, names, whiten, massive)
            for a, b in pairs:
                check_no_constant(moments[a, b], list(moments[a, b]))
                tensors = {f"{s}.{k}": v for s, m in moments[a, b].items() for k, v in m.tensors().items()}
                sides = (matrices_of(models[a], seen), matrices_of(models[b], seen))
                forms = {"weights": WeightForm(token_ids=seen), "weights_all_rows": WeightForm()}
                for form, c in zip(forms, weight_similarities(*sides, list(forms.values())), strict=True):
                    tensors[form] = c.to(torch.float32)
                save_file(tensors, folder / f"{a}-{b}.safetensors")
            for name in kept.keys() - later:
                kept.pop(name).delete()


def replant_evidence(source: Path, folder: Path, positive_share: float, seed: int) -> None:
    """Write evidence under other plants than those of ``source``, without running a model.

    The activations and weights of a transported model are the transported ones, so this is the evidence of
    the models under those plants.

    Args:
        source: what :func:`write_evidence` wrote, of models whose gauges are permutations with signs.
        folder: folder to write to.
        positive_share: expected share p of positive signs of the true gauge from A to B; see ``plants``.
        seed: seed of the plants.

    Raises:
        ValueError: the planted group has no signs to choose.
    """
    # 1) draw the plants, and the moves from the old ones to them
    moves = {}
    for path in sorted((source / "plants").glob("*.safetensors")):
        node, before = node_of(path.stem), load(path)
        draw = generator(seed, "plant", *node)
        after = draw_plant(before.group, before.size, node, positive_share, draw)
        after.save(folder / "plants" / path.name)
        moves[path.stem] = compose(after, before.inverse())

    # 2) move the evidence of every link
    for path in sorted(source.glob("*.safetensors")):
        of_a, of_b = (moves[name] for name in path.stem.split("-"))
        tensors = load_file(path)
        for name, x in tensors.items():
            match name.rpartition(".")[2]:
                case "mean_a":
                    tensors[name] = of_a.act(x)
                case "mean_b":
                    tensors[name] = of_b.act(x)
                case "square_a":
                    tensors[name] = of_a.act_gain(x)
                case "square_b":
                    tensors[name] = of_b.act_gain(x)
                case "cross" | "weights" | "weights_all_rows":
                    tensors[name] = relabel_evidence(x, of_a, of_b).contiguous()
        save_file(tensors, folder / path.name)


def nodes_of(links: Iterable[Link]) -> list[Node]:
    """Return the checkpoints of some links, sorted."""
    return sorted({node for link in links for node in link})


def group_links(links: Sequence[Link], models_in_memory: int) -> list[list[Link]]:
    """Cut links into groups of few checkpoints, so that the models of one group fit in memory.

    Args:
        links: pairs of checkpoints.
        models_in_memory: the most checkpoints in one group, at least 2.

    Returns:
        The links in their order, in consecutive groups.

    Raises:
        ValueError: ``models_in_memory`` is below 2.
    """
    if models_in_memory < 2:
        raise ValueError(
            f"models_in_memory={models_in_memory}; allowed: 2 or more, because a link has two models"
        )
    groups: list[list[Link]] = []
    held: set[Node] = set()
    for link in links:
        if not groups or len(held | set(link)) > models_in_memory:
            groups.append([])
            held = set()
        groups[-1].append(link)
        held |= set(link)
    return groups
