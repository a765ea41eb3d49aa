# rlsuite in a container; runs as a user without rights, results go to the volume /runs.
#
#   docker build -t rlsuite --build-arg TORCH_INDEX=URL .      # CPU: URL of PyTorch's CPU wheels, see its start page
#   docker build -t rlsuite:cuda .                             # what PyPI has: torch with CUDA
#   docker run -v "$PWD/runs:/runs" rlsuite train sac --env HalfCheetah --out /runs/cheetah
#   docker run --gpus all -v "$PWD/runs:/runs" rlsuite:cuda train sac --env HalfCheetah --preset massive --out /runs/big

FROM python:3.12-slim

# g++ compiles updates; EGL and OSMesa draw without a display.
RUN apt-get update && apt-get install -y --no-install-recommends g++ libegl1 libosmesa6 \
    && rm -rf /var/lib/apt/lists/*

ARG TORCH_INDEX=
RUN pip install --no-cache-dir torch ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY rlsuite rlsuite
RUN pip install --no-cache-dir '.[warp,dmc,box2d,offline,log,video,export,report,sweep,hub]'

RUN useradd --create-home runner && mkdir /runs && chown runner /runs
USER runner
WORKDIR /runs
VOLUME /runs
ENTRYPOINT ["rlsuite"]
CMD ["--help"]
