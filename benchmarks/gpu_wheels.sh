#!/usr/bin/env bash
# Gathers the wheels that benchmarks/gpu.py wants and a bare machine with PyTorch (CPython 3.12, x86-64 Linux) may lack,
# under 20 MB:
#
#   benchmarks/gpu_wheels.sh wheels/         # here
#   pip install --no-index --no-deps --target site wheels/*.whl && PYTHONPATH=site python benchmarks/gpu.py out=...
set -euo pipefail
target=${1:?"the folder for the wheels"}
python3 -m pip wheel --quiet --no-deps --wheel-dir "$target" \
  omegaconf==2.4.0 webdataset==1.0.2 braceexpand==0.1.7 diffusers==0.42.1 importlib_metadata==8.7.0 lpips==0.1.4 \
  denoising-diffusion-pytorch==2.3.4 ema-pytorch==0.8.3 pytorch-fid==0.3.0 pydantic==2.14.3 annotated-types==0.8.0 \
  typing-inspection==0.4.5 torch-fidelity==0.4.0
python3 -m pip download --quiet --no-deps --only-binary=:all: --dest "$target" --python-version 3.12 \
  --implementation cp --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 pydantic-core==2.50.4
du -sh "$target"
