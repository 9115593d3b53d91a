"""Everything that a user sets: `gradsim.toml` and the environment, read once when the definitions are built."""

import difflib
import hashlib
import os
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
)

from gradsim_assets.core.candidates.bm25 import ZeroScores
from gradsim_assets.core.candidates.candidate_choice import CandidateChoice, by_index, held_by_bm25
from gradsim_assets.core.candidates.candidate_count import Candidates
from gradsim_assets.core.datasets.layouts import ColumnName
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.evaluation.step import Optimizer
from gradsim_assets.core.home import gradsim_home
from gradsim_assets.core.models.answer_spans import LossOn
from gradsim_assets.core.models.controls import trained_id, untrained_id
from gradsim_assets.core.models.quantisation import Quantize
from gradsim_assets.core.models.revisions import Part, is_folder, whole_id
from gradsim_assets.core.models.tokenization import ContextPolicy
from gradsim_assets.core.models.trajectories import Checkpoint, checkpoint_of
from gradsim_assets.core.partition_keys import MAX_SHARDS, keys_pattern, model_slug
from gradsim_assets.core.training.recipe import TrainingRecipe
from gradsim_assets.demo import DEMO, EMBEDDED

#: The compute profile of gradients and generation, unless a model chooses another one.
HEAVY = "gpu"

#: Settings that say where things lie, which changes no value. In a file they are unknown keys; what to do instead.
_PLACES = {
    "home": "set GRADSIM_HOME in the environment instead",
    "tables": "set GRADSIM_TABLES in the environment instead",
    "web": "set GRADSIM_WEB in the environment instead",
    "folder": "relative paths begin at the folder of this file",
}


#: Where `gradsim ui` serves the front page and the reports, unless it is told otherwise.
WEB_PORT = 3001
WEB_ADDRESS = f"http://127.0.0.1:{WEB_PORT}"

#: USD per million tokens. A spending limit could not be kept with one that is no number, or negative.
Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _checked_cron(schedule: str) -> str:
    import dagster as dg

    try:
        dg.ScheduleDefinition(name="checked", job_name="checked", cron_schedule=schedule)
    except dg.DagsterInvalidDefinitionError as error:
        raise ValueError('must be five fields of cron, such as "0 2 * * *"') from error
    return schedule


#: Options of sbatch that `gradsim slurm` sets itself.
_OWN_OPTIONS = {"array", "chdir", "dependency", "job-name", "output", "parsable", "wrap"}

Options = dict[str, StrictBool | StrictInt | StrictStr]


def _checked_options(options: Options) -> Options:
    for name, value in options.items():
        if not re.fullmatch(r"[a-z][a-z-]*", name):
            raise ValueError(f"{name} is no long name of an option of sbatch, such as mem or cpus-per-task")
        if name in _OWN_OPTIONS:
            raise ValueError(f"{name} is set by gradsim slurm itself; leave it out")
        if value is False or "\n" in str(value):
            raise ValueError(f"{name} must be true, a number, or a text of one line")
    return options


#: What is asked of sbatch, by the long names of its options; true for one without a value.
SbatchOptions = Annotated[Options, AfterValidator(_checked_options)]

#: A value that a column of rows is compared with. Strict: 1 is not the text "1", nor true.
FilterValue = StrictStr | StrictBool | StrictInt | StrictFloat

