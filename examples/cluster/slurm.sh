#!/bin/bash
# One node, or each task of an array: SHARED=/shared/me sbatch [--array=0-2] slurm.sh
#SBATCH --requeue
#SBATCH --open-mode=append
# A minute before the end, to this script alone.
#SBATCH --signal=B:TERM@60

export JOURNALTRACK_MIRROR="${SHARED:?name your folder on the shared file system}/mirror"

python "${TRAIN:-train.py}" &
training=$!
trap 'kill -TERM "$training"' TERM
wait "$training"
code=$?
# The signal ended that wait, not the training.
while kill -0 "$training" 2>/dev/null; do
    wait "$training"
    code=$?
done

# The epilog: what a killed training left, while the disk of this node is still there.
journaltrack mirror

# 143: the training ended by SIGTERM, and is not finished.
if [ "$code" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
