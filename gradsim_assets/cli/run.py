"""`gradsim run` and `gradsim demo`: everything that is missing or stale, for one model."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from gradsim_assets.cli.instance import FAILED, launcher
from gradsim_assets.cli.model_id import MODEL_ID
from gradsim_assets.configuration import Settings, load_settings
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.controls import untrained_id
from gradsim_assets.demo import DEMO

if TYPE_CHECKING:
    from gradsim_assets.defs.stages import Stage
    from gradsim_assets.runs.launcher import Launcher

#: How often a command looks again whether something has become stale meanwhile; what changes faster never ends.
_ROUNDS = 5


@click.command()
def demo() -> None:
    """Run everything on the embedded demo and on its untrained control, and say where the report is.

    \b
    Examples:
      gradsim demo
      gradsim report demo --open
    """
    launcher(writes=True).add_model(untrained_id(DEMO))
    run_part(DEMO, "all", force=False, settings=load_settings(), requested=("evaluation", "tokens"))


#: What `--only` leaves of the stages. The evaluation and tokens are made on request; what was once asked for is kept up to date by "all".
PARTS = {
    "all": (
        *("originals", "variants", "curvature", "index", "gradients", "index_recall"),
        *("evaluation", "retraining", "counterfactuals", "tokens"),
        *("analyses", "comparison"),
    ),
    "datasets": ("originals", "variants"),
    "gradients": ("originals", "variants", "curvature", "gradients"),
    "evaluation": (
        *("originals", "variants", "curvature", "gradients"),
        *("evaluation", "retraining", "counterfactuals"),
        "analyses",
    ),
    "index": ("originals", "index", "index_recall"),
    "tokens": ("originals", "variants", "curvature", "gradients", "tokens", "analyses"),
    "analyses": ("analyses", "comparison"),
    # The rest of the jobs, by their own names.
    "originals": ("originals",),
    "variants": ("originals", "variants"),
    "curvature": ("originals", "curvature"),
    "index_recall": ("originals", "index", "index_recall"),
    "retraining": ("originals", "variants", "curvature", "gradients", "retraining"),
    "counterfactuals": ("originals", "variants", "curvature", "gradients", "retraining", "counterfactuals", "analyses"),
    "comparison": ("comparison",),
}


#: The stages made on request that parts ask for.
_REQUESTED = {
    "evaluation": ("evaluation", "retraining", "counterfactuals"),
    "retraining": ("retraining",),
    "counterfactuals": ("retraining", "counterfactuals"),
    "tokens": ("tokens",),
}


@click.command()
@click.argument("model", type=MODEL_ID, required=False)
@click.option("--only", type=click.Choice([part for part in PARTS if part != "all"]), help="A part of the work alone.")
@click.option("--force", is_flag=True, help="Compute also what is there and up to date.")
def run(model: str | None, only: str | None, force: bool) -> None:
    """Materialise what is missing or stale for MODEL: datasets, gradients, analyses, report.

    Of a run with `checkpoints` under [[models]] it is done for each of its checkpoints, the earliest first. Without MODEL it is done for every model under [[models]] in gradsim.toml, one after the other.

    \b
    Examples:
      gradsim run
      gradsim run amd/AMD-OLMo-1B-SFT
      gradsim run amd/AMD-OLMo-1B-SFT@main --only gradients     the part that needs a GPU
      gradsim run ./my_model --only analyses                   the part that does not
      gradsim run demo --only evaluation                       what the scores mean
      gradsim run demo --only tokens                           the report's texts coloured by token
    """
    settings = load_settings()
    if only in ("index", "index_recall") and settings.index is None:
        raise InputError("no index is configured; put [index] into gradsim.toml first (gradsim.example.toml says how).")
    named = [model] if model else [one.id for one in settings.models]
    models = [one for name in named for one in _models_of(name, settings)]
    for one in models:
        if len(models) > 1 or one not in named:
            click.echo(f"model {one}:")
        run_part(one, only or "all", force, settings, _requested(one, only, settings))


def _models_of(model: str, settings: Settings) -> list[str]:
    """The model itself, or the checkpoints of a run in the order of their steps."""
    from gradsim_assets.resources.by_name import resources

    return resources(settings).hub.checkpoints(model) if model in settings.trajectories else [model]


def _requested(model_id: str, part: str | None, settings: Settings) -> tuple[str, ...]:
    """The stages made on request that a part asks for and that can be made of a model: it is retrained where the configuration
    says how."""
    requested = _REQUESTED.get(part or "", ())
    if "retraining" in requested and settings.training_of(model_id) is None:
        click.echo(f"{model_id} is not retrained: nothing under [training] says how it was made from the originals")
        return tuple(stage for stage in requested if stage == "evaluation")
    return requested


def run_part(model_id: str, part: str, force: bool, settings: Settings, requested: tuple[str, ...]) -> None:
    """Computes a part of what is missing or stale for a model and its registered controls, and tells the figures.

    Args:
        model_id: the model.
        part: one of PARTS.
        force: also what is up to date.
        settings: the configuration.
        requested: stages made on request that are asked for.
    """
    from gradsim_assets.cli.summary import print_summary
    from gradsim_assets.defs.stages import STAGES

    runs = launcher(launches=True)
    stages = stages_of(model_id, part, settings)
    # Controls first, for the report of the model shows their figures; all models are compared once, behind it.
    for control in controls_of(runs, model_id, part, settings):
        click.echo(f"control {control}:")
        own = [stage for stage in stages_of(control, part, settings) if stage.job != "comparison"]
        _up_to_date(runs, own, control, part, force, settings, requested=())
    rounds = _up_to_date(runs, stages, model_id, part, force, settings, requested)
    if part in ("all", "gradients") and (swept := runs.sweep(model_id)):
        click.echo(f"{swept} files of shards, subsets or slices that there are no more are removed")
    if not rounds:
        click.echo("Everything is there and up to date.")
    if "analyses" in PARTS[part]:
        print_summary(settings, model_id)
    if part == "analyses":
        _refuse_stale_inputs(runs, [stage for stage in STAGES if stage not in stages], model_id, settings)


def stages_of(model_id: str, part: str, settings: Settings) -> "list[Stage]":
    """The stages of one of PARTS for a model: gradients of what the index of a model gives need that index."""
    from gradsim_assets.core.candidates.candidate_choice import by_index
    from gradsim_assets.defs.stages import INDEX, STAGES
    from gradsim_assets.resources.by_name import resources

    asked = PARTS[part]
    if "gradients" in asked and by_index(resources(settings).hub.settings(model_id).candidates):
        asked += (INDEX.job,)
    return [stage for stage in STAGES if stage.job in asked]


def controls_of(runs: "Launcher", model_id: str, part: str, settings: Settings) -> list[str]:
    """The registered controls of a model; for analyses alone those that have gradient tables."""
    from gradsim_assets.core.tables.schemas import SETTINGS

    known = [control for control in settings.controls_of(model_id) if control in runs.models()]
    return [
        control for control in known if part != "analyses" or len(_absent_settings(control, settings)) < len(SETTINGS)
    ]


def _up_to_date(
    runs: "Launcher",
    stages: Sequence["Stage"],
    model_id: str,
    part: str,
    force: bool,
    settings: Settings,
    requested: tuple[str, ...],
) -> int:
    """Computes what is missing or stale for one model until nothing is, and returns how many rounds that took."""
    from gradsim_assets.core.tables.schemas import SETTINGS
    from gradsim_assets.resources.by_name import resources

    absent = _absent_settings(model_id, settings) if part == "analyses" else set()
    if absent == set(SETTINGS):
        raise InputError(
            f"{model_id} has no gradient tables yet; run it without --only analyses, or import its results."
        )
    if part != "analyses":
        resources(settings).hub.version_now(model_id)  # what is no model is not registered
    runs.add_model(model_id)
    rounds = 0
    while _one_round(runs, stages, model_id, part, force and not rounds, settings, absent, requested):
        rounds += 1
        if rounds == _ROUNDS:
            click.echo(
                f"✗ {model_id} is out of date again after {_ROUNDS} rounds: something changes all the time", err=True
            )
            sys.exit(FAILED)
    return rounds


def _one_round(
    runs: "Launcher",
    stages: Sequence["Stage"],
    model_id: str,
    part: str,
    force: bool,
    settings: Settings,
    absent: set[str],
    requested: tuple[str, ...],
) -> int:
    """Computes what is missing or stale now, stage by stage, and returns how many runs that took."""
    if part != "analyses":
        runs.observe(model_id, settings)
    ran = 0
    for stage in stages:
        if stage.job == "index_recall" and part == "index" and not _has_paraphrases(settings):
            continue  # which cost something, and nobody has asked for them
        for partition, assets in runs.turns(stage, model_id, force, stage.job in requested):
            assets = _with_inputs(assets, model_id, settings, absent) if part == "analyses" else assets
            if not assets:
                continue
            ran += 1
            outcome = runs.run(stage, partition, assets)
            where = f"{stage.job}{f' {partition}' if partition else ''}"
            if outcome.error:
                click.echo(f"✗ {where}: {outcome.error}", err=True)
                click.echo(
                    f"  run {outcome.run_id}; what finished before is kept, and the same command goes on there",
                    err=True,
                )
                sys.exit(FAILED)
            click.echo(f"✓ {where} ({len(assets)} asset{'s' if len(assets) > 1 else ''}, {outcome.seconds:.1f} s)")
    return ran


def _has_paraphrases(settings: Settings) -> bool:
    """Whether all shards are paraphrased."""
    from gradsim_assets.core.partition_keys import shard_keys
    from gradsim_assets.core.tables.schemas import PARAPHRASED
    from gradsim_assets.core.tables.storage import Partition, Tables

    shards = [Partition(shard=key) for key in shard_keys(settings.data.shards)]
    return all(Tables(settings.tables).exists([PARAPHRASED.name], shard) for shard in shards)


def _refuse_stale_inputs(runs: "Launcher", stages: Sequence["Stage"], model_id: str, settings: Settings) -> None:
    """Ends the command as failed where the analyses were made from tables that are stale themselves; imported ones never are."""
    from gradsim_assets.core.tables.storage import Tables
    from gradsim_assets.orchestration.asset_keys import table_path
    from gradsim_assets.orchestration.partitions import place_of

    graph, tables = runs.repository.asset_graph, Tables(settings.tables)
    stale = [
        target
        for target in runs.targets(stages, model_id, missing=False)
        if "imported"
        not in tables.provenance(
            table_path(target.asset_key), place_of(target.partition_key, graph.get(target.asset_key).partitions_def)
        )
    ]
    if stale:
        first = f"{stale[0].asset_key.to_user_string()} {stale[0].partition_key or ''}".strip()
        click.echo(
            f"✗ These figures are made from {len(stale)} stale partitions (such as {first}); `gradsim run {model_id}` "
            "computes them again.",
            err=True,
        )
        sys.exit(FAILED)


def _absent_settings(model_id: str, settings: Settings) -> set[str]:
    """Settings that a model has no gradient tables of: imported results may hold one alone."""
    from gradsim_assets.core.partition_keys import model_slug
    from gradsim_assets.core.tables.schemas import DOT_PRODUCTS, SETTINGS
    from gradsim_assets.core.tables.storage import Partition, Tables

    tables, slug = Tables(settings.tables), model_slug(model_id)
    return {s for s in SETTINGS if not tables.exists([DOT_PRODUCTS.name, s], Partition(slug, "00"))}


def _with_inputs(assets: list[Any], model_id: str, settings: Settings, absent: set[str]) -> list[Any]:
    """Those analyses whose gradient tables are there; imported results may hold sizes of their own, too."""
    from gradsim_assets.core.partition_keys import model_slug
    from gradsim_assets.core.tables.schemas import PARAMETERS_PER_COMPONENT, TABLES
    from gradsim_assets.core.tables.storage import Partition, Tables
    from gradsim_assets.orchestration.asset_keys import asset_key

    tables, slug = Tables(settings.tables), model_slug(model_id)
    sizes = [PARAMETERS_PER_COMPONENT.name]
    imported = tables.exists(sizes, Partition(slug)) and "imported" in tables.provenance(sizes, Partition(slug))
    left_out = {asset_key(schema.name, s) for schema in TABLES.values() for s in absent & set(schema.parts)}
    return [key for key in assets if key not in left_out and not (imported and key == asset_key(*sizes))]