#: When a schedule runs. Dagster would refuse a wrong one as definitions load, that is in every command.
Cron = Annotated[str, AfterValidator(_checked_cron)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _checked_owner(owner: str) -> str:
    if not re.fullmatch(r"team:[\w-]+|[^@\s]+@[^@\s]+\.[^@\s]+", owner):
        raise ValueError(f'{owner} is neither an address such as "ada@example.org" nor a team such as "team:nlp"')
    return owner


class ProjectSettings(_Section):
    """Whose it is."""

    owners: tuple[Annotated[str, AfterValidator(_checked_owner)], ...] = ()


class DataSettings(_Section):
    """Where samples come from and how they are cut up."""

    originals: str = DEMO
    paraphrases: str = DEMO
    samples: int = Field(default=0, ge=0)
    shards: int = Field(default=4, ge=1, le=MAX_SHARDS)
    candidates: CandidateChoice = 5
    retriever_tokens: Literal["whitespace", "model"] = "whitespace"
    retriever_model: str = ""
    zero_scores: ZeroScores = "random"
    columns: dict[ColumnName, str] = {}
    filter: dict[str, FilterValue | tuple[FilterValue, ...]] = {}
    loss_on: LossOn = "assistant"
    generate: Literal["last", "every"] = "last"


class ParaphraserSettings(_Section):
    """The chat model that rewrites samples when paraphrases = "openai"."""

    model: str = "gpt-4o-mini-2024-07-18"
    temperature: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    seed: int = 42
    concurrency: int = Field(default=16, ge=1)
    max_cost_usd: float = Field(default=5.0, ge=0)
    mode: Literal["live", "batch"] = "live"
    prices: dict[str, tuple[Price, Price]] = {}
    system_prompt: str = ""
    fields: dict[Literal["seed", "temperature", "max_completion_tokens"], str] = {}
    reasoning_tokens: int = Field(default=0, ge=0)
    deadline_seconds: float = Field(default=600.0, gt=0)
    timeout_seconds: float = Field(default=120.0, gt=0)


class ComputeSettings(_Section):
    """Where and how heavy steps run."""

    executor: Literal["in_process", "multiprocess", "k8s"] = "in_process"
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    devices: int = Field(default=1, ge=0)  # 0: all
    precision: Literal["fp32", "tf32"] = "fp32"
    memory_gib: float = Field(default=0, ge=0, allow_inf_nan=False)
    host_memory_gib: float = Field(default=0, ge=0, allow_inf_nan=False)
    price_per_hour: Price = 0
    projections: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.01, 0.05)
    projection: Literal["fast", "trak"] = "fast"
    projection_weighting: Literal["unbiased", "script"] = "unbiased"


class PreconditionerSettings(_Section):
    """What gradients are multiplied with before products, beside the plain ones."""

    methods: tuple[Literal["adam", "ekfac"], ...] = ()
    fisher: Literal["sampled", "empirical"] = "sampled"
    damping: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    # None: what the optimizer says. A smaller one could leave the range of fp32.
    epsilon: float | None = Field(default=None, ge=1e-12, allow_inf_nan=False)


class EvaluationSettings(_Section):
    """What is measured of the meaning of scores, by single optimizer steps and by retraining."""

    pairs: int = Field(default=64, ge=2)
    variants: int = Field(default=64, ge=2)
    top: int = Field(default=1, ge=1)
    draws: int = Field(default=3, ge=1)
    optimizer: Optimizer = "adam"
    learning_rate: float = Field(default=1e-5, gt=0, allow_inf_nan=False)
    subsets: int = Field(default=40, ge=2, le=MAX_SHARDS)
    removal_variants: int = Field(default=6, ge=1)
    removal_draws: int = Field(default=3, ge=1)
    at_once: int = Field(default=0, ge=0)


class AnalysisSettings(_Section):
    """What the analyses tell apart."""

    # None: the columns of the data that serve.
    group_by: tuple[Annotated[str, Field(min_length=1)], ...] | None = None


class IndexSettings(_Section):
    """How small the gradients are that the index of the originals holds, in how many parts, and how its recall is measured."""

    dimension: int = Field(default=2048, ge=64, le=2**16)
    slices: int = Field(default=1, ge=1, le=MAX_SHARDS)
    queries: int = Field(default=20, ge=1)


class SlurmSettings(_Section):
    """What the array jobs of `gradsim slurm` ask the cluster for."""

    options: SbatchOptions = Field(default_factory=dict)
    setup: tuple[str, ...] = ()
    at_once: int = Field(default=0, ge=0)


