#!/bin/sh
# Offline runs that are longer than those of docs/iql.md's tables, each made by one word:
#
#   sh benchmarks/offline_scores.sh pointmaze     # IQL on the medium maze, 200,000 updates, 3 seeds
#   sh benchmarks/offline_scores.sh hopper        # medium-expert whose two halves come from one run of SAC
#   sh benchmarks/offline_scores.sh halfcheetah   # 1 % expert and 99 % random rows: IQL, BC, 10%BC
#   sh benchmarks/offline_scores.sh hopper_all    # the family on that mixture and on the same run's replay
#   sh benchmarks/offline_scores.sh stitch        # the family on a maze whose routes must be joined
#   sh benchmarks/offline_scores.sh mazes         # the family on the mazes umaze and medium
#   sh benchmarks/offline_scores.sh odice         # O-DICE on the medium maze, 100,000 updates
#   sh benchmarks/offline_scores.sh recoil        # ReCOIL with one demonstration, BC on it
#   sh benchmarks/offline_scores.sh ldcq          # LDCQ as its authors' code, at small sizes, 300,000 updates, 1 seed
#
# Run again after a stop or a kill it goes on: data that are there are kept, finished runs are left alone.
# Those of the family are short (20,000 updates, stitch 10,000), in bfloat16 and with batches of 256, all agents alike.
# Data go to MINARI_DATASETS_PATH (by default runs/offline_scores/data), tables to runs/offline_scores.
# EXPERT is a Stable-Baselines3 actor for HalfCheetah, of recoil for Hopper (HalfCheetah-tqc.safetensors,
# Hopper-tqc.safetensors of DLR-RM/rl-trained-agents), or a run folder.
set -eu
root=runs/offline_scores
: "${MINARI_DATASETS_PATH:=$PWD/$root/data}" "${SEEDS:=3}" "${ROWS:=200000}"
: "${SAC_STEPS:=200000}" # of the run of SAC; medium is its policy at half of them
export MINARI_DATASETS_PATH

family=bc,td3_bc,iql,iql:xql,iql:f_dvl,rebrac,awac

made() { # NAME FLAGS...: make a data set of ours, where it is not there
    [ -d "$MINARI_DATASETS_PATH/rlsuite/$1-v0" ] || rlsuite data make "$@"
}

table() { # OUT DATASET AGENTS FLAGS...: train and score
    out=$1 agents=$3
    case $2 in */rlsuite/*) set_of=$2 ;; *) set_of=rlsuite/$2-v0 ;; esac
    shift 3
    rlsuite bench d4rl --datasets "$set_of" --agents "$agents" --steps "${UPDATES:-200000}" --seeds "$SEEDS" \
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
hopper_all) # after `hopper`, which makes the run of SAC and the mixture
    : "${UPDATES:=20000}"
    made hopper/medium-replay --policy $root/sac_hopper
    for data in medium-expert medium-replay; do
        table hopper_all "hopper/$data" $family -- --mixed-precision --batch-size 256
    done
    # Values grow slowly: the agent with the highest published scores at length, and IQL beside it.
    UPDATES=100000 SEEDS=1
    for data in medium-expert medium-replay; do
        table hopper_long "hopper/$data" rebrac,iql -- --mixed-precision --batch-size 256
    done
    ;;
stitch)
    : "${UPDATES:=10000}"
    made stitch
    table stitch stitch $family -- --mixed-precision --batch-size 256
    table stitch stitch odice,a2pr # in float32: bfloat16 of O-DICE does not compile everywhere
    ;;
mazes)
    : "${UPDATES:=20000}"
    for maze in medium umaze; do
        made pointmaze/$maze --seed 123
        table mazes pointmaze/$maze $family -- --mixed-precision --batch-size 256
    done
    ;;
odice)
    : "${UPDATES:=100000}"
    made pointmaze/medium --seed 123
    table odice pointmaze/medium odice -- --agent.hidden-actor 256 256
    ;;
recoil) # other data: 95 % of a random policy's rows, 5 % of the expert's, without marks, as in the paper
    : "${UPDATES:=20000}" "${EXPERT:=Hopper-tqc.safetensors}"
    data=$root/recoil_data
    if [ ! -d "$data/mix/rlsuite/hopper/random-expert-v0" ]; then
        rlsuite data make hopper/expert --policy "$EXPERT" --steps 1000 --num-envs 1 --mode mean --seed 1 --out $data/demo
        rlsuite data make hopper/expert --policy "$EXPERT" --steps 10000 --num-envs 10 --mode mean --seed 2 --out $data/mix
        rlsuite data make hopper/random --steps 190000 --out $data/mix
        rlsuite data make hopper/random-expert --parts $data/mix/rlsuite/hopper/random-v0 \
            $data/mix/rlsuite/hopper/expert-v0 --shares 0.95 0.05 --steps 200000 --out $data/mix
    fi
    table recoil_bc "$data/demo/rlsuite/hopper/expert-v0" bc -- --mixed-precision
    for other in random-expert random; do
        table "recoil_$other" "$data/mix/rlsuite/hopper/$other-v0" recoil -- --mixed-precision --batch-size 256 \
            --expert "$data/demo/rlsuite/hopper/expert-v0"
    done
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
