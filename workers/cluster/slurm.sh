#!/bin/bash
# A search on Slurm: `sbatch slurm.sh losssearch run … --workers ray`
# One Ray node per machine; the head and the search are on the first. Edit the #SBATCH lines.
#SBATCH --job-name=losssearch
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --exclusive
#SBATCH --time=08:00:00
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: sbatch $0 COMMAND…" >&2; exit 2; }

export OMP_NUM_THREADS=1 RAY_USAGE_STATS_ENABLED=0

# Two jobs on one machine must not meet: a port of our own, and a token that only we can read.
port=$((20000 + SLURM_JOB_ID % 20000))
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$PWD/.ray-token-$SLURM_JOB_ID"
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$RAY_AUTH_TOKEN_PATH")
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"; kill $(jobs -p) 2>/dev/null || true' EXIT

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
ip=$(srun --nodes=1 --ntasks=1 -w "$head" hostname --ip-address | awk '{print $1}')
export RAY_ADDRESS="$ip:$port"

on() { srun --overlap --nodes=1 --ntasks=1 -w "$1" --cpus-per-task="$SLURM_CPUS_PER_TASK" "${@:2}"; }

on "$head" ray start --head --node-ip-address="$ip" --port="$port" --include-dashboard=false \
    --num-cpus=$((SLURM_CPUS_PER_TASK - 1)) --block &
until on "$head" ray status >/dev/null 2>&1; do sleep 2; done
for node in "${nodes[@]:1}"; do
    on "$node" ray start --address="$RAY_ADDRESS" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
done

# The pool counts the cores once, when it opens: give the other machines a minute to join.
for _ in $(seq 30); do
    [ "$(on "$head" ray status 2>/dev/null | grep -c '^ 1 node_')" -ge "${#nodes[@]}" ] && break
    sleep 2
done
on "$head" "$@"
