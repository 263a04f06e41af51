#!/bin/bash
# The eleven rows with random models as a Slurm array; one job is killed and queued again while it
# runs. After set_up.sh, from the repository: bash experiments/slurm/run.sh <folder for everything>
set -euo pipefail
out=$(realpath "$1")
python=${PYTHON:-.venv/bin/python}
tiny=(slm=tiny llm=tiny_phi3 data=synthetic embedder=hashed logger=none peft.r=8 cache="$out/cache")
tiny+=(data.reader.n_users=60 data.n_users=8 data.test_rows_per_user=6 adapter.rows_per_user=16)
slurm=(hydra/launcher=slurm hydra.launcher.cpus_per_task=1 hydra.launcher.gpus_per_node=null)
slurm+=(hydra.launcher.timeout_min=30 hydra.sweep.dir="$out/sweep")

"$python" -m persona_lab task=prepare "${tiny[@]}" hydra.run.dir="$out/prepare"
"$python" -m persona_lab -m experiment=table1 "${tiny[@]}" "${slurm[@]}" &
sweep=$!

# Row r10, task 2, trains four adapters: it is killed when the first of them is stored.
log="$out"/sweep/02-r10*/persona_lab.log
until grep -qs "adapter .* computed" $log; do sleep 0.2; done
task=$(squeue --noheader --array --format="%i" | grep "_2$")
echo "requeue $task" && scontrol requeue "$task"
wait "$sweep"
grep -h "adapter\|predictions" $log
