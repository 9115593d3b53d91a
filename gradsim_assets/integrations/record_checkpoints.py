"""A callback of transformers' Trainer that keeps what the study of a training needs of it."""

import json
from collections.abc import Collection, Iterator
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import TrainerCallback

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.files import write_whole
from gradsim_assets.core.models.revisions import TRAINING_RECORD

#: The samples of the training in the order in which they were drawn, in the folder of the run.
SAMPLE_ORDER = "sample_order.jsonl"

#: Second moments of the optimizer, in every checkpoint of a run that saves no optimizer itself.
SECOND_MOMENTS = "second_moments.pt"

#: What PEFT puts before the names of a model's parameters.
_OF_PEFT = "base_model.model."


class RecordCheckpoints(TrainerCallback):
    """Saves checkpoints at chosen steps, and beside each of them what gradsim makes of a run.

        from gradsim_assets.integrations import RecordCheckpoints
        trainer = Trainer(..., callbacks=[RecordCheckpoints(steps=[10, 100, 1000])])
        trainer.train()

    It works with any trainer that is made of transformers' (TRL's, say) and with adapters of PEFT. Written are

    - `checkpoint-N` at the chosen steps, as the Trainer writes them, beside those that its own `save_strategy` asks for;
    - in every checkpoint `training_record.json`, with the learning rate of each step so far (of sums over checkpoints);
    - in every checkpoint `second_moments.pt`, where the Trainer saves no optimizer (`save_only_model`): `optimizer_state` of the
      preconditioner adam, which takes the `optimizer.pt` of other runs as it is;
    - in the run's folder `sample_order.jsonl`: a line for every time that the data was gone through, with the indices of samples in
      the order in which they were drawn, and the step behind which that was (a resumed training draws again what it skips then).
      Not for data without indices (streams).

    Only the main process writes.
    """

    def __init__(self, steps: Collection[int] = ()) -> None:
        """`steps` (from 1) are saved at beside those that the Trainer saves at itself.

        Raises:
            InputError: one of them is no step.
        """
        if wrong := [step for step in steps if not isinstance(step, Integral) or step < 1]:
            raise InputError(f"RecordCheckpoints cannot save at step {wrong[0]}; give whole numbers from 1 up.")
        self.steps = frozenset(int(step) for step in steps)
        #: By step; None where groups of parameters had different ones.
        self._rates: dict[int, float | None] = {}
        self._drawn: list[dict[str, Any]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuses what would delete the checkpoints again, goes on with the record of a resumed training, and watches the sampler."""
        if args.save_total_limit is not None:
            raise InputError(
                f"save_total_limit = {args.save_total_limit} deletes checkpoints that RecordCheckpoints is to keep; leave it out of the "
                "training arguments."
            )
        resumed = state.global_step > 0
        self._rates = _rates_of(_checkpoint(args, state)) if resumed else {}
        self._drawn = _order_of(Path(args.output_dir)) if resumed else []
        if state.is_world_process_zero:
            _watch_sampler(kwargs.get("train_dataloader"), self._drawn, state)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Notes the learning rate of the step that begins; None where groups of parameters have different ones."""
        rates = {float(group["lr"]) for group in kwargs["optimizer"].param_groups}
        self._rates[state.global_step + 1] = rates.pop() if len(rates) == 1 else None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Asks for a checkpoint at the chosen steps."""
        if state.global_step in self.steps:
            control.should_save = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Writes the record beside the checkpoint that was just saved."""
        if not state.is_world_process_zero:
            return
        folder = _checkpoint(args, state)
        known = {step: rate for step, rate in self._rates.items() if step <= state.global_step}
        record = {"step": state.global_step, "max_steps": state.max_steps, "learning_rates": known}
        write_whole(folder / TRAINING_RECORD, json.dumps(record))
        if args.save_only_model:
            torch.save(_second_moments(kwargs["model"], kwargs["optimizer"]), folder / SECOND_MOMENTS)
        self._write_order(Path(args.output_dir))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Writes the rest of the order of samples."""
        if state.is_world_process_zero:
            self._write_order(Path(args.output_dir))

    def _write_order(self, run: Path) -> None:
        if self._drawn:
            lines = "".join(f"{json.dumps(one)}\n" for one in self._drawn)
            write_whole(run / SAMPLE_ORDER, lines)


def _checkpoint(args: Any, state: Any) -> Path:
    """The folder of the checkpoint of the step that a training stands at."""
    return Path(args.output_dir, f"checkpoint-{state.global_step}")


def _rates_of(checkpoint: Path) -> dict[int, float | None]:
    """The learning rates that stand beside a checkpoint; none where there is no record."""
    file = checkpoint / TRAINING_RECORD
    if not file.is_file():
        return {}
    return {int(step): rate for step, rate in json.loads(file.read_text(encoding="utf-8"))["learning_rates"].items()}


def _order_of(run: Path) -> list[dict[str, Any]]:
    """What was drawn before a training was resumed."""
    file = run / SAMPLE_ORDER
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def _second_moments(model: Any, optimizer: Any) -> dict[str, Any]:
    """The state of an Adam by the names of parameters, without its first moments; empty for other optimizers."""
    names = {id(parameter): name.removeprefix(_OF_PEFT) for name, parameter in model.named_parameters()}
    optimizer = getattr(optimizer, "optimizer", optimizer)  # of accelerate
    kept = ("step", "exp_avg_sq", "max_exp_avg_sq")
    state, groups = {}, []
    for group in optimizer.param_groups:
        known = [one for one in group["params"] if id(one) in names and "exp_avg_sq" in optimizer.state.get(one, {})]
        for one in known:
            state[names[id(one)]] = {name: optimizer.state[one][name] for name in kept if name in optimizer.state[one]}
        groups.append(
            {"params": [names[id(one)] for one in known], "betas": group.get("betas"), "eps": group.get("eps")}
        )
    return {"state": state, "param_groups": groups}


def _watch_sampler(loader: Any, drawn: list[dict[str, Any]], state: Any) -> None:
    """Puts a sampler that notes what it draws in the place of the one that batches are made of, if there is one."""
    batches: Any = getattr(loader, "batch_sampler", None)
    batches = getattr(batches, "batch_sampler", batches)  # of all processes, where each has its share
    if isinstance(getattr(batches, "sampler", None), Sampler):
        batches.sampler = _Watched(batches.sampler, drawn, state)


class _Watched(Sampler[int]):
    """A sampler that notes in `drawn` what another one draws."""

    def __init__(self, sampler: Any, drawn: list[dict[str, Any]], state: Any) -> None:
        self._sampler, self._drawn, self._state = sampler, drawn, state

    def __iter__(self) -> Iterator[int]:
        indices: list[int] = []
        self._drawn.append({"behind_step": self._state.global_step, "indices": indices})
        for index in self._sampler:
            indices.append(int(index))
            yield index

    def __len__(self) -> int:
        return len(self._sampler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)
