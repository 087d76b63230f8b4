"""Every setting of the LLMs: who writes prompts, who follows them, who judges, at what price."""

import re
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Section(BaseModel):
    """Shared behaviour: frozen, no unknown keys, no silent conversions of nonsense."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,  # it may hold a key
    )

    @field_validator("*")
    @classmethod
    def _can_be_written(cls, value: object) -> object:
        """Half a character, as of an argument that is not UTF-8, could not be written down."""
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                raise ValueError("it has half a character (a lone surrogate); correct it") from None
        return value


Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantisation = Literal["none", "4bit"]


class AgentConfig(Section):
    """The LLM that writes prompts."""

    model: str = "smollm2-135m"
    """Embedded name, local folder or hub id."""
    adapter: str = "auto"
    """LoRA adapter to start from: a folder; "none" for a fresh one; "auto" takes the bundled
    warm-started writer where the agent is the embedded model, else none."""
    lora_rank: int = Field(16, ge=1)
    """Rank of a fresh adapter."""
    lora_alpha: int = Field(32, ge=1)
    """Scale of a fresh adapter."""
    temperature: float = Field(0.8, gt=0)
    """Sampling temperature; part of all log-probabilities."""
    max_prompt_tokens: int = Field(40, ge=1)
    """Length cap; a prompt that reaches it without ending is truncated and rejected."""
    meta_prompt: Literal["improve", "paper"] = "improve"
    """What the agent reads: the seed prompt and examples, or the paper's Fig. 6."""
    num_demonstrations: int = Field(5, ge=1)
    """Labelled training examples shown in the meta-prompt, fresh every step."""
    shown_prompt: Literal["seed", "leader"] = "seed"
    """Which prompt the meta-prompt asks to improve on: the seed prompt, or the one that leads by
    rating so far (the seed prompt at first). The paper's meta-prompt shows none."""


class ApiConfig(Section):
    """How a target outside this process is asked: a server's, or a function of the user's own."""

    base_url: str | tuple[str, ...] | None = None
    """Of an OpenAI-compatible server, such as http://localhost:8000/v1; null takes the provider's.
    With it, the model's name is sent to the server as it is. A list names several servers with the
    same model (replicas), which share the calls."""
    key_variable: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """The environment variable that holds the key; null takes the provider's, OPENAI_API_KEY with a
    base_url. Keys are read from the environment only."""
    concurrency: int | None = Field(None, ge=1)
    """Calls under way at once, at each replica; null: 8, and 1 for a function."""
    requests_per_minute: float | None = Field(None, gt=0)
    """Sent at this pace at most, to each replica; null: as fast as the server lets us."""
    timeout_seconds: float = Field(60.0, gt=0)
    """From sending a call to the last byte of its answer."""
    attempts: int = Field(8, ge=1)
    """How often a call is tried that fails for reasons which may pass, with growing pauses."""
    longest_pause_seconds: float = Field(30.0, ge=0)
    """Between two attempts. Of what the server itself asks for (Retry-After) up to 5 minutes are
    waited."""
    max_failed_share: float = Field(0.1, ge=0, lt=1)
    """The run stops, resumable, where more of the last 100 calls than this were given up after all
    attempts; 10 at least, where they are fewer. What a server refuses does not count."""
    labels: Literal["auto", "text"] = "auto"
    """auto: probabilities of the labels where the server gives them; text: always the answer it
    writes, right or wrong."""
    cache: bool = True
    """Answers are kept in the user's cache folder, so that nothing is paid for twice."""
    ask_ahead: bool = True
    """Begin with a prompt while the agent still writes the others of the step. No figure depends on
    it."""
    price_read: float | None = Field(None, ge=0)
    """Dollars for a million tokens that the target reads; null takes the price table's."""
    price_written: float | None = Field(None, ge=0)
    """The same for those it writes."""

    @field_validator("base_url", mode="before")
    @classmethod
    def _is_a_plain_url(cls, value: object) -> object:
        """One address as a text, several as a tuple."""
        if value is None:
            return None
        urls: list[str] = []
        for url in value if isinstance(value, list | tuple) else [value]:
            if not isinstance(url, str) or not re.fullmatch(r"https?://[^@\s?#\\]+", url):
                raise ValueError(
                    "it must begin with http:// or https://, without a user's name, blanks, ? or #"
                )
            url.encode("utf-8")  # half a character is a ValueError, too
            urls.append(url)
        if not urls or len({url.rstrip("/") for url in urls}) < len(urls):
            raise ValueError("it must name each server once")
        return tuple(urls) if len(urls) > 1 else urls[0]

    @property
    def base_urls(self) -> tuple[str, ...]:
        """The addresses given, () where the provider's is taken."""
        if self.base_url is None:
            return ()
        return (self.base_url,) if isinstance(self.base_url, str) else self.base_url


