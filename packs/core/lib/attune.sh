# shellcheck shell=bash
# Helpers for sensors and actions in bash: what Attune reads on stdout, as functions. A script works
# without them; copy this file into your pack's lib/ where you like to have them.
#
#     . "$ATTUNE_PACK_DIR/lib/attune.sh"
#     last=$(attune_cursor 0)
#     while sleep 60; do
#         last=$((last + 1))
#         attune_emit --event-id "$last" --cursor "$last" n:="$last" host="$HOSTNAME"
#     done

# attune_quote TEXT prints it as a JSON string.
attune_quote() {
    local LC_ALL=C.UTF-8 text=$1 out='' char code i
    text=${text//\\/\\\\}
    text=${text//\"/\\\"}
    text=${text//$'\n'/\\n}
    text=${text//$'\t'/\\t}
    text=${text//$'\r'/\\r}
    if [[ $text == *[$'\001'-$'\037']* ]]; then
        for ((i = 0; i < ${#text}; i++)); do
            char=${text:i:1}
            if [[ $char == [$'\001'-$'\037'] ]]; then
                printf -v code '%d' "'$char"
                printf -v char '\\u%04x' "$code"
            fi
            out+=$char
        done
        text=$out
    fi
    printf '"%s"' "$text"
}

# attune_object KEY=TEXT KEY:=JSON … prints an object: of strings, and of what is JSON already.
attune_object() {
    local out='' pair key
    for pair in "$@"; do
        key=${pair%%=*}
        [[ -z $out ]] || out+=','
        if [[ $key == *: ]]; then
            out+="$(attune_quote "${key%:}"):${pair#*=}"
        else
            out+="$(attune_quote "$key"):$(attune_quote "${pair#*=}")"
        fi
    done
    printf '{%s}' "$out"
}

# attune_emit [--trigger REF] [--instance ID] [--event-id ID] [--cursor JSON] KEY=TEXT KEY:=JSON … prints
# an event. One write, so that what runs beside it cannot come in between.
attune_emit() {
    local head=''
    while [[ ${1-} == --* ]]; do
        case $1 in
            --trigger) head+="\"trigger\":$(attune_quote "$2")," ;;
            --instance) head+="\"instance\":$(attune_quote "$2")," ;;
            --event-id) head+="\"event_id\":$(attune_quote "$2")," ;;
            --cursor) head+="\"cursor\":$2," ;;
            *)
                echo "attune_emit: unknown option $1" >&2
                return 2
                ;;
        esac
        shift 2
    done
    printf '{%s"payload":%s}\n' "$head" "$(attune_object "$@")"
}

# attune_heartbeat says that the sensor is alive, for its watchdog.
attune_heartbeat() { printf '{"type":"heartbeat"}\n'; }

# attune_save_cursor JSON keeps a cursor without an event, after all events before it.
attune_save_cursor() { printf '{"type":"cursor","cursor":%s}\n' "$1"; }

# attune_cursor [DEFAULT] prints what was kept as cursor before this process began, as JSON.
attune_cursor() { printf '%s' "${ATTUNE_SENSOR_CURSOR-${1-null}}"; }

# attune_wait_ack ID waits until the event is stored (`ack: true`); what else is on stdin is passed over. The
# id is without <, > and &.
attune_wait_ack() {
    local line want
    want="{\"ack\":$(attune_quote "$1")}"
    while IFS= read -r line; do
        [[ $line != "$want" ]] || return 0
    done
    return 1
}

# attune_result KEY=TEXT KEY:=JSON … keeps an object as the action's result. An action's parameters are in
# the environment, as ATTUNE_ACTION_<KEY>.
attune_result() { attune_object "$@" >"$ATTUNE_RESULT_FILE"; }
