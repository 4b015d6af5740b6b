"""gaugeport: match the coordinates of two transformer checkpoints, and move what is written in them across.

>>> import gaugeport as gp
>>> match = gp.align(model_a, model_b, batches)       # the gauge g with g·x_A ≈ x_B  # doctest: +SKIP
>>> moved = gp.transport_model(model_a, match.gauge)  # A, in B's coordinates  # doctest: +SKIP

The library half, in reading order (imports run in this order only):

- utils: atomic writes, seeds, devices and threads
- groups: gauge elements, the coordinate changes of a residual stream
- charts: where the residual stream lives in a model, and which group leaves its function alone
- models: loading from a folder or the hub
- streams: activations and interventions
- alignment: the gauge from one model to another
- transport: a gauge applied to models, SAEs, directions, adapters and optimizer states

``gaugeport.pipeline`` replicates the papers with it; the library never imports the pipeline. The names
below are imported on first use, so that ``import gaugeport`` does not load torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaugeport.alignment.align import align
    from gaugeport.alignment.along import align_along
    from gaugeport.alignment.collect import evidence
    from gaugeport.alignment.compare import compare_groups, explained
    from gaugeport.alignment.folder_evidence import weight_evidence_of_folders
    from gaugeport.alignment.pair_evidence import Evidence
    from gaugeport.alignment.result import Alignment
    from gaugeport.charts import Certificate, Chart, certify, chart_of, fold_gains
    from gaugeport.groups import (
        AffineGauge,
        GlobalSignPermutation,
        MeanPreservingOrthogonal,
        Orthogonal,
        Permutation,
        SignedPermutation,
        compose,
    )
    from gaugeport.groups import load as load_gauge
    from gaugeport.groups import provenance as gauge_provenance
    from gaugeport.models.checkpoint import chart_of_folder
    from gaugeport.models.loading import load_model, load_tokenizer
    from gaugeport.transport import (
        HeadGauge,
        MovedIndices,
        NeuronGauge,
        WeightAlignment,
        align_weights,
        fold_lora,
        fold_sae,
        fold_sae_file,
        lost_share,
        match_heads,
        match_neurons,
        transport_checkpoint,
        transport_direction,
        transport_direction_file,
        transport_indices,
        transport_indices_file,
        transport_lora,
        transport_magnitude,
        transport_model,
        transport_optimizer,
        transport_sae,
        transport_sae_file,
        transport_steering_vector,
    )
    from gaugeport.transport.merge import Merged, merge
    from gaugeport.utils.progress import progress_bar

__all__ = [
    "AffineGauge",
    "Alignment",
    "Certificate",
    "Chart",
    "Evidence",
    "GlobalSignPermutation",
    "HeadGauge",
    "MeanPreservingOrthogonal",
    "Merged",
    "MovedIndices",
    "NeuronGauge",
    "Orthogonal",
    "Permutation",
    "SignedPermutation",
    "WeightAlignment",
    "align",
    "align_along",
    "align_weights",
    "certify",
    "chart_of",
    "chart_of_folder",
    "compare_groups",
    "compose",
    "evidence",
    "explained",
    "fold_gains",
    "fold_lora",
    "fold_sae",
    "fold_sae_file",
    "gauge_provenance",
    "load_gauge",
    "load_model",
    "load_tokenizer",
    "lost_share",
    "match_heads",
    "match_neurons",
    "merge",
    "progress_bar",
    "transport_checkpoint",
    "transport_direction",
    "transport_direction_file",
    "transport_indices",
    "transport_indices_file",
    "transport_lora",
    "transport_magnitude",
    "transport_model",
    "transport_optimizer",
    "transport_sae",
    "transport_sae_file",
    "transport_steering_vector",
    "weight_evidence_of_folders",
]

_MODULE_OF = {
    "align": "alignment.align",
    "align_along": "alignment.along",
    "Alignment": "alignment.result",
    "Evidence": "alignment.pair_evidence",
    "evidence": "alignment.collect",
    **dict.fromkeys(("compare_groups", "explained"), "alignment.compare"),
    "progress_bar": "utils.progress",
    **dict.fromkeys(("Certificate", "Chart", "certify", "chart_of", "fold_gains"), "charts"),
    **dict.fromkeys(("AffineGauge", "GlobalSignPermutation", "MeanPreservingOrthogonal"), "groups"),
    **dict.fromkeys(("Orthogonal", "Permutation", "SignedPermutation", "compose"), "groups"),
    **dict.fromkeys(("gauge_provenance", "load_gauge"), "groups"),
    "chart_of_folder": "models.checkpoint",
    "weight_evidence_of_folders": "alignment.folder_evidence",
    **dict.fromkeys(("load_model", "load_tokenizer"), "models.loading"),
}
"""Public name -> the module below gaugeport that has it; the other public names are in ``transport``."""

_NAME_THERE = {"load_gauge": "load", "gauge_provenance": "provenance"}
"""Public name -> its name in that module, where the two differ."""

_SUBPACKAGES = ("utils", "groups", "charts", "models", "streams", "alignment", "transport")


if not TYPE_CHECKING:  # type checkers read the imports above, and report a name that is not public

    def __getattr__(name: str) -> Any:
        """Import a public name, or a subpackage of the library, on first use."""
        if name in _SUBPACKAGES:
            return importlib.import_module(f"{__name__}.{name}")
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"{__name__}.{_MODULE_OF.get(name, 'transport')}")
        value = getattr(module, _NAME_THERE.get(name, name))
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBPACKAGES})
