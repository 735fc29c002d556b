"""How a verifier and a generator are trained: for `train verifier`, `train generator` and the file of `train loop`.

Every option of those commands is a field here, with its help. Nothing here imports torch.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from mucode_agent.types import Record

GROUP = 8
"""Programs that a verifier's training reads together, at most."""
LORA_RATE = 1e-4
"""Learning rate of a generator's LoRA adapters where none is given: a rate for all weights would hardly move them."""


class FitSettings(Record):
    """How a model is fine-tuned. The defaults of rate, epochs and batch are the caller's (paper, table 6)."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    epochs: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    """Passes over the data."""
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-6
    """Learning rate after the warm-up; it falls to 0 in a straight line."""
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
    """Compile the decoder blocks: on two cores half again as many tokens per second, after half a minute. Needs a C++
    compiler."""
    float32: bool = False
    """Multiply in float32 also where bfloat16 is faster."""
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    """Seed of the order of the data and of every random choice: same seed and data, same weights."""

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> "FitSettings":
        if self.batch_size % self.micro_batch:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of micro_batch {self.micro_batch}")
        return self


# --- the verifier ---------------------------------------------------------------------------------------------------

Loss = Literal["bt", "bce", "bt+bce"]
"""Bradley-Terry on pairs (eq. 3), binary cross-entropy on programs (eq. 2 as meant), or their sum."""


class HeldOutShare(Record):
    """Which problems calibrate a verifier, where no traces of other problems do."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    held_out_share: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Share of the training problems that are kept for calibration instead, where no other traces are given for it."""


class VerifierSettings(FitSettings):
    """How a verifier is trained. Rate, epochs and length are the paper's (table 6)."""

    batch_size: Annotated[int, Field(ge=1)] = 16
    """Groups of up to 8 programs in one optimiser step, over all devices."""
    micro_batch: Annotated[int, Field(ge=1)] = 2
    """Groups in one forward pass on one device."""
    loss: Loss = "bt"
    """Bradley-Terry on pairs of programs, binary cross-entropy on single programs, or their sum:"""
    start: Literal["logprob", "nothing"] = "logprob"
    """What the trained part is added to: the log-odds of the mean log-probability that the generator gave the program,
    where the traces hold it, or nothing:"""
    l2: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the mean squared logit; the authors' code has 1e-3."""
    per_problem: Annotated[int, Field(ge=2)] = 2 * GROUP
    """Distinct programs of one problem at most."""
    near_misses: bool = False
    """Keep the wrong programs that are nearest to right, rather than any."""
    max_tokens: Annotated[int, Field(ge=16)] = 2048
    """A program whose text is longer is left out and counted; nothing is cut off."""


class EvidenceSettings(Record):
    """What the card of an evidence verifier promises, and says of its origin."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    precision: Annotated[float, Field(ge=0.5, lt=1)] = 0.9
    """Evidence: share of right answers that acceptance without tests must keep."""
    source: str = ""
    """Evidence: where the problems come from and their licence, for the card."""
    also_known_as: tuple[str, ...] = ()
    """Evidence: another name of the traces' generator; may be repeated."""


# --- the generator --------------------------------------------------------------------------------------------------

ExpertMode = Literal["both", "oracle", "learned", "lexicographic"]
"""The paper's sum; R alone (its µCODE_OV, table 2); R_φ alone (µCODE_LV); R first and R_φ among equals."""
Unsolved = Literal["leave-out", "best-wrong"]
"""Problems without a right program: nothing is learned of them, or their best wrong program (the authors' code)."""
Pool = Literal["all", "final"]
"""D(x): the programs of all turns and candidates (the paper), or each trajectory's last program (the authors' code)."""
Method = Literal["mucode", "authors", "rft-single", "rft-multi", "rft-relabelled", "rft-verifier"]
"""See `training.relabel.METHODS`."""


class ExpertSettings(Record):
    """How the expert chooses. The defaults are the paper's (section 3.3)."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    mode: ExpertMode = "both"
    """What the expert chooses by: labels and scores, labels, scores, or labels first and scores among equals:"""
    beta_oracle: Annotated[float, Field(ge=0)] = 1.0
    """β_O of the expert `both`. A difference of logits above β_O/β_L outweighs the tests."""
    beta_learned: Annotated[float, Field(ge=0)] = 0.1
    """β_L of the expert `both`."""
    unsolved: Unsolved = "leave-out"
    """What is learned of a problem without a right program (of no effect under `learned`, which reads no labels):"""
    pool: Pool = "all"
    """Programs that the expert chooses from, all or the last one of each trajectory:"""

    @property
    def leaves_out_unsolved(self) -> bool:
        """Whether nothing is learned of a problem without a right program."""
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
    """Trajectories of a problem that `authors` relabels and `rft-verifier` keeps; the paper and the code have 3."""
    per_problem: Annotated[int, Field(ge=1)] | None = None
    """Rows of one problem at most, those of its first state and others drawn by the seed; default: all."""
    last_state: bool = True
    """`mucode` also pairs the state after a last turn that failed, which a longer search would meet."""
    seed: int = 0
    """Seed of the rows that are kept."""

    def needs_verifier(self, settings: ExpertSettings) -> bool:
        """Whether programs must be scored before rows can be made."""
        by_expert = self.method in ("mucode", "authors") and settings.needs_verifier
        return by_expert or self.method in ("authors", "rft-verifier")


class GeneratorSettings(FitSettings):
    """How a generator is trained. Rate, epochs, batch and length are the paper's (table 6) for full fine-tuning."""

    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5e-7
    """Learning rate after the warm-up; it falls to 0 in a straight line. Default: 5e-7, with LoRA 1e-4."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Rows in one optimiser step, over all devices."""
    micro_batch: Annotated[int, Field(ge=1)] = 2
    """Rows in one forward pass on one device."""
    max_tokens: Annotated[int, Field(ge=16)] = 4096
    """A row with more, prompt and answer together, is left out and counted; nothing is cut off."""

    @model_validator(mode="before")
    @classmethod
    def _rate_of_adapters(cls, given: Any) -> Any:
        return {"learning_rate": LORA_RATE, **given} if isinstance(given, dict) and given.get("lora_rank") else given
