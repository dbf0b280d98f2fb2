//! The daemon's socket: where it is, and who may use it.

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Config,
    field::{Field, field},
    mistakes::Problems,
};

/// `sun_path` has 108 bytes, one of them for the NUL (unix(7)).
const MAX_SOCKET_PATH: usize = 107;
/// `LOGIN_NAME_MAX` less the NUL, which useradd takes for groups too.
const MAX_GROUP_NAME: usize = 255;
/// To write to a socket is to connect to it.
const OTHERS_CONNECT: u32 = 0o002;

/// Returns the groups that it names.
pub(super) fn read_socket(
    top: &DeTable<'_>,
    config: &mut Config,
    problems: &mut Problems<'_>,
) -> Vec<Spanned<String>> {
    let mut groups = Vec::new();
    if let Some(field) = field(top, "socket")
        && let Some(path) = field.path(problems, "/run/canary/canary.sock")
    {
        if path.as_os_str().len() > MAX_SOCKET_PATH {
            let message = format!("`socket` is longer than {MAX_SOCKET_PATH} bytes");
            problems.add(field.at, message, "a socket's path cannot be: write a shorter one");
        }
        config.socket = path;
    }
    let access = &mut config.socket_access;
    for (key, place) in
        [("socket_group", &mut access.group), ("read_group", &mut access.read_group)]
    {
        let Some(field) = field(top, key) else { continue };
        let Some(name) = read_group(&field, problems) else { continue };
        groups.push(Spanned::new(field.at, name.clone()));
        *place = Some(name);
    }
    let Some(field) = field(top, "socket_mode") else { return groups };
    access.configured_mode = read_mode(&field, problems);
    if let (Some(mode), Some(readers)) = (access.configured_mode, &access.read_group)
        && mode & OTHERS_CONNECT == 0
    {
        let message = format!("with this `socket_mode` group \"{readers}\" cannot connect");
        let help = "leave it out, or write \"0666\": the daemon looks itself who may do what";
        problems.add(field.at, message, help);
    }
    groups
}

fn read_group(field: &Field<'_, '_>, problems: &mut Problems<'_>) -> Option<String> {
    let name = field.string(problems, "canary")?;
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, ':' | ',' | '/');
    if name.is_empty() || name.len() > MAX_GROUP_NAME || name.contains(odd) {
        let message = format!("`{}` cannot be {name:?}", field.key);
        let help = "write a group as `getent group` shows it, by its name or its number";
        problems.add(field.at.clone(), message, help);
        return None;
    }
    Some(name.to_owned())
}

/// In octal, as chmod(1) takes it.
fn read_mode(field: &Field<'_, '_>, problems: &mut Problems<'_>) -> Option<u32> {
    let DeValue::String(text) = field.value else {
        field.wrong_type(problems, "a string", "write socket_mode = \"0660\"".to_owned());
        return None;
    };
    let digits = (3..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && mode & !0o666 == 0);
    if mode.is_none() {
        let message = format!("`socket_mode` cannot be \"{text}\"");
        let help = "write \"0660\" for its owner and group, \"0600\" for its owner alone, or \
                    \"0666\" for everybody";
        problems.add(field.at.clone(), message, help);
    }
    mode
}
