"""What a caller of the models can mend."""


class AutoencoderError(ValueError):
    """Frames, latents or weights that an autoencoder cannot take."""


class TextEncoderError(ValueError):
    """A text model that this code cannot read token states from."""


class WeightFlowError(ValueError):
    """The weights of a stage do not fit the network; the message lists every mismatch."""


class PretrainedError(ValueError):
    """A folder that holds no exported model, or one that is damaged."""
