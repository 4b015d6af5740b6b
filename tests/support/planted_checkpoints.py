"""Evidence of tiny planted checkpoints of two runs from one base."""

import copy

import torch

from gaugeport.alignment.routes import ROUTES, links, walk
from gaugeport.pipeline.measures.evidence_files import write_evidence
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.pipeline.measures.planted_evidence import PlantedEvidence
from gaugeport.pipeline.measures.plants import node_name
from gaugeport.transport import transport_model

D = 32
SITES = ["embed", "block0", "block1"]
FLOAT32 = (
    1e-4  # float32 models of two blocks: streams agree to about 1e-6 of their size, correlations likewise
)


def gen(seed):
    return torch.Generator().manual_seed(seed)


def batches_of(n=4):
    return [{"input_ids": torch.randint(0, 64, (8, 12), generator=gen(s))} for s in range(n)]


def checkpoints(family):
    """Return the loader of a base and its drifting descendants, all in shared coordinates."""
    base = tiny_model(family, gen(0))

    def checkpoint(node):
        model = copy.deepcopy(base)
        with torch.no_grad():
            for p in model.parameters():
                drift = torch.randn(p.shape, generator=gen(1 + (node[0] == "B"))) * p.std()
                p.add_(drift * node[1] / 1000)
        return model

    return checkpoint


NODES = links([walk(r, s, 100) for r in ROUTES for s in (100, 200)])


def write(folder, family, models_in_memory=3, seed=7, **options):
    folder.mkdir(exist_ok=True)
    write_evidence(
        folder,
        NODES,
        checkpoints(family),
        batches_of(),
        sites="all",
        skip_first=1,
        seen=torch.arange(40),
        seed=seed,
        models_in_memory=models_in_memory,
        **options,
    )
    return PlantedEvidence(folder)


def planted_model(family, evidence, node):
    """The checkpoint with its stored plant, by transport of its weights."""
    return transport_model(checkpoints(family)(node), evidence.plants[node_name(node)])
