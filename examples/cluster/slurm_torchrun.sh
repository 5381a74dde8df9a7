#!/bin/bash
# Several nodes with several ranks each: SHARED=/shared/me sbatch slurm_torchrun.sh
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@60

export JOURNALTRACK_MIRROR="${SHARED:?name your folder on the shared file system}/mirror"
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun torchrun --nnodes="$SLURM_NNODES" --nproc-per-node="${RANKS:-8}" \
    --rdzv-id="$SLURM_JOB_ID" --rdzv-backend=c10d --rdzv-endpoint="$first:29500" \
    "${TRAIN:-train.py}" &
step=$!
# To all ranks on all nodes. torchrun's own exit code does not tell why it ended.
trap 'stopped=1; scancel --signal=TERM "$SLURM_JOB_ID"' TERM
wait "$step"
code=$?
while kill -0 "$step" 2>/dev/null; do
    wait "$step"
    code=$?
done

# The epilog, on each node: what killed ranks left.
srun journaltrack mirror

if [ -n "${stopped:-}" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
