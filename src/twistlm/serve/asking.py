"""What may be asked of a continuation, with ranges; the same for HTTP and WebSocket."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

USUAL_SECONDS = 8.0
MOST_SECONDS = 600.0  # of any server; each has its own `Limits.seconds` below that
Name = Annotated[str, Field(min_length=1, max_length=200)]
Rate = Annotated[int, Field(ge=8_000, le=192_000)]


class Sampling(BaseModel):
    """How a recording is continued."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: Name | None = Field(default=None, description="Name of a model of /v1/models; default: the first.")
    voice: Name | None = Field(default=None, description="Name of a voice of /v1/models; default: the first.")
    seconds: float | None = Field(
        default=None,
        ge=0.2,
        le=MOST_SECONDS,
        description="About how long the continuation is; default: 8, or the longest that is made here.",
    )
    temperature: float = Field(default=0.8, ge=0.0, le=10.0, description="0 takes the likeliest unit.")
    top_k: int | None = Field(default=None, ge=1, le=65_535, description="Sample among the k likeliest units.")
    seed: int = Field(default=0, ge=0, lt=2**53, description="A seed gives the same units, whoever else is served.")


class Continue(Sampling):
    """Of POST /v1/continue."""

    stream: bool = Field(default=False, description="Server-sent events while it is made, instead of a wav at the end.")
    with_prompt: bool = Field(
        default=False, description="Put the recording itself before it in the wav; not with stream."
    )
    rate: Rate | None = Field(default=None, description="Hz of the sound; default: the voice's own.")
    transcript: bool = Field(
        default=False, description="Write down what was said, where an ASR is here; only with stream."
    )


class Resynth(BaseModel):
    """Of POST /v1/resynth."""

    model_config = ConfigDict(extra="forbid")

    voice: Name | None = Field(default=None, description="Name of a voice of /v1/models; default: the first.")
    durations: Literal["given", "predicted"] = Field(
        default="given", description="Keep each unit's length, or let the voice predict it."
    )
