# bash completion for aeternactl

_aeternactl() {
    local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD - 1]}"
    local command="" options="" words="status list is-active is-failed is-ready reload load promote rollback releases start stop restart kill history show cat edit logs events check import page upgrade notify doctor version help completions" index word value
    local -a daemon=()
    COMPREPLY=()
    # bash makes three words of --option=value.
    if [[ "$current" == = ]]; then
        current=""
    elif [[ "$previous" == = ]] && ((COMP_CWORD >= 2)); then
        previous="${COMP_WORDS[COMP_CWORD - 2]}"
    fi
    case "$previous" in
        --control) mapfile -t COMPREPLY < <(compgen -f -- "$current"); return ;;
        --runtime-dir) mapfile -t COMPREPLY < <(compgen -d -- "$current"); return ;;
        -H|--host) mapfile -t COMPREPLY < <(compgen -A hostname -- "$current"); return ;;
        --wait) mapfile -t COMPREPLY < <(compgen -W "promoted drained" -- "$current"); return ;;
        -s|--signal) mapfile -t COMPREPLY < <(compgen -W "SIGHUP SIGINT SIGQUIT SIGKILL SIGUSR1 SIGUSR2 SIGTERM SIGCONT SIGSTOP SIGWINCH" -- "$current"); return ;;
        --wait|--reason|--timeout|--timeout|--to|--drop|-s|--signal|--generation|-n|--lines|--since|--generation|-n|--lines|--since|--process|--program|--timeout|--control|--runtime-dir|-H|--host) return ;;
    esac
    for ((index = 1; index < COMP_CWORD; index++)); do
        word="${COMP_WORDS[index]}"
        case "$word" in
            --wait|--reason|--timeout|--timeout|--to|--drop|-s|--signal|--generation|-n|--lines|--since|--generation|-n|--lines|--since|--process|--program|--timeout|--control|--runtime-dir|-H|--host)
                ((index++))
                [[ "${COMP_WORDS[index]}" == = ]] && ((index++))
                value="${COMP_WORDS[index]/#~\//$HOME/}"
                [[ "$word" =~ ^(--control|--runtime-dir|--host|-H)$ ]] && daemon+=("$word" "$value")
                ;;
            --control=*|--runtime-dir=*|--host=*) daemon+=("$word") ;;
            -*) ;;
            *) [[ -z "$command" ]] && command="$word" ;;
        esac
    done
    case "$command" in
        status) options="--watch"; words="UNITS" ;;
        list) options="--failed"; words="" ;;
        is-active) options="-q --quiet"; words="UNITS" ;;
        is-failed) options="-q --quiet"; words="UNITS" ;;
        is-ready) options="-q --quiet"; words="" ;;
        reload) options="--all --no-wait --wait --force --dry-run --reason --timeout"; words="UNITS" ;;
        load) options="--no-wait --dry-run --timeout"; words="" ;;
        promote) options=""; words="UNITS" ;;
        rollback) options="--to --dry-run"; words="UNITS" ;;
        releases) options="--drop"; words="UNITS" ;;
        start) options=""; words="UNITS" ;;
        stop) options="--close"; words="UNITS" ;;
        restart) options=""; words="UNITS" ;;
        kill) options="-s --signal --generation"; words="UNITS" ;;
        history) options=""; words="UNITS" ;;
        show) options=""; words="UNITS" ;;
        cat) options=""; words="UNITS" ;;
        edit) options=""; words="UNITS" ;;
        logs) options="-f --follow -n --lines --since --generation"; words="UNITS" ;;
        events) options="-n --lines --since --no-follow"; words="UNITS" ;;
        check) options=""; words="FILES" ;;
        import) options="--process"; words="FILES" ;;
        page) options=""; words="" ;;
        upgrade) options="--program --check --timeout"; words="" ;;
        notify) options=""; words="READY=1 STOPPING=1 STATUS=" ;;
        doctor) options=""; words="" ;;
        version) options=""; words="" ;;
        help) options=""; words="status list is-active is-failed is-ready reload load promote rollback releases start stop restart kill history show cat edit logs events check import page upgrade notify doctor version help completions" ;;
        completions) options=""; words="bash zsh fish" ;;
    esac
    if [[ "$current" == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options --control --runtime-dir -H --host --no-pager --json -h --help -V --version" -- "$current")
    elif [[ "$words" == FILES ]]; then
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
    else
        # Only now, because it asks the daemon.
        [[ "$words" == UNITS ]] && words="$(aeternactl "${daemon[@]}" completions units 2>/dev/null)"
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
    fi
}

complete -F _aeternactl aeternactl
