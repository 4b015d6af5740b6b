"""What a process does that is killed in the middle of a transport. It imports all it needs beforehand."""

import torch

from gaugeport.groups import load
from gaugeport.transport import transport_checkpoint


def interrupted_transport(source, gauge, out):
    torch.set_num_threads(1)
    transport_checkpoint(source, load(gauge), out, workers=2)
