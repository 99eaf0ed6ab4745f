//! Shell completions, made from the table of commands. The names of units come from the daemon, at each TAB.

use super::args::{CommandSpec, Operands, OptionSpec, commands, global_options};
use super::command::Shell;

/// What a service mostly says.
const NOTICES: &str = "READY=1 STOPPING=1 STATUS=";

/// The script for a shell; nothing for [`Shell::Units`], which is none.
pub(super) fn script(shell: Shell) -> String {
    match shell {
        Shell::Bash => bash(),
        Shell::Zsh => zsh(),
        Shell::Fish => fish(),
        Shell::Units => String::new(),
    }
}

/// Every spelling of the options, with spaces between.
fn spellings<'a>(options: impl IntoIterator<Item = &'a OptionSpec>) -> String {
    let spell = |option: &OptionSpec| match option.short {
        Some(short) => format!("-{short} --{}", option.long),
        None => format!("--{}", option.long),
    };
    options.into_iter().map(spell).collect::<Vec<_>>().join(" ")
}

fn names() -> String {
    commands().iter().map(|command| command.name).collect::<Vec<_>>().join(" ")
}

const SIGNALS: &str = "SIGHUP SIGINT SIGQUIT SIGKILL SIGUSR1 SIGUSR2 SIGTERM SIGCONT SIGSTOP SIGWINCH";

fn bash() -> String {
    let with_values: Vec<String> = commands()
        .iter()
        .flat_map(|command| command.options)
        .chain(global_options())
        .filter(|option| option.value.is_some())
        .map(|option| spellings([option]).replace(' ', "|"))
        .collect();
    let mut cases = String::new();
    for command in commands() {
        let words = match command.operands {
            Operands::None => String::new(),
            Operands::Notices => NOTICES.into(),
            Operands::MaybeUnit | Operands::Unit | Operands::Units => "UNITS".into(),
            Operands::Files => "FILES".into(),
            Operands::Shell => "bash zsh fish".into(),
            Operands::MaybeCommand => names(),
        };
        let options = spellings(command.options.iter());
        cases.push_str(&format!("        {}) options=\"{options}\"; words=\"{words}\" ;;\n", command.name));
    }
    BASH.replace("@values@", &with_values.join("|"))
        .replace("@signals@", SIGNALS)
        .replace("@commands@", &names())
        .replace("@global@", &spellings(global_options()))
        .replace("@cases@", &cases)
}

const BASH: &str = r#"# bash completion for aeternactl

