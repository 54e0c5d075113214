"""Which frozen encoders a run sees its clips through."""

from typing import Literal, Self

from pydantic import model_validator

from modeling.settings import ConvSettings, FrozenModel, KLSettings


class EncoderConfig(FrozenModel):
    """The frozen encoders, by name. `*_model` is a hub id or a folder, where the encoder needs one."""

    autoencoder: Literal["patch_pca", "conv", "kl"]
    """`patch_pca` and `conv` are fitted on the frames of the run before its first stage."""
    autoencoder_model: str | None = None
    conv: ConvSettings = ConvSettings()
    """Size and fit of `conv`."""
    kl: KLSettings = KLSettings()
    """How `kl` is loaded and run: its subfolder and revision, slices and tiles."""
    text_encoder: Literal["minilm", "open_clip", "t5", "class_labels"]
    text_encoder_model: str | None = None
    text_encoder_weights: str | None = None
    """The `pretrained` tag of OpenCLIP."""
    class_names: tuple[str, ...] = ()
    """What the captions of class-conditional data say, one name each (`class_labels`)."""

    @model_validator(mode="after")
    def _needs_models(self) -> Self:
        if self.autoencoder == "kl" and self.autoencoder_model is None:
            raise ValueError("autoencoder 'kl' needs autoencoder_model: a hub id or a folder")
        for name, defaults in (("conv", ConvSettings()), ("kl", KLSettings())):
            if self.autoencoder != name and getattr(self, name) != defaults:
                raise ValueError(
                    f"encoders.{name} is set but autoencoder is {self.autoencoder!r}, which would ignore "
                    f"it; leave it out, or set encoders.autoencoder={name}"
                )
        if self.text_encoder in ("open_clip", "t5") and self.text_encoder_model is None:
            raise ValueError(f"text_encoder {self.text_encoder!r} needs text_encoder_model")
        if (self.text_encoder == "class_labels") != bool(self.class_names):
            raise ValueError(
                f"text_encoder {self.text_encoder!r} with {len(self.class_names)} class_names; "
                "'class_labels' needs them, the others take none"
            )
        return self
