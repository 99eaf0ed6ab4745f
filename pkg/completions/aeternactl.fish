# fish completion for aeternactl

# The options of the line that say which daemon is meant.
function __aeternactl_daemon
    set -l value no
    for word in (commandline -opc)
        if test $value = yes
            printf '%s\n' $word
            set value no
            continue
        end
        switch $word
            case '--control=*' '--runtime-dir=*' '--host=*'
                printf '%s\n' $word
            case --control --runtime-dir --host -H
                printf '%s\n' $word
                set value yes
        end
    end
end

complete -c aeternactl -f
complete -c aeternactl -l control -r -F -d 'the daemon\'s control socket'
complete -c aeternactl -l runtime-dir -x -a '(__fish_complete_directories)' -d 'the daemon\'s runtime directory, which holds control.sock'
complete -c aeternactl -s H -l host -x -a '(__fish_print_hostnames)' -d 'run the command on another machine, over ssh: [USER@]HOST'
complete -c aeternactl -l no-pager -d 'do not use a pager for long output'
complete -c aeternactl -l json -d 'print JSON: one object, or one object per line'
complete -c aeternactl -s h -l help -d 'print this help'
complete -c aeternactl -s V -l version -d 'print the version of aeternactl'

complete -c aeternactl -n __fish_use_subcommand -a status -d 'show all units, or the details of one'
complete -c aeternactl -n '__fish_seen_subcommand_from status' -a '(aeternactl (__aeternactl_daemon) completions units 2>/dev/null)'
complete -c aeternactl -n '__fish_seen_subcommand_from status' -l watch -d 'update whenever something happens; q quits, arrows, j and k scroll'

complete -c aeternactl -n __fish_use_subcommand -a list -d 'list the units, one line each'
complete -c aeternactl -n '__fish_seen_subcommand_from list' -l failed -d 'only the units that have failed'

complete -c aeternactl -n __fish_use_subcommand -a is-active -d 'check whether a unit is running'
complete -c aeternactl -n '__fish_seen_subcommand_from is-active' -a '(aeternactl (__aeternactl_daemon) completions units 2>/dev/null)'
complete -c aeternactl -n '__fish_seen_subcommand_from is-active' -s q -l quiet -d 'print nothing; only the exit status tells'

complete -c aeternactl -n __fish_use_subcommand -a is-failed -d 'check whether a unit has failed'
complete -c aeternactl -n '__fish_seen_subcommand_from is-failed' -a '(aeternactl (__aeternactl_daemon) completions units 2>/dev/null)'
complete -c aeternactl -n '__fish_seen_subcommand_from is-failed' -s q -l quiet -d 'print nothing; only the exit status tells'

complete -c aeternactl -n __fish_use_subcommand -a is-ready -d 'check whether every unit serves and no stop is under way'
complete -c aeternactl -n '__fish_seen_subcommand_from is-ready' -s q -l quiet -d 'print nothing; only the exit status tells'

complete -c aeternactl -n __fish_use_subcommand -a reload -d 'replace the serving generation by a new one on the same sockets'
complete -c aeternactl -n '__fish_seen_subcommand_from reload' -a '(aeternactl (__aeternactl_daemon) completions units 2>/dev/null)'
complete -c aeternactl -n '__fish_seen_subcommand_from reload' -l all -d 'reload every unit, and take in new and removed unit files'
complete -c aeternactl -n '__fish_seen_subcommand_from reload' -l no-wait -d 'do not wait for the outcome'
complete -c aeternactl -n '__fish_seen_subcommand_from reload' -l wait -x -a 'promoted drained' -d 'wait until it is "promoted" (the default) or the old generation has "drained"'
complete -c aeternactl -n '__fish_seen_subcommand_from reload' -l force -d 'first abort a reload that is under way'
complete -c aeternactl -n '__fish_seen_subcommand_from reload' -l dry-run -d 'print what would change, and do nothing'
complete -c aeternactl -n '__fish_seen_subcommand_from reload' -l reason -x -d 'the reason, for the history'
complete -c aeternactl -n '__fish_seen_subcommand_from reload' -l timeout -x -d 'wait no longer than this ("90s", "2min"); the reload continues'

