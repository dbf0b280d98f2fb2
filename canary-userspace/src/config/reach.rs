//! Where somebody outside is reached: URLs and commands.

use hyper::Uri;
use toml::de::DeValue;

use super::{field::Field, mistakes::Problems};

pub(super) fn read_url(field: &Field<'_, '_>, problems: &mut Problems<'_>) -> Option<String> {
    let url = field.string(problems, "http://127.0.0.1:9090")?;
    let said = match url.parse::<Uri>() {
        Ok(uri) if !matches!(uri.scheme_str(), Some("http" | "https")) => {
            "does not begin with http:// or https://"
        }
        Ok(uri) if uri.host().is_none_or(str::is_empty) => "has no host",
        Ok(uri) if !is_port(&uri) => "has a port that does not exist",
        Ok(_) => return Some(url.to_owned()),
        Err(_) => "is not a URL",
    };
    problems.add(
        field.at.clone(),
        format!("`{}`: \"{url}\" {said}", field.key),
        "write for example \"http://127.0.0.1:9090\" or \"https://hooks.example.com/x\"",
    );
    None
}

/// None is the scheme's own.
fn is_port(uri: &Uri) -> bool {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let after_host = authority.rsplit_once(']').map_or(authority, |(_, after)| after);
    let after_host = after_host.rsplit_once('@').map_or(after_host, |(_, after)| after);
    match after_host.split_once(':') {
        None => true,
        Some((_, port)) => port.parse::<u16>().is_ok_and(|port| port > 0),
    }
}

/// A program and its arguments; no shell reads them.
pub(super) fn read_command(
    field: &Field<'_, '_>,
    problems: &mut Problems<'_>,
) -> Option<Vec<String>> {
    let elements = field.list(problems, "\"/usr/local/bin/smoke\"")?;
    let mut argv = Vec::new();
    for element in elements {
        let part = Field { key: field.key, value: element.get_ref(), at: element.span() };
        let DeValue::String(text) = part.value else {
            let help = "write each argument as a string: [\"/usr/local/bin/smoke\", \"--fast\"]";
            part.wrong_type(problems, "a string", help.to_owned());
            continue;
        };
        if text.contains('\0') {
            problems.add(part.at, "an argument with a NUL in it", "no program can take it");
        } else if argv.is_empty() && !text.starts_with('/') {
            let help = "write the program's path from the root, and each argument as a string of \
                        its own: [\"/usr/local/bin/smoke\", \"--fast\"]";
            problems.add(part.at, format!("\"{text}\" is not an absolute path"), help);
        }
        argv.push(text.to_string());
    }
    if elements.is_empty() {
        let help = "write the program's path and its arguments: [\"/usr/local/bin/smoke\"]";
        problems.add(field.at.clone(), format!("`{}` is empty", field.key), help);
    }
    Some(argv)
}
