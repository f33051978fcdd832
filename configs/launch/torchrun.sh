#!/bin/bash
# Trains on several machines without a cluster's scheduler: run it on each of them, with its number.
#
#   NODE_RANK=0 MASTER=first-machine configs/launch/torchrun.sh config=domain64 data=/shared/photos out=/shared/runs/mine
#   NODE_RANK=1 MASTER=first-machine configs/launch/torchrun.sh config=domain64 data=/shared/photos out=/shared/runs/mine
#
# NODES machines (2) with GPUS processes each (all GPUs); the first one listens on PORT (29500). `out` and the data lie on
# a file system that all of them see.
#
# To stop early with a checkpoint, send SIGTERM to torchrun on one machine: all devices end after the same step. torchrun
# gives them 30 seconds and ends with its own code, 1. Do not send it SIGUSR1: torchrun dies without stopping them.
NODES=${NODES:-2}
GPUS=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}

exec torchrun --nnodes="$NODES" --node-rank="${NODE_RANK:?number this machine, from 0}" --nproc-per-node="$GPUS" \
    --master-addr="${MASTER:?name the first machine}" --master-port="${PORT:-29500}" \
    --module sdedit_pl train trainer.devices="$GPUS" trainer.num_nodes="$NODES" "$@"
