from pathlib import Path
from typing import get_args

import pytest

from training.errors import EvaluationError
from training.evaluation.generation import Task
from training.evaluation.protocols import PROTOCOLS


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_goes_by_its_name_with_its_networks_alone(name: str) -> None:
    protocol = PROTOCOLS[name]
    assert protocol.task in get_args(Task)
    features = [f"{kind}:weights.pt" for kind in protocol.features]
    clip = "ViT-L-14/openai" if protocol.needs_clip else None
    alexnet = Path("alexnet.pth") if protocol.needs_lpips else None
    protocol.check(name, features, clip, alexnet)
    with pytest.raises(EvaluationError, match=f"suite {name} is judged by published networks"):
        protocol.check(name, ["embedded"], None, None)
