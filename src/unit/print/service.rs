//! `[Service]` as TOML.

use super::super::tables::label;
use super::super::value::{
    INPUTS, KILL_MODES, NOTIFY_ACCESS, OOM_POLICIES, OUTPUTS, RESOURCES, RESTARTS, SOCKET_ENVIRONMENTS,
    START_ON, TYPES, escape, print_amount, print_cpus, print_exit_status, print_limit, print_share, word_of,
};
use super::super::{Input, Output, Service};
use super::entries::{Section, section};
use super::toml::{array, commands, quote};

/// `[Service]`.
pub(super) fn service(service: &Service) -> Section {
    let mut section = section(label::SERVICE);
    start(&mut section, service);
    restart(&mut section, service);
    stop(&mut section, service);
    identity(&mut section, service);
    environment(&mut section, service);
    section.word("StandardInput", &input(&service.standard_input));
    section.word("StandardOutput", &output(&service.standard_output));
    section.word("StandardError", &output(&service.standard_error));
    limits(&mut section, service);
    section
}

fn start(section: &mut Section, service: &Service) {
    section.put("ExecStart", commands(&service.exec_start));
    section.put("ExecStartPre", commands(&service.exec_start_pre));
    section.put("ExecStartPost", commands(&service.exec_start_post));
    section.put("ExecStop", commands(&service.exec_stop));
    section.put("ExecStopPost", commands(&service.exec_stop_post));
    section.put("ExecReload", commands(&service.exec_reload));
    section.word("Type", word_of(TYPES, &service.service_type));
    section.word("NotifyAccess", word_of(NOTIFY_ACCESS, &service.notify_access));
    section.word("StartOn", word_of(START_ON, &service.start_on));
    section.time("StopWhenIdleSec", service.stop_when_idle);
    section.number("Workers", service.workers);
    section.flag("InterceptBind", service.intercept_bind);
    let conventions = service.socket_environment.iter().map(|one| quote(word_of(SOCKET_ENVIRONMENTS, one)));
    section.put("SocketEnvironment", array(conventions));
    section.flag("NonBlocking", service.non_blocking);
    section.number("FileDescriptorStoreMax", service.fd_store_max);
}

fn restart(section: &mut Section, service: &Service) {
    section.word("Restart", word_of(RESTARTS, &service.restart));
    section.time("RestartSec", service.restart_sec);
    section.number("RestartSteps", service.restart_steps);
    section.time("RestartMaxDelaySec", service.restart_max_delay);
    section.time("StartLimitIntervalSec", service.start_limit_interval);
    section.number("StartLimitBurst", service.start_limit_burst);
    section.put("SuccessExitStatus", array(print_exit_status(&service.success_exit_status)));
    section.put("RestartPreventExitStatus", array(print_exit_status(&service.restart_prevent_exit_status)));
    section.put("RestartForceExitStatus", array(print_exit_status(&service.restart_force_exit_status)));
}

fn stop(section: &mut Section, service: &Service) {
    section.time("TimeoutStartSec", service.timeout_start);
    section.time("TimeoutStopSec", service.timeout_stop);
    section.time("WatchdogSec", service.watchdog);
    section.signal("WatchdogSignal", service.watchdog_signal);
    section.word("KillMode", word_of(KILL_MODES, &service.kill_mode));
    section.signal("KillSignal", service.kill_signal);
    section.signal("FinalKillSignal", service.final_kill_signal);
    section.flag("SendSIGKILL", service.send_sigkill);
    section.flag("SendSIGHUP", service.send_sighup);
}

fn identity(section: &mut Section, service: &Service) {
    section.optional_text("User", service.user.as_deref());
    section.optional_text("Group", service.group.as_deref());
    section.texts("SupplementaryGroups", &service.supplementary_groups);
    let folder = service.working_directory.as_ref().map(|folder| optional(&folder.path, folder.optional));
    section.optional("WorkingDirectory", folder);
    section.optional_text("Release", service.release.as_deref());
    section.mode("UMask", service.umask);
    section.texts("RuntimeDirectory", &service.runtime_directory);
}

fn environment(section: &mut Section, service: &Service) {
    let variables =
        service.environment.iter().map(|(name, value)| format!("{name} = {}", quote(&escape(value))));
    let variables: Vec<String> = variables.collect();
    let table = if variables.is_empty() { "{}".into() } else { format!("{{ {} }}", variables.join(", ")) };
    section.put("Environment", table);
    let files = service.environment_file.iter().map(|file| optional(&file.path, file.optional));
    section.put("EnvironmentFile", array(files));
    let names = service.pass_environment.as_ref().map(|names| array(names.iter().map(|name| quote(name))));
    section.optional("PassEnvironment", names);
    section.texts("UnsetEnvironment", &service.unset_environment);
}

fn limits(section: &mut Section, service: &Service) {
    for (key, resource) in RESOURCES {
        let limit = service.limits.iter().find(|limit| limit.resource == *resource);
        section.optional(key, limit.map(|limit| quote(&print_limit(limit))));
    }
    section.optional_number("Nice", service.nice);
    section.optional_number("OOMScoreAdjust", service.oom_score_adjust);
    let group = &service.group_limits;
    for (key, amount) in [
        ("MemoryMax", group.memory_max),
        ("MemoryHigh", group.memory_high),
        ("MemorySwapMax", group.memory_swap_max),
        ("TasksMax", group.tasks_max),
    ] {
        section.optional(key, amount.map(|amount| quote(&print_amount(amount))));
    }
    section.optional_number("CPUWeight", group.cpu_weight);
    section.optional("CPUQuota", group.cpu_quota.map(|share| quote(&print_share(share))));
    section.word("OOMPolicy", word_of(OOM_POLICIES, &group.oom_policy));
    let cpus = Some(print_cpus(&service.cpu_affinity)).filter(|cpus| !cpus.is_empty());
    section.put("CPUAffinity", array(cpus.map(|cpus| quote(&cpus))));
    section.flag("NoNewPrivileges", service.no_new_privileges);
    section.flag("IgnoreSIGPIPE", service.ignore_sigpipe);
}

/// A path with the `-` of one that may be missing.
fn optional(path: &str, optional: bool) -> String {
    let prefix = if optional { "-" } else { "" };
    quote(&escape(&format!("{prefix}{path}")))
}

fn input(input: &Input) -> String {
    match input {
        Input::File(path) => format!("file:{}", escape(path)),
        word => word_of(INPUTS, word).to_string(),
    }
}

fn output(output: &Output) -> String {
    match output {
        Output::File(path) => format!("file:{}", escape(path)),
        Output::Append(path) => format!("append:{}", escape(path)),
        word => word_of(OUTPUTS, word).to_string(),
    }
}
