//! Which keys of a newer content a running generation has not got: for `status` after a `signal` reload.

use crate::unit::Unit;

/// The keys that differ between what runs and what was read, and that only a launch brings into effect.
pub(super) fn pending_keys(running: &Unit, read: &Unit) -> Vec<String> {
    let mut keys = Vec::new();
    if running.sockets != read.sockets {
        keys.push("[[Socket]]".to_owned());
    }
    let (a, b) = (&running.service, &read.service);
    let mut compare = |differs: bool, key: &str| {
        if differs {
            keys.push(key.to_owned());
        }
    };
    compare(a.exec_start != b.exec_start, "ExecStart");
    compare(a.service_type != b.service_type, "Type");
    compare(a.workers != b.workers, "Workers");
    compare(a.intercept_bind != b.intercept_bind, "InterceptBind");
    compare(a.socket_environment != b.socket_environment, "SocketEnvironment");
    compare(a.non_blocking != b.non_blocking, "NonBlocking");
    compare(a.watchdog != b.watchdog, "WatchdogSec");
    compare(a.user != b.user, "User");
    compare(a.group != b.group, "Group");
    compare(a.supplementary_groups != b.supplementary_groups, "SupplementaryGroups");
    compare(a.working_directory != b.working_directory, "WorkingDirectory");
    compare(a.umask != b.umask, "UMask");
    compare(a.environment != b.environment, "Environment");
    compare(a.environment_file != b.environment_file, "EnvironmentFile");
    compare(a.pass_environment != b.pass_environment, "PassEnvironment");
    compare(a.unset_environment != b.unset_environment, "UnsetEnvironment");
    compare(a.standard_input != b.standard_input, "StandardInput");
    compare(a.standard_output != b.standard_output, "StandardOutput");
    compare(a.standard_error != b.standard_error, "StandardError");
    compare(a.limits != b.limits, "Limit…");
    compare(a.nice != b.nice, "Nice");
    compare(a.oom_score_adjust != b.oom_score_adjust, "OOMScoreAdjust");
    compare(a.cpu_affinity != b.cpu_affinity, "CPUAffinity");
    compare(a.no_new_privileges != b.no_new_privileges, "NoNewPrivileges");
    compare(a.ignore_sigpipe != b.ignore_sigpipe, "IgnoreSIGPIPE");
    compare(a.runtime_directory != b.runtime_directory, "RuntimeDirectory");
    keys
}
