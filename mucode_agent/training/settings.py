"""How a verifier and a generator are trained: for `train verifier`, `train generator` and the file of `train loop`.

Every option of those commands is a field here, with its help. Nothing here imports torch.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from mucode_agent.types import Record

GROUP = 8
"""Maximum programs that a verifier's training reads together."""
LORA_RATE = 1e-4
"""Default learning rate of a generator's LoRA adapters: the rate for all weights would hardly change them."""


class FitSettings(Record):
    """How a model is fine-tuned. Subclasses set the defaults of rate, epochs and batch (paper, table 6)."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    epochs: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    """Passes over the data."""
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-6
    """Learning rate after the warm-up; it then falls linearly to 0."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Examples in one optimiser step, over all devices."""
    micro_batch: Annotated[int, Field(ge=1)] = 2
    """Examples in one forward pass on one device."""
    lora_rank: Annotated[int, Field(ge=0)] = 0
    """Rank of LoRA adapters, merged into the weights at the end; 0 trains the weights themselves."""
    last_layers: Annotated[int, Field(ge=0)] = 0
    """Train only this many of the last decoder blocks, which is cheaper; 0 trains all."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the steps in which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Weight decay of AdamW."""
    save_steps: Annotated[int, Field(ge=1)] = 50
    """Optimiser steps between checkpoints; a killed run continues from the last one."""
    compile: bool = False
    """Compile the decoder blocks: 1.5 times the tokens per second on two cores, after half a minute. Needs a C++
    compiler.
    """
    float32: bool = False
    """Multiply in float32 even if bfloat16 is faster."""
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    """Seed of the data's order and of every random choice: the same seed and data give the same weights."""

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> "FitSettings":
        if self.batch_size % self.micro_batch:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of micro_batch {self.micro_batch}")
        return self


# --- the verifier ---------------------------------------------------------------------------------------------------

Loss = Literal["bt", "bce", "bt+bce"]
"""Bradley-Terry on pairs (eq. 3), binary cross-entropy on programs (eq. 2), or their sum."""


class HeldOutShare(Record):
    """Which problems calibrate a verifier, if no separate traces do."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    held_out_share: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Share of the training problems that is used for calibration instead, if no other traces are given for it."""


class VerifierSettings(FitSettings):
    """How a verifier is trained. Rate, epochs and length are the paper's (table 6)."""

    batch_size: Annotated[int, Field(ge=1)] = 16
    """Groups of up to 8 programs in one optimiser step, over all devices."""
    micro_batch: Annotated[int, Field(ge=1)] = 2
    """Groups in one forward pass on one device."""
    loss: Loss = "bt"
    """Bradley-Terry on pairs of programs, binary cross-entropy on single programs, or their sum:"""
    start: Literal["logprob", "nothing"] = "logprob"
    """The start, to which the trained part is added: log-odds from the generator's mean log-probability of the program,
    if the traces have it, or nothing:
    """
    l2: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the mean squared logit; the authors' code has 1e-3."""
    per_problem: Annotated[int, Field(ge=2)] = 2 * GROUP
    """Maximum distinct programs of one problem."""
    near_misses: bool = False
    """Keep the wrong programs that are nearest to right, instead of random ones."""
    max_tokens: Annotated[int, Field(ge=16)] = 2048
    """Maximum tokens of a program's text; longer ones are left out and counted, not truncated."""


class EvidenceSettings(Record):
    """The promised precision and the origin in an evidence verifier's card."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    precision: Annotated[float, Field(ge=0.5, lt=1)] = 0.9
    """Evidence verifier: least precision of answers accepted without tests."""
    source: str = ""
    """Evidence verifier: source and licence of the problems, for the card."""
    also_known_as: tuple[str, ...] = ()
    """Evidence verifier: another name of the traces' generator; may be repeated."""


# --- the generator --------------------------------------------------------------------------------------------------

ExpertMode = Literal["both", "oracle", "learned", "lexicographic"]
"""The paper's sum; R alone (its µCODE_OV, table 2); R_φ alone (µCODE_LV); R first and R_φ among equals."""
Unsolved = Literal["leave-out", "best-wrong"]
"""Problems without a right program: skip them, or learn their best wrong program (the authors' code)."""
Pool = Literal["all", "final"]
"""D(x): the programs of all turns and candidates (the paper), or each trajectory's last program (the authors' code)."""
Method = Literal["mucode", "authors", "rft-single", "rft-multi", "rft-relabelled", "rft-verifier"]
"""See `training.relabel.METHODS`."""


class ExpertSettings(Record):
    """How the expert chooses a program. The defaults are the paper's (section 3.3)."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    mode: ExpertMode = "both"
    """The expert chooses by labels and scores, labels, scores, or labels first and scores among equals:"""
    beta_oracle: Annotated[float, Field(ge=0)] = 1.0
    """β_O of the expert `both`. A difference of logits above β_O/β_L outweighs the tests."""
    beta_learned: Annotated[float, Field(ge=0)] = 0.1
    """β_L of the expert `both`."""
    unsolved: Unsolved = "leave-out"
    """What to learn of a problem without a right program (no effect with `learned`, which reads no labels):"""
    pool: Pool = "all"
    """Programs that the expert chooses from: all, or the last one of each trajectory:"""

    @property
    def leaves_out_unsolved(self) -> bool:
        """Whether a problem without a right program is skipped."""
        return self.mode != "learned" and self.unsolved == "leave-out"

    @property
    def needs_verifier(self) -> bool:
        return self.mode != "oracle" and not (self.mode == "both" and self.beta_learned == 0)


class RelabelSettings(Record):
    """Which states are paired with which answers."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    method: Method = "mucode"
    """Which states are paired with which programs:"""
    top: Annotated[int, Field(ge=1)] = 3
    """Trajectories per problem that `authors` relabels and `rft-verifier` keeps; the paper and the code have 3."""
    per_problem: Annotated[int, Field(ge=1)] | None = None
    """Maximum rows of one problem: those of its first state, and others drawn with the seed; default: all."""
    last_state: bool = True
    """`mucode` also pairs the state after a failed last turn, which a longer search would visit."""
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    """Seed for drawing the rows that are kept."""

    def needs_verifier(self, settings: ExpertSettings) -> bool:
        """Whether programs must be scored before rows can be made."""
        by_expert = self.method in ("mucode", "authors") and settings.needs_verifier
        return by_expert or self.method in ("authors", "rft-verifier")


class GeneratorSettings(FitSettings):
    """How a generator is trained. Rate, epochs, batch and length are the paper's (table 6) for full fine-tuning."""

    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5e-7
    """Learning rate after the warm-up; it then falls linearly to 0. Default: 5e-7, with LoRA 1e-4."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Rows in one optimiser step, over all devices."""
    micro_batch: Annotated[int, Field(ge=1)] = 2
    """Rows in one forward pass on one device."""
    max_tokens: Annotated[int, Field(ge=16)] = 4096
    """Maximum tokens of a row, prompt and answer together; longer rows are left out and counted, not truncated."""

    @model_validator(mode="before")
    @classmethod
    def _rate_of_adapters(cls, given: Any) -> Any:
        return {"learning_rate": LORA_RATE, **given} if isinstance(given, dict) and given.get("lora_rank") else given
