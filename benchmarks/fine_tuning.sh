#!/bin/sh
# From offline to online, method by method on one data set, each made by one word:
#
#   sh benchmarks/fine_tuning.sh hopper      # medium data of a run of SAC, then 50,000 env steps
#   sh benchmarks/fine_tuning.sh pointmaze   # the medium maze, whose reward is sparse
#   sh benchmarks/fine_tuning.sh table hopper        # tables and curves again, of the runs that are there
#
# IQL, FamO2O, Cal-QL and ReBRAC learn UPDATES updates on the data and then act for STEPS env steps; RLPD (4
# updates an env step) and SAC from scratch act for STEPS from the beginning. Run again after a stop or a kill it
# goes on: data that are there are kept, finished runs are left alone. METHODS="iql rlpd" takes some of them.
# Everything goes to ROOT (runs/fine_tuning), tables and curves to ROOT/hopper_report and ROOT/pointmaze_report;
# the summary has the final returns and the regret of training episodes. FLAGS="--agent.hidden 128 128" goes to
# every method, for machines that cannot carry the full size; give other sizes a ROOT of their own, for what is
# finished there is left alone. A dry run of minutes:
#
#   ROOT=runs/dry SEEDS=1 UPDATES=100 STEPS=300 WARMUP=100 SAC_STEPS=1000 ROWS=2000 EVALUATIONS=2 \
#       sh benchmarks/fine_tuning.sh hopper
set -eu
: "${ROOT:=runs/fine_tuning}" "${SEEDS:=3}" "${UPDATES:=50000}" "${STEPS:=50000}" "${WARMUP:=5000}"
: "${SAC_STEPS:=100000}" "${ROWS:=200000}" "${EVALUATIONS:=20}" "${EPISODES:=10}"
: "${METHODS:=iql famo2o rlpd cal_ql rebrac sac}" "${MINARI_DATASETS_PATH:=$PWD/$ROOT/data}"
export MINARI_DATASETS_PATH

made() { # NAME FLAGS...: make a data set of ours, where it is not there
    [ -d "$MINARI_DATASETS_PATH/rlsuite/$1-v0" ] || rlsuite data make "$@"
}

run() { # OUT AGENT FLAGS...: train, or go on, until it is done
    out=$1
    shift
    [ -e "$out.done" ] && return
    if [ -d "$out/ckpt" ]; then
        rlsuite resume "$out"
    else
        rm -rf "$out" # it was killed before its first checkpoint
        rlsuite train "$@" --out "$out"
    fi
    touch "$out.done"
}

method() { # TASK DATA METHOD FLAGS...: one method; flags are those of all methods
    task=$1 data=$2 name=$3
    shift 3
    begin="--steps $UPDATES --then-online $STEPS --eval-every $(((UPDATES + STEPS) / EVALUATIONS))"
    scratch="--steps 0 --then-online $STEPS --warmup-steps $WARMUP --eval-every $((STEPS / EVALUATIONS))"
    case $name in
    iql | rebrac | famo2o) set -- "$name" --preset finetune $begin "$@" ;;
    cal_ql) set -- cql --preset cal_ql $begin "$@" ;;
    rlpd) # authors' Polyak rate is for 20 updates an env step; a sparse reward does not wait for it
        rate=0.005
        [ "$task" = pointmaze ] && rate=0.02
        set -- sac --preset rlpd $scratch --updates-per-step 4 --agent.delay 4 --agent.tau $rate "$@"
        ;;
    sac) set -- sac $scratch --offline-share 0 --updates-per-step 1 "$@" ;;
    *)
        echo "METHODS: no $name here" >&2
        exit 2
        ;;
    esac
    run "$ROOT/$task/$name" "$@" --dataset "rlsuite/$data-v0" --seeds "$SEEDS" --eval-episodes "$EPISODES" \
        --checkpoint-every 10000 --threads 1 --device cpu --loggers ${FLAGS:-}
}

every() { # TASK DATA FLAGS...: all methods, and the tables
    task=$1 data=$2
    shift 2
    mkdir -p "$ROOT/$task"
    for name in $METHODS; do
        method "$task" "$data" "$name" "$@"
    done
    table "$task"
}

table() { # TASK
    rlsuite report "$ROOT/$1" --out "$ROOT/$1_report"
    [ -e "$ROOT/$1/famo2o.done" ] || return 0
    for strength in 8 11 14; do # FamO2O at fixed strengths: returns and lengths of episodes
        rlsuite eval "$ROOT/$1/famo2o" --episodes "$EPISODES" --seed 7 --agent-option strength=$strength \
            --json >"$ROOT/$1_report/famo2o_$strength.json"
    done
}

case ${1:-} in
hopper)
    run "$ROOT/sac_hopper" sac --env Hopper-v5 --steps "$SAC_STEPS" --warmup-steps "$WARMUP" \
        --checkpoint-every "$SAC_STEPS" --seed 0 --threads 1
    made hopper/medium --policy "$ROOT/sac_hopper" --checkpoint last --steps "$ROWS"
    every hopper hopper/medium --env Hopper-v5
    ;;
pointmaze)
    made pointmaze/medium --seed 123 ${MAZE_STEPS:+--steps "$MAZE_STEPS"}
    every pointmaze pointmaze/medium
    ;;
table)
    table "${2:?hopper or pointmaze}"
    ;;
*)
    sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'
    exit 2
    ;;
esac
