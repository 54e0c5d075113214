"""The published networks at random weights, in the layout of their files."""

from unittest.mock import patch

from torch import Tensor
from torch_fidelity import feature_extractor_inceptionv3 as published


def random_inception_2015() -> dict[str, Tensor]:
    """Of the layout that torch-fidelity publishes. Its class cannot be made without weights: it takes its own."""

    def own(network: published.FeatureExtractorInceptionV3, *_: object, **__: object) -> None:
        """Leaves the weights at random."""

    with (
        patch.object(published, "load_state_dict_from_url", return_value={}),
        patch.object(published.FeatureExtractorInceptionV3, "load_state_dict", own),
    ):
        network = published.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    return network.state_dict()
