# Completion of pisyncctl for bash.
_pisyncctl() {
    local word=${COMP_WORDS[COMP_CWORD]} command="" index
    local commands="status queue why history failures retry sync records pause resume probe watch"
    COMPREPLY=()
    if [[ ${COMP_WORDS[COMP_CWORD - 1]} == --socket ]]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        return
    fi
    for ((index = 1; index < COMP_CWORD; index++)); do
        if [[ " $commands " == *" ${COMP_WORDS[index]} "* ]]; then
            command=${COMP_WORDS[index]}
            break
        fi
    done
    local options="--json --socket --help"
    case $command in
        "") mapfile -t COMPREPLY < <(compgen -W "$commands $options" -- "$word") && return ;;
        queue) options+=" --limit --skip" ;;
        history) options+=" --limit --before" ;;
        records) options+=" --limit --after --deleted" ;;
        failures) options+=" --limit" ;;
        sync) options+=" --wait" ;;
        watch) options+=" --interval --count" ;;
    esac
    if [[ $word != -* && ($command == why || $command == retry) ]]; then
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        return
    fi
    if [[ $word != -* && $command == @(records|sync) && ${COMP_WORDS[COMP_CWORD - 1]} == "$command" ]]; then
        options="enrollment profile progress assessment"
    fi
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
}
complete -F _pisyncctl pisyncctl
