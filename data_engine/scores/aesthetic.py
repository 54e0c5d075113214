"""The LAION aesthetic score: a linear head over the image embedding of an open_clip model.

The heads of LAION (`sa_0_4_vit_l_14_linear`, `sa_0_4_vit_b_32_linear`) are fitted on the unit-length image
embeddings of OpenAI's ViT-L-14 and ViT-B-32 and answer about 1 (ugly) to 10 (beautiful); with another model the
number means nothing.
"""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_engine.errors import JobError


class AestheticHead:
    """`weight` (1 x D or D) and `bias` (1), read from a safetensors file.

    Raises:
        JobError: the file is missing, is not safetensors, or does not hold such a head.
    """

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        if not path.is_file():
            raise JobError(
                f"the aesthetic head {str(path)!r} is not a file; set scores.aesthetic_head to a safetensors "
                "file with weight and bias, or leave aesthetic out of scores.frame_scorers"
            )
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise JobError(
                f"{path} is not a safetensors file ({error}); convert the head"
            ) from error
        if not {"weight", "bias"} <= tensors.keys() or tensors["bias"].size != 1:
            shapes = {name: tensor.shape for name, tensor in tensors.items()}
            raise JobError(f"{path} holds {shapes}; expected weight (1 x D) and bias (1)")
        self._weight_D = tensors["weight"].astype(np.float32).ravel()
        self._bias = float(tensors["bias"].ravel()[0])
        self.backend = f"file:laion-head/{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"

    def score(self, embeddings_ND: NDArray[np.float32]) -> float:
        """The mean over pictures; rows are of unit length.

        Raises:
            JobError: the head is for embeddings of another width.
        """
        width = embeddings_ND.shape[1]
        if width != self._weight_D.size:
            raise JobError(
                f"the aesthetic head takes embeddings of {self._weight_D.size} numbers, the open_clip model "
                f"gives {width}; the LAION heads belong to OpenAI's ViT-L-14 (768) and ViT-B-32 (512)"
            )
        return float((embeddings_ND @ self._weight_D).mean() + self._bias)
