"""How a model was made from its originals, so that it can be made again without some of them."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

_Share = Annotated[float, Field(ge=0, lt=1)]


class TrainingRecipe(BaseModel):
    """One training: where it starts, in which order samples come, and what is done with their gradients."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: The model that was fine-tuned: a hub id, hub id@revision or folder; empty: random weights of the model's own configuration.
    base: str = ""
    #: Of the random weights, the order of the samples, and dropout.
    seed: int = 42
    epochs: float = Field(default=3.0, gt=0, allow_inf_nan=False)
    #: In place of epochs; 0: epochs decide.
    steps: int = Field(default=0, ge=0)
    batch_size: int = Field(default=8, ge=1)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(default=2e-5, gt=0, allow_inf_nan=False)
    #: The learning rate rises linearly over so many steps, stays until this share of all steps, and falls linearly to this share
    #: of itself.
    warmup_steps: int = Field(default=0, ge=0)
    plateau: float = Field(default=0.0, ge=0, le=1)
    lowest: _Share = 0.0
    betas: tuple[_Share, _Share] = (0.9, 0.999)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    #: Longest gradient of a batch; longer ones are scaled down to it. 0: whatever comes.
    clip: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    #: bfloat16 is mixed precision: weights and the optimizer stay in float32.
    precision: Literal["float32", "bfloat16"] = "float32"
    label_smoothing: _Share = 0.0
    #: Share of the visits of a sample with the prompt of its paraphrase.
    reworded_prompts: _Share = 0.0

    def with_those_of(self, other: "TrainingRecipe | None") -> "TrainingRecipe":
        """This recipe with whatever the other one names."""
        if other is None:
            return self
        return self.model_copy(update={name: getattr(other, name) for name in other.model_fields_set})

    def learning_rate_factor(self, step: int, steps: int) -> float:
        """What the learning rate is multiplied with in a step (from 0) of so many."""
        rising = (step + 1) / self.warmup_steps if self.warmup_steps else 1.0
        falling = (steps - step) / ((1 - self.plateau) * steps) if self.plateau < 1 else 1.0
        return min(1.0, rising, max(self.lowest, falling))
