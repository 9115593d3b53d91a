"""Controls of a model: models that cannot know its originals, so that its figures can be set beside theirs."""

from gradsim_assets.core.seeds import stable_seed

#: The kinds of controls: the same configuration with random weights, and the model before it was fine-tuned.
UNTRAINED, BASE = "untrained", "base"

#: What stands behind a model's id (and behind its partition key) for the same model with random weights.
UNTRAINED_SUFFIX = f"+{UNTRAINED}"

#: What random weights are drawn by, the same for every model: equal configurations have equal controls.
UNTRAINED_SEED = stable_seed("untrained weights")


def untrained_id(model_id: str) -> str:
    """The id of a model's control with random weights."""
    return model_id + UNTRAINED_SUFFIX


def trained_id(model_id: str) -> str | None:
    """The model whose control with random weights an id stands for; None for the id of any other model."""
    return model_id.removesuffix(UNTRAINED_SUFFIX) if model_id.endswith(UNTRAINED_SUFFIX) else None


def control_kind(control: str) -> str:
    """The kind of a model that is known to be a control."""
    return BASE if trained_id(control) is None else UNTRAINED
