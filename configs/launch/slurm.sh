#!/bin/bash
# Trains on several nodes of a SLURM cluster, and resumes automatically after preemption and at the time limit.
#
#   sbatch configs/launch/slurm.sh config=domain64 data=/shared/photos out=/shared/runs/mine
#
# `out` and the data lie on a file system that all nodes see. Adapt the lines below; what follows the script's name goes
# to `sdedit train`.
#
#SBATCH --job-name=sdedit
#SBATCH --nodes=2
# One task for each GPU; `srun` starts them, and each finds its rank in SLURM's variables.
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
# As many as data.workers, and one more.
#SBATCH --cpus-per-task=5
#SBATCH --time=12:00:00
# Three minutes before the limit every task gets SIGUSR1: the step in progress ends, a checkpoint is written, and the
# training ends with the code 75. Allow more time if a step and a checkpoint take longer.
#SBATCH --signal=USR1@180
# After preemption (SIGTERM, which does the same) SLURM automatically puts the job into the queue again.
#SBATCH --requeue
# A restarted job appends to its output.
#SBATCH --open-mode=append
#SBATCH --output=sdedit-%j.out

# A task that fails ends the others. srun does so after ten minutes, and not at once: the code 75 comes from the
# first task, and the others would be killed with codes that hide it.
srun --kill-on-bad-exit=0 --wait=600 sdedit train \
    trainer.devices="$SLURM_NTASKS_PER_NODE" trainer.num_nodes="$SLURM_NNODES" trainer.enable_progress_bar=false "$@"
code=$?

# 75 is EX_TEMPFAIL: not done, to be started again. The same command resumes from the newest checkpoint.
if [ "$code" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