class TraceSettings(_Section):
    """How texts are traced over HTTP."""

    memory_gib: float = Field(default=1.0, ge=0, allow_inf_nan=False)

    @property
    def memory_bytes(self) -> int:
        """The same in bytes."""
        return int(self.memory_gib * 2**30)


class AutomationSettings(_Section):
    """How often models are looked at, once a user has switched the sensor and the schedules on."""

    observe_seconds: int = Field(default=300, ge=10)
    reconcile_cron: Cron = "15 * * * *"
    rerun_cron: Cron = "0 2 * * *"


class ModelSettings(_Section):
    """One model under study; everything but the id has a default."""

    id: str = Field(min_length=1)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    chat_template: str = "tulu"
    context: ContextPolicy = "auto"
    candidates: CandidateChoice | None = None  # None: data.candidates
    # Patterns of names, or what of an adapter; none: all of them, of an adapter those that it has trained.
    components: Literal["adapter", "merged"] | tuple[Annotated[str, Field(min_length=1)], ...] = ()
    quantize: Quantize = ""  # of an adapter's base
    part: Part = ""  # of a model that reads images as well
    profile: str = Field(default=HEAVY, min_length=1)
    base: str = ""
    # What the names of a run's checkpoints look like: the entry stands for each of them, and not for a model of its own.
    checkpoints: str = Field(default="", pattern=r"^([^/@.][^@]*)?$")
    controls: bool = False
    optimizer_state: str = ""
    training: TrainingRecipe | None = None  # what it names goes before what [training] names

    @property
    def shared(self) -> dict[str, Any]:
        """The settings that controls of the model, or its checkpoints, have, too; what says how it was trained is not theirs."""
        own = {"id", "base", "checkpoints", "controls", "optimizer_state", "training"}
        return self.model_dump(exclude=own, exclude_none=True)

    @property
    def choice(self) -> str:
        """Which components are chosen, such as "components=*.mlp.*"; "" where all are, or those that an adapter has trained."""
        if not self.components or self.components == "adapter":
            return ""
        return f"components={self.components if isinstance(self.components, str) else ','.join(self.components)}"

    def differing(self, default: "ModelSettings") -> str:
        """What decides values and is not as in `default`, such as "candidates=10 dtype=bfloat16"; "" where all is."""
        differing = [self.choice] if self.choice else []
        for name in ("candidates", "chat_template", "context", "dtype", "part", "quantize"):
            value = str(getattr(self, name))
            if value != str(getattr(default, name)):
                # The text of a template is no name; its hash tells two of them apart.
                short = value if re.sub("[:+]", "", value).isalnum() else hashlib.sha256(value.encode()).hexdigest()[:8]
                differing.append(f"{name}={short}")
        return " ".join(differing)