complete -c aeternactl -n __fish_use_subcommand -a load -d 'take in new, changed and removed unit files'
complete -c aeternactl -n '__fish_seen_subcommand_from load' -l no-wait -d 'do not wait for the outcome'
complete -c aeternactl -n '__fish_seen_subcommand_from load' -l dry-run -d 'print what would be done, and do nothing'
complete -c aeternactl -n '__fish_seen_subcommand_from load' -l timeout -x -d 'wait no longer than this ("90s", "2min"); everything continues'

complete -c aeternactl -n __fish_use_subcommand -a promote -d 'end the soak now, with success'
complete -c aeternactl -n '__fish_seen_subcommand_from promote' -a '(aeternactl (__aeternactl_daemon) completions units 2>/dev/null)'

complete -c aeternactl -n __fish_use_subcommand -a rollback -d 'give up the reload, or go back to the previous release'
complete -c aeternactl -n '__fish_seen_subcommand_from rollback' -a '(aeternactl (__aeternactl_daemon) completions units 2>/dev/null)'
complete -c aeternactl -n '__fish_seen_subcommand_from rollback' -l to -x -d 'go back to what generation N ran, as listed by "releases"'
complete -c aeternactl -n '__fish_seen_subcommand_from rollback' -l dry-run -d 'print what would change, and do nothing'

complete -c aeternactl -n __fish_use_subcommand -a releases -d 'show the releases that rollback can return to'
complete -c aeternactl -n '__fish_seen_subcommand_from releases' -a '(aeternactl (__aeternactl_daemon) completions units 2>/dev/null)'
complete -c aeternactl -n '__fish_seen_subcommand_from releases' -l drop -x -d 'stop keeping what generation N ran'

complete -c aeternactl -n __fish_use_subcommand -a start -d 'start a unit'
complete -c aeternactl -n '__fish_seen_subcommand_from start' -a '(aeternactl (__aeternactl_daemon) completions units 2>/dev/null)'

complete -c aeternactl -n __fish_use_subcommand -a stop -d 'stop a unit; its sockets stay bound'
complete -c aeternactl -n '__fish_seen_subcommand_from stop' -a '(aeternactl (__aeternactl_daemon) completions units 2>/dev/null)'
complete -c aeternactl -n '__fish_seen_subcommand_from stop' -l close -d 'close the unit\'s sockets too'

complete -c aeternactl -n __fish_use_subcommand -a restart -d 'stop and start a unit, without overlap'
complete -c aeternactl -n '__fish_seen_subcommand_from restart' -a '(aeternactl (__aeternactl_daemon) completions units 2>/dev/null)'

complete -c aeternactl -n __fish_use_subcommand -a kill -d 'send a signal to the main processes'
complete -c aeternactl -n '__fish_seen_subcommand_from kill' -a '(aeternactl (__aeternactl_daemon) completions units 2>/dev/null)'
complete -c aeternactl -n '__fish_seen_subcommand_from kill' -s s -l signal -x -a 'SIGHUP SIGINT SIGQUIT SIGKILL SIGUSR1 SIGUSR2 SIGTERM SIGCONT SIGSTOP SIGWINCH' -d 'the signal, by name or number (default SIGTERM)'
complete -c aeternactl -n '__fish_seen_subcommand_from kill' -l generation -x -d 'only this generation\'s main processes'

complete -c aeternactl -n __fish_use_subcommand -a history -d 'show the last 32 reloads of a unit'
complete -c aeternactl -n '__fish_seen_subcommand_from history' -a '(aeternactl (__aeternactl_daemon) completions units 2>/dev/null)'

complete -c aeternactl -n __fish_use_subcommand -a show -d 'print the unit that is running, with every default'
complete -c aeternactl -n '__fish_seen_subcommand_from show' -a '(aeternactl (__aeternactl_daemon) completions units 2>/dev/null)'