class RayConfig(Section):
    """Actors on a Ray cluster, each with a copy of the target, that share the calls.

    No figure depends on how many there are or which one answers.
    """

    actors: int = Field(2, ge=1)
    """How many."""
    address: str | None = Field(None, min_length=1)
    """Of a cluster that is there, such as ray://head:10001 or auto (the one that this machine is
    part of); null begins one on this machine, and ends it with the run."""
    cpus: int = Field(1, ge=1)
    """Cores of each actor."""
    gpus: float | None = Field(None, ge=0)
    """GPUs of each actor: 0 keeps the target on the CPU, 0.5 lets two actors share one. null: 1
    where this process uses one, else 0."""
    start_seconds: float = Field(300.0, gt=0)
    """How long to wait for a cluster to have room for all of them, or for an actor in the place
    of the last one that was lost."""

    @model_validator(mode="after")
    def _gpus_are_whole(self) -> Self:
        if self.gpus is not None and self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError("gpus must be whole above 1: a part of one cannot be shared then")
        return self


class TargetConfig(Section):
    """The frozen LLM that follows the prompt."""

    model: str = "smollm2-135m"
    """Embedded name, local folder, hub id, or PROVIDER/MODEL behind an API, such as
    openai/gpt-4o-mini; hub:ORG/MODEL where a hub id begins like a provider."""
    api: ApiConfig = ApiConfig()
    ray: RayConfig | None = None
    """Actors on a Ray cluster that hold the target, in the place of this process; null: none. For a
    checkpoint; needs the extra ray."""
    format: Literal["chat", "plain"] = "chat"
    """chat: the model's own chat template; plain: one raw text, as base models read it."""
    position: Literal["user", "system"] = "system"
    """Whether the prompt is the system message or part of the user message; a plain text and a
    prompt with placeholders have no system message."""
    order: Literal["prompt_first", "input_first"] = "prompt_first"
    """Which comes first where both share the user message."""
    input_format: str = "{text}"
    """How the input is shown to the target."""
    separator: str = "\n\n"
    """What stands between prompt and input where both share the user message."""
    max_answer_tokens: int | None = Field(None, ge=1)
    """Longest answer of a generation task; null takes the task's, or else the longest reference
    of train and half as much again, and 64 at least where the metric is no exact match. Where a
    server gives no probabilities of labels, also of an answer that names one (null: 32)."""
    answer_lines: Literal["all", "first", "last"] = "all"
    """Which lines of a generated answer count."""
    answer_after: str | None = Field(None, min_length=1)
    """Only what stands behind the last of these in a generated answer counts, such as "Answer:";
    an answer without it is empty."""
    max_batch_tokens: int = Field(4096, ge=16)
    """Tokens of one scoring batch, padding and repeated prefixes included."""
    dtype: Dtype | None = None
    """Of the target's weights, and of a judge's; null takes the run's. Where it is not the
    agent's, the target has its own copy of the weights, even of the same checkpoint."""
    quantize: Quantisation | None = None
    """The same for the run's quantize; "none" scores with full weights beside a 4-bit agent."""
    check_labels: bool = True
    """In 4 bits: refuse it unless its labels are those of the full weights on 99 % of 100 training
    examples. These weights are loaded beside it for that long."""

    @model_validator(mode="after")
    def _format_shows_the_text(self) -> Self:
        if self.input_format.count("{text}") != 1:
            raise ValueError("input_format must contain {text} exactly once, as in 'Text: {text}'")
        return self


class JudgeConfig(Section):
    """The LLM that rates generated answers, where the metric is "judge"."""

    model: str | None = None
    """Embedded name, local folder or hub id; null takes the target."""
    api: ApiConfig | None = None
    """How it is asked behind an API; null: as the target is."""
    rubric: str | None = Field(None, min_length=1)
    """What a good answer is; {reference} and {text} (the input) are filled in. null takes the
    task's, or else "The answer says the same as this reference: {reference}"."""


class LimitsConfig(Section):
    """What a whole run may cost, the final reading of test included; null: no limit.

    Checked before each call. What is needed to choose a prompt and to read test is kept free.
    """

    max_target_calls: int | None = Field(None, ge=1)
    """One call is one prompt with one example."""
    max_tokens: int | None = Field(None, ge=1)
    """Tokens that the target reads and writes, and a judge."""
    max_cost: float | None = Field(None, gt=0)
    """Dollars, by the price table or the prices given; answers that are on disk count as well, so
    that a run goes the same way a second time."""
    max_seconds: float | None = Field(None, gt=0)
    """Wall time, all attempts of a resumed run together."""