class Settings(_Section):
    """The whole configuration, with the places on disk."""

    project: ProjectSettings = ProjectSettings()
    data: DataSettings = DataSettings()
    paraphraser: ParaphraserSettings = ParaphraserSettings()
    compute: ComputeSettings = ComputeSettings()
    preconditioners: PreconditionerSettings = PreconditionerSettings()
    analysis: AnalysisSettings = AnalysisSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    trace: TraceSettings = TraceSettings()
    training: TrainingRecipe | None = None
    # None: no index of the originals is made.
    index: IndexSettings | None = None
    slurm: SlurmSettings = SlurmSettings()
    automation: AutomationSettings = AutomationSettings()
    models: tuple[ModelSettings, ...] = (ModelSettings(id=DEMO),)
    home: Path
    tables: str
    #: Where reports are served, for links to them; "" where they are not.
    web: str = ""
    #: Where relative paths in the file begin: its own folder.
    folder: Path = Path()

    @property
    def bases(self) -> dict[str, str]:
        """The base of every model that names one: the model before its fine-tuning."""
        return {model.id: model.base for model in self.models if model.base}

    @property
    def configured(self) -> list[str]:
        """Ids of the models that the configuration asks for: those listed, and their controls where it says so.

        Not those of `trajectories`, whose names it does not know.
        """
        asked = [
            one
            for model in self.models
            if not model.checkpoints
            for one in (model.id, *(self.controls_of(model.id) if model.controls else ()))
        ]
        return list(dict.fromkeys(asked))

    @property
    def trajectories(self) -> dict[str, str]:
        """What the names of checkpoints look like, by the id of the run that they are of."""
        return {model.id: model.checkpoints for model in self.models if model.checkpoints}

    def checkpoint_of(self, model_id: str) -> Checkpoint | None:
        """The checkpoint of a trajectory that a model is; None for others."""
        return checkpoint_of(model_id, self.trajectories)

    def ordered(self, model_ids: Iterable[str]) -> list[str]:
        """Ids of models by name, checkpoints of a run by their steps."""

        def place(model_id: str) -> tuple[str, int, str]:
            one = self.checkpoint_of(trained_id(model_id) or model_id)
            return (one.run, one.step, model_id) if one else (model_id, 0, model_id)

        return sorted(model_ids, key=place)

    def base_of(self, model_id: str) -> str | None:
        """The base of a model, as its entry or that of the run whose checkpoint it is names it; None where neither does."""
        one = self.checkpoint_of(model_id)
        return self.bases.get(model_id) or (self.bases.get(one.run) if one else None)

    def controls_of(self, model_id: str) -> list[str]:
        """Ids of the controls that a model can have: with random weights, and its base where one is named; a control has none."""
        if trained_id(model_id) is not None:
            return []
        base = self.base_of(model_id)
        return [untrained_id(model_id), *([base] if base else [])]

    def studied(self, model_ids: Collection[str]) -> dict[str, str]:
        """By the id of each control among some models the one of them that it is a control of."""
        return {control: model for model in model_ids for control in self.controls_of(model) if control in model_ids}

    def keys_of(self, model: ModelSettings) -> list[str]:
        """What the partition keys of a model, and of those of its controls that have no entry of their own, look like."""
        listed = {one.id for one in self.models}
        own = keys_pattern(model.id, model.checkpoints)
        controls = {model.base: model_slug(model.base)}
        if trained_id(model.id) is None:
            controls[untrained_id(model.id)] = untrained_id(own)
        return [own, *(key for control, key in controls.items() if control and control not in listed)]

    @property
    def most_candidates(self) -> Candidates:
        """The most candidates that any model asks BM25 for: what `bm25_candidates` holds."""
        asked = [held_by_bm25(choice) for choice in self._choices]
        return "all" if "all" in asked else max(k for k in asked if k != "all")

    @property
    def indexed(self) -> bool:
        """Whether candidates of any model come from its index."""
        return any(map(by_index, self._choices))

    @property
    def _choices(self) -> list[int | str]:
        """The candidates that models ask for."""
        return [self.data.candidates, *(model.candidates for model in self.models if model.candidates is not None)]

    @property
    def retriever_model(self) -> str | None:
        """The model whose tokenizer cuts the prompts for BM25, which serves all models; None where words are counted.

        Raises:
            InputError: none is named and several could be meant, or one is named that is not asked for.
        """
        named = self.data.retriever_model
        if self.data.retriever_tokens == "whitespace":
            if named:
                raise InputError(
                    f'data.retriever_model = "{named}" is used by data.retriever_tokens = "model" only; set that, or leave '
                    "retriever_model out."
                )
            return None
        if not named and len(self.models) != 1:
            raise InputError(
                'data.retriever_tokens = "model" makes one table of candidates for all models; say by data.retriever_model '
                "whose tokenizer cuts the prompts."
            )
        return named or self.models[0].id

    def training_of(self, model_id: str) -> TrainingRecipe | None:
        """How a model was made from the originals; None where nobody says, or where they are others than it was made from.

        The demo's recipe is known, and holds for its own data alone. A control has seen no originals: neither random weights nor
        the base that another model was made from. A recipe is that of a whole training, which no checkpoint of it has behind it,
        unless an entry of its own says so.
        """
        own = next((model.training for model in self.models if model.id == model_id), None)
        if trained_id(model_id) is not None or (own is None and model_id in self.bases.values()):
            return None
        if own is None and self.checkpoint_of(model_id) is not None:
            return None
        if model_id not in EMBEDDED:
            general = self.training or (TrainingRecipe() if own else None)
            return general.with_those_of(own) if general else None
        from gradsim_assets.demo.adapter import ADAPTER_RECIPE
        from gradsim_assets.demo.model import RECIPE

        whole = (self.data.originals, self.data.paraphrases, self.data.samples) == (DEMO, DEMO, 0)
        known = RECIPE.training if model_id == DEMO else ADAPTER_RECIPE.training
        return known.with_those_of(own) if whole else None

    @property
    def fingerprint(self) -> str:
        """Hash of everything that is configured, whatever the places on disk; 12 hex digits."""
        text = self.model_dump_json(exclude=set(_PLACES))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def config_file(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The configuration file in force: GRADSIM_CONFIG, or `gradsim.toml` if it is there.

    Raises:
        InputError: GRADSIM_CONFIG names a file that does not exist.
    """
    if named := environment.get("GRADSIM_CONFIG"):
        path = Path(named).expanduser()
        if not path.is_file():
            raise InputError(f"GRADSIM_CONFIG names {path}, which is no file; correct the path or unset the variable.")
        return path
    default = Path("gradsim.toml")
    return default if default.is_file() else None


def load_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings from the configuration file and the environment.

    Raises:
        InputError: the file is no TOML, or holds an unknown key or a value out of range.
    """
    path = config_file(environment)
    document: dict[str, Any] = {}
    if path is not None:
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not valid TOML: {error}.") from error
    home = gradsim_home(environment)
    places = {
        "home": home.folder,
        "tables": environment.get("GRADSIM_TABLES") or str(home.tables),
        "web": _web_address(environment.get("GRADSIM_WEB", WEB_ADDRESS)),
        "folder": path.absolute().parent if path else Path().absolute(),
    }
    if stray := [key for key in places if key in document]:
        raise InputError(f"{path}: unknown key {stray[0]}; {_PLACES[stray[0]]}.")
    try:
        settings = Settings.model_validate({**document, **places})
    except ValidationError as error:
        raise InputError(_sentence(str(path), error)) from error
    settings = _with_whole_ids(settings)
    if repeated := [m.id for i, m in enumerate(settings.models) if m.id in {n.id for n in settings.models[:i]}]:
        raise InputError(f"{path}: model {repeated[0]} is listed twice under [[models]]; keep one of them.")
    try:
        _ = settings.retriever_model
        _check_bases(settings)
        _check_trajectories(settings)
        _check_candidates(settings)
        _check_devices(settings)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return settings


def _web_address(text: str) -> str:
    """An address without the slash at its end; raises InputError where it is none that a browser opens."""
    parts = urlsplit(text)
    if text and (parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment):
        raise InputError(
            f"GRADSIM_WEB is {text}, which is no address of a web server; set it to one such as {WEB_ADDRESS}, or to nothing "
            "where reports are not served."
        )
    return text.rstrip("/")


def registered_id(model_id: str, base: Path) -> str:
    """The id by which a model is registered, from one as it was written; arguments and errors are those of `whole_id`."""
    if trained := trained_id(model_id):
        return untrained_id(registered_id(trained, base))
    return model_id if model_id in EMBEDDED else whole_id(model_id, base)


def _with_whole_ids(settings: Settings) -> Settings:
    models = [
        one.model_copy(
            update={
                **{
                    name: registered_id(value, settings.folder)
                    for name in ("id", "base")
                    if (value := getattr(one, name))
                },
                # Of checkpoints it is a file in the folder of each.
                "optimizer_state": one.optimizer_state
                if one.checkpoints or not one.optimizer_state
                else str(settings.folder / Path(one.optimizer_state).expanduser()),
            }
        )
        for one in settings.models
    ]
    named = settings.data.retriever_model
    whole = registered_id(named, settings.folder) if named else named
    data = settings.data.model_copy(update={"retriever_model": whole})
    return settings.model_copy(update={"models": tuple(models), "data": data})


def _check_bases(settings: Settings) -> None:
    """Raises InputError where a base is no model of its own, or it is not clear which settings it has."""
    for model in settings.models:
        if not model.base:
            continue
        if model.base == model.id or trained_id(model.base) is not None:
            raise InputError(
                f'base = "{model.base}" of {model.id} is no model that came before it; give the id of the model that was '
                "fine-tuned, or leave base out."
            )
        listed = any(one.id == model.base for one in settings.models)
        others = [one for one in settings.models if one.base == model.base and one.shared != model.shared]
        if others and not listed:
            raise InputError(
                f"{model.base} is the base of {model.id} and of {others[0].id}, whose settings differ, and would have those of "
                "both; list it under [[models]] with its own."
            )


def _check_trajectories(settings: Settings) -> None:
    """Raises InputError where an entry with checkpoints says what only a model of its own can have."""
    for model in settings.models:
        if not model.checkpoints:
            continue
        if model.id in EMBEDDED or trained_id(model.id) is not None:
            raise InputError(
                f"{model.id} is no training run and has no checkpoints; leave checkpoints out of its entry."
            )
        named = next((name for name in ("controls", "training") if getattr(model, name)), None)
        if named:
            raise InputError(
                f"{named} of {model.id} is that of one model, and the entry stands for all checkpoints of a run; give it in an entry of "
                f'the checkpoint that is meant (id = "{model.id}@NAME").'
            )
        if model.optimizer_state and not is_folder(model.id):
            raise InputError(
                f"optimizer_state of {model.id} is a file in the folder of each checkpoint, which branches and tags of the hub do not "
                "have here; leave it out, or download the run and give its folder."
            )


def _check_candidates(settings: Settings) -> None:
    """Raises InputError where candidates come from an index that there is not, or are not those of all checkpoints of a run."""
    named = [("data.candidates", settings.data.candidates)]
    named += [(f"candidates of {one.id}", one.candidates) for one in settings.models if one.candidates is not None]
    asked = next(((where, choice) for where, choice in named if by_index(choice)), None)
    if asked is None:
        return
    if settings.index is None:
        raise InputError(
            f'{asked[0]} = "{asked[1]}" looks in the index of a model, and none is configured; add the section [index], or let '
            'BM25 choose ("bm25:5").'
        )
    for model in settings.models:
        own = settings.data.candidates if model.candidates is None else model.candidates
        if model.checkpoints and by_index(own):
            raise InputError(
                f"the checkpoints of {model.id} are summed up over the same pairs, and each would have candidates by an index of its "
                'own; give its entry candidates = "all" or a number of BM25\'s.'
            )


def _check_devices(settings: Settings) -> None:
    """Raises InputError where a model is to be spread over several devices, and one is named."""
    devices, device = settings.compute.devices, settings.compute.device
    if devices != 1 and device not in ("auto", "cuda"):
        raise InputError(
            f'compute.devices = {devices} spreads a model over GPUs, and compute.device = "{device}" names one device; set it to '
            '"cuda" or "auto", or leave devices out.'
        )


def _section_of(parents: list[int | str]) -> Any:
    """The class of the section that an unknown key stands in."""
    if "training" in parents:
        return TrainingRecipe
    if not parents:
        return Settings
    return ModelSettings if parents[0] == "models" else Settings.model_fields[str(parents[0])].annotation


def _sentence(path: str, error: ValidationError) -> str:
    """The first fault of a configuration file in one sentence."""
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        *parents, key = fault["loc"]
        section = _section_of(parents)
        known = [name for name in getattr(section, "model_fields", {}) if name not in _PLACES]
        close = difflib.get_close_matches(str(key), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}."
        return f"{path}: unknown key {where}; {hint}"
    return f"{path}: {where} = {fault['input']!r} is not accepted ({fault['msg'].removeprefix('Value error, ')})."
