"""The chat model that rewrites samples, as an asset takes it."""

import os
from pathlib import Path

import dagster as dg

from gradsim_assets.core.datasets.paraphrasing import PRICES, SYSTEM_PROMPT, ParaphraserOptions


class Paraphraser(dg.ConfigurableResource):
    """`[paraphraser]` of gradsim.toml. Key and address come from the environment when a run asks, and are never stored."""

    store: str
    model: str
    temperature: float
    seed: int
    concurrency: int
    max_cost_usd: float
    mode: str
    prices: dict[str, list[float]]
    system_prompt: str
    fields: dict[str, str]
    reasoning_tokens: int
    deadline_seconds: float
    timeout_seconds: float

    def options(self) -> ParaphraserOptions:
        """The options of a call, with OPENAI_API_KEY and OPENAI_BASE_URL as they are now."""
        configured = {model: (price[0], price[1]) for model, price in self.prices.items()}
        return ParaphraserOptions(
            store=Path(self.store),
            model=self.model,
            temperature=self.temperature,
            seed=self.seed,
            concurrency=self.concurrency,
            max_cost_usd=self.max_cost_usd,
            base_url=os.environ.get("OPENAI_BASE_URL"),
            api_key=os.environ.get("OPENAI_API_KEY"),
            prices={**PRICES, **configured},
            system_prompt=self.system_prompt or SYSTEM_PROMPT,
            fields=self.fields,
            reasoning_tokens=self.reasoning_tokens,
            deadline_seconds=self.deadline_seconds,
            timeout_seconds=self.timeout_seconds,
            mode="batch" if self.mode == "batch" else "live",
        )
