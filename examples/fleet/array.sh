#!/bin/bash
# One task of an array: sync and export one line of LIST, a file with the folder of a journal in each
# line. RATE is what all tasks together may send a second, AT_ONCE how many run at a time.
#
#   Slurm:      sbatch --array=0-99%8 --export=ALL,LIST=/shared/list,DATASET=/shared/lake array.sh
#   AWS Batch:  an array job of size 100 with this command, and LIST and DATASET in its environment
#   Kubernetes: kubernetes.yaml
#
# A task that is killed, or runs twice, does no harm: start it again.
set -u

index=${SLURM_ARRAY_TASK_ID:-${AWS_BATCH_JOB_ARRAY_INDEX:-${JOB_COMPLETION_INDEX:?is this an array job?}}}
journal=$(sed -n "$((index + 1))p" "${LIST:?name the list of journals}")
if [ -z "$journal" ]; then
    echo "line $((index + 1)) of $LIST is empty" >&2
    exit 2
fi

if [ -n "${RATE:-}" ]; then
    share=$(awk -v rate="$RATE" -v tasks="${AT_ONCE:-1}" 'BEGIN {print rate / tasks}')
    export JOURNALTRACK_REQUESTS_PER_S=$share
fi

# 7: another process holds the lease, such as the first run of a task that was started again.
for _ in $(seq "${ATTEMPTS:-5}"); do
    journaltrack sync "$journal"
    code=$?
    [ "$code" -eq 7 ] || break
    sleep "${PAUSE:-30}"
done

# What became of the entries is worth exporting, also if not all of them arrived.
if [ -n "${DATASET:-}" ]; then
    journaltrack export "$journal" --to "$DATASET" || code=$?
fi
exit "$code"
