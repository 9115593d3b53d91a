"""docs/architectures.md: what the engine makes of every causal language model of transformers, as the sweep finds it.

`python -m gradsim_assets_tests.architectures.table` writes it anew.
"""

from pathlib import Path

import torch
import transformers

from gradsim_assets_tests.support.architectures import NOT_BUILT, tiny_causal_models
from gradsim_assets_tests.support.gradient_sweep import ALONE, BATCHED, REFUSED, Outcome, outcome

PAGE = Path(__file__).parents[2] / "docs/architectures.md"

NOT_TRIED = "not tried"

_HEAD = f"""# Architectures

Every causal language model of transformers {transformers.__version__} that a tiny random configuration can build went through a
pass of twelve samples, its gradients held formed, as factors and projected. All products and projections were compared with
those of a fresh float64 model per sample. None was off by more than 1e-5 of the lengths of a component's two gradients,
unless rounding moves plain fp32 autograd's own gradient as far (the pass names such components, as far as its checks see
them). `make test-architectures` does it again and asserts this table, and
`python -m gradsim_assets_tests.architectures.table` writes it.

| gradients | what that means |
| --- | --- |
| {BATCHED} | Every layer's gradient is made of its input and its output's gradient; samples go through side by side. |
| {ALONE} | Autograd forms the gradient of some parameters, or samples in a batch have other numbers than alone. |
| {REFUSED} | The sentence is what the user reads. |
| {NOT_TRIED} | No tiny configuration can be built. |

What goes in batches costs about as much as plain passes in batches. One by one costs as much as plain passes one by one.

Adapters of PEFT (LoRA and DoRA, as they are drawn and trained) stand the same comparison in llama, gpt2, gpt_neox, gemma2 and mixtral, and
every other kind that is taken in llama: `gradsim_assets_tests/core/gradients/test_adapters.py`. LoRA, DoRA and IA3 are in closed form
and go in batches, also where the whole model does not (its frozen parts need no gradients); token deltas, LoHa and LoKr go one by one.

| model | gradients | remark |
| --- | --- | --- |
"""


def row_of(name: str, found: Outcome) -> str:
    """A line of the table."""
    remark = " ".join(found.sentence.replace("|", "/").split())
    return f"| {name} | {found.what} | {remark} |".replace("|  |", "| |")


def committed_rows() -> dict[str, str]:
    """The lines of the table that is committed, by model."""
    _, _, table = PAGE.read_text().rpartition("| --- | --- | --- |\n")
    return {line.split(" | ")[0].removeprefix("| "): line for line in table.splitlines()}


def main() -> None:
    """Writes the page."""
    torch.set_num_threads(1)
    rows = {name: row_of(name, Outcome(NOT_TRIED, why)) for name, why in NOT_BUILT.items()}
    for name, build in tiny_causal_models():
        rows[name] = row_of(name, outcome(name, build))
        print(rows[name], flush=True)
    PAGE.write_text(_HEAD + "\n".join(rows[name] for name in sorted(rows)) + "\n")


if __name__ == "__main__":
    main()
