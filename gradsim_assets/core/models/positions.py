"""How many tokens a model takes, found by what its forward pass does.

A configuration names a context, under one of several names or not at all, and does not say whether the model ends there:
rotary models go on, while learned positions, tables of sines and buffers that are cut to length stop. So the pass itself
is tried: with the length in question where a sample is that long, and with few tokens before, to see whether tables of
positions are shorter than the configuration says.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from gradsim_assets.core.memory import ran_out
from gradsim_assets.core.models.description import CONTEXTS

#: Tokens of a short pass.
_SHORT = 6


def context_of(model: Any) -> int | None:
    """Tokens that a model was made for, as its configuration names them; None where it names none.

    Where a table of positions is shorter (RoBERTa and its kin keep two of them for padding), the tokens that the forward
    pass goes through.
    """
    named = named_context(model)
    if named is None or _has_no_weights(model):
        return named
    with torch.no_grad(), _Lookups(model) as lookups:
        logits_of(model, _one_token(model, _SHORT), last=1)
    if all(rows >= named for rows in lookups.positions) or takes(model, named):
        return named
    return longest_taken(model, named)


def named_context(model: Any) -> int | None:
    """The context in tokens that a model's configuration names; None where it names none."""
    config = model.config.get_text_config()
    values = [getattr(config, name, None) for name in CONTEXTS]
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def takes(model: Any, length: int) -> bool:
    """Whether the forward pass goes through `length` tokens, by trying it.

    A model without weights (on the meta device) has no rows to look up: there, whether it has a table of learned positions
    that is shorter.

    Raises:
        Exception: what the pass raises for lack of memory, or for any number of tokens.
    """
    if _has_no_weights(model):
        return not _has_shorter_table(model, length)
    try:
        with torch.no_grad(), _Lookups(model):
            logits_of(model, _one_token(model, length), last=1)
    except Exception as error:
        if ran_out(error) or length <= _SHORT:
            raise
        return False
    return True


def longest_taken(model: Any, limit: int) -> int:
    """The largest number of tokens up to `limit` that the forward pass goes through, by bisection."""
    low, high = 1, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if takes(model, middle) else (low, middle - 1)
    return low


def logits_of(model: Any, input_ids: torch.Tensor, last: int | None = None) -> torch.Tensor:
    """Logits [B, T, V] of one plain pass over token ids [B, T], without a cache, by a model that keeps nothing of it.

    With `last`, those of the last positions alone where the model can leave the others out.
    """
    accepted = inspect.signature(model.forward).parameters
    options: dict[str, Any] = {"use_cache": False} if "use_cache" in accepted else {}
    if last is not None and "logits_to_keep" in accepted:
        options["logits_to_keep"] = last
    with unchanged_state(model):
        return model(input_ids=input_ids.to(next(model.parameters()).device), **options).logits


@contextmanager
def unchanged_state(model: Any) -> Iterator[None]:
    """Gives modules their buffers and attributes back: some keep what they saw (rotary frequencies, recurrent states)."""
    kept = [(module, dict(vars(module)), dict(module._buffers)) for module in model.modules()]
    values = [(buffer, buffer._version, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for module, attributes, buffers in kept:
            vars(module).update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
        for buffer, version, value in values:
            if buffer._version != version:
                buffer.copy_(value)


def padding_of(model: Any) -> int | None:
    """The token that a model takes for padding: some leave it out when they count positions."""
    configured = getattr(model.config.get_text_config(), "pad_token_id", None)
    return configured if isinstance(configured, int) and configured >= 0 else None


def _has_no_weights(model: Any) -> bool:
    return bool(next(model.parameters()).is_meta)


def _has_shorter_table(model: Any, length: int) -> bool:
    """Whether positions beyond the context that is named would be looked up in a table without rows for them."""
    tables = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    rows = [table.num_embeddings for table in tables if table is not model.get_input_embeddings()]
    return any((named_context(model) or length) <= number < length for number in rows)


def _one_token(model: Any, length: int) -> torch.Tensor:
    return torch.full((1, length), 1 if padding_of(model) == 0 else 0)


class _Lookups(TorchFunctionMode):
    """Refuses lookups beyond the end of a table, and notes how many rows a model's tables have for its positions.

    CUDA checks no index before it looks and takes the process down; here IndexError is raised first.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.tables = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}
        #: Rows from that of the first position on, of every table that was looked up at rising positions.
        self.positions: list[int] = []

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = _lookup(func, args)
        if found is not None and found[2].numel() and not found[2].is_meta:
            table, rows, indices = found
            if not -rows <= int(indices.min()) <= int(indices.max()) < rows:
                raise IndexError(f"row {int(indices.max())} of a table of {rows} rows")
            steps = indices.reshape(-1)[-_SHORT:].diff()
            if len(steps) == _SHORT - 1 and bool((steps == 1).all()) and table.data_ptr() in self.tables:
                self.positions.append(rows - int(indices.min()))
        return func(*args, **kwargs)


def _lookup(func: Callable[..., Any], args: Any) -> tuple[torch.Tensor, int, torch.Tensor] | None:
    """The table, its number of rows and the rows asked for, where a function looks something up by number."""
    dimension = 0
    if func is F.embedding:
        indices, table = args[:2]
    elif func is torch.Tensor.__getitem__:
        table, indices = args
        indices = indices[0] if isinstance(indices, tuple) and indices else indices
    elif func in (torch.gather, torch.Tensor.gather, torch.index_select, torch.Tensor.index_select) and len(args) == 3:
        table, dimension, indices = args
    else:
        return None
    if not isinstance(indices, torch.Tensor) or indices.dtype not in (torch.int64, torch.int32) or not table.dim():
        return None
    return table, table.shape[dimension], indices
