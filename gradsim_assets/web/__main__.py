"""`python -m gradsim_assets.web`: the server of the pages, a service of `gradsim ui`."""

from contextlib import nullcontext

import click


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=int, required=True, help="Port to listen on.")
@click.option("--dagster", required=True, help="Address of Dagster's UI, which pages link to.")
@click.option(
    "--read-only", is_flag=True, help="Show what there is and take no texts to trace: needs neither torch nor a GPU."
)
@click.option("--warm", is_flag=True, help="Import what traces need at once, not when their page is first opened.")
def main(host: str, port: int, dagster: str, read_only: bool, warm: bool) -> None:
    """Serve the front page, the reports, the comparison and traces until SIGINT or SIGTERM."""
    import uvicorn

    from gradsim_assets.configuration import load_settings
    from gradsim_assets.runs.environment import open_instance
    from gradsim_assets.runs.launcher import Launcher
    from gradsim_assets.runs.served_home import address_of, serving
    from gradsim_assets.web.app import create_app, names_of
    from gradsim_assets.web.site import Site
    from gradsim_assets.web.tracing import queue_of

    # Who wants a text traced must not be led here by the home.
    told = nullcontext() if read_only else serving(address_of(host, port))
    with open_instance(writes=False) as instance, told:
        site = Site(Launcher(instance), dagster)
        queue = None if read_only else queue_of(site)
        app = create_app(site, names_of(host, load_settings().web), queue)
        if queue and warm:
            queue.wake()
        uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=2)


if __name__ == "__main__":
    main()