complete -c aeternactl -n __fish_use_subcommand -a cat -d 'print the unit\'s current file'
complete -c aeternactl -n '__fish_seen_subcommand_from cat' -a '(aeternactl (__aeternactl_daemon) completions units 2>/dev/null)'

complete -c aeternactl -n __fish_use_subcommand -a edit -d 'edit the unit\'s file, and check it before it is written'
complete -c aeternactl -n '__fish_seen_subcommand_from edit' -a '(aeternactl (__aeternactl_daemon) completions units 2>/dev/null)'

complete -c aeternactl -n __fish_use_subcommand -a logs -d 'show the last lines that a unit has written'
complete -c aeternactl -n '__fish_seen_subcommand_from logs' -a '(aeternactl (__aeternactl_daemon) completions units 2>/dev/null)'
complete -c aeternactl -n '__fish_seen_subcommand_from logs' -s f -l follow -d 'continue with new lines as they are written'
complete -c aeternactl -n '__fish_seen_subcommand_from logs' -s n -l lines -x -d 'begin with the last N'
complete -c aeternactl -n '__fish_seen_subcommand_from logs' -l since -x -d 'begin TIME ago ("10min", "2h")'
complete -c aeternactl -n '__fish_seen_subcommand_from logs' -l generation -x -d 'only this generation\'s lines'

complete -c aeternactl -n __fish_use_subcommand -a events -d 'follow events as they happen'
complete -c aeternactl -n '__fish_seen_subcommand_from events' -a '(aeternactl (__aeternactl_daemon) completions units 2>/dev/null)'
complete -c aeternactl -n '__fish_seen_subcommand_from events' -s n -l lines -x -d 'begin with the last N'
complete -c aeternactl -n '__fish_seen_subcommand_from events' -l since -x -d 'begin TIME ago ("10min", "2h")'
complete -c aeternactl -n '__fish_seen_subcommand_from events' -l no-follow -d 'exit after past events; print all of them without -n and --since'

complete -c aeternactl -n __fish_use_subcommand -a check -d 'validate unit files, without a daemon'
complete -c aeternactl -n '__fish_seen_subcommand_from check' -F

complete -c aeternactl -n __fish_use_subcommand -a import -d 'convert systemd units, an aeterna.yaml or a Procfile to a unit'
complete -c aeternactl -n '__fish_seen_subcommand_from import' -F
complete -c aeternactl -n '__fish_seen_subcommand_from import' -l process -x -d 'the process of a Procfile to import (default "web", else the first)'

complete -c aeternactl -n __fish_use_subcommand -a page -d 'print the address of the HTTP page, with a token made for it'

complete -c aeternactl -n __fish_use_subcommand -a upgrade -d 'replace aeternad\'s own program, in place'
complete -c aeternactl -n '__fish_seen_subcommand_from upgrade' -l program -r -F -d 'the new program, if it is not at the path of the running one'
complete -c aeternactl -n '__fish_seen_subcommand_from upgrade' -l check -d 'only ask the new program whether it could take over'
complete -c aeternactl -n '__fish_seen_subcommand_from upgrade' -l timeout -x -d 'how long to wait for a state transfer under way (default "10s")'

complete -c aeternactl -n __fish_use_subcommand -a notify -d 'from within a service, send a notification to its supervisor'
complete -c aeternactl -n '__fish_seen_subcommand_from notify' -a 'READY=1 STOPPING=1 STATUS='

complete -c aeternactl -n __fish_use_subcommand -a doctor -d 'show what this machine or container allows'

complete -c aeternactl -n __fish_use_subcommand -a version -d 'print the versions of aeternactl and of the daemon'

complete -c aeternactl -n __fish_use_subcommand -a help -d 'print help, optionally for one command'
complete -c aeternactl -n '__fish_seen_subcommand_from help' -a 'status list is-active is-failed is-ready reload load promote rollback releases start stop restart kill history show cat edit logs events check import page upgrade notify doctor version help completions'

complete -c aeternactl -n __fish_use_subcommand -a completions -d 'print completions for a shell'
complete -c aeternactl -n '__fish_seen_subcommand_from completions' -a 'bash zsh fish'