_aeternactl() {
    local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD - 1]}"
    local command="" options="" words="@commands@" index word value
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
        -s|--signal) mapfile -t COMPREPLY < <(compgen -W "@signals@" -- "$current"); return ;;
        @values@) return ;;
    esac
    for ((index = 1; index < COMP_CWORD; index++)); do
        word="${COMP_WORDS[index]}"
        case "$word" in
            @values@)
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
@cases@    esac
    if [[ "$current" == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options @global@" -- "$current")
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
"#;

/// A text for between single quotes, in zsh's `_arguments` and `_describe`.
fn zsh_text(text: &str) -> String {
    text.replace('\'', "'\\''").replace('[', "\\[").replace(']', "\\]").replace(':', "\\:")
}

/// One line of `_arguments` an option.
fn zsh_option(option: &OptionSpec) -> String {
    let help = zsh_text(option.help);
    let value = match option.value {
        None => String::new(),
        Some("PATH") => ":path:_files".into(),
        Some("DIR") => ":dir:_files -/".into(),
        Some("SIGNAL") => format!(":signal:({SIGNALS})"),
        Some("WHEN") => ":when:(promoted drained)".into(),
        Some("HOST") => ":host:_hosts".into(),
        Some(value) => format!(":{}:", value.to_lowercase()),
    };
    let equals = if option.value.is_some() { "=" } else { "" };
    let long = option.long;
    match option.short {
        // Of two spellings only one is offered after the other was used.
        Some(short) => format!("'(-{short} --{long})'{{-{short},--{long}{equals}}}'[{help}]{value}'"),
        None => format!("'--{long}{equals}[{help}]{value}'"),
    }
}

fn zsh() -> String {
    let described: String = commands()
        .iter()
        .map(|command| format!("        '{}:{}'\n", command.name, zsh_text(command.summary)))
        .collect();
    let mut cases = String::new();
    for command in commands() {
        let operands = match command.operands {
            Operands::None => None,
            Operands::Notices => Some(format!("'*:notice:({NOTICES})'")),
            Operands::MaybeUnit | Operands::Unit => Some("'1:unit:_aeternactl_units'".to_string()),
            Operands::Units => Some("'*:unit:_aeternactl_units'".into()),
            Operands::Files => Some("'*:file:_files'".into()),
            Operands::Shell => Some("'1:shell:(bash zsh fish)'".into()),
            Operands::MaybeCommand => Some("'1:command:_aeternactl_commands'".into()),
        };
        let lines: Vec<String> = command.options.iter().map(zsh_option).chain(operands).collect();
        let lines: String = lines.iter().map(|line| format!(" \\\n                {line}")).collect();
        cases.push_str(&format!("            {}) _arguments $global{lines} ;;\n", command.name));
    }
    let global: String =
        global_options().iter().map(|option| format!("        {}\n", zsh_option(option))).collect();
    ZSH.replace("@described@", &described).replace("@global@", &global).replace("@cases@", &cases)
}

const ZSH: &str = r#"#compdef aeternactl
# zsh completion for aeternactl

_aeternactl_units() {
    local -a units daemon
    local index word
    # The daemon that the line names.
    for ((index = 2; index <= $#aeternactl_line; index++)); do
        word="$aeternactl_line[index]"
        case "$word" in
            --control=*|--runtime-dir=*|--host=*) daemon+=("${(Q)word}") ;;
            --control|--runtime-dir|--host|-H) daemon+=("$word" "${(Q)aeternactl_line[index + 1]}"); ((index++)) ;;
        esac
    done
    units=(${(f)"$(aeternactl "${daemon[@]}" completions units 2>/dev/null)"})
    compadd -a units
}

_aeternactl_commands() {
    local -a commands
    commands=(
@described@    )
    _describe -t commands 'command' commands
}

_aeternactl() {
    local -a global aeternactl_line
    aeternactl_line=("${words[@]}")
    local line state context
    global=(
@global@    )
    _arguments -C $global '1:command:_aeternactl_commands' '*::argument:->argument'
    if [[ "$state" == argument ]]; then
        case "$line[1]" in
@cases@        esac
    fi
}

_aeternactl "$@"
"#;

/// A text between single quotes, for fish.
fn fish_text(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn fish_option(condition: &str, option: &OptionSpec) -> String {
    let short = option.short.map(|short| format!(" -s {short}")).unwrap_or_default();
    let value = match option.value {
        None => "".into(),
        Some("PATH") => " -r -F".into(),
        Some("DIR") => " -x -a '(__fish_complete_directories)'".into(),
        Some("SIGNAL") => format!(" -x -a '{SIGNALS}'"),
        Some("WHEN") => " -x -a 'promoted drained'".into(),
        Some("HOST") => " -x -a '(__fish_print_hostnames)'".into(),
        Some(_) => " -x".to_string(),
    };
    format!(
        "complete -c aeternactl{condition}{short} -l {}{value} -d {}\n",
        option.long,
        fish_text(option.help)
    )
}

const FISH: &str = r#"# fish completion for aeternactl

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
"#;

fn fish() -> String {
    let mut text = String::from(FISH);
    for option in global_options() {
        text.push_str(&fish_option("", option));
    }
    for command in commands() {
        text.push_str(&fish_command(command));
    }
    text
}

fn fish_command(command: &CommandSpec) -> String {
    let name = command.name;
    let mut text = format!(
        "\ncomplete -c aeternactl -n __fish_use_subcommand -a {name} -d {}\n",
        fish_text(command.summary)
    );
    let condition = format!(" -n '__fish_seen_subcommand_from {name}'");
    let operands = match command.operands {
        Operands::None => None,
        Operands::Notices => Some(format!("-a '{NOTICES}'")),
        Operands::MaybeUnit | Operands::Unit | Operands::Units => {
            Some("-a '(aeternactl (__aeternactl_daemon) completions units 2>/dev/null)'".to_string())
        }
        Operands::Files => Some("-F".into()),
        Operands::Shell => Some("-a 'bash zsh fish'".into()),
        Operands::MaybeCommand => Some(format!("-a '{}'", names())),
    };
    if let Some(operands) = operands {
        text.push_str(&format!("complete -c aeternactl{condition} {operands}\n"));
    }
    for option in command.options {
        text.push_str(&fish_option(&condition, option));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_knows_every_command_and_option() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = script(shell);
            for place in ["@values@", "@signals@", "@commands@", "@global@", "@cases@", "@described@"] {
                assert!(!text.contains(place), "{place} was not filled in");
            }
            for command in commands() {
                assert!(text.contains(command.name), "{shell:?} {}", command.name);
                for option in command.options.iter().chain(global_options()) {
                    let spelt = if shell == Shell::Fish {
                        format!("-l {}", option.long)
                    } else {
                        format!("--{}", option.long)
                    };
                    assert!(text.contains(&spelt), "{shell:?} {spelt}");
                }
            }
        }
    }

    #[test]
    fn quotes_in_a_help_text_end_nothing() {
        assert_eq!(zsh_text("it's [a]: b"), "it'\\''s \\[a\\]\\: b");
        assert_eq!(fish_text("it's \\"), "'it\\'s \\\\'");
    }
}
