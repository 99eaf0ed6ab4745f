//! `EnvironmentFile`: read anew at each launch.

use crate::daemon::launch::describe;
use crate::sys::dir;
use crate::sys::spawn::Credentials;
use crate::unit::{self, Service};
use std::path::Path;

/// What every `EnvironmentFile` of a service says, read with the rights that its path deserves.
///
/// # Errors
/// Which file cannot be read, and why.
pub fn read(service: &Service, who: Option<&Credentials>) -> Result<Vec<(String, String)>, String> {
    let mut all = Vec::new();
    for file in &service.environment_file {
        let path = Path::new(&file.path);
        let cannot = |why: &str| format!("EnvironmentFile {}", dir::explain(path, who, why));
        match dir::read_text(path, unit::MAX_FILE, who) {
            Ok(bytes) => {
                let text = String::from_utf8(bytes).map_err(|_| cannot("it is not UTF-8 text"))?;
                let found = unit::parse_environment_file(&text);
                for line in found.strays {
                    log::warn!("EnvironmentFile {}:{line}: this is no NAME=value; passed over", file.path);
                }
                all.extend(found.variables);
            }
            Err(error) if file.optional && error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(cannot(&describe(&error))),
        }
    }
    Ok(all)
}
