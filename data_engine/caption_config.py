"""The configuration of what says something about clips: captioners, their models, lints, categories and DSG-Video."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class _Config(BaseModel):
    # The docstrings of the fields are their descriptions in the launchpad of Dagster.
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class EndpointConfig(_Config):
    """A model behind an OpenAI-compatible chat completions server, such as vLLM.

    The limits hold for each worker process: the server sees them times the number of workers.
    """

    url: str = "http://127.0.0.1:8000/v1"
    """Where `/chat/completions` and `/models` lie."""
    model: str | None = None
    """The name under which the server offers the model."""
    api_key_variable: str | None = None
    """The environment variable, of every worker, that holds the key. The key itself is stored nowhere."""
    timeout_s: float = Field(default=120.0, gt=0)
    """Longest silence of the server within one request."""
    max_retries: int = Field(default=4, ge=0)
    """Further tries of a request that was refused for now, timed out or failed inside the server."""
    max_backoff_s: float = Field(default=30.0, ge=0)
    """Longest wait before a further try; the first is about a quarter of a second, each next one twice as long."""
    max_concurrency: int = Field(default=8, ge=1)
    """Requests that one worker has under way at a time."""
    max_new_tokens: int = Field(default=512, ge=1)
    """A longer answer counts as failed, because it is cut in the middle."""
    temperature: float = Field(default=0.2, ge=0)
    """0 always takes the likeliest token, and then nothing is asked twice."""

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url is {url!r}; it starts with http:// or https://")
        if "@" in url.split("/")[2]:
            raise ValueError(
                "url holds a user name or password; name a variable in api_key_variable"
            )
        return url.rstrip("/")


class TransformersConfig(_Config):
    """A chat model that transformers runs inside the worker. Code that comes with a model is never run."""

    model: str | None = None
    """A folder, or a repository of the hub; with safetensors weights and a chat template."""
    revision: str | None = None
    """Commit or tag of the repository; None takes the newest."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU if the worker has one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """`auto` takes the type in which the weights are stored."""
    frames_as: Literal["images", "video"] = "images"
    """How several frames of a clip are shown: as pictures one after another, or as one video, for models with an input of
    their own for it. A single frame is a picture if the model takes pictures."""
    batch_size: int = Field(default=4, ge=1)
    """Clips that are put to the model at once."""
    max_new_tokens: int = Field(default=512, ge=1)
    """A longer answer counts as failed, because it is cut in the middle."""
    temperature: float = Field(default=0.0, ge=0)
    """0 always takes the likeliest token, and then nothing is asked twice."""


Language = Literal[
    "ar",
    "de",
    "el",
    "en",
    "es",
    "fr",
    "he",
    "hi",
    "it",
    "ja",
    "ko",
    "nl",
    "pt",
    "ru",
    "th",
    "uk",
    "zh",
]
"""ISO 639-1."""


class LintConfig(_Config):
    """What a caption that a model wrote must look like. None turns a limit off."""

    language: Language | None = "en"
    min_words: int | None = Field(default=4, ge=1)
    """Where words are not set apart (Chinese, Japanese, Thai), letters count instead."""
    max_words: int | None = Field(default=400, ge=1)


class CategoryConfig(_Config):
    """The kinds of things that clips show, told from their captions."""

    backend: Literal["minilm", "endpoint"] = "minilm"
    """`minilm` is embedded and compares sentence embeddings; `endpoint` asks `captions.endpoint`."""
    names: tuple[str, ...] = (
        *("people", "animals", "nature", "city", "vehicles", "sports", "food", "indoor"),
        *("animation", "text/graphics", "technology", "other"),
    )
    """`other`, if it is there, takes what fits none. No names: no categories."""
    min_cosine: float = Field(default=0.28, ge=-1, le=1)
    """A caption fits none below this cosine (`minilm`)."""

    @field_validator("names")
    @classmethod
    def _check_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names) or not all(name.strip() for name in names):
            raise ValueError(f"names are {names}; they must differ, and none is empty")
        if set(names) == {"other"}:
            raise ValueError("names holds only 'other'; name something it could be other than")
        return names


ModelRole = Literal["endpoint", "vlm", "llm"]
"""The models of `CaptionConfig`, by the name of their field."""


class CaptionConfig(_Config):
    """Which captions are written, and what is asked of the models that write them."""

    captioners: tuple[Literal["template", "vlm", "endpoint", "frames_then_merge"], ...] = (
        "template",
    )
    """Each writes one caption for every clip; the first is the main one. `vlm` and `endpoint` show a
    model several frames at once (VCap in STIV); `frames_then_merge` has each frame described alone
    and the descriptions merged (FCapLLM). With none, clips keep the captions that came with their
    source, and one that had none goes without."""
    num_frames: int = Field(default=3, ge=1)
    """At most so many frames of a clip are shown, spread evenly over those that were kept; no more than
    `decode.frames_per_clip`."""
    prompt: str = (
        "These are frames of one video clip in order of time. Describe the clip in one paragraph: "
        "who or what is seen, what happens and how it moves, the setting, the style and the camera. "
        "Say only what can be seen, and write nothing but the description."
    )
    frame_prompt: str = (
        "Describe this picture in one or two sentences. "
        "Say only what can be seen, and write nothing but the description."
    )
    merge_prompt: str = (
        "The following lines describe frames of one video clip in order of time. Merge them into one "
        "paragraph that describes the clip. Add nothing that the lines do not say, do not speak of "
        "frames, and write nothing but the description."
    )
    """The descriptions follow it, numbered."""
    endpoint: EndpointConfig = EndpointConfig()
    vlm: TransformersConfig = TransformersConfig()
    llm: TransformersConfig = TransformersConfig()
    """Merges descriptions if `merged_by` says so. Text is enough for it."""
    frames_by: Literal["endpoint", "vlm"] = "endpoint"
    merged_by: Literal["endpoint", "vlm", "llm"] = "endpoint"
    judged: Literal["all", "first"] = "all"
    """Of which captions of a clip similarity, category and DSG-Video are asked. Filters look at the first in either
    case; with `all` the report compares the captioners."""
    lints: LintConfig = LintConfig()
    categories: CategoryConfig = CategoryConfig()

    def model_of(self, role: ModelRole) -> EndpointConfig | TransformersConfig:
        by_role = {"endpoint": self.endpoint, "vlm": self.vlm, "llm": self.llm}
        return by_role[role]

    @property
    def models_used(self) -> dict[ModelRole, EndpointConfig | TransformersConfig]:
        """The models that this configuration makes use of."""
        used: set[ModelRole] = set()
        if "endpoint" in self.captioners or (
            self.categories.names and self.categories.backend == "endpoint"
        ):
            used.add("endpoint")
        if "vlm" in self.captioners:
            used.add("vlm")
        if "frames_then_merge" in self.captioners:
            used |= {self.frames_by, self.merged_by}
        return {role: self.model_of(role) for role in sorted(used)}

    @model_validator(mode="after")
    def _check_models(self) -> "CaptionConfig":
        if len(set(self.captioners)) < len(self.captioners):
            raise ValueError(f"captioners are {self.captioners}; name none of them twice")
        for role, model in self.models_used.items():
            if model.model is None:
                raise ValueError(f"{role} is used but has no model; set captions.{role}.model")
        return self


class HallucinationConfig(_Config):
    """DSG-Video: whether the objects that a caption names are in the clip (STIV, section 3.5)."""

    backend: Literal["embedded", "endpoint", "transformers"] | None = None
    """Who judges; None checks nothing. `embedded` knows common nouns of ImageNet only."""
    num_frames: int = Field(default=3, ge=1)
    """Frames that are judged, spread evenly over those that were kept; no more than `decode.frames_per_clip`."""
    sentence: Literal["caption", "sentence"] = "caption"
    """What counts as a sentence for `dsg_video_s`: the whole caption, which is what the whole percents
    of the paper over 100 captions imply, or each grammatical sentence."""
    endpoint: EndpointConfig = EndpointConfig(temperature=0.0)
    """The judge, which sees frames."""
    question_endpoint: EndpointConfig | None = None
    """Writes the questions; None has the judge write them."""
    transformers: TransformersConfig = TransformersConfig()
    """Writes the questions and judges."""

    @model_validator(mode="after")
    def _check_models(self) -> "HallucinationConfig":
        if self.backend == "endpoint" and self.endpoint.model is None:
            raise ValueError("endpoint is used but has no model; set hallucination.endpoint.model")
        if self.backend == "transformers" and self.transformers.model is None:
            raise ValueError(
                "transformers is used but has no model; set hallucination.transformers.model"
            )
        return self
