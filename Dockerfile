# docker build -t sdedit .                                                                            for CPUs
# docker build -t sdedit --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .             for NVIDIA GPUs
# docker run --rm -v "$PWD/outputs:/sdedit/outputs" sdedit                                            runs `make demo`
# docker run --rm --gpus all -v "$PWD:/work" sdedit .venv/bin/sdedit train config=domain64 data=/work/photos out=/work/runs/mine
FROM python:3.12-slim

RUN apt-get update \
    && apt-get install --no-install-recommends --yes g++ make \
    && rm -rf /var/lib/apt/lists/*

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /sdedit
COPY . .
# The same versions of the same targets as outside of a container; the index adds the build of PyTorch.
RUN PIP_NO_CACHE_DIR=1 PIP_EXTRA_INDEX_URL=${TORCH_INDEX} make .venv/.package-installed

CMD ["make", "demo"]
