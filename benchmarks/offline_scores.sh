#!/bin/sh
# Offline runs that are longer than those of docs/iql.md's tables, each made by one word:
#
#   sh benchmarks/offline_scores.sh pointmaze     # IQL on the medium maze, 200,000 updates, 3 seeds
#   sh benchmarks/offline_scores.sh hopper        # medium-expert whose two halves come from one run of SAC
#   sh benchmarks/offline_scores.sh halfcheetah   # 1 % expert and 99 % random rows: IQL, BC, 10%BC
#   sh benchmarks/offline_scores.sh ldcq          # LDCQ as its authors' code, at small sizes, 300,000 updates, 1 seed
#
# Run again after a stop or a kill it goes on: data that are there are kept, finished runs are left alone.
# Data go to MINARI_DATASETS_PATH (by default runs/offline_scores/data), tables to runs/offline_scores.
# EXPERT is a Stable-Baselines3 actor for HalfCheetah (HalfCheetah-tqc.safetensors of DLR-RM/rl-trained-agents)
# or a run folder.
set -eu
root=runs/offline_scores
: "${MINARI_DATASETS_PATH:=$PWD/$root/data}" "${SEEDS:=3}" "${UPDATES:=200000}" "${ROWS:=200000}"
: "${SAC_STEPS:=200000}" # of the run of SAC; medium is its policy at half of them
export MINARI_DATASETS_PATH

made() { # NAME FLAGS...: make a data set of ours, where it is not there
    [ -d "$MINARI_DATASETS_PATH/rlsuite/$1-v0" ] || rlsuite data make "$@"
}

table() { # OUT DATASET AGENTS FLAGS...: train and score
    out=$1 data=$2 agents=$3
    shift 3
    rlsuite bench d4rl --datasets "rlsuite/$data-v0" --agents "$agents" --steps "$UPDATES" --seeds "$SEEDS" \
        --evaluations 20 --threads 1 --out "$root/$out" "$@"
}

case ${1:-} in
pointmaze)
    made pointmaze/medium --seed 123
    table pointmaze pointmaze/medium iql
    ;;
hopper)
    # Medium is drawn when the run stands at half its steps: a checkpoint of the middle may be gone at the end.
    sac=$root/sac_hopper
    half=$((SAC_STEPS / 2))
    if [ ! -d "$MINARI_DATASETS_PATH/rlsuite/hopper/medium-v0" ]; then
        if [ -d "$sac/ckpt" ]; then
            rlsuite resume "$sac"
        else
            rlsuite train sac --env Hopper-v5 --steps "$half" --seed 0 --threads 1 --out "$sac"
        fi
        made hopper/medium --policy "$sac" --steps "$ROWS"
    fi
    rlsuite resume "$sac" --steps "$SAC_STEPS"
    made hopper/expert --policy "$sac" --checkpoint best --steps "$ROWS"
    made hopper/medium-expert --parts rlsuite/hopper/medium-v0 rlsuite/hopper/expert-v0
    table hopper hopper/medium-expert iql,bc
    ;;
halfcheetah)
    made halfcheetah/random --steps "$ROWS"
    made halfcheetah/expert --policy "${EXPERT:-HalfCheetah-tqc.safetensors}" --steps $((ROWS / 20))
    made halfcheetah/random-expert --parts rlsuite/halfcheetah/random-v0 rlsuite/halfcheetah/expert-v0 \
        --shares 0.99 0.01 --steps "$ROWS"
    table halfcheetah halfcheetah/random-expert bc,iql
    table halfcheetah_best10 halfcheetah/random-expert bc --preset best10
    ;;
ldcq)
    # Preset `released` in everything but sizes (its own take a GPU), at ten times the updates of `small`.
    made pointmaze/medium --seed 123
    run=$root/ldcq_released
    if [ -d "$run/ckpt" ]; then
        rlsuite resume "$run"
    else
        rlsuite train ldcq --dataset rlsuite/pointmaze/medium-v0 --preset small --seed 0 --threads 1 --out "$run" \
            --eval-every 12000 --eval-episodes 100 --checkpoint-every 12000 \
            --agent.skills-updates 60000 --agent.prior-updates 120000 --agent.values-updates 120000 \
            --agent.networks released --agent.std-min 0 --agent.successor last --agent.no-short-windows \
            --agent.indexing released --agent.no-normalize-latents --agent.state-dropout 0 --agent.extra-steps 5 \
            --agent.diffusion-steps 100 --agent.schedule linear --agent.sampler ancestral --agent.no-window-discount \
            --agent.priority 0.6 --agent.weighting mean --agent.lr-values 1e-3 --agent.bootstrap step --agent.ends reward
    fi
    rlsuite eval "$run" --episodes 100 --seed 7
    ;;
*)
    sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'
    exit 2
    ;;
esac
