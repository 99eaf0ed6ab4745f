//! The syntax of single values: from a string to a value or to why it is none, and back. No positions, no TOML.

mod address;
mod command;
mod http;
mod limit;
mod quoting;
mod sets;
mod specifier;
mod words;

pub(super) use address::{parse_address, print_address};
pub(super) use command::{
    command_from_text, command_from_words, literal_word, runs_a_language, shell_text, words_of_command,
};
pub use http::check_http_address;
pub(super) use http::parse_http_target;
pub use limit::limit_key;
pub(super) use limit::{
    RESOURCES, parse_limit, parse_memory, parse_quota, parse_tasks, print_amount, print_limit, print_share,
    size,
};
pub(super) use quoting::{split_words, split_words_leniently};
pub(super) use sets::{
    parse_cpus, parse_exit_status, parse_status_ranges, print_cpus, print_exit_status, print_status_ranges,
};
pub(super) use specifier::{Specifiers, escape};
pub(super) use words::{
    BIND_IPV6_ONLY, CANARY_BY, FLOWS_BY, INCONCLUSIVE, INPUTS, IP_TOS, KILL_MODES, LOG_FORMATS, LOG_LEVELS,
    NOTIFY_ACCESS, OOM_POLICIES, OUTPUTS, RESTARTS, SHARINGS, SOCKET_ENVIRONMENTS, SOCKET_PROTOCOLS,
    START_ON, STRATEGIES, TYPES, Words, word_of,
};
