# Two images from one file:
#   docker build --target control -t gradsim-control:0.1.0 .   webserver, daemon, code server, run pods; no torch
#   docker build --target compute -t gradsim-compute:0.1.0 .   steps: the same and torch with CUDA, transformers, traker
#
# Build arguments:
#   BASE_IMAGE       any Debian with python3 >= 3.11 and venv. For the fast projector one with CUDA's compiler.
#   TORCH_INDEX_URL  another index for torch, for instance PyTorch's CPU-only wheels: 6 GB less, for tests.
#   EXTRAS           of the package: `s3`, `gcs` or `s3,gcs` for tables in object storage.
#   FAST_PROJECTOR   1 compiles traker's CUDA projector.
#   VERSION, REVISION  for the labels.
#
# Neither has an ENTRYPOINT: dagster-k8s gives run and step pods arguments only, and they are whole commands.

ARG BASE_IMAGE=python:3.11-slim-bookworm

# What pip has to be told, cut so that torch's layer depends on torch's pins alone: a bump of anything else leaves it.
FROM ${BASE_IMAGE} AS pins
COPY constraints.txt /pins/all.txt
RUN grep -Ei '^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+|sympy|mpmath|networkx|jinja2|markupsafe|filelock|fsspec|typing_extensions|numpy)==' \
      /pins/all.txt > /pins/torch.txt

# pip works from here on the images' environment (/opt/venv) and stays out of it.
FROM ${BASE_IMAGE} AS tools
RUN python3 -m venv /opt/tools && /opt/tools/bin/pip install --no-cache-dir -q build hatchling
ENV PATH=/opt/tools/bin:$PATH

# Our own wheel. A change of our code rebuilds this and the last, small layer of each image.
FROM tools AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY gradsim_assets gradsim_assets
RUN python -m build --wheel --no-isolation --outdir /dist

# The requirements of our wheel, without the package: this layer's key is pyproject.toml, not our code.
FROM ${BASE_IMAGE} AS requirements
COPY pyproject.toml /tmp/
ARG EXTRAS=""
RUN python3 -c "import sys, tomllib; p = tomllib.load(open('/tmp/pyproject.toml', 'rb'))['project']; \
more = lambda names: [r for n in names if n for r in p['optional-dependencies'][n]]; \
control = p['dependencies'] + more(sys.argv[1].split(',')); \
open('/control.txt', 'w').write('\n'.join(control)); \
open('/compute.txt', 'w').write('\n'.join(control + more(['compute'])))" "${EXTRAS}"

FROM ${BASE_IMAGE} AS base
RUN groupadd --gid 10001 gradsim \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin gradsim \
 && mkdir -p /opt/dagster/dagster_home /etc/gradsim /var/lib/gradsim /var/cache/huggingface \
 && chown 10001:10001 /opt/dagster/dagster_home /var/lib/gradsim /var/cache/huggingface \
 && python3 -m venv --without-pip /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_PYTHON=/opt/venv/bin/python \
    DAGSTER_HOME=/opt/dagster/dagster_home \
    GRADSIM_HOME=/var/lib/gradsim \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib

# What nobody runs goes: packages' tests, source maps of the UI, the Kubernetes client's second half for asyncio, Arrow's RPC, symbols; and
# the bytecode of modules that nobody imports, 60 in place of 150 MB (one that is forgotten here is compiled when it is used).
FROM base AS control-packages
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends binutils
COPY --from=pins /pins/all.txt /tmp/pins/all.txt
COPY --from=requirements /control.txt /tmp/pins/control.txt
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    /opt/tools/bin/pip install -q --no-compile -r /tmp/pins/control.txt -c /tmp/pins/all.txt \
 && cd /opt/venv/lib/python3*/site-packages \
 && find . -type d -name tests -prune -exec rm -rf {} + \
 && find . -name '*.js.map' -delete \
 && rm -rf kubernetes/aio pyarrow/include pyarrow/*flight* \
 && find . -name '*.so' -size +5M -not -path '*.libs/*' -exec strip --strip-unneeded {} + \
 && python -c "import dagster_webserver.cli, dagster._cli, dagster._daemon.cli, dagster._core.executor.step_delegating; \
import fastapi.staticfiles, dagster_k8s, dagster_postgres, psycopg2, polars, pyarrow.ipc, pyarrow.parquet, rank_bm25, sacrebleu.metrics.chrf, tokenizers, upath, huggingface_hub, openai, jinja2, hf_xet; \
import matplotlib.figure, matplotlib.backends.backend_agg, matplotlib.backends.backend_svg, plotly.offline; \
from plotly.graph_objects import Bar, Box, Figure, Heatmap, Scatter"

# The definitions are loaded once where the package can be written, so that what is found in its code need not be looked for by every pod.
FROM base AS control
COPY --from=control-packages /opt/venv /opt/venv
COPY --from=wheel /dist /tmp/dist
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    /opt/tools/bin/pip install -q --no-deps --no-index /tmp/dist/*.whl \
 && python -c "from gradsim_assets.definitions import defs; defs()"
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="gradsim-control" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /tmp
USER 10001:10001

FROM base AS compute-packages
COPY --from=pins /pins/torch.txt /tmp/pins/torch.txt
ARG TORCH_INDEX_URL=""
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    /opt/tools/bin/pip install -q $(grep -E '^torch==' /tmp/pins/torch.txt) \
      $([ -n "${TORCH_INDEX_URL}" ] && echo "--index-url ${TORCH_INDEX_URL}" || echo "-c /tmp/pins/torch.txt")
COPY --from=pins /pins/all.txt /tmp/pins/all.txt
COPY --from=requirements /compute.txt /tmp/pins/compute.txt
# Whatever torch is there stays: a CPU-only one has another local version than the pin.
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    /opt/tools/bin/pip list --format=freeze | grep -E '^torch==' > /tmp/pins/installed.txt \
 && grep -vE '^torch==' /tmp/pins/all.txt > /tmp/pins/rest.txt \
 && sed -i -E 's/^torch==.*/torch/' /tmp/pins/compute.txt \
 && /opt/tools/bin/pip install -q -r /tmp/pins/compute.txt -c /tmp/pins/rest.txt -c /tmp/pins/installed.txt
ARG FAST_PROJECTOR=0
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    if [ "${FAST_PROJECTOR}" = 1 ]; then \
      /opt/tools/bin/pip install -q setuptools wheel && /opt/tools/bin/pip install -q --no-build-isolation fast-jl; \
    fi

FROM compute-packages AS compute
COPY --from=wheel /dist /tmp/dist
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    /opt/tools/bin/pip install -q --no-deps --no-index /tmp/dist/*.whl \
 && python -c "from gradsim_assets.definitions import defs; defs()"
# Tiles and batches have many sizes: without it a GPU's memory is cut into pieces that the largest of them do not fit in.
ENV PYTORCH_ALLOC_CONF=expandable_segments:True
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="gradsim-compute" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /tmp
USER 10001:10001
