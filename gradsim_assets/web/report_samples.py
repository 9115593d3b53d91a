"""Samples that a report asks its server for: of very many variants the page holds some."""

from fastapi import APIRouter, Query, Response

from gradsim_assets.configuration import load_settings
from gradsim_assets.core.analysis.report.explored import explored, matching
from gradsim_assets.core.analysis.report.packing import json_bytes
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.partition_keys import shard_keys
from gradsim_assets.core.tables.schemas import PARAMETERS_PER_COMPONENT, SAMPLE_COLUMNS, SETTINGS
from gradsim_assets.core.tables.storage import Partition
from gradsim_assets.defs.analysis.report import sources_of
from gradsim_assets.resources.table_store import TableStore
from gradsim_assets.web.site import NotThereError, Site

#: Samples that one call finds.
MOST = 20


def router(site: Site) -> APIRouter:
    """`/api/reports/<partition key>/<setting>?find=TEXT`."""
    routes = APIRouter()

    @routes.get("/api/reports/{slug}/{setting}")
    def samples(
        slug: str,
        setting: str,
        find: str = Query(description="id, or a part of the text of a variant or of its original", max_length=1000),
        products: str = Query(
            "", description="fingerprint of the products that the report was made from; none for those of now"
        ),
    ) -> Response:
        """Samples of a model's results as its report shows them: at most 20 of which the id or a text holds what is to be found."""
        if not find.strip():
            raise InputError("there is nothing to find; give an id or a part of a text.")
        settings = load_settings()
        model, store = site.model(slug), TableStore(root=settings.tables)
        sources = sources_of(settings, store, model.slug, shard_keys(settings.data.shards))
        if setting not in SETTINGS or not sources.has(setting):
            raise NotThereError(f"{model.id} has no results of {setting}; `gradsim run {model.id}` makes them.")
        results = sources.setting(setting)
        if products and products != results.products:
            raise InputError(
                f"the results of {model.id} are not those any more that this report was made from; `gradsim run {model.id}` makes "
                "it anew."
            )
        originals = sources.originals()
        names = {setting: matching(find.strip(), results, originals, MOST)}
        found = explored(
            {setting: results},
            names,
            store.optional([PARAMETERS_PER_COMPONENT.name], [Partition(model.slug)]),
            originals,
            store.optional([SAMPLE_COLUMNS.name], [Partition()]),
        )
        return Response(json_bytes({"data": found.data, "texts": found.texts}), media_type="application/json")

    return routes
