#!/bin/bash
# The same program on every host of a Cloud TPU pod slice:
#
#   TPU=my-v4-32 ZONE=us-central2-b CONFIG=configs/jem_cifar10.py WORKDIR=/mnt/runs/jem \
#       experiments/launch/tpu_pod.sh
#
# It needs on every host: the repository in ~/ebmjax with `pip install -e .` and jax[tpu],
# prepared data, and a file system that all hosts share (Filestore over NFS) at /mnt/runs.
# After an interruption the same command resumes the run.
set -euo pipefail

gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="cd ~/ebmjax &&
    python -m ebmjax.main --config='$CONFIG' --workdir='$WORKDIR' --distributed"
