#!/bin/bash
# One process per GPU on all nodes of a SLURM job, which requeues itself:
#
#   CONFIG=configs/jem_cifar10.py WORKDIR=/shared/runs/jem sbatch experiments/launch/slurm.sh
#
# Submit it from the root of the repository; all nodes must be able to write to WORKDIR.
#SBATCH --job-name=ebmjax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

# --gpus-per-node, not --gpus-per-task: JAX gives each task the GPU of its SLURM_LOCALID,
# and must see all GPUs of the node for that. --signal: every task gets SIGTERM 180 s
# before the time limit, and on preemption; it saves and exits with 75.

srun --kill-on-bad-exit=1 \
    python -m ebmjax.main --config="$CONFIG" --workdir="$WORKDIR" --distributed
code=$?
if [ "$code" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
