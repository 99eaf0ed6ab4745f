//! Names of variables that a service is told of its sockets by.

use std::collections::HashMap;

/// For sockets with these names, in their order, the variable that has the descriptor of each: `AETERNA_FD_NAME`, for
/// further ones of one name `AETERNA_FD_NAME_2` and so on. What is no letter, digit or `_` in a name is `_`.
pub fn fd_variables(names: &[&str]) -> Vec<String> {
    let mut seen: HashMap<&str, u32> = HashMap::new();
    let mut variables = Vec::with_capacity(names.len());
    for name in names {
        let plain: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
        let nth = seen.entry(*name).and_modify(|n| *n += 1).or_insert(1);
        let number = if *nth == 1 { String::new() } else { format!("_{nth}") };
        variables.push(format!("AETERNA_FD_{plain}{number}"));
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_socket_has_a_variable() {
        assert_eq!(
            fd_variables(&["x", "a.b", "x", "x_2"]),
            ["AETERNA_FD_x", "AETERNA_FD_a_b", "AETERNA_FD_x_2", "AETERNA_FD_x_2"],
            "what means two sockets is an error of the unit"
        );
    }
}
