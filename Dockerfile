# The checkout as an image, in Debian's Python, at the versions of the locks:
#
#   docker build --tag=alexnet_jax .
#   docker build --tag=alexnet_jax:cuda --build-arg=BACKEND=cuda .
#   docker run --volume=DATA:/data --volume=RUNS:/runs alexnet_jax \
#     train --config=configs/default.py
#
# Data sets are in /data, runs in /runs. docs/clusters.md has it on clusters.
ARG BASE=debian:trixie-slim
FROM $BASE

RUN apt-get update \
  && apt-get install --yes --no-install-recommends ca-certificates python3-venv \
  && rm -rf /var/lib/apt/lists/* \
  && python3 -m venv /venv
# Large pages for steps on CPUs (docs/running.md). Without the last two enroot
# (pyxis) shows a container no GPU.
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 \
  GLIBC_TUNABLES=glibc.malloc.hugetlb=1 \
  NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /alexnet_jax

# What it needs, before the code, which changes more often.
ARG BACKEND
COPY setup.cfg pyproject.toml README.md LICENSE requirements*.lock ./
COPY alexnet_jax/__init__.py alexnet_jax/
RUN pip install --no-cache-dir -c requirements.lock -c requirements-cuda.lock \
  ".[export,gcs,jpeg${BACKEND:+,$BACKEND}]" \
  && rm -rf build

COPY . .
RUN pip install --no-cache-dir --no-deps -e . \
  && useradd --create-home alexnet \
  && install --directory --owner=alexnet --group=alexnet /data /runs \
  && ln -s /runs runs
ENV ALEXNET_DATA_DIR=/data
VOLUME /data /runs
USER alexnet
ENTRYPOINT ["alexnet"]
CMD ["--help"]
